"""Bytes of a file to text: gzip and Unicode are recognised by the first bytes, whatever the file is called."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from skesm._messages import MOST_SHOWN, first_and_more
from skesm.exceptions import InputFileError

#: The path that stands for the process's standard input.
STANDARD_INPUT = "-"

_GZIP = b"\x1f\x8b"
_PEEKED = 4096

#: UTF-32's mark begins with UTF-16's mark, so it stands first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

#: First bytes of formats that are not text, and the remedy for each.
_NOT_TEXT = {
    b"PAR1": "a Parquet file. Read it with pandas.read_parquet(path) and pass the column of sequences",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls). Save it as .xlsx or CSV",
    b"PK\x03\x04": "a spreadsheet or a zip archive, where text is expected",
    b"BZh": "compressed with bzip2. Decompress it, or use gzip",
    b"\xfd7zXZ": "compressed with xz. Decompress it, or use gzip",
    b"(\xb5/\xfd": "compressed with zstd. Decompress it, or use gzip",
    b"%PDF": "a PDF document, where text is expected",
}


def name_of(path: str | os.PathLike[str]) -> str:
    """How messages call a file."""
    return "standard input" if os.fspath(path) == STANDARD_INPUT else os.fspath(path)


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """Open the bytes of a file or of standard input, decompressed. `peek` shows the first of them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputFileError
        If the file is damaged.
    """
    name = name_of(path)
    try:
        file = _open_raw(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {name}") from None
    except IsADirectoryError:
        raise InputFileError(f"{name} is a folder. Name a file in it") from None
    try:
        if file.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:
            yield io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=file)))
        else:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputFileError(f"{name}: the gzip data are damaged or cut off. Copy the file again") from error
    finally:
        if os.fspath(path) != STANDARD_INPUT:
            file.close()


@contextmanager
def decode(file: io.BufferedReader, name: str, *, newline: str | None = None) -> Iterator[TextIO]:
    """Open the text of an open file: UTF-8, or another Unicode encoding that its first bytes show.

    `newline` has the meaning that it has in `open`. The file stays open.

    Raises
    ------
    InputFileError
        If the file is not text, here or while it is read.
    """
    begin = file.peek(_PEEKED)[:_PEEKED]
    for mark, kind in _NOT_TEXT.items():
        if begin.startswith(mark):
            raise InputFileError(f"{name} is {kind}")
    encoding = _encoding(begin)
    text = io.TextIOWrapper(cast(BinaryIO, file), encoding=encoding, newline=newline)
    try:
        yield text
    except UnicodeDecodeError as error:
        wanted = encoding.removesuffix("-sig").upper()
        raise InputFileError(f"{name} is not text in {wanted}. Save it again as UTF-8") from error
    finally:
        text.detach()


def name_lines(lines: Sequence[int], most: int = MOST_SHOWN) -> str:
    """``line 3``, or the first few of several.

    >>> name_lines([3]), name_lines([3, 5, 8, 9, 12, 40])
    ('line 3', 'lines 3, 5, 8, 9, 12 and 1 more')
    """
    return f"line{'s' if len(lines) > 1 else ''} {first_and_more(lines, ', ', last=' ', most=most)}"


def refuse_lines(name: str, problems: dict[int, str], n_rows: int, remedy: str = "") -> None:
    """Raise InputFileError if lines have problems. A problem begins with ``:`` or with ``, position 3:``."""
    if problems:
        shown = first_and_more((f"line {line}{problem}" for line, problem in problems.items()), "\n  ")
        others = list(problems)[MOST_SHOWN:]
        more = f": {name_lines(others)}" if others else ""
        raise InputFileError(
            f"{name}: {len(problems)} of {n_rows} rows cannot be used:\n  {shown}{more}{remedy}", list(problems)
        )


def _open_raw(path: str | os.PathLike[str]) -> io.BufferedReader:
    if os.fspath(path) == STANDARD_INPUT:
        return cast(io.BufferedReader, sys.stdin.buffer)
    return Path(path).open("rb")


def _encoding(begin: bytes) -> str:
    """By the mark that a file begins with, or by the zero bytes that UTF-16 puts beside each ASCII letter."""
    for mark, encoding in _MARKS.items():
        if begin.startswith(mark):
            return encoding
    even, odd = begin[0::2], begin[1::2]
    if odd and odd.count(0) > len(odd) // 2:
        return "utf-16-le"
    if even and even.count(0) > len(even) // 2:
        return "utf-16-be"
    return "utf-8"
