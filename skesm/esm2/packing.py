"""Which sequences share a forward pass, and where each begins: by token budget, longest first."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence

#: Least tokens to aim at in a shared pack on a CPU: fewer make products slower by more than an idle worker costs.
MIN_PACK_TOKENS = 128


def round_up(n: int, multiple: int) -> int:
    """Give the least multiple of `multiple` that is at least n.

    Examples
    --------
    >>> round_up(25, 12)
    36
    """
    return -(-n // multiple) * multiple


def lay_out(lengths: Iterable[int], alignment: int = 1) -> list[slice]:
    """Rows of each sequence of a pack, which begin at multiples of `alignment`.

    Examples
    --------
    >>> lay_out([10, 5], alignment=12)
    [slice(0, 10, None), slice(12, 17, None)]
    """
    spans = []
    begin = 0
    for length in lengths:
        spans.append(slice(begin, begin + length))
        begin = round_up(begin + length, alignment)
    return spans


def plan_packs(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences into packs.

    Parameters
    ----------
    lengths : sequence of int
        Rows that each sequence takes.
    budget : int
        Most rows in a pack of several sequences. A longer sequence has a pack of its own.

    Returns
    -------
    packs : list of list of int
        Indices into `lengths`, each exactly once. The largest packs come first, so that workers finish together.

    Examples
    --------
    >>> plan_packs([30, 400, 20, 25, 10], budget=60)
    [[1], [0, 3], [2, 4]]
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    packs = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > budget:
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

    Narrow models gain 2 to 7 % by packs twice as large. In wide ones they only take memory.
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
    """Consecutive packs in batches of a size of at most `most`, or of one pack. Each is computed between two saves."""
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
