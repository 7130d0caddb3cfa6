"""What a worker of the BioLM client does with one request, until it is settled.

=====================================  ==================================================================
answer                                 consequence
=====================================  ==================================================================
valid                                  handed over; the worker sends again when the consumer has come back for more
values of one item not finite          this item has failed, the others are handed over
408 425 429 500 502 503 504, resets,   sent again, the wait has full jitter; at most `max_attempts` times, and
timeouts, bodies cut short             while the job's budget of retries lasts
500, 504 or a timeout, twice           the batch is halved: one of its items may be the reason
413                                    halved at once; a single item has failed
400, 422 that name items               these have failed, the others are sent again
400, 422 for too many items            the limit is learned, the batch is cut
400, 422 otherwise; invalid answers    the batch has failed (halved first if the service calls it the user's error);
                                       three in a row without a success end the job
all else                               the job ends
=====================================  ==================================================================
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from skesm.backends.biolm_auth import Auth
from skesm.backends.biolm_errors import Refusal, carries_error, decode_error, scrub
from skesm.backends.biolm_throttle import Pace, Timing
from skesm.backends.biolm_transport import RETRYABLE_STATUSES, Connection, Reply, TransportFailure
from skesm.backends.biolm_wire import (
    action_path,
    decode_answer,
    floats_per_answer,
    needs_equal_lengths,
    request_body,
)
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import (
    AuthenticationError,
    BackendError,
    InvalidAnswerError,
    RateLimitError,
    RequestRejectedError,
    ServiceUnavailableError,
)
from skesm.outputs.spec import OutputSpec, Record

_LOGGER = logging.getLogger(__name__)

#: Failures of one body that suggest that the body is the reason.
_SUSPICIOUS = 2
#: Numbers in one answer, at most (a single sequence may need more): at about 20 bytes each in JSON, 80 MB.
_FLOATS_PER_ANSWER = 4_000_000


@dataclass
class Task:
    """Places in the job's sequences that go into one request, and how that has gone."""

    places: list[int]
    halved: bool = False  # part of a batch that failed: every sending counts as a retry
    failures: int = 0
    suspicions: int = 0
    successes_before: int = -1  # of the whole job, at the first failure


@dataclass(frozen=True)
class Request:
    """What a job sends, and what it expects.

    Attributes
    ----------
    spec, dialect, base_url, slug, outputs
        The model, and how and where it is asked.
    """

    spec: ModelSpec
    dialect: str
    base_url: str
    slug: str
    outputs: tuple[OutputSpec, ...]

    @property
    def path(self) -> str:
        """Where bodies are posted to, below the base URL."""
        return action_path(self.dialect, self.slug)

    def cut(self, lengths: Sequence[int]) -> int:
        """How many of the first sequences go into one request, for an answer of bearable size; one at least.

        Whatever is sent later, after a failure, is a part of such a request.
        """
        alike = needs_equal_lengths(self.outputs)
        total = 0
        for place, length in enumerate(lengths):
            total += floats_per_answer(self.dialect, self.spec, self.outputs, length)
            if place and (total > _FLOATS_PER_ANSWER or (alike and length != lengths[0])):
                return place
        return len(lengths)


class Assignment(Protocol):
    """What a worker needs of its job."""

    request: Request
    sequences: Sequence[str]
    auth: Auth
    pace: Pace
    timing: Timing
    max_attempts: int
    last_failure: str

    def send_later(self, *tasks: Task, first: bool = False) -> None:
        """Queue requests before all that is fresh; before the others that wait, too, if `first`."""

    def give_up(self, error: BaseException) -> None:
        """End the job with an error; the first one counts."""

    def fail(self, places: Sequence[int], cause: BackendError) -> None:
        """Note that sequences have failed for good."""

    def count_refusal(self, cause: BackendError) -> None:
        """Note a refusal that names no sequence; end the job when there are too many in a row."""

    def limit_items(self, most: int) -> None:
        """Put no more than so many sequences into a request from now on."""

    def note_success(self) -> None:
        """Forget the refusals: the service does answer."""

    def hand_over(self, records: Mapping[int, Record]) -> None:
        """Give a batch to the consumer, and wait until it has come back for more: then the batch is safe."""


