"""The BioLM client against a service that fails or is slow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from biolm_service import DIALECTS, FastBackend, assert_right, collect, make_sequences

from skesm.backends.biolm import BioLMBackend
from skesm.backends.biolm.throttle import Timing
from skesm.exceptions import (
    AuthenticationError,
    PartialResultError,
    RateLimitError,
    RequestRejectedError,
    ServiceUnavailableError,
)

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
