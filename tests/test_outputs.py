"""Names of outputs, and what an answer must look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skesm.outputs.kinds import ATTENTION_KINDS, CONTACT_PROFILE, CONTACTS, HEAD_KINDS, LAYER_KINDS
from skesm.outputs.spec import OutputSpec, parse_outputs, resolve_layer, validate_record
from skesm.outputs.types import FloatArray

MEAN = OutputSpec("mean", 2)
LOGITS = OutputSpec("logits")

VECTOR = np.arange(4, dtype=np.float32)


class Shape:
    """Of a model."""

    width = 4
    n_heads = 3


@pytest.mark.parametrize(
    ("layer", "expected"), [(0, 0), (6, 6), (-1, 6), (-7, 0), (np.int64(-2), 5)], ids=lambda v: str(int(v))
)
def test_layer_is_counted_from_either_end(layer: int, expected: int) -> None:
    assert resolve_layer(layer, 6) == expected


@pytest.mark.parametrize("layer", [7, -8, 33])
def test_no_such_layer(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer {layer} does not exist: the model has layers 0 .*to 6"):
        resolve_layer(layer, 6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["mean@*"], ["mean@0", "mean@1", "mean@2"]),
        (["mean@-1", "mean@2"], ["mean@2"]),
        (["residues@0", "logits", "cls@-3"], ["cls@0", "logits", "residues@0"]),
        (["logit_means"], ["logit_means"]),
        (["attentions@*", "contacts"], ["attentions@1", "attentions@2", "contacts"]),
        (["contacts", "contact_profile"], ["contact_profile", "contacts"]),
    ],
)
def test_names(names: list[str], expected: list[str]) -> None:
    assert [str(output) for output in parse_outputs(names, n_layers=2)] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("median@1", "unknown output 'median'"),
        ("", "unknown output ''"),
        ("mean", "needs a layer"),
        ("mean@", "after '@' must be a whole number"),
        ("mean@last", "after '@' must be a whole number"),
        ("mean@1.5", "after '@' must be a whole number"),
        ("mean@3", "layer 3 does not exist"),
        ("mean@-4", "layer -4 does not exist"),
        ("logits@1", "has no layer"),
        ("contacts@1", "has no layer"),
        ("contact_profile@1", "has no layer"),
        ("attentions", "needs a layer from 1 up"),
        ("attentions@0", "needs a layer from 1 up"),
        ("attention_heads@-3", "needs a layer from 1 up"),
        ("logits@*", "has no layer"),
        (3, "name an output by a str"),
    ],
)
def test_wrong_names(name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_outputs([name], n_layers=2)


@given(
    st.sets(st.tuples(st.sampled_from((*LAYER_KINDS, *ATTENTION_KINDS)), st.integers(1, 33))),
    st.sets(st.sampled_from((*HEAD_KINDS, CONTACTS, CONTACT_PROFILE))),
)
def test_names_and_specs_are_one_to_one(layers: set[tuple[str, int]], heads: set[str]) -> None:
    specs = {OutputSpec(*pair) for pair in layers} | {OutputSpec(kind) for kind in heads}
    names = [str(spec) for spec in specs]
    assert len(set(names)) == len(specs)
    assert set(parse_outputs(names, n_layers=33)) == specs


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mean@1", (4,)), ("max@1", (4,)), ("cls@1", (4,)), ("eos@1", (4,)), ("residues@1", (9, 4))]
    + [("logits", (9, 20)), ("logit_means", (9,)), ("contacts", (9, 9)), ("attentions@1", (3, 11, 11))]
    + [("attention_received@1", (9,)), ("attention_heads@1", (3, 3))]
    + [("contact_profile", (2, 9))],
)
def test_shape(name: str, shape: tuple[int, ...]) -> None:
    (output,) = parse_outputs([name], n_layers=2)
    assert output.shape(9, Shape()) == shape


def test_valid_record() -> None:
    record = {MEAN: VECTOR, LOGITS: np.zeros((3, 20), dtype=np.float32), OutputSpec("max", 1): VECTOR}
    validate_record(record, [MEAN, LOGITS], 3, Shape())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "output mean@2 is missing"),
        ({OutputSpec("mean", 1): VECTOR}, "output mean@2 is missing"),
        ({MEAN: VECTOR.astype(np.float64)}, r"output mean@2 is float64\[4\], expected float32\[4\]"),
        ({MEAN: VECTOR.astype(">f4")}, r"output mean@2 is >f4\[4\], expected float32\[4\]"),
        ({MEAN: VECTOR[:3]}, r"output mean@2 is float32\[3\], expected float32\[4\]"),
        ({MEAN: VECTOR[None]}, r"output mean@2 is float32\[1, 4\], expected float32\[4\]"),
        ({MEAN: np.array([0, 1, np.nan, 3], dtype=np.float32)}, "output mean@2 is not finite"),
        ({MEAN: np.array([0, 1, -np.inf, 3], dtype=np.float32)}, "output mean@2 is not finite"),
    ],
)
def test_wrong_records(record: dict[OutputSpec, FloatArray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_record(record, [MEAN], 3, Shape())


def test_per_residue_outputs_have_one_row_for_each_residue() -> None:
    with pytest.raises(ValueError, match=r"float32\[5, 20\], expected float32\[3, 20\]"):  # with start and end token
        validate_record({LOGITS: np.zeros((5, 20), dtype=np.float32)}, [LOGITS], 3, Shape())
