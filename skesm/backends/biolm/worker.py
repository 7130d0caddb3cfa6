"""A worker of the BioLM client, which handles one request until it is settled. The rules are in `decisions`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from skesm.backends.biolm.auth import Auth
from skesm.backends.biolm.connection.failures import TransportFailure
from skesm.backends.biolm.connection.transport import Connection, Reply
from skesm.backends.biolm.decisions import (
    Attempt,
    Budget,
    Decision,
    Fail,
    Halve,
    Outcome,
    Send,
    Stop,
    Wait,
    decide,
    out_of_budget,
)
from skesm.backends.biolm.throttle import Pace, Timing
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, InvalidAnswerError, RateLimitError, RequestRejectedError
from skesm.outputs.spec import OutputSpec, Record
from skesm.protocol.answers import decode_answer
from skesm.protocol.dialects import ENCODE
from skesm.protocol.errors import Refusal, carries_error, decode_error, scrub
from skesm.protocol.wire import (
    action_path,
    bytes_per_answer,
    floats_per_answer,
    needs_equal_lengths,
    request_body,
)
from skesm.sequences.alphabet import count_residues

_LOGGER = logging.getLogger(__name__)

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
    """The request of a job, without its sequences.

    Attributes
    ----------
    spec, dialect, base_url, slug, outputs, action
        The model, and how and where it is asked.
    """

    spec: ModelSpec
    dialect: str
    base_url: str
    slug: str
    outputs: tuple[OutputSpec, ...]
    action: str = ENCODE

    @property
    def path(self) -> str:
        """Where bodies are posted to, below the base URL."""
        return action_path(self.dialect, self.slug, self.action)

    def cut(self, lengths: Sequence[int]) -> int:
        """Number of the first sequences that one request takes, at least one. It limits the size of the answer.

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
    """The part of a job that a worker uses."""

    request: Request
    sequences: Sequence[str]
    auth: Auth
    pace: Pace
    timing: Timing
    max_attempts: int
    last_failure: str
    last_throttled: bool

    def send_later(self, *tasks: Task, first: bool = False) -> None:
        """Queue requests before all new ones. With `first`, also before the others that wait."""

    def give_up(self, error: BaseException) -> None:
        """End the job with an error. The first error counts."""

    def fail(self, places: Sequence[int], cause: BackendError) -> None:
        """Note that sequences have failed for good."""

    def count_refusal(self, cause: BackendError) -> None:
        """Note a refusal that names no sequence. Too many in a row end the job."""

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
        sequences = self._sequences(task)
        body = request_body(request.dialect, sequences, request.outputs, request.action)
        lengths = [count_residues(sequence) for sequence in sequences]
        bound = bytes_per_answer(request.dialect, request.spec, request.outputs, lengths)
        if task.halved and not self._job.pace.spend_retry():
            decision = out_of_budget(throttled=self._job.last_throttled)
            self._act(task, decision, Outcome(), self._job.last_failure)
            self._job.pace.leave_unused()
            return
        while True:
            begun = time.monotonic()
            reply: Reply | None = None
            failure: TransportFailure | None = None
            try:
                reply = self._connection.post(request.path, body, bound)
            except TransportFailure as error:
                failure = error
            except BaseException as error:
                # Before the permission is returned: nobody else should send now.
                self._job.give_up(error)
                self._job.pace.leave_unused()
                return
            told = str(failure) if reply is None else f"status {reply.status}"
            _LOGGER.debug("%d sequences: %s after %.2f s", len(task.places), told, time.monotonic() - begun)
            if reply is None:
                assert failure is not None, "a sending gives an answer or a failure"
                outcome = Outcome(None, failure.unreachable, failure.slow, failure.accepted)
                remedy = failure.remedy
            else:
                outcome = Outcome(reply.status, accepted=reply.accepted, retry_after=reply.retry_after)
                remedy = ""
                if not outcome.may_pass:
                    good = self._settle(task, reply)
                    # Only now may others send: with a limit that was learned here, or not at all.
                    self._job.pace.leave_answered(epoch, success=bool(good))
                    if good:
                        self._job.hand_over(good)
                    return
                reason = decode_error(reply.body).reason
                told += f" ({self._shown(reason, task)})" if reason else ""
            if not self._try_again(task, outcome, told, remedy, epoch):
                return
            next_epoch = self._job.pace.enter()
            if next_epoch is None:
                return
            epoch = next_epoch

    def _sequences(self, task: Task) -> list[str]:
        return [self._job.sequences[place] for place in task.places]

    # ------------------------------------------------------------------------------------------ failures that may pass

    def _try_again(self, task: Task, outcome: Outcome, told: str, remedy: str, epoch: int) -> bool:
        """Wait before the same body is sent again. False if it is not sent again."""
        pace = self._job.pace
        self._job.last_failure, self._job.last_throttled = told, outcome.throttled
        if task.successes_before < 0:
            task.successes_before = pace.successes
        task.failures += 1
        task.suspicions += outcome.suspicious
        longest = self._job.timing.longest_wait
        attempt = Attempt(len(task.places), task.failures, task.suspicions, task.halved)
        if outcome.retry_after is not None:
            if outcome.retry_after > longest:  # before others may send
                self._act(task, decide(outcome, attempt, Budget(longest_wait=longest)), outcome, told, remedy)
            else:
                pace.hold_back(outcome.retry_after)
        going = True
        if outcome.throttled:
            pace.leave_throttled(epoch)
        else:
            going = pace.leave_failed(epoch, outage=outcome.status != 500)
        if pace.stopped:
            return False
        attempt = replace(attempt, alone=task.successes_before == pace.successes)
        budget = Budget(pace.retries, self._job.max_attempts, longest, pace.successes > 0, not going)
        decision = decide(outcome, attempt, budget)
        if isinstance(decision, Wait):
            if pace.spend_retry():
                pace.sleep(self._job.timing.backoff(task.failures))
                return True
            decision = out_of_budget(throttled=outcome.throttled)  # another worker took the last one
        self._act(task, decision, outcome, told, remedy)
        return False

    def _act(self, task: Task, decision: Decision, outcome: Outcome, told: str, remedy: str = "") -> None:
        """Give up the job, or a batch: send its halves behind those that wait already, or note that it has failed."""
        assert isinstance(decision, Stop | Fail | Halve), "a request that is sent again is not given up"
        # Not str.format: the service's words may hold braces.
        text = decision.reason.replace("{failures}", str(task.failures)).replace("{remedy}", remedy)
        cause = decision.error(text.replace("{told}", told))
        if isinstance(cause, RequestRejectedError):
            cause.status = outcome.status
        if isinstance(cause, RateLimitError):
            cause.retry_after = outcome.retry_after
        if isinstance(decision, Stop):
            self._job.give_up(cause)
        elif isinstance(decision, Halve):
            middle = len(task.places) // 2
            halves = (task.places[:middle], task.places[middle:])
            self._job.send_later(*(Task(places, decision.counted) for places in halves))
        else:
            self._job.fail(task.places, cause)
            if decision.counted:
                self._job.count_refusal(cause)

    # ------------------------------------------------------------------------------------------ answers that last

    def _settle(self, task: Task, reply: Reply) -> dict[int, Record]:
        """Act on an answer that a second try would not change. Gives its records."""
        refusal = Refusal()
        if reply.too_large:
            told, outcome = "the answer is too large for this request", Outcome(reply.status, invalid=True)
        elif reply.status == 200 and not carries_error(reply.body):
            try:
                return self._read_answer(task, reply)
            except InvalidAnswerError as error:
                told, outcome = str(error), Outcome(reply.status, invalid=True)
        else:
            refusal = decode_error(reply.body)
            told = f"status {reply.status}: {self._shown(refusal.reason, task)}".rstrip(": ")
            outcome = Outcome(
                reply.status,
                accepted=reply.accepted,
                named=sum(place < len(task.places) for place in refusal.items),
                too_many=refusal.oversize,
                user_error=refusal.code.startswith("user."),
            )
        decision = decide(outcome, Attempt(len(task.places), task.failures), Budget())
        if isinstance(decision, Send):
            self._send_rest(task, reply.status, refusal)
        else:
            self._act(task, decision, outcome, told)
        return {}

    def _send_rest(self, task: Task, status: int, refusal: Refusal) -> None:
        """Send the sequences that were not named, or send all of them in smaller batches."""
        named = {place: reason for place, reason in refusal.items.items() if place < len(task.places)}
        if not named:
            allowed = refusal.max_items or len(task.places) // 2
            self._job.limit_items(min(allowed, len(task.places) - 1))
            self._job.send_later(Task(task.places, task.halved), first=True)
            return
        for place, reason in named.items():
            cause = RequestRejectedError(f"refused by the service: {self._shown(reason, task)}", status)
            self._job.fail([task.places[place]], cause)
        rest = [place for i, place in enumerate(task.places) if i not in named]
        if rest:
            self._job.send_later(Task(rest), first=True)

    def _read_answer(self, task: Task, reply: Reply) -> dict[int, Record]:
        request = self._job.request
        sequences = self._sequences(task)
        lengths = [count_residues(sequence) for sequence in sequences]
        answers = decode_answer(request.dialect, reply.body, lengths, request.outputs, request.spec, sequences)
        good: dict[int, Record] = {}
        for place, answer in zip(task.places, answers, strict=True):
            if isinstance(answer, InvalidAnswerError):
                self._job.fail([place], answer)
            else:
                good[place] = answer
        self._job.note_success()
        return good

    def _shown(self, text: str, task: Task) -> str:
        return scrub(text, self._sequences(task), self._job.auth.secrets)
