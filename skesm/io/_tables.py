"""Sequences and measured values of a table, as people have them: delimited text, spreadsheets, FASTA with targets."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skesm.exceptions import InputFileError
from skesm.io._columns import ANY_SEQUENCE, find_name, names_of, place_of, refuse_several
from skesm.io._fasta import parse_fasta
from skesm.io._files import decode, name_lines, name_of, open_bytes, refuse_lines
from skesm.io._sheets import SPREADSHEET, read_sheet
from skesm.sequences.clean import find_problems

_DELIMITERS = (",", ";", "\t", "|")
_TAB_SUFFIXES = (".tsv", ".tab")
_NO_TARGET = ": column "
_COUNTED = 20  # lines of each kind that are shown
_ENOUGH = 1 << 16  # characters that surely hold the header line

#: ``3,14``, as spreadsheets of many countries write numbers. Their files are not separated by commas.
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")

#: ``label=1.5`` in the header of a FASTA record.
_FIELD = re.compile(r"(\S+?)=(\S*)")


@dataclass(frozen=True)
class Table:
    """Columns of a file, one entry for each row.

    Attributes
    ----------
    sequences : list of str
        As written in the file.
    y : ndarray of shape (n_rows,), float64, or None
        The target, finite. None without a target column.
    groups : list of str or None
        The group column, if asked for.
    ids : list of str or None
        The id column, if asked for. The records' names for FASTA.
    lines : ndarray of shape (n_rows,), int
        Line of the file, from 1, on which each row ends. Row of the sheet for a spreadsheet, line of the header for
        FASTA.
    dropped : dict of int to str
        Lines that ``invalid="drop"`` left out, each with its problem. Empty otherwise.
    """

    sequences: list[str]
    y: NDArray[np.float64] | None
    groups: list[str] | None
    lines: NDArray[np.intp]
    ids: list[str] | None = None
    dropped: dict[int, str] = field(default_factory=dict)


@dataclass
class RawTable:
    """The wanted cells, by column, before they are checked."""

    lines: list[int]
    columns: dict[str, list[str]]
    names: dict[str, str] = field(default_factory=dict)  # in the file, of columns that are looked for
    problems: dict[int, str] = field(default_factory=dict)
    decimal_comma: bool = False


def read_table(
    path: str | os.PathLike[str],
    sequence_column: str | None = None,
    target_column: str | None = None,
    *,
    id_column: str | None = None,
    group_column: str | None = None,
    max_length: int | None = None,
    unknown_residues: str = "error",
    invalid: str = "raise",
) -> Table:
    r"""Read sequences, and a numeric target, from a table with a header line.

    The format is recognised by the content:

    - text separated by commas, semicolons, tabs or ``|``: the one with which the header has the columns that you ask
      for. Numbers may have a decimal comma, unless commas separate the columns.
    - the first sheet of an ``.xlsx`` file (needs openpyxl: ``pip install openpyxl``),
    - FASTA: its columns are ``id``, the sequence, and fields such as ``label=1.5`` in the headers.

    Files may be compressed with gzip, and text may be in UTF-8 or UTF-16.

    Parameters
    ----------
    path : str or path-like
        The file. ``"-"`` is the standard input.
    sequence_column : str, default=None
        Name in the header. None takes a well-known one: ``sequence``, ``seq``, ``mutated_sequence`` and others.
        A FASTA file has one column of sequences, so the name is not used there.
    target_column : str, default=None
        Column of numbers.
    id_column : str, default=None
        Column of names. FASTA has its records' names without being asked.
    group_column : str, default=None
        Column of groups. Rows with equal values must stay in one fold.
    max_length : int, default=None
        Sequences of more residues are bad rows.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` accepts the letter ``J``.
    invalid : {"raise", "drop"}, default="raise"
        How to treat rows without a finite number as target, or with a sequence that cannot be used. ``"drop"``
        leaves them out and names them in ``dropped``.

    Returns
    -------
    table : Table
        The rows of the file, in its order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputFileError
        If the file cannot be read, a column is missing, a row is too short or too long, or rows are bad. The message
        names columns and line numbers, never values.
    MissingDependencyError
        If the file is a spreadsheet and openpyxl is not installed.
    ValueError
        If `invalid` is not one of the allowed values.

    See Also
    --------
    read_fasta : Sequences of a FASTA file, without targets.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skesm.io import read_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "variants.csv")
    ...     _ = path.write_text("seq;label\nMKV;0,5\nMKL;\nMKI;1\n")
    ...     table = read_table(path, "seq", "label", invalid="drop")
    >>> table.sequences, table.y.tolist(), table.lines.tolist()
    (['MKV', 'MKI'], [0.5, 1.0], [2, 4])
    >>> table.dropped
    {3: ": column 'label' is empty"}
    """
    if invalid not in ("raise", "drop"):
        raise ValueError(f"invalid must be 'raise' or 'drop', not {invalid!r}")
    name = name_of(path)
    wanted = [ANY_SEQUENCE if sequence_column is None else sequence_column]
    wanted += [column for column in (target_column, id_column, group_column) if column is not None]
    sequence_column = wanted[0]
    rows, fasta = read_raw(path, wanted, sequence_column)
    if not rows.lines:
        raise InputFileError(f"{name} holds no rows")
    sequences = rows.columns[sequence_column]
    found = find_problems(sequences, max_length=max_length, unknown_residues=unknown_residues)
    problems = {rows.lines[row]: problem for row, problem in found.items()} | rows.problems
    y = None
    if target_column is not None:
        y, bad = numbers(rows, target_column)
        problems |= bad
    problems = dict(sorted(problems.items()))
    if invalid == "raise":
        remedy = "\nCorrect these rows, or leave them out: invalid='drop'"
        refuse_lines(name, problems, len(rows.lines), remedy)
    kept = [row for row, line in enumerate(rows.lines) if line not in problems]
    if not kept:
        raise InputFileError(f"{name}: none of {len(rows.lines)} rows can be used: {count_problems(problems)}")

    def of(column: str | None) -> list[str] | None:
        return None if column is None else [rows.columns[column][row] for row in kept]

    return Table(
        sequences=[sequences[row] for row in kept],
        y=None if y is None else y[kept],
        groups=of(group_column),
        lines=np.array([rows.lines[row] for row in kept]),
        ids=of(id_column or ("id" if fasta else None)),
        dropped=problems,
    )


def count_problems(problems: Mapping[int, str]) -> str:
    """Numbers of rows by the kind of their problem, with their first lines.

    Examples
    --------
    >>> letter = ", position 2: '1' is not an amino acid"
    >>> count_problems({3: ": column 'y' is empty", 5: letter, 9: ": empty"})
    '1 without a target (line 3), 2 with a bad sequence (lines 5, 9)'
    """
    kinds: dict[str, list[int]] = {}
    for line, problem in problems.items():
        if "and the reference has" in problem:
            kind = "of another length than the reference"
        else:
            kind = "without a target" if problem.startswith(_NO_TARGET) else "with a bad sequence"
        kinds.setdefault(kind, []).append(line)
    return ", ".join(f"{len(lines)} {kind} ({name_lines(lines, _COUNTED)})" for kind, lines in kinds.items())


def read_raw(path: str | os.PathLike[str], wanted: list[str], sequence_column: str) -> tuple[RawTable, bool]:
    """The wanted columns before they are checked, and whether the file is FASTA."""
    name = name_of(path)
    with open_bytes(path) as file:
        if file.peek(len(SPREADSHEET)).startswith(SPREADSHEET):
            return _pick(read_sheet(file.read(), name), wanted, name), False
        with decode(file, name, newline="") as lines:
            text = lines.read()
    if text.lstrip().startswith(">"):
        return _read_fasta(io.StringIO(text, newline=None), name, wanted, sequence_column), True
    return _read_text(text, path, wanted), False


def _read_fasta(lines: Iterable[str], name: str, wanted: list[str], sequence_column: str) -> RawTable:
    rows = RawTable([], {})
    records: list[dict[str, str]] = []
    seen: Counter[str] = Counter()
    for raw, record in parse_fasta(lines, name):
        fields = {"id": record.id, **dict(_FIELD.findall(record.description)), sequence_column: record.sequence}
        seen.update(fields.keys())
        rows.lines.append(raw.line)
        records.append(fields)
        if raw.problem:
            place = f", line {raw.problem_line} of the file" if raw.problem_line != raw.line else ""
            rows.problems[raw.line] = f"{place}{raw.problem}"
    for column in wanted:
        refuse_several(list(seen), column, name)
    rows.names |= {c: c if c == sequence_column else find_name(list(seen), c) or "" for c in wanted}
    absent = [column for column in wanted if not rows.names[column]]
    if absent:
        field = names_of(absent[0])[0]
        raise InputFileError(
            f"{name} is a FASTA file without the field {field!r} in its headers. Write it as "
            f"'>name {field}=1.5', or give a table"
        )
    for column in {*wanted, "id", sequence_column}:
        rows.columns[column] = [fields.get(rows.names.get(column, column), "") for fields in records]
    return rows


def _read_text(text: str, path: str | os.PathLike[str], wanted: list[str]) -> RawTable:
    name = name_of(path)
    skipped = 0
    separator = re.match(r"sep=(.)\r?\n", text)  # a first line for spreadsheet programs
    if separator:
        text, skipped = text[separator.end() :], 1
    delimiter = separator[1] if separator else choose_delimiter(text, wanted, Path(os.fspath(path)))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = _pick(((reader.line_num + skipped, row) for row in reader), wanted, name)
    except csv.Error as error:
        raise InputFileError(f"{name} is not a table of text: {error}") from error
    rows.decimal_comma = delimiter != ","
    return rows


def choose_delimiter(text: str, wanted: Sequence[str], path: Path) -> str:
    """The separator with which the header has most of the wanted columns, then most columns at all."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _TAB_SUFFIXES:
        return "\t"

    def fit(delimiter: str) -> tuple[int, int]:
        header = next(csv.reader(io.StringIO(text[:_ENOUGH], newline=""), delimiter=delimiter), [])
        names = [cell.strip() for cell in header]
        return sum(known in names for column in wanted for known in names_of(column)), len(names)

    return max(_DELIMITERS, key=fit)


def _pick(numbered: Iterable[tuple[int, list[str]]], wanted: list[str], name: str) -> RawTable:
    """The wanted columns of numbered rows. The first row is the header."""
    numbered = iter(numbered)
    header = [cell.strip() for cell in next(numbered, (0, []))[1]]
    places = {column: place_of(header, column, name) for column in wanted}
    rows = RawTable([], {column: [] for column in wanted}, {column: header[place] for column, place in places.items()})
    ragged = []
    for line, row in numbered:
        if not any(row):
            continue  # a blank line, or one of separators only
        if len(row) != len(header):
            ragged.append(line)
            continue
        rows.lines.append(line)
        for column, place in places.items():
            rows.columns[column].append(row[place])
    if ragged:
        verb = "have" if len(ragged) > 1 else "has"
        raise InputFileError(
            f"{name}: {name_lines(ragged)} {verb} more or fewer columns than the header, which has {len(header)}",
            ragged,
        )
    return rows


def numbers(rows: RawTable, column: str) -> tuple[NDArray[np.float64], dict[int, str]]:
    """(values of a column, problems by line)."""
    cells = [cell.strip() for cell in rows.columns[column]]
    if rows.decimal_comma and any(map(_DECIMAL_COMMA.fullmatch, cells)) and not any("." in cell for cell in cells):
        cells = [cell.replace(",", ".") for cell in cells]
    y = np.array([_number(cell) for cell in cells])
    problems = {
        line: f"{_NO_TARGET}{rows.names.get(column, column)!r} is {'not a finite number' if cell else 'empty'}"
        for line, cell, value in zip(rows.lines, cells, y, strict=True)
        if not np.isfinite(value)
    }
    return y, problems


def _number(text: str) -> float:
    try:
        return float(text) if "_" not in text else float("nan")  # Python reads 1_5 as 15
    except ValueError:
        return float("nan")
