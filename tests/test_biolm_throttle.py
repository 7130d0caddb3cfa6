"""Rules of sending that need no network."""

from __future__ import annotations

import threading
import time

from skesm.backends.biolm.throttle import LONGEST_HOLD, RETRY_BUDGET, START_CONCURRENCY, Pace, Timing


def make_pace(**kwargs):
    return Pace(16, 5, Timing(backoff_base=0.01), **kwargs)


def fill(pace):
    return [pace.enter() for _ in range(pace.limit)]


def test_starts_at_four_and_grows_by_one_a_window():
    pace = make_pace()
    assert pace.limit == START_CONCURRENCY == 4
    for limit in (4, 5, 6, 7):
        assert pace.limit == limit
        for epoch in fill(pace):
            pace.leave_answered(epoch, success=True)
    assert pace.limit == 8


def test_never_exceeds_its_maximum():
    pace = Pace(5, 5, Timing())
    for _ in range(100):
        pace.leave_answered(pace.enter(), success=True)
    assert pace.limit == 5


def test_halves_once_for_requests_that_were_under_way_together():
    pace = make_pace()
    for epoch in fill(pace):
        pace.leave_throttled(epoch)
    assert pace.limit == 2
    pace.leave_throttled(pace.enter())
    assert pace.limit == 1
    pace.leave_throttled(pace.enter())
    assert pace.limit == 1


def test_recovers_quickly_and_tries_the_refused_level_ever_more_rarely():
    pace = make_pace()
    for epoch in fill(pace):
        pace.leave_throttled(epoch)
    tries = []
    for _ in range(8):
        successes = 0
        while pace.limit < 4:
            pace.leave_answered(pace.enter(), success=True)
            successes += 1
        pace.leave_throttled(pace.enter())
        tries.append(successes)
    assert tries == sorted(tries)
    assert tries[0] > 16
    assert tries[-1] == tries[-2] <= 1 + 3 * LONGEST_HOLD


def test_a_probe_goes_alone():
    pace = make_pace(probe=True)
    epoch = pace.enter()
    assert pace.limit == 1
    pace.leave_answered(epoch, success=False)
    assert pace.limit == START_CONCURRENCY


def test_the_budget_is_refilled_by_successes():
    pace = make_pace()
    assert [pace.spend_retry() for _ in range(RETRY_BUDGET + 1)] == [True] * RETRY_BUDGET + [False]
    for _ in range(3):
        pace.leave_answered(pace.enter(), success=True)
    assert pace.spend_retry()


def test_in_an_outage_one_at_a_time_tries_and_then_it_is_over():
    pace = make_pace()
    for epoch in fill(pace):
        assert pace.leave_failed(epoch, outage=True)
    assert pace.limit == 1
    going = [pace.leave_failed(pace.enter(), outage=True) for _ in range(5)]
    assert going == [True] * 4 + [False]
    pace.leave_answered(pace.enter(), success=True)
    assert pace.limit == 2


def test_everybody_waits_together_and_is_woken_by_the_stop():
    pace = make_pace()
    pace.hold_back(0.2)
    begun = time.monotonic()
    entered = []
    threads = [threading.Thread(target=lambda: entered.append((pace.enter(), time.monotonic()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(entered) < 4:
        time.sleep(0.005)
    assert min(when for _, when in entered) - begun >= 0.2
    pace.stop()
    for thread in threads:
        thread.join(1)
        assert not thread.is_alive()
    assert [epoch for epoch, _ in entered].count(None) == 4
