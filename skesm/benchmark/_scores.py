"""Scores of predictions, and their resampling over rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import make_scorer, mean_absolute_error, ndcg_score, r2_score, root_mean_squared_error

Values = NDArray[np.float64]
Score = Callable[[Values, Values], float]

#: Share of the rows that count as the best, in ``ndcg`` and ``recall``.
TOP = 0.1


def _defined(correlation: Callable[[Values, Values], Any], measured: Values, predicted: Values) -> float:
    """A correlation; NaN where values are constant, of which SciPy would warn."""
    if len(measured) < 2 or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(correlation(measured, predicted).statistic)


def spearman(measured: Values, predicted: Values) -> float:
    """Rank correlation."""
    return _defined(spearmanr, measured, predicted)


def pearson(measured: Values, predicted: Values) -> float:
    """Linear correlation."""
    return _defined(pearsonr, measured, predicted)


def ndcg(measured: Values, predicted: Values) -> float:
    """Normalised discounted cumulative gain of the top tenth; gains are distances to the worst measured value."""
    if len(measured) < 2 or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(ndcg_score([measured - measured.min()], [predicted], k=_n_top(measured)))


def recall(measured: Values, predicted: Values) -> float:
    """Share of the best tenth of the rows that is among the tenth of the best predictions."""
    if np.ptp(predicted) == 0:
        return float("nan")
    k = _n_top(measured)
    best, chosen = (set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (measured, predicted))
    return len(best & chosen) / k


def _r2(measured: Values, predicted: Values) -> float:
    return float(r2_score(measured, predicted)) if len(measured) > 1 else float("nan")


def _n_top(measured: Values) -> int:
    return max(1, math.ceil(TOP * len(measured)))


SCORES: dict[str, Score] = {
    "spearman": spearman,
    "pearson": pearson,
    "r2": _r2,
    "rmse": root_mean_squared_error,
    "mae": mean_absolute_error,
    "ndcg": ndcg,
    "recall": recall,
}
#: Scores that are errors: lower is better.
ERRORS = ("rmse", "mae")
#: Scores that look for the best rows, and must know which end is the best.
_OF_THE_TOP = ("ndcg", "recall")


def score_function(name: str, higher_is_better: bool) -> Score:
    """A score, for a target of which high or low values are wanted."""
    function = SCORES[name]
    if higher_is_better or name not in _OF_THE_TOP:
        return function
    return lambda measured, predicted: function(-np.asarray(measured), -np.asarray(predicted))


def make_scorers(names: Iterable[str], higher_is_better: bool) -> dict[str, Any]:
    """scikit-learn scorers by name. Errors keep their sign: they are compared as errors later."""
    return {name: make_scorer(score_function(name, higher_is_better)) for name in names}


# resampling -----------------------------------------------------------------------------------------------------------

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
    """Ranks of the rows of a sample that holds each row as often as its weight says; ties share their mean rank."""
    _, inverse = np.unique(values, return_inverse=True)
    groups = np.zeros((len(weights), int(inverse.max()) + 1))
    np.add.at(groups.T, inverse, weights.T)
    return np.asarray((np.cumsum(groups, axis=1) - groups / 2)[:, inverse])


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


_WEIGHTED: dict[str, Callable[[Values, Values, Values], Values]] = {
    "spearman": _weighted_spearman,
    "pearson": lambda m, p, w: _weighted_correlation(m[None, :], p[None, :], w),
    "r2": _weighted_r2,
    "rmse": lambda m, p, w: np.sqrt(_weighted_mean((m - p) ** 2, w)),
    "mae": lambda m, p, w: _weighted_mean(np.abs(m - p), w),
}
