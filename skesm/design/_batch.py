"""The best candidates so far, in bounded memory, and a batch of them that spreads over positions."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A candidate that may be proposed.

    Attributes
    ----------
    place : int
        Its place among all candidates, which decides between equals.
    score : float
        The higher, the better.
    mean : float
    std : float or None
    sequence : str
    positions : tuple of int
        Mutated positions, counted from 0. Empty if they do not matter.
    """

    place: int
    score: float
    mean: float
    std: float | None
    sequence: str
    positions: tuple[int, ...]

    @property
    def rank(self) -> tuple[float, int]:
        """The higher, the better. Of equals the first is better."""
        return self.score, -self.place


class Pool:
    """The best candidates of all, and the best of each mutated position.

    Parameters
    ----------
    n : int
        How many are kept of each position.
    n_overall : int
        How many are kept of all.
    """

    def __init__(self, n: int, n_overall: int) -> None:
        self._n = n
        self._n_overall = n_overall
        self._heaps: dict[int | None, list[tuple[tuple[float, int], Candidate]]] = {}

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate if it is good enough."""
        self._push(None, candidate, self._n_overall)
        for position in candidate.positions:
            self._push(position, candidate, self._n)

    def _push(self, key: int | None, candidate: Candidate, most: int) -> None:
        heap = self._heaps.setdefault(key, [])
        if len(heap) < most:
            heapq.heappush(heap, (candidate.rank, candidate))
        elif candidate.rank > heap[0][0]:
            heapq.heapreplace(heap, (candidate.rank, candidate))

    def choose(self, n: int, most_per_position: int) -> list[Candidate]:
        """A batch of the best, with a limit on those that mutate one position.

        If there are too few such candidates, the limit is raised until there are enough.
        """
        kept = {candidate.sequence: candidate for heap in self._heaps.values() for _, candidate in sorted(heap)}
        ranked = sorted(kept.values(), key=lambda candidate: candidate.rank, reverse=True)
        for limit in range(most_per_position, n + 1):
            chosen = _spread(ranked, n, limit)
            if len(chosen) == min(n, len(ranked)):
                return chosen
        return ranked[:n]


def _spread(ranked: list[Candidate], n: int, limit: int) -> list[Candidate]:
    used: Counter[int] = Counter()
    chosen: list[Candidate] = []
    for candidate in ranked:
        if len(chosen) == n:
            break
        if all(used[position] < limit for position in candidate.positions):
            used.update(candidate.positions)
            chosen.append(candidate)
    return chosen
