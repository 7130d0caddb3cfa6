"""Outputs as they are: every name, rows and copies, windows, failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skesm import ESM2Embedder, compute_outputs
from skesm.backends import LocalBackend
from skesm.exceptions import InvalidSequenceError, PartialResultError, TruncationWarning
from skesm.outputs.contacts import contact_profile
from skesm.outputs.spec import parse_outputs

SEQUENCES = ["MKTAYIAKQR", "W", "MKTAYIAKQR", "GSH<mask>SLFDFFKX"]
LENGTHS = [10, 1, 10, 12]
EVERY = ["mean@*", "max@-1", "cls@0", "eos@1", "residues@*", "logits", "logit_means", "contacts", "contact_profile"]
ATTENTION = ["attentions@*", "attention_received@2", "attention_heads@-1"]


class Shape:
    """Of tiny_checkpoint."""

    width, n_heads = 40, 4


@pytest.mark.parametrize("with_memory", [False, True])
def test_every_output_by_its_resolved_name(with_memory: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    asked = [*EVERY, *ATTENTION]
    specs = parse_outputs(asked, n_layers=2)
    for _ in range(2):  # computed, then from the store
        records = compute_outputs(SEQUENCES, asked, tiny_checkpoint, memory=tmp_path if with_memory else None)
        assert len(records) == 4
        for record, length in zip(records, LENGTHS, strict=True):
            assert list(record) == [str(spec) for spec in specs]
            for spec in specs:
                value = record[str(spec)]
                assert value.dtype == np.float32
                assert value.shape == spec.shape(length, Shape())
                assert value.flags.writeable
                assert value.flags.owndata
            np.testing.assert_array_equal(record["contact_profile"], contact_profile(record["contacts"]))
            np.testing.assert_allclose(record["mean@2"], record["residues@2"].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(
        np.stack([record["mean@2"] for record in records]), ESM2Embedder(tiny_checkpoint).transform(SEQUENCES)
    )


def test_no_two_rows_share_an_array(tiny_checkpoint: Path) -> None:
    records = compute_outputs(SEQUENCES, "logits", tiny_checkpoint)
    before = records[2]["logits"].copy()
    records[0]["logits"][:] = 0
    np.testing.assert_array_equal(records[2]["logits"], before)


def test_rows_are_those_of_x(tiny_checkpoint: Path) -> None:
    frame = pd.DataFrame({"seq": [s.lower() + "\n" for s in SEQUENCES]})
    singles = [compute_outputs([s], "contacts", tiny_checkpoint, backend="numpy")[0]["contacts"] for s in SEQUENCES]
    for record, single in zip(
        compute_outputs(frame, ["contacts"], model=tiny_checkpoint, backend=LocalBackend("numpy")), singles, strict=True
    ):
        np.testing.assert_array_equal(record["contacts"], single)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"outputs": "mutated@1"}, "needs a reference"),
        ({"outputs": "contact"}, "unknown output 'contact'. Known: mean, .*contacts"),
        ({"outputs": ["residues@9"]}, "layer 9 does not exist"),
        ({"outputs": []}, "outputs must name one output or several"),
        ({"outputs": None}, "The 'outputs' parameter of compute_outputs must be"),
        ({"max_length": 0}, "The 'max_length' parameter of compute_outputs must be"),
        ({"model": 3}, "The 'model' parameter of compute_outputs must be"),
        ({"long_sequences": "window", "max_length": None}, "needs a max_length"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        compute_outputs(SEQUENCES, **{"outputs": "logits", "model": tiny_checkpoint, **params})


def test_wrong_rows(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidSequenceError) as caught:
        compute_outputs([*SEQUENCES, None], "logits", tiny_checkpoint)
    assert caught.value.rows == (4,)


def test_long_sequences(tiny_checkpoint: Path) -> None:
    options: dict[str, Any] = {"max_length": 6, "window_overlap": 2}
    with pytest.raises(InvalidSequenceError, match="more than max_length=6"):
        compute_outputs(SEQUENCES, "residues@1", tiny_checkpoint, **options)
    with pytest.warns(TruncationWarning):
        records = compute_outputs(SEQUENCES, "contacts", tiny_checkpoint, long_sequences="truncate", **options)
    assert [len(record["contacts"]) for record in records] == [6, 1, 6, 6]
    options["long_sequences"] = "window"
    records = compute_outputs(SEQUENCES, ["residues@2", "mean@2"], tiny_checkpoint, **options)
    for record, length in zip(records, LENGTHS, strict=True):
        assert record["residues@2"].shape == (length, 40)
        np.testing.assert_allclose(record["mean@2"], record["residues@2"].mean(axis=0), atol=1e-6)
    with pytest.raises(InvalidSequenceError, match="contacts: not available for sequences in windows") as caught:
        compute_outputs(["W", "W", *SEQUENCES], "contacts", tiny_checkpoint, **options)
    assert caught.value.rows == (2, 4, 5)


def test_failures_carry_what_was_finished(tiny_checkpoint: Path, refusing: LocalBackend) -> None:
    with pytest.raises(PartialResultError, match="1 of 4 rows of X failed") as caught:
        compute_outputs(SEQUENCES, "logits", tiny_checkpoint, backend=refusing)
    assert caught.value.rows == (1,)
    results: Any = caught.value.results
    assert [result is None for result in results] == [False, True, False, False]
    expected = compute_outputs(SEQUENCES, "logits", tiny_checkpoint)
    np.testing.assert_array_equal(results[3]["logits"], expected[3]["logits"])
