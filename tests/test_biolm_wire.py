"""The protocols: captured answers of the hosted service, and both directions of every dialect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skesm.backends.biolm.limits import Limits, read_limits
from skesm.esm2.spec import find_registered
from skesm.exceptions import InvalidAnswerError
from skesm.outputs.spec import OutputSpec, parse_outputs, validate_record
from skesm.protocol import answers, errors, wire
from skesm.sequences.alphabet import AMINO_ACIDS

#: Cut: the first four channels of each vector, the first twelve residues of contacts, some sequences.
ANSWERS = json.loads((Path(__file__).parent / "data" / "biolm_answers.json").read_text(encoding="utf-8"))
CHANNELS = 4
SPEC = find_registered("esm2-8m")


def captured(size):
    """(Captured questions and answers, the model's spec cut to the channels that are kept)."""
    return ANSWERS[size], replace(find_registered(f"esm2-{size}"), width=CHANNELS)


# ------------------------------------------------------------------------------------------------ captured answers


@pytest.mark.parametrize("size", ["8m", "35m", "150m", "650m"])
def test_captured_embeddings_decode_layer_by_layer(size):
    golden, spec = captured(size)
    results = golden["encode"]["results"]
    layers = sorted(entry["layer"] for entry in results[0]["embeddings"])
    assert layers[-1] == spec.n_layers
    outputs = [OutputSpec("mean", layer) for layer in layers]
    per_residue = "per_token_embeddings" in results[0]
    if per_residue:
        outputs += [OutputSpec(kind, layer) for layer in layers for kind in ("residues", "max")]
    # The 35M capture does not say which sequence it had: its means have no length to check.
    lengths = [length or 1 for length in golden["encode_lengths"]]
    records = answers.decode_answer("v3", golden["encode"], lengths, outputs, spec)
    assert len(records) == len(results)
    for record, result, length in zip(records, results, lengths, strict=True):
        validate_record(record, outputs, length, spec)
        for entry in result["embeddings"]:
            want = np.float32(entry["embedding"])
            np.testing.assert_array_equal(record[OutputSpec("mean", entry["layer"])], want)
        for entry in result.get("per_token_embeddings", ()):
            residues = record[OutputSpec("residues", entry["layer"])]
            np.testing.assert_array_equal(residues, np.float32(entry["embeddings"]))
            np.testing.assert_array_equal(record[OutputSpec("max", entry["layer"])], residues.max(axis=0))
            # The service's own mean is that of the residue rows; both are float32.
            mean = record[OutputSpec("mean", entry["layer"])]
            np.testing.assert_allclose(residues.mean(axis=0), mean, atol=2e-5)


@pytest.mark.parametrize("size", ["8m", "35m", "150m", "650m"])
def test_captured_logits_decode(size):
    golden, spec = captured(size)
    lengths = [len(result["sequence_tokens"]) for result in golden["predict"]["results"]]
    logits = OutputSpec("logits")
    for record, result in zip(
        answers.decode_answer("v3", golden["predict"], lengths, [logits], spec),
        golden["predict"]["results"],
        strict=True,
    ):
        np.testing.assert_array_equal(record[logits], np.float32(result["logits"]))
        # The model finds the residue that is there, nearly always: columns in another order would not.
        tokens = result["sequence_tokens"]
        found = [AMINO_ACIDS[i] == t for i, t in zip(record[logits].argmax(axis=1), tokens, strict=True) if len(t) == 1]
        assert np.mean(found) > 0.8


def test_captured_answers_are_refused_for_the_wrong_question():
    golden, spec = captured("650m")
    lengths = golden["encode_lengths"]
    mean = [OutputSpec("mean", 33)]
    with pytest.raises(InvalidAnswerError, match="mean@31 is missing"):
        answers.decode_answer("v3", golden["encode"], lengths, [OutputSpec("mean", 31)], spec)
    with pytest.raises(InvalidAnswerError, match="2 results for 3"):
        answers.decode_answer("v3", golden["encode"], [*lengths, 4], mean, spec)
    with pytest.raises(InvalidAnswerError, match=r"shape \[17, 4\], expected \[14, 4\]"):
        answers.decode_answer("v3", golden["encode"], lengths[::-1], [OutputSpec("residues", 33)], spec)
    with pytest.raises(InvalidAnswerError, match=r"expected \[2560\]"):
        answers.decode_answer("v3", golden["encode"], lengths, mean, find_registered("esm2-3b"))


def test_captured_contacts_decode():
    (golden, spec), contacts = captured("150m"), OutputSpec("contacts")
    results, lengths = golden["encode"]["results"], golden["encode_lengths"]
    for record, result in zip(
        answers.decode_answer("v3", golden["encode"], lengths, [contacts], spec), results, strict=True
    ):
        np.testing.assert_array_equal(record[contacts], np.float32(result["contacts"]))
        np.testing.assert_allclose(record[contacts], record[contacts].T, rtol=0, atol=1e-6)
    with pytest.raises(InvalidAnswerError, match=r"contacts has shape \[12, 12\], expected \[11, 11\]"):
        answers.decode_answer("v3", golden["encode"], [12, 11], [contacts], spec)


# ------------------------------------------------------------------------------------------------ both directions


def make_records(outputs, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {output: rng.standard_normal(output.shape(length, SPEC)).astype(np.float32) for output in outputs}
        for length in lengths
    ]


def through_json(body):
    return json.loads(json.dumps(body, default=lambda array: array.tolist()))


RECEIVED = [OutputSpec("attention_received", layer) for layer in range(1, SPEC.n_layers + 1)]
OF_V1 = [OutputSpec("mean", 6), OutputSpec("logit_means"), OutputSpec("contacts"), *RECEIVED]
OF_OTHERS = [
    OutputSpec("mean", 0), OutputSpec("mean", 6), OutputSpec("cls", 6), OutputSpec("residues", 2), OutputSpec("logits"),
    OutputSpec("contacts"), *RECEIVED,
]  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "outputs"),
    [("v1", OF_V1), *((dialect, OF_OTHERS) for dialect in ("v2", "v3", "hub"))],
)
def test_answers_survive_json_exactly(dialect, outputs):
    lengths = [5, 1, 12]
    records = make_records(outputs, lengths)
    body = through_json(answers.encode_answer(dialect, records))
    decoded = answers.decode_answer(dialect, body, lengths, outputs, SPEC)
    for got, want in zip(decoded, records, strict=True):
        assert got.keys() == want.keys()
        for output, value in want.items():
            assert got[output].dtype == np.float32
            np.testing.assert_array_equal(got[output], value)


