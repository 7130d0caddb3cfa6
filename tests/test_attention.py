"""Attention weights, their summaries and contacts, beside those of transformers on the same random weights.

Tolerances are those of `test_parity`: 1e-5, of the largest value where there is one above 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skesm.backends import LocalBackend
from skesm.esm2.tokenizer import tokenize
from skesm.exceptions import BackendError
from skesm.outputs.kinds import ATTENTION_KINDS
from skesm.outputs.spec import OutputSpec, validate_record
from skesm.outputs.types import FloatArray

TOLERANCE = 1e-5
CONTACTS = OutputSpec("contacts")
HEAD = "esm.contact_head.regression.weight"
N_LAYERS = 3
# one, two and three residues; several to a pack; more tokens than a chunk of scores holds for all heads; masks
SEQUENCES = ["M", "MK", "GSH", "MKTAYIAKQR", "GSHMSLFDFF", "MKT<mask>YIA<mask>R", "XBZUO", "MKTAYIAKQRGSD" * 10]
LONG = "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLSYGVQ" * 15


@pytest.fixture(scope="module")
def folder(make_checkpoint) -> Path:
    """Weights so large that attention is uneven, and a contact head of probabilities from 0 to 1."""
    folder = make_checkpoint(N_LAYERS, 40, 4, config={"initializer_range": 0.2})
    path = folder / "model.safetensors"
    tensors = load_file(path)
    weight = tensors["esm.contact_head.regression.weight"]
    tensors["esm.contact_head.regression.weight"] = torch.randn(
        weight.shape, generator=torch.Generator().manual_seed(0)
    )
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Of transformers, for each sequence: (attentions (layers, heads, L + 2, L + 2), contacts (L, L))."""
    from transformers import EsmForMaskedLM

    model = EsmForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    answers = {}
    for sequence in (*SEQUENCES, LONG):
        ids = torch.tensor(tokenize(sequence).astype(np.int64))[None]
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            attentions = torch.stack(model(ids, mask, output_attentions=True).attentions)[:, 0].numpy()
            answers[sequence] = attentions, model.predict_contacts(ids, mask)[0].numpy()
        if len(sequence) > 50:
            assert np.ptp(answers[sequence][1]) > 0.2, "contacts that are all alike would hide errors"
    return answers


def run(model: Path, sequences: list[str], outputs: list[OutputSpec], **options: object) -> list[dict]:
    backend = LocalBackend(device="cpu", num_threads=2, **options)
    records = {}
    for batch in backend.run(model, sequences, outputs):
        records.update(zip(batch.indices, batch.records, strict=True))
    for sequence, record in zip(sequences, (records[i] for i in range(len(sequences))), strict=True):
        validate_record(record, outputs, len(tokenize(sequence)) - 2, backend.spec(model))
    return [records[i] for i in range(len(sequences))]


def summarise(weights: FloatArray) -> dict[str, FloatArray]:
    """The three kinds of output of one layer's weights (heads, L + 2, L + 2), as their definitions say."""
    weights = weights.astype(np.float64)
    by_residues = weights[:, 1:-1]
    logs = np.log(np.where(by_residues > 0, by_residues, 1))
    entropy = [-(head * log).sum(axis=1).mean() for head, log in zip(by_residues, logs, strict=True)]
    place = np.arange(by_residues.shape[1])
    gap = np.abs(np.subtract.outer(place, place))
    distance = [(head[:, 1:-1] * gap).sum(axis=1).mean() for head in by_residues]
    ends = [(head[:, 0] + head[:, -1]).mean() for head in by_residues]
    return {
        "attentions": weights,
        "attention_received": weights.mean(axis=0).mean(axis=0)[1:-1],
        "attention_heads": np.stack([entropy, distance, ends], axis=1),
    }


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("sequences", [SEQUENCES, [LONG]], ids=["short", "long"])
def test_every_output_is_that_of_transformers(engine: str, sequences: list[str], folder: Path, expected) -> None:
    layers = range(1, N_LAYERS + 1)
    outputs = [CONTACTS, *(OutputSpec(kind, layer) for kind in ATTENTION_KINDS for layer in layers)]

    records = run(folder, sequences, outputs, engine=engine)

    for sequence, record in zip(sequences, records, strict=True):
        attentions, contacts = expected[sequence]
        np.testing.assert_allclose(record[CONTACTS], contacts, rtol=0, atol=TOLERANCE)
        for layer in layers:
            for kind, value in summarise(attentions[layer - 1]).items():
                tolerance = TOLERANCE * max(1, np.abs(value).max())
                got = record[OutputSpec(kind, layer)]
                np.testing.assert_allclose(got, value, rtol=0, atol=tolerance, err_msg=f"{kind} of layer {layer}")


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_what_is_asked_beside_attention_stays_the_same_to_the_last_bit(engine: str, folder: Path) -> None:
    plain = [OutputSpec("residues", N_LAYERS), OutputSpec("logits")]
    alone = run(folder, SEQUENCES, plain, engine=engine)
    beside = run(folder, SEQUENCES, [*plain, CONTACTS, OutputSpec("attentions", 2)], engine=engine)
    for one, other in zip(alone, beside, strict=True):
        for output in plain:
            np.testing.assert_array_equal(one[output], other[output])


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_contacts_are_symmetric_and_attentions_sum_to_one(engine: str, folder: Path) -> None:
    weights = OutputSpec("attentions", 1)
    for record in run(folder, SEQUENCES, [CONTACTS, weights], engine=engine):
        np.testing.assert_allclose(record[CONTACTS], record[CONTACTS].T, rtol=0, atol=1e-6)
        np.testing.assert_allclose(record[weights].sum(axis=2), 1, rtol=0, atol=1e-5)


def test_bfloat16_is_near(folder: Path) -> None:
    exact = run(folder, SEQUENCES, [CONTACTS], engine="torch")
    rounded = run(folder, SEQUENCES, [CONTACTS], engine="torch", dtype="bfloat16")
    for one, other in zip(exact, rounded, strict=True):
        np.testing.assert_allclose(other[CONTACTS], one[CONTACTS], rtol=0, atol=0.2)  # 8 bits, and uneven attention


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_without_a_contact_head_there_are_attentions_but_no_contacts(
    engine: str, folder: Path, without_contact_head: Callable[[Path], Path]
) -> None:
    stripped = without_contact_head(folder)
    run(stripped, SEQUENCES, [OutputSpec("attentions", 1)], engine=engine)
    with pytest.raises(BackendError, match="has no contact head: it has embeddings and attentions, but no contacts"):
        run(stripped, SEQUENCES, [CONTACTS], engine=engine)


def test_large_records_are_not_held_for_several_sequences(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are cut by what their records hold, not by tokens alone."""
    monkeypatch.setattr("skesm.backends.local_run._VALUES_PER_TOKEN", 10)
    backend = LocalBackend(engine="numpy", tokens_per_batch=4000)
    # Too long for two of them to share a pack of 1,024 tokens.
    sequences = ["MKTAYIAKQRGSD" * 45 + tail for tail in ("A", "C", "D", "E")]
    batches = [list(batch.indices) for batch in backend.run(folder, sequences, [OutputSpec("attentions", 1)])]
    assert sorted(map(len, batches)) == [1, 1, 1, 1]
    (together,) = (list(batch.indices) for batch in backend.run(folder, sequences, [OutputSpec("mean", 1)]))
    assert sorted(together) == [0, 1, 2, 3]
