"""The methods that every transformer of sequences has, with a protein model or without one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils import Tags

from skesm._typing import Column
from skesm.outputs.types import FloatArray


class SequenceTransformer(TransformerMixin, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """``fit``, ``transform`` and names of columns. A child checks X, learns, computes, and names."""

    @abstractmethod
    def _fit(self, X: Column) -> None:
        """Check the parameters and X, and learn."""

    @abstractmethod
    def _transform(self, X: Column, *, learn: bool = False) -> FloatArray:
        """Check the parameters and X, learn if asked to, and compute the columns."""

    @abstractmethod
    def _names(self) -> Sequence[str]:
        """Check the parameters, and name the columns."""

    def _learn(self, sequences: Sequence[str]) -> None:
        """Learn from clean sequences. Most transformers learn nothing."""

    def fit(self, X: Column, y: object = None) -> Self:
        """Check the parameters and X. No model is loaded. Most estimators learn nothing here.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        InvalidSequenceError
            If X is not a column of sequences. The message lists the first rows that are not.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Column, y: object = None) -> FloatArray:
        """Do the same as ``fit`` and ``transform``, but check X only once.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences.
        y : ignored

        Returns
        -------
        features : ndarray of shape (n, n_features), float32
        """
        return self._transform(X, learn=True)

    def transform(self, X: Column) -> FloatArray:
        """Compute the features of sequences, in the order of the rows of X.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences. White space at the ends is removed. Lower case becomes upper case.

        Returns
        -------
        features : ndarray of shape (n, n_features), float32
            A DataFrame after ``set_output(transform="pandas")`` or ``"polars"``.

        Raises
        ------
        InvalidSequenceError
            If X is not a column of sequences, or rows do not fit the reference or the columns. The message lists the
            first such rows. Nothing was computed.
        NotFittedError
            If the estimator learns something in ``fit``, and ``fit`` was not called.
        CheckpointNotFoundError
            If the model is not on this machine and cannot be fetched. Encoders need no model.
        PartialResultError
            If the backend failed on some rows, after all others were finished. Its `results` are the features, with NaN
            in the failed rows. ``on_error="nan"`` warns instead.
        BackendError
            If the backend fails or answers wrongly. With `memory`, finished sequences are stored.
        """
        return self._transform(X)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the names of the columns of ``transform``. No weights are loaded.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        names : ndarray of shape (n_features,), object
        """
        return np.asarray(self._names(), dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags
