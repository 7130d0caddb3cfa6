"""What a child of the base class must say, and what it gets for it."""

from __future__ import annotations

import inspect
import itertools
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.pipeline import make_union

import skesm
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import PartialResultError, PartialResultWarning
from skesm.features.base import _ESM2Transformer
from skesm.features.recipe import Recipe
from skesm.features.variant_scorer import STRATEGIES
from skesm.outputs.spec import OutputSpec

REFERENCE = "MKTAYIAKQR"
VARIANTS = ["MKTAYIAKQR", "MKTWYIAKQR", "MKTWYIAKQG", "MKTWYIAKQR"]

ESTIMATORS = [
    getattr(skesm, name) for name in skesm.__all__ if name.startswith("ESM2") and isinstance(getattr(skesm, name), type)
]


class NormEmbedder(_ESM2Transformer):
    """Protein sequences to the length of their mean representation.

    Parameters
    ----------
    {model}
    {shared}
    """

    def _recipe(self, spec: ModelSpec) -> Recipe:
        mean = OutputSpec("mean", spec.n_layers)
        return Recipe(["norm"], [mean], lambda sequence, record: np.linalg.norm(record[mean], keepdims=True))


def test_a_new_estimator_is_short_and_complete(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert len(inspect.getsource(NormEmbedder).splitlines()) <= 40
    estimator = NormEmbedder(tiny_checkpoint, memory=tmp_path, prefetch="logits").set_output(transform="pandas")
    assert estimator.plan(VARIANTS).to_compute == 3
    frame = estimator.fit_transform(VARIANTS)
    assert frame.columns.tolist() == ["norm"]
    means = skesm.ESM2Embedder(tiny_checkpoint).transform(VARIANTS)
    np.testing.assert_allclose(frame["norm"], np.linalg.norm(means, axis=1), rtol=1e-6)
    assert estimator.plan(VARIANTS).to_compute == 0
    short, long = (NormEmbedder(tiny_checkpoint, long_sequences="window", max_length=n) for n in (10, 6))
    assert (short.plan(VARIANTS).windowed, long.plan(VARIANTS).windowed) == (0, 4)


class WideEstimator(NormEmbedder):
    """Rows so wide that nothing else counts.

    Parameters
    ----------
    {model}
    {shared}
    """

    def _recipe(self, spec: ModelSpec) -> Recipe:
        mean = OutputSpec("mean", spec.n_layers)
        row = np.ones(10_000, dtype=np.float32)
        return Recipe([f"c{i}" for i in range(len(row))], [mean], lambda sequence, record: row + record[mean][0])


def test_a_transform_holds_its_result_once(tiny_checkpoint: Path) -> None:
    X = ["".join(pair) for pair in itertools.product("ACDEFGHIKLMNPQRSTVWY", repeat=2)]
    estimator = WideEstimator(tiny_checkpoint)
    estimator.transform(X[:2])
    tracemalloc.start()
    try:
        features = estimator.transform(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * features.nbytes


def test_a_row_of_another_width_is_an_error(tiny_checkpoint: Path) -> None:
    class Narrow(NormEmbedder):
        def _recipe(self, spec: ModelSpec) -> Recipe:
            return replace(super()._recipe(spec), columns=["norm", "another"])

    with pytest.raises(ValueError, match="size 1 into shape"):
        Narrow(tiny_checkpoint).transform(["MKT"])


@pytest.mark.parametrize("estimator", [*ESTIMATORS, NormEmbedder])
def test_every_parameter_is_documented_once(estimator: type) -> None:
    doc = inspect.getdoc(estimator)
    assert doc is not None
    parameters = doc[doc.index("Parameters\n") :].split("\n\n")[0]
    documented = re.findall(r"^(\w+) : ", parameters, re.MULTILINE)
    assert sorted(documented) == sorted(inspect.signature(estimator).parameters)
    assert "{shared}" not in doc
    assert "{model}" not in doc


# the scorer as a transformer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_score_is_a_column(strategy: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": strategy, "reference": REFERENCE, "memory": tmp_path}
    scorer = skesm.ESM2VariantScorer(tiny_checkpoint, **options)
    plan = scorer.plan(VARIANTS)
    column = scorer.transform(VARIANTS)
    info = scorer.cache_info()
    assert info is not None
    # a variant with its mutated residue masked is a masked copy of the reference too: the plan counts it once
    assert (plan.distinct, plan.to_compute) == (info.distinct - (strategy == "pll_ratio"), info.computed)
    assert (column.dtype, column.shape) == (np.float32, (4, 1))
    np.testing.assert_array_equal(column[:, 0], scorer.predict(VARIANTS).astype(np.float32))
    assert scorer.get_feature_names_out().tolist() == [strategy]
    assert scorer.plan(VARIANTS).to_compute == 0


def test_scores_stand_beside_embeddings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"model": tiny_checkpoint, "memory": tmp_path, "reference": REFERENCE}
    scorer = skesm.ESM2VariantScorer(strategy="mutant_marginal", prefetch="mean@-1", **shared)
    embedder = skesm.ESM2Embedder(prefetch="logits", **shared)
    union = make_union(scorer, embedder)
    features = union.fit_transform(VARIANTS)
    assert features.shape == (4, 41)
    assert union.get_feature_names_out()[0] == "esm2variantscorer__mutant_marginal"
    info = embedder.cache_info()
    assert info is None or info.computed == 0, "the scorer's passes served the embedder"


# outputs as they are --------------------------------------------------------------------------------------------------


def test_outputs_of_rows_that_fail_are_none(tiny_checkpoint: Path, refusing: Any) -> None:
    X = ["MKT", "MKW", "MKTAY"]
    with pytest.raises(PartialResultError) as caught:
        skesm.compute_outputs(X, "mean@-1", tiny_checkpoint, backend=refusing)
    failed = sorted(caught.value.causes)
    assert failed
    with pytest.warns(PartialResultWarning):
        records = skesm.compute_outputs(X, "mean@-1", tiny_checkpoint, backend=refusing, on_error="nan")
    assert [row for row, record in enumerate(records) if record is None] == failed
