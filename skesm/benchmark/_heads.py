"""Regressors and classifiers by name, tuned inside each fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from sklearn.base import is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import ElasticNetCV, LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from skesm._optional import import_optional
from skesm._typing import Estimator, Options
from skesm.benchmark._sized_heads import GaussianProcess, NeighboursClassifier, NeighboursRegressor

#: After a StandardScaler the squares of n rows and p columns sum to n p. Penalties of 1e-2 to 1e8 hold every useful
#: share of that sum for 10 to 10,000 rows and 10 to 10,000 columns, whatever the units of the features were.
RIDGE_PENALTIES = np.logspace(-2, 8, 41)

#: Training rows that each class needs: classifiers are tuned by as many stratified folds.
LEAST_OF_CLASS = 3
#: Inverse penalties of the logistic regression, for the same sizes.
_LOGISTIC = {"C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}
#: Defined for a fold of a single row too, as R² is not.
_ERROR = "neg_mean_squared_error"
_NEIGHBOURS = {"n_neighbors": [3, 5, 10, 20]}
_FOREST: Options = {"n_estimators": 300, "min_samples_leaf": 2, "max_features": 0.3}
_BOOSTING: Options = {
    **{"n_estimators": 300, "learning_rate": 0.05, "max_depth": 4, "subsample": 0.8, "colsample_bytree": 0.5},
    **{"tree_method": "hist", "n_jobs": 1},
}


def make_heads(names: Iterable[str] | None = None, *, random_state: int = 0) -> dict[str, Estimator]:
    """Make regressors or classifiers by name, ready for `compare`. Each begins with a `StandardScaler`.

    ============================  ====================================================================================
    name                          regressor, with the settings that are tuned on the training rows of each fold
    ============================  ====================================================================================
    ``ridge``                     ridge regression: the penalty, of 1e-2 to 1e8, by leave-one-out. The scaler makes
                                  this range independent of the features' units.
    ``elastic-net``               elastic net: penalty and share of L1, by 5 folds
    ``svr``                       support vector machine, RBF kernel: C of 0.3, 1, 3 and 10, by 3 folds. The target is
                                  scaled.
    ``random-forest``             300 trees
    ``xgboost``                   300 trees of depth 4, rate 0.05, on one thread, so that sums are taken in one order
    ``knn``                       nearest neighbours, weighted by distance: 3, 5, 10 or 20, by 5 folds
    ``gp``                        Gaussian process, RBF kernel and noise, by marginal likelihood of at most 1,000 rows.
                                  Its memory and time grow with the square and cube of the rows
    ============================  ====================================================================================

    ============================  ====================================================================================
    name                          classifier of two classes
    ============================  ====================================================================================
    ``logistic``                  logistic regression, L2: C of 1e-4 to 1, by 3 folds
    ``random-forest-classifier``  300 trees
    ``xgboost-classifier``        as ``xgboost``
    ``knn-classifier``            nearest neighbours, weighted by distance: 3, 5, 10 or 20, by 3 folds
    ============================  ====================================================================================

    Parameters
    ----------
    names : iterable of str, default=all regressors
        Names of one of the tables above.
    random_state : int, default=0
        Seed of random draws. `compare` sets it for each of its seeds.

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
    names = list(HEADS if names is None else names)
    unknown = [name for name in names if name not in _MAKERS]
    if unknown:
        raise ValueError(f"head {unknown[0]!r} is unknown. Choose from {', '.join(_MAKERS)}")
    return {name: make_pipeline(StandardScaler(), _MAKERS[name](random_state)) for name in names}


def _xgboost(kind: str, seed: int) -> Estimator:
    return getattr(import_optional("xgboost", "benchmark"), kind)(**_BOOSTING, random_state=seed)


def _gaussian_process(seed: int) -> Estimator:
    kernel = ConstantKernel(1.0) * RBF(10.0, (1e-1, 1e4)) + WhiteKernel(0.5, (1e-4, 1e2))
    return GaussianProcess(kernel, normalize_y=True, random_state=seed)


def _scaled_target(regressor: Estimator) -> Estimator:
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


_REGRESSORS: dict[str, Callable[[int], Estimator]] = {
    "ridge": lambda seed: RidgeCV(alphas=RIDGE_PENALTIES),
    "elastic-net": lambda seed: ElasticNetCV(l1_ratio=[0.1, 0.5, 0.9], cv=5, max_iter=5000, random_state=seed),
    "svr": lambda seed: _scaled_target(GridSearchCV(SVR(), {"C": [0.3, 1, 3, 10]}, cv=3, scoring=_ERROR)),
    "random-forest": lambda seed: RandomForestRegressor(**_FOREST, random_state=seed),
    "xgboost": lambda seed: _xgboost("XGBRegressor", seed),
    "knn": lambda seed: GridSearchCV(NeighboursRegressor(weights="distance"), _NEIGHBOURS, cv=5, scoring=_ERROR),
    "gp": _gaussian_process,
}
_CLASSIFIERS: dict[str, Callable[[int], Estimator]] = {
    "logistic": lambda seed: GridSearchCV(
        LogisticRegression(max_iter=2000), _LOGISTIC, cv=LEAST_OF_CLASS, scoring="neg_brier_score"
    ),
    "random-forest-classifier": lambda seed: RandomForestClassifier(**_FOREST, random_state=seed),
    "xgboost-classifier": lambda seed: _xgboost("XGBClassifier", seed),
    "knn-classifier": lambda seed: GridSearchCV(
        NeighboursClassifier(weights="distance"), _NEIGHBOURS, cv=LEAST_OF_CLASS, scoring="neg_brier_score"
    ),
}
_MAKERS = {**_REGRESSORS, **_CLASSIFIERS}

HEADS = tuple(_REGRESSORS)
CLASSIFIERS = tuple(_CLASSIFIERS)


def predict_classes(heads: Mapping[str, Estimator]) -> bool:
    """Whether the heads are classifiers.

    Raises
    ------
    ValueError
        If some are and some are not, or if one gives no probabilities.
    """
    classifiers = [name for name, head in heads.items() if is_classifier(head)]
    others = [name for name in heads if name not in classifiers]
    if classifiers and others:
        raise ValueError(
            f"{classifiers[0]!r} predicts classes and {others[0]!r} predicts values: no score fits both. Compare "
            "classifiers and regressors in two runs"
        )
    for name in classifiers:
        if not hasattr(heads[name], "predict_proba"):
            raise ValueError(f"head {name!r} gives no probabilities (predict_proba). Wrap it in CalibratedClassifierCV")
    return bool(classifiers)


def seeded(estimator: Estimator, seed: int) -> Estimator:
    """The estimator with every ``random_state`` that it has set to the seed."""
    parameters: Mapping[str, object] = estimator.get_params(deep=True)
    names = [name for name in parameters if name == "random_state" or name.endswith("__random_state")]
    return estimator.set_params(**dict.fromkeys(names, seed)) if names else estimator
