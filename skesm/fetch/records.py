"""The one road from sequences to records: unique → store → backend → store → rows in the input's order.

Only this module knows the backend and the store at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from skesm.backends.base import Backend, Batch, RequestPlan, answers
from skesm.cache import RecordStore, recall_model, remember_model, resolve_location
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, CheckpointNotFoundError, PartialResultError
from skesm.fetch.windows import run_windows
from skesm.outputs.derived import derive, sources
from skesm.outputs.spec import Namespace, OutputSpec, Record, validate_record
from skesm.outputs.windows import cut
from skesm.sequences.alphabet import count_residues

T = TypeVar("T")

_CAUSES_SHOWN = 5

#: Values that the store is asked for at a time, a quarter of a gigabyte: they are reduced before the next are read.
_VALUES_READ = 1 << 26


@dataclass(frozen=True)
class RunInfo:
    """What a transform cost.

    Attributes
    ----------
    rows : int
        Rows of X.
    distinct : int
        Distinct sequences among them, and what else they need: a reference, copies with residues masked.
    hits : int
        Distinct sequences that were answered from the record store (by this or another process).
    computed : int
        Distinct sequences that went through the model, each once.
    windowed : int
        Rows of X that are too long for one pass and were computed in windows.
    """

    rows: int
    distinct: int
    hits: int
    computed: int
    windowed: int = 0


@dataclass(frozen=True)
class TransformPlan:
    """What a transform would cost.

    Attributes
    ----------
    rows : int
        Rows of X.
    distinct : int
        Distinct sequences among them, and what else they need: a reference, copies with residues masked.
    stored : int
        Distinct sequences that the record store can answer.
    to_compute : int
        Distinct sequences that would go through the model.
    requests : RequestPlan or None
        What would be sent; None for a model on this machine.
    windowed : int
        Rows of X that are too long for one pass and would be computed in windows.
    """

    rows: int
    distinct: int
    stored: int
    to_compute: int
    requests: RequestPlan | None
    windowed: int = 0


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was made of the records of each row's sequence.

    Attributes
    ----------
    values : list of T or None
        One for each sequence that travelled, in their order; repeats share theirs. None for one that failed.
    info : RunInfo
    """

    values: list[T | None]
    info: RunInfo


