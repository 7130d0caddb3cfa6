"""Merge several stores into one, for example the stores of a cluster's jobs, each in a folder of its own."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from skesm._messages import warn
from skesm.cache import _records
from skesm.cache._models import copy_models
from skesm.cache._records import Codec, Key
from skesm.cache._session import Session
from skesm.cache.disk.files import find_location, resolve_location
from skesm.cache.maintenance.contents import NamespaceInfo, Value, info, reading, values_of
from skesm.exceptions import StoreError, StoreWarning
from skesm.outputs.spec import Namespace, OutputSpec
from skesm.outputs.types import FloatArray

#: Bytes of values in one transaction.
_BATCH_BYTES = 1 << 24

#: Stands for the output that is looked up by its name.
_ANY = OutputSpec("logits")


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge.

    Attributes
    ----------
    added : int
        Values that the target did not have.
    known : int
        Values that it had, bit for bit.
    damaged : int
        Values of the sources that do not agree with their checksums. They were left out.
    """

    added: int
    known: int
    damaged: int


def merge(target: str | os.PathLike[str], *sources: str | os.PathLike[str]) -> MergeReport:
    """Add all records of some stores to another.

    Parameters
    ----------
    target : path
        A value of `memory`, or the folder of a store. The store is made if there is none.
    *sources : path
        Stores to read. They are not changed, and may be in use.

    Returns
    -------
    MergeReport

    Raises
    ------
    StoreError
        If there is no store in a source, a source cannot be read, the target cannot be written, or a record has other
        values in two stores. The message names the digest of that record's sequence.

    Notes
    -----
    Records are added batch by batch. An interrupted merge, or one that ends in an error, leaves a sound store with some
    of the records. Another call adds the rest.

    Examples
    --------
    >>> import tempfile
    >>> from skesm import ESM2Embedder
    >>> from skesm.cache import merge
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, sequence in [("a", "MKT"), ("b", "MKV")]:
    ...         embedder = ESM2Embedder("skesm-mini", memory=f"{folder}/{name}")
    ...         _ = embedder.transform([sequence])
    ...     merge(f"{folder}/all", f"{folder}/a", f"{folder}/b")
    MergeReport(added=2, known=0, damaged=0)
    """
    places = [find_location(source) for source in sources]
    try:
        location = find_location(target)
    except StoreError:
        location = resolve_location(os.fspath(target)) or Path(target)
    added = known = damaged = 0
    for place in places:
        if place == location:
            continue
        for each in info(place):
            if each.problem is not None:
                raise StoreError(each.problem)
            counts = _merge_namespace(location, each)
            added, known, damaged = (a + b for a, b in zip((added, known, damaged), counts, strict=True))
        copy_models(place, location)
    return MergeReport(added, known, damaged)


def _merge_namespace(location: Path, source: NamespaceInfo) -> tuple[int, int, int]:
    """Values added, known and damaged."""
    added = known = damaged = 0
    folder = location / source.folder.name
    with reading(source.folder) as (connection, codec):
        for model in source.models or (source.fingerprint,):
            namespace = Namespace(model, source.fingerprint, source.numerics)
            with Session(location, folder, namespace, codec.namespace) as session:  # notes the model's name
                _require(session.write(lambda _: True), location)
        with session:
            for output, values in groupby(values_of(connection, codec, strict=False), key=lambda value: value.output):
                for batch in _batches(values):
                    whole = {_key(value): value.array for value in batch if value.array is not None}
                    damaged += len(batch) - len(whole)
                    count = _require(session.write(_Adding(codec, output, whole, source.folder)), location)
                    added += count
                    known += len(whole) - count
    if damaged:
        warn(
            f"{damaged} values in {source.folder} do not agree with their checksums and were left out",
            StoreWarning,
        )
    return added, known, damaged


@dataclass(frozen=True)
class _Adding:
    """Add values of one output in one transaction. Return the number of new ones."""

    codec: Codec
    output: str
    values: dict[Key, FloatArray]
    source: Path

    def __call__(self, connection: sqlite3.Connection) -> int:
        found, _ = _records.load(connection, self.codec, list(self.values), {self.output: _ANY})
        for key, record in found.items():
            if not np.array_equal(record[_ANY], self.values[key]):
                raise StoreError(
                    f"record {key[0].hex()}, output {self.output}: {self.source} has other values than the target. "
                    "One of them was computed wrongly, or on another kind of machine: remove one with skesm cache prune"
                )
        new = {(self.output, key): value for key, value in self.values.items() if key not in found}
        _records.save(connection, self.codec, new)
        return len(new)


def _key(value: Value) -> Key:
    return bytes.fromhex(value.sequence), value.length


def _batches(values: Iterator[Value]) -> Iterator[list[Value]]:
    while first := list(islice(values, 1)):
        array = first[0].array
        count = max(1, _BATCH_BYTES // max(1, 0 if array is None else array.nbytes))
        yield first + list(islice(values, min(count, 5000) - 1))


def _require(count: int | None, location: Path) -> int:
    if count is None:
        raise StoreError(f"nothing can be stored in {location}: free disk space, or choose another folder")
    return count
