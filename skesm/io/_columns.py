"""Which columns of a table hold sequences, names and values: those that are asked for, or well-known names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from skesm.exceptions import InputFileError

# Names that are looked for if none is given, in this order. Capitals, spaces and hyphens do not matter.
_SEQUENCES = (
    *("sequence", "seq", "protein_sequence", "aa_sequence", "aa_seq", "mutated_sequence"),
    "variant_sequence",
)
#: Names of sequences, but also of names of proteins: GFP has the letters of a sequence.
_PROTEINS = ("protein", "primary")
SEQUENCE_COLUMNS = (*_SEQUENCES, *_PROTEINS)
ID_COLUMNS = ("id", "identifier", "accession", "entry", "name")
MUTATION_COLUMNS = ("mutant", "mutants", "mutation", "mutations", "variant", "variants")
TARGET_COLUMNS = ("label", "target", "fitness", "dms_score", "measured", "value", "y")

#: Stand for a column that is looked for by well-known names. No column is called so.
ANY_SEQUENCE, ANY_VARIANT, ANY_TARGET = "\0sequence", "\0variant", "\0target"
_LOOKED_FOR = {
    ANY_SEQUENCE: SEQUENCE_COLUMNS,
    ANY_VARIANT: (*_SEQUENCES, *MUTATION_COLUMNS, *_PROTEINS),
    ANY_TARGET: TARGET_COLUMNS,
}
_MISSING = {
    ANY_SEQUENCE: "column 'sequence', or of another well-known name. Name it: sequence_column='NAME'",
    ANY_VARIANT: "column 'sequence' or 'mutant', or of another well-known name. Name it: sequence_column='NAME' or "
    "mutation_column='NAME'",
    ANY_TARGET: "column 'label', or of another well-known name of measured values. Name it: target_column='NAME'",
}


def place_of(header: Sequence[str], column: str, name: str) -> int:
    """The place of a column, or of one of its well-known names. It is an error if none or several have it."""
    refuse_several(header, column, name)
    found = find_name(header, column)
    if found is None and column in _LOOKED_FOR:
        raise InputFileError(f"{name} has no {_MISSING[column]}. {_listed(header)}")
    if found is None or list(header).count(found) != 1:
        problem = "no column" if found is None else "several columns"
        raise InputFileError(f"{name} has {problem} {column!r}. {_listed(header)}")
    return list(header).index(found)


def find_name(header: Sequence[str], column: str) -> str | None:
    """A column as it is written in the header. None if it has no such column."""
    if column in _LOOKED_FOR:
        return well_known(header, _LOOKED_FOR[column])
    return column if column in header else None


def refuse_several(header: Sequence[str], column: str, name: str) -> None:
    """Raise if several columns may hold the measured values: a wrong choice would give plausible numbers."""
    several = [cell for cell in header if is_known(cell, TARGET_COLUMNS)] if column == ANY_TARGET else []
    if len(several) > 1:
        raise InputFileError(
            f"{name} has several columns that may hold measured values: {', '.join(map(repr, several))}. Name one: "
            "target_column='NAME'"
        )


def names_of(column: str) -> tuple[str, ...]:
    """The names that a column may have."""
    return _LOOKED_FOR.get(column, (column,))


def is_known(column: str, known: Sequence[str]) -> bool:
    """Whether a column has one of the known names.

    Examples
    --------
    >>> is_known("Mutant", MUTATION_COLUMNS)
    True
    """
    return well_known([column], known) is not None


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
    return header[place_of(header, ANY_SEQUENCE if asked is None else asked, name)]


def _listed(header: Sequence[str]) -> str:
    return f"Its columns are {', '.join(map(repr, header)) or 'none'}"