class _Passes:
    """Forward passes of one transform's distinct sequences, each answer checked.

    Attributes
    ----------
    computed : int
        Sequences that were answered.
    failed : dict of int to BackendError
        Why a sequence could not be had.
    """

    def __init__(
        self,
        distinct: list[str],
        inverse: list[int],
        *,
        backend: Backend,
        model: str,
        spec: ModelSpec,
        n_jobs: int | None,
        rows: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.distinct = distinct
        self.computed = 0
        self.failed: dict[int, BackendError] = {}
        self._inverse = inverse
        self._rows = rows
        self._backend = backend
        self._model = model
        self._spec = spec
        self._n_jobs = n_jobs

    def run(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Generator[dict[int, Record], None, None]:
        """Records of some distinct sequences, by index, as they finish; what cannot be had goes to `failed`."""
        unanswered = set(range(len(indices)))  # the backend counts the sequences that it is handed
        sequences = [self.distinct[i] for i in indices]
        asked = sources(outputs)
        try:
            # Closed here, not when the garbage collector finds it: a backend's workers and requests end with it.
            with closing(self._ask(sequences, asked)) as batches:
                for batch in batches:
                    fresh = {indices[place]: record for place, record in answers(batch, unanswered)}
                    for index, record in fresh.items():
                        self._check(index, record, asked)
                        fresh[index] = derive(record, outputs, self.distinct[index])
                    self.computed += len(fresh)
                    yield fresh
        except PartialResultError as error:
            self.failed.update((indices[place], cause) for place, cause in error.causes.items())
            unanswered -= error.causes.keys()
        if unanswered:
            raise BackendError(f"the backend left {len(unanswered)} of {len(indices)} sequences unanswered")

    def _ask(self, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> Generator[Batch, None, None]:
        if any(output.windows for output in outputs):
            return run_windows(self._backend, self._model, sequences, outputs, n_jobs=self._n_jobs)
        return self._backend.run(self._model, sequences, outputs, n_jobs=self._n_jobs)

    def _check(self, index: int, record: Record, outputs: Sequence[OutputSpec]) -> None:
        try:
            validate_record(record, outputs, count_residues(self.distinct[index]), self._spec)
        except ValueError as error:
            row = self._rows_of(self._inverse.index(index))[0]
            raise BackendError(f"{self._spec.name}: the answer for row {row} of X is wrong: {error}") from error

    def _rows_of(self, place: int) -> Sequence[int]:
        """Rows of X that need the sequence at a place of those that travel."""
        return (place,) if self._rows is None else self._rows[place]

    def find_namespace(self, location: Path) -> tuple[Namespace, CheckpointNotFoundError | None]:
        """The namespace of the model's records; if its weights are not here, that of the last time, with the error.

        What is stored can then be had without weights, and the error is raised if something is missing.
        """
        name = os.path.abspath(self._model) if os.path.isdir(self._model) else self._model
        try:
            namespace = self._backend.namespace(self._model)
        except CheckpointNotFoundError as error:
            known = recall_model(location, name, self._backend.numerics)
            if known is None:
                raise
            return Namespace(self._model, known.fingerprint, known.numerics), error
        remember_model(location, name, namespace, asdict(self._spec))
        return namespace, None

    def refuse_changed_weights(self, namespace: Namespace) -> None:
        """Raise if the model's files were replaced since: what was computed could belong to either."""
        if self._backend.namespace(self._model) != namespace:
            raise BackendError(f"{self._spec.name}: its files were replaced during the run; run it again")

    def _portions(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Iterator[list[int]]:
        """Some distinct sequences at a time, whose records fit in memory."""
        size_of = cache(lambda length: sum(output.size(length, self._spec) for output in outputs))
        some: list[int] = []
        room = _VALUES_READ
        for index in indices:
            size = size_of(count_residues(self.distinct[index]))
            if some and size > room:
                yield some
                some, room = [], _VALUES_READ
            some.append(index)
            room -= size
        if some:
            yield some

    def look_up(
        self, store: RecordStore, indices: Sequence[int], outputs: Sequence[OutputSpec]
    ) -> Iterator[dict[int, Record]]:
        """What the store has of some distinct sequences, by index: the outputs, or what they are derived from."""
        asked = sources(outputs)
        are_derived = not set(outputs) <= set(asked)
        for some in self._portions(indices, asked):
            found = self._stored(store, some, outputs)
            if are_derived:
                others = self._stored(store, [i for i in some if i not in found], asked)
                found.update((i, derive(record, outputs, self.distinct[i])) for i, record in others.items())
            yield found

    def _stored(self, store: RecordStore, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> dict[int, Record]:
        found = store.get([self.distinct[i] for i in indices], outputs)
        return {i: record for i, record in zip(indices, found, strict=True) if record is not None}

    def error(self, answer: Answer[Any]) -> PartialResultError:
        """What failed, in rows of X."""
        causes = {
            row: self.failed[index]
            for place, index in enumerate(self._inverse)
            if index in self.failed
            for row in self._rows_of(place)
        }
        return partial_result(causes, len(self._inverse), answer)


def partial_result(causes: Mapping[int, BackendError], n_rows: int, results: Any) -> PartialResultError:
    """The error that names the rows of X that failed, and carries what was finished."""
    ordered = dict(sorted(causes.items()))
    shown = "; ".join(f"row {row}: {cause}" for row, cause in list(ordered.items())[:_CAUSES_SHOWN])
    more = f"; and {len(ordered) - _CAUSES_SHOWN} more" if len(ordered) > _CAUSES_SHOWN else ""
    return PartialResultError(
        f"{len(ordered)} of {n_rows} rows of X failed, all others are finished: {shown}{more}", ordered, results
    )


def travel(
    sequences: Sequence[str],
    outputs: Sequence[OutputSpec],
    reduce: Callable[[str, Record], T],
    *,
    backend: Backend,
    model: str,
    memory: Any = None,
    prefetch: Sequence[OutputSpec] = (),
    n_jobs: int | None = None,
    verbose: bool = False,
    rows: Sequence[Sequence[int]] | None = None,
) -> Answer[T]:
    """What `reduce` makes of the records of clean sequences.

    Parameters
    ----------
    sequences : sequence of str
        Clean sequences, one for each row of X, repeats allowed.
    outputs : sequence of OutputSpec
        What the records must hold.
    reduce : callable
        Called once for each distinct sequence, with it and its record, as soon as that is there: records, which can be
        large, are not held until the last one is.
    backend, model, memory, n_jobs, verbose
        As given to the estimator.
    prefetch : sequence of OutputSpec
        What else is stored for the sequences that go through the model. Nothing without `memory`.
    rows : sequence of sequence of int, optional
        For each sequence the rows of X that need it, to be named if it fails; by default its own place.

    Returns
    -------
    Answer

    Raises
    ------
    PartialResultError
        If the backend failed on some sequences, after all others are finished; its `results` is the Answer, in whose
        `values` those are None.
    """
    places: dict[str, int] = {}
    inverse = [places.setdefault(sequence, len(places)) for sequence in sequences]
    distinct = list(places)
    spec = backend.spec(model)
    passes = _Passes(distinct, inverse, backend=backend, model=model, spec=spec, n_jobs=n_jobs, rows=rows)
    location = resolve_location(memory)
    values: dict[int, T] = {}
    trouble: Exception | None = None
    with ExitStack() as stack:
        bar = None  # tqdm starts a thread, even for a bar that is disabled
        if verbose:
            bar = stack.enter_context(tqdm(total=len(distinct), desc=f"skesm: {spec.name}", unit="seq"))
        if location is None:
            steps = passes.run(range(len(distinct)), outputs)
        else:
            steps = _through_store(passes, location, outputs, prefetch)
        for finished in stack.enter_context(closing(steps)):
            try:
                values.update((i, reduce(distinct[i], record)) for i, record in finished.items())
            except Exception as error:
                if location is None:
                    raise
                trouble = trouble or error  # what else was asked for, and may have been paid for, is stored first
            if bar is not None:
                bar.update(len(finished))
    if trouble is not None:
        raise trouble
    hits = len(values) - passes.computed
    info = RunInfo(rows=len(sequences), distinct=len(distinct), hits=hits, computed=passes.computed)
    answer = Answer([values.get(i) for i in inverse], info)
    if passes.failed:
        raise passes.error(answer)
    return answer


def keep(sequence: str, record: Record) -> Record:
    """Reduce nothing: the record itself."""
    return record


def survey(
    sequences: Sequence[str],
    outputs: Sequence[OutputSpec],
    *,
    backend: Backend,
    model: str,
    memory: Any = None,
    prefetch: Sequence[OutputSpec] = (),
) -> TransformPlan:
    """Find what `travel` with the same arguments would cost; computes and sends no sequence."""
    missing = distinct = list(dict.fromkeys(sequences))
    location = resolve_location(memory)
    if location is not None:
        passes = _Passes(distinct, [], backend=backend, model=model, spec=backend.spec(model), n_jobs=None)
        namespace, _ = passes.find_namespace(location)
        with RecordStore(location, namespace) as store:
            known = {i for found in passes.look_up(store, range(len(distinct)), outputs) for i in found}
        missing = [sequence for i, sequence in enumerate(distinct) if i not in known]
        outputs = sorted({*outputs, *prefetch}, key=str)
    asked = sources(outputs)
    windows = next((output.windows for output in asked if output.windows), None)
    passing = list(dict.fromkeys(w for sequence in missing for w in cut(sequence, windows))) if windows else missing
    return TransformPlan(
        rows=len(sequences),
        distinct=len(distinct),
        stored=len(distinct) - len(missing),
        to_compute=len(missing),
        requests=backend.plan(model, passing, [replace(output, windows=None) for output in asked]),
    )


def add_plans(rows: int, plans: Sequence[TransformPlan], *, windowed: int) -> TransformPlan:
    """The plan of several journeys for the same rows."""
    requests = [plan.requests for plan in plans if plan.requests is not None]
    return TransformPlan(
        rows=rows,
        distinct=sum(plan.distinct for plan in plans),
        stored=sum(plan.stored for plan in plans),
        to_compute=sum(plan.to_compute for plan in plans),
        requests=RequestPlan(
            requests=sum(plan.requests for plan in requests),
            sequences=sum(plan.sequences for plan in requests),
            residues=sum(plan.residues for plan in requests),
            refused=sum(plan.refused for plan in requests),
            batch_size=max(plan.batch_size for plan in requests),
        )
        if requests
        else None,
        windowed=windowed,
    )


def _through_store(
    passes: _Passes, location: Path, outputs: Sequence[OutputSpec], prefetch: Sequence[OutputSpec]
) -> Generator[dict[int, Record], None, None]:
    """All records: what the store has, and then what it lacks, stored batch by batch as it is computed."""
    namespace, absent = passes.find_namespace(location)
    wanted = sorted({*outputs, *prefetch}, key=str)
    with RecordStore(location, namespace) as store:
        missing = list(range(len(passes.distinct)))
        while missing:
            known: set[int] = set()
            for found in passes.look_up(store, missing, outputs):
                known.update(found)
                yield found
            missing = [i for i in missing if i not in known]
            if not missing:
                break
            if absent is not None:
                raise absent
            sequences = [passes.distinct[i] for i in missing]
            with store.claim(sequences, wanted) as mine:
                claimed = dict.fromkeys(missing[i] for i in mine)
                if claimed:
                    with closing(passes.run(list(claimed), wanted)) as batches:
                        for fresh in batches:
                            passes.refuse_changed_weights(namespace)
                            store.put([passes.distinct[i] for i in fresh], list(fresh.values()))
                            # what was prefetched is on the disk now, and need not stay in memory
                            yield {i: {output: record[output] for output in outputs} for i, record in fresh.items()}
            if not claimed:
                store.wait(sequences, outputs)
            missing = [i for i in missing if i not in claimed]
