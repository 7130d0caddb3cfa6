"""Predictions of a fitted pipeline for candidates: a value, a deviation where it knows one, and a score to rank by."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import BaggingRegressor, ExtraTreesRegressor, RandomForestRegressor
from sklearn.pipeline import FeatureUnion, Pipeline

from skesm._typing import Estimator

#: Ensembles of regressors that each predict the value. Members of boosted ensembles predict corrections.
_ENSEMBLES = (BaggingRegressor, ExtraTreesRegressor, RandomForestRegressor)

STRATEGIES = ("greedy", "ucb", "thompson")

_Values = NDArray[np.float64]


def check_deviation(pipeline: Estimator) -> None:
    """Raise ValueError unless the regressor gives a deviation."""
    regressor = _regressor(pipeline)
    if not (_takes_return_std(regressor) or isinstance(regressor, _ENSEMBLES)):
        raise ValueError(
            f"{type(regressor).__name__} gives no deviation, which 'ucb' and 'thompson' need. Fit a "
            "GaussianProcessRegressor, BayesianRidge, ARDRegression, RandomForestRegressor or BaggingRegressor, or "
            "choose strategy='greedy'"
        )


def predict(pipeline: Estimator, sequences: list[str], *, deviation: bool) -> tuple[_Values, _Values | None]:
    """Predicted values, and deviations where they are asked for."""
    regressor = _regressor(pipeline)
    if not deviation:
        return _flat(pipeline.predict(sequences)), None
    if _takes_return_std(regressor):
        mean, std = pipeline.predict(sequences, return_std=True)
        return _flat(mean), _flat(std)
    features: Any = pipeline[:-1].transform(sequences) if isinstance(pipeline, Pipeline) else sequences
    columns = getattr(regressor, "estimators_features_", None)  # of a BaggingRegressor
    each = [
        _flat(member.predict(features if columns is None else features[:, columns[place]]))
        for place, member in enumerate(np.ravel(regressor.estimators_))
    ]
    return _flat(regressor.predict(features)), np.std(each, axis=0)


def score(
    strategy: str, mean: _Values, std: _Values | None, *, sign: float, beta: float, rng: np.random.Generator
) -> _Values:
    """The score that ranks candidates: the higher, the better."""
    if strategy == "greedy" or std is None:
        return sign * mean
    if strategy == "ucb":
        return sign * mean + beta * std
    return sign * mean + std * rng.standard_normal(len(mean))


def planners(step: Estimator) -> Iterator[Estimator]:
    """The transformers of a pipeline that can plan their costs."""
    if isinstance(step, Pipeline):
        for _, inner in step.steps:
            yield from planners(inner)
    elif isinstance(step, FeatureUnion):
        for _, inner in step.transformer_list:
            yield from planners(inner)
    elif callable(getattr(step, "plan", None)):
        yield step


def _regressor(pipeline: Estimator) -> Estimator:
    return pipeline.steps[-1][1] if isinstance(pipeline, Pipeline) else pipeline


def _takes_return_std(regressor: Estimator) -> bool:
    return "return_std" in inspect.signature(regressor.predict).parameters


def _flat(values: ArrayLike) -> _Values:
    flat: _Values = np.asarray(values, dtype=np.float64).reshape(-1)
    return flat
