"""Several processes or machines: batches of sequences go to workers, and each worker uses another backend."""

from __future__ import annotations

import socket
import sys
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from joblib import cpu_count, effective_n_jobs
from joblib.externals.loky import get_reusable_executor
from joblib.parallel import get_active_backend
from sklearn.utils._param_validation import Interval, StrOptions

from skesm._optional import import_optional
from skesm._typing import Constraints
from skesm.backends.base import Backend, Batch, RequestPlan, answers
from skesm.backends.resolve import BACKENDS, resolve_backend
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, CheckpointError, PartialResultError
from skesm.outputs.spec import Namespace, OutputSpec, Record
from skesm.sequences.alphabet import count_residues

#: Batches for each worker that are sent out at a time: one that it computes, and one that waits.
_AHEAD = 2

#: Seconds without an answer after which a cluster is asked whether it has workers at all.
_PATIENCE = 60.0


#: joblib's own backends. Whoever chose another one wants its cluster, and would get one machine.
_ON_THIS_MACHINE = {"LokyBackend", "ThreadingBackend", "MultiprocessingBackend", "SequentialBackend"}


@dataclass(frozen=True)
class _Computed:
    """A worker's results for a batch: records by place in the batch, and the reasons of those that failed."""

    records: dict[int, Record]
    causes: dict[int, BackendError]


