"""One run of the BioLM client: a queue of requests, workers that send them, and a consumer that takes the batches."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from skesm.backends.base import Batch
from skesm.backends.biolm.auth import Auth
from skesm.backends.biolm.connection.sockets import Sockets
from skesm.backends.biolm.connection.transport import Connection
from skesm.backends.biolm.throttle import Pace, Timing
from skesm.backends.biolm.worker import Request, Task, Worker
from skesm.exceptions import BackendError
from skesm.outputs.spec import Record
from skesm.sequences.alphabet import count_residues

_LOGGER = logging.getLogger(__name__)

#: Batches in a row that may be refused, or answered wrongly, before the job ends: the fault is not in the sequences.
_MAX_REFUSALS = 3
#: How long a main thread sleeps before it looks for Ctrl-C, on systems where a wait cannot be interrupted.
_TICK = 0.5


@dataclass
class _Delivery:
    batch: Batch
    taken: threading.Event = field(default_factory=threading.Event)


class Job:
    """Answers distinct sequences. Iterate `batches` once. Then `failures` has the missing ones, with reasons.

    Parameters
    ----------
    request : Request
        The request.
    sequences : sequence of str
        Distinct.
    order : sequence of int
        Places in `sequences`, in the order of sending. All other places have an entry in `failures`.
    failures : dict of int to BackendError
        Places that have failed already.
    max_items : int
        Sequences in a request, until the service says otherwise.
    auth : Auth
        Credentials.
    pace : Pace
        Shared by the workers.
    connect : callable
        Makes a worker's `Connection`.
    sockets : Sockets
        All connections of the job.
    timing : Timing
        Durations.
    max_attempts : int
        Sendings of one body.
    n_workers : int
        Threads.
    """

    def __init__(
        self,
        request: Request,
        sequences: Sequence[str],
        order: Sequence[int],
        failures: dict[int, BackendError],
        *,
        max_items: int,
        auth: Auth,
        pace: Pace,
        connect: Callable[[], Connection],
        sockets: Sockets,
        timing: Timing,
        max_attempts: int,
        n_workers: int,
    ) -> None:
        self.failures = failures
        self.request = request
        self.sequences = sequences
        self.auth = auth
        self.pace = pace
        self._connect = connect
        self._sockets = sockets
        self.timing = timing
        self.max_attempts = max_attempts
        self._max_items = max_items
        self._lock = threading.Condition()
        self._fresh = deque(order)
        self._again: deque[Task] = deque()  # goes before new requests
        self._active = n_workers  # that may still hand something over
        self._busy = 0  # tasks in the hands of workers
        self._refusals = 0  # since the last success
        self._refusal_causes: list[BackendError] = []
        self.last_failure = ""
        self.last_throttled = False
        self._fatal: BaseException | None = None
        self._closed = False
        self._waiting: set[threading.Event] = set()
        self._done: queue.SimpleQueue[_Delivery | None] = queue.SimpleQueue()  # None: look at the state
        self._threads = [
            threading.Thread(target=self._work, name=f"skesm-biolm-{i}", daemon=True) for i in range(n_workers)
        ]

    # ------------------------------------------------------------------------------------------ the consumer's side

    def batches(self) -> Generator[Batch, None, None]:
        """Yield finished batches. A worker goes on only when the consumer comes back after taking its batch.

        Raises
        ------
        BackendError
            If the job cannot go on. Requests in flight get a short time, and their batches are yielded first.
        """
        try:
            for thread in self._threads:
                thread.start()
            try:
                while self._fatal is None and (delivery := self._take(None)) is not None:
                    yield delivery.batch
                    self._hand_back(delivery)
            except KeyboardInterrupt:
                yield from self._drain(self.timing.interrupt_grace)
                raise
            if self._fatal is not None:
                yield from self._drain(self.timing.failure_grace)
                # The worker's frames hold headers and sequences, which some tools show with a traceback.
                raise self._fatal.with_traceback(None)
        finally:
            self._close()

    def _take(self, deadline: float | None) -> _Delivery | None:
        """The next batch. None if there are no more, if the job has failed, or at the deadline."""
        while True:
            wait = _TICK if deadline is None else min(_TICK, max(0.0, deadline - time.monotonic()))
            try:
                delivery = self._done.get(timeout=wait)
            except queue.Empty:
                delivery = None
            if delivery is not None:
                return delivery
            with self._lock:
                running = self._active > 0
            if not running and self._done.empty():
                return None
            if deadline is None and self._fatal is not None:
                return None
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def _hand_back(self, delivery: _Delivery) -> None:
        delivery.taken.set()

    def _drain(self, grace: float) -> Generator[Batch, None, None]:
        """Send nothing more, and yield the batches that finish within `grace` seconds: they have been paid for."""
        self._stop()
        deadline = time.monotonic() + grace
        while (delivery := self._take(deadline)) is not None:
            yield delivery.batch
            self._hand_back(delivery)

    def _stop(self) -> None:
        self.pace.stop()
        with self._lock:
            self._closed = True
            for event in self._waiting:
                event.set()
            self._lock.notify_all()

    def _close(self) -> None:
        self._stop()
        alive = [thread for thread in self._threads if thread.is_alive()]
        if alive:
            self._sockets.abort()
        deadline = time.monotonic() + 1.0
        for thread in alive:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = sum(thread.is_alive() for thread in alive)
        if left:
            # A thread that looks up a host name, or parses a large answer, cannot be interrupted. It ends on its own.
            _LOGGER.warning("%d threads of the BioLM client are still ending", left)

    @property
    def refused_altogether(self) -> BackendError | None:
        """The reason, if nothing was answered and the service named no sequence: then it is not the sequences."""
        if self.pace.successes or not all(cause in self._refusal_causes for cause in self.failures.values()):
            return None
        return self._refusal_causes[-1].with_traceback(None)

    # ------------------------------------------------------------------------------------------ the workers' side

    def _work(self) -> None:
        try:
            with self._connect() as connection:
                worker = Worker(self, connection)
                while self._await_task():
                    epoch = self.pace.enter()
                    if epoch is None:
                        break
                    task = self._next_task()
                    if task is None:
                        self.pace.leave_unused()
                        continue
                    try:
                        worker.perform(task, epoch)
                    finally:
                        with self._lock:
                            self._busy -= 1
                            self._lock.notify_all()
        except BaseException as error:  # whatever it is, the consumer must know
            self.give_up(error)
        finally:
            with self._lock:
                self._active -= 1
            self._done.put(None)

    def _await_task(self) -> bool:
        """Wait for a request to send. False if there will be none."""
        with self._lock:
            while not (self._fresh or self._again):
                if self._busy == 0 or self._closed:
                    self.pace.stop()  # the work is done: wakes those that wait for a permission
                    return False
                self._lock.wait()
            return not self._closed

    def _next_task(self) -> Task | None:
        """Cut the next request now, with the limit as it is known now."""
        with self._lock:
            if self._again:
                task = self._again.popleft()
            elif self._fresh:
                ahead = [self._fresh[i] for i in range(min(self._max_items, len(self._fresh)))]
                size = self.request.cut([count_residues(self.sequences[place]) for place in ahead])
                task = Task([self._fresh.popleft() for _ in range(size)])
            else:
                return None
            if len(task.places) > self._max_items:
                self._again.extend(
                    Task(task.places[i : i + self._max_items], task.halved)
                    for i in range(self._max_items, len(task.places), self._max_items)
                )
                task = Task(task.places[: self._max_items], task.halved)
            self._busy += 1
            self._lock.notify_all()
            return task

    def send_later(self, *tasks: Task, first: bool = False) -> None:
        """Queue requests before all new ones. With `first`, also before the others that wait."""
        with self._lock:
            if first:
                self._again.extendleft(reversed(tasks))
            else:
                self._again.extend(tasks)
            self._lock.notify_all()

    def give_up(self, error: BaseException) -> None:
        """End the job with an error. The first error counts."""
        with self._lock:
            if self._fatal is None:
                self._fatal = error
            self._closed = True
            self._lock.notify_all()
        self.pace.stop()
        self._done.put(None)

    def fail(self, places: Sequence[int], cause: BackendError) -> None:
        """Note that sequences have failed for good."""
        with self._lock:
            self.failures.update(dict.fromkeys(places, cause))

    def limit_items(self, most: int) -> None:
        """Put no more than so many sequences into a request from now on."""
        with self._lock:
            self._max_items = max(1, min(self._max_items, most))
        _LOGGER.info("the service takes %d sequences in a request", self._max_items)

    def note_success(self) -> None:
        """Forget the refusals: the service does answer."""
        with self._lock:
            self._refusals = 0

    def count_refusal(self, cause: BackendError) -> None:
        """Note a refusal that names no sequence. Too many in a row end the job."""
        with self._lock:
            self._refusals += 1
            self._refusal_causes.append(cause)
            too_many = self._refusals >= _MAX_REFUSALS
        if too_many:
            self.give_up(cause)

    def hand_over(self, records: Mapping[int, Record]) -> None:
        """Give a batch to the consumer, and wait until it has come back for more: then the batch is safe."""
        delivery = _Delivery(Batch(tuple(records), tuple(records.values())))
        with self._lock:
            self._waiting.add(delivery.taken)
            if self._closed:  # nothing will be sent: nothing to wait for
                delivery.taken.set()
        self._done.put(delivery)
        delivery.taken.wait()
        with self._lock:
            self._waiting.discard(delivery.taken)
