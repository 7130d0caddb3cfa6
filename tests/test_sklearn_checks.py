"""scikit-learn's own checks.

For transformers of strings `check_estimator` runs next to nothing, so a green run proves little. Here the estimators
are made to read numbers: a child class turns each row of the checks' numeric X into a sequence, and every check that
scikit-learn has for such a transformer is run by its name.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import validate_data

import skesm
from skesm.features.base import _ESM2Estimator
from skesm.features.common.transformer import SequenceTransformer
from skesm.sequences.alphabet import AMINO_ACIDS

#: What scikit-learn yields for any transformer of a numeric table.
YIELDED = (
    "check_array_api_input",
    "check_complex_data",
    "check_dict_unchanged",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimator_sparse_tag",
    "check_estimator_tags_renamed",
    "check_estimators_dtypes",
    "check_estimators_empty_data_messages",
    "check_estimators_fit_returns_self",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit1d",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_get_params_invariance",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_mixin_order",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_set_params",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_n_iter",
    "check_valid_tag_types",
)
#: And further for those that may be used at once, and for those that must be fitted.
YIELDED_TO_STATELESS = ("check_transformers_unfitted_stateless",)
YIELDED_TO_FITTED = ("check_transformers_unfitted", "check_estimators_unfitted")

#: Run by scikit-learn on its own estimators, but not yielded to others.
NOT_YIELDED = (
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_param_validation",
    "check_inplace_ensure_writeable",
)

#: Checks among these that do not apply, and why.
EXCLUDED = {
    "check_array_api_input": "is about arrays of other libraries on other devices; strings have none",
    "check_transformer_get_feature_names_out": "asserts that names are refused when input_features has another length "
    "than n_features_in_; names here come from the model, and input_features is ignored as documented",
    "check_transformer_get_feature_names_out_pandas": "asserts the same of feature_names_in_",
    "check_inplace_ensure_writeable": "is about transformers that write into X; strings cannot be changed",
}


class _ReadsNumbers:
    """Makes an estimator of sequences read a table of numbers: a row becomes a sequence, a number a residue."""

    def _sequences(self, X: Any, *, reset: bool) -> Any:
        table: NDArray[Any] = validate_data(self, X, reset=reset, dtype=np.float64)
        codes = np.floor(np.abs(table) * 5).astype(np.int64) % len(AMINO_ACIDS)
        sequences = ["".join(AMINO_ACIDS[code] for code in row) for row in codes]
        return pd.Series(sequences, index=X.index) if isinstance(X, pd.DataFrame) else sequences

    def fit(self, X: Any, y: Any = None) -> Self:
        return super().fit(self._sequences(X, reset=True), y)  # type: ignore[misc,no-any-return]

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        return super().fit_transform(self._sequences(X, reset=True), y)  # type: ignore[misc]

    def transform(self, X: Any) -> Any:
        return super().transform(self._sequences(X, reset=False))  # type: ignore[misc]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        tags.input_tags.string = False
        return tags


def _reading_numbers(own: Any) -> Any:
    """The child of an estimator that reads numbers. It can be pickled, because it is in this module."""
    name = f"Number{own.__name__}"
    globals()[name] = type(name, (_ReadsNumbers, own), {"__module__": __name__, "__doc__": "Reads numbers."})
    return globals()[name]


def _yielded(own: Any) -> set[str]:
    """Names of the checks that scikit-learn yields for the child of an estimator."""
    return {*YIELDED, *(YIELDED_TO_FITTED if get_tags(own()).requires_fit else YIELDED_TO_STATELESS)}


#: The transformers of the package, but `ESM2VariantScorer`: it is a regressor, and compares with a reference.
OWN: list[Any] = [
    own
    for own in (getattr(skesm, name) for name in skesm.__all__)
    if isinstance(own, type) and issubclass(own, SequenceTransformer) and own is not skesm.ESM2VariantScorer
]
#: Each that reads numbers, with the estimator that it is, and what scikit-learn yields for it.
KINDS: dict[Any, tuple[Any, set[str]]] = {_reading_numbers(own): (own, _yielded(own)) for own in OWN}


def make(kind: Any, checkpoint: Path) -> Any:
    """An estimator of a kind, on a small model if it has one."""
    return kind(str(checkpoint)) if issubclass(kind, _ESM2Estimator) else kind()


TO_RUN = {kind: sorted((yielded | set(NOT_YIELDED)) - set(EXCLUDED)) for kind, (_, yielded) in KINDS.items()}


def name_of(check: Any) -> str:
    return str(getattr(check, "func", check).__name__)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, id=f"{name}-{kind.__name__}")
        for name in sorted({name for names in TO_RUN.values() for name in names})
        for kind in KINDS
        if name in TO_RUN[kind]
    ],
)
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # checks fit tables, transform arrays
def test_check(name: str, kind: Any, tiny_checkpoint: Path) -> None:
    check = getattr(estimator_checks, name)
    variants = [{}, {"readonly_memmap": True}] if "readonly_memmap" in inspect.signature(check).parameters else [{}]
    for variant in variants:
        check(kind.__name__, clone(make(kind, tiny_checkpoint)), **variant)


def test_the_list_is_what_scikit_learn_has(tiny_checkpoint: Path) -> None:
    """A scikit-learn with a new check for such transformers fails here: run it, or say why not."""
    for kind, (_, expected) in KINDS.items():
        yielded = {name_of(check) for _, check in estimator_checks_generator(make(kind, tiny_checkpoint))}
        assert yielded == expected
    assert len(TO_RUN) >= 9
    assert {len(names) - get_tags(kind()).requires_fit for kind, names in TO_RUN.items()} == {48}
    assert set(EXCLUDED) <= {*YIELDED, *NOT_YIELDED}


def test_the_adapter_computes_what_the_estimator_does(tiny_checkpoint: Path) -> None:
    """Were the adapter to answer by itself, the checks would prove nothing."""
    X = np.array([[0.0, 0.2, 0.4], [1.0, 2.2, 3.0]])
    sequences = ["LAG", "EKY"]
    for kind, (own, _) in KINDS.items():
        assert kind()._sequences(X, reset=True) == sequences
        expected = make(own, tiny_checkpoint).fit_transform(sequences)
        np.testing.assert_array_equal(make(kind, tiny_checkpoint).fit_transform(X), expected)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", SkipTestWarning)  # it says that next to nothing is run: see above
    as_they_are = parametrize_with_checks([own() for own, _ in KINDS.values()])


@as_they_are
def test_as_they_are(estimator: Any, check: Any) -> None:
    check(estimator)
