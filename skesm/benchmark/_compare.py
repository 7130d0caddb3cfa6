"""Cross-validation of sets of features and regressors on the same folds."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold
from sklearn.utils import check_array, get_tags
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from skesm.benchmark._baselines import as_strings, normalise

Features = Mapping[str, Any]
Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]

#: Names of the row that every comparison has: the training rows' mean, which looks at no feature.
NO_FEATURES, MEAN_MODEL = "none", "mean"


@dataclass(frozen=True)
class ComparisonRow:
    """Scores of one regressor on one set of features.

    Attributes
    ----------
    features, model : str
        Names given to `compare`.
    n_columns : int
        Number of feature columns, constant ones included.
    spearman, rmse : ndarray of shape (n_folds,), float64
        Rank correlation and root mean squared error (in the target's units) in each fold. The correlation is NaN
        where predictions or measurements are constant.
    feature_seconds : float
        Time to compute these features, once, loading the weights included; the sum of the parts for joined features.
    seconds : float
        Time to fit and predict, summed over the folds.
    """

    features: str
    model: str
    n_columns: int
    spearman: NDArray[np.float64]
    rmse: NDArray[np.float64]
    feature_seconds: float
    seconds: float

    def as_dict(self) -> dict[str, str | int | float]:
        """Names, means and sample standard deviations over folds, and times."""
        return {
            "features": self.features,
            "model": self.model,
            "columns": self.n_columns,
            "spearman_mean": float(np.mean(self.spearman)),
            "spearman_sd": float(np.std(self.spearman, ddof=1)),
            "rmse_mean": float(np.mean(self.rmse)),
            "rmse_sd": float(np.std(self.rmse, ddof=1)),
            "feature_seconds": self.feature_seconds,
            "fit_predict_seconds": self.seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    rows : tuple of ComparisonRow
        One for each set of features and regressor, in the order given, and last the mean predictor.
    y : ndarray of shape (n_samples,), float64
        The measured values.
    fold : ndarray of shape (n_samples,), int
        The fold in which each sample was predicted, from 0.
    predictions : dict of (str, str) to ndarray of shape (n_samples,)
        Out-of-fold predictions, by names of features and model.
    """

    rows: tuple[ComparisonRow, ...]
    y: NDArray[np.float64]
    fold: NDArray[np.intp]
    predictions: Mapping[tuple[str, str], NDArray[np.float64]]

    @property
    def table(self) -> list[dict[str, str | int | float]]:
        """The rows as plain dictionaries: ready for ``pandas.DataFrame``."""
        return [row.as_dict() for row in self.rows]

    def best(self) -> ComparisonRow:
        """Row of the highest mean Spearman correlation, or of the lowest RMSE if no correlation is defined."""
        ranked = [row for row in self.rows if not np.isnan(row.spearman).any()]
        if not ranked:
            return min(self.rows, key=lambda row: float(np.mean(row.rmse)))
        return max(ranked, key=lambda row: float(np.mean(row.spearman)))

    def to_text(self) -> str:
        """The table for a terminal, mean ± standard deviation over folds."""
        header = ("features", "model", "columns", "Spearman", "RMSE", "seconds")
        cells = [header]
        for row in self.table:
            spearman, rmse = (
                "-" if np.isnan(row[f"{score}_mean"]) else f"{row[f'{score}_mean']:.3f} ± {row[f'{score}_sd']:.3f}"
                for score in ("spearman", "rmse")
            )
            seconds = f"{row['fit_predict_seconds']:.1f}"
            cells.append((str(row["features"]), str(row["model"]), str(row["columns"]), spearman, rmse, seconds))
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        aligned = "<<>>>>"  # names left, numbers right
        lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(line, aligned, widths, strict=True)) for line in cells]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV; an undefined correlation is written ``nan``.

        Parameters
        ----------
        path : path-like
            File to write; replaced if it exists.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.table[0]), lineterminator="\n")
            writer.writeheader()
            for row in self.table:
                writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})

    def predictions_to_csv(self, path: str | os.PathLike[str], row_numbers: ArrayLike | None = None) -> None:
        """Write fold, measured value and every out-of-fold prediction of each sample as CSV.

        Parameters
        ----------
        path : path-like
            File to write; replaced if it exists.
        row_numbers : array-like of shape (n_samples,), int, default=None
            Numbers that tell the samples apart, such as their rows in the original file; from 0 by default.
        """
        numbers = np.arange(len(self.y)) if row_numbers is None else np.asarray(row_numbers)
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "fold", "measured", *(f"{f} | {m}" for f, m in self.predictions)])
            for values in zip(numbers, self.fold, self.y, *self.predictions.values(), strict=True):
                row, fold, *floats = values
                writer.writerow([int(row), int(fold), *(f"{v:.6f}" for v in floats)])


