"""Edit distances between sequences, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skesm._optional import import_optional

#: Edits up to which rapidfuzz has a way that is many times as fast.
CLOSE = 3
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
