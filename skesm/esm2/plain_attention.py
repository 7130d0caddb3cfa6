"""Attention of sequences laid end to end by NumPy's products; both engines' way on CPUs.

Channel-major, (heads, channels, tokens), a head of a sequence is a view that BLAS reads without a copy. Some heads and
some queries of a sequence are worked on at a time, in as few calls as can be: each lets go of Python's lock, which
threads then wait for. What is computed for a sequence is a function of that sequence alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from skesm._outputs import FloatArray
from skesm.esm2.threads import has_small_products
from skesm.esm2.workspace import Workspace

#: Does tasks that do not depend on each other.
Do = Callable[[Iterable[Callable[[], object]]], None]
#: Takes a sequence's place, some heads, and their weights, (heads, keys, queries), which are then overwritten.
Read = Callable[[int, slice, FloatArray], None]
Exponential = Callable[[FloatArray], None]

_SCORES = 1 << 18  # held at a time: in the second-level cache
# Most multiplications of a small product, see `has_small_products`; and the least columns worth cutting to for it
_SMALL_PRODUCT, _COLUMNS = 10**6, 32
# A query's sum of exp2(scores) in this range has neither overflowed nor lost a score that counts
_SUM_MIN, _SUM_MAX = 2.0**-60, 2.0**100
_SCORE_MIN = np.float32(-120)  # exp2 of less is slow, and nothing beside the largest, 1


def score_scale(width: int) -> float:
    """What to multiply queries of heads of this width by, so that exp2 of scores gives the softmax."""
    return math.log2(math.e) / math.sqrt(width)


def do_in_turn(tasks: Iterable[Callable[[], object]]) -> None:
    """What a thread that has no help does."""
    for task in tasks:
        task()


def attend(
    query: FloatArray,
    key: FloatArray,
    value: FloatArray,
    bounds: Sequence[int],
    out: FloatArray,
    work: Workspace,
    do: Do = do_in_turn,
    read: Read | None = None,
) -> None:
    """What each token takes of its own sequence's values.

    Parameters
    ----------
    query, key : ndarray of shape (heads, h, rows), float32
        Queries times `score_scale`.
    value : ndarray of shape (heads, h, rows), float32
    bounds : sequence of int
        Where sequences begin, and the last one ends; at most `rows`.
    out : ndarray of shape (heads, h, rows), float32
        Rows behind the last sequence are left as they are.
    work : Workspace
    do : callable, optional
    read : callable, optional
        Gets the weights.
    """
    heads, width, used = *query.shape[:2], bounds[-1]
    # in memory that the NumPy engine's feed-forward networks use in their turn
    values, taken = work.get("wide", 2, heads, width + 1, used)
    # a row of ones below the values makes the product with them give the softmax's denominator as well
    values[:, :width] = value[:, :, :used]
    values[:, width] = 1
    sequences = [slice(begin, end) for begin, end in pairwise(bounds)]

    def tasks(some: Iterable[slice], exponential: Exponential) -> Iterator[Callable[[], None]]:
        for own in some:
            parts = (part[:, :, own] for part in (query, key, values, taken))
            yield from _tasks(*parts, work=work, exponential=exponential)

    do(tasks(sequences, _exponential))
    sums = taken[:, width:]
    large = [] if _in_range(sums) else [own for own in sequences if not _in_range(sums[:, :, own])]
    do(tasks(large, _safe_exponential))
    np.divide(taken[:, :width], sums, out=out[:, :, :used])
    if read is not None:
        for place, own in enumerate(sequences):
            parts = (part[:, :, own] for part in (query, key, sums))
            exponential = _safe_exponential if own in large else _exponential
            _read(*parts, work=work, exponential=exponential, read=partial(read, place))


def _in_range(sums: FloatArray) -> bool:
    return bool(sums.min() > _SUM_MIN and sums.max() < _SUM_MAX)  # not so if any is no number


def _tasks(
    query: FloatArray,
    key: FloatArray,
    values: FloatArray,
    taken: FloatArray,
    *,
    work: Workspace,
    exponential: Exponential,
) -> Iterator[Callable[[], None]]:
    """What one sequence's queries take of its values, before the division by the weights' sums."""
    n_heads, width, length = query.shape
    columns = length
    if has_small_products():
        columns = min(length, _SMALL_PRODUCT // ((width + 1) * length) // _COLUMNS * _COLUMNS or length)
    step = max(1, min(n_heads, _SCORES // (length * columns)))

    def task(heads: slice, some: slice) -> None:
        q, k = query[heads, :, some], key[heads].transpose(0, 2, 1)
        scores = work.get("scores", len(k), length, q.shape[2])  # key × query
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # seen in the sums
            np.matmul(k, q, out=scores)
            exponential(scores)
            np.matmul(values[heads], scores, out=taken[heads, :, some])

    for first in range(0, n_heads, step):
        for begin in range(0, length, columns):
            yield partial(task, slice(first, first + step), slice(begin, begin + columns))


def _exponential(scores: FloatArray) -> None:
    np.exp2(scores, out=scores)


def _safe_exponential(scores: FloatArray) -> None:
    scores -= scores.max(axis=1, keepdims=True)
    np.maximum(scores, _SCORE_MIN, out=scores)
    np.exp2(scores, out=scores)


def _read(
    query: FloatArray,
    key: FloatArray,
    sums: FloatArray,
    *,
    work: Workspace,
    exponential: Exponential,
    read: Callable[[slice, FloatArray], None],
) -> None:
    """Compute one sequence's weights again, and hand them over."""
    n_heads, _, length = query.shape
    step = max(1, _SCORES // length**2)
    for first in range(0, n_heads, step):
        heads = slice(first, min(first + step, n_heads))
        q, k = query[heads], key[heads].transpose(0, 2, 1)
        weights = np.matmul(k, q, out=work.get("scores", len(k), length, length))
        exponential(weights)
        weights /= sums[heads]
        read(heads, weights)
