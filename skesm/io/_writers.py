"""Features with ids to files, by the ending of the file's name. Rows come in pieces and are not held."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skesm._optional import import_optional
from skesm.exceptions import MissingDependencyError
from skesm.io.jobs.parts import beside, temporary

#: Pieces of a table: ids, values, and the number of residues of each row if there is a row for each residue.
Pieces = Callable[[], Iterator[tuple[list[str], np.ndarray, NDArray[np.int64] | None]]]

_METADATA = "skesm"


@dataclass(frozen=True)
class Content:
    """A table that is to be written.

    Attributes
    ----------
    pieces : callable
        Gives the pieces. It may be called several times.
    rows : int
        Their number.
    columns : list of str
        Names of the features.
    dtype : dtype
    ragged : bool
        Whether there is a row of values for each residue.
    metadata : mapping
    id_width : int
        Characters of the longest id.
    wide : bool
        Parquet only: a column for each feature.
    """

    pieces: Pieces
    rows: int
    columns: list[str]
    dtype: np.dtype
    ragged: bool
    metadata: Mapping[str, object]
    id_width: int
    wide: bool


def ending_of(output: Path) -> str:
    """The ending that says how a file is written.

    Raises
    ------
    ValueError
        If no format has this ending.

    Examples
    --------
    >>> ending_of(Path("features.CSV.gz"))
    '.csv.gz'
    """
    name = output.name.lower()
    for ending in _WRITERS:
        if name.endswith(ending):
            return ending
    raise ValueError(f"{output}: the ending must be one of {', '.join(_WRITERS)}")


def names_file(output: Path) -> bool:
    """Whether a name has the ending of a format."""
    return output.name.lower().endswith(tuple(_WRITERS))


def check_output(output: Path, *, ragged: bool) -> None:
    """Raise before anything is computed, if a file could not be written in the end."""
    ending = ending_of(output)
    if ragged and ending not in _RAGGED:
        raise ValueError(f"{output}: values of residues are written to {' or '.join(_RAGGED)} only")
    try:
        if ending == ".parquet":
            import_optional("pyarrow", extra="parquet")
        if ending == ".h5":
            import_optional("h5py", extra="h5")
    except MissingDependencyError as error:
        other = "an .h5 file" if ragged and ending == ".parquet" else "a .parquet file" if ragged else "a .csv file"
        raise MissingDependencyError(f"{error}, or write {other}", name=error.name) from error
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent}. Make it first")


def needs_distinct_ids(output: Path) -> bool:
    """Whether a file of this kind holds one array for each id."""
    return ending_of(output) == ".h5"


def write(output: Path, content: Content) -> None:
    """Write a file, which gets its name when it is complete."""
    with temporary(output) as new:
        _WRITERS[ending_of(output)](new, content)
        if ending_of(output) == ".npy":
            with temporary(ids_beside(output)) as ids:
                ids.write_text("".join(f"{name}\n" for names, *_ in content.pieces() for name in names), "utf-8")


def ids_beside(output: Path) -> Path:
    """Where the ids of a .npy file stand."""
    return beside(output, ".ids.txt")


def _write_parquet(path: Path, content: Content) -> None:
    pyarrow: Any = import_optional("pyarrow", extra="parquet")
    from pyarrow import parquet

    number = pyarrow.from_numpy_dtype(content.dtype)
    vector = pyarrow.list_(number, len(content.columns))
    if content.ragged:
        fields = [pyarrow.field("residues", pyarrow.list_(vector))]
    elif content.wide:
        fields = [pyarrow.field(column, number) for column in content.columns]
    else:
        fields = [pyarrow.field("features", vector)]
    schema = pyarrow.schema([pyarrow.field("id", pyarrow.string()), *fields], {_METADATA: _json(content)})
    with parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for ids, values, lengths in content.pieces():
            if lengths is not None:
                offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
                arrays = [pyarrow.ListArray.from_arrays(offsets, _vectors(pyarrow, values))]
            elif content.wide:
                arrays = [pyarrow.array(column) for column in np.ascontiguousarray(values.T)]
            else:
                arrays = [_vectors(pyarrow, values)]
            writer.write_table(
                pyarrow.Table.from_arrays([pyarrow.array(ids, pyarrow.string()), *arrays], schema=schema)
            )


def _vectors(pyarrow: ModuleType, values: np.ndarray) -> object:
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _write_npz(path: Path, content: Content) -> None:
    with zipfile.ZipFile(path, "w") as archive:

        def member(name: str, dtype: DTypeLike, shape: tuple[int, ...], arrays: Iterable[np.ndarray]) -> None:
            # a ZipInfo has no time of its own, so that equal rows make equal files
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _write_array(file, np.dtype(dtype), shape, arrays)

        text = f"U{max(1, content.id_width)}"
        member("ids", text, (content.rows,), (np.array(ids, dtype=text) for ids, *_ in content.pieces()))
        values = (values for _, values, _ in content.pieces())
        member("features", content.dtype, (content.rows, len(content.columns)), values)
        names = np.array(content.columns)
        member("feature_names", names.dtype, names.shape, [names])
        metadata = np.array(_json(content).decode())
        member("metadata", metadata.dtype, (), [metadata])


def _write_npy(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        shape = (content.rows, len(content.columns))
        _write_array(file, content.dtype, shape, (values for _, values, _ in content.pieces()))


def _write_array(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...], arrays: Iterable[np.ndarray]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for array in arrays:
        file.write(np.ascontiguousarray(array, dtype=dtype).tobytes())


def _write_csv(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        _write_rows(file, content)


def _write_csv_gz(path: Path, content: Content) -> None:
    # without name and time, so that equal rows make equal files
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        _write_rows(packed, content)


def _write_rows(file: IO[bytes] | gzip.GzipFile, content: Content) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *content.columns])
    for ids, values, _ in content.pieces():
        writer.writerows([name, *map(str, row)] for name, row in zip(ids, values, strict=True))
    text.flush()
    text.detach()


def _write_h5(path: Path, content: Content) -> None:
    """One array for each id at the root, named by the id, which its attribute ``original_id`` repeats."""
    h5py = import_optional("h5py", extra="h5")
    with h5py.File(path, "w", track_order=True) as file:  # readers that iterate see the rows' order
        file.attrs["model_name"] = content.metadata["model"]
        file.attrs[_METADATA] = _json(content).decode()
        for ids, values, lengths in content.pieces():
            if lengths is None:
                arrays: Sequence[np.ndarray] = values  # type: ignore[assignment]
            else:
                arrays = np.split(values, np.cumsum(lengths)[:-1])
            for name, array in zip(ids, arrays, strict=True):
                file.create_dataset(h5_key(name), data=array).attrs["original_id"] = name


def h5_key(name: str) -> str:
    """The name of an id's array: ``/`` would make a group.

    >>> h5_key("a/b")
    'a%2Fb'
    """
    return name.replace("%", "%25").replace("/", "%2F") if name != "." else "%2E"


def _json(content: Content) -> bytes:
    return json.dumps(content.metadata, sort_keys=True).encode()


_WRITERS: Mapping[str, Callable[[Path, Content], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".csv.gz": _write_csv_gz,
    ".h5": _write_h5,
}
_RAGGED = (".parquet", ".h5")
