"""The first sheet of a spreadsheet, by openpyxl."""

from __future__ import annotations

import io
from collections.abc import Iterator
from zipfile import BadZipFile

from skesm._optional import import_optional
from skesm.exceptions import InputFileError

#: The first bytes of an .xlsx file, which is a zip archive.
SPREADSHEET = b"PK\x03\x04"


def read_sheet(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of the first sheet, counted from 1, as text. Empty columns at the right are left out.

    Raises
    ------
    MissingDependencyError
        If openpyxl is not installed.
    InputFileError
        If the archive is no spreadsheet.
    """
    openpyxl = import_optional("openpyxl", extra="excel")
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except (BadZipFile, KeyError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise InputFileError(f"{name} is a damaged spreadsheet, or an archive of another kind") from error
    width = None
    try:
        for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            row = [_text(cell) for cell in cells]
            while row and not row[-1]:
                row.pop()
            if width is None:
                if not row:
                    continue  # nothing stands above the header
                width = len(row)
            yield number, row + [""] * (width - len(row))
    finally:
        book.close()


def _text(cell: object) -> str:
    """Write a cell's value as Python does. Numbers keep all their digits."""
    if cell is None:
        return ""
    return repr(cell) if isinstance(cell, float) else str(cell)
