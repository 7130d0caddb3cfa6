"""Predictions for masked residues: one pass for each copy of a sequence with one residue masked.

A masked copy is a sequence like any other. It is computed once, and every statistic or score that needs it finds it in
the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from skesm.features.common.summaries import MASKED
from skesm.fetch.records import keep
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.spec import Record
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS, count_residues, split_residues
from skesm.sequences.variants import is_mask, mask_each, own_columns

#: Copies in one request. So many are held in memory at a time.
_COPIES = 4096


def known_positions(sequence: str) -> list[int]:
    """Residues that are one of the 20 amino acids."""
    positions: list[int] = np.flatnonzero(own_columns(sequence) >= 0).tolist()
    return positions


def masked_request(sequence: str, positions: Sequence[int], window: int | None = None) -> Request:
    """Request passes of a sequence with each of some residues masked. Masks of the sequence itself stay.

    With a `window`, each pass has so many residues at the most, see `optimal_window`.
    """
    copies = mask_each(sequence, positions)
    if window is not None:
        copies = [
            "".join(split_residues(copy)[slice(*optimal_window(position, count_residues(sequence), window))])
            for copy, position in zip(copies, positions, strict=True)
        ]
    return Request(copies, [MASKED])


def optimal_window(position: int, length: int, size: int) -> tuple[int, int]:
    """First and one past the last residue of the window around a position, inside the sequence.

    Examples
    --------
    >>> [optimal_window(position, 10, 4) for position in (0, 1, 2, 5, 8, 9)]
    [(0, 4), (0, 4), (0, 4), (3, 7), (6, 10), (6, 10)]
    >>> optimal_window(3, 10, 1022)
    (0, 10)
    """
    begin = max(0, min(position - size // 2, length - size))
    return begin, min(length, begin + size)


def masked_requests(sequences: Sequence[str]) -> Iterator[tuple[list[str], Request]]:
    """Yield requests for all masked copies of sequences: some sequences at a time, with all of their copies."""
    some: list[str] = []
    copies: list[str] = []
    for sequence in sequences:
        more = mask_each(sequence, known_positions(sequence))
        if some and len(copies) + len(more) > _COPIES:
            yield some, Request(copies, [MASKED])
            some, copies = [], []
        some.append(sequence)
        copies += more
    if some:
        yield some, Request(copies, [MASKED])


def masked_rows(
    records: Sequence[Record], sequence: str, positions: Sequence[int], window: int | None = None
) -> FloatArray:
    """Logits of the residues at some positions, (number of positions, 20), from their copies' records."""
    # a sequence with masks of its own has copies with several masks
    masks = np.concatenate([[0], np.cumsum(is_mask(sequence))])
    length = count_residues(sequence)
    begins = [0 if window is None else optimal_window(position, length, window)[0] for position in positions]
    ranks = masks[positions] - masks[begins]
    logits = np.empty((len(positions), len(AMINO_ACIDS)), dtype=np.float32)
    for row, record, rank in zip(logits, records, ranks, strict=True):
        row[:] = record[MASKED][rank]
    return logits


def masked_logits(run: Run, rows: dict[str, list[int]]) -> Iterator[FloatArray | None]:
    """Logits of each sequence's amino acids, (C, 20), each from the pass in which it is masked.

    Parameters
    ----------
    run : Run
    rows : dict of str to list of int
        Distinct sequences, each with an amino acid, and the rows of X that need them.

    Yields
    ------
    logits : ndarray of shape (C, 20), float32, or None
        For each sequence, in order. None if the backend failed on any of its copies.
    """
    for some, request in masked_requests(list(rows)):
        needed_by = [rows[sequence] for sequence in some for _ in known_positions(sequence)]
        found_of = iter(run.fetch(replace(request, rows=needed_by), keep))
        for sequence in some:
            positions = known_positions(sequence)
            records = [next(found_of) for _ in positions]
            found = [record for record in records if record is not None]
            yield masked_rows(found, sequence, positions) if len(found) == len(records) else None
