"""Which sequences share a forward pass: by token budget, longest first."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence


def plan_packs(lengths: Sequence[int], budget: int, alone_above: int) -> list[list[int]]:
    """Group sequences into packs.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each sequence.
    budget : int
        Most tokens in a pack of several sequences.
    alone_above : int
        A sequence of more tokens than this, or than `budget`, has a pack of its own.

    Returns
    -------
    packs : list of list of int
        Indices into `lengths`, each exactly once; largest packs first, so that workers finish together.

    Examples
    --------
    >>> plan_packs([30, 400, 20, 25, 10], budget=60, alone_above=100)
    [[1], [0, 3], [2, 4]]
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    packs = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > min(alone_above, budget):
            packs.append([index])
        else:
            waiting[lengths[index]].append(index)
    for same in waiting.values():
        same.reverse()  # taken from the end: keeps the order of the input
    known = sorted(waiting)
    while known:
        room = budget
        pack: list[int] = []
        while place := bisect_right(known, room):
            length = known[place - 1]
            pack.append(waiting[length].pop())
            room -= length
            if not waiting[length]:
                known.remove(length)
        packs.append(pack)
    return packs


def most_together(width: int) -> int:
    """Most tokens in a pack of several sequences on a CPU, for a model of this width.

    Narrow models gain 2 to 7 % by packs twice as large; in wide ones they only take memory.
    """
    return 1024 if width < 1280 else 512


def share_evenly(n_tokens: int, workers: int, least: int, most: int) -> int:
    """Budget of a pack, from `least` to `most` tokens, that gives all workers as much to do.

    A run of few packs needs this: three packs on two workers cost a quarter of the time.

    Examples
    --------
    >>> share_evenly(1200, workers=2, least=128, most=512)
    300
    """
    rounds = max(1, -(-n_tokens // (most * workers)))
    return max(least, -(-n_tokens // (rounds * workers)))


def split_batches(packs: Sequence[list[int]], sizes: Sequence[int], most: int) -> list[list[list[int]]]:
    """Consecutive packs in batches of a size of at most `most`, or of one pack: what is computed between two saves."""
    batches: list[list[list[int]]] = []
    room = 0
    for pack in packs:
        size = sum(sizes[i] for i in pack)
        if not batches or room < size:
            batches.append([])
            room = most
        batches[-1].append(pack)
        room -= size
    return batches
