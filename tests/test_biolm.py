"""The BioLM client against a service that misbehaves: own process, real sockets."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest
import requests
from sklearn.base import clone

from skesm.backends.biolm import BioLMBackend
from skesm.backends.biolm.throttle import Timing
from skesm.backends.resolve import resolve_backend
from skesm.exceptions import (
    AuthenticationError,
    BackendError,
    InvalidAnswerError,
    PartialResultError,
    RateLimitError,
    RequestRejectedError,
    ServiceUnavailableError,
)
from skesm.outputs.spec import OutputSpec

HERE = Path(__file__).parent
MODEL, LAYER, WIDTH = "esm2-8m", 6, 320
MEAN = OutputSpec("mean", LAYER)
DIALECTS = ("v1", "v2", "v3", "hub")
CANARY_TOKEN = "canary-5eCrEt-tOkEn"
CANARY_SEQUENCE = "MCANARYSEQWENCEACDEFGHIK"


def load_server_module():
    spec = importlib.util.spec_from_file_location("faulty_server", HERE / "faulty_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faulty_server = load_server_module()
expected, expected_attentions = faulty_server.expected, faulty_server.expected_attentions


class FastBackend(BioLMBackend):
    """The client with its waits shortened, and its logic as it is."""

    _timing = Timing(backoff_base=0.02, backoff_cap=0.2, poll_interval=0.02, interrupt_grace=0.5, failure_grace=1.0)


class Service:
    def __init__(self, url):
        self.url = url

    def script(self, *rules, **settings):
        requests.put(f"{self.url}/_script", json={"settings": settings, "rules": list(rules)}, timeout=5)

    def open_gate(self):
        requests.put(f"{self.url}/_open", json={}, timeout=5)

    @property
    def log(self):
        return requests.get(f"{self.url}/_log", timeout=5).json()

    @property
    def posts(self):
        return [event for event in self.log if event["method"] == "POST" and "/auth/" not in event["path"]]

    def wait_for_posts(self, n):
        deadline = time.monotonic() + 20
        while len(self.posts) < n:
            assert time.monotonic() < deadline, f"{len(self.posts)} of {n} requests came"
            time.sleep(0.01)


@contextlib.contextmanager
def running_service(*certificate):
    command = [sys.executable, str(HERE / "faulty_server.py"), *certificate]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            yield Service(f"{'https' if certificate else 'http'}://127.0.0.1:{port}")
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def process():
    with running_service() as service:
        yield service


@pytest.fixture
def service(process, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("BIOLM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    process.script()
    yield process
    process.open_gate()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("skesm-biolm")]
    assert not left, "the client has left threads behind"


def make_sequences(n, *, seed=0, shortest=8, longest=30):
    rng = random.Random(seed)
    made = {"".join(rng.choices("ACDEFGHIKLMNPQRSTVY", k=rng.randint(shortest, longest))): None for _ in range(2 * n)}
    return list(made)[:n]


def collect(backend, sequences, outputs=(MEAN,), model=MODEL):
    """Records by place, however far the run got, and the error that ended it."""
    records = {}
    try:
        for batch in backend.run(model, sequences, list(outputs)):
            assert not set(batch.indices) & set(records)
            records.update(zip(batch.indices, batch.records, strict=True))
    except BackendError as error:
        return records, error
    return records, None


def assert_right(records, sequences):
    for place, record in records.items():
        np.testing.assert_array_equal(record[MEAN], expected(sequences[place], "mean", LAYER, WIDTH))


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


# ------------------------------------------------------------------------------------------------ failures that pass


PASSING = [408, 425, 429, 500, 502, 503, 504, "reset", "truncate", "stall", "not json"]


@pytest.mark.parametrize("dialect", ["v1", "v3", "hub"])
@pytest.mark.parametrize("fault", PASSING)
def test_one_passing_failure_costs_one_more_request(service, dialect, fault):
    action = {
        "reset": {"reset": True}, "truncate": {"truncate": True}, "stall": {"gate": True}, "not json": {"raw": "<html>"}
    }.get(fault, {"status": fault})  # fmt: skip
    service.script({"do": action})
    sequences = make_sequences(3)
    timeout = (1, 0.3) if fault == "stall" else 5
    records, error = collect(FastBackend(service.url, dialect=dialect, timeout=timeout), sequences)
    assert error is None
    assert_right(records, sequences)
    assert len(records) == 3
    bodies = [event["body"] for event in service.posts]
    assert len(bodies) == 2
    assert len(set(bodies)) == 1


@pytest.mark.parametrize("dialect", ["v1", "v3", "hub"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRejectedError),
        (401, AuthenticationError),
        (402, RequestRejectedError),
        (403, AuthenticationError),
        (404, RequestRejectedError),
        (405, RequestRejectedError),
        (422, RequestRejectedError),
    ],
)
def test_lasting_failures_are_not_repeated(service, dialect, status, kind):
    service.script({"do": {"status": status}, "times": 9999})
    records, error = collect(FastBackend(service.url, dialect=dialect), make_sequences(8))
    assert type(error) is kind
    assert str(status) in str(error)
    assert records == {}
    assert len(service.posts) == 1


def test_a_lasting_failure_ends_a_long_job_at_once(service):
    service.script({"do": {"status": 402}, "times": 9999})
    _, error = collect(FastBackend(service.url), make_sequences(800))
    assert isinstance(error, RequestRejectedError)
    assert error.status == 402
    assert len(service.posts) == 1  # the batch size was not confirmed, so that the first request went alone


@pytest.mark.parametrize(
    "fault", [{"reset": True}, {"status": 503}, {"status": 500}, {"status": 429}, {"truncate": True}]
)
@pytest.mark.parametrize("confirmed", [False, True])
def test_an_outage_ends_a_long_job_soon(service, fault, confirmed):
    service.script({"do": fault, "times": 9999}, **({"schema_max_items": 1} if confirmed else {}))
    begun = time.monotonic()
    backend = FastBackend(service.url, batch_size=1)
    records, error = collect(backend, make_sequences(1000))
    assert isinstance(error, (ServiceUnavailableError, RateLimitError))
    assert records == {}
    assert len(service.posts) <= 16 + 20
    assert time.monotonic() - begun < 5


def test_an_outage_in_the_middle_ends_the_job_soon(service):
    """With all 16 workers busy, and with successes to pay for retries."""
    service.script({"do": {}, "times": 300}, {"do": {"reset": True}, "times": 9999}, latency=0.005)
    records, error = collect(FastBackend(service.url, batch_size=1), make_sequences(1000))
    assert isinstance(error, ServiceUnavailableError)
    assert len(records) == 300
    assert len(service.posts) <= 300 + 16 + 20


def test_a_short_outage_is_waited_out(service):
    service.script({"do": {}, "times": 5}, {"do": {"status": 503}, "times": 6})
    sequences = make_sequences(200)
    records, error = collect(FastBackend(service.url), sequences)
    assert error is None
    assert len(records) == 200
    assert_right(records, sequences)


def test_backoff_has_full_jitter():
    timing = Timing()
    for failures, most in [(1, 1), (2, 2), (3, 4), (7, 60), (2000, 60)]:
        delays = [timing.backoff(failures) for _ in range(2000)]
        assert 0 <= min(delays) < 0.05 * most
        assert 0.95 * most < max(delays) <= most


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_sequence_that_breaks_the_service_is_found(service, dialect):
    service.script(poison="WW")
    sequences = make_sequences(8)
    sequences[5] += "WW"
    records, error = collect(FastBackend(service.url, dialect=dialect), sequences)
    assert isinstance(error, PartialResultError)
    assert error.rows == (5,)
    assert isinstance(error.causes[5], ServiceUnavailableError)
    assert sorted(records) == [0, 1, 2, 3, 4, 6, 7]
    assert_right(records, sequences)
    assert len(service.posts) <= 1 + 12


@pytest.mark.parametrize("status", [413, 400])
def test_a_request_refused_for_one_item_is_halved(service, status):
    body = {"detail": "no", "errors": [], "status_code": 400, "code": "user.validation"}
    service.script({"when": {"contains": "WW"}, "do": {"status": status, "body": body}, "times": 9999})
    sequences = make_sequences(16)
    sequences[3] += "WW"
    records, error = collect(FastBackend(service.url, dialect="hub"), sequences)
    assert isinstance(error, PartialResultError)
    assert error.rows == (3,)
    assert len(records) == 15
    assert len(service.posts) <= 2 + 6


def test_an_answer_that_never_ends_is_given_up(service):
    class Impatient(FastBackend):
        _timing = Timing(backoff_base=0.01, answer_deadline=0.3)

    service.script({"do": {"drip": 0.01}})
    records, error = collect(Impatient(service.url), make_sequences(3))
    assert error is None
    assert len(records) == 3
    assert len(service.posts) == 2


# ------------------------------------------------------------------------------------------------ waiting


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_every_worker_back(service, form, status):
    wait = 2 if form == "date" else 1  # a date has whole seconds: of two, one at least is left
    value = (
        str(wait) if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=wait), usegmt=True)
    )
    headers = {"Retry-After": value}
    # Three workers wait at the gate while the fourth is told to wait: opening the gate then tempts them to go on.
    service.script(
        {"do": {"status": status, "headers": headers, "together": 4}},
        {"do": {"gate": True}, "times": 3},
        schema_max_items=1,
    )
    sequences = make_sequences(12)
    opener = threading.Thread(target=lambda: (service.wait_for_posts(4), service.open_gate()))
    opener.start()
    records, error = collect(FastBackend(service.url), sequences)
    opener.join()
    assert error is None
    assert len(records) == 12
    times = sorted(event["time"] for event in service.posts)
    assert len(times) == 13
    assert times[4] - times[0] >= 0.95  # the first four were sent together, before any answer
    assert times[3] - times[0] < 0.5


@pytest.mark.parametrize("value", ["301", "far"])
def test_a_wait_that_is_too_long_fails_and_is_named(service, value):
    if value == "far":
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=7200), usegmt=True)
    service.script({"do": {"status": 429, "headers": {"Retry-After": value}}, "times": 9999})
    begun = time.monotonic()
    _, error = collect(FastBackend(service.url), make_sequences(100))
    assert isinstance(error, RateLimitError)
    assert 300 < error.retry_after <= 7200
    assert f"{error.retry_after:.0f} s" in str(error)
    assert len(service.posts) == 1
    assert time.monotonic() - begun < 2


def test_a_service_that_cannot_be_reached_is_named_in_time(service):
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # fills the queue of a listener that accepts nobody: further connections hang
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        begun = time.monotonic()
        backend = BioLMBackend(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout=(1, 180))
        _, error = collect(backend, ["MKT"])
        assert isinstance(error, ServiceUnavailableError)
        assert "no connection in time" in str(error)
        assert 0.9 < time.monotonic() - begun < 2
        _, error = collect(backend.set_params(dialect="v1"), ["MKT"])  # which has no schema to ask for
        assert isinstance(error, ServiceUnavailableError)
        assert time.monotonic() - begun < 4


def test_the_default_timeouts_are_those_documented():
    assert BioLMBackend().timeout == (10, 180)
    assert Timing() == Timing(1.0, 60.0, 300.0, 1.0, 1800.0, 1.0, 10.0)


@pytest.mark.parametrize("dialect", ["v3", "hub"])
def test_an_answer_that_is_not_ready_is_polled_for(service, dialect):
    service.script({"do": {"poll": 3}})
    sequences = make_sequences(3)
    records, error = collect(FastBackend(service.url, dialect=dialect), sequences)
    assert error is None
    assert_right(records, sequences)
    assert len(service.posts) == 1
    assert [event["status"] for event in service.log if "_result" in event["path"]] == [303, 303, 200]


def test_a_poll_that_fails_does_not_pay_again(service):
    service.script(
        {"do": {"poll": 2}},
        {"when": {"method": "GET", "path": "_result"}, "do": {"reset": True}},
        {"when": {"method": "GET", "path": "_result"}, "do": {"status": 502}},
    )
    records, error = collect(FastBackend(service.url), make_sequences(3))
    assert error is None
    assert len(records) == 3
    assert len(service.posts) == 1


# ------------------------------------------------------------------------------------------------ concurrency, batches


def test_concurrency_settles_below_what_is_refused(service):
    cap, n = 3, 100
    service.script(cap=cap, latency=0.2, schema_max_items=1)
    records, error = collect(FastBackend(service.url), make_sequences(n))
    assert error is None
    assert len(records) == n
    steady = service.posts[12:]
    # Throughput without a clock: a request that finds the service idle starts a wave, and full waves are of `cap`.
    taken = [event["in_flight"] for event in steady if event["status"] == 200]
    assert taken.count(1) <= len(taken) / cap / 0.9
    assert sum(event["status"] == 429 for event in steady) < 0.05 * len(steady)


def test_concurrency_grows_to_its_limit(service):
    service.script(latency=0.02, schema_max_items=1)
    collect(FastBackend(service.url, max_concurrency=9), make_sequences(200))
    assert max(event["in_flight"] for event in service.posts[:4]) <= 4
    assert max(event["in_flight"] for event in service.posts) == 9


def test_a_rate_that_the_service_names_is_kept(service):
    service.script(schema_max_items=1, throttle_rate="20/second")
    collect(FastBackend(service.url, dialect="v3"), make_sequences(12))
    times = [event["time"] for event in service.posts]
    assert times[-1] - times[0] > 0.9 * 11 / 20


@pytest.mark.parametrize("dialect", ["v2", "v3", "hub"])
def test_batch_size_is_what_the_service_says(service, dialect, monkeypatch):
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    service.script(schema_max_items=5)
    backend = FastBackend(service.url, dialect=dialect)
    assert backend.plan(MODEL, make_sequences(12) * 2, [MEAN]).requests == 3
    records, _ = collect(backend, make_sequences(12))
    assert len(records) == 12
    assert sorted(event["items"] for event in service.posts) == [2, 5, 5]
    schemas = [event for event in service.log if event["method"] == "GET"]
    assert len(schemas) == 2  # one for the plan, one for the run
    assert not any(event["credentials"] for event in schemas)
    assert all(event["credentials"] for event in service.posts)


@pytest.mark.parametrize("dialect", ["v1", "v3", "hub"])
def test_batch_size_is_learned_from_one_refusal(service, dialect):
    service.script(max_items=4)
    sequences = make_sequences(64)
    records, error = collect(FastBackend(service.url, dialect=dialect), sequences)
    assert error is None
    assert_right(records, sequences)
    assert len(records) == 64
    assert [event["items"] for event in service.posts] == [8] + [4] * 16


def test_long_answers_make_small_batches(service):
    long = ["M" * 2000 + s for s in make_sequences(4)]
    plan = FastBackend(service.url).plan("esm2-650m", long, [OutputSpec("residues", 33)])
    assert (plan.requests, plan.sequences) == (4, 4)
    assert FastBackend(service.url).plan("esm2-650m", long, [OutputSpec("contacts")]).requests == 4
    assert FastBackend(service.url).plan("esm2-650m", long, [OutputSpec("mean", 33)]).requests == 1


def test_a_plan_sends_no_sequence(service):
    sequences = [*make_sequences(20), "MKJ"]
    plan = FastBackend(service.url).plan(MODEL, sequences, [MEAN])
    assert (plan.requests, plan.sequences, plan.refused, plan.batch_size) == (3, 20, 1, 8)
    assert plan.residues == sum(map(len, sequences[:20]))
    assert service.posts == []


# ------------------------------------------------------------------------------------------------ single items


@pytest.mark.parametrize("naming_status", [400, 422, 200])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_named_items_are_dropped_and_the_rest_sent_once(service, dialect, naming_status):
    service.script(unreadable="WW", naming_status=naming_status)
    sequences = make_sequences(8)
    sequences[2] += "WW"
    records, error = collect(FastBackend(service.url, dialect=dialect), sequences)
    assert isinstance(error, PartialResultError)
    assert error.rows == (2,)
    assert error.results is None
    assert isinstance(error.causes[2], RequestRejectedError)
    assert_right(records, sequences)
    assert len(records) == 7
    assert [event["items"] for event in service.posts] == [8, 7]


def test_three_bad_rows_of_a_thousand_cost_three_rows(service):
    service.script(unreadable="WW")
    sequences = make_sequences(1000)
    for place in (17, 18, 940):
        sequences[place] += "WW"
    records, error = collect(FastBackend(service.url), sequences)
    assert isinstance(error, PartialResultError)
    assert error.rows == (17, 18, 940)
    assert len(records) == 997
    assert_right(records, sequences)
    again = pickle.loads(pickle.dumps(error))
    assert (again.rows, str(again)) == (error.rows, str(error))
    assert "17 (" in str(error)


# ------------------------------------------------------------------------------------------------ never twice


def test_a_worker_waits_until_its_batch_was_taken_and_the_consumer_came_back(service):
    backend = FastBackend(service.url, batch_size=1, max_concurrency=1)
    batches = backend.run(MODEL, make_sequences(5), [MEAN])
    for taken in range(1, 4):
        next(batches)
        # A worker that did not wait would send within a millisecond; nothing can be waited for here.
        time.sleep(0.15)
        assert len(service.posts) == taken
    batches.close()
    assert len(service.posts) == 3


def test_no_worker_runs_ahead(service):
    service.script(schema_max_items=1)
    batches = FastBackend(service.url, max_concurrency=4).run(MODEL, make_sequences(50), [MEAN])
    next(batches)
    service.wait_for_posts(4)
    time.sleep(0.15)
    assert len(service.posts) == 4
    batches.close()


CHILD = """
    import json, os, signal, sys, threading
    from skesm.outputs.spec import OutputSpec
    from skesm.backends.biolm import BioLMBackend

    url, path, how = sys.argv[1:]
    sequences = json.load(sys.stdin)
    done = json.load(open(path)) if os.path.exists(path) else []
    left = [s for s in sequences if s not in done]
    try:
        for n, batch in enumerate(BioLMBackend(url).run("esm2-8m", left, [OutputSpec("mean", 6)]), 1):
            done += [left[i] for i in batch.indices]
            with open(path + ".new", "w") as file:
                json.dump(done, file)
            os.replace(path + ".new", path)
            if n == 5:
                print("five", flush=True)
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
    except KeyboardInterrupt:
        print(sum(t.name.startswith("skesm-biolm") for t in threading.enumerate()), flush=True)
        sys.exit(130)
