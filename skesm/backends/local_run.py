"""One run of an engine on this machine: refuse, plan, and compute ahead of the consumer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple, Protocol

from joblib import effective_n_jobs

from skesm.backends.base import Batch
from skesm.esm2.machine.stopping import obey
from skesm.esm2.machine.threads import default_workers
from skesm.esm2.machine.workers import worker_pool
from skesm.esm2.packing import split_batches
from skesm.esm2.spec import ModelSpec
from skesm.esm2.tokenizer import Tokens, count_tokens, tokenize
from skesm.exceptions import BackendError
from skesm.outputs.kinds import CONTACT_HEAD, KINDS, LANGUAGE_MODEL_HEAD
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray

#: Values in records that weigh as much as a token: a batch of 8,192 tokens holds 0.25 GB at most, or one sequence.
_VALUES_PER_TOKEN = 8192


class Engine(Protocol):
    """The methods of an engine that the backend uses."""

    spec: ModelSpec
    has_head: bool
    has_contact_head: bool

    def plan(self, lengths: Sequence[int], workers: int) -> list[list[int]]:
        """Group sequences of so many tokens into packs, each a list of their places, for so many workers."""

    def hold(self, n_threads: int) -> AbstractContextManager[int]:
        """Prepare this process for `n_threads` threads of work. Returns the number of packs to run at once."""

    def forward(
        self, sequences: Sequence[Tokens], outputs: Sequence[OutputSpec], helpers: Executor | None = None
    ) -> list[dict[OutputSpec, FloatArray]]:
        """Compute a pack. `helpers` are threads that have nothing else to do."""


class Plan(NamedTuple):
    """Batches of packs, each a list of places of sequences, and whether a batch leaves room for the next one."""

    batches: list[list[list[int]]]
    room_for_two: list[bool]

    @property
    def n_packs(self) -> int:
        """Packs in all batches."""
        return sum(map(len, self.batches))


def refuse(engine: Engine, outputs: Sequence[OutputSpec]) -> None:
    """Raise if the model does not have an output that is asked for.

    Raises
    ------
    ValueError
        If a layer does not exist.
    BackendError
        If the checkpoint was saved without a head that is needed.
    """
    name, n_layers = engine.spec.name, engine.spec.n_layers
    beyond = max((output.layer or 0 for output in outputs), default=0)
    if beyond > n_layers:
        raise ValueError(f"layer {beyond} does not exist: {name} has layers 0 to {n_layers}")
    needed = {KINDS[output.kind].head for output in outputs}
    if not engine.has_head and LANGUAGE_MODEL_HEAD in needed:
        raise BackendError(
            f"the checkpoint of {name} was saved without its language-model head: it has embeddings, but no logits"
        )
    if not engine.has_contact_head and CONTACT_HEAD in needed:
        raise BackendError(
            f"the checkpoint of {name} has no contact head: it has embeddings and attentions, but no contacts. Those "
            "of the published sizes have one"
        )


def make_plan(
    engine: Engine, lengths: Sequence[int], outputs: Sequence[OutputSpec], workers: int, tokens_per_batch: int
) -> Plan:
    """Group sequences of so many tokens into packs, and packs into batches of `tokens_per_batch` tokens."""
    sizes = [_size(length, outputs, engine.spec) for length in lengths]
    batches = split_batches(engine.plan(lengths, workers), sizes, tokens_per_batch)
    return Plan(batches, [sum(sizes[i] for pack in batch for i in pack) <= tokens_per_batch for batch in batches])


def _size(length: int, outputs: Sequence[OutputSpec], spec: ModelSpec) -> int:
    """Tokens of a sequence, or more if its records are large. Their sum decides when a batch is saved."""
    values = sum(output.size(length - 2, spec) for output in outputs)
    return max(length, values // _VALUES_PER_TOKEN)


def compute(
    engine: Engine,
    sequences: Sequence[str],
    outputs: Sequence[OutputSpec],
    *,
    n_jobs: int | None,
    n_threads: int | None = None,
    tokens_per_batch: int,
    check: Callable[[], None] = lambda: None,
) -> Generator[Batch, None, None]:
    """Compute `outputs` for clean sequences, in batches of `tokens_per_batch` tokens, longest sequences first.

    There are as many threads as `n_jobs` says, or else `n_threads`, or else as BLAS would use. `check` is called before
    each batch goes out.
    """
    n_threads = effective_n_jobs(n_jobs) if n_jobs is not None else n_threads or default_workers()
    lengths = [count_tokens(sequence) for sequence in sequences]
    with engine.hold(n_threads) as workers:
        plan = make_plan(engine, lengths, outputs, workers, tokens_per_batch)
        yield from run_ahead(engine, plan, sequences, outputs, workers, check=check)


def run_ahead(
    engine: Engine,
    plan: Plan,
    sequences: Sequence[str],
    outputs: Sequence[OutputSpec],
    workers: int,
    check: Callable[[], None],
) -> Generator[Batch, None, None]:
    """Compute a plan on worker threads. While the consumer stores one batch, they compute the next.

    `check` is called before each batch goes out.
    """
    with ExitStack() as stack:
        stop = threading.Event()
        pool = stack.enter_context(worker_pool(workers, "skesm", initializer=obey, initargs=(stop,)))
        helpers = None
        if plan.n_packs < workers:
            helpers = stack.enter_context(worker_pool(workers, "skesm-helper"))

        def submit(batch: list[list[int]]) -> list[Future[list[dict[OutputSpec, FloatArray]]]]:
            packs = [[tokenize(sequences[i]) for i in pack] for pack in batch]
            return [pool.submit(engine.forward, pack, outputs, helpers) for pack in packs]

        try:
            running = submit(plan.batches[0])
            following = [*plan.batches[1:], []]
            for batch, after, room in zip(plan.batches, following, plan.room_for_two, strict=True):
                ahead = submit(after) if room else None
                records = [record for future in running for record in future.result()]
                running = []
                check()
                yield Batch([index for pack in batch for index in pack], records)
                del records
                running = submit(after) if ahead is None else ahead
        finally:
            stop.set()  # after Ctrl-C, or when nobody wants the rest: passes end after their current layer
            pool.shutdown(wait=True, cancel_futures=True)
