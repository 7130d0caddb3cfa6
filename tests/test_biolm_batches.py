"""How the BioLM client shares its work out, and that it never pays twice."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections import Counter

import pytest
from biolm_service import CANARY_TOKEN, DIALECTS, MEAN, MODEL, FastBackend, assert_right, collect, make_sequences

from skesm.exceptions import PartialResultError, RequestRejectedError
from skesm.outputs.spec import OutputSpec

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
