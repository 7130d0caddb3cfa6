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
from skesm.backends.costs import RunInfo, TransformPlan, add_costs, add_plans
from skesm.cache import RecordStore, resolve_location
from skesm.exceptions import BackendError, PartialResultError
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
    values: list[T | None] = [None] * len(request.sequences)
    causes: dict[int, BackendError] = {}
    costs: list[RunInfo] = []
    for part in split(request, model, windows):
        try:
            answer = _fetch_part(part, reduce, memory=memory, n_jobs=n_jobs, verbose=verbose)
        except PartialResultError as error:
            causes.update(error.causes)
            answer = error.results
        for place, value in zip(part.places, answer.values, strict=True):
            values[place] = value
        costs.append(answer.info)
    info = add_costs(len(values), costs, windowed=count_long(request.sequences, windows))
    whole = Answer(values, info)
    if causes:
        raise partial_result(causes, len(values), whole)
    return whole


def keep(sequence: str, record: Record) -> Record:
    """Return the record itself."""
    return record


def estimate(request: Request, *, model: Model, memory: Memory = None, windows: Windows | None = None) -> TransformPlan:
    """Estimate the cost of `fetch` with the same arguments, without computing or sending a sequence."""
    plans = [_estimate_part(part, memory) for part in split(request, model, windows)]
    return add_plans(len(request.sequences), plans, windowed=count_long(request.sequences, windows))


def _fetch_part(
    part: Part, reduce: Callable[[str, Record], T], *, memory: Memory, n_jobs: int | None, verbose: bool | int | str
) -> Answer[T]:
    distinct = Distinct(part.request)
    computation = Computation(distinct, part.model, n_jobs)
    location = resolve_location(memory)
    values: dict[int, T] = {}
    trouble: Exception | None = None
    with ExitStack() as stack:
        name = part.model.spec.name
        bar = stack.enter_context(Progress(verbose, total=len(distinct), description=f"skesm: {name}", unit="seq"))
        if location is None:
            steps = computation.run(range(len(distinct)), part.request.outputs)
        else:
            steps = _through_store(computation, distinct, location, part)
        for finished in stack.enter_context(closing(steps)):
            try:
                values.update((i, reduce(distinct.sequences[i], part.rename(r))) for i, r in finished.items())
            except Exception as error:
                if location is None:
                    raise
                trouble = trouble or error  # the remaining records may have cost money: store them first
            bar.update(len(finished))
    if trouble is not None:
        raise trouble
    rows = len(part.request.sequences)
    hits = len(values) - computation.computed
    answer = Answer(distinct.spread(values), RunInfo(rows, len(distinct), hits, computation.computed))
    if computation.failed:
        raise partial_result(distinct.causes(computation.failed), rows, answer)
    return answer


def _estimate_part(part: Part, memory: Memory) -> TransformPlan:
    distinct, outputs, model = Distinct(part.request), part.request.outputs, part.model
    missing = distinct.sequences
    location = resolve_location(memory)
    if location is not None:
        namespace, _ = find_namespace(model, location)
        with RecordStore(location, namespace) as store:
            lookup = Lookup(store, distinct, model.spec)
            known = {i for found in lookup.find(range(len(distinct)), outputs) for i in found}
        missing = [sequence for i, sequence in enumerate(distinct.sequences) if i not in known]
        outputs = sorted({*outputs, *part.request.prefetch}, key=str)
    return TransformPlan(
        rows=len(part.request.sequences),
        distinct=len(distinct),
        stored=len(distinct) - len(missing),
        to_compute=len(missing),
        requests=model.plan(missing, sources(outputs)),
    )


def _through_store(
    computation: Computation, distinct: Distinct, location: Path, part: Part
) -> Generator[dict[int, Record], None, None]:
    """Yield stored records, then compute the missing ones, and store each batch at once."""
    outputs, model = part.request.outputs, part.model
    namespace, absent = find_namespace(model, location)
    wanted = sorted({*outputs, *part.request.prefetch}, key=str)
    with RecordStore(location, namespace) as store:
        lookup = Lookup(store, distinct, model.spec)
        missing = list(range(len(distinct)))
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
