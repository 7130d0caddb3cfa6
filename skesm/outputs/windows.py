"""How a long sequence is cut into windows, and how the values of the windows become one.

Each window goes through the model as a sequence of its own, with its own start and end token. No residue's row contains
these tokens. A residue in several windows gets the mean of its rows, each weighted by the residue's distance to the
nearer end of that window (1 for a residue at the end): near an end, a window sees least of a residue's surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skesm.outputs.types import FloatArray, Windows
from skesm.sequences.alphabet import split_residues


def bounds(length: int, windows: Windows) -> list[tuple[int, int]]:
    """First and one past the last residue of each window: as few as there can be, evenly spaced.

    Examples
    --------
    >>> bounds(10, Windows(size=6, overlap=2))
    [(0, 6), (4, 10)]
    >>> bounds(11, Windows(size=6, overlap=2))
    [(0, 6), (2, 8), (5, 11)]
    """
    n_windows = 1 + max(0, -(-(length - windows.size) // (windows.size - windows.overlap)))
    last = max(0, length - windows.size)
    starts = [round(i * last / max(1, n_windows - 1)) for i in range(n_windows)]
    return [(start, min(length, start + windows.size)) for start in starts]


def cut(sequence: str, windows: Windows) -> list[str]:
    """The windows of a sequence, in order.

    Examples
    --------
    >>> cut("MKT<mask>YIAKQR", Windows(size=6, overlap=2))
    ['MKT<mask>YI', 'YIAKQR']
    """
    residues = split_residues(sequence)
    return ["".join(residues[begin:end]) for begin, end in bounds(len(residues), windows)]


def join_rows(parts: Sequence[FloatArray], length: int, windows: Windows) -> FloatArray:
    """Rows of windows, (residues, …) each, to rows of the whole sequence, (length, …)."""
    total = np.zeros((length, *parts[0].shape[1:]))
    weights = np.zeros(length)
    for part, (begin, end) in zip(parts, bounds(length, windows), strict=True):
        place = np.arange(end - begin)
        weight = np.minimum(place + 1, place[::-1] + 1).astype(np.float64)
        total[begin:end] += (weight * part.T).T
        weights[begin:end] += weight
    merged: FloatArray = (total.T / weights).T.astype(np.float32)
    return merged


def join_mean(parts: Sequence[FloatArray], length: int, windows: Windows) -> FloatArray:
    """Mean over the windows, for values that each window has once: representations of start and end tokens."""
    mean: FloatArray = np.stack(parts).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