"""


def run_child(service, path, how, sequences):
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), service.url, str(path), how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdin.write(json.dumps(sequences))
    child.stdin.close()
    return child


def test_after_sigkill_only_the_unfinished_is_asked_for(service, tmp_path):
    service.script(latency=0.02, schema_max_items=4)
    sequences, path = make_sequences(100), tmp_path / "done.json"
    with run_child(service, path, "kill", sequences) as child:
        assert child.wait(30) == -signal.SIGKILL
    first = [place for event in service.posts for place in event["ids"]]
    stored = set(json.loads(path.read_text()))
    assert len(stored) == 20
    with run_child(service, path, "run", sequences) as child:
        assert child.wait(30) == 0
    assert sorted(json.loads(path.read_text())) == sorted(sequences)
    counts = Counter(place for event in service.posts for place in event["ids"])
    # Sent twice: only what was in flight or not yet taken, one batch of four for each of 16 workers at most.
    twice = [place for place, n in counts.items() if n > 1]
    assert max(counts.values()) <= 2
    assert len(twice) == len(first) - len(stored) <= 16 * 4
    assert not {zlib.crc32(s.encode()) for s in stored} & set(twice)


@pytest.mark.parametrize("answered", [True, False])
def test_ctrl_c_keeps_what_is_done_and_leaves_nothing_behind(service, tmp_path, answered):
    """Five batches are done when Ctrl-C comes, and four requests wait: for an answer that comes soon, or never."""
    service.script({"do": {}, "times": 5}, {"do": {"gate": True}, "times": 9999}, schema_max_items=4)
    sequences, path = make_sequences(100), tmp_path / "done.json"
    with run_child(service, path, "run", sequences) as child:
        assert child.stdout.readline() == "five\n"
        service.wait_for_posts(5 + 4)
        under_way = len(service.posts) - 5
        time.sleep(0.1)  # the child sleeps too: it has nothing to take
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        if answered:
            service.open_gate()
        assert child.stdout.readline() == "0\n"  # threads left
        assert time.monotonic() - begun < 2
        assert child.wait(5) == 130
    service.open_gate()
    posts = service.posts
    assert len(posts) == 5 + under_way  # nothing was sent after Ctrl-C
    done = json.loads(path.read_text())
    assert len(done) == (5 + under_way if answered else 5) * 4
    with run_child(service, path, "run", sequences) as child:
        assert child.wait(30) == 0
    assert sum(event["items"] for event in service.posts[len(posts) :]) == 100 - len(done)


def test_closing_the_iterator_ends_requests_that_hang(service):
    service.script({"do": {}}, {"do": {"gate": True}, "times": 99}, schema_max_items=1)
    batches = FastBackend(service.url).run(MODEL, make_sequences(20), [MEAN])
    next(batches)
    service.wait_for_posts(4)
    begun = time.monotonic()
    batches.close()
    assert time.monotonic() - begun < 1
    # that no thread is left is looked at by the fixture


def test_what_is_under_way_when_a_job_fails_is_kept(service):
    service.script({"do": {"status": 402, "together": 4}}, {"do": {"gate": True}, "times": 3}, schema_max_items=1)
    opener = threading.Thread(target=lambda: (service.wait_for_posts(4), time.sleep(0.1), service.open_gate()))
    opener.start()
    records, error = collect(FastBackend(service.url), make_sequences(12))
    opener.join()
    assert isinstance(error, RequestRejectedError)
    assert len(records) == 3
    assert len(service.posts) == 4


# ------------------------------------------------------------------------------------------------ credentials


@pytest.mark.parametrize("name", ["BIOLM_TOKEN", "BIOLMAI_TOKEN"])
def test_token(service, monkeypatch, name):
    monkeypatch.setenv(name, CANARY_TOKEN)
    service.script(token=CANARY_TOKEN)
    records, error = collect(FastBackend(service.url, dialect="v3"), make_sequences(3))
    assert error is None
    assert len(records) == 3


def test_netrc_does_not_replace_the_token(service, monkeypatch, tmp_path):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    service.script(token=CANARY_TOKEN)
    assert collect(FastBackend(service.url), make_sequences(3))[1] is None


@pytest.mark.parametrize("dialect", ["v1", "v3"])
@pytest.mark.parametrize("source", ["environment", "login", ".biolm", ".biolmai"])
def test_cookies_are_found_and_refreshed_once(service, monkeypatch, tmp_path, source, dialect):
    if source == "environment":
        monkeypatch.setenv("BIOLM_ACCESS", "expired")
        monkeypatch.setenv("BIOLM_REFRESH", "refresh-1")
    elif source == "login":
        monkeypatch.setenv("BIOLM_USER", "ada")
        monkeypatch.setenv("BIOLM_PASSWORD", "lovelace")
    else:
        (tmp_path / source).mkdir()
        content = {"access": "expired", "refresh": "refresh-1", "token_url": f"{service.url}/oauth/token"}
        (tmp_path / source / "credentials").write_text(json.dumps(content))
    service.script(
        access="never", next_access="fresh", refresh="refresh-1", login=["ada", "lovelace"], schema_max_items=1
    )
    records, error = collect(FastBackend(service.url, dialect=dialect), make_sequences(40))
    assert error is None
    assert len(records) == 40
    logins = [event["path"] for event in service.log if "/auth/" in event["path"]]
    assert logins == ["/api/auth/token/" if source == "login" else "/api/auth/token/refresh/"]


def test_eight_workers_refresh_once(service, monkeypatch):
    """All eight requests are refused while they are under way together."""
    monkeypatch.setenv("BIOLM_ACCESS", "old")
    monkeypatch.setenv("BIOLM_REFRESH", "refresh-1")
    refusal = {"when": {"min_items": 1}, "do": {"meet": 8, "status": 401}, "times": 8}
    service.script(
        {"do": {}, "times": 60}, refusal, next_access="new", refresh="refresh-1", schema_max_items=1, latency=0.01
    )
    records, error = collect(FastBackend(service.url, max_concurrency=8), make_sequences(120))
    assert error is None
    assert len(records) == 120
    assert sum("/auth/" in event["path"] for event in service.log) == 1
    assert len(service.posts) == 128


@pytest.mark.parametrize("refusal_with_200", [False, True])
def test_refused_refresh_ends_the_job(service, monkeypatch, refusal_with_200):
    monkeypatch.setenv("BIOLM_ACCESS", "expired")
    monkeypatch.setenv("BIOLM_REFRESH", "expired too")
    service.script(access="x", refresh="y", next_access="z", refusal_with_200=refusal_with_200)
    _, error = collect(FastBackend(service.url), make_sequences(100))
    assert isinstance(error, AuthenticationError)
    assert "refresh" in str(error)
    assert sum("/auth/" in event["path"] for event in service.log) == 1
    assert len(service.posts) == 1


def test_no_credentials_no_request():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BIOLM_TOKEN", "BIOLMAI_TOKEN", "BIOLM_ACCESS", "BIOLM_REFRESH", "BIOLM_USER"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", "/nonexistent")
        with pytest.raises(AuthenticationError, match="BIOLM_TOKEN"):
            next(BioLMBackend("https://biolm.ai").run(MODEL, ["MKT"], [MEAN]))


def test_the_hosted_services_file_is_for_the_hosted_service(service, tmp_path):
    (tmp_path / ".biolm").mkdir()
    (tmp_path / ".biolm" / "credentials").write_text('{"access": "a", "refresh": "r"}')
    collect(FastBackend(service.url), make_sequences(3))
    assert not any(event["credentials"] for event in service.log)


# ------------------------------------------------------------------------------------------------ where nothing may go


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_other_origins_are_not_followed(service, monkeypatch, status):
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.setblocking(False)
        target = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/steal?signature=hidden"
        service.script({"do": {"status": status, "headers": {"Location": target}}, "times": 99})
        _, error = collect(FastBackend(service.url), make_sequences(100))
        assert isinstance(error, RequestRejectedError)
        assert "hidden" not in str(error)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert len(service.posts) == 1


def test_same_origin_redirects_keep_the_method(service):
    service.script({"do": {"status": 307, "headers": {"Location": "/api/v1/esm2-8m/encode"}}})
    records, error = collect(FastBackend(service.url, dialect="v3"), make_sequences(3))
    assert isinstance(error, InvalidAnswerError) or len(records) == 3
    assert [event["method"] for event in service.log if "encode" in event["path"]].count("POST") == 2


@pytest.mark.parametrize("url", ["http://example.org", "http://192.0.2.1:8000", "http://127.0.0.1.example.org"])
def test_plain_http_to_other_machines_is_refused_before_sending(monkeypatch, url):
    monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    with pytest.raises(ValueError, match="plain http"):
        BioLMBackend(url).run(MODEL, ["MKT"], [MEAN])
    assert BioLMBackend(url, allow_http=True).namespace(MODEL).fingerprint.startswith(url)


@pytest.mark.parametrize(
    "url", ["https://user:secret@example.org", "ftp://example.org", "example.org", "https://x.org/?k=v"]
)
def test_addresses_that_make_no_sense_are_refused(url):
    with pytest.raises(ValueError, match="base_url") as caught:
        BioLMBackend(url).namespace(MODEL)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https(service, monkeypatch, tmp_path):
    """Certificates are checked, an authority of one's own can be named, and a request that hangs can be ended."""
    certificate = str(tmp_path / "certificate.pem")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", certificate + ".key", "-out", certificate]
    subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(Path(certificate + ".key").read_text() + Path(certificate).read_text())
    sequences = make_sequences(20)
    with running_service(str(both)) as secure:
        _, error = collect(FastBackend(secure.url), sequences)
        assert isinstance(error, ServiceUnavailableError)
        assert "certificate" in str(error)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
        records, error = collect(FastBackend(secure.url), sequences)
        assert error is None
        assert_right(records, sequences)
        assert len(records) == 20
        secure.script({"do": {}}, {"do": {"gate": True}, "times": 99}, schema_max_items=1)
        batches = FastBackend(secure.url).run(MODEL, sequences, [MEAN])
        next(batches)
        secure.wait_for_posts(4)
        begun = time.monotonic()
        batches.close()
        assert time.monotonic() - begun < 1
        secure.open_gate()


