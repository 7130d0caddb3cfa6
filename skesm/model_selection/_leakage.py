"""How much of a test set the training set gives away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import check_cv

from skesm._typing import Column
from skesm.exceptions import InvalidSequenceError
from skesm.model_selection._distances import edit_distances, substitutions
from skesm.model_selection._mutations import mutated_positions, read_sequences

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class LeakageReport:
    """How much a fold's training set gives away about its test set.

    Attributes
    ----------
    fold : int
        Number of the fold, from 0.
    n_train, n_test : int
        Rows of the two sets.
    duplicates : float
        Share of the test rows whose sequence is in the training set.
    neighbours : float
        Share of the test rows with a training sequence at edit distance 1, or 0.
    median_distance : float
        Median over the test rows of the edit distance to the nearest training sequence.
    seen_positions : float
        Share of the mutated positions of the test rows that are mutated in a training row. NaN if sequences have
        different lengths, or the test rows have no mutation.
    """

    fold: int
    n_train: int
    n_test: int
    duplicates: float
    neighbours: float
    median_distance: float
    seen_positions: float

    def warnings(self) -> list[str]:
        """Sentences about this fold that a reader of its scores must know. Empty if there are none.

        Returns
        -------
        sentences : list of str
        """
        return leakage_sentences(self, "use DistinctSequenceKFold", "compare with PositionKFold")


def leakage_sentences(report: LeakageReport, of_duplicates: str, of_positions: str) -> list[str]:
    """Sentences on a fold, each with its remedy in the reader's words."""
    sentences = []
    if report.duplicates:
        sentences.append(
            f"fold {report.fold}: {report.duplicates:.0%} of the test sequences are in the training set, so the "
            f"score measures memory: {of_duplicates}"
        )
    if report.seen_positions > 0.5:
        sentences.append(
            f"fold {report.fold}: {report.seen_positions:.0%} of the mutated positions of the test set are mutated in "
            f"the training set too, so the score says little about new positions: {of_positions}"
        )
    return sentences


def leakage(
    X: Column,
    y: ArrayLike | None = None,
    *,
    cv: object = 5,
    groups: ArrayLike | None = None,
    reference: str | None = None,
) -> list[LeakageReport]:
    """Measure how much each fold's training set gives away about its test set.

    Parameters
    ----------
    X : list, tuple, array, Series, or one-column DataFrame of str
        n sequences.
    y : array-like of shape (n,), default=None
        Measured values, for splitters that look at them.
    cv : int, splitter, or iterable of (train, test), default=5
        The folds, as scikit-learn takes them.
    groups : array-like of shape (n,), default=None
        For splitters that look at groups.
    reference : str or None, default=None
        The wild type of a library of variants. None takes the consensus if all sequences have one length.

    Returns
    -------
    reports : list of LeakageReport
        One for each fold. ``pandas.DataFrame(reports)`` makes a table of it.

    Raises
    ------
    InvalidSequenceError
        If X is not a column of sequences, or `reference` is given and lengths differ.
    MissingDependencyError
        If rapidfuzz is not installed.

    Examples
    --------
    >>> from sklearn.model_selection import KFold
    >>> from skesm.model_selection import leakage
    >>> report = leakage(["MKA", "MKG", "AKT", "GKT"], cv=KFold(2), reference="MKT")[0]
    >>> report.n_test, report.duplicates, report.median_distance, report.seen_positions
    (2, 0.0, 2.0, 0.0)
    """
    sequences = read_sequences(X)
    mutated = _mutated_if_aligned(sequences, reference)
    splits = check_cv(cv, y).split(sequences, y, groups)
    return [_report(number, sequences, mutated, *fold)[0] for number, fold in enumerate(splits)]


