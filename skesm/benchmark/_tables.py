"""Reading of sequences and measured values from a delimited text file."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skesm._messages import first_and_more


@dataclass(frozen=True)
class Table:
    """Columns of a file, one entry per row of data.

    Attributes
    ----------
    sequences : list of str
        As written in the file.
    y : ndarray of shape (n_rows,), float64
        The target, finite.
    groups : list of str or None
        The group column, if asked for.
    lines : ndarray of shape (n_rows,), int
        Line of the file, from 1, on which each row ends.
    """

    sequences: list[str]
    y: NDArray[np.float64]
    groups: list[str] | None
    lines: NDArray[np.intp]


def read_table(
    path: str | os.PathLike[str], sequence_column: str, target_column: str, group_column: str | None = None
) -> Table:
    r"""Read sequences and a numeric target from a CSV file, or a TSV file by its suffix ``.tsv``.

    Parameters
    ----------
    path : path-like
        UTF-8 file with a header line.
    sequence_column, target_column : str
        Names in the header.
    group_column : str, default=None
        Column of which equal values must stay in one fold.

    Returns
    -------
    table : Table
        All rows of the file, in its order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a row is too short or too long, or a target is not a finite number. The message names
        columns and line numbers, never values.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "variants.csv")
    ...     _ = path.write_text("seq,label\nMKV,0.5\nMKL,1\n")
    ...     table = read_table(path, "seq", "label")
    >>> table.sequences, table.y.tolist(), table.lines.tolist()
    (['MKV', 'MKL'], [0.5, 1.0], [2, 3])
    """
    path = Path(path)
    wanted = [sequence_column, target_column, *([] if group_column is None else [group_column])]
    rows: list[list[str]] = []
    lines: list[int] = []
    ragged: list[int] = []
    try:
        # utf-8-sig: spreadsheet programs put a byte-order mark before the first column's name
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = next(reader, [])
            places = [_place(header, name, path) for name in wanted]
            for row in reader:
                if not row:
                    continue  # blank line
                if len(row) != len(header):
                    ragged.append(reader.line_num)
                else:
                    rows.append([row[place] for place in places])
                    lines.append(reader.line_num)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a UTF-8 CSV file: {error}") from error
    if ragged:
        raise ValueError(f"{path}: {name_lines(ragged)} {_verb(ragged)} not the header's {len(header)} columns")
    if not rows:
        raise ValueError(f"{path} holds no rows")

    y = np.array([_number(row[1]) for row in rows])
    bad = [line for line, value in zip(lines, y, strict=True) if not np.isfinite(value)]
    if bad:
        raise ValueError(
            f"{path}: column {target_column!r} is not a finite number on {name_lines(bad)}; remove or correct "
            f"{'these rows' if len(bad) > 1 else 'this row'}"
        )
    return Table(
        sequences=[row[0] for row in rows],
        y=y,
        groups=None if group_column is None else [row[2] for row in rows],
        lines=np.array(lines),
    )


def name_lines(lines: list[int]) -> str:
    """``line 3``, or the first few of several.

    >>> name_lines([3]), name_lines([3, 5, 8, 9, 12, 40])
    ('line 3', 'lines 3, 5, 8, 9, 12 and 1 more')
    """
    return f"line{'s' if len(lines) > 1 else ''} {first_and_more(lines, ', ', last=' ')}"


def _place(header: list[str], name: str, path: Path) -> int:
    if header.count(name) != 1:
        problem = "no column" if name not in header else "several columns"
        raise ValueError(f"{path} has {problem} {name!r}; its columns are {', '.join(map(repr, header)) or 'none'}")
    return header.index(name)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _verb(lines: list[int]) -> str:
    return "have" if len(lines) > 1 else "has"
