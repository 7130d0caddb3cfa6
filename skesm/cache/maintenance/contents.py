"""List the contents of a store, and verify them. Nothing here computes, prints or changes anything."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skesm._typing import Document
from skesm.cache._records import Codec, read_block
from skesm.cache.disk.database import open_for_reading
from skesm.cache.disk.files import FORMAT_FILE, MANIFEST_FILE, RECORD_FILE, check_format, find_location
from skesm.exceptions import StoreError
from skesm.outputs.types import FloatArray


@dataclass(frozen=True)
class NamespaceInfo:
    """The stored values of one model in one numerics.

    Attributes
    ----------
    folder : Path
        Its folder.
    models : tuple of str
        Names under which the model was used.
    fingerprint, numerics, created : str
        From the manifest.
    sequences : int
        Distinct sequences with stored values.
    outputs : dict
        Number of values of each output.
    value_bytes, disk_bytes : int
        Size of all values, and of all files.
    problem : str or None
        Why nothing could be read, if so.
    """

    folder: Path
    models: tuple[str, ...]
    fingerprint: str
    numerics: str
    created: str
    disk_bytes: int
    sequences: int = 0
    outputs: dict[str, int] = field(default_factory=dict)
    value_bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """Whether the stored values of one model are whole.

    Attributes
    ----------
    folder : Path
        Its folder.
    models : tuple of str
        Names under which the model was used.
    records : int
        Values that were checked.
    damaged : int
        Those that do not agree with their checksum. They count as missing when the store is used.
    problem : str or None
        Why not everything could be read, if so.
    """

    folder: Path
    models: tuple[str, ...]
    records: int
    damaged: int
    problem: str | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong."""
        return self.damaged == 0 and self.problem is None


def info(location: str | os.PathLike[str]) -> list[NamespaceInfo]:
    """List the contents of a store, by model.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.

    Returns
    -------
    contents : list of NamespaceInfo
        One for each model and numerics.

    Raises
    ------
    StoreError
        If there is no store, or a newer version of skesm wrote it.

    Examples
    --------
    >>> import tempfile
    >>> from skesm.cache import info
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     info(folder)
    Traceback (most recent call last):
        ...
    skesm.exceptions.StoreError: there is no skesm store in ...
    """
    return [_describe(folder) for folder in folders_of(location)]


def verify(location: str | os.PathLike[str]) -> list[VerifyReport]:
    """Read every value and compare its checksum. Nothing is changed.

    Parameters
    ----------
    location : path
        As in `info`.

    Returns
    -------
    reports : list of VerifyReport
        One for each entry of `info`, in the same order.

    Raises
    ------
    StoreError
        As in `info`.
    """
    return [_verify(folder) for folder in folders_of(location)]


@dataclass(frozen=True)
class Value:
    """A stored value, by the digest of its sequence. A damaged value has no array."""

    sequence: str
    length: int
    output: str
    array: FloatArray | None


def folders_of(location: str | os.PathLike[str]) -> list[Path]:
    """Folders of the namespaces in a store."""
    root = find_location(location)
    try:
        number = json.loads((root / FORMAT_FILE).read_bytes()).get("format")
    except (ValueError, AttributeError, RecursionError):
        raise StoreError(f"{root / FORMAT_FILE} is damaged: the next use of the store repairs it") from None
    check_format(number, root)
    return sorted(path.parent for path in root.glob(f"*/{RECORD_FILE}") if not path.parent.name.startswith("."))


def select(location: str | os.PathLike[str], model: str | None) -> list[NamespaceInfo]:
    """Find the namespaces of a model, or all of them. It is an error if there are none."""
    known = info(location)
    chosen = [each for each in known if model is None or model in (*each.models, each.fingerprint)]
    if not chosen:
        names = ", ".join(sorted({name for each in known for name in each.models})) or "nothing"
        raise StoreError(f"nothing is stored for {model!r}. Stored: {names}")
    return chosen


@contextmanager
def reading(folder: Path) -> Iterator[tuple[sqlite3.Connection, Codec]]:
    """Open the record file, read-only and on one state of it. Any problem with it becomes a StoreError."""
    try:
        connection, namespace = open_for_reading(folder)
        try:
            connection.execute("BEGIN")
            yield connection, Codec(namespace)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{folder / RECORD_FILE} cannot be read: {error}") from error


def _manifest(folder: Path) -> Document:
    try:
        found = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # it can be written again, because the record file holds everything that counts
    if not isinstance(found, dict):
        return {}
    models = found.get("models")
    return {**found, "models": models if isinstance(models, list) else []}


def _describe(folder: Path) -> NamespaceInfo:
    manifest = _manifest(folder)
    facts: Document = {
        "models": tuple(map(str, manifest.get("models", ()))),
        "fingerprint": manifest.get("fingerprint", ""),
        "numerics": manifest.get("numerics", ""),
        "created": manifest.get("created", ""),
        "disk_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    try:
        with reading(folder) as (connection, _):
            (namespace,) = connection.execute("SELECT value FROM meta WHERE key = 'namespace'").fetchone()
            facts["fingerprint"], facts["numerics"] = json.loads(namespace)
            rows = connection.execute("SELECT output, count(*), sum(size) FROM record GROUP BY output").fetchall()
            facts["outputs"] = {output: count for output, count, _ in rows}
            facts["value_bytes"] = sum(size for *_, size in rows)
            (facts["sequences"],) = connection.execute("SELECT count(DISTINCT sequence) FROM record").fetchone()
    except StoreError as error:
        facts["problem"] = str(error)
    return NamespaceInfo(folder, **facts)


def _verify(folder: Path) -> VerifyReport:
    records = damaged = 0
    problem = None
    try:
        with reading(folder) as (connection, codec):
            findings = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
            problem = None if findings == ["ok"] else findings[0]
            for value in values_of(connection, codec, strict=False):
                records += 1
                damaged += value.array is None
    except StoreError as error:
        problem = str(error)
    return VerifyReport(folder, tuple(map(str, _manifest(folder).get("models", ()))), records, damaged, problem)


def values_of(connection: sqlite3.Connection, codec: Codec, *, strict: bool) -> Iterator[Value]:
    """Yield every value, output by output. A damaged one has no array, or raises an error if `strict`."""
    for (output,) in connection.execute("SELECT DISTINCT output FROM record ORDER BY output").fetchall():
        held, block = -1, b""
        for digest, length, shape, number, start, size, checksum in connection.execute(
            "SELECT sequence, length, shape, block, start, size, checksum FROM record WHERE output = ?"
            " ORDER BY block, start",
            (output,),
        ):
            if number != held:
                held, block = number, read_block(connection, number)
            array = codec.decode((digest, length), output, shape, block[start : start + size], checksum)
            if array is None and strict:
                raise StoreError("a stored value does not agree with its checksum: see skesm cache verify")
            yield Value(digest.hex(), length, output, array)
