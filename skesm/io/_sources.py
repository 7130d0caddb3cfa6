"""Rows of files, one after the other: FASTA, tables, Parquet, and text with a sequence on each line."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from skesm._optional import import_optional
from skesm.exceptions import InputFileError
from skesm.io._columns import ID_COLUMNS, SEQUENCE_COLUMNS, place_of, sequence_column_of, well_known
from skesm.io._fasta import parse_fasta
from skesm.io._files import STANDARD_INPUT, decode, name_lines, name_of, open_bytes
from skesm.io._sheets import SPREADSHEET, read_sheet
from skesm.io._tables import choose_delimiter

_PARQUET = b"PAR1"
_TABLES = (".csv", ".tsv", ".tab", ".xlsx")
_HEAD = 1 << 16  # characters in which the header line of a table ends
_BATCH = 4096  # rows of a Parquet file that are read at a time


class Row(NamedTuple):
    """A row of a file.

    Attributes
    ----------
    file : str
        How messages call the file.
    line : int
        Its line, from 1. The row of the sheet for a spreadsheet, and the number of the row for Parquet.
    id : str
        Its name. The number of the line where the file has no names.
    text : object
        The sequence as it is written there. It is not a str where a value is missing.
    problem : str
        Why it cannot be used. Empty if nothing is known.
    """

    file: str
    line: int
    id: str
    text: str
    problem: str


@dataclass(frozen=True)
class Source:
    """Files that are read as often as needed.

    Attributes
    ----------
    paths : tuple of path
    sequence_column, id_column : str or None
        Columns of tables.
    names : tuple of str
        How messages call the files.
    taken : dict of str to None
        Notes on the columns that were chosen by well-known names, each once.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    sequence_column: str | None = None
    id_column: str | None = None
    taken: dict[str, None] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the files."""
        for path, name in zip(self.paths, self.names, strict=True):
            yield from self._rows(path, name)

    def _rows(self, path: Path, name: str) -> Iterator[Row]:
        with open_bytes(path) as file:
            begin = file.peek(len(_PARQUET))
            if begin.startswith(_PARQUET):
                yield from self._parquet(path, name)
            elif begin.startswith(SPREADSHEET):
                yield from self._table(read_sheet(file.read(), name), name)
            else:
                with decode(file, name, newline="") as text:
                    yield from self._text(text, name)

    def _text(self, text: TextIO, name: str) -> Iterator[Row]:
        head = list(_head(text))
        lines = itertools.chain(head, text)
        first = next((line for line in head if line.strip()), "")
        if first.startswith(">"):
            unix = (line.rstrip("\r\n") for line in lines)
            for raw, record in parse_fasta(unix, name):
                yield Row(name, raw.problem_line or raw.line, record.id, record.sequence, raw.problem)
        elif self.sequence_column is not None or _suffix(name) in _TABLES:
            yield from self._delimited(head, lines, name)
        else:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield Row(name, number, str(number), line.strip(), "")

    def _delimited(self, head: list[str], lines: Iterable[str], name: str) -> Iterator[Row]:
        wanted = [self.sequence_column] if self.sequence_column else list(SEQUENCE_COLUMNS)
        wanted += [self.id_column] if self.id_column else []
        delimiter = choose_delimiter("".join(head), wanted, Path(name))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            yield from self._table(((reader.line_num, row) for row in reader), name)
        except csv.Error as error:
            raise InputFileError(f"{name} is not a table of text: {error}") from error

    def _table(self, numbered: Iterator[tuple[int, list[str]]], name: str) -> Iterator[Row]:
        header = [cell.strip() for cell in next(numbered, (0, []))[1]]
        sequence, names = self._places(header, name)
        for line, cells in numbered:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise InputFileError(
                    f"{name}: {name_lines([line])} has more or fewer columns than the header, which has {len(header)}",
                    [line],
                )
            yield Row(name, line, str(line) if names is None else cells[names].strip(), cells[sequence], "")

    def _parquet(self, path: Path, name: str) -> Iterator[Row]:
        import_optional("pyarrow", extra="parquet")
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            header = file.schema_arrow.names
            first, place = self._places(header, name)
            sequence = header[first]
            columns = [sequence] if place is None else [sequence, header[place]]
            number = 0
            for batch in file.iter_batches(_BATCH, columns=columns):
                ids = None if place is None else batch.column(columns[1]).to_pylist()
                for i, text in enumerate(batch.column(sequence).to_pylist()):
                    number += 1
                    yield Row(name, number, str(number) if ids is None else str(ids[i]), text, "")

    def _places(self, header: Sequence[str], name: str) -> tuple[int, int | None]:
        """Of sequences and of ids, which need not be there. Choices that were not asked for are noted."""
        sequence = sequence_column_of(header, self.sequence_column, name)
        names = self.id_column or well_known(header, ID_COLUMNS)
        notes = []
        if self.sequence_column is None and sequence != SEQUENCE_COLUMNS[0]:
            notes.append(f"sequences are from the column {sequence!r}")
        if self.id_column is None and names not in (None, ID_COLUMNS[0]):
            notes.append(f"ids are from the column {names!r}")
        if notes:
            self.taken[f"{name}: {', '.join(notes)}"] = None
        return list(header).index(sequence), None if names is None else place_of(header, names, name)


@contextmanager
def open_source(
    paths: Sequence[str | os.PathLike[str]], sequence_column: str | None, id_column: str | None
) -> Iterator[Source]:
    """The source of some files. Standard input is kept in a temporary file, since sources are read twice."""
    with tempfile.TemporaryDirectory() as folder:
        kept = []
        for path in paths:
            if os.fspath(path) == STANDARD_INPUT:
                path = Path(folder, "input")
                with path.open("wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
            kept.append(Path(path))
        yield Source(tuple(kept), tuple(map(name_of, paths)), sequence_column, id_column)


def _head(text: TextIO) -> Iterator[str]:
    """The first lines, which hold the header."""
    room = _HEAD
    for line in text:
        yield line
        room -= len(line)
        if room < 0:
            return


def _suffix(name: str) -> str:
    return next((suffix for suffix in reversed(Path(name.lower()).suffixes) if suffix != ".gz"), "")