def test_answers_have_the_keys_of_their_dialect():
    records = make_records([OutputSpec("mean", 6), OutputSpec("residues", 6)], [3])
    keys = {
        "v2": {"mean_representations", "representations"},
        "v3": {"sequence_index", "embeddings", "per_token_embeddings"},
        "hub": {"sequence_index", *wire.DIALECTS["hub"].always},
    }
    for dialect, want in keys.items():
        (result,) = answers.encode_answer(dialect, records)["results"]
        assert set(result) == want
    assert result["logits"] is None  # the hub's way of not answering


def count_numbers(value):
    if isinstance(value, dict | list):
        return sum(map(count_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


@pytest.mark.parametrize("dialect", wire.DIALECTS)
@pytest.mark.parametrize("chosen", [["mean@2", "mean@6", "cls@6", "cls@2"], ["residues@5"], ["logits"], ["contacts"],
                                    ["mean@6", "contacts", "attention_received@*"]])  # fmt: skip
def test_the_size_of_an_answer_is_known_before_it_is_asked_for(dialect, chosen):
    outputs = OF_V1 if dialect == "v1" else list(parse_outputs(chosen, SPEC.n_layers))
    body = through_json(answers.encode_answer(dialect, make_records(outputs, [11])))
    asked = [output for output in outputs if output.layer in (None, 6, 2, 5)]  # one layer's attentions bring all
    assert wire.floats_per_answer(dialect, SPEC, asked, 11) == count_numbers(body)


@pytest.mark.parametrize("dialect", wire.DIALECTS)
def test_the_row_of_a_layer_is_found_in_the_attentions(dialect):
    records = make_records(OF_V1 if dialect == "v1" else RECEIVED, [7])
    body = answers.encode_answer(dialect, records)
    (result,) = body["predictions" if dialect == "v1" else "results"]
    assert result["attentions"].shape == (6, 7)
    for layer in range(1, 7):
        output = OutputSpec("attention_received", layer)
        np.testing.assert_array_equal(result["attentions"][layer - 1], records[0][output])
        (decoded,) = answers.decode_answer(dialect, through_json(body), [7], [output], SPEC)
        assert decoded[output].base is None  # and does not keep the other layers
        np.testing.assert_array_equal(decoded[output], records[0][output])


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        *(("contacts", shape) for shape in ((5, 6), (7, 7), (25,), (1, 5, 5))),  # (7, 7): with start and end
        *(("attentions", shape) for shape in ((5, 5), (7, 5), (6, 7), (5, 6), (5,), (6, 20, 5))),
    ],
)
def test_maps_of_another_shape_are_refused(key, shape):
    outputs = [OutputSpec("contacts"), OutputSpec("attention_received", 3)]
    body = through_json(answers.encode_answer("v3", make_records([outputs[0], *RECEIVED], [4, 5])))
    assert len(answers.decode_answer("v3", body, [4, 5], outputs, SPEC)) == 2
    body["results"][1][key] = np.zeros(shape).tolist()
    with pytest.raises(InvalidAnswerError, match=rf"result 1 of 2: {key}.* has shape \[{', '.join(map(str, shape))}\]"):
        answers.decode_answer("v3", body, [4, 5], outputs, SPEC)


