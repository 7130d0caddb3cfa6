"""Statistics of attention, from transformers' attention weights. The contract is in test_embedder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline

from skesm import ESM2AttentionSummarizer, ESM2Embedder
from skesm.cache import info
from skesm.exceptions import TruncationWarning
from skesm.features.attention_summarizer import STATISTICS, received_entropy

N_HEADS, N_LAYERS = 4, 2  # of tiny_checkpoint
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLI", "W", "GSH<mask>SLFDFFK", "ACDEFGHIKLMNPQRSTVWYX"]


@pytest.fixture(scope="module")
def folder(make_checkpoint: Any) -> Path:
    """Weights so large that attention is uneven."""
    return make_checkpoint(N_LAYERS, 40, N_HEADS, config={"initializer_range": 0.2})  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def weights(folder: Path) -> list[NDArray[np.float64]]:
    """Attention weights of SEQUENCES from transformers, (layers, heads, L + 2, L + 2)."""
    import torch
    from transformers import EsmModel

    from skesm.esm2.tokenizer import tokenize

    model = EsmModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    found = []
    for sequence in SEQUENCES:
        tokens = torch.from_numpy(tokenize(sequence).astype(np.int64))[None]
        with torch.no_grad():
            found.append(torch.stack(model(tokens, output_attentions=True).attentions)[:, 0].double().numpy())
    return found


def by_definition(w: NDArray[np.float64], statistic: str) -> list[float]:
    """One number for each head, or one for all; from the weights of a layer, (heads, L + 2, L + 2)."""
    length = w.shape[1] - 2
    residues = range(1, length + 1)
    if statistic.startswith("received"):
        received = np.array([w[:, :, j].mean() for j in residues])
        share = received / received.sum()
        return [received.max() if statistic == "received_max" else -sum(s * np.log(s) for s in share)]
    tokens = range(length + 2)
    term = {
        "entropy": lambda head, i: -sum(head[i, j] * np.log(head[i, j]) for j in tokens),
        "distance": lambda head, i: sum(head[i, j] * abs(i - j) for j in residues),
        "ends": lambda head, i: head[i, 0] + head[i, length + 1],
    }[statistic]
    return [float(np.mean([term(head, i) for i in residues])) for head in w]


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_values_are_those_of_transformers(engine: str, folder: Path, weights: Any) -> None:
    summarizer = ESM2AttentionSummarizer(folder, layers=(-1, 1), statistics=STATISTICS, backend=engine)
    rows = summarizer.transform(SEQUENCES)
    assert rows.dtype == np.float32
    assert rows.shape == (4, 2 * (3 * N_HEADS + 2))
    for row, w in zip(rows, weights, strict=True):
        expected = [value for layer in (2, 1) for name in STATISTICS for value in by_definition(w[layer - 1], name)]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)  # the promise for attention
    assert np.ptp(rows, axis=0).min() > 1e-3, "statistics that are all alike would hide errors"


def test_names(tiny_checkpoint: Path) -> None:
    names = ESM2AttentionSummarizer("esm2_t6_8M_UR50D").get_feature_names_out().tolist()
    assert names[::20] == ["attention_entropy_l6_h0", "attention_distance_l6_h0", "attention_ends_l6_h0"]
    assert (len(names), names[-1]) == (60, "attention_ends_l6_h19")
    several = ESM2AttentionSummarizer(tiny_checkpoint, layers=[2, 1], statistics=["received_entropy", "ends"])
    names = several.get_feature_names_out().tolist()
    assert names[::5] == ["attention_received_entropy_l2", "attention_received_entropy_l1"]
    assert names[1:5] == [f"attention_ends_l2_h{head}" for head in range(4)]


def test_several_settings_are_single_ones_side_by_side(folder: Path) -> None:
    together = ESM2AttentionSummarizer(folder, layers=[2, 1], statistics=["received_max", "distance"])
    single = [
        ESM2AttentionSummarizer(folder, layers=layer, statistics=name).transform(SEQUENCES)
        for layer in (2, 1)
        for name in ("received_max", "distance")
    ]
    np.testing.assert_array_equal(together.transform(SEQUENCES), np.hstack(single))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layers": 0}, "layer 0 is the embedding, which has no attention. Choose layers from 1 to 2"),
        ({"layers": [1, -3]}, "layer 0 is the embedding, which has no attention"),
        ({"layers": 3}, "layer 3 does not exist"),
        ({"layers": []}, "layers must be one or several whole numbers"),
        ({"layers": [True]}, "layers must be one or several whole numbers"),
        ({"layers": [2, -1]}, "names the same columns twice"),
        ({"layers": "last"}, "'layers' parameter"),
        ({"statistics": "mean"}, "'statistics' parameter"),
        (
            {"statistics": ["ends", "mean"]},
            "must be one or several of entropy, distance, ends, received_max",
        ),
        ({"statistics": ["ends", "ends"]}, "names the same columns twice"),
        ({"long_sequences": "window"}, "'long_sequences' parameter"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str, tiny_checkpoint: Path) -> None:
    summarizer = ESM2AttentionSummarizer(tiny_checkpoint, **params)
    for method in (summarizer.fit, summarizer.transform, summarizer.get_feature_names_out):
        with pytest.raises(ValueError, match=message):
            method(SEQUENCES)


@pytest.mark.parametrize(
    ("received", "entropy"),
    [([0.3], 0), ([0.1, 0.1, 0.1, 0.1], np.log(4)), ([0.5, 0.0], 0), ([0, 0, 0], 0), ([1e-30, 1e-30], np.log(2))],
)
def test_entropy_of_what_is_received(received: list[float], entropy: float) -> None:
    assert received_entropy(np.array(received, dtype=np.float64)) == pytest.approx(entropy, abs=1e-12)


def test_one_pass_serves_layers_statistics_and_the_embedder(folder: Path, tmp_path: Path) -> None:
    union = FeatureUnion(
        [
            ("embedder", ESM2Embedder(folder, memory=tmp_path, prefetch=("attention_heads@*", "attention_received@2"))),
            ("heads", ESM2AttentionSummarizer(folder, memory=tmp_path, layers=[1, 2])),
            ("received", ESM2AttentionSummarizer(folder, memory=tmp_path, statistics="received_max")),
        ]
    )
    union.fit_transform([*SEQUENCES, "W"])
    costs = [part.cache_info() for _, part in union.transformer_list]
    assert [(cost.rows, cost.hits, cost.computed) for cost in costs] == [(5, 0, 4), (5, 4, 0), (5, 4, 0)]
    (stored,) = info(tmp_path)
    assert not {name for name in stored.outputs if name.startswith("attentions")}


def test_values_do_not_depend_on_the_other_rows(tiny_checkpoint: Path, proteins: list[str]) -> None:
    summarizer = ESM2AttentionSummarizer(tiny_checkpoint, statistics=STATISTICS, backend="numpy")
    rows = summarizer.transform(proteins)
    np.testing.assert_array_equal(summarizer.transform(proteins[::-1]), rows[::-1])
    np.testing.assert_array_equal(np.vstack([summarizer.transform([p]) for p in proteins[:10]]), rows[:10])


def test_truncation(tiny_checkpoint: Path) -> None:
    summarizer = ESM2AttentionSummarizer(tiny_checkpoint, max_length=8, long_sequences="truncate")
    with pytest.warns(TruncationWarning):
        rows = summarizer.transform(SEQUENCES[:1])
    np.testing.assert_array_equal(rows, ESM2AttentionSummarizer(tiny_checkpoint).transform([SEQUENCES[0][:8]]))


def test_in_a_pipeline(gfp: tuple[list[str], NDArray[Any]]) -> None:
    X, y = [sequence[40:90] for sequence in gfp[0][:20]], gfp[1][:20]
    model = make_pipeline(ESM2AttentionSummarizer("skesm-mini", layers=(3, -1)), Ridge())
    assert np.isfinite(model.fit(X, y).predict(X)).all()
