"""Features that were computed once, for all folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import Tags, check_array, get_tags

from skesm._typing import Column, Estimator


class ComputedFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Looks up the features of sequences that a transformer has computed before.

    It stands in a pipeline for a transformer that learns nothing. The features of a sequence depend on this sequence
    alone, so that computing them before the split leaks nothing.
    """

    def __init__(self, transformer: Estimator, row_of: dict[str, int], matrix: np.ndarray, n_columns: int) -> None:
        self.transformer = transformer
        self.row_of = row_of
        self.matrix = matrix
        self.n_columns = n_columns  # of the transformer: the matrix has only those that vary

    def __sklearn_clone__(self) -> Self:
        # Folds run in threads, and scikit-learn sets attributes on a step while it fits: each fold needs an object of
        # its own. They share the matrix, which can be large.
        return type(self)(self.transformer, self.row_of, self.matrix, self.n_columns)

    def fit(self, X: Column, y: object = None) -> Self:
        """Do nothing."""
        return self

    def transform(self, X: Sequence[str]) -> np.ndarray:
        """Features of sequences that were computed."""
        return self.matrix[[self.row_of[sequence] for sequence in X]]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def compute_once(name: str, transformer: Estimator, sequences: Sequence[str]) -> Estimator:
    """The transformer, with every part that learns nothing replaced by its features of the sequences.

    The parts of a FeatureUnion are replaced one by one. Parts that learn from data stay as they are: each fold fits
    them.
    """
    if isinstance(transformer, FeatureUnion):
        parts = [(part, compute_once(name, inner, sequences)) for part, inner in transformer.transformer_list]
        return FeatureUnion(parts, transformer_weights=transformer.transformer_weights)
    if isinstance(transformer, Pipeline) or get_tags(transformer).requires_fit:
        return clone(transformer)
    distinct = list(dict.fromkeys(sequences))
    matrix = check_array(transformer.transform(distinct), dtype=(np.float64, np.float32))
    if len(matrix) != len(distinct):
        raise ValueError(f"features {name!r}: {len(matrix)} rows for {len(distinct)} sequences")
    row_of = {sequence: row for row, sequence in enumerate(distinct)}
    return ComputedFeatures(transformer, row_of, _without_constants(matrix), matrix.shape[1])


def count_columns(transformer: Estimator, X: Sequence[str] | np.ndarray) -> int:
    """Columns that a fitted transformer gives, constant ones included."""
    if isinstance(transformer, FeatureUnion):
        return sum(count_columns(part, X) for _, part in transformer.transformer_list)
    if isinstance(transformer, ComputedFeatures):
        return transformer.n_columns
    return int(transformer.transform(X[:1]).shape[1])


def count_passes(transformer: Estimator) -> int:
    """Sequences that went through a model to compute a transformer's features."""
    if isinstance(transformer, FeatureUnion):
        return sum(count_passes(part) for _, part in transformer.transformer_list)
    if not isinstance(transformer, ComputedFeatures) or not hasattr(transformer.transformer, "cache_info"):
        return 0
    info = transformer.transformer.cache_info()
    return 0 if info is None else int(info.computed)


def _without_constants(matrix: np.ndarray) -> np.ndarray:
    """Only columns that vary: one that is constant over all rows is constant in every fold, and costs time."""
    varies = np.ptp(matrix, axis=0) > 0
    varies[:1] |= not varies.any()  # regressors want a column, even one that says nothing
    return matrix[:, varies]
