"""Stored values as files for other programs."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from skesm._optional import import_optional
from skesm.cache.maintenance.contents import Value, reading, select, values_of
from skesm.exceptions import StoreError
from skesm.outputs.kinds import KINDS

_PARQUET_ROWS = 4096


def export(location: str | os.PathLike[str], path: str | os.PathLike[str], *, model: str | None = None) -> int:
    """Write the values of one model to a ``.npz`` or ``.parquet`` file.

    Sequences are not stored, so rows are named by `sequence_digest`: the first 32 hexadecimal digits of the SHA-256 of
    the sequence.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.
    path : path
        The file to write. An existing file is replaced.
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
    axis. Those of row i are ``values[offsets[i]:offsets[i + 1]]`` with ``logits/offsets``. Values per pair of residues,
    such as ``contacts``, are flat: those of row i are ``values[offsets[i]:offsets[i + 1]].reshape(shapes[i])``.

    A Parquet file has one row for each value: sequence, length, output, shape, values (flat, row by row).
    """
    target = Path(path)
    writers: dict[str, Callable[[Path, Iterator[Value]], int]] = {".npz": _write_npz, ".parquet": _write_parquet}
    if target.suffix not in writers:
        raise ValueError(f"the file must end in .npz or .parquet, got {target.suffix!r}")
    chosen = select(location, model)
    if len(chosen) != 1:
        names = ", ".join(f"{'/'.join(each.models)} in {each.numerics} ({each.fingerprint})" for each in chosen)
        raise StoreError(f"{len(chosen)} models match, name one by its fingerprint: {names}")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with reading(chosen[0].folder) as (connection, codec):
            count = writers[target.suffix](temporary, values_of(connection, codec, strict=True))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_npz(path: Path, values: Iterator[Value]) -> int:
    columns: dict[str, list[Value]] = {}
    for value in values:
        columns.setdefault(value.output, []).append(value)
    arrays: dict[str, np.ndarray] = {}
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


def _write_parquet(path: Path, values: Iterator[Value]) -> int:
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