@pytest.mark.parametrize("value", [None, "text", [[0.5] * 5] * 5 + [[0.5] * 4], [[0.5] * 5] * 5 + [None]])
@pytest.mark.parametrize("dialect", ["v1", "hub"])
def test_attentions_that_are_no_matrix_are_refused(dialect, value):
    key = "predictions" if dialect == "v1" else "results"
    with pytest.raises(InvalidAnswerError, match=r"is missing|not an array"):
        answers.decode_answer(dialect, {key: [{"attentions": value}]}, [5], RECEIVED, SPEC)
    with pytest.raises(InvalidAnswerError, match=r"is missing|not an array"):
        answers.decode_answer(dialect, {key: [{"contacts": value}]}, [6], [OutputSpec("contacts")], SPEC)


def test_attention_that_is_not_finite_concerns_its_item_and_layer():
    body = through_json(answers.encode_answer("v3", make_records(RECEIVED, [3, 4])))
    body["results"][1]["attentions"][2][0] = None
    assert isinstance(answers.decode_answer("v3", body, [3, 4], [RECEIVED[1]], SPEC)[1], dict)
    good, bad = answers.decode_answer("v3", body, [3, 4], RECEIVED, SPEC)
    assert isinstance(good, dict)
    assert isinstance(bad, InvalidAnswerError)
    assert str(bad) == "attention_received@3: values are not finite"


def test_attentions_are_not_answered_with_a_layer_missing():
    with pytest.raises(ValueError, match="attention_received@3 needs the layer before it"):
        answers.encode_answer("v3", make_records([RECEIVED[0], *RECEIVED[2:]], [3]))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e39])
def test_values_that_are_not_finite_are_told_for_their_item(value):
    records = make_records([OutputSpec("mean", 6)], [3, 4])
    body = through_json(answers.encode_answer("v3", records))
    body["results"][1]["embeddings"][0]["embedding"][7] = value
    good, bad = answers.decode_answer("v3", through_json(body), [3, 4], [OutputSpec("mean", 6)], SPEC)
    assert isinstance(good, dict)
    assert isinstance(bad, InvalidAnswerError)


def test_layers_are_found_by_number():
    outputs = [OutputSpec("mean", 5), OutputSpec("mean", 6)]
    records = make_records(outputs, [3])
    body = answers.encode_answer("v3", records)
    body["results"][0]["embeddings"].reverse()
    (decoded,) = answers.decode_answer("v3", body, [3], outputs, SPEC)
    np.testing.assert_array_equal(decoded[outputs[0]], records[0][outputs[0]])
    body["results"][0]["embeddings"][0]["layer"] = 5
    with pytest.raises(InvalidAnswerError, match="2 times"):
        answers.decode_answer("v3", body, [3], outputs, SPEC)


@pytest.mark.parametrize("body", [None, [], "text", {}, {"results": None}, {"results": {"0": 1}}, {"predictions": []}])
def test_answers_of_another_kind_are_refused(body):
    with pytest.raises(InvalidAnswerError, match="results"):
        answers.decode_answer("v3", body, [3], [OutputSpec("mean", 6)], SPEC)


@pytest.mark.parametrize(
    ("model", "dialect", "path"),
    [
        ("esm2-650m", "v1", "/api/v1/models/esm2_t33_650M_UR50D/transform/"),
        ("esm2_t33_650M_UR50D", "v3", "/api/v3/esm2-650m/encode/"),
        ("esm2_t36_3B_UR50D", "v2", "/api/v2/esm2-3B/encode/"),
        ("esm2_t36_3B_UR50D", "v3", "/api/v3/esm2-3b/encode/"),
        ("esm2-8m", "hub", "/api/v1/esm2-8m/encode"),
        ("skesm-mini", "v3", "/api/v3/skesm-mini/encode/"),
    ],
)
def test_paths(model, dialect, path):
    assert wire.action_path(dialect, wire.model_slug(find_registered(model), dialect)) == path