def compare(
    X: Iterable[str],
    y: ArrayLike,
    features: Features,
    regressors: Mapping[str, Any],
    *,
    cv: Any = 5,
    groups: ArrayLike | None = None,
    random_state: int = 0,
    n_jobs: int | None = None,
    verbose: bool = False,
) -> Comparison:
    """Cross-validate every set of features with every regressor, and the mean predictor, on the same folds.

    Features come from stateless transformers, which learn nothing from the rows they see. They are
    therefore computed once, before the cross-validation, with no leak from test to training rows. Anything that learns
    (scaling, selection) belongs into the regressor's pipeline, which is fitted on the training rows of each fold.

    Parameters
    ----------
    X : iterable of str of length n_samples
        Sequences: a list, an array, a Series or a one-column frame.
    y : array-like of shape (n_samples,)
        Measured values, finite.
    features : mapping of str to transformer or tuple of str
        Stateless transformers of sequences by name. A tuple of names joins the columns of these features, as a
        `FeatureUnion` would, without computing them again.
    regressors : mapping of str to estimator
        Regressors by name. They are cloned for each fold; give them a fixed `random_state`.
    cv : int or cross-validation splitter, default=5
        Number of folds, shuffled by `random_state`, or a splitter whose test sets hold every row once.
    groups : array-like of shape (n_samples,), default=None
        Rows of one group stay in one fold. If `cv` is a number, the rows of one sequence are a group by default, so
        that replicate measurements never stand on both sides of a split.
    random_state : int, default=0
        Seed of the folds.
    n_jobs : int, default=None
        Number of threads that fit folds; -1 is one per CPU. Each fit is held to one BLAS thread, so that the results do
        not depend on this number. Estimators that run threads of their own should be told to use one.
    verbose : bool, default=False
        Show a progress bar of the fits on stderr. The transformers have bars of their own.

    Returns
    -------
    comparison : Comparison
        Scores, folds and out-of-fold predictions.

    Raises
    ------
    ValueError
        If shapes or names do not fit together, `y` is not finite, a transformer needs fitting, or the test sets do
        not hold every row exactly once.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from skesm.benchmark import AminoAcidComposition, compare
    >>> X = ["A" * n + "C" * (9 - n) for n in range(10)]
    >>> result = compare(X, range(10), {"composition": AminoAcidComposition()}, {"ridge": Ridge(1e-6)}, cv=2)
    >>> [(row.features, row.model, float(row.spearman.mean().round(3))) for row in result.rows]
    [('composition', 'ridge', 1.0), ('none', 'mean', nan)]
    """
    sequences = as_strings(X)
    target = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if target.shape != (len(sequences),):
        raise ValueError(f"y has shape {target.shape}, but X has {len(sequences)} sequences")
    _check_features(features)
    folds = _split(sequences, target, cv, groups, random_state)
    models = [(f, m, estimator) for f in features for m, estimator in regressors.items()]
    models.append((NO_FEATURES, MEAN_MODEL, DummyRegressor()))

    matrices, feature_seconds = _compute_features(sequences, features)
    # A column that is constant over all rows is constant in every fold: it carries nothing, and costs time.
    informative = {name: _without_constant_columns(matrix) for name, matrix in matrices.items()}
    tasks = [(f, m, estimator, *fold) for f, m, estimator in models for fold in folds]
    predictions = {(f, m): np.empty(len(sequences)) for f, m, _ in models}
    seconds = dict.fromkeys(predictions, 0.0)
    # threadpoolctl's limit holds for one process, so that the fits must be threads of this one.
    with threadpool_limits(limits=1), tqdm(total=len(tasks), desc="fits", unit="fit", disable=not verbose) as progress:
        results = Parallel(n_jobs=n_jobs, require="sharedmem", return_as="generator")(
            delayed(_fit_predict)(estimator, informative[f], target, train, test)
            for f, _, estimator, train, test in tasks
        )
        for (f, m, _, _, test), (predicted, elapsed) in zip(tasks, results, strict=True):
            predictions[f, m][test] = predicted
            seconds[f, m] += elapsed
            progress.update()

    fold_of = np.empty(len(sequences), dtype=np.intp)
    for number, (_, test) in enumerate(folds):
        fold_of[test] = number
    rows = tuple(
        ComparisonRow(
            features=f,
            model=m,
            n_columns=matrices[f].shape[1],
            spearman=np.array([_spearman(target[test], predicted[test]) for _, test in folds]),
            rmse=np.array([np.sqrt(np.mean((target[test] - predicted[test]) ** 2)) for _, test in folds]),
            feature_seconds=feature_seconds[f],
            seconds=seconds[f, m],
        )
        for (f, m), predicted in predictions.items()
    )
    return Comparison(rows=rows, y=target, fold=fold_of, predictions=predictions)