class ParallelBackend(Backend):
    """The model in several processes, or on several machines.

    Batches of sequences go to processes on this machine (loky, joblib's own), or to the workers of a Dask cluster. Only
    this process reads and writes the record store.

    Parameters
    ----------
    backend : {"local", "numpy", "torch", "biolm"} or Backend, default="local"
        The backend that each worker uses. A worker loads a model once and keeps it.
    batch_tokens : int, default=8192
        Tokens (residues, and two for each sequence) in a batch, which is lost if its worker dies. A longer sequence
        is a batch of its own. Changes no value.
    n_jobs : int or None, default=None
        Processes on this machine. None and -1 are one for each core. An estimator's ``n_jobs`` goes before it. A
        cluster's workers are all used. Changes no value.
    executor : {"auto", "loky", "dask"}, default="auto"
        ``"dask"`` is the cluster of the current ``dask.distributed.Client``. ``"auto"`` is Dask inside
        ``joblib.parallel_config(backend="dask")``, and loky elsewhere. Other clusters of joblib are refused: Ray's
        backend gives results only when all of them are there.

    Notes
    -----
    A worker must find the same checkpoint: its digest is compared with this machine's, and an error names the worker's
    host. Weights come from a folder that all machines share, or from each machine's own cache of the Hub.

    If a worker dies, its batches are computed again. loky replaces all workers if one dies, so that their batches are
    computed again too. A batch that kills its worker is halved until the sequence that is the reason stands alone. That
    sequence fails with its row. All others are finished.

    On this machine a worker uses its share of the cores. On a cluster it uses the threads that its environment allows
    (``OMP_NUM_THREADS``, which Dask sets to 1) and the GPU that the scheduler gave it (``CUDA_VISIBLE_DEVICES``).

    Inside a worker, for example in a grid search that runs on the cluster itself, no further workers are started and
    the batch is computed in place. To search in this process and send only the model's work to a cluster, use
    ``executor="dask"`` without ``parallel_config``.

    Examples
    --------
    >>> from skesm import ESM2Embedder
    >>> from skesm.backends import ParallelBackend
    >>> embedder = ESM2Embedder("skesm-mini", backend=ParallelBackend(n_jobs=2))
    >>> embedder.transform(["MKTAYIAK", "GGSGGS"]).shape
    (2, 192)
    """

    _parameter_constraints: ClassVar[Constraints] = {
        "backend": [StrOptions(set(BACKENDS)), Backend],
        "batch_tokens": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "executor": [StrOptions({"auto", "loky", "dask"})],
    }

    def __init__(
        self,
        backend: str | Backend = "local",
        batch_tokens: int = 8192,
        n_jobs: int | None = None,
        executor: str = "auto",
    ) -> None:
        self.backend = backend
        self.batch_tokens = batch_tokens
        self.n_jobs = n_jobs
        self.executor = executor

    @property
    def numerics(self) -> str:
        """Numerics of the backend that the workers use."""
        return self._inner().numerics

    def spec(self, model: str) -> ModelSpec:
        """Shape of `model`, found on this machine."""
        return self._inner().spec(model)

    def namespace(self, model: str) -> Namespace:
        """Everything that the values depend on: the same as for the backend that the workers use."""
        return self._inner().namespace(model)

    def plan(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> RequestPlan | None:
        """Count the requests that the workers would send. None if they would send nothing."""
        return self._inner().plan(model, sequences, outputs)

    def run(
        self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        """Compute `outputs` for `sequences` in the workers, in batches of `batch_tokens` tokens, longest first."""
        self._validate_params()
        if not sequences:
            return
        if _inside_worker():
            yield from self._inner().run(model, sequences, outputs, n_jobs=n_jobs)
            return
        workers = self._workers(self.n_jobs if n_jobs is None else n_jobs)
        batches = _batches(sequences, self.batch_tokens)
        with closing(_Run(workers, self._inner(), model, sequences, outputs)) as run:
            yield from run.batches(batches)
        if run.causes:
            raise PartialResultError(f"{len(run.causes)} of {len(sequences)} sequences failed", run.causes)

    def _inner(self) -> Backend:
        return resolve_backend(self.backend)

    def _workers(self, n_jobs: int | None) -> _Workers:
        active = type(get_active_backend()[0]).__name__
        if self.executor == "dask" or (self.executor == "auto" and active == "DaskDistributedBackend"):
            return _DaskWorkers()
        if self.executor == "auto" and active not in _ON_THIS_MACHINE:
            raise ValueError(
                f"joblib's {active} is the active backend, and ParallelBackend cannot use it: it returns all results "
                "at the end, so nothing could be stored before, and the batches of a dead worker would be unknown. "
                "Use Dask, or executor='loky' for processes on this machine. For Ray, transform "
                "the batches of a Ray data set: see the page on clusters"
            )
        return _LokyWorkers(n_jobs)


class _LokyWorkers:
    """Processes on this machine, which loky keeps for the next run."""

    def __init__(self, n_jobs: int | None) -> None:
        self._n = int(effective_n_jobs(-1 if n_jobs is None else n_jobs))
        #: Threads of each worker.
        self.threads: int | None = max(1, cpu_count() // self._n)

    def count(self) -> int:
        """Tasks that run at a time."""
        return self._n

    def check(self) -> None:
        """Nothing to check: loky starts its own processes."""

    def executor(self) -> Executor:
        """The executor that tasks are sent to. It is a new one after a worker died."""
        executor: Executor = get_reusable_executor(max_workers=self._n, timeout=300)
        return executor


class _DaskWorkers:
    """The cluster of the current Dask client."""

    #: Threads of each worker: as its environment says.
    threads: int | None = None

    def __init__(self) -> None:
        distributed: Any = import_optional("distributed", "dask")
        try:
            self._client = distributed.get_client()
        except ValueError as error:
            raise ValueError(
                "there is no Dask client: connect to a cluster first, with Client('address of the scheduler')"
            ) from error
        self._executor: Executor = self._client.get_executor(pure=False)

    def count(self) -> int:
        """Tasks that run at a time: workers may come and go."""
        cores: dict[str, int] = self._client.ncores()
        return max(1, sum(cores.values()))

    def check(self) -> None:
        """Warn if no worker is left: Dask waits for the next one, for ever if none comes."""
        if not self._client.ncores():
            warnings.warn(
                "the Dask cluster has no workers, so the batches wait until one joins. Start a worker, or stop this "
                "process: all sequences that are already in the cache are kept",
                UserWarning,
                stacklevel=2,
            )

    def executor(self) -> Executor:
        """Where tasks are sent."""
        return self._executor


_Workers = _LokyWorkers | _DaskWorkers


class _Run:
    """Batches that wait, that are sent out, and that may have killed a worker.

    Attributes
    ----------
    causes : dict of int to BackendError
        Why sequences failed, by index.
    """

    def __init__(
        self, workers: _Workers, backend: Backend, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec]
    ) -> None:
        self.causes: dict[int, BackendError] = {}
        self._workers = workers
        self._sequences = sequences
        self._arguments = (backend, model, backend.namespace(model).fingerprint, tuple(outputs), workers.threads)
        self._sent: dict[Future[_Computed], list[int]] = {}
        self._suspects: list[list[int]] = []

    def batches(self, batches: Iterator[list[int]]) -> Generator[Batch, None, None]:
        """Records as they come."""
        waiting = deque(batches)
        while waiting or self._sent or self._suspects:
            alone = self._send(waiting)
            done = wait(self._sent, timeout=_PATIENCE, return_when=FIRST_COMPLETED).done
            if not done:
                self._workers.check()
            for future in done:
                batch = self._sent.pop(future)
                try:
                    computed = future.result()
                except Exception as error:
                    if not _is_dead_worker(error):
                        raise
                    self._suspect(batch, alone)
                    continue
                self.causes.update({batch[place]: cause for place, cause in computed.causes.items()})
                if computed.records:
                    yield Batch([batch[place] for place in computed.records], list(computed.records.values()))

    def close(self) -> None:
        """Cancel queued batches."""
        for future in self._sent:
            future.cancel()

    def _send(self, waiting: deque[list[int]]) -> bool:
        """Send the batches that may be sent now. Returns whether that is one suspect, alone."""
        if self._suspects:
            if not self._sent:
                self._submit(self._suspects.pop())
                return True
            return False
        most = _AHEAD * self._workers.count()
        while waiting and len(self._sent) < most:
            self._submit(waiting.popleft())
        return False

    def _submit(self, batch: list[int]) -> None:
        sequences = [self._sequences[index] for index in batch]
        self._sent[self._workers.executor().submit(_compute, *self._arguments, sequences)] = batch

    def _suspect(self, batch: list[int], alone: bool) -> None:
        """Put a batch aside whose worker died. Halve it if it was the only one, and so the reason."""
        if not alone:
            self._suspects.append(batch)
        elif len(batch) > 1:
            self._suspects += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
        else:
            residues = count_residues(self._sequences[batch[0]])
            self.causes[batch[0]] = BackendError(
                f"the worker died twice while it computed this sequence of {residues} residues. It may lack memory"
            )


def _is_dead_worker(error: BaseException) -> bool:
    killed = getattr(sys.modules.get("distributed"), "KilledWorker", None)
    return isinstance(error, BrokenProcessPool) or (killed is not None and isinstance(error, killed))


def _inside_worker() -> bool:
    """Whether this is a task of joblib or of Dask: workers of its own would wait for the threads that wait for them."""
    if get_active_backend()[0].nesting_level:
        return True
    if (distributed := sys.modules.get("distributed")) is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _batches(sequences: Sequence[str], most: int) -> Iterator[list[int]]:
    """Indices of sequences in batches of so many tokens, longest first: the last batches are cheap."""
    tokens = [count_residues(sequence) + 2 for sequence in sequences]
    batch: list[int] = []
    room = most
    for index in sorted(range(len(sequences)), key=lambda i: (-tokens[i], i)):
        if batch and tokens[index] > room:
            yield batch
            batch, room = [], most
        batch.append(index)
        room -= tokens[index]
    yield batch


def _compute(
    backend: Backend,
    model: str,
    fingerprint: str,
    outputs: tuple[OutputSpec, ...],
    threads: int | None,
    sequences: list[str],
) -> _Computed:
    """Compute a batch. This runs in the worker."""
    host = socket.gethostname()
    records: dict[int, Record] = {}
    unanswered = set(range(len(sequences)))
    try:
        found = backend.namespace(model).fingerprint
        if found != fingerprint:
            raise BackendError(
                f"the worker on host {host} has other weights for this model: their digest is {found}, here it is "
                f"{fingerprint}"
            )
        with closing(backend.run(model, sequences, outputs, n_jobs=threads)) as batches:
            for answer in batches:
                records.update(answers(answer, unanswered))
    except PartialResultError as error:
        return _Computed(records, error.causes)
    except CheckpointError as error:
        raise type(error)(f"the worker on host {host} cannot use the model: {error}") from None
    return _Computed(records, {})
