"""Comparison of a sequence with its reference, residue by residue, and copies with residues masked.

Sequences are not aligned: residue i of one is compared with residue i of the other. Positions and rows count from 0
here. Messages count positions from 1, as residues are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from skesm._messages import first_and_more
from skesm.exceptions import InvalidSequenceError
from skesm.sequences.alphabet import ALPHABETICAL, AMINO_ACIDS, MASK_SYMBOL, count_residues, split_residues

#: Ways to learn a reference from the fitted sequences. None is the consensus.
MOST_COMMON, FIRST = "most_common", "first"
LEARNT = (None, MOST_COMMON, FIRST)

_MASK_BYTE = "\x00"  # one byte for "<mask>", so that a byte is a residue

_COLUMN = np.full(256, -1, dtype=np.intp)
_COLUMN[np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)] = np.arange(len(AMINO_ACIDS))


def letters(sequence: str) -> NDArray[np.uint8]:
    """One byte for each residue of a clean sequence."""
    return np.frombuffer(sequence.replace(MASK_SYMBOL, _MASK_BYTE).encode("ascii"), dtype=np.uint8)


def is_mask(sequence: str) -> NDArray[np.bool_]:
    """Which residues of a clean sequence are masked."""
    masked: NDArray[np.bool_] = letters(sequence) == ord(_MASK_BYTE)
    return masked


def own_columns(sequence: str) -> NDArray[np.intp]:
    """Column of each residue in ``logits``. -1 for residues other than the 20 amino acids.

    Examples
    --------
    >>> own_columns("LAX<mask>C").tolist()
    [0, 1, -1, -1, 19]
    """
    columns: NDArray[np.intp] = _COLUMN[letters(sequence)]
    return columns


def differences(sequence: str, reference: str) -> NDArray[np.intp]:
    """Positions at which two sequences of equal length differ. ``X`` and ``<mask>`` differ from any amino acid.

    Examples
    --------
    >>> differences("MKTV", "MKAV").tolist(), differences("M<mask>AX", "MKAV").tolist()
    ([2], [1, 3])
    """
    return np.flatnonzero(letters(sequence) != letters(reference))


def check_lengths(sequences: Sequence[str], reference: str, remedy: str) -> None:
    """Raise InvalidSequenceError, naming rows, unless every sequence has as many residues as the reference."""
    length = count_residues(reference)
    refuse_other_lengths(
        sequences,
        length,
        f"the reference's {length} residues. Sequences are not aligned, so positions cannot be compared. {remedy}",
    )


def most_common_length(sequences: Sequence[str]) -> int:
    """The most common number of residues. Of equally common ones the first."""
    return Counter(map(count_residues, sequences)).most_common(1)[0][0]


def refuse_other_lengths(sequences: Sequence[str], length: int, needed: str) -> None:
    """Raise InvalidSequenceError, naming rows, unless every sequence has `length` residues.

    `needed` completes the message: rows do not have …
    """
    lengths = [count_residues(sequence) for sequence in sequences]
    _refuse(
        [row for row, n in enumerate(lengths) if n != length],
        f"of {len(sequences)} rows of X do not have {needed}",
        lambda row: f"row {row}: {lengths[row]} residues",
    )


def check_residues(sequences: Sequence[str]) -> None:
    """Raise InvalidSequenceError, naming rows, unless every sequence has one of the 20 amino acids."""
    _refuse(
        [row for row, sequence in enumerate(sequences) if (own_columns(sequence) < 0).all()],
        f"of {len(sequences)} rows of X hold none of the 20 amino acids. Statistics of the residues' own probabilities "
        "have no value for them. Remove these rows, or choose other statistics",
        lambda row: f"row {row}",
    )


def check_scorable(sequences: Sequence[str], reference: str) -> None:
    """Raise InvalidSequenceError, naming rows, if a score would need the probability of another symbol.

    Other symbols are ``X``, ``<mask>`` and so on. In a row of the reference's length they count only where the two
    differ. In a row of another length they count everywhere, in the row and in the reference.
    """
    own_reference, length = own_columns(reference), count_residues(reference)
    places: dict[int, int] = {}
    for row, sequence in enumerate(sequences):
        own = own_columns(sequence)
        unknown = own < 0
        if len(own) == length:
            unknown = (unknown | (own_reference < 0)) & (letters(sequence) != letters(reference))
        elif (own_reference < 0).any():
            places.setdefault(row, int(np.argmin(own_reference)))
        if unknown.any():
            places.setdefault(row, int(np.argmax(unknown)))
    _refuse(
        list(places),
        f"of {len(sequences)} rows of X differ from the reference at a residue that is not one of the 20 amino acids "
        "(X, B, Z, U, O or <mask>, in the row or in the reference). Such a difference has no score. Remove these rows, "
        "or name the residues",
        lambda row: f"row {row}, position {places[row] + 1}",
    )


def learn_reference(sequences: Sequence[str], how: str | None) -> str:
    """Choose the reference of a library.

    Parameters
    ----------
    sequences : sequence of str
        Clean sequences. Repeats count.
    how : {None, "most_common", "first"}
        None takes the most common amino acid at each position. Ties go to the first in the alphabet. A position
        without any of the 20 gets ``X``. ``"most_common"`` takes the most common sequence, ``"first"`` the first row.

    Raises
    ------
    InvalidSequenceError
        If lengths differ (None). The error names rows that do not have the most common length. Or if no sequence is
        more common than all others (``"most_common"``).

    Examples
    --------
    >>> learn_reference(["MKT", "MRT", "MRV"], None)
    'MRT'
    """
    if how == FIRST:
        return sequences[0]
    if how == MOST_COMMON:
        ranked = Counter(sequences).most_common(2)
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            raise InvalidSequenceError(
                "no sequence of X is more common than all others, so reference='most_common' cannot choose. Give the "
                "reference, or leave it out to learn the consensus"
            )
        return ranked[0][0]
    usual = most_common_length(sequences)
    refuse_other_lengths(
        sequences,
        usual,
        f"the most common length, {usual} residues. Sequences are not aligned, so they have no consensus. Remove these "
        "rows, or give the reference",
    )
    columns = np.stack([own_columns(sequence) for sequence in sequences])
    alphabet = ALPHABETICAL
    counts = np.stack([(columns == AMINO_ACIDS.index(a)).sum(axis=0) for a in alphabet])
    return "".join(
        alphabet[best] if count else "X" for best, count in zip(counts.argmax(axis=0), counts.max(axis=0), strict=True)
    )


def distinct_rows(sequences: Sequence[str]) -> dict[str, list[int]]:
    """Distinct sequences, in the order of their first rows, with the rows that hold each.

    Examples
    --------
    >>> distinct_rows(["MKT", "MRT", "MKT"])
    {'MKT': [0, 2], 'MRT': [1]}
    """
    rows: dict[str, list[int]] = {}
    for row, sequence in enumerate(sequences):
        rows.setdefault(sequence, []).append(row)
    return rows


def mask_each(sequence: str, positions: Iterable[int]) -> list[str]:
    """Copies of a sequence, each with one of `positions` masked. Masks of the sequence itself stay.

    Examples
    --------
    >>> mask_each("MKT", [0, 2])
    ['<mask>KT', 'MK<mask>']
    """
    symbols = split_residues(sequence)
    copies = []
    for position in positions:
        copy = [*symbols[:position], MASK_SYMBOL, *symbols[position + 1 :]]
        copies.append("".join(copy))
    return copies


def _refuse(rows: list[int], problem: str, describe: Callable[[int], str]) -> None:
    """Raise InvalidSequenceError if rows have a problem. The message describes the first ones."""
    if rows:
        listed = first_and_more(map(describe, rows), "\n  ")
        raise InvalidSequenceError(f"{len(rows)} {problem}:\n  {listed}", rows)
