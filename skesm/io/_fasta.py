"""FASTA files, read record by record."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from skesm.exceptions import InputFileError
from skesm.io._files import decode, name_of, open_bytes, refuse_lines
from skesm.sequences.clean import is_plain, problem_of

_HEADER = ">"
_STOP = "*"


class FastaRecord(NamedTuple):
    """One sequence of a FASTA file.

    Attributes
    ----------
    id : str
        The header's first word.
    sequence : str
        In capitals, without a ``*`` at the end.
    description : str
        The header after its first word. It may be empty.
    """

    id: str
    sequence: str
    description: str


class Fasta(NamedTuple):
    """All sequences of a FASTA file, one entry for each record in each list.

    Attributes
    ----------
    ids, sequences, descriptions : list of str
        As in `FastaRecord`.
    """

    ids: list[str]
    sequences: list[str]
    descriptions: list[str]


@dataclass
class RawRecord:
    """A record as it is parsed: the line of its header, and its problem if there is one, to follow ``line 3``."""

    line: int
    header: str
    parts: list[str] = field(default_factory=list)
    stopped: bool = False
    problem_line: int = 0
    problem: str = ""

    def add(self, line: int, text: str) -> None:
        """Add a line of the sequence. The first problem is kept."""
        if self.problem:
            return
        text = text.strip()
        if not text:
            return
        if self.stopped:
            self.problem_line, self.problem = (
                line,
                ": residues follow '*', a stop codon. Cut the record there, or remove it",
            )
            return
        if is_plain(text):
            self.parts.append(text)
            return
        self.stopped = text.endswith(_STOP)
        text = text.removesuffix(_STOP)
        if text and (problem := problem_of(text)):
            self.problem_line, self.problem = line, problem
        self.parts.append(text.upper().replace("<MASK>", "<mask>"))

    def finish(self) -> FastaRecord:
        """The record, or its problem if it has no sequence."""
        name, *rest = self.header.split(maxsplit=1)
        sequence = "".join(self.parts)
        if not self.problem and not sequence:
            self.problem_line, self.problem = self.line, ": no sequence follows the header. Remove the record"
        return FastaRecord(name, sequence, "".join(rest))


def iter_fasta(path: str | os.PathLike[str]) -> Iterator[FastaRecord]:
    r"""Read the records of a FASTA file one after the other, without holding the file in memory.

    Parameters
    ----------
    path : str or path-like
        The file, plain or compressed with gzip, in UTF-8 or UTF-16. ``"-"`` is the standard input.

    Yields
    ------
    record : FastaRecord
        Named tuple of id, sequence and description. Sequences are joined over lines, raised to capitals, and lose one
        ``*`` at the end.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputFileError
        At the first line that cannot be used: text before the first header, a header without a name, a record without
        a sequence, gaps, white space, digits or other characters that are not residues. The message names the line.

    See Also
    --------
    read_fasta : All records as lists. Its error names all bad lines.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skesm.io import iter_fasta
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "proteins.fasta")
    ...     _ = path.write_text(">P1 first protein\nMKT\nAY*\n>P2\ngsh\n")
    ...     for record in iter_fasta(path):
    ...         print(record.id, len(record.sequence))
    P1 5
    P2 3
    """
    name = name_of(path)
    with open_bytes(path) as file, decode(file, name) as lines:
        for number, (raw, record) in enumerate(parse_fasta(lines, name), 1):
            if raw.problem:
                refuse_lines(name, {raw.problem_line: raw.problem}, number)
            yield record


def read_fasta(path: str | os.PathLike[str]) -> Fasta:
    r"""Read a FASTA file.

    Parameters
    ----------
    path : str or path-like
        The file, plain or compressed with gzip, in UTF-8 or UTF-16. ``"-"`` is the standard input.

    Returns
    -------
    fasta : Fasta
        Named tuple of the lists `ids`, `sequences` and `descriptions`. Names may repeat.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputFileError
        If the file holds no records, or records that cannot be used (see `iter_fasta`). The message names the lines.

    See Also
    --------
    iter_fasta : One record after the other, for files that are larger than the memory.
    read_table : Sequences and measured values of a table.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skesm.io import read_fasta
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "proteins.fasta")
    ...     _ = path.write_text(">P1 first protein\nMKT\nAY*\n>P2\ngsh\n")
    ...     fasta = read_fasta(path)
    >>> fasta.ids, fasta.sequences, fasta.descriptions
    (['P1', 'P2'], ['MKTAY', 'GSH'], ['first protein', ''])
    """
    name = name_of(path)
    problems: dict[int, str] = {}
    records: list[FastaRecord] = []
    with open_bytes(path) as file, decode(file, name) as lines:
        for raw, record in parse_fasta(lines, name):
            if raw.problem:
                problems[raw.problem_line] = raw.problem
            records.append(record)
    refuse_lines(name, problems, len(records))
    return Fasta([r.id for r in records], [r.sequence for r in records], [r.description for r in records])


def parse_fasta(lines: Iterable[str], name: str) -> Iterator[tuple[RawRecord, FastaRecord]]:
    """Yield the records of a file, good and bad. A file that is not a FASTA file is an error."""
    raw: RawRecord | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith(_HEADER):
            if raw is not None:
                yield raw, raw.finish()
            raw = RawRecord(number, line[1:].strip())
            if not raw.header:
                raise InputFileError(f"{name}: line {number}: a header without a name. Write one after '>'", [number])
        elif raw is not None:
            raw.add(number, line)
        elif line.strip():
            raise InputFileError(
                f"{name}: line {number}: text before the first header. A FASTA record begins with '>'", [number]
            )
    if raw is None:
        raise InputFileError(f"{name} holds no FASTA records")
    yield raw, raw.finish()
