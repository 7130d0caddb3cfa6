"""FASTA files: what is read, and what is refused with its line."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skesm.exceptions import InputFileError
from skesm.io import Fasta, FastaRecord, iter_fasta, read_fasta
from skesm.sequences.alphabet import AMINO_ACIDS

TEXT = ">sp|P1|A_B First protein OS=x\nMKTAY\n\nIAKQR\n>P2\ngshmsl\nfd*\n>P2\tagain \nM<mask>X \n"
EXPECTED = Fasta(["sp|P1|A_B", "P2", "P2"], ["MKTAYIAKQR", "GSHMSLFD", "M<mask>X"], ["First protein OS=x", "", "again"])


def write(folder: Path, content: str | bytes, name: str = "a.fasta") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.rstrip().encode(),
        b"\n\n" + TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        gzip.compress(TEXT.encode()),
        gzip.compress(TEXT[:30].encode()) + gzip.compress(TEXT[30:].encode()),
    ],
    ids=["LF", "CRLF", "CR", "no line end", "blank lines first", "byte-order mark", "UTF-16", "gzip", "joined gzip"],
)
def test_what_is_read(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    fasta = read_fasta(path)
    assert fasta == EXPECTED
    assert list(iter_fasta(str(path))) == [FastaRecord(*record) for record in zip(*EXPECTED, strict=True)]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input(compress: type[bytes]) -> None:
    code = "from skesm.io import read_fasta; print(tuple(read_fasta('-')))"
    done = subprocess.run([sys.executable, "-c", code], input=compress(TEXT.encode()), capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout.decode().strip() == str(tuple(EXPECTED))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SECRET\n", "line 1: text before the first header. A FASTA record begins with '>'"),
        ("; comment\n>a\nSECRET\n", "line 1: text before the first header"),
        (">\nSECRET\n", "line 1: a header without a name"),
        (">a\nSECRET\n>  \nSECRET\n", "line 3: a header without a name"),
        ("", "holds no FASTA records"),
        ("\n \n", "holds no FASTA records"),
        (">a\nSECRET\n>b\n>c\nSECRET\n", "line 3: no sequence follows the header. Remove the record"),
        (">a\nSECRET\n>b\n*\n", "line 3: no sequence follows the header"),
        (">a\nSECRET\nSEC RET\n", "line 3, position 4: white space inside the sequence"),
        (">a\nSECRET\nSEC-ET\n", "line 3, position 4: '-' is a gap"),
        (">a\nSECRET\n1 SECRET\n", "line 3, position 1: '1' is not an amino acid"),
        (">a\nSEC*ET\n", "line 2, position 4: '*' inside the sequence"),
        (">a\nSECRET*\nSECRET\n", "line 3: residues follow '*', a stop codon"),
        (">a\nSECRET**\n", "line 2, position 7: '*' at the end, a stop codon"),
        (">a\nSECRET\N{NO-BREAK SPACE}SECRET\n", "line 2, position 7: white space inside the sequence"),
        (">a\nSECR\N{CYRILLIC CAPITAL LETTER IE}T\n", "line 2, position 5: U+0415 (CYRILLIC CAPITAL LETTER IE)"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    for read in (read_fasta, lambda path: list(iter_fasta(path))):
        with pytest.raises(InputFileError) as caught:
            read(path)  # type: ignore[operator]
        assert message in str(caught.value)
        assert "SECRET" not in str(caught.value).replace(str(path), "")


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    text = "".join(f">{n}\nMKT{'-' if n % 2 else ''}\n" for n in range(20))
    with pytest.raises(InputFileError, match="10 of 20 rows cannot be used") as caught:
        read_fasta(write(tmp_path, text))
    assert caught.value.lines == tuple(range(4, 42, 4))


def test_lines_that_spell_a_missing_value_are_residues(tmp_path: Path) -> None:
    assert read_fasta(write(tmp_path, ">a\nMKT\nNULL\n>b\nnan\n>c\nMJK\n")).sequences == ["MKTNULL", "NAN", "MJK"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_fasta(tmp_path / "none.fasta")


def test_iteration_reads_no_more_than_it_gives(tmp_path: Path) -> None:
    """A pipe that another process fills: the first records are there before the last are written."""
    code = (
        "import sys, itertools; from skesm.io import iter_fasta\n"
        "for record in itertools.islice(iter_fasta('-'), 2): print(record.id, flush=True)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(">a\nMKT\n>b\nMKT\n>c\nMKT\n")
        process.stdin.flush()
        assert [process.stdout.readline().strip() for _ in range(2)] == ["a", "b"]


def test_abandoned_iteration_closes_the_file(tmp_path: Path) -> None:
    """A file that is left open is a ResourceWarning, which is an error here."""
    path = write(tmp_path, TEXT)
    assert [record.id for record in itertools.islice(iter_fasta(path), 1)] == ["sp|P1|A_B"]


@given(st.lists(st.text(AMINO_ACIDS, min_size=1, max_size=200), min_size=1, max_size=5), st.integers(1, 80))
def test_sequences_survive_any_width(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[str], width: int
) -> None:
    def fold(sequence: str) -> str:
        return "\n".join(sequence[i : i + width] for i in range(0, len(sequence), width))

    path = tmp_path_factory.mktemp("fasta") / "a.fasta"
    path.write_text("".join(f">{n}\n{fold(sequence)}\n" for n, sequence in enumerate(sequences)))
    assert read_fasta(path).sequences == sequences