def _check_features(features: Features) -> None:
    for name, transformer in features.items():
        if name == NO_FEATURES:
            raise ValueError(f"features cannot be named {NO_FEATURES!r}: that is the mean predictor's row")
        if isinstance(transformer, tuple):
            unknown = [part for part in transformer if isinstance(features.get(part), tuple | None)]
            if unknown or not transformer:
                raise ValueError(f"features {name!r} must join names of computed features, got {transformer!r}")
        elif get_tags(transformer).requires_fit:
            raise ValueError(
                f"features {name!r}: {type(transformer).__name__} learns from data; put it into the regressor's "
                "pipeline, or name its stateless parts and join them with a tuple of names"
            )


def _compute_features(sequences: list[str], features: Features) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Matrix and seconds of each set of features, and of no features; joined ones after their parts."""
    matrices: dict[str, NDArray[Any]] = {NO_FEATURES: np.empty((len(sequences), 0))}
    seconds = {NO_FEATURES: 0.0}
    for name, transformer in features.items():
        if not isinstance(transformer, tuple):
            start = perf_counter()
            matrix = check_array(transformer.transform(sequences), dtype=(np.float64, np.float32))
            seconds[name] = perf_counter() - start
            if len(matrix) != len(sequences):
                raise ValueError(f"features {name!r}: {len(matrix)} rows for {len(sequences)} sequences")
            matrices[name] = matrix
    for name, parts in features.items():
        if isinstance(parts, tuple):
            matrices[name] = np.hstack([matrices[part] for part in parts])
            seconds[name] = sum(seconds[part] for part in parts)
    return matrices, seconds


def _split(sequences: list[str], y: NDArray[np.float64], cv: Any, groups: ArrayLike | None, random_state: int) -> Folds:
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != (len(sequences),):
            raise ValueError(f"groups has shape {groups.shape}, but X has {len(sequences)} sequences")
    if isinstance(cv, int):
        if groups is None:
            groups = np.unique([normalise(sequence) for sequence in sequences], return_inverse=True)[1]
        n_groups = len(np.unique(groups))
        if not 2 <= cv <= n_groups:
            raise ValueError(f"cannot make {cv} folds of {n_groups} groups (by default, distinct sequences)")
        cv = GroupKFold(n_splits=cv, shuffle=True, random_state=random_state)
    folds = list(cv.split(sequences, y, groups))
    if not np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(sequences))):
        raise ValueError("the test sets of cv must hold every row exactly once")
    return folds


def _without_constant_columns(matrix: NDArray[Any]) -> NDArray[Any]:
    if matrix.shape[1] == 0:
        return np.zeros((len(matrix), 1))  # estimators want a column, even one that does not look at it
    varies = np.ptp(matrix, axis=0) > 0
    varies[0] |= not varies.any()
    return matrix[:, varies]


def _fit_predict(
    estimator: Any, matrix: NDArray[Any], y: NDArray[np.float64], train: NDArray[np.intp], test: NDArray[np.intp]
) -> tuple[NDArray[np.float64], float]:
    start = perf_counter()
    predicted = clone(estimator).fit(matrix[train], y[train]).predict(matrix[test])
    return np.asarray(predicted, dtype=np.float64), perf_counter() - start


def _spearman(measured: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    if np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return float("nan")  # ranks of equal values are undefined; SciPy would warn
    return float(spearmanr(measured, predicted).statistic)
