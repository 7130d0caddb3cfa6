"""Which columns of a table hold sequences, names and values: those that are asked for, or well-known names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from skesm.exceptions import InputFileError

#: Names that are looked for if none is given, in this order. Capitals, spaces and hyphens do not matter.
SEQUENCE_COLUMNS = (
    *("sequence", "seq", "protein_sequence", "aa_sequence", "aa_seq", "mutated_sequence"),
    *("variant_sequence", "protein", "primary"),
)
ID_COLUMNS = ("id", "identifier", "accession", "entry", "name")


def place_of(header: Sequence[str], column: str, name: str) -> int:
    """Which column has a name; an error if none or several have it."""
    if list(header).count(column) != 1:
        problem = "no column" if column not in header else "several columns"
        raise InputFileError(f"{name} has {problem} {column!r}. {_listed(header)}")
    return list(header).index(column)


def well_known(header: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the known names that exactly one column has, as it is written there.

    Examples
    --------
    >>> well_known(["Entry", "Entry Name", "Sequence"], SEQUENCE_COLUMNS)
    'Sequence'
    """
    plain = [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in header]
    return next((header[plain.index(name)] for name in known if plain.count(name) == 1), None)


def sequence_column_of(header: Sequence[str], asked: str | None, name: str) -> str:
    """The column of sequences: the one that was asked for, or one of a well-known name."""
    if asked is not None:
        return header[place_of(header, asked, name)]
    found = well_known(header, SEQUENCE_COLUMNS)
    if found is None:
        raise InputFileError(
            f"{name} has no column 'sequence', or of another well-known name. Name it: sequence_column='NAME'. "
            f"{_listed(header)}"
        )
    return found


def _listed(header: Sequence[str]) -> str:
    return f"Its columns are {', '.join(map(repr, header)) or 'none'}"
