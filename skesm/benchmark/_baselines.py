"""Baseline features of sequences: one-hot positions and amino-acid composition. They learn nothing from data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from skesm.exceptions import InvalidSequenceError
from skesm.sequences.alphabet import ALPHABETICAL

_MASK = "<MASK>"  # one residue, as ESM-2 reads it

_UNKNOWN = len(ALPHABETICAL)  # column of everything else, cut off before the result is handed out
_COLUMN_OF_BYTE = np.full(256, _UNKNOWN, dtype=np.intp)
_COLUMN_OF_BYTE[np.frombuffer(ALPHABETICAL.encode(), dtype=np.uint8)] = np.arange(_UNKNOWN)


def as_strings(X: Iterable[object]) -> list[str]:
    """The rows of a list, array, Series or one-column frame, unchanged, once all are strings."""
    if isinstance(X, str | bytes):
        raise InvalidSequenceError("X is a single sequence, which would be read residue by residue: wrap it in a list")
    values = np.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InvalidSequenceError(f"X must hold one sequence per row, got an array of shape {values.shape}")
    bad = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if bad:
        raise InvalidSequenceError(
            f"{len(bad)} rows are not strings, the first is row {bad[0]}, a {type(values[bad[0]]).__name__}; "
            "remove or correct them",
            bad,
        )
    return list(values)


def normalise(sequence: str) -> str:
    """A sequence as the transformers read it: white space at the ends removed, lower case raised.

    Letters that are not ASCII stay as they are: raising them would turn some into residues.
    """
    sequence = sequence.strip()
    return sequence.upper() if sequence.isascii() else sequence


def _columns(sequence: str) -> NDArray[np.intp]:
    return _COLUMN_OF_BYTE[np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)]


def _read(X: Iterable[object]) -> list[str]:
    return [normalise(sequence).replace(_MASK, "X") for sequence in as_strings(X)]


class _SequenceBaseline(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Common part of the baselines: stateless, strings in, float32 columns out."""

    def fit(self, X: Iterable[object], y: object = None) -> Self:
        """Do nothing: there is nothing to learn.

        Parameters
        ----------
        X : iterable of str of length n_samples
            Not looked at.
        y : object, default=None
            Not looked at.

        Returns
        -------
        self : object
            The transformer itself.
        """
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


class AminoAcidComposition(_SequenceBaseline):
    """Fraction of each standard amino acid in a sequence.

    Other letters count in the length but have no column.

    Examples
    --------
    >>> from skesm.benchmark import AminoAcidComposition
    >>> AminoAcidComposition().transform(["AAC", "WWWW"])[:, :2].round(2)
    array([[0.67, 0.33],
           [0.  , 0.  ]], dtype=float32)
    """

    def transform(self, X: Iterable[object]) -> NDArray[np.float32]:
        """Composition of each sequence.

        Parameters
        ----------
        X : iterable of str of length n_samples
            Amino-acid sequences.

        Returns
        -------
        composition : ndarray of shape (n_samples, 20), float32
            Fractions from 0 to 1, amino acids in alphabetical order.

        Raises
        ------
        InvalidSequenceError
            If a row is not a string.
        """
        sequences = _read(X)
        counts = np.zeros((len(sequences), len(ALPHABETICAL)), dtype=np.float32)
        for row, sequence in enumerate(sequences):
            counts[row] = np.bincount(_columns(sequence), minlength=_UNKNOWN + 1)[:_UNKNOWN]
            counts[row] /= max(len(sequence), 1)
        return counts

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names of the 20 columns.

        Parameters
        ----------
        input_features : object, default=None
            Not looked at.

        Returns
        -------
        names : ndarray of shape (20,), object
            ``fraction_A`` … ``fraction_Y``.
        """
        return np.array([f"fraction_{a}" for a in ALPHABETICAL], dtype=object)


class OneHotSequence(_SequenceBaseline):
    """One column for each amino acid at each position.

    Positions are counted from the start of the sequence. A sequence shorter than `length` has zeros at its
    missing last positions: after a deletion its residues stand in the columns of their neighbours, which is why this
    baseline is for libraries of substitutions. Letters other than the 20 standard ones have zeros at their position.

    Parameters
    ----------
    length : int
        Number of positions: the length of the longest sequence.

    Examples
    --------
    >>> from skesm.benchmark import OneHotSequence
    >>> one_hot = OneHotSequence(length=3).fit_transform(["ACW", "AC"])
    >>> one_hot.shape, one_hot.sum(axis=1).tolist()
    ((2, 60), [3.0, 2.0])
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def transform(self, X: Iterable[object]) -> NDArray[np.float32]:
        """One-hot columns of each sequence.

        Parameters
        ----------
        X : iterable of str of length n_samples
            Amino-acid sequences, none longer than `length`.

        Returns
        -------
        one_hot : ndarray of shape (n_samples, 20 * length), float32
            Ones and zeros; position by position, amino acids in alphabetical order.

        Raises
        ------
        InvalidSequenceError
            If a row is not a string, or longer than `length`.
        """
        sequences = _read(X)
        too_long = [row for row, sequence in enumerate(sequences) if len(sequence) > self.length]
        if too_long:
            raise InvalidSequenceError(
                f"{len(too_long)} sequences are longer than length={self.length}, "
                f"the first in row {too_long[0]} with {len(sequences[too_long[0]])} residues",
                too_long,
            )
        one_hot = np.zeros((len(sequences), self.length, len(ALPHABETICAL) + 1), dtype=np.float32)
        for row, sequence in enumerate(sequences):
            one_hot[row, np.arange(len(sequence)), _columns(sequence)] = 1.0
        return one_hot[:, :, :_UNKNOWN].reshape(len(sequences), -1)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names of the columns.

        Parameters
        ----------
        input_features : object, default=None
            Not looked at.

        Returns
        -------
        names : ndarray of shape (20 * length,), object
            Position, counted from 1, and amino acid: ``1A`` … .
        """
        names = [f"{position}{a}" for position in range(1, self.length + 1) for a in ALPHABETICAL]
        return np.array(names, dtype=object)
