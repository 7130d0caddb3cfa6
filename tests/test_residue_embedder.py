"""Features of residues, position by position, from transformers' hidden states and logits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import get_tags

from skesm import ESM2Embedder, ESM2ResidueEmbedder, compute_outputs
from skesm.backends import LocalBackend
from skesm.exceptions import InvalidSequenceError, PartialResultError, PartialResultWarning, TruncationWarning
from skesm.sequences.alphabet import AMINO_ACIDS

WIDTH = 40  # of tiny_checkpoint, which has two layers
LENGTH = 16
VARIANTS = [
    "MKTAYIAKQRQISFVK",
    "MKTWYIAKQRQISFVK",
    "AKTAYIAKQRQISFVG",
    "MKTAYIA<mask>QRQISFVX",
    "MKTWYIAKQRQISFVK",
]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> dict[str, NDArray[np.float32]]:
    """What transformers says of VARIANTS, by output, (n, L, …)."""
    import torch
    from transformers import EsmForMaskedLM

    from skesm.esm2.tokenizer import tokenize

    model = EsmForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    tokens = torch.from_numpy(np.stack([tokenize(sequence) for sequence in VARIANTS]).astype(np.int64))
    with torch.no_grad():
        answer = model(tokens, torch.ones_like(tokens), output_hidden_states=True, output_attentions=True)
    return {
        "residues@1": answer.hidden_states[1][:, 1:-1].numpy(),
        "residues@2": answer.hidden_states[2][:, 1:-1].numpy(),
        "logits": answer.logits[:, 1:-1, 4:24].numpy(),
        "logit_means": answer.logits[:, 1:-1].mean(dim=2).numpy(),
        "attention_received@1": answer.attentions[0].mean(dim=(1, 2))[:, 1:-1].numpy(),
    }


OUTPUTS = ["attention_received@1", "residues@-1", "logits", "residues@1", "logit_means"]


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("positions", [None, [5], (16, 1, 8), np.array([2, 3])], ids=str)
def test_values_are_those_of_transformers(engine: str, positions: Any, tiny_checkpoint: Path, expected: Any) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, outputs=OUTPUTS, positions=positions, backend=engine)
    rows = embedder.fit_transform(VARIANTS)
    taken = list(range(1, LENGTH + 1)) if positions is None else list(positions)
    assert rows.dtype == np.float32
    assert rows.shape == (5, len(taken) * (1 + WIDTH + 20 + WIDTH + 1)) == (5, len(embedder.get_feature_names_out()))
    names = ["attention_received@1", "residues@2", "logits", "residues@1", "logit_means"]
    blocks = [expected[name][:, position - 1].reshape(5, -1) for position in taken for name in names]
    np.testing.assert_allclose(rows, np.hstack(blocks), rtol=0, atol=1e-5)  # the promise of DESIGN
    assert embedder.length_ == LENGTH


def test_names(tiny_checkpoint: Path) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, outputs=("residues@-1", "logits", "logit_means"), positions=(3, 1))
    names = embedder.get_feature_names_out().tolist()  # with positions, they are known before fit
    block = [f"residues_l2_p3_{i}" for i in range(WIDTH)] + [f"logits_p3_{a}" for a in AMINO_ACIDS] + ["logit_means_p3"]
    assert names[:61] == block
    assert names[61:] == [name.replace("_p3", "_p1") for name in block]

    every = ESM2ResidueEmbedder(tiny_checkpoint, outputs="attention_received@*")
    with pytest.raises(NotFittedError):
        every.get_feature_names_out()
    names = every.fit(["MKT"]).get_feature_names_out().tolist()
    assert names == [f"attention_received_l{layer}_p{position}" for position in (1, 2, 3) for layer in (1, 2)]


def test_all_layers_are_in_their_order() -> None:
    embedder = ESM2ResidueEmbedder("esm2_t12_35M_UR50D", outputs="residues@*", positions=[1])
    assert embedder.get_feature_names_out()[::480].tolist() == [f"residues_l{layer}_p1_0" for layer in range(13)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"outputs": "mean@1"}, "outputs must be one or several of residues, logits, logit_means, attention_received"),
        ({"outputs": ["logits", "contacts"]}, "outputs must be one or several of residues"),
        ({"outputs": []}, "outputs must be one or several of residues"),
        ({"outputs": "residues@3"}, "layer 3 does not exist"),
        ({"outputs": "residues"}, "'residues' needs a layer"),
        ({"outputs": ["residues@-1", "residues@2"]}, "names the same columns twice"),
        ({"outputs": None}, "'outputs' parameter"),
        ({"positions": 3}, "'positions' parameter"),
        ({"positions": []}, "positions must be None or a sequence of whole numbers, counted from 1"),
        ({"positions": [0, 1]}, "counted from 1"),
        ({"positions": [-1]}, "counted from 1"),
        ({"positions": [1.0]}, "counted from 1"),
        ({"positions": [True]}, "counted from 1"),
        ({"positions": [2, 2]}, r"positions=\[2, 2\] names the same columns twice"),
        ({"positions": {1, 2}}, "a set has no order"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str, tiny_checkpoint: Path) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, **params)
    for method in (embedder.fit, embedder.fit_transform, embedder.get_feature_names_out):
        with pytest.raises(ValueError, match=message):
            method(VARIANTS)


def test_positions_beyond_the_end(tiny_checkpoint: Path) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, positions=[16, 17])
    with pytest.raises(ValueError, match="positions: 17 is beyond the end: the sequences have 16 residues"):
        embedder.fit(VARIANTS)
    embedder = ESM2ResidueEmbedder(tiny_checkpoint).fit(VARIANTS)
    with pytest.raises(ValueError, match="positions: 20 is beyond the end"):
        embedder.set_params(positions=[20]).transform(VARIANTS)


# the length -----------------------------------------------------------------------------------------------------------


def test_the_length_is_learnt(tiny_checkpoint: Path) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, positions=[1])
    assert get_tags(embedder).requires_fit
    for method in (embedder.transform, embedder.plan):
        with pytest.raises(NotFittedError):
            method(VARIANTS)
    assert embedder.fit(VARIANTS) is embedder
    rows = embedder.transform(VARIANTS)
    np.testing.assert_array_equal(clone(embedder).fit_transform(VARIANTS), rows)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(VARIANTS), rows)
    with pytest.raises(NotFittedError):
        clone(embedder).transform(VARIANTS)
    assert embedder.fit(["MKT", "GSH"]).length_ == 3


@pytest.mark.parametrize("positions", [None, [1]])
def test_rows_of_other_lengths_are_named(positions: Any, tiny_checkpoint: Path) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, positions=positions)
    with pytest.raises(
        InvalidSequenceError, match=r"(?s)2 of 7 rows .* most common length, 16 residues.*ESM2Embedder.*row 0: 3 res"
    ) as caught:
        embedder.fit(["MKT", *VARIANTS, VARIANTS[0] + "A"])
    assert caught.value.rows == (0, 6)
    assert VARIANTS[0] not in str(caught.value)
    embedder.fit(VARIANTS)
    for method in (embedder.transform, embedder.plan):
        with pytest.raises(
            InvalidSequenceError, match=r"1 of 2 rows .* the 16 residues of the fitted sequences"
        ) as caught:
            method([VARIANTS[0], "MKT"])
        assert caught.value.rows == (1,)


def test_truncated_rows_have_one_length(tiny_checkpoint: Path) -> None:
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, max_length=8, long_sequences="truncate", positions=[8])
    with pytest.warns(TruncationWarning):
        rows = embedder.fit_transform([VARIANTS[0], VARIANTS[1] + "A"])
    assert embedder.length_ == 8
    cut = ESM2ResidueEmbedder(tiny_checkpoint, positions=[8]).fit_transform([VARIANTS[0][:8], VARIANTS[1][:8]])
    np.testing.assert_array_equal(rows, cut)


def test_windows_are_those_of_the_raw_outputs(tiny_checkpoint: Path) -> None:
    options: dict[str, Any] = {"long_sequences": "window", "max_length": 10, "window_overlap": 4}
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, outputs=["residues@1", "logits"], **options)
    rows = embedder.fit_transform(VARIANTS)
    assert embedder.cache_info().windowed == 5
    raw = compute_outputs(VARIANTS, ["residues@1", "logits"], tiny_checkpoint, **options)
    expected = [np.hstack([record["residues@1"], record["logits"]]).ravel() for record in raw]
    np.testing.assert_array_equal(rows, expected)
    with pytest.raises(InvalidSequenceError, match="attention_received: not available for sequences in windows"):
        ESM2ResidueEmbedder(tiny_checkpoint, outputs="attention_received@1", **options).fit_transform(VARIANTS)


# costs, and with others -----------------------------------------------------------------------------------------------


def test_positions_are_taken_from_what_is_stored(tiny_checkpoint: Path, tmp_path: Path) -> None:
    union = FeatureUnion(
        [
            ("residues", ESM2ResidueEmbedder(tiny_checkpoint, memory=tmp_path, prefetch="mean@-1")),
            ("mean", ESM2Embedder(tiny_checkpoint, memory=tmp_path)),
            ("some", ESM2ResidueEmbedder(tiny_checkpoint, memory=tmp_path, positions=[4, 1])),
        ]
    )
    rows = union.fit_transform(VARIANTS)
    costs = [part.cache_info() for _, part in union.transformer_list]
    assert [(cost.distinct, cost.computed) for cost in costs] == [(4, 4), (4, 0), (4, 0)]
    by_position = rows[:, : LENGTH * WIDTH].reshape(5, LENGTH, WIDTH)
    np.testing.assert_array_equal(rows[:, -2 * WIDTH :].reshape(5, 2, WIDTH), by_position[:, [3, 0]])


def test_failed_rows_are_nan(tiny_checkpoint: Path, refusing: LocalBackend) -> None:
    good = ESM2ResidueEmbedder(tiny_checkpoint).fit_transform(VARIANTS)
    embedder = ESM2ResidueEmbedder(tiny_checkpoint, backend=refusing).fit(VARIANTS)
    with pytest.raises(PartialResultError, match="2 of 5 rows of X failed") as caught:
        embedder.transform(VARIANTS)
    assert caught.value.rows == (1, 4)
    with pytest.warns(PartialResultWarning):
        rows = embedder.set_params(on_error="nan").transform(VARIANTS)
    np.testing.assert_array_equal(rows[[0, 2, 3]], good[[0, 2, 3]])
    assert np.isnan(rows[[1, 4]]).all()


def test_positions_can_be_searched(tiny_checkpoint: Path, gfp: tuple[list[str], NDArray[Any]], tmp_path: Path) -> None:
    X, y = [sequence[40:90] for sequence in gfp[0][:20]], gfp[1][:20]
    model = make_pipeline(ESM2ResidueEmbedder(tiny_checkpoint, memory=tmp_path), Ridge())
    grid = {"esm2residueembedder__positions": [None, [1, 2, 3], (50,)]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    frame = ESM2ResidueEmbedder(tiny_checkpoint, positions=[2]).set_output(transform="polars").fit_transform(X)
    assert frame.columns[0] == "residues_l2_p2_0"
