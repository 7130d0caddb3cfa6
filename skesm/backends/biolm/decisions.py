"""Decides the next step after a request has failed. A pure function, without sockets, clocks or threads.

=====================================  ==================================================================
outcome                                decision
=====================================  ==================================================================
408 425 429 500 502 503 504, resets,   `Wait`: the same request again, after a wait with full jitter. At most
timeouts, bodies cut short             `max_attempts` times, and while the job's budget of retries lasts
500, 504 or a timeout, twice           `Halve`: one of the batch's items may be the reason
413                                    `Halve` at once. A single item fails
400, 422 that name items               `Send` the others. These have failed
400, 422 for too many items            `Send` in smaller batches. The limit is learned
400, 422 otherwise, invalid answers    `Fail` (`Halve` first if the service calls it the user's error). Three in a
                                       row without a success end the job
a failure after a 303                  `Fail`: the work may have been paid for, and is not posted again
all else                               `Stop`: the job ends
=====================================  ==================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from skesm.exceptions import (
    AuthenticationError,
    BackendError,
    InvalidAnswerError,
    RateLimitError,
    RequestRejectedError,
    ServiceUnavailableError,
)

#: Statuses of failures that may pass.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Of these, the ones that the request itself may cause.
SUSPICIOUS_STATUSES = frozenset({500, 504})
#: Failures of one body that suggest that the body is the reason.
_SUSPICIONS = 2
_TOO_MANY_REQUESTS = 429
_TOO_LARGE = 413
#: Statuses with which a service refuses a request. 200 may carry an error too.
_REFUSALS = frozenset({200, 400, 422})
_FINAL = _REFUSALS | {_TOO_LARGE, 402, 403}


@dataclass(frozen=True)
class Outcome:
    """Outcome of one attempt that failed.

    Attributes
    ----------
    status : int or None
        HTTP status. None if no usable answer came.
    unreachable : bool
        Whether no connection could be made.
    slow : bool
        Whether the service had the request and did not answer in time.
    accepted : bool
        Whether the service took the request (303): only its answer was asked for since.
    retry_after : float or None
        Seconds that the service asks to wait.
    named : int
        Items that it names as the reason.
    too_many : bool
        Whether it says that the request holds too many items.
    user_error : bool
        Whether it calls the failure the user's error.
    invalid : bool
        Whether it is an answer, but not to this request.
    """

    status: int | None = None
    unreachable: bool = False
    slow: bool = False
    accepted: bool = False
    retry_after: float | None = None
    named: int = 0
    too_many: bool = False
    user_error: bool = False
    invalid: bool = False

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in RETRYABLE_STATUSES

    @property
    def throttled(self) -> bool:
        """Whether there were too many requests."""
        return self.status == _TOO_MANY_REQUESTS

    @property
    def suspicious(self) -> bool:
        """Whether the request itself may be the reason."""
        return self.slow or self.status in SUSPICIOUS_STATUSES


@dataclass(frozen=True)
class Attempt:
    """How a batch has gone so far, this sending included.

    Attributes
    ----------
    items : int
        Sequences in it.
    failures, suspicions : int
        Temporary failures, and the ones among them that the batch may have caused.
    halved : bool
        Whether it is a part of a batch that failed.
    alone : bool
        Whether no request of the job has succeeded since its first failure.
    """

    items: int = 1
    failures: int = 0
    suspicions: int = 0
    halved: bool = False
    alone: bool = True


@dataclass(frozen=True)
class Budget:
    """Retries and state of the job.

    Attributes
    ----------
    retries : int
        Sendings that may be repeated.
    max_attempts : int
        Sendings of one body.
    longest_wait : float
        Seconds that are waited at most when the service asks for a wait.
    reached : bool
        Whether any request of the job has succeeded.
    outage : bool
        Whether every request fails, and has for long enough.
    """

    retries: int = 20
    max_attempts: int = 5
    longest_wait: float = 300.0
    reached: bool = False
    outage: bool = False


@dataclass(frozen=True)
class Send:
    """Send the rest of the batch at once: without the named items, or in smaller batches."""


@dataclass(frozen=True)
class Wait:
    """Send the same request again, after a wait."""


@dataclass(frozen=True)
class Halve:
    """Send each half alone. With `counted`, each takes a retry from the job's budget."""

    counted: bool
    error: type[BackendError]
    reason: str