def everything_about(error):
    """An error as the most talkative tool shows it: all causes, all frames with their local variables."""
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    parts, errors = [], [error, *getattr(error, "causes", {}).values()]
    for one in errors:  # grows while it is walked
        errors += [e for e in (one.__cause__, one.__context__) if e is not None and e not in errors]
        parts += [repr(one), str(one), repr(vars(one)), repr(pickle.dumps(one))]
    return shown + "".join(parts)


FAULTS = [
    {"status": 400, "body": {"error": f"bad {CANARY_SEQUENCE} for {CANARY_TOKEN}"}},
    {"status": 400, "body": {"error": {"items__0__sequence": [f"{CANARY_SEQUENCE[:12]} {CANARY_TOKEN}"]}}},
    {"status": 422, "body": {"detail": [
        {"type": "x", "loc": ["body", "items", 0, "sequence"], "msg": f"cannot read {CANARY_SEQUENCE.lower()}",
         "input": CANARY_SEQUENCE}]}},
    {"status": 402, "body": {"detail": f"pay, {CANARY_TOKEN}"}},
    {"status": 500, "body": {"detail": f"trace of {CANARY_SEQUENCE} {CANARY_TOKEN}"}},
    {"status": 401, "body": {"detail": CANARY_TOKEN}},
    {"reset": True},
    {"truncate": True},
    {"mutate": "wrong_width"},
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("how", ["token", "cookies"])
def test_canaries_appear_nowhere(service, monkeypatch, caplog, fault, how):
    if how == "token":
        monkeypatch.setenv("BIOLM_TOKEN", CANARY_TOKEN)
    else:
        monkeypatch.setenv("BIOLM_ACCESS", CANARY_TOKEN)
        monkeypatch.setenv("BIOLM_REFRESH", f"{CANARY_TOKEN}-2")
    caplog.set_level(logging.DEBUG)
    service.script({"do": fault, "times": 9999})
    backend = FastBackend(service.url, dialect="v3")
    sequences = [CANARY_SEQUENCE, CANARY_SEQUENCE + "A"]
    run = backend.run(MODEL, sequences, [MEAN])
    error = exhaust(run)
    assert isinstance(error, BackendError)
    # No part of the client may hold the token: not even a frame's variables, which some tools show.
    shown = everything_about(error) + repr(backend) + repr(pickle.dumps(backend)) + repr(clone(backend))
    assert CANARY_TOKEN not in shown + caplog.text + repr(backend.namespace(MODEL)) + repr(backend.get_params())
    # Frames of the caller hold the sequences, as they must; nothing that is told may.
    told = [str(e) + repr(e) for e in (error, *getattr(error, "causes", {}).values())]
    told += traceback.format_exception(error)
    for text in ("".join(told), caplog.text):
        assert CANARY_SEQUENCE[:12].lower() not in text.lower()
    assert set(getattr(error, "rows", (0, 1))) <= {0, 1}


def exhaust(run):
    try:
        for _ in run:
            pass
    except BackendError as error:
        return error


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
