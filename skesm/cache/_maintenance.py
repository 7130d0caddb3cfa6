"""What is stored, whether it is whole, dropping a model, taking values elsewhere. Nothing here computes or prints."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skesm._optional import import_optional
from skesm.cache import _claims
from skesm.cache._database import open_for_reading
from skesm.cache._files import FORMAT_FILE, MANIFEST_FILE, RECORD_FILE, check_format, find_location
from skesm.cache._records import Codec
from skesm.exceptions import StoreError
from skesm.outputs.kinds import KINDS
from skesm.outputs.types import FloatArray

_PARQUET_ROWS = 4096


@dataclass(frozen=True)
class NamespaceInfo:
    """What is stored for one model in one numerics.

    Attributes
    ----------
    folder : Path
        Its folder.
    models : tuple of str
        Names under which the model was used.
    fingerprint, numerics, created : str
        From the manifest.
    sequences : int
        Distinct sequences of which something is stored.
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
    """Whether what is stored for one model is whole.

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


@dataclass(frozen=True)
class PruneReport:
    """What was removed.

    Attributes
    ----------
    folders : tuple of Path
        Folders that are gone.
    freed_bytes : int
        Size of their files.
    """

    folders: tuple[Path, ...]
    freed_bytes: int


def info(location: str | os.PathLike[str]) -> list[NamespaceInfo]:
    """Say what a store holds, by model.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.

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
    return [_describe(folder) for folder in _folders(location)]


def verify(location: str | os.PathLike[str]) -> list[VerifyReport]:
    """Read every value and compare its checksum. Nothing is changed.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.

    Raises
    ------
    StoreError
        If there is no store, or a newer version of skesm wrote it.
    """
    return [_verify(folder) for folder in _folders(location)]


def prune(location: str | os.PathLike[str], *, model: str) -> PruneReport:
    """Remove everything that is stored for a model, in all numerics.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.
    model : str
        A name under which it was used, or its fingerprint; both are in `info`.

    Raises
    ------
    StoreError
        If there is no such model, or its records are being computed right now.
    """
    chosen = _select(location, model)
    for each in chosen:
        if any(_claims.alive(each.folder, token) for token in _claims.tokens(each.folder)):
            raise StoreError(f"records of {model!r} are being computed by another process: wait for it to end")
    for each in chosen:
        # Renamed first: others see all of it, or nothing.
        doomed = each.folder.with_name(f".removed-{secrets.token_hex(4)}")
        os.rename(each.folder, doomed)
        shutil.rmtree(doomed)
    return PruneReport(tuple(each.folder for each in chosen), sum(each.disk_bytes for each in chosen))


def export(location: str | os.PathLike[str], path: str | os.PathLike[str], *, model: str | None = None) -> int:
    """Write the values of one model to a ``.npz`` or ``.parquet`` file.

    Sequences are not stored, so rows are named by `sequence_digest`: the first 32 hexadecimal digits of the SHA-256 of
    the sequence.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.
    path : path
        The file to write; an existing one is replaced.
    model : str, optional
        A name under which the model was used, or its fingerprint. Needed when several are stored.

    Returns
    -------
    int
        Number of values written.

    Raises
    ------
    StoreError
        If there is no such model or more than one, a value is damaged, or a newer version of skesm wrote the store.
    ValueError
        If `path` ends otherwise.
    MissingDependencyError
        If pyarrow, which writes Parquet, is not installed.

    Notes
    -----
    A ``.npz`` file holds, for each output such as ``mean@6``: ``mean@6/sequence`` (digests), ``mean@6/length``
    (residues) and ``mean@6/values``, one row for each sequence. Values per residue are laid end to end along the first
    axis; those of row i are ``values[offsets[i]:offsets[i + 1]]`` with ``logits/offsets``. Values per pair of residues,
    such as ``contacts``, are flat: those of row i are ``values[offsets[i]:offsets[i + 1]].reshape(shapes[i])``.

    A Parquet file has one row for each value: sequence, length, output, shape, values (flat, row by row).
    """
    target = Path(path)
    writers: dict[str, Callable[[Path, Iterator[_Value]], int]] = {".npz": _write_npz, ".parquet": _write_parquet}
    if target.suffix not in writers:
        raise ValueError(f"the file must end in .npz or .parquet, got {target.suffix!r}")
    chosen = _select(location, model)
    if len(chosen) != 1:
        names = ", ".join(f"{'/'.join(each.models)} in {each.numerics} ({each.fingerprint})" for each in chosen)
        raise StoreError(f"{len(chosen)} models match, name one by its fingerprint: {names}")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with _reading(chosen[0].folder) as (connection, codec):
            count = writers[target.suffix](temporary, _values(connection, codec, strict=True))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


@dataclass(frozen=True)
class _Value:
    sequence: str
    length: int
    output: str
    array: FloatArray | None


def _folders(location: str | os.PathLike[str]) -> list[Path]:
    root = find_location(location)
    try:
        number = json.loads((root / FORMAT_FILE).read_bytes()).get("format")
    except (ValueError, AttributeError):
        raise StoreError(f"{root / FORMAT_FILE} is damaged: the next use of the store repairs it") from None
    check_format(number, root)
    return sorted(path.parent for path in root.glob(f"*/{RECORD_FILE}") if not path.parent.name.startswith("."))


