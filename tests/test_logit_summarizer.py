"""Summaries of logits against their definition, with the logits of transformers. The contract is in test_embedder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skesm import ESM2LogitSummarizer
from skesm.features.common.summaries import STATISTICS

SEQUENCES = ["MKTAYIAKQR", "W", "GSH<mask>SLF", "MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWY" * 10]


@pytest.fixture(scope="module")
def logits(tiny_checkpoint: Path) -> list[NDArray[Any]]:
    """Logits of each of SEQUENCES from transformers, float64, of shape (L, 33)."""
    import torch
    from transformers import EsmForMaskedLM

    from skesm.esm2.tokenizer import tokenize

    model = EsmForMaskedLM.from_pretrained(tiny_checkpoint).eval()
    with torch.no_grad():
        return [
            model(torch.from_numpy(tokenize(s).astype(np.int64))[None]).logits[0, 1:-1].double().numpy()
            for s in SEQUENCES
        ]


def test_definition(tiny_checkpoint: Path, logits: list[NDArray[Any]]) -> None:
    assert [len(x) for x in logits] == [10, 1, 7, 10, 200]
    means = [x.mean(axis=1) for x in logits]
    rows = ESM2LogitSummarizer(tiny_checkpoint).transform(SEQUENCES)
    assert rows.shape == (5, 2)
    np.testing.assert_allclose(rows[:, 0], [m.mean() for m in means], rtol=0, atol=1e-5)
    # A sum of L values, each within 1e-5, the promise for logits.
    for value, m in zip(rows[:, 1], means, strict=True):
        assert value == pytest.approx(m.sum(), abs=1e-5 * len(m))


@pytest.mark.parametrize(
    ("statistics", "names"),
    [
        ("mean", ["logit_mean"]),
        ("sum", ["logit_sum"]),
        (("sum", "mean"), ["logit_sum", "logit_mean"]),
        (["mean"], ["logit_mean"]),
        (np.array(["mean", "sum"]), ["logit_mean", "logit_sum"]),
    ],
)
def test_columns_are_those_asked_for_in_that_order(statistics: Any, names: list[str], tiny_checkpoint: Path) -> None:
    all_of_them = ESM2LogitSummarizer(tiny_checkpoint, statistics=list(STATISTICS))
    every = dict(zip(all_of_them.get_feature_names_out(), all_of_them.transform(SEQUENCES).T, strict=True))
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics)
    assert summarizer.get_feature_names_out().tolist() == names
    rows = summarizer.transform(SEQUENCES)
    np.testing.assert_array_equal(rows, np.stack([every[name] for name in names], axis=1))


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ("median", "'statistics' parameter"),
        (3, "'statistics' parameter"),
        (None, "'statistics' parameter"),
        ([], "statistics must be one or several of mean, sum"),
        (["mean", "median"], "statistics must be one or several of mean, sum"),
        ([["mean"]], "statistics must be one or several of mean, sum"),
        (["mean", "mean"], "names the same column twice"),
    ],
)
def test_wrong_statistics(statistics: Any, message: str, tiny_checkpoint: Path) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics)
    for method in (summarizer.fit, summarizer.transform, summarizer.get_feature_names_out):
        with pytest.raises(ValueError, match=message):
            method(SEQUENCES)


def test_features_do_not_depend_on_the_other_rows(tiny_checkpoint: Path, proteins: list[str]) -> None:
    summarizer = ESM2LogitSummarizer(tiny_checkpoint)
    rows = summarizer.transform(proteins)
    np.testing.assert_array_equal(summarizer.transform(proteins[::-1]), rows[::-1])
    np.testing.assert_array_equal(np.vstack([summarizer.transform([p]) for p in proteins[:20]]), rows[:20])
    np.testing.assert_array_equal(summarizer.set_params(n_jobs=2).transform(proteins), rows)
