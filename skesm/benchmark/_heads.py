"""Regressors by name, tuned inside each fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import ElasticNetCV, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from skesm._optional import import_optional

HEADS = ("ridge", "elastic-net", "svr", "random-forest", "xgboost", "knn", "gp")

#: After a StandardScaler the squares of n rows and p columns sum to n p. Penalties of 1e-2 to 1e8 hold every useful
#: share of that sum for 10 to 10,000 rows and 10 to 10,000 columns, whatever the units of the features were.
RIDGE_PENALTIES = np.logspace(-2, 8, 41)


def make_heads(names: Iterable[str] = HEADS, *, random_state: int = 0) -> dict[str, Any]:
    """Regressors by name, ready for `compare`; each begins with a `StandardScaler`.

    =================  ===============================================================================================
    name               regressor, and what is tuned on the training rows of each fold
    =================  ===============================================================================================
    ``ridge``          ridge regression; the penalty, of 1e-2 to 1e8, by leave-one-out. The scaler makes this range
                       independent of the features' units.
    ``elastic-net``    elastic net; penalty and share of L1, by 5 folds
    ``svr``            support vector machine, RBF kernel; C of 0.3, 1, 3 and 10, by 3 folds. The target is scaled.
    ``random-forest``  300 trees
    ``xgboost``        300 trees of depth 4, rate 0.05, on one thread, so that sums are taken in one order
    ``knn``            nearest neighbours, weighted by distance; 3, 5, 10 or 20, by 5 folds
    ``gp``             Gaussian process, RBF kernel and noise, by marginal likelihood; for at most a few thousand rows
    =================  ===============================================================================================

    Parameters
    ----------
    names : iterable of str, default=all
        Names of the table above.
    random_state : int, default=0
        Seed of what draws at random. `compare` sets it anew for each of its seeds.

    Returns
    -------
    heads : dict of str to estimator

    Raises
    ------
    ValueError
        If a name is unknown.
    MissingDependencyError
        If ``xgboost`` is asked for and not installed.

    Examples
    --------
    >>> from skesm.benchmark import make_heads
    >>> list(make_heads(["ridge", "svr"]))
    ['ridge', 'svr']
    """
    names = list(names)
    unknown = [name for name in names if name not in HEADS]
    if unknown:
        raise ValueError(f"head {unknown[0]!r} is unknown; choose from {', '.join(HEADS)}")
    return {name: make_pipeline(StandardScaler(), _head(name, random_state)) for name in names}


def _head(name: str, random_state: int) -> Any:
    if name == "ridge":
        return RidgeCV(alphas=RIDGE_PENALTIES)
    if name == "elastic-net":
        return ElasticNetCV(l1_ratio=[0.1, 0.5, 0.9], cv=5, max_iter=5000, random_state=random_state)
    if name == "svr":
        return _scaled_target(GridSearchCV(SVR(), {"C": [0.3, 1, 3, 10]}, cv=3))
    if name == "random-forest":
        return RandomForestRegressor(300, min_samples_leaf=2, max_features=0.3, random_state=random_state)
    if name == "xgboost":
        return import_optional("xgboost", "benchmark").XGBRegressor(
            n_estimators=300,
            learning_rate=0.05,
            max_depth=4,
            subsample=0.8,
            colsample_bytree=0.5,
            tree_method="hist",
            n_jobs=1,
            random_state=random_state,
        )
    if name == "knn":
        return GridSearchCV(KNeighborsRegressor(weights="distance"), {"n_neighbors": [3, 5, 10, 20]}, cv=5)
    kernel = ConstantKernel(1.0) * RBF(10.0, (1e-1, 1e4)) + WhiteKernel(0.5, (1e-4, 1e2))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=random_state)


def _scaled_target(regressor: Any) -> Any:
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


def seeded(estimator: Any, seed: int) -> Any:
    """The estimator with every ``random_state`` that it has set to the seed."""
    parameters: Mapping[str, Any] = estimator.get_params(deep=True)
    names = [name for name in parameters if name == "random_state" or name.endswith("__random_state")]
    return estimator.set_params(**dict.fromkeys(names, seed)) if names else estimator