def test_the_body_asks_for_everything_at_once():
    outputs = [OutputSpec(*pair) for pair in (("max", 6), ("cls", 2), ("mean", 6), ("residues", 0), ("logits", None))]
    body = wire.request_body("hub", ["MKT", "GG"], outputs)
    assert body == {
        "params": {"repr_layers": [0, 2, 6], "include": ["bos", "logits", "mean", "per_residue"]},
        "items": [{"sequence": "MKT"}, {"sequence": "GG"}],
    }
    assert wire.request_body("v3", ["MKT"], [OutputSpec("logits")])["params"] == {"include": ["logits"]}


def test_layers_of_attention_are_not_asked_for_as_representations():
    maps = [OutputSpec("contacts"), OutputSpec("attention_received", 2), OutputSpec("attention_received", 5)]
    assert wire.request_body("v3", ["MKT"], maps)["params"] == {"include": ["attentions", "contacts"]}
    params = wire.request_body("v3", ["MKT"], [*maps, OutputSpec("mean", 6)])["params"]
    assert params == {"repr_layers": [6], "include": ["attentions", "contacts", "mean"]}


# ------------------------------------------------------------------------------------------------ limits and errors


@pytest.mark.parametrize(
    "document", [None, [], {}, {"properties": 3}, {"paths": {"/x": None}}, {"properties": {"items": []}}]
)
def test_documents_without_limits(document):
    assert read_limits(document, "/x") == Limits()


@pytest.mark.parametrize(
    ("rate", "expected"), [("10/second", 10), ("30/minute", 0.5), ("0/second", None), ("fast", None)]
)
def test_rates(rate, expected):
    assert read_limits({"throttle_rate": rate}, "/x").requests_per_second == expected


ITEM_ERRORS = {
    "v1": {"error": {"instances__3__data__text": ["bad"], "instances__0__data__text": ["worse"]}},
    "v3": {"error": {"items__3__sequence": ["bad"], "items__0__sequence": ["worse"]}},
    "hub": {"detail": [{"loc": ["body", "items", i, "sequence"], "msg": m} for i, m in ((3, "bad"), (0, "worse"))]},
}
OVERSIZE = {
    "v3": {"error": {"items": ["List should have at most 4 items after validation, not 8"]}},
    "hub": {"detail": [{"type": "too_long", "loc": ["body", "items"], "msg": "too long", "ctx": {"max_length": 4}}]},
}


@pytest.mark.parametrize("dialect", ITEM_ERRORS)
def test_errors_of_items_are_read(dialect):
    assert errors.decode_error(ITEM_ERRORS[dialect]).items == {0: "worse", 3: "bad"}


@pytest.mark.parametrize("dialect", OVERSIZE)
def test_errors_of_too_many_items_are_read(dialect):
    refusal = errors.decode_error(OVERSIZE[dialect])
    assert (refusal.oversize, refusal.max_items, refusal.items) == (True, 4, {})


@pytest.mark.parametrize("dialect", wire.DIALECTS)
def test_other_errors_survive_both_directions(dialect):
    body = wire.DIALECTS[dialect].errors.whole(503, "later")
    assert errors.decode_error(body).reason == "later"


@pytest.mark.parametrize(
    "body", [None, "text", [], {"detail": [3, None]}, {"error": {"items__x": 3}}, {"detail": [{"loc": 3}]}]
)
def test_errors_of_no_known_form_name_nothing(body):
    refusal = errors.decode_error(body)
    assert not refusal.items
    assert not refusal.oversize


def test_scrub_removes_whole_parts_and_short_sequences():
    sequences = ["MKT", "MKTAYIAKQRQISFVKSHFSRQ"]
    for text in ("mkt at 3", "MKT", "MKTAYIAKQ...", "(mktayiakqrqisfvkshfsrqmktay)", "key tok-123"):
        shown = errors.scrub(text, sequences, ["tok-123"])
        assert "[...]" in shown
        assert "mkt" not in shown.lower()
        assert "tok-123" not in shown
    assert errors.scrub("Value error,\n cannot read", sequences) == "Value error, cannot read"
    assert len(errors.scrub("word " * 1000, sequences)) < 220
