"""What the record store has of a request, and under which namespace."""

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

#: Values that the store is asked for at a time, a quarter of a gigabyte: they are reduced before the next are read.
_VALUES_READ = 1 << 26


def find_namespace(model: Model, location: Path) -> tuple[Namespace, CheckpointNotFoundError | None]:
    """The namespace of the model's records; if its weights are not here, that of the last time, with the error.

    What is stored can then be had without weights, and the error is raised if something is missing.
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
    """Raise if the model's files were replaced since: what was computed could belong to either."""
    if model.namespace() != namespace:
        raise BackendError(f"{model.spec.name}: its files were replaced during the run. Run it again")


class Lookup:
    """Reads a request's distinct sequences from a store."""

    def __init__(self, store: RecordStore, distinct: Distinct, spec: ModelSpec) -> None:
        self._store = store
        self._distinct = distinct
        self._spec = spec

    def find(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Iterator[dict[int, Record]]:
        """What the store has of some distinct sequences, by index: the outputs, or what they are derived from."""
        asked = sources(outputs)
        are_derived = not set(outputs) <= set(asked)
        for some in self._portions(indices, asked):
            found = self._stored(some, outputs)
            if are_derived:
                others = self._stored([i for i in some if i not in found], asked)
                found.update((i, derive(record, outputs, self._distinct.sequences[i])) for i, record in others.items())
            yield found

    def _portions(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Iterator[list[int]]:
        """Some distinct sequences at a time, whose records fit in memory."""
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
    """Whether records of weights that are gone may answer.

    A version that did not note 'rope_theta' could read rotary frequencies wrongly, but not those of published models.
    """
    return "rope_theta" in known.details or find_registered(model.partition("@")[0]) is not None
