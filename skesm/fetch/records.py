"""Fetch the records of a request: distinct sequences → store → model → store → rows in the order of the request.

Only this module knows both the model and the store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from skesm._progress import Progress
from skesm._typing import Memory
from skesm.backends.base import Model
from skesm.backends.costs import RunInfo, TransformPlan, add_plans
from skesm.cache import open_store, resolve_location
from skesm.exceptions import BackendError
from skesm.fetch.compute import Computation
from skesm.fetch.lookup import Lookup, find_namespace, refuse_changed_weights
from skesm.fetch.request import Distinct, Request, partial_result
from skesm.fetch.windows import Part, count_long, split
from skesm.outputs.derived import sources
from skesm.outputs.spec import Record
from skesm.outputs.types import Windows

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The reduced records of a request.

    Attributes
    ----------
    values : list of T or None
        One value for each sequence of the request, in its order. Repeats share a value. None if the sequence failed.
    info : RunInfo
    """

    values: list[T | None]
    info: RunInfo


def fetch(
    request: Request,
    reduce: Callable[[str, Record], T],
    *,
    model: Model,
    memory: Memory = None,
    windows: Windows | None = None,
    n_jobs: int | None = None,
    verbose: bool | int | str = False,
) -> Answer[T]:
    """Fetch the records of a request's sequences, and reduce each as it arrives.

    Parameters
    ----------
    request : Request
    reduce : callable
        Called once for each distinct sequence, with the sequence and its record, as soon as the record is there.
        Records can be large, so they are not collected.
    model : Model
    memory, n_jobs, verbose
        As given to the estimator.
    windows : Windows, optional
        The windows for sequences that are too long for one pass.

    Returns
    -------
    Answer

    Raises
    ------
    PartialResultError
        If the backend failed on some sequences, after all others are finished. Its `results` is the Answer, with None
        in the `values` of failed sequences.
    """
    distinct = Distinct(request)
    values: dict[int, T] = {}
    failed: dict[int, BackendError] = {}
    computed = 0
    for part in split(request, distinct, model, windows):
        computation = Computation(distinct, part.model, n_jobs)
        values.update(_fetch_part(part, computation, reduce, memory, verbose))
        failed.update(computation.failed)
        computed += computation.computed
    rows = len(request.sequences)
    windowed = count_long(request.sequences, windows)
    info = RunInfo(rows, len(distinct), len(values) - computed, computed, windowed)
    answer = Answer(distinct.spread(values), info)
    if failed:
        raise partial_result(distinct.causes(failed), rows, answer)
    return answer


def keep(sequence: str, record: Record) -> Record:
    """Return the record itself."""
    return record


def estimate(request: Request, *, model: Model, memory: Memory = None, windows: Windows | None = None) -> TransformPlan:
    """Estimate the cost of `fetch` with the same arguments, without computing or sending a sequence."""
    distinct = Distinct(request)
    plans = [_estimate_part(part, distinct, memory) for part in split(request, distinct, model, windows)]
    return add_plans(len(request.sequences), plans, windowed=count_long(request.sequences, windows))


def _fetch_part(
    part: Part,
    computation: Computation,
    reduce: Callable[[str, Record], T],
    memory: Memory,
    verbose: bool | int | str,
) -> dict[int, T]:
    """Reduced records of a part, by index."""
    location = resolve_location(memory)
    sequences = computation.distinct.sequences
    values: dict[int, T] = {}
    trouble: Exception | None = None
    with ExitStack() as stack:
        name = part.model.spec.name
        bar = stack.enter_context(Progress(verbose, total=len(part.indices), description=f"skesm: {name}", unit="seq"))
        if location is None:
            steps = computation.run(part.indices, part.outputs)
        else:
            steps = _through_store(part, computation, location)
        for finished in stack.enter_context(closing(steps)):
            try:
                values.update((i, reduce(sequences[i], part.rename(r))) for i, r in finished.items())
            except Exception as error:
                if location is None:
                    raise
                trouble = trouble or error  # the remaining records may have cost money: store them first
            bar.update(len(finished))
    if trouble is not None:
        raise trouble
    return values


def _estimate_part(part: Part, distinct: Distinct, memory: Memory) -> TransformPlan:
    missing, outputs = part.indices, part.outputs
    location = resolve_location(memory)
    if location is not None:
        namespace, _ = find_namespace(part.model, location)
        with open_store(location, namespace) as store:
            lookup = Lookup(store, distinct, part.model.spec)
            known = {i for found in lookup.find(part.indices, outputs) for i in found}
        missing = [i for i in part.indices if i not in known]
        outputs = sorted({*outputs, *part.prefetch}, key=str)
    return TransformPlan(
        rows=len(distinct.places(part.indices)),
        distinct=len(part.indices),
        stored=len(part.indices) - len(missing),
        to_compute=len(missing),
        requests=part.model.plan([distinct.sequences[i] for i in missing], sources(outputs)),
    )


def _through_store(part: Part, computation: Computation, location: Path) -> Generator[dict[int, Record], None, None]:
    """Yield stored records, then compute the missing ones, and store each batch at once."""
    outputs, model, distinct = part.outputs, part.model, computation.distinct
    namespace, absent = find_namespace(model, location)
    wanted = sorted({*outputs, *part.prefetch}, key=str)
    with open_store(location, namespace) as store:
        lookup = Lookup(store, distinct, model.spec)
        missing = list(part.indices)
        while missing:
            known: set[int] = set()
            for found in lookup.find(missing, outputs):
                known.update(found)
                yield found
            missing = [i for i in missing if i not in known]
            if not missing:
                break
            if absent is not None:
                raise absent
            sequences = [distinct.sequences[i] for i in missing]
            with store.claim(sequences, wanted) as mine:
                claimed = dict.fromkeys(missing[i] for i in mine)
                if claimed:
                    with closing(computation.run(list(claimed), wanted)) as batches:
                        for fresh in batches:
                            refuse_changed_weights(model, namespace)
                            store.put([distinct.sequences[i] for i in fresh], list(fresh.values()))
                            # prefetched values are on the disk now, and need not stay in memory
                            yield {i: {output: record[output] for output in outputs} for i, record in fresh.items()}
            if not claimed:
                store.wait(sequences, outputs)
            missing = [i for i in missing if i not in claimed]
