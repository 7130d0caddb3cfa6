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
from skesm.sequences.alphabet import AMINO_ACIDS
from skesm.sequences.variants import is_mask, mask_each, own_columns

#: Copies in one request. So many are held in memory at a time.
_COPIES = 4096


def known_positions(sequence: str) -> list[int]:
    """Residues that are one of the 20 amino acids."""
    positions: list[int] = np.flatnonzero(own_columns(sequence) >= 0).tolist()
    return positions


def masked_request(sequence: str, positions: Sequence[int]) -> Request:
    """Request passes of a sequence with each of some residues masked. Masks of the sequence itself stay."""
    return Request(mask_each(sequence, positions), [MASKED])


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


def masked_rows(records: Sequence[Record], sequence: str, positions: Sequence[int]) -> FloatArray:
    """Logits of the residues at some positions, (number of positions, 20), from their copies' records."""
    # a sequence with masks of its own has copies with several masks
    ranks = np.cumsum(is_mask(sequence))[positions]
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