class Worker:
    """Sends requests through one connection and acts on the answers.

    Parameters
    ----------
    job : Assignment
        Shared by all workers.
    connection : Connection
        This worker's own.
    """

    def __init__(self, job: Assignment, connection: Connection) -> None:
        self._job = job
        self._connection = connection

    def perform(self, task: Task, epoch: int) -> None:
        """Send one request until it is settled: answered, failed, or handed on in parts."""
        request = self._job.request
        body = request_body(request.dialect, [self._job.sequences[place] for place in task.places], request.outputs)
        if task.halved and not self._job.pace.spend_retry():
            self._job.give_up(self._out_of_budget())
            self._job.pace.leave_unused()
            return
        while True:
            begun = time.monotonic()
            reply: Reply | None = None
            failure = ""
            unreachable = slow = False
            try:
                reply = self._connection.post(request.path, body)
            except TransportFailure as error:
                failure, unreachable, slow = str(error), error.unreachable, error.slow
            except BaseException as error:
                # Before the permission is returned: nobody else should send now.
                self._job.give_up(error)
                self._job.pace.leave_unused()
                return
            told = failure if reply is None else f"status {reply.status}"
            _LOGGER.debug("%d sequences: %s after %.2f s", len(task.places), told, time.monotonic() - begun)
            if reply is not None and reply.status not in RETRYABLE_STATUSES:
                good = self._settle(task, reply)
                # Only now may others send: with a limit that was learned here, or not at all.
                self._job.pace.leave_answered(epoch, success=bool(good))
                if good:
                    self._job.hand_over(good)
                return
            if not self._try_again(task, reply, failure, epoch, unreachable=unreachable, slow=slow):
                return
            next_epoch = self._job.pace.enter()
            if next_epoch is None:
                return
            epoch = next_epoch

    def _try_again(
        self, task: Task, reply: Reply | None, failure: str, epoch: int, *, unreachable: bool, slow: bool
    ) -> bool:
        """Wait before the same body is sent again; False if it will not be."""
        status = reply.status if reply is not None else None
        throttled = status == 429
        suspicious = slow or status in (500, 504)
        if reply is not None:
            reason = decode_error(reply.body).reason
            failure = f"status {status}" + (f" ({self._shown(reason, task)})" if reason else "")
        self._job.last_failure = failure
        if task.successes_before < 0:
            task.successes_before = self._job.pace.successes
        task.failures += 1
        task.suspicions += suspicious
        if reply is not None and reply.retry_after is not None:
            if reply.retry_after > self._job.timing.longest_wait:
                self._job.give_up(
                    RateLimitError(
                        f"the service asks to wait for {reply.retry_after:.0f} s ({failure}): run again then, what is "
                        "finished will not be sent again",
                        reply.retry_after,
                    )
                )
            self._job.pace.hold_back(reply.retry_after)
        going = True
        if throttled:
            self._job.pace.leave_throttled(epoch)
        else:
            going = self._job.pace.leave_failed(epoch, outage=status != 500)
        if self._job.pace.stopped:
            return False
        alone = task.successes_before == self._job.pace.successes
        if unreachable and self._job.pace.successes == 0:
            self._job.give_up(ServiceUnavailableError(f"the service cannot be reached: {failure}; check base_url"))
            return False
        if not going:
            self._job.give_up(ServiceUnavailableError(f"the service does not answer: {failure}"))
            return False
        if task.suspicions >= _SUSPICIOUS and (task.halved or len(task.places) > 1):
            self._halve(task, ServiceUnavailableError(f"the service fails on this sequence: {failure}"))
            return False
        if task.failures >= self._job.max_attempts:
            told = f"no answer after {task.failures} attempts: {failure}"
            cause = RateLimitError(told) if throttled else ServiceUnavailableError(told)
            if alone:
                self._job.give_up(cause)
            elif throttled:
                self._job.fail(task.places, cause)
            else:
                self._halve(task, cause)
            return False
        if not self._job.pace.spend_retry():
            self._job.give_up(self._out_of_budget())
            return False
        self._job.pace.sleep(self._job.timing.backoff(task.failures))
        return True

    def _out_of_budget(self) -> BackendError:
        return ServiceUnavailableError(
            f"the service keeps failing, the job's budget of retries is used up; last: {self._job.last_failure}"
        )

    def _halve(self, task: Task, cause: BackendError, *, counted: bool = True) -> None:
        """Send the halves of a batch on their own, behind those that wait already; a single item has failed."""
        if len(task.places) == 1:
            self._job.fail(task.places, cause)
            return
        middle = len(task.places) // 2
        self._job.send_later(Task(task.places[:middle], counted), Task(task.places[middle:], counted))

    def _settle(self, task: Task, reply: Reply) -> dict[int, Record]:
        """Act on an answer that would be the same if the request were sent again; the records that it brought."""
        if reply.status == 200 and not carries_error(reply.body):
            return self._read_answer(task, reply)
        refusal = decode_error(reply.body)
        told = f"status {reply.status}: {self._shown(refusal.reason, task)}".rstrip(": ")
        if reply.status == 413:
            cause = RequestRejectedError(f"the request is too large for the service ({told})", 413)
            self._halve(task, cause, counted=False)
        elif reply.status in (200, 400, 422):
            self._refuse(task, reply.status, refusal, told)
        elif reply.status == 403:
            self._job.give_up(AuthenticationError(f"the service does not permit this ({told})"))
        else:
            hints = {402: "the account cannot pay for it", 404: "the service has no such model or path"}
            hint = hints.get(reply.status, "the service refuses the request")
            self._job.give_up(RequestRejectedError(f"{hint} ({told})", reply.status))
        return {}

    def _refuse(self, task: Task, status: int, refusal: Refusal, told: str) -> None:
        named = {place: reason for place, reason in refusal.items.items() if place < len(task.places)}
        if named:
            for place, reason in named.items():
                cause = RequestRejectedError(f"refused by the service: {self._shown(reason, task)}", status)
                self._job.fail([task.places[place]], cause)
            rest = [place for i, place in enumerate(task.places) if i not in named]
            if rest:
                self._job.send_later(Task(rest), first=True)
            return
        if refusal.oversize and len(task.places) > 1:
            allowed = refusal.max_items or len(task.places) // 2
            self._job.limit_items(min(allowed, len(task.places) - 1))
            self._job.send_later(Task(task.places, task.halved), first=True)
            return
        cause = RequestRejectedError(f"the service refuses the request ({told})", status)
        if refusal.code.startswith("user."):
            self._halve(task, cause, counted=False)
            return
        self._job.fail(task.places, cause)
        self._job.count_refusal(cause)

    def _read_answer(self, task: Task, reply: Reply) -> dict[int, Record]:
        request = self._job.request
        lengths = [len(self._job.sequences[place]) for place in task.places]
        try:
            answers = decode_answer(request.dialect, reply.body, lengths, request.outputs, request.spec)
        except InvalidAnswerError as error:
            cause = InvalidAnswerError(f"{error}: nothing of this answer was used")
            self._job.fail(task.places, cause)
            self._job.count_refusal(cause)
            return {}
        good: dict[int, Record] = {}
        for place, answer in zip(task.places, answers, strict=True):
            if isinstance(answer, InvalidAnswerError):
                self._job.fail([place], answer)
            else:
                good[place] = answer
        self._job.note_success()
        return good

    def _shown(self, text: str, task: Task) -> str:
        return scrub(text, [self._job.sequences[place] for place in task.places], self._job.auth.secrets)
