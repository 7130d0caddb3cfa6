"""What the model predicts for residues that it cannot see: one pass for each copy with one residue masked.

A masked copy is a sequence as any other: it travels the road, is computed once, and is found again in the store, by
whatever statistic or score needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skesm._base import Run
from skesm._outputs import MASK_LOGITS, FloatArray, OutputSpec
from skesm._variants import is_mask, mask_each

_MASKED = OutputSpec(MASK_LOGITS)

#: Copies that travel together: what is held in memory at a time.
_COPIES = 4096


def masked_logits(
    run: Run, sequences: Sequence[str], positions: Sequence[NDArray[np.intp]], rows: Sequence[int]
) -> Iterator[FloatArray]:
    """Logits of residues, each from the pass of the copy in which it is masked; what else is masked stays so.

    Parameters
    ----------
    run : Run
    sequences : sequence of str
        Clean sequences.
    positions : sequence of ndarray of int
        For each sequence, the residues that are masked, one at a time.
    rows : sequence of int
        For each sequence, a row of X that needs it.

    Yields
    ------
    logits : ndarray of shape (number of positions, 20), float32
        For each sequence.
    """
    begin = 0
    while begin < len(sequences):
        end, count = begin, 0
        while end < len(sequences) and (end == begin or count + len(positions[end]) <= _COPIES):
            count += len(positions[end])
            end += 1
        some = range(begin, end)
        copies = [copy for i in some for copy in mask_each(sequences[i], positions[i])]
        if not copies:  # the rest have no positions
            yield from (np.empty((0, 20), dtype=np.float32) for _ in some)
            break
        answer = run.travel(copies, [_MASKED], rows=[rows[i] for i in some for _ in positions[i]])
        places = iter(answer.inverse)
        for i in some:
            # the mask of a copy is one of several, if the sequence has masks of its own
            ranks = np.cumsum(is_mask(sequences[i]))[positions[i]]
            values = [answer.records[next(places)][_MASKED][rank] for rank in ranks]
            yield np.stack(values) if values else np.empty((0, 20), dtype=np.float32)
        begin = end
