"""The one road from sequences to records: unique → store → backend → store → rows in the input's order.

Only this module knows the backend and the store at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skesm._alphabet import count_residues
from skesm._derived import derive, source
from skesm._outputs import Namespace, OutputSpec, Record, validate_record
from skesm.backends.base import Backend, Batch
from skesm.cache import RecordStore, recall_model, remember_model, resolve_location
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, CheckpointNotFoundError, PartialResultError

_CAUSES_SHOWN = 5


@dataclass(frozen=True)
class RunInfo:
    """What a transform cost.

    Attributes
    ----------
    rows : int
        Rows of X.
    distinct : int
        Distinct sequences among them, and what else was needed for them: the reference, masked copies.
    hits : int
        Distinct sequences that were answered from the record store (by this or another process).
    computed : int
        Distinct sequences that went through the model, each once.
    """

    rows: int
    distinct: int
    hits: int
    computed: int


@dataclass(frozen=True)
class Answer:
    """The distinct sequences with their records, and for each row of X which of them is its own."""

    sequences: Sequence[str]
    records: Sequence[Record]
    inverse: list[int]
    info: RunInfo


def travel(
    sequences: Sequence[str],
    outputs: Sequence[OutputSpec],
    *,
    backend: Backend,
    model: str,
    memory: Any = None,
    prefetch: Sequence[OutputSpec] = (),
    n_jobs: int | None = None,
    verbose: bool = False,
    rows: Sequence[int] | None = None,
) -> Answer:
    """Records of clean sequences.

    Parameters
    ----------
    sequences : sequence of str
        Clean sequences, one for each row of X, repeats allowed.
    outputs : sequence of OutputSpec
        What the records must hold.
    backend, model, memory, n_jobs, verbose
        As given to the estimator.
    prefetch : sequence of OutputSpec
        What else is stored for the sequences that go through the model. Nothing without `memory`.
    rows : sequence of int, optional
        Row of X for which each sequence is needed, for messages; by default its own place.

    Returns
    -------
    Answer
    """
    places: dict[str, int] = {}
    inverse = [places.setdefault(sequence, len(places)) for sequence in sequences]
    distinct = list(places)
    row_of = range(len(sequences)) if rows is None else rows
    spec = backend.spec(model)
    location = resolve_location(memory)
    with ExitStack() as stack:
        progress = stack.enter_context(
            tqdm(total=len(distinct), desc=f"skesm: {spec.name}", unit="seq", disable=not verbose)
        )

        def forward(indices: Sequence[int], wanted: Sequence[OutputSpec]) -> Iterator[dict[int, Record]]:
            """Run the backend; its indices count the sequences that it was handed, ours all distinct ones."""
            unanswered = set(range(len(indices)))
            asked = sorted({source(output) for output in wanted}, key=str)
            # Closed here, not when the garbage collector finds it: a backend's workers and requests end with it.
            try:
                with closing(backend.run(model, [distinct[i] for i in indices], asked, n_jobs=n_jobs)) as batches:
                    for batch in batches:
                        fresh = {indices[place]: record for place, record in _answers(batch, unanswered)}
                        for index, record in fresh.items():
                            try:
                                validate_record(record, asked, count_residues(distinct[index]), spec.width)
                            except ValueError as error:
                                row = row_of[inverse.index(index)]
                                raise BackendError(
                                    f"{spec.name}: the answer for row {row} of X is wrong: {error}"
                                ) from error
                            fresh[index] = derive(record, wanted, distinct[index])
                        progress.update(len(fresh))
                        yield fresh
            except PartialResultError as error:
                raise _by_rows(error, indices, inverse, row_of) from error
            if unanswered:
                raise BackendError(f"the backend left {len(unanswered)} of {len(indices)} sequences unanswered")

        records: dict[int, Record] = {}
        if location is None:
            for fresh in forward(range(len(distinct)), outputs):
                records.update(fresh)
            computed = len(records)
        else:
            namespace, absent = _find_namespace(backend, model, spec, location)
            store = stack.enter_context(RecordStore(location, namespace))
            wanted = sorted({*outputs, *prefetch}, key=str)
            computed = 0

            def look_up(indices: Sequence[int]) -> list[int]:
                """Take what the store has of `indices`; what it lacks is returned."""
                found = store.get([distinct[i] for i in indices], outputs)
                known = {i: record for i, record in zip(indices, found, strict=True) if record is not None}
                records.update(known)
                progress.update(len(known))
                return [i for i in indices if i not in known]

            missing = look_up(range(len(distinct)))
            while missing:
                if absent is not None:
                    raise absent
                with store.claim([distinct[i] for i in missing], wanted) as mine:
                    for fresh in forward([missing[i] for i in mine], wanted) if mine else ():
                        store.put([distinct[i] for i in fresh], list(fresh.values()))
                        records.update(fresh)
                        computed += len(fresh)
                others = [i for i in missing if i not in records]
                if others and not mine:
                    store.wait([distinct[i] for i in others], outputs)
                missing = look_up(others) if others else []
    info = RunInfo(rows=len(sequences), distinct=len(distinct), hits=len(distinct) - computed, computed=computed)
    return Answer(distinct, [records[i] for i in range(len(distinct))], inverse, info)


def _answers(batch: Batch, unanswered: set[int]) -> Iterator[tuple[int, Record]]:
    """Places and records of a batch. A place is taken from `unanswered`, where it must be."""
    if len(batch.indices) != len(batch.records):
        raise BackendError(f"the backend answered {len(batch.indices)} sequences with {len(batch.records)} records")
    for place, record in zip(batch.indices, batch.records, strict=True):
        if place not in unanswered:
            raise BackendError("the backend answered a sequence twice, or one that it was not asked for")
        unanswered.remove(place)
        yield place, record


def _by_rows(
    error: PartialResultError, indices: Sequence[int], inverse: Sequence[int], rows: Sequence[int]
) -> PartialResultError:
    """A backend's error, which counts the sequences that it was handed, in rows of X."""
    failed = {indices[place]: cause for place, cause in error.causes.items()}
    causes = {row: failed[index] for row, index in zip(rows, inverse, strict=True) if index in failed}
    shown = "; ".join(f"row {row}: {cause}" for row, cause in list(causes.items())[:_CAUSES_SHOWN])
    more = f"; and {len(causes) - _CAUSES_SHOWN} more" if len(causes) > _CAUSES_SHOWN else ""
    return PartialResultError(
        f"{len(causes)} of {len(set(rows))} rows of X failed, all others are finished: {shown}{more}", causes
    )


def _find_namespace(
    backend: Backend, model: str, spec: ModelSpec, location: Path
) -> tuple[Namespace, CheckpointNotFoundError | None]:
    """The namespace of the model's records; if its weights are not here, that of the last time, with the error.

    What is stored can then be had without weights, and the error is raised if something is missing.
    """
    name = os.path.abspath(model) if os.path.isdir(model) else model
    try:
        namespace = backend.namespace(model)
    except CheckpointNotFoundError as error:
        known = recall_model(location, name, backend.numerics)
        if known is None:
            raise
        return Namespace(model, known.fingerprint, known.numerics), error
    remember_model(location, name, namespace, asdict(spec))
    return namespace, None
