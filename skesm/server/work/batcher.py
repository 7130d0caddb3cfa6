"""Compute the sequences of many requests together, each distinct one once.

Only the model runs in other threads. Everything else happens in the thread of the event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from skesm.outputs.spec import OutputSpec, Record
from skesm.sequences.alphabet import count_residues
from skesm.server.logs import FIELDS, describe
from skesm.server.work.metrics import Metrics

# Two batches are computed at once, each on half of the threads. The end of a batch cannot fill its threads, but the
# other batch goes on meanwhile.
_RUNNERS = 2
_TOKENS_AROUND = 2  # start and end

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computed:
    """Records of distinct sequences, in their order, and how many of them came from the record store."""

    records: Sequence[Record]
    hits: int


#: (model, distinct sequences, outputs, threads to use) → records. Called from several threads.
Compute = Callable[[str, Sequence[str], Sequence[OutputSpec], int], Computed]
_Outcome = Record | Exception


@dataclass(eq=False, repr=False)
class _Job:
    """A sequence to compute. Several requests may wait for it."""

    model: str
    sequence: str
    outputs: frozenset[OutputSpec]
    done: asyncio.Future[Record]
    tokens: int
    since: float
    waiting: int = 0  # requests that wait for it


@dataclass(eq=False, repr=False)
class _Line:
    """Jobs that may share a batch: same model, same outputs."""

    jobs: deque[_Job] = field(default_factory=deque)
    tokens: int = 0


class Batcher:
    """Collects sequences for a few milliseconds, or until there are enough, and has them computed.

    Parameters
    ----------
    compute : callable
        Computes a batch.
    threads : int
        Threads that all batches together compute on.
    tokens_per_batch : int
        A batch of more than one sequence has at most this many tokens.
    wait : float
        Seconds that the first sequence of a batch waits for others.
    metrics : Metrics
        Where batches are counted.
    """

    def __init__(self, compute: Compute, *, threads: int, tokens_per_batch: int, wait: float, metrics: Metrics) -> None:
        self._compute = compute
        self._threads = threads
        self._tokens_per_batch = tokens_per_batch
        self._wait = wait
        self._metrics = metrics
        self._lines: dict[tuple[str, frozenset[OutputSpec]], _Line] = {}
        self._under_way: dict[tuple[str, str], list[_Job]] = {}
        self._arrival = asyncio.Event()
        self._turn = asyncio.Lock()
        self._n_runners = min(_RUNNERS, threads)
        self._busy = 0
        self._pool = ThreadPoolExecutor(self._n_runners, "skesm-batch")
        self._runners: list[asyncio.Task[None]] = []
        self._pace: float | None = None  # residues a second

    @property
    def is_working(self) -> bool:
        """Whether sequences are computed. If not, this module has a fault."""
        return not any(runner.done() for runner in self._runners)

    async def __aenter__(self) -> Batcher:
        self._runners = [asyncio.create_task(self._run()) for _ in range(self._n_runners)]
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop. Requests that still wait get no records."""
        for runner in self._runners:
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)
        self._pool.shutdown()

    async def records(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> list[Record]:
        """Records of sequences, in their order. They may hold more outputs than the request needs.

        Raises
        ------
        Exception
            The backend's error for the first sequence that could not be computed alone.
        """
        jobs = [self._job(model, sequence, frozenset(outputs)) for sequence in sequences]
        for job in jobs:
            job.waiting += 1
        try:
            # Not gather: if this request is cancelled, others may still wait for the same sequences.
            await asyncio.wait({job.done for job in jobs})
        except asyncio.CancelledError:
            self._leave(jobs)
            raise
        for error in [job.done.exception() for job in jobs]:  # look at all of them, or asyncio would complain
            if error is not None:
                raise error
        return [job.done.result() for job in jobs]

    def seconds_for(self, residues: int) -> float:
        """How long `residues` will take, going by the last batches."""
        return residues / self._pace if self._pace else 1.0

    def _job(self, model: str, sequence: str, outputs: frozenset[OutputSpec]) -> _Job:
        same = self._under_way.setdefault((model, sequence), [])
        for job in same:
            if job.outputs >= outputs:
                self._metrics.shared.add()
                return job
        loop = asyncio.get_running_loop()
        tokens = count_residues(sequence) + _TOKENS_AROUND
        job = _Job(model, sequence, outputs, loop.create_future(), tokens, loop.time())
        same.append(job)
        line = self._lines.setdefault((model, outputs), _Line())
        line.jobs.append(job)
        line.tokens += job.tokens
        self._arrival.set()
        return job

    def _leave(self, jobs: Sequence[_Job]) -> None:
        """Give up the jobs of one request. Jobs that no other request waits for are not computed."""
        for job in jobs:
            job.waiting -= 1
        for key in {(job.model, job.outputs) for job in jobs} & self._lines.keys():
            line = self._lines[key]
            for job in line.jobs:
                if not job.waiting:
                    line.tokens -= job.tokens
                    self._forget(job)
                    self._metrics.dropped.add()
            line.jobs = deque(job for job in line.jobs if job.waiting)

    def _forget(self, job: _Job) -> None:
        place = job.model, job.sequence
        self._under_way[place].remove(job)
        if not self._under_way[place]:
            del self._under_way[place]

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._turn:  # one runner collects at a time, so that batches are as large as they can be
                while not (jobs := await self._collect()):
                    pass  # all requests for these jobs have been cancelled
            # A batch that is alone gets all threads. With work for two, each soon has half of them.
            threads = self._threads // self._n_runners if self._busy else self._threads
            self._busy += 1
            begun = time.perf_counter()
            outcomes, hits = await loop.run_in_executor(self._pool, self._compute_all, jobs, threads)
            self._busy -= 1
            self._settle(jobs, outcomes, hits, time.perf_counter() - begun)

    async def _collect(self) -> list[_Job]:
        while not self._lines:
            self._arrival.clear()
            await self._arrival.wait()
        key, line = next(iter(self._lines.items()))
        loop = asyncio.get_running_loop()
        end = line.jobs[0].since + self._wait if line.jobs else loop.time()
        while line.tokens < self._tokens_per_batch and (left := end - loop.time()) > 0:
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                break
        jobs: list[_Job] = []
        room = self._tokens_per_batch
        while line.jobs and (not jobs or line.jobs[0].tokens <= room):
            jobs.append(line.jobs.popleft())
            room -= jobs[-1].tokens
        line.tokens -= sum(job.tokens for job in jobs)
        # The rest goes behind the other lines, so that no kind of request starves another.
        del self._lines[key]
        if line.jobs:
            self._lines[key] = line
        return jobs

    def _compute_all(self, jobs: Sequence[_Job], threads: int) -> tuple[list[_Outcome], int]:
        """Compute outcomes of the jobs, and how many came from the store.

        A batch that fails is halved: one bad sequence, or too large a batch, does not cost others their answers.
        """
        try:
            computed = self._compute(
                jobs[0].model, [job.sequence for job in jobs], sorted(jobs[0].outputs, key=str), threads
            )
            return [record for _, record in zip(jobs, computed.records, strict=True)], computed.hits
        except Exception as error:
            level = logging.WARNING if len(jobs) > 1 else logging.ERROR
            fields = {"sequences": len(jobs), "tokens": sum(job.tokens for job in jobs), "exception": describe(error)}
            _logger.log(level, "a batch failed", extra={FIELDS: fields})
            if len(jobs) == 1:
                return [error], 0
            middle = len(jobs) // 2
            first, second = self._compute_all(jobs[:middle], threads), self._compute_all(jobs[middle:], threads)
            return first[0] + second[0], first[1] + second[1]

    def _settle(self, jobs: Sequence[_Job], outcomes: Sequence[_Outcome], hits: int, seconds: float) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._forget(job)
            if isinstance(outcome, Exception):
                job.done.set_exception(outcome)
                job.done.exception()  # look at it: without a request that waits, asyncio would complain
                self._metrics.failures.add()
            else:
                job.done.set_result(outcome)
        failed = sum(isinstance(outcome, Exception) for outcome in outcomes)
        self._metrics.batch_size.observe(len(jobs))
        self._metrics.hits.add(hits)
        self._metrics.computed.add(len(jobs) - failed - hits)
        pace = sum(job.tokens for job in jobs) / max(seconds, 1e-6)
        self._pace = pace if self._pace is None else 0.8 * self._pace + 0.2 * pace
