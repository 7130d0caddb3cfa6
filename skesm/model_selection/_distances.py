"""Edit distances between sequences, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from skesm._optional import import_optional

#: Distances that are held at a time: 16 MB of 32-bit integers, and several times as much for whoever compares them.
_DISTANCES_HELD = 1 << 22


def edit_distances(
    rows: Sequence[str], columns: Sequence[str], *, most: int | None = None
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Number of substitutions, insertions and deletions from each row to each column.

    Yields the number of the first row of a block, and the block, (block rows, columns). Beyond `most` a distance is
    only known to be larger than `most`.
    """
    process: Any = import_optional("rapidfuzz.process", "benchmark")
    levenshtein = import_optional("rapidfuzz.distance", "benchmark").Levenshtein.distance
    step = max(1, _DISTANCES_HELD // max(1, len(columns)))
    for first in range(0, len(rows), step):
        block = process.cdist(
            rows[first : first + step], columns, scorer=levenshtein, score_cutoff=most, dtype=np.int32, workers=1
        )
        yield first, block


def substitutions(rows: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Number of places in which each row differs from each column, all of one length. Yields blocks.

    Variants of one protein share nearly all places, so only those are looked at that differ from the first column. Two
    sequences of one length have no fewer substitutions than edits, and as many if there are two or fewer.
    """
    letters = [np.array([list(s.encode()) for s in chosen], dtype=np.uint8) for chosen in (rows, columns)]
    places, residues = zip(*(_differing(each, letters[1][0]) for each in letters), strict=True)
    n_differing = [np.asarray(each.sum(axis=1)).ravel() for each in places]
    step = max(1, _DISTANCES_HELD // max(1, len(columns)))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        shared = (places[0][part] @ places[1].T + residues[0][part] @ residues[1].T).toarray()
        yield first, n_differing[0][part, None] + n_differing[1] - shared


def _differing(letters: NDArray[np.uint8], base: NDArray[np.uint8]) -> tuple[csr_matrix, csr_matrix]:
    """Where each row differs from the base, (n, L), and where with which letter, (n, 256 L)."""
    row, place = np.nonzero(letters != base)
    ones = np.ones(len(row), dtype=np.int32)
    n, length = letters.shape
    named = place * 256 + letters[row, place]
    return csr_matrix((ones, (row, place)), (n, length)), csr_matrix((ones, (row, named)), (n, 256 * length))
