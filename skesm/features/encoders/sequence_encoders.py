"""`OneHotSequence` and `AminoAcidComposition`: features of the sequence alone, without a protein model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skesm._typing import Column, Constraints
from skesm.exceptions import InvalidSequenceError
from skesm.features.common.transformer import SequenceTransformer
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import ALPHABETICAL, AMINO_ACIDS, count_residues
from skesm.sequences.clean import clean_sequences
from skesm.sequences.variants import own_columns

N_AMINO_ACIDS = len(ALPHABETICAL)
#: Alphabetical number of each column of ``logits``. The last entry is for everything that is no amino acid.
_ALPHABETICAL_OF = np.array([*(ALPHABETICAL.index(a) for a in AMINO_ACIDS), N_AMINO_ACIDS], dtype=np.intp)


def alphabetical_columns(sequence: str) -> NDArray[np.intp]:
    """Alphabetical number of each residue of a clean sequence. 20 for letters that are none of the 20 amino acids.

    Examples
    --------
    >>> alphabetical_columns("ACX<mask>Y").tolist()
    [0, 1, 20, 20, 19]
    """
    return _ALPHABETICAL_OF[own_columns(sequence)]


class SequenceEncoder(SequenceTransformer, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A transformer that needs no protein model. A child computes its columns in `_encode`."""

    _parameter_constraints: Constraints = {}  # noqa: RUF012  # scikit-learn's convention

    @abstractmethod
    def _encode(self, sequences: list[str]) -> FloatArray:
        """Compute the columns of clean sequences."""

    @abstractmethod
    def _labels(self) -> list[str]:
        """Names of the columns of a fitted encoder."""

    def _clean(self, X: Column) -> list[str]:
        self._validate_params()
        return clean_sequences(X, max_length=None, unknown_residues="X")

    def _fit(self, X: Column) -> None:
        self._learn(self._clean(X))

    def _transform(self, X: Column, *, learn: bool = False) -> FloatArray:
        if not learn:
            self._validate_params()
            check_is_fitted(self)
        sequences = self._clean(X)
        if learn:
            self._learn(sequences)
        return self._encode(sequences)

    def _names(self) -> list[str]:
        check_is_fitted(self)
        return self._labels()


class AminoAcidComposition(SequenceEncoder):
    """Fraction of each of the 20 amino acids in a sequence.

    Other letters count in the length but have no column. The transformer learns nothing, so ``fit`` is not needed.

    Examples
    --------
    >>> from skesm import AminoAcidComposition
    >>> AminoAcidComposition().transform(["AAC", "WWWW"])[:, :2].round(2)
    array([[0.67, 0.33],
           [0.  , 0.  ]], dtype=float32)
    """

    def _encode(self, sequences: list[str]) -> FloatArray:
        counts = np.zeros((len(sequences), N_AMINO_ACIDS), dtype=np.float32)
        for row, sequence in enumerate(sequences):
            counts[row] = np.bincount(alphabetical_columns(sequence), minlength=N_AMINO_ACIDS + 1)[:N_AMINO_ACIDS]
            counts[row] /= count_residues(sequence)
        return counts

    def _labels(self) -> list[str]:
        return [f"fraction_{a}" for a in ALPHABETICAL]


class OneHotSequence(SequenceEncoder):
    """One column for each amino acid at each position.

    Positions are counted from the start of the sequence. A sequence shorter than `length` has zeros at its missing last
    positions. After a deletion its residues are in the columns of their neighbours, so use this encoder for libraries
    of substitutions. Letters other than the 20 amino acids have zeros at their position.

    Parameters
    ----------
    length : int or None, default=None
        Number of positions. None lets ``fit`` take the length of its longest sequence. A given length needs no ``fit``.

    Attributes
    ----------
    length_ : int
        The length that ``fit`` learnt. Only if none is given.

    See Also
    --------
    SubstitutionEncoder : Far fewer columns, and a better baseline for variants of one protein.

    Examples
    --------
    >>> from skesm import OneHotSequence
    >>> one_hot = OneHotSequence().fit_transform(["ACW", "AC"])
    >>> one_hot.shape, one_hot.sum(axis=1).tolist()
    ((2, 60), [3.0, 2.0])
    """

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        "length": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, length: int | None = None) -> None:
        self.length = length

    def _learn(self, sequences: Sequence[str]) -> None:
        if self.length is None:
            self.length_: int = max(map(count_residues, sequences))
        elif hasattr(self, "length_"):
            del self.length_  # of other parameters

    def _known_length(self) -> int:
        return self.length_ if self.length is None else self.length

    def _encode(self, sequences: list[str]) -> FloatArray:
        length = self._known_length()
        lengths = [count_residues(sequence) for sequence in sequences]
        too_long = [row for row, n in enumerate(lengths) if n > length]
        if too_long:
            raise InvalidSequenceError(
                f"{len(too_long)} sequences are longer than length={length}, the first in row {too_long[0]} with "
                f"{lengths[too_long[0]]} residues. Set length to the length of the longest sequence",
                too_long,
            )
        one_hot = np.zeros((len(sequences), length, N_AMINO_ACIDS + 1), dtype=np.float32)
        for row, sequence in enumerate(sequences):
            one_hot[row, np.arange(lengths[row]), alphabetical_columns(sequence)] = 1.0
        return one_hot[:, :, :N_AMINO_ACIDS].reshape(len(sequences), -1)

    def _labels(self) -> list[str]:
        return [f"{position}{a}" for position in range(1, self._known_length() + 1) for a in ALPHABETICAL]

    def __sklearn_is_fitted__(self) -> bool:
        return self.length is not None or hasattr(self, "length_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = self.length is None
        return tags
