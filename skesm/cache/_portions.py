"""The number of free sequences that one process claims at a time, so that several processes share the work."""

from __future__ import annotations

from collections.abc import Sequence

#: Residues in a first portion, and the least in any: a batch of the local backend. Others join while it is computed.
_LEAST = 8192

#: Seconds of work in a later portion, at least: many small portions would keep a backend from working in large batches.
_SECONDS = 2.0


class Portions:
    """The sizes of one caller's portions, which follow its speed and how many others are at work.

    A portion is at most half of an even share of the free sequences. So portions shrink towards the end, where the
    first process to finish waits for the others' last portions.
    """

    def __init__(self) -> None:
        self._rate: float | None = None
        self._whole = False

    def size(self, free: int, workers: int) -> int:
        """Residues to claim now, when so many are free and so many callers, this one included, hold claims."""
        if self._whole:
            return free
        if self._rate is None:
            return _LEAST
        return max(_LEAST, int(self._rate * _SECONDS), free // (2 * max(1, workers)))

    def note(self, residues: int, seconds: float, *, stored: bool) -> None:
        """Learn from a portion that is done.

        After one of which nothing was stored, the next is everything: a service that is down, or a disk that is full,
        is then met once, not once for each portion.
        """
        self._whole = not stored
        self._rate = residues / max(seconds, 1e-6)


def take(lengths: Sequence[int], residues: int) -> int:
    """How many of the sequences, of these lengths and in this order, make a portion of so many residues."""
    for count, length in enumerate(lengths):
        residues -= length
        if residues <= 0:
            return count + 1
    return len(lengths)
