"""Heads of scikit-learn that also fit few rows, or many."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from skesm._typing import Estimator

#: Rows of a Gaussian process by which its kernel is tuned. Each step takes n³ operations: 1,000 rows of 307 columns are
#: tuned in 3 s, 2,000 rows in 21 s, and 4,000 would take minutes and 2 GB.
MOST_TUNED = 1000


class _FewNeighbours:
    """Nearest neighbours that take all rows where there are fewer than they are asked for, as with 8 training rows."""

    n_neighbors: int
    n_samples_fit_: int

    def kneighbors(self, X: object = None, n_neighbors: int | None = None, return_distance: bool = True) -> Estimator:
        """Distances and numbers of the nearest training rows."""
        asked = self.n_neighbors if n_neighbors is None else n_neighbors
        neighbours: Estimator = super()
        return neighbours.kneighbors(X, min(asked, self.n_samples_fit_ - (X is None)), return_distance)


class NeighboursRegressor(_FewNeighbours, KNeighborsRegressor):  # type: ignore[misc]  # scikit-learn is untyped
    """Mean of the nearest training rows."""


class NeighboursClassifier(_FewNeighbours, KNeighborsClassifier):  # type: ignore[misc]  # scikit-learn is untyped
    """Classes of the nearest training rows."""


class GaussianProcess(GaussianProcessRegressor):  # type: ignore[misc]  # scikit-learn is untyped
    """A Gaussian process of all rows, whose kernel is tuned on a draw of them if there are many."""

    def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> Self:
        """Tune the kernel, and fit all rows with it."""
        if len(X) <= MOST_TUNED:
            return self._fit(X, y)
        drawn = np.sort(np.random.default_rng(self.random_state).choice(len(X), MOST_TUNED, replace=False))
        parameters = self.get_params(deep=False)
        tuned = GaussianProcessRegressor(**parameters).fit(X[drawn], y[drawn])
        try:
            self.set_params(kernel=tuned.kernel_, optimizer=None)
            return self._fit(X, y)
        finally:
            self.set_params(**parameters)

    def _fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> Self:
        super().fit(X, y)
        return self
