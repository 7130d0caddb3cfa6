"""The folds of a comparison, and the leakage of their training sets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import check_cv

from skesm._typing import Document, Estimator
from skesm.benchmark._heads import LEAST_OF_CLASS
from skesm.benchmark.fits.cells import Folds, Problem
from skesm.model_selection import DistinctSequenceKFold, LeakageReport
from skesm.model_selection._leakage import measure_folds

#: A split and a seed.
Key = tuple[str, int]


def make_folds(
    problem: Problem, splits: Mapping[str, Estimator], seeds: Sequence[int], groups: ArrayLike | None
) -> Iterator[tuple[Key, Folds]]:
    """Row numbers of each split and seed.

    Raises
    ------
    ValueError
        If the rows cannot be split in this way.
    """
    n_rows = len(problem.sequences)
    if groups is not None and np.shape(groups) != (n_rows,):
        raise ValueError(f"groups has shape {np.shape(groups)}, but X has {n_rows} sequences")
    for name, cv in splits.items():
        for seed in seeds:
            splitter = DistinctSequenceKFold(cv, random_state=seed) if isinstance(cv, int) else copy.copy(cv)
            draws = hasattr(splitter, "random_state") and getattr(splitter, "shuffle", True)
            draws = draws and getattr(splitter, "scheme", "random") == "random"
            if not draws and seed != seeds[0]:
                continue
            if draws:
                splitter.random_state = seed
            folds = list(check_cv(splitter).split(problem.sequences, problem.y, groups))
            if problem.classes is not None:
                _check_classes(name, folds, problem)
            yield (name, seed), folds


def _check_classes(split: str, folds: Folds, problem: Problem) -> None:
    assert problem.classes is not None
    for fold, (train, _) in enumerate(folds):
        for number, name in enumerate(problem.classes):
            found = int((problem.y[train] == number).sum())
            if found < LEAST_OF_CLASS:
                raise ValueError(
                    f"split {split!r}, fold {fold}: {found} training rows of class {name!r}, but a classifier needs "
                    f"{LEAST_OF_CLASS}. Use fewer folds or another split"
                )


def measure_leakage(
    sequences: list[str],
    folds: Mapping[Key, Folds],
    reference: str | None,
    describe: Callable[[LeakageReport], list[str]],
) -> tuple[list[Document], dict[Key, list[NDArray[np.intp]]], list[str]]:
    """Rows of the table of leakage, distances of the test rows to the training rows, and warnings."""
    rows, distances, warnings = [], {}, []
    for (split, seed), of_split in folds.items():
        measured = measure_folds(sequences, of_split, reference)
        distances[split, seed] = [distance for _, distance in measured]
        rows += [{"split": split, "seed": seed, **asdict(report)} for report, _ in measured]
        sentences = [sentence for report, _ in measured for sentence in describe(report)]
        if sentences:
            more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
            warnings.append(f"split {split}, seed {seed}, {sentences[0]}{more}")
    return rows, distances, warnings
