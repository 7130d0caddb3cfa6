"""The BioLM client and the answers of a service."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from biolm_service import DIALECTS, LAYER, MEAN, MODEL, WIDTH, FastBackend, assert_right, collect, make_sequences
from faulty_server import expected, expected_attentions
from sklearn.base import clone

from skesm.backends.biolm import BioLMBackend
from skesm.backends.resolve import resolve_backend
from skesm.exceptions import InvalidAnswerError, PartialResultError
from skesm.outputs.spec import OutputSpec

# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_row_is_its_own(service, dialect):
    sequences = make_sequences(100)
    records, error = collect(FastBackend(service.url, dialect=dialect), sequences)
    assert error is None
    assert sorted(records) == list(range(100))
    assert_right(records, sequences)
    assert {len(record) for record in records.values()} == {1}


@pytest.mark.parametrize("dialect", ["v2", "v3", "hub"])
def test_all_outputs_come_from_one_request(service, dialect):
    outputs = [
        OutputSpec("mean", 0), OutputSpec("mean", 6), OutputSpec("cls", 3), OutputSpec("residues", 6),
        OutputSpec("max", 5), OutputSpec("logits"), OutputSpec("contacts"),
    ]  # fmt: skip
    sequences = make_sequences(5)
    records, error = collect(FastBackend(service.url, dialect=dialect), sequences, outputs)
    assert error is None
    assert len(service.posts) == 1
    for place, sequence in enumerate(sequences):
        want = {
            outputs[0]: expected(sequence, "mean", 0, WIDTH),
            outputs[1]: expected(sequence, "mean", 6, WIDTH),
            outputs[2]: expected(sequence, "bos", 3, WIDTH),
            outputs[3]: expected(sequence, "per_residue", 6, WIDTH),
            outputs[4]: expected(sequence, "per_residue", 5, WIDTH).max(axis=0),
            outputs[5]: expected(sequence, "logits", None, WIDTH),
            outputs[6]: expected(sequence, "contacts", None, WIDTH),
        }
        assert records[place].keys() == want.keys()
        for output, value in want.items():
            assert records[place][output].dtype == np.float32
            np.testing.assert_array_equal(records[place][output], value, err_msg=str(output))


def test_v1_answers_mean_logit_means_and_contacts(service):
    sequences = make_sequences(9)
    outputs = [MEAN, OutputSpec("logit_means"), OutputSpec("contacts")]
    records, error = collect(FastBackend(service.url, dialect="v1"), sequences, outputs, "esm2_t6_8M_UR50D")
    assert error is None
    assert {event["path"] for event in service.posts} == {"/api/v1/models/esm2_t6_8M_UR50D/transform/"}
    assert_right(records, sequences)
    for place, sequence in enumerate(sequences):
        np.testing.assert_array_equal(records[place][outputs[1]], expected(sequence, "logit_means", None, WIDTH))
        np.testing.assert_array_equal(records[place][outputs[2]], expected(sequence, "contacts", None, WIDTH))


@pytest.mark.parametrize(
    ("dialect", "output"),
    [("v3", "eos@6"), ("hub", "logit_means"), ("v1", "mean@5"), ("v1", "logits"), ("v1", "cls@6"), ("v3", "mean@7"),
     ("v1", "attention_received@6"), ("hub", "attention_received@7"), ("v3", "attentions@6"),
     ("hub", "attention_heads@1")],
)  # fmt: skip
def test_impossible_outputs_are_refused_before_anything_is_sent(service, dialect, output):
    kind, _, layer = output.partition("@")
    with pytest.raises(ValueError, match=output):
        FastBackend(service.url, dialect=dialect).run(MODEL, ["MKT"], [OutputSpec(kind, int(layer) if layer else None)])
    assert service.log == []


RECEIVED = [OutputSpec("attention_received", layer) for layer in (1, 4, 6)]


def assert_attentions_right(records, sequences):
    assert sorted(records) == list(range(len(sequences)))
    for place, record in records.items():
        attentions = expected_attentions(sequences[place], LAYER)
        for output in RECEIVED:
            np.testing.assert_array_equal(record[output], attentions[output.layer - 1])


@pytest.mark.parametrize("dialect", ["v2", "v3", "hub"])
def test_attention_is_asked_for_one_length_at_a_time(service, dialect):
    """The service spreads it over the tokens of the longest sequence of a request."""
    sequences = make_sequences(60, shortest=8, longest=14)
    by_length = Counter(map(len, sequences))
    requests_needed = sum(-(-n // 8) for n in by_length.values())
    assert 8 < requests_needed < 60
    backend, outputs = FastBackend(service.url, dialect=dialect), [MEAN, OutputSpec("contacts"), *RECEIVED]
    plan = backend.plan(MODEL, sequences, outputs)
    assert (plan.requests, plan.sequences) == (requests_needed, 60)
    assert backend.plan(MODEL, sequences, outputs[:2]).requests == 8
    records, error = collect(backend, sequences, outputs)
    assert error is None
    assert_right(records, sequences)
    assert_attentions_right(records, sequences)
    assert {len(event["lengths"]) for event in service.posts} == {1}
    assert len(service.posts) == requests_needed


def test_what_is_sent_again_is_of_one_length_too(service):
    """After a learned limit, a named item, a halved batch and a passing failure."""
    sequences = [*make_sequences(60, shortest=8, longest=14), "M" * 9 + "W"]
    service.script({"do": {"status": 503}}, {"do": {"status": 413}, "when": {"min_items": 3}}, max_items=3,
                   unreadable="W")  # fmt: skip
    records, error = collect(FastBackend(service.url), sequences, RECEIVED)
    assert isinstance(error, PartialResultError)
    assert error.rows == (60,)
    assert_attentions_right(records, sequences[:60])
    assert {len(event["lengths"]) for event in service.posts} == {1}
    assert {200, 413, 422, 503} == {event["status"] for event in service.posts}


def test_duplicates_are_sent_once(service):
    sequences = ["MKTAY"] * 1000
    records, error = collect(FastBackend(service.url), sequences)
    assert error is None
    assert sorted(records) == list(range(1000))
    assert [event["items"] for event in service.posts] == [1]


def test_nothing_is_sent_for_no_sequences(service):
    assert collect(FastBackend(service.url), []) == ({}, None)
    assert service.log == []


def test_unreadable_sequences_are_not_sent(service):
    records, error = collect(FastBackend(service.url), ["MKT", "MK\n", "mkt", "MKTJ", "", "M<mask>T"])
    assert isinstance(error, PartialResultError)
    assert error.rows == (1, 2, 3, 4, 5)
    assert sorted(records) == [0]
    assert "residue 3" in str(error.causes[3])
    assert [event["items"] for event in service.posts] == [1]


WRONG = [
    *((dialect, fault) for dialect in DIALECTS for fault in
      ("short", "extra", "null", "wrong_width", "text", "wrong_layer", "missing")),
    *((dialect, "reorder") for dialect in ("v1", "hub")),  # only these number their results
    *((dialect, fault) for dialect in ("v3", "hub") for fault in ("vocabulary", "logits_1d")),
    *((dialect, "contacts_with_ends") for dialect in DIALECTS),
    *((dialect, "attentions_of_heads") for dialect in DIALECTS if dialect != "v1"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fault"), WRONG)
def test_wrong_answers_are_refused_whole(service, dialect, fault):
    service.script({"do": {"mutate": fault}, "times": 99})
    outputs = [MEAN, OutputSpec("logits")] if dialect in ("v3", "hub") else [MEAN]
    if fault == "contacts_with_ends":
        outputs.append(OutputSpec("contacts"))
    if fault == "attentions_of_heads":
        outputs += RECEIVED
    records, error = collect(FastBackend(service.url, dialect=dialect), make_sequences(4, longest=8), outputs)
    assert records == {}
    assert isinstance(error, InvalidAnswerError)
    assert len(service.posts) == 1


def test_values_that_are_not_finite_fail_alone(service):
    service.script({"do": {"mutate": "nan"}})
    sequences = make_sequences(8)
    records, error = collect(FastBackend(service.url), sequences)
    assert isinstance(error, PartialResultError)
    assert len(error.rows) == 1
    assert isinstance(error.causes[error.rows[0]], InvalidAnswerError)
    assert sorted(records) == sorted(set(range(8)) - set(error.rows))
    assert_right(records, sequences)
    assert len(service.posts) == 1


def test_status_200_may_be_an_error(service):
    service.script({"do": {"mutate": "error"}}, max_items=8)
    records, error = collect(FastBackend(service.url, dialect="v3"), make_sequences(8))
    assert isinstance(error, PartialResultError)
    assert len(records) == 7
    assert len(service.posts) == 2


def test_a_service_that_answers_wrongly_is_not_paid_on(service):
    service.script({"do": {"mutate": "wrong_width"}, "times": 9999})
    records, error = collect(FastBackend(service.url, dialect="v3"), make_sequences(800))
    assert isinstance(error, InvalidAnswerError)
    assert records == {}
    assert len(service.posts) <= 7  # three in a row, and what was under way


# ------------------------------------------------------------------------------------------------ as an estimator


@pytest.mark.parametrize(
    ("url", "dialect", "fingerprint"),
    [
        (None, "auto", "https://biolm.ai esm2-8m v3"),
        ("https://biolm.ai/api/v3/", "auto", "https://biolm.ai esm2-8m v3"),
        ("https://biolm.ai/api/v2", "auto", "https://biolm.ai esm2-8m v2"),
        ("https://biolm.ai/api/v1", "auto", "https://biolm.ai esm2_t6_8M_UR50D v1"),
        ("https://biolm.ai", "v1", "https://biolm.ai esm2_t6_8M_UR50D v1"),
        ("https://BioLM.ai:443", "auto", "https://biolm.ai esm2-8m v3"),
        ("https://gpu.example.org/esm", "auto", "https://gpu.example.org/esm esm2-8m hub"),
        ("https://gpu.example.org/api/v1", "auto", "https://gpu.example.org esm2-8m hub"),
        ("http://localhost:8000/api/v1/models", "auto", "http://localhost:8000 esm2_t6_8M_UR50D v1"),
        ("http://[::1]:8000", "v3", "http://[::1]:8000 esm2-8m v3"),
    ],
)
def test_namespace(monkeypatch, url, dialect, fingerprint):
    monkeypatch.delenv("BIOLM_BASE_API_URL", raising=False)
    for model in ("esm2-8m", "esm2_t6_8M_UR50D"):
        namespace = BioLMBackend(url, dialect=dialect).namespace(model)
        assert namespace.fingerprint == fingerprint
        assert namespace.numerics == f"remote-{fingerprint.split()[-1]}"


def test_the_environment_names_the_service(monkeypatch):
    monkeypatch.setenv("BIOLM_BASE_API_URL", "https://other.example.org/api/v2")
    assert resolve_backend("biolm").namespace(MODEL).fingerprint == "https://other.example.org esm2-8m v2"


@pytest.mark.parametrize(
    "parameters",
    [{"dialect": "v4"}, {"batch_size": 0}, {"max_concurrency": 0}, {"timeout": -1}, {"max_attempts": 0},
     {"base_url": 3}, {"timeout": (1, 2, 3)}, {"timeout": (1, -2)}],
)  # fmt: skip
def test_parameters_are_checked_at_use(parameters):
    backend = BioLMBackend(**{"base_url": "http://127.0.0.1:1", **parameters})
    with pytest.raises(ValueError, match=next(iter(parameters))):
        backend.run(MODEL, ["MKT"], [MEAN])


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="esm2_t33_650M_UR50D"):
        BioLMBackend().spec("prot_t5")


def test_parameters_survive_clone_and_pickle():
    backend = BioLMBackend("https://gpu.example.org", batch_size=3)
    assert clone(backend).get_params() == pickle.loads(pickle.dumps(backend)).get_params() == backend.get_params()