@dataclass(frozen=True)
class Fail:
    """The batch has failed. Three `counted` failures in a row, without a success, end the job."""

    counted: bool
    error: type[BackendError]
    reason: str


@dataclass(frozen=True)
class Stop:
    """The job ends."""

    error: type[BackendError]
    reason: str


Decision = Send | Wait | Halve | Fail | Stop


def decide(outcome: Outcome, attempt: Attempt, budget: Budget) -> Decision:
    """Decide the next step.

    In reasons, ``{told}`` stands for the service's words, ``{failures}`` for the count, ``{remedy}`` for the setting.

    Examples
    --------
    >>> decide(Outcome(503), Attempt(items=8, failures=1), Budget())
    Wait()
    >>> decide(Outcome(500), Attempt(items=8, failures=2, suspicions=2), Budget()).counted
    True
    >>> decide(Outcome(402), Attempt(items=8), Budget()).error.__name__
    'RequestRejectedError'
    """
    if outcome.accepted and outcome.status not in _FINAL:
        reason = "the service took the request, but its answer cannot be fetched and it is not sent twice: {told}"
        return Fail(True, ServiceUnavailableError, reason)
    if outcome.may_pass:
        return _after_failure(outcome, attempt, budget)
    return _after_refusal(outcome, attempt)


def out_of_budget(*, throttled: bool) -> Stop:
    """End the job: it has no retries left."""
    if throttled:
        return Stop(RateLimitError, "the service refuses every attempt ({told}): run again later")
    reason = "the service keeps failing, and the retries of this job are used up. Last failure: {told}"
    return Stop(ServiceUnavailableError, reason)


def _after_failure(outcome: Outcome, attempt: Attempt, budget: Budget) -> Decision:
    if outcome.retry_after is not None and outcome.retry_after > budget.longest_wait:
        reason = f"the service asks to wait for {outcome.retry_after:.0f} s ({{told}}): run again then, "
        return Stop(RateLimitError, f"{reason}finished sequences are not sent again")
    if outcome.unreachable and not budget.reached:
        return Stop(ServiceUnavailableError, "the service cannot be reached ({told}): {remedy}")
    if budget.outage:
        return Stop(ServiceUnavailableError, "the service does not answer: {told}")
    if attempt.suspicions >= _SUSPICIONS and (attempt.halved or attempt.items > 1):
        return _halve(attempt, True, ServiceUnavailableError, "the service fails on this sequence: {told}")
    if attempt.failures >= budget.max_attempts:
        error = RateLimitError if outcome.throttled else ServiceUnavailableError
        reason = "no answer after {failures} attempts: {told}"
        if attempt.alone:
            return Stop(error, reason)
        return Fail(False, error, reason) if outcome.throttled else _halve(attempt, True, error, reason)
    if budget.retries <= 0:
        return out_of_budget(throttled=outcome.throttled)
    return Wait()


def _after_refusal(outcome: Outcome, attempt: Attempt) -> Decision:
    if outcome.invalid:
        return Fail(True, InvalidAnswerError, "{told}: nothing of this answer was used")
    if outcome.status == _TOO_LARGE:
        return _halve(attempt, False, RequestRejectedError, "the request is too large for the service ({told})")
    if outcome.status in _REFUSALS:
        if outcome.named or (outcome.too_many and attempt.items > 1):
            return Send()
        reason = "the service refuses the request ({told})"
        if outcome.user_error:
            return _halve(attempt, False, RequestRejectedError, reason)
        return Fail(True, RequestRejectedError, reason)
    hints = {402: "the account cannot pay for it", 404: "the service has no such model or path"}
    if outcome.status == 403:
        return Stop(AuthenticationError, "the service does not permit this ({told})")
    hint = hints.get(outcome.status or 0, "the service refuses the request")
    return Stop(RequestRejectedError, f"{hint} ({{told}})")


def _halve(attempt: Attempt, counted: bool, error: type[BackendError], reason: str) -> Decision:
    """Halve a batch. A single item has failed."""
    return Halve(counted, error, reason) if attempt.items > 1 else Fail(False, error, reason)