def _select(location: str | os.PathLike[str], model: str | None) -> list[NamespaceInfo]:
    known = info(location)
    chosen = [each for each in known if model is None or model in (*each.models, each.fingerprint)]
    if not chosen:
        names = ", ".join(sorted({name for each in known for name in each.models})) or "nothing"
        raise StoreError(f"nothing is stored for {model!r}; stored: {names}")
    return chosen


@contextmanager
def _reading(folder: Path) -> Iterator[tuple[sqlite3.Connection, Codec]]:
    """Open the record file, read-only and on one state of it; what is wrong with it becomes a StoreError."""
    try:
        connection, namespace = open_for_reading(folder)
        try:
            connection.execute("BEGIN")
            yield connection, Codec(namespace)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{folder / RECORD_FILE} cannot be read: {error}") from error


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError):
        return {}  # it can be written anew, and what counts is in the record file
    return found if isinstance(found, dict) else {}


def _describe(folder: Path) -> NamespaceInfo:
    manifest = _manifest(folder)
    facts: dict[str, Any] = {
        "models": tuple(manifest.get("models", ())),
        "fingerprint": manifest.get("fingerprint", ""),
        "numerics": manifest.get("numerics", ""),
        "created": manifest.get("created", ""),
        "disk_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    try:
        with _reading(folder) as (connection, _):
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
        with _reading(folder) as (connection, codec):
            findings = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
            problem = None if findings == ["ok"] else findings[0]
            for value in _values(connection, codec, strict=False):
                records += 1
                damaged += value.array is None
    except StoreError as error:
        problem = str(error)
    return VerifyReport(folder, tuple(_manifest(folder).get("models", ())), records, damaged, problem)


def _values(connection: sqlite3.Connection, codec: Codec, *, strict: bool) -> Iterator[_Value]:
    """Every value, output by output; a damaged one without array, or as an error if `strict`."""
    for (output,) in connection.execute("SELECT DISTINCT output FROM record ORDER BY output").fetchall():
        held, block = -1, b""
        for digest, length, shape, number, start, size, checksum in connection.execute(
            "SELECT sequence, length, shape, block, start, size, checksum FROM record WHERE output = ?"
            " ORDER BY block, start",
            (output,),
        ):
            if number != held:
                row = connection.execute("SELECT value FROM block WHERE id = ?", (number,)).fetchone()
                held, block = number, row[0] if row else b""
            array = codec.decode((digest, length), output, shape, block[start : start + size], checksum)
            if array is None and strict:
                raise StoreError("a stored value does not agree with its checksum: see skesm cache verify")
            yield _Value(digest.hex(), length, output, array)


def _write_npz(path: Path, values: Iterator[_Value]) -> int:
    columns: dict[str, list[_Value]] = {}
    for value in values:
        columns.setdefault(value.output, []).append(value)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for output, column in columns.items():
        found = [value.array for value in column if value.array is not None]
        arrays[f"{output}/sequence"] = np.array([value.sequence for value in column])
        arrays[f"{output}/length"] = np.array([value.length for value in column], dtype=np.int64)
        rows = KINDS[re.split("[@~]", output)[0]].rows
        if rows == "":  # of one shape for all sequences
            arrays[f"{output}/values"] = np.stack(found)
            continue
        if rows is None:  # values differ in more than their number of rows
            arrays[f"{output}/shapes"] = np.array([array.shape for array in found], dtype=np.int64)
            found = [array.ravel() for array in found]
        arrays[f"{output}/values"] = np.concatenate(found)
        arrays[f"{output}/offsets"] = np.cumsum([0, *map(len, found)])
    with open(path, "xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own parameters
    return sum(map(len, columns.values()))


def _write_parquet(path: Path, values: Iterator[_Value]) -> int:
    arrow = import_optional("pyarrow", extra="parquet")
    parquet = import_optional("pyarrow.parquet", extra="parquet")
    schema = arrow.schema(
        [
            ("sequence", arrow.string()),
            ("length", arrow.int32()),
            ("output", arrow.string()),
            ("shape", arrow.list_(arrow.int32())),
            ("values", arrow.list_(arrow.float32())),
        ]
    )
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while rows := [value for _, value in zip(range(_PARQUET_ROWS), values, strict=False)]:
            found = [value.array for value in rows if value.array is not None]
            flat = np.concatenate([array.ravel() for array in found])
            offsets = np.cumsum([0, *(array.size for array in found)], dtype=np.int32)
            columns = [
                arrow.array([value.sequence for value in rows]),
                arrow.array([value.length for value in rows], arrow.int32()),
                arrow.array([value.output for value in rows]),
                arrow.array([list(array.shape) for array in found], schema.field("shape").type),
                arrow.ListArray.from_arrays(arrow.array(offsets), arrow.array(flat)),
            ]
            writer.write_table(arrow.table(columns, schema=schema))
            count += len(rows)
    return count
