"""The first reading of a file: every row is checked and counted before anything is computed."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from skesm._messages import MOST_SHOWN, first_and_more, plural, warn
from skesm.exceptions import InputFileError, SuspiciousSequenceWarning, TruncationWarning
from skesm.io._sources import Row, Source
from skesm.io.jobs.shards import Shard
from skesm.io.jobs.work import Work, chunks
from skesm.sequences.alphabet import count_residues
from skesm.sequences.clean import looks_like_nucleotides

_CHECKED = 2048  # rows that are checked at a time
_MOST_IDS = 1 << 22  # rows of which repeated ids are looked for: 32 MB
_LOOKED_AT = 1000  # rows with repeated ids, of which some are named


class Good(NamedTuple):
    """A row that can be used."""

    id: str
    sequence: str
    residues: int


@dataclass
class Survey:
    """The findings of the first reading.

    Attributes
    ----------
    first, end : int
        Which of the rows that can be used are computed here.
    problems : list of (Row, str)
        Rows that cannot be used.
    bad : set of int
        Their numbers, of all shards.
    repeated : list of str
        Some of the ids that several rows have.
    n_repeated : int
        How many such ids there are.
    """

    rows: int = 0
    residues: int = 0
    first: int = 0
    end: int = 0
    nucleotides: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    problems: list[tuple[Row, str]] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    digest: str = ""
    repeated: list[str] = field(default_factory=list)
    n_repeated: int = 0


def _checked(source: Source, work: Work) -> Iterator[tuple[Row, str, str]]:
    """(row, sequence, problem) of each row, in order."""
    for rows in chunks(((row, 0) for row in source.rows()), (_CHECKED, 0)):
        known = [row for row in rows if not row.problem]
        sequences, problems = work.check([row.text for row in known]) if known else ([], {})
        places = iter(range(len(known)))
        for row in rows:
            if row.problem:
                yield row, "", row.problem
            else:
                place = next(places)
                yield row, sequences[place], problems.get(place, "")


def survey_source(source: Source, work: Work, shard: Shard | None = None, *, distinct_ids: bool = False) -> Survey:
    """Check and count all rows. It refuses ids that repeat, if they must be distinct."""
    survey = Survey()
    digest = hashlib.sha256()
    seen: set[str] = set()
    sizes = array("L")
    hashes = array("q")  # eight bytes for each id: a set of them would hold a hundred
    places: list[int] = []
    most = work.estimator.max_length if work.estimator.long_sequences == "truncate" else None
    for number, (row, sequence, problem) in enumerate(_checked(source, work)):
        if problem:
            survey.bad.add(number)
            survey.problems.append((row, problem))
            places.append(survey.rows)
            continue
        residues = count_residues(sequence)
        digest.update(f"{row.id}\t{sequence}\n".encode())
        survey.rows += 1
        survey.residues += residues
        if looks_like_nucleotides(sequence):
            survey.nucleotides.append(row.id)
        if most is not None and residues > most:
            survey.truncated.append(row.id)
        if shard is not None:
            sizes.append(residues)
        if len(hashes) < _MOST_IDS:
            hashes.append(hash(row.id))
        if distinct_ids:
            _refuse_repeat(row, seen)
    if not survey.rows and not survey.problems:
        raise InputFileError(f"{first_and_more(source.names, ', ')}: there are no rows")
    survey.digest = f"sha256:{digest.hexdigest()}"
    _find_repeats(survey, source, hashes)
    survey.end = survey.rows
    if shard is not None:
        survey.first, survey.end = shard.rows(sizes)
        survey.residues = sum(sizes[survey.first : survey.end])
        last = survey.end if shard.number < shard.of else survey.rows + 1
        mine = zip(survey.problems, places, strict=True)
        survey.problems = [problem for problem, place in mine if survey.first <= place < last]
        survey.rows = survey.end - survey.first
    return survey


def _find_repeats(survey: Survey, source: Source, hashes: array[int]) -> None:
    found, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    repeated = set(found[counts > 1].tolist())
    survey.n_repeated = len(repeated)
    if repeated:  # read once more, for their names
        names = (row.id for row in source.rows() if hash(row.id) in repeated)
        survey.repeated = list(islice(dict.fromkeys(islice(names, _LOOKED_AT)), MOST_SHOWN))


def _refuse_repeat(row: Row, seen: set[str]) -> None:
    if row.id in seen:
        raise InputFileError(
            f"{row.file}: line {row.line}: the id {row.id!r} is used twice, and a .h5 file holds one array for each "
            "id. Rename one, or write .parquet",
            [row.line],
        )
    seen.add(row.id)


def refuse_problems(survey: Survey, invalid: str) -> None:
    """Raise InputFileError for rows that cannot be used, unless they are to be left out."""
    if invalid not in ("raise", "drop"):
        raise ValueError(f"invalid must be 'raise' or 'drop', not {invalid!r}")
    if survey.problems and invalid == "raise":
        shown = first_and_more(
            (f"{row.file}: line {row.line} (id {row.id!r}){problem}" for row, problem in survey.problems), "\n  "
        )
        raise InputFileError(
            f"{len(survey.problems)} of {survey.rows + len(survey.problems)} rows cannot be used:\n  {shown}\nCorrect "
            "them, or leave them out: invalid='drop'",
            [row.line for row, _ in survey.problems],
        )


def warn_of_suspicious(survey: Survey) -> None:
    """Warn of ids that repeat, of rows that look like DNA, and of those that are cut."""
    if survey.n_repeated:
        more = f" and {survey.n_repeated - len(survey.repeated):,} more" if survey.n_repeated > MOST_SHOWN else ""
        warn(
            f"{plural(survey.n_repeated, 'id')} of several rows: {', '.join(map(repr, survey.repeated))}{more}. Each "
            "row is written, but the id does not tell which one it is. Give each row an id of its own, or name another "
            "column of a table: id_column='NAME'",
            SuspiciousSequenceWarning,
        )
    if survey.nucleotides:
        warn(
            f"{len(survey.nucleotides)} of {survey.rows} sequences look like DNA or RNA: they hold only A, C, G, T, U "
            f"and N. Translate them to protein first: ids {first_and_more(survey.nucleotides, ', ')}",
            SuspiciousSequenceWarning,
        )
    if survey.truncated:
        warn(
            f"{len(survey.truncated)} of {survey.rows} sequences are too long, and only their first residues are "
            f"used: ids {first_and_more(survey.truncated, ', ')}",
            TruncationWarning,
        )


def good_rows(source: Source, work: Work, survey: Survey) -> Iterator[Good]:
    """Read again the rows that can be used, of the survey's shard."""
    return islice(_all_good(source, work, survey), survey.first, survey.end)


def _all_good(source: Source, work: Work, survey: Survey) -> Iterator[Good]:
    rows = (row for number, row in enumerate(source.rows()) if number not in survey.bad)
    for some in chunks(((row, 0) for row in rows), (_CHECKED, 0)):
        sequences = work.sequences([row.text for row in some])
        for row, sequence in zip(some, sequences, strict=True):
            yield Good(row.id, sequence, count_residues(sequence))