def measure_folds(
    sequences: list[str], folds: Iterable[tuple[Rows, Rows]], reference: str | None
) -> list[tuple[LeakageReport, Rows]]:
    """Report of each fold of clean sequences, and each test row's distance to the nearest training sequence."""
    mutated = _mutated_if_aligned(sequences, reference)
    return [_report(number, sequences, mutated, *fold) for number, fold in enumerate(folds)]


def distance_to_training(X: Column, training: Column) -> NDArray[np.intp]:
    """Edit distance of each sequence to the nearest training sequence.

    A model's error usually grows with this distance. Use it to say for which sequences a prediction can be trusted
    (the domain of applicability).

    Parameters
    ----------
    X : list, tuple, array, Series, or one-column DataFrame of str
        n sequences.
    training : list, tuple, array, Series, or one-column DataFrame of str
        The sequences that the model was fitted on.

    Returns
    -------
    distances : ndarray of shape (n,), int
        Substitutions, insertions and deletions. 0 for a sequence that is in the training set.

    Raises
    ------
    InvalidSequenceError
        If X or `training` is not a column of sequences.
    MissingDependencyError
        If rapidfuzz is not installed.

    Examples
    --------
    >>> from skesm.model_selection import distance_to_training
    >>> distance_to_training(["MKT", "MRA"], ["MKT", "MKA"]).tolist()
    [0, 1]
    """
    return _nearest(read_sequences(X), read_sequences(training))


#: Distances up to so many edits are looked for first: rapidfuzz finds few edits faster than many.
_FIRST = (3, 31)


def _nearest(sequences: list[str], training: list[str]) -> NDArray[np.intp]:
    distinct, inverse = np.unique(sequences, return_inverse=True)
    columns = sorted(set(training))
    nearest, known = _by_substitutions(distinct.tolist(), columns)
    left = np.flatnonzero(~known)
    for most in (*_FIRST, None):
        found = [block.min(axis=1) for _, block in edit_distances(distinct[left].tolist(), columns, most=most)]
        nearest[left] = np.concatenate([np.empty(0, dtype=np.int32), *found])
        left = left[nearest[left] > most] if most is not None else left[:0]
    distances: NDArray[np.intp] = nearest[inverse]
    return distances


def _by_substitutions(rows: list[str], columns: list[str]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Substitutions to the nearest column of a row's length, and whether no column has fewer edits."""
    nearest = np.full(len(rows), np.iinfo(np.intp).max)
    certain = np.ones(len(rows), dtype=np.intp)  # another length can be one edit away
    for length in {len(row) for row in rows}:
        chosen = [i for i, row in enumerate(rows) if len(row) == length]
        alike = [column for column in columns if len(column) == length]
        if alike:
            blocks = substitutions([rows[i] for i in chosen], alike)
            nearest[chosen] = np.concatenate([block.min(axis=1) for _, block in blocks])
        if len(alike) == len(columns):
            certain[chosen] = 2
    return nearest, nearest <= certain


def _mutated_if_aligned(sequences: list[str], reference: str | None) -> list[Rows] | None:
    try:
        return mutated_positions(sequences, reference)
    except InvalidSequenceError:
        if reference is not None:
            raise
        return None


def _report(
    fold: int, sequences: list[str], mutated: list[Rows] | None, train: Rows, test: Rows
) -> tuple[LeakageReport, Rows]:
    distances = _nearest([sequences[row] for row in test], [sequences[row] for row in train])
    report = LeakageReport(
        fold=fold,
        n_train=len(train),
        n_test=len(test),
        duplicates=float((distances == 0).mean()),
        neighbours=float((distances <= 1).mean()),
        median_distance=float(np.median(distances)),
        seen_positions=_seen_positions(mutated, train, test) if mutated is not None else float("nan"),
    )
    return report, distances


def _seen_positions(mutated: list[Rows], train: Iterable[int], test: Iterable[int]) -> float:
    trained, tested = ({int(position) for row in rows for position in mutated[row]} for rows in (train, test))
    return len(trained & tested) / len(tested) if tested else float("nan")
