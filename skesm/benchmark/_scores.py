"""Scores of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    make_scorer,
    matthews_corrcoef,
    mean_absolute_error,
    ndcg_score,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

Values = NDArray[np.float64]
Score = Callable[[Values, Values], float]

#: Share of the rows that count as the best, in ``ndcg`` and ``recall``.
TOP = 0.1


def _defined(correlation: Callable[[Values, Values], Any], measured: Values, predicted: Values) -> float:
    """A correlation. NaN where values are constant, for which SciPy would warn."""
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
    """Normalised discounted cumulative gain of the top tenth. Gains are distances to the worst measured value."""
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


def auroc(measured: Values, predicted: Values) -> float:
    """Area under the receiver operating characteristic. NaN if all rows are of one class."""
    return float(roc_auc_score(measured, predicted)) if np.ptp(measured) else float("nan")


def ap(measured: Values, predicted: Values) -> float:
    """Average precision. NaN if no row is of the positive class."""
    return float(average_precision_score(measured, predicted)) if measured.any() else float("nan")


def mcc(measured: Values, predicted: Values) -> float:
    """Matthews' correlation of classes. NaN if all rows are of one class."""
    return float(matthews_corrcoef(measured, predicted >= CUT)) if np.ptp(measured) else float("nan")


def brier(measured: Values, predicted: Values) -> float:
    """Mean squared error of the probability."""
    return float(np.mean((measured - predicted) ** 2))


#: A row is predicted to be of the positive class from this probability on.
CUT = 0.5

#: Scores of regressors.
SCORES: dict[str, Score] = {
    "spearman": spearman,
    "pearson": pearson,
    "r2": _r2,
    "rmse": root_mean_squared_error,
    "mae": mean_absolute_error,
    "ndcg": ndcg,
    "recall": recall,
}
#: Scores of classifiers, of the measured class (0 or 1) and the probability of class 1.
CLASS_SCORES: dict[str, Score] = {"auroc": auroc, "ap": ap, "mcc": mcc, "brier": brier}
_ALL = SCORES | CLASS_SCORES

#: Scores that are errors: lower is better.
ERRORS = ("rmse", "mae", "brier")
#: Errors that are defined wherever there are rows, with which rows are compared where nothing else is.
ALWAYS_DEFINED = ("rmse", "brier")
#: Scores that look for the best rows, and must know which end is the best.
_OF_THE_TOP = ("ndcg", "recall")


_NAMES = {
    **{"spearman": "Spearman", "pearson": "Pearson", "r2": "R²", "rmse": "RMSE", "mae": "mean absolute error"},
    **{"ndcg": "NDCG", "recall": "recall of the best tenth", "auroc": "AUROC", "ap": "average precision"},
    **{"mcc": "Matthews correlation", "brier": "Brier score"},
}


def name_score(name: str) -> str:
    """The score's name for people."""
    return _NAMES.get(name, name)


def known_scores(names: Iterable[str] | None, *, classes: bool) -> list[str]:
    """The scores that are asked for, by default all, and the one that is always defined.

    Raises
    ------
    ValueError
        If a name is not a score of this kind of head.
    """
    known = CLASS_SCORES if classes else SCORES
    chosen = list(known if names is None else names)
    if not chosen or any(name not in known for name in chosen):
        heads = "classifiers" if classes else "regressors"
        raise ValueError(f"scores of {heads} must be one or several of {', '.join(known)}, got {chosen}")
    return list(dict.fromkeys([*chosen, "brier" if classes else "rmse"]))


def score_function(name: str, higher_is_better: bool) -> Score:
    """A score, for a target with high or low values wanted."""
    function = _ALL[name]
    if higher_is_better or name not in _OF_THE_TOP:
        return function
    return lambda measured, predicted: function(-np.asarray(measured), -np.asarray(predicted))


def make_scorer_of(name: str, higher_is_better: bool, *, keep_sign: bool = True) -> Callable[..., float]:
    """A scikit-learn scorer. An error keeps its sign, as `compare` wants it, or is negated, as a search wants it."""
    scorer: Callable[..., float] = make_scorer(
        score_function(name, higher_is_better),
        greater_is_better=keep_sign or name not in ERRORS,
        response_method="predict_proba" if name in CLASS_SCORES else "predict",
    )
    return scorer
