"""Scores of bootstrap samples of the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from skesm.benchmark._scores import CUT, Values, score_function

Fold = tuple[NDArray[np.intp], Values, Values]  # rows, measured, predicted


def draw_weights(n_rows: int, n_draws: int, seed: int = 0) -> Values:
    """How often each row is in each bootstrap sample, (draws, rows)."""
    counts = np.random.default_rng(seed).multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=n_draws)
    return counts.astype(np.float64)


def resample(name: str, folds: Sequence[Fold], weights: Values, higher_is_better: bool) -> Values:
    """The mean score over folds in each bootstrap sample of the rows."""
    draws = []
    for rows, measured, predicted in folds:
        of_fold = weights[:, rows]
        if name in _WEIGHTED:
            draws.append(_WEIGHTED[name](measured, predicted, of_fold))
        else:
            function = score_function(name, higher_is_better)
            counts = of_fold.astype(np.intp)
            samples = [np.repeat(np.arange(len(rows)), count) for count in counts]
            draws.append(np.array([function(measured[s], predicted[s]) if len(s) else np.nan for s in samples]))
    mean: Values = np.mean(draws, axis=0)
    return mean


def _weighted_ranks(values: Values, weights: Values) -> Values:
    """Ranks of the rows of a sample that holds each row as often as its weight says. Ties share their mean rank."""
    return _counts_at(values, weights, below=True)


def _weighted_correlation(a: Values, b: Values, weights: Values) -> Values:
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a sample without spread has no correlation
        a = a - (weights * a).sum(axis=1, keepdims=True) / total
        b = b - (weights * b).sum(axis=1, keepdims=True) / total
        covariance = (weights * a * b).sum(axis=1)
        correlation: Values = covariance / np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    return correlation


def _weighted_spearman(measured: Values, predicted: Values, weights: Values) -> Values:
    return _weighted_correlation(_weighted_ranks(measured, weights), _weighted_ranks(predicted, weights), weights)


def _weighted_mean(values: Values, weights: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Values = weights @ values / weights.sum(axis=1)
    return mean


def _weighted_r2(measured: Values, predicted: Values, weights: Values) -> Values:
    errors = _weighted_mean((measured - predicted) ** 2, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = _weighted_mean(measured**2, weights) - _weighted_mean(measured, weights) ** 2
        r2: Values = 1 - errors / spread
    return r2


def _weighted_auroc(measured: Values, predicted: Values, weights: Values) -> Values:
    positive = weights * measured
    below = _counts_at(predicted, weights - positive, below=True)
    pairs = positive.sum(axis=1) * (weights - positive).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a sample of one class has no pairs
        area: Values = (positive * below).sum(axis=1) / pairs
    return area


def _weighted_ap(measured: Values, predicted: Values, weights: Values) -> Values:
    positive = weights * measured
    found, chosen = (_counts_at(-predicted, w, below=False) for w in (positive, weights))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(chosen > 0, found / chosen, 0)
        mean: Values = (positive * precision).sum(axis=1) / positive.sum(axis=1)
    return mean


def _counts_at(values: Values, weights: Values, *, below: bool) -> Values:
    """Weight up to each value of a sample, ties included. With `below`, half of the ties."""
    _, inverse = np.unique(values, return_inverse=True)
    groups = np.zeros((len(weights), int(inverse.max()) + 1))
    np.add.at(groups.T, inverse, weights.T)
    return np.asarray((np.cumsum(groups, axis=1) - groups / 2 * below)[:, inverse])


def _weighted_mcc(measured: Values, predicted: Values, weights: Values) -> Values:
    chosen = (predicted >= CUT).astype(np.float64)
    with np.errstate(invalid="ignore"):
        both = np.asarray(_weighted_correlation(measured[None, :], chosen[None, :], weights))
    one_class = weights @ measured * (weights @ (1 - measured)) == 0
    return np.where(one_class, np.nan, np.nan_to_num(both, nan=0.0, posinf=0.0, neginf=0.0))


_WEIGHTED: dict[str, Callable[[Values, Values, Values], Values]] = {
    "spearman": _weighted_spearman,
    "pearson": lambda m, p, w: _weighted_correlation(m[None, :], p[None, :], w),
    "r2": _weighted_r2,
    "rmse": lambda m, p, w: np.sqrt(_weighted_mean((m - p) ** 2, w)),
    "mae": lambda m, p, w: _weighted_mean(np.abs(m - p), w),
    "auroc": _weighted_auroc,
    "ap": _weighted_ap,
    "mcc": _weighted_mcc,
    "brier": lambda m, p, w: _weighted_mean((m - p) ** 2, w),
}
