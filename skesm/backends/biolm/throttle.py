"""How fast a job may send: concurrency that adapts, waits that all workers share, and a budget of retries."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

#: Requests in flight at the start, before anything is known of the service.
START_CONCURRENCY = 4
#: Windows of success at the last good level before a refused level is tried again. Each refusal doubles it.
FIRST_HOLD = 16
LONGEST_HOLD = 256
#: Retries that a job may have spent without a success to pay for them.
RETRY_BUDGET = 20


@dataclass(frozen=True)
class Timing:
    """Durations of the client in seconds. Only tests change them."""

    backoff_base: float = 1.0
    backoff_cap: float = 60.0
    longest_wait: float = 300.0  # a Retry-After beyond this fails the job and names the wait
    poll_interval: float = 1.0  # between two looks at an answer that is still being computed
    answer_deadline: float = 1800.0  # for one answer, polls included
    interrupt_grace: float = 1.0  # for answers under way when the user interrupts
    failure_grace: float = 10.0  # for answers under way when the job fails

    def backoff(self, failures: int) -> float:
        """A delay with full jitter after so many failures in a row."""
        # Jitter spreads clients, it protects no secret.
        return random.uniform(0, min(self.backoff_cap, self.backoff_base * 2.0 ** min(failures - 1, 30)))


class Pace:
    """Decides when a worker may send its next request. The workers of one job share it.

    Concurrency starts at 4 and follows additive increase, multiplicative decrease: one more after each window (as many
    successes as requests in flight), half after a refusal, once for all requests that were under way together. The
    level that was refused is remembered: recovery up to just below it is quick, and it is tried again only after
    many windows, so that a service with a fixed limit is kept busy and refuses next to nothing.

    When every request fails, one worker at a time tries again, after a growing wait that all share. The job is over
    after `max_attempts` such tries.

    Parameters
    ----------
    max_concurrency : int
        Requests in flight, at most.
    max_attempts : int
        Tries during an outage.
    timing : Timing
        Durations.
    probe : bool
        Send one request alone before all others, because the service has not confirmed the batch size.
    requests_per_second : float or None
        Rate that the service publishes.
    """

    def __init__(
        self,
        max_concurrency: int,
        max_attempts: int,
        timing: Timing,
        *,
        probe: bool = False,
        requests_per_second: float | None = None,
    ) -> None:
        self.successes = 0
        self._max_concurrency = max_concurrency
        self._max_attempts = max_attempts
        self._timing = timing
        self._interval = 1.0 / requests_per_second if requests_per_second else 0.0
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._probing = probe
        self._limit = 1 if probe else min(START_CONCURRENCY, max_concurrency)
        self._in_flight = 0
        self._epoch = 0
        self._window = 0  # successes since the limit last changed
        self._refused: int | None = None  # the lowest level that is known to be too high
        self._hold = FIRST_HOLD
        self._floor = 0.0  # nothing is sent before this time
        self._next_slot = 0.0  # and no earlier than this, for the rate
        self._strikes = 0  # failures of the service itself since the last success
        self._limit_before_outage = 0
        self._budget = RETRY_BUDGET

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return self._limit

    @property
    def stopped(self) -> bool:
        """Whether nothing may be sent any more."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let nobody send any more, and wake everybody who waits."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def sleep(self, seconds: float) -> None:
        """Wait, or return at once when the job stops."""
        self._stopped.wait(seconds)

    def enter(self) -> int | None:
        """Wait for the permission to send one request.

        Returns
        -------
        epoch : int or None
            To be handed back to `leave_…`. None if the job has stopped.
        """
        with self._changed:
            while not self._stopped.is_set():
                now = time.monotonic()
                wait = max(self._floor, self._next_slot) - now
                if self._in_flight < self._limit and wait <= 0:
                    self._in_flight += 1
                    self._next_slot = max(self._next_slot, now) + self._interval
                    return self._epoch
                self._changed.wait(wait if wait > 0 else None)
            return None

    def leave_unused(self) -> None:
        """Return the permission without having learned anything."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def leave_answered(self, epoch: int, success: bool) -> None:
        """Note an answer of the service: a result, or a definite refusal of the request."""
        with self._changed:
            self._in_flight -= 1
            if self._probing:
                self._probing = False
                self._limit = min(START_CONCURRENCY, self._max_concurrency)
            if self._limit_before_outage:
                self._limit = max(1, self._limit_before_outage // 2)
                self._limit_before_outage = 0
            self._strikes = 0
            if success:
                self.successes += 1
                self._budget = min(RETRY_BUDGET, self._budget + 1)
                if epoch == self._epoch:
                    self._grow()
            self._changed.notify_all()

    def _grow(self) -> None:
        self._window += 1
        level = self._limit + 1
        if self._refused is None or level > self._refused:
            needed = self._limit
            if self._refused is not None and self._window >= needed:
                self._refused = None  # the level that was refused has carried a whole window
        elif level < self._refused:
            needed = 1
        else:
            needed = self._limit * self._hold
        if self._window >= needed and level <= self._max_concurrency:
            self._limit, self._window = level, 0

    def leave_throttled(self, epoch: int) -> None:
        """Note that the service refused a request because there were too many."""
        with self._changed:
            self._in_flight -= 1
            if epoch == self._epoch and not self._probing:
                again = self._refused is not None and self._limit >= self._refused
                self._hold = min(self._hold * 2, LONGEST_HOLD) if again else FIRST_HOLD
                self._refused = self._limit if self._limit > 1 else None
                self._limit = max(1, self._limit // 2)
                self._window = 0
                self._epoch += 1
            self._changed.notify_all()

    def leave_failed(self, epoch: int, outage: bool) -> bool:
        """Note a failure that may pass.

        Parameters
        ----------
        epoch : int
            The value that `enter` returned.
        outage : bool
            Whether it looks like the service rather than the request.

        Returns
        -------
        going : bool
            False when the service is to be given up.
        """
        with self._changed:
            self._in_flight -= 1
            beyond = 0
            if outage:
                self._strikes += 1
                threshold = max(3, self._limit_before_outage or self._limit)
                beyond = self._strikes - threshold + 1
                if beyond > 0:
                    self._limit_before_outage = self._limit_before_outage or self._limit
                    self._limit = 1
                    self._floor = max(self._floor, time.monotonic() + self._timing.backoff(beyond))
            self._changed.notify_all()
            return beyond <= self._max_attempts

    def hold_back(self, seconds: float) -> None:
        """Let no worker send for so long: the service asked for it."""
        with self._changed:
            self._floor = max(self._floor, time.monotonic() + seconds)
            self._changed.notify_all()

    @property
    def retries(self) -> int:
        """Retries that are left of the job's budget."""
        return self._budget

    def spend_retry(self) -> bool:
        """Take one retry from the job's budget. False if it is used up."""
        with self._changed:
            self._budget -= 1
            return self._budget >= 0
