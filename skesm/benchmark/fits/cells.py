"""One pair of features and head on the folds of one split and seed: fits, and how they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import cross_validate, permutation_test_score

from skesm._optional import import_optional
from skesm._typing import Document, Estimator
from skesm.benchmark._scores import make_scorer_of
from skesm.benchmark.fits.computed import count_columns
from skesm.benchmark.fits.files import write_whole

if TYPE_CHECKING:
    from pandas import DataFrame

Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]

#: Names of the row that every comparison has: the training rows' mean, which looks at no feature.
NO_FEATURES, MEAN_MODEL = "none", "mean"


@dataclass(frozen=True)
class Problem:
    """Sequences, measured values, and how predictions are scored."""

    sequences: list[str]
    y: np.ndarray  # values, or 0 and 1 for the two classes
    classes: tuple[object, object] | None  # the names of 0 and 1
    scores: list[str]
    higher_is_better: bool
    permutations: int

    @property
    def rows(self) -> np.ndarray:
        """The sequences as scikit-learn indexes them."""
        rows = np.empty(len(self.sequences), dtype=object)
        rows[:] = self.sequences
        return rows


@dataclass(frozen=True)
class Cell:
    """One pipeline on the folds of one split and seed."""

    split: str
    seed: int
    features: str
    head: str
    pipeline: Estimator
    folds: Folds
    permutations: int

    @property
    def names(self) -> dict[str, str | int]:
        """The columns that name it in tables."""
        return {"split": self.split, "features": self.features, "head": self.head, "seed": self.seed}


@dataclass(frozen=True)
class Fits:
    """The results of the fits of a cell."""

    values: dict[str, NDArray[np.float64]]  # each score, fold by fold
    predicted: list[NDArray[np.float64]]  # fold by fold
    columns: int
    seconds: tuple[float, float]  # to fit, to predict
    permuted: NDArray[np.float64] | None = None  # the score of shuffled targets
    found: bool = False  # read from a folder of an earlier run


def run_cell(cell: Cell, problem: Problem, path: Path | None) -> Fits:
    """Fit a cell on its folds, unless `path` has the result of an earlier fit."""
    if path is not None and (fits := _read(path)) is not None:
        return fits
    X, y = problem.rows, problem.y
    scorers = {name: make_scorer_of(name, problem.higher_is_better) for name in problem.scores}
    result: Document = cross_validate(
        cell.pipeline, X, y, cv=cell.folds, scoring=scorers, return_estimator=True, error_score="raise"
    )
    predict = "predict" if problem.classes is None else "predict_proba"
    predicted = [
        np.asarray(getattr(pipeline, predict)(X[test]), dtype=np.float64)
        for pipeline, (_, test) in zip(result["estimator"], cell.folds, strict=True)
    ]
    steps = result["estimator"][0].named_steps
    fits = Fits(
        values={name: np.asarray(result[f"test_{name}"], dtype=np.float64) for name in problem.scores},
        predicted=[p[:, 1] if problem.classes is not None else p.ravel() for p in predicted],
        columns=0 if cell.features == NO_FEATURES else count_columns(steps["features"], X),
        seconds=(float(result["fit_time"].sum()), float(result["score_time"].sum())),
        permuted=_permute(cell, problem),
    )
    if path is not None:
        _write(path, fits)
    return fits


def _permute(cell: Cell, problem: Problem) -> NDArray[np.float64] | None:
    if not cell.permutations:
        return None
    scorer = make_scorer_of(problem.scores[0], problem.higher_is_better, keep_sign=False)
    _, permuted, _ = permutation_test_score(
        cell.pipeline,
        problem.rows,
        problem.y,
        cv=cell.folds,
        n_permutations=cell.permutations,
        scoring=scorer,
        random_state=cell.seed,
    )
    return np.asarray(permuted, dtype=np.float64)


def _write(path: Path, fits: Fits) -> None:
    """Write a complete file or none: a run may be killed at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: Document = {f"score {name}": values for name, values in fits.values.items()}
    arrays |= {f"fold {number}": values for number, values in enumerate(fits.predicted)}
    arrays |= {"columns": np.array(fits.columns), "seconds": np.array(fits.seconds)}
    if fits.permuted is not None:
        arrays["permuted"] = fits.permuted
    write_whole(path, lambda temporary: np.savez(temporary, **arrays))


def _read(path: Path) -> Fits | None:
    """None if there is no file, or one that cannot be read: then the fits are repeated."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
    values = {name.removeprefix("score "): array for name, array in arrays.items() if name.startswith("score ")}
    n_folds = sum(name.startswith("fold ") for name in arrays)
    fit, predict = arrays["seconds"].tolist()
    return Fits(
        values=values,
        predicted=[arrays[f"fold {number}"] for number in range(n_folds)],
        columns=int(arrays["columns"]),
        seconds=(fit, predict),
        permuted=arrays.get("permuted"),
        found=True,
    )


def score_rows(cell: Cell, fits: Fits) -> Iterator[Document]:
    """A row of the table of scores for each fold and score."""
    for fold, (train, test) in enumerate(cell.folds):
        sizes = {**cell.names, "fold": fold, "n_train": len(train), "n_test": len(test)}
        for score, values in fits.values.items():
            yield {**sizes, "score": score, "value": float(values[fold])}


def prediction_frame(cell: Cell, fits: Fits, y: np.ndarray, distances: list[NDArray[np.intp]]) -> DataFrame:
    """A row of the table of predictions for each fold and test row."""
    pandas = import_optional("pandas", "benchmark")
    frames = []
    for fold, (_, test) in enumerate(cell.folds):
        columns = {"row": test, "measured": y[test].astype(np.float64), "predicted": fits.predicted[fold]}
        frames.append(pandas.DataFrame({**cell.names, "fold": fold, **columns, "distance": distances[fold]}))
    return pandas.concat(frames)


def permutation_row(cell: Cell, fits: Fits, score: str, sign: int) -> Mapping[str, object] | None:
    """A row of the table of permutation tests."""
    if fits.permuted is None:
        return None
    value = float(np.mean(fits.values[score]))
    # a shuffled target whose score is not defined counts against the model
    beaten = np.isnan(fits.permuted) | (fits.permuted >= sign * value)
    p = (1 + int(beaten.sum())) / (1 + len(fits.permuted)) if np.isfinite(value) else float("nan")
    return {**cell.names, "score": score, "value": value, "p": p, "permutations": len(fits.permuted)}
