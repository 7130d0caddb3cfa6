"""Find the records of a request in the store, and the namespace that they belong to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from skesm.backends.base import Model
from skesm.cache import KnownModel, RecordStore, recall_model, remember_model
from skesm.esm2.spec import ModelSpec, find_registered
from skesm.exceptions import BackendError, CheckpointNotFoundError
from skesm.fetch.request import Distinct
from skesm.outputs.derived import derive, sources
from skesm.outputs.spec import Namespace, OutputSpec, Record
from skesm.sequences.alphabet import count_residues

#: Values that are read from the store at a time, a quarter of a gigabyte. They are reduced before the next are read.
_VALUES_READ = 1 << 26


def find_namespace(model: Model, location: Path) -> tuple[Namespace, CheckpointNotFoundError | None]:
    """Find the namespace of the model's records.

    If the weights are not on this machine, return the namespace of the last time, with the error. Stored records then
    need no weights. The caller raises the error if a record is missing.
    """
    name = os.path.abspath(model.name) if os.path.isdir(model.name) else model.name
    try:
        namespace = model.namespace()
    except CheckpointNotFoundError as error:
        known = recall_model(location, name, model.numerics)
        if known is None or not _is_trusted(known, model.name):
            raise
        return Namespace(model.name, known.fingerprint, known.numerics), error
    remember_model(location, name, namespace, asdict(model.spec))
    return namespace, None


def refuse_changed_weights(model: Model, namespace: Namespace) -> None:
    """Raise if the model's files were replaced during the run: records could come from the old or the new ones."""
    if model.namespace() != namespace:
        raise BackendError(f"{model.spec.name}: its files were replaced during the run. Run it again")


class Lookup:
    """Reads a request's distinct sequences from a store."""

    def __init__(self, store: RecordStore, distinct: Distinct, spec: ModelSpec) -> None:
        self._store = store
        self._distinct = distinct
        self._spec = spec

    def find(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Iterator[dict[int, Record]]:
        """Yield stored records of some distinct sequences, by index: the outputs, or the sources of derived ones."""
        asked = sources(outputs)
        are_derived = not set(outputs) <= set(asked)
        for some in self._portions(indices, asked):
            found = self._stored(some, outputs)
            if are_derived:
                others = self._stored([i for i in some if i not in found], asked)
                found.update((i, derive(record, outputs, self._distinct.sequences[i])) for i, record in others.items())
            yield found

    def _portions(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Iterator[list[int]]:
        """Yield some distinct sequences at a time, so that their records fit in memory."""
        size_of = cache(lambda length: sum(output.size(length, self._spec) for output in outputs))
        some: list[int] = []
        room = _VALUES_READ
        for index in indices:
            size = size_of(count_residues(self._distinct.sequences[index]))
            if some and size > room:
                yield some
                some, room = [], _VALUES_READ
            some.append(index)
            room -= size
        if some:
            yield some

    def _stored(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> dict[int, Record]:
        found = self._store.get([self._distinct.sequences[i] for i in indices], outputs)
        return {i: record for i, record in zip(indices, found, strict=True) if record is not None}


def _is_trusted(known: KnownModel, model: str) -> bool:
    """Whether stored records may answer if the weights are gone.

    Versions that did not note 'rope_theta' could read wrong rotary frequencies, except from published models.
    """
    return "rope_theta" in known.details or find_registered(model.partition("@")[0]) is not None
