"""Attention of sequences laid end to end by NumPy's products. Both engines use it on CPUs.

Queries, keys and values are channel-major, (heads, channels, tokens): the halves that the rotary embedding mixes are
contiguous, and a head of a sequence is a view that BLAS reads without a copy. Some heads and some queries of a sequence
are worked on at a time, in as few calls as can be: each lets go of Python's lock, which threads then wait for. The
results for a sequence are a function of that sequence alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from skesm.esm2.machine.threads import has_small_products
from skesm.esm2.workspace import Workspace
from skesm.outputs.types import FloatArray

#: Does tasks that do not depend on each other.
Do = Callable[[Iterable[Callable[[], object]]], None]
#: Takes a sequence's place, some heads, and their weights, (heads, keys, queries), which are then overwritten.
Read = Callable[[int, slice, FloatArray], None]
Exponential = Callable[[FloatArray], None]
#: Cosines and sines of the rotary embedding, (2, 1, h/2, rows), for queries and keys. The queries' carry `score_scale`.
Rotary = tuple[FloatArray, FloatArray]

_SCORES = 1 << 18  # held at a time: in the second-level cache
# Most multiplications of a small product, see `has_small_products`, and the least columns worth cutting to for it
_SMALL_PRODUCT, _COLUMNS = 10**6, 32
# A query's sum of exp2(scores) in this range has neither overflowed nor lost a score that counts
_SUM_MIN, _SUM_MAX = 2.0**-60, 2.0**100
_SCORE_MIN = np.float32(-120)  # exp2 of less is slow, and nothing beside the largest, 1


def score_scale(width: int) -> float:
    """Factor of queries of heads of this width, so that exp2 of scores gives the softmax."""
    return math.log2(math.e) / math.sqrt(width)


def do_in_turn(tasks: Iterable[Callable[[], object]]) -> None:
    """The work of a thread that has no help."""
    for task in tasks:
        task()


def distinct_rows(inverse_frequencies: FloatArray) -> tuple[FloatArray, list[int]]:
    """The rotary frequencies that differ, and for each layer which of them it has: almost always one for all."""
    rows, place = np.unique(inverse_frequencies, axis=0, return_inverse=True)
    return rows, place.ravel().tolist()


def rotary_tables(inverse_frequencies: FloatArray, spans: Sequence[slice], rows: int) -> Rotary:
    """Tables for the rows of a pack. `spans` are its sequences. All other rows are at position 0."""
    position = np.zeros(rows, dtype=np.float32)
    for own in spans:
        position[own] = np.arange(own.stop - own.start)
    angle = np.outer(inverse_frequencies, position)
    scale = np.float32(score_scale(2 * len(inverse_frequencies)))
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * scale, cos])[:, None], np.stack([sin * scale, sin])[:, None]


def _exponential(scores: FloatArray) -> None:
    np.exp2(scores, out=scores)


def _safe_exponential(scores: FloatArray) -> None:
    scores -= scores.max(axis=1, keepdims=True)
    np.maximum(scores, _SCORE_MIN, out=scores)
    np.exp2(scores, out=scores)


def mix(
    products: FloatArray,
    biases: Sequence[FloatArray],
    rotary: Rotary,
    spans: Sequence[slice],
    work: Workspace,
    do: Do = do_in_turn,
    read: Read | None = None,
    exponential: Exponential | None = None,
) -> FloatArray:
    """The weighted mean of its own sequence's values for each token, from the products of one layer.

    Parameters
    ----------
    products : ndarray of shape (3, d, rows), float32
        Of the weights of queries, keys and values with the layer's input. Overwritten.
    biases : sequence of ndarray of shape (d,)
        Of the three.
    rotary : tuple of ndarray
        See `rotary_tables`.
    spans : sequence of slice
        Rows of each sequence, in order.
    work : Workspace
    do : callable, optional
    read : callable, optional
        Gets the weights.
    exponential : callable, optional
        Computes 2^x in place. None is NumPy's.

    Returns
    -------
    mixed : ndarray of shape (d, rows)
        In the memory of `products`. It is 1 between sequences, and 0 behind them.
    """
    for part, bias in zip(products, biases, strict=True):
        part += bias[:, None]
    cos, sin = rotary
    half, rows = cos.shape[2:]
    halves = products[:2].reshape(2, -1, 2, half, rows)
    low, high = halves[:, :, 0], halves[:, :, 1]
    of_high, of_low = work.get("wide", 2, *low.shape)
    np.multiply(high, sin, out=of_high)
    np.multiply(low, sin, out=of_low)
    low *= cos
    low -= of_high
    high *= cos
    high += of_low
    query, key, value = products.reshape(3, -1, 2 * half, rows)
    attend(query, key, value, spans, query, work, do, read, exponential or _exponential)
    query[:, :, spans[-1].stop :] = 0
    mixed: FloatArray = products[0]
    return mixed


def attend(
    query: FloatArray,
    key: FloatArray,
    value: FloatArray,
    spans: Sequence[slice],
    out: FloatArray,
    work: Workspace,
    do: Do = do_in_turn,
    read: Read | None = None,
    exponential: Exponential = _exponential,
) -> None:
    """The weighted mean of its own sequence's values for each token.

    Parameters
    ----------
    query, key : ndarray of shape (heads, h, rows), float32
        Queries times `score_scale`.
    value : ndarray of shape (heads, h, rows), float32
    spans : sequence of slice
        Rows of each sequence, in order.
    out : ndarray of shape (heads, h, rows), float32
        It may be `query`. Rows between sequences become 1, those behind the last one are left as they are.
    work : Workspace
    do : callable, optional
    read : callable, optional
        Gets the weights.
    exponential : callable, optional
        Computes 2^x in place.
    """
    heads, width, used = *query.shape[:2], spans[-1].stop
    # in memory that the NumPy engine's feed-forward networks use in their turn
    values, taken = work.get("wide", 2, heads, width + 1, used)
    # a row of ones below the values makes the product with them give the softmax's denominator as well
    values[:, :width] = value[:, :, :used]
    values[:, width] = 1
    for own, following in pairwise(spans):
        if own.stop < following.start:
            taken[:, :, own.stop : following.start] = 1  # nothing else writes there

    def tasks(some: Iterable[slice], exponential: Exponential) -> Iterator[Callable[[], None]]:
        for own in some:
            parts = (part[:, :, own] for part in (query, key, values, taken))
            yield from _tasks(*parts, work=work, exponential=exponential)

    do(tasks(spans, exponential))
    sums = taken[:, width:]
    large = [] if _in_range(sums) else [own for own in spans if not _in_range(sums[:, :, own])]
    do(tasks(large, _safe_exponential))
    if read is not None:
        for place, own in enumerate(spans):
            parts = (part[:, :, own] for part in (query, key, sums))
            way = _safe_exponential if own in large else exponential
            _read(*parts, work=work, exponential=way, read=partial(read, place))
    np.divide(taken[:, :width], sums, out=out[:, :, :used])


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
    """The weighted sums of one sequence's values for its queries, before the division by the weights' sums."""
    n_heads, width, length = query.shape
    columns = _columns(length, width + 1) if has_small_products() else length
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


def _columns(length: int, width: int) -> int:
    """Queries of a part, of a product with `width` × `length` others: as many in each as can be small."""
    most = _SMALL_PRODUCT // (width * length)
    if length <= most or most < _COLUMNS:
        return length
    n_parts = -(-length // most)
    columns = -(-length // (n_parts * _COLUMNS)) * _COLUMNS
    return columns if columns <= most else most // _COLUMNS * _COLUMNS


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
