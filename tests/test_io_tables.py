"""Tables as people have them: every format gives the same rows, and every bad row is named by its line."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skesm.exceptions import InputFileError
from skesm.io import read_table

ROWS = [("P1", "MKTAYI", 0.5, "a"), ("P2", "GSHMSL", -1.25, "b"), ("P3", "MKTAYV", 3.0, "a")]


def delimited(separator: str, *, decimal: str = ".", newline: str = "\n", first: str = "") -> str:
    lines = [["name", "seq", "label", "batch"], *([a, b, str(c).replace(".", decimal), d] for a, b, c, d in ROWS)]
    return first + newline.join(separator.join(line) for line in lines) + newline


def fasta() -> str:
    return "".join(f">{name} label={y} batch={batch}\n{s[:3]}\n{s[3:]}*\n" for name, s, y, batch in ROWS)


def sheet() -> bytes:
    frame = pd.DataFrame(ROWS, columns=["name", "seq", "label", "batch"])
    content = io.BytesIO()
    frame.to_excel(content, index=False, engine="openpyxl")
    return content.getvalue()


#: Name: (name of the file, content).
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "commas": ("data.csv", lambda: delimited(",").encode()),
    "commas, CRLF, byte-order mark": ("data.csv", lambda: delimited(",", newline="\r\n").encode("utf-8-sig")),
    "commas, CR": ("data.csv", lambda: delimited(",", newline="\r").encode()),
    "no suffix": ("data", lambda: delimited(",").encode()),
    "semicolons": ("data.csv", lambda: delimited(";").encode()),
    "semicolons, decimal commas": ("data.csv", lambda: delimited(";", decimal=",").encode()),
    "semicolons that are announced": ("data.csv", lambda: delimited(";", first="sep=;\r\n").encode()),
    "tabs": ("data.tsv", lambda: delimited("\t").encode()),
    "tabs, .TSV": ("data.TSV", lambda: delimited("\t").encode()),
    "tabs in .txt": ("data.txt", lambda: delimited("\t").encode()),
    "tabs in .csv, decimal commas": ("data.csv", lambda: delimited("\t", decimal=",").encode()),
    "bars": ("data.txt", lambda: delimited("|").encode()),
    "white space around names": ("data.csv", lambda: delimited(",").replace("seq,", " seq ,").encode()),
    "blank lines": ("data.csv", lambda: delimited(",").replace("\n", "\n\n").encode()),
    "gzip": ("data.csv.gz", lambda: gzip.compress(delimited(",").encode(), mtime=0)),
    "gzip by another name": ("data.csv", lambda: gzip.compress(delimited(";").encode(), mtime=0)),
    "gzip of tabs": ("data.tsv.gz", lambda: gzip.compress(delimited("\t").encode(), mtime=0)),
    "UTF-16": ("data.csv", lambda: delimited(",").encode("utf-16")),
    "UTF-16, tabs in .txt": ("data.txt", lambda: delimited("\t", newline="\r\n").encode("utf-16")),
    "UTF-16 LE without a mark": ("data.csv", lambda: delimited(",").encode("utf-16-le")),
    "UTF-16 BE without a mark": ("data.csv", lambda: delimited(",").encode("utf-16-be")),
    "UTF-16, gzip": ("data.csv.gz", lambda: gzip.compress(delimited(",").encode("utf-16"), mtime=0)),
    "UTF-32": ("data.csv", lambda: delimited(",").encode("utf-32")),
    "spreadsheet": ("data.xlsx", sheet),
    "spreadsheet by another name": ("data.csv", sheet),
    "FASTA": ("data.fasta", lambda: fasta().encode()),
    "FASTA, gzip": ("data.fa.gz", lambda: gzip.compress(fasta().encode(), mtime=0)),
    "FASTA by another name": ("data.txt", lambda: fasta().replace("\n", "\r\n").encode()),
}


def write(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_formats_are_equal(name: str, tmp_path: Path) -> None:
    file, content = FILES[name]
    path = write(tmp_path, content(), file)
    id_column = "id" if name.startswith("FASTA") else "name"
    table = read_table(path, "seq", "label", id_column=id_column, group_column="batch")
    assert table.y is not None
    assert list(zip(table.ids or [], table.sequences, table.y, table.groups or [], strict=True)) == ROWS
    assert table.dropped == {}
    assert len(table.lines) == 3
    assert read_table(path, "seq").sequences == [row[1] for row in ROWS]
    assert read_table(path, "seq").y is None


@pytest.mark.parametrize("name", ["commas", "gzip", "UTF-16", "FASTA", "spreadsheet"])
def test_standard_input(name: str, tmp_path: Path) -> None:
    code = "from skesm.io import read_table; print(read_table('-', 'seq', 'label').sequences)"
    done = subprocess.run([sys.executable, "-c", code], input=FILES[name][1](), capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout.decode().strip() == str([row[1] for row in ROWS])


def test_columns_by_name_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffy,"seq",batch\r\n1e-1,MKV,a\r\n\r\n-2,"ACD",b\r\n,,\r\n3,MKI,"b\r\nc"\r\n')
    table = read_table(path, "seq", "y", group_column="batch")
    assert table.y is not None
    assert (table.sequences, table.y.tolist()) == (["MKV", "ACD", "MKI"], [0.1, -2.0, 3.0])
    assert table.groups == ["a", "b", "b\r\nc"]
    assert table.lines.tolist() == [2, 4, 7]


def test_lines_after_an_announced_separator(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "sep=;\nseq;y\nMKV;1\n"), "seq", "y").lines.tolist() == [3]


def test_lines_of_fasta_and_spreadsheets(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, fasta()), "seq", "label").lines.tolist() == [1, 4, 7]
    assert read_table(write(tmp_path, sheet()), "seq", "label").lines.tolist() == [2, 3, 4]


def test_spreadsheets_with_gaps_keep_their_row_numbers(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in [[None], ["seq", "y"], ["MKV", 0.1], [None, None], ["MKI", "=1+1"], ["MKL", "2"]]:
        book.active.append(row)
    book.save(tmp_path / "data.xlsx")
    table = read_table(tmp_path / "data.xlsx", "seq", "y", invalid="drop")
    assert table.y is not None
    assert (table.sequences, table.y.tolist(), table.lines.tolist()) == (["MKV", "MKL"], [0.1, 2.0], [3, 6])
    assert table.dropped == {5: ": column 'y' is empty"}  # a formula that no program has computed


def test_decimal_commas_are_not_guessed(tmp_path: Path) -> None:
    """1,5 beside 1.5 could be thousands."""
    with pytest.raises(InputFileError, match="line 3: column 'y' is not a finite number") as caught:
        read_table(write(tmp_path, "seq;y\nMKV;1.5\nMKI;1,5\n"), "seq", "y")
    assert caught.value.lines == (3,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seq,y\nSECRET,1\nSECRET,high\nSECRET,\nSECRET,nan\nSECRET,inf\nSECRET,1_0\n", "5 of 6 rows cannot be used"),
        ("seq,y\nSECRET,1\nSECRET,high\n", "line 3: column 'y' is not a finite number"),
        ("seq,y\nSECRET,1\nSECRET,\n", "line 3: column 'y' is empty"),
        ("seq,y\n" + "SECRET,x\n" * 12, "and 7 more: lines 7, 8, 9, 10, 11 and 2 more"),
        ("seq,y\nSECRET\nSECRET,1\n", "line 2 has more or fewer columns than the header, which has 2"),
        ("seq,y\nSECRET,1,2\nSECRET,1,2\n", "lines 2, 3 have more or fewer columns than the header, which has 2"),
        ("sequence,y\nSECRET,1\n", "no column 'seq'. Its columns are 'sequence', 'y'"),
        ("sequence;y\nSECRET;1\n", "no column 'seq'. Its columns are 'sequence', 'y'"),
        ("seq,seq,y\nA,SECRET,1\n", "several columns 'seq'"),
        ("seq,y\n", "holds no rows"),
        ("", "no column 'seq'. Its columns are none"),
        ('seq,y\n"SECRET,1\n', "is not a table of text"),
        ("seq,y\nSECRET,1\nSECRET1,2\n", "line 3, position 7: '1' is not an amino acid"),
        ("seq,y\nSECRET,1\nNA,2\nnan,2\n", "2 of 3 rows cannot be used:\n  line 3: the text of a missing value"),
        ("seq,y\nSECRET,1\n,2\n", "line 3: empty. Remove the row"),
        ("seq,y\nSECRET,1\n" + "S" * 60 + ",2\n", "line 3: 60 residues, more than max_length=50. Raise max_length"),
        (">a y=1\nSECRET\n>b\nSECRET\n", "line 3: column 'y' is empty"),
        (">a y=1\nSECRET\n>b y=2\nSECRET\nSEC-ET\n", "line 3, line 5 of the file, position 4: '-' is a gap"),
        (">a y=1\nSECRET\n>b y=2\n", "line 3: no sequence follows the header"),
        (">a\nSECRET\n>b\nSECRET\n", "FASTA file without the field 'y' in its headers. Write it as '>name y=1.5'"),
    ],
)
def test_errors_name_lines_and_no_sequence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputFileError) as caught:
        read_table(path := write(tmp_path, text), "seq", "y", max_length=50)
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value).replace(str(path), "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seq,y\n\xe9\xff,1\n", "is not text in UTF-8. Save it again as UTF-8"),
        (b"\xff\xfes\x00e\x00q", "is not text in UTF-16"),
        (gzip.compress(delimited(",").encode(), mtime=0)[:-9], "the gzip data are damaged or cut off"),
        (gzip.compress(delimited(",").encode(), mtime=0)[:40] + b"\0" * 40, "the gzip data are damaged or cut off"),
        (b"\xd0\xcf\x11\xe0" * 100, "is an old Excel file"),
        (b"PAR1" * 100, "is a Parquet file. Read it with pandas.read_parquet"),
        (b"PK\x03\x04" * 100, "is a damaged spreadsheet, or an archive of another kind"),
        (sheet()[:-600], "is a damaged spreadsheet, or an archive of another kind"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        read_table(write(tmp_path, content), "seq", "y")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_table(tmp_path / "none.csv", "seq", "y")
    with pytest.raises(InputFileError, match="is a folder"):
        read_table(tmp_path, "seq", "y")


def test_invalid_rows_can_be_left_out(tmp_path: Path) -> None:
    lines = ["seq,y,batch", "MKV,1,a", "MK-V,2,a", "MKL,,b", "nan,3,b", "mki,4,c", "J,5,c", "MKA,x,c"]
    path = write(tmp_path, "\n".join(lines))
    table = read_table(path, "seq", "y", group_column="batch", invalid="drop")
    assert table.y is not None
    assert (table.sequences, table.y.tolist(), table.groups) == (["MKV", "mki"], [1.0, 4.0], ["a", "c"])
    assert table.lines.tolist() == [2, 6]
    assert list(table.dropped) == [3, 4, 5, 7, 8]
    assert read_table(path, "seq", "y", invalid="drop", unknown_residues="X").lines.tolist() == [2, 6, 7]
    with pytest.raises(InputFileError) as caught:
        read_table(path, "seq", "y")
    assert caught.value.lines == (3, 4, 5, 7, 8)


def test_a_table_of_invalid_rows_only(tmp_path: Path) -> None:
    with pytest.raises(
        InputFileError, match=r"none of 2 rows can be used: 1 with a bad .* \(line 2\), 1 without a target"
    ):
        read_table(write(tmp_path, "seq,y\nM1,1\nMK,\n"), "seq", "y", invalid="drop")
    with pytest.raises(ValueError, match="invalid must be 'raise' or 'drop'"):
        read_table(tmp_path / "data.csv", "seq", "y", invalid="ignore")


def test_numbers_of_a_spreadsheet_keep_all_digits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(20).round(13)  # openpyxl writes 16 digits
    frame = pd.DataFrame({"seq": ["MKV"] * 20, "y": values})
    frame.to_excel(tmp_path / "data.xlsx", index=False)
    table = read_table(tmp_path / "data.xlsx", "seq", "y")
    assert table.y is not None
    np.testing.assert_array_equal(table.y, values)
