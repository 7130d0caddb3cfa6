"""Attention of sequences laid end to end, written for LLVM: scores never leave the processor's registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

from skesm.esm2.kernels.code import INDEX, POINTER, Code, Value, lanes_in

#: Keys that are worked on at a time: with two vectors of queries, eight vectors of scores.
_KEYS = 4
# A query's sum of exp2(scores) in this range has neither overflowed nor lost a score that counts
_SUM_MIN, _SUM_MAX = 2.0**-60, 2.0**100
_LEAST_SCORE = -3.4e38


class Shape(NamedTuple):
    """The case that the code is made for.

    Attributes
    ----------
    width, head : int
        Channels of the model, d, and of a head, h.
    lanes : int
        Numbers that the processor works on at a time.
    """

    width: int
    head: int
    lanes: int


class Tile(NamedTuple):
    """Some queries of one head of a sequence, and its keys, in scratch memory.

    Attributes
    ----------
    keys, values : Value
        (length, h).
    queries, taken : Value
        (h, 2 × lanes): the values mixed for each query, times the sum of its weights.
    sums : Value
        (2 × lanes).
    length : Value
        Keys.
    vectors : int
        Vectors of queries that are used, 1 or 2.
    """

    keys: Value
    values: Value
    queries: Value
    taken: Value
    sums: Value
    length: Value
    vectors: int


def scratch_size(shape: Shape, longest: int) -> int:
    """Floats of scratch memory for sequences of up to `longest` tokens."""
    return 2 * longest * shape.head + (2 * shape.head + 1) * 2 * shape.lanes


def write_attention(module: ir.Module, shape: Shape) -> None:
    """Write ``attend(products, bias, rotary, spans, count, first, last, scratch, out)``.

    products (rows, 3 d): queries, keys and values without `bias` (3 d). rotary (positions, 4, h/2): cosines and sines
    for queries, which carry the scale of scores, and for keys. spans (count, 2), int64: the first row of each sequence,
    and the one behind its last. Heads from `first` to less than `last`. out (rows, d).
    """
    code = Code(module, "attend", [POINTER] * 4 + [INDEX] * 3 + [POINTER] * 2)
    products, bias, rotary, spans, count, first, last, scratch, out = code.arguments
    d, h, lanes = shape.width, shape.head, shape.lanes
    b = code.builder
    with code.loop(count) as sequences:
        begin = code.load_index(spans, code.times(sequences.index, 2))
        length = b.sub(code.load_index(spans, code.times(sequences.index, 2), 1), begin)
        size = code.times(length, h)
        offsets = (0, size, code.times(size, 2), code.plus(code.times(size, 2), 2 * h * lanes))
        memory = [code.at(scratch, offset) for offset in (*offsets, code.plus(offsets[-1], 2 * h * lanes))]
        with code.loop(last, start=first) as heads:
            channel = code.times(heads.index, h)
            of_products, of_bias = code.at(products, code.times(begin, 3 * d), channel), code.at(bias, channel)
            _lay_out_keys(code, shape, of_products, of_bias, rotary, memory, length)
            # all queries two vectors at a time, but for a rest that fits into one
            pairs = b.and_(code.plus(length, lanes - 1), code.number(-2 * lanes))
            for vectors, start, stop in ((2, code.number(0), pairs), (1, pairs, length)):
                with code.loop(stop, start=start, step=vectors * lanes) as tiles:
                    left, most = b.sub(length, tiles.index), code.number(vectors * lanes)
                    used = b.select(b.icmp_signed("<", left, most), left, most)
                    keys, values, queries, taken, sums = memory
                    tile = Tile(keys, values, queries, taken, sums, length, vectors)
                    _lay_out_queries(code, shape, of_products, of_bias, rotary, tile, tiles.index, used)
                    _attend(code, shape, tile)
                    row = code.plus(begin, tiles.index)
                    _write_out(code, shape, tile, code.at(out, code.times(row, d), channel), used)
    code.finish()


def _rotate(
    code: Code, shape: Shape, row: Value, bias: Value, table: Value, keep: Callable[[int, Value], None]
) -> None:
    """A query or key plus its bias, turned by its cosines and sines. `keep` gets the first channel of each vector."""
    half, b = shape.head // 2, code.builder
    step = lanes_in(half, shape.lanes)
    for c in range(0, half, step):
        low, high = (b.fadd(code.load(code.at(row, i), step), code.load(code.at(bias, i), step)) for i in (c, half + c))
        cos, sin = (code.load(code.at(table, i), step) for i in (c, half + c))
        keep(c, b.fsub(b.fmul(low, cos), b.fmul(high, sin)))
        keep(half + c, b.fadd(b.fmul(high, cos), b.fmul(low, sin)))


def _lay_out_keys(
    code: Code, shape: Shape, products: Value, bias: Value, rotary: Value, memory: Sequence[Value], length: Value
) -> None:
    d, h, b = shape.width, shape.head, code.builder
    step = lanes_in(h, shape.lanes)
    with code.loop(length) as tokens:
        row, into = code.times(tokens.index, 3 * d), code.times(tokens.index, h)
        table = code.at(rotary, code.times(tokens.index, 2 * h), h)
        key, value = code.at(memory[0], into), code.at(memory[1], into)
        _rotate(
            code,
            shape,
            code.at(products, row, d),
            code.at(bias, d),
            table,
            lambda c, vector: code.store(vector, code.at(key, c)),
        )
        for c in range(0, h, step):
            given = code.load(code.at(products, row, 2 * d + c), step)
            code.store(b.fadd(given, code.load(code.at(bias, 2 * d + c), step)), code.at(value, c))


def _lay_out_queries(
    code: Code,
    shape: Shape,
    products: Value,
    bias: Value,
    rotary: Value,
    tile: Tile,
    begin: Value,
    used: Value,
) -> None:
    """Queries channel by channel. Places of a vector beyond the last query are zero."""
    across, zero = 2 * shape.lanes, code.spread(0.0, shape.lanes)
    with code.loop(shape.head) as channels:
        for v in range(tile.vectors):
            code.store(zero, code.at(tile.queries, code.times(channels.index, across), v * shape.lanes))
    with code.loop(used) as tokens:
        position = code.plus(begin, tokens.index)

        def scatter(c: int, vector: Value) -> None:
            for i in range(step := lanes_in(shape.head // 2, shape.lanes)):
                one = code.builder.extract_element(vector, ir.Constant(ir.IntType(32), i)) if step > 1 else vector
                code.store(one, code.at(tile.queries, tokens.index, (c + i) * across))

        row = code.at(products, code.times(position, 3 * shape.width))
        _rotate(code, shape, row, bias, code.at(rotary, code.times(position, 2 * shape.head)), scatter)


def _attend(code: Code, shape: Shape, tile: Tile) -> None:
    """Mix the values. Where sums overflow or vanish, do it again with the largest score subtracted from each."""
    lanes, b = shape.lanes, code.builder
    vectors = range(tile.vectors)
    sums = _mix(code, shape, tile, None)
    safe = ir.Constant(ir.IntType(1), 1)
    for total in sums:
        above = code.all_lanes(b.fcmp_ordered(">", total, code.spread(_SUM_MIN, lanes)))
        below = code.all_lanes(b.fcmp_ordered("<", total, code.spread(_SUM_MAX, lanes)))
        safe = b.and_(safe, b.and_(above, below))
    for v in vectors:
        code.store(sums[v], code.at(tile.sums, v * lanes))
    with b.if_then(b.not_(safe), likely=False):
        least = [code.spread(_LEAST_SCORE, lanes) for _ in vectors]
        with code.loop(tile.length, carry=least) as keys:
            (scores,) = _scores(code, shape, tile, keys.index, 1)
            keys.carried = [code.larger(score, most) for score, most in zip(scores, keys.values, strict=True)]
        for v, total in enumerate(_mix(code, shape, tile, keys.carried)):
            code.store(total, code.at(tile.sums, v * lanes))


def _mix(code: Code, shape: Shape, tile: Tile, largest: Sequence[Value] | None) -> Sequence[Value]:
    """Add up the values by weights 2^(score − largest) into `taken`. Return the weights' sums."""
    lanes, b = shape.lanes, code.builder
    zero = code.spread(0.0, lanes)
    with code.loop(shape.head) as channels:
        for v in range(tile.vectors):
            code.store(zero, code.at(tile.taken, code.times(channels.index, 2 * lanes), v * lanes))
    whole = b.and_(tile.length, code.number(-_KEYS))
    sums: Sequence[Value] = [zero] * tile.vectors
    parts = [(_KEYS, code.number(0), whole), (1, whole, tile.length)]
    if largest is not None:  # seldom: code that is not there need not be compiled
        parts = [(1, code.number(0), tile.length)]
    for count, start, stop in parts:
        with code.loop(stop, start=start, step=count, carry=sums) as keys:
            totals = list(keys.values)
            weights = []
            for scores in _scores(code, shape, tile, keys.index, count):
                if largest is not None:
                    scores = [b.fsub(score, most) for score, most in zip(scores, largest, strict=True)]
                weights.append([code.exp2(score) for score in scores])
                totals = [b.fadd(total, weight) for total, weight in zip(totals, weights[-1], strict=True)]
            with code.loop(shape.head) as channels:
                places = [
                    code.at(tile.taken, code.times(channels.index, 2 * lanes), v * lanes) for v in range(tile.vectors)
                ]
                taken = [code.load(place, lanes) for place in places]
                for j in range(count):
                    value = code.load(
                        code.at(tile.values, code.times(code.plus(keys.index, j), shape.head), channels.index)
                    )
                    taken = [code.fma(code.spread(value, lanes), w, t) for w, t in zip(weights[j], taken, strict=True)]
                for total, place in zip(taken, places, strict=True):
                    code.store(total, place)
            keys.carried = totals
        sums = keys.carried
    return sums


def _scores(code: Code, shape: Shape, tile: Tile, first: Value, count: int) -> list[list[Value]]:
    """Products of some keys with the queries: for each key the vectors."""
    lanes = shape.lanes
    start = [code.spread(0.0, lanes)] * (count * tile.vectors)
    with code.loop(shape.head, carry=start) as channels:
        queries = [
            code.load(code.at(tile.queries, code.times(channels.index, 2 * lanes), v * lanes), lanes)
            for v in range(tile.vectors)
        ]
        scores = iter(channels.values)
        following = []
        for j in range(count):
            key = code.load(code.at(tile.keys, code.times(code.plus(first, j), shape.head), channels.index))
            following += [code.fma(code.spread(key, lanes), query, next(scores)) for query in queries]
        channels.carried = following
    flat = list(channels.carried)
    return [flat[j * tile.vectors : (j + 1) * tile.vectors] for j in range(count)]


def _write_out(code: Code, shape: Shape, tile: Tile, out: Value, used: Value) -> None:
    """Rows of the result, divided by the weights' sums."""
    lanes, across = shape.lanes, 2 * shape.lanes
    for v in range(tile.vectors):
        share = code.builder.fdiv(code.spread(1.0, lanes), code.load(code.at(tile.sums, v * lanes), lanes))
        with code.loop(shape.head) as channels:
            place = code.at(tile.taken, code.times(channels.index, across), v * lanes)
            code.store(code.builder.fmul(code.load(place, lanes), share), place)
    with code.loop(used) as tokens:
        row = code.at(out, code.times(tokens.index, shape.width))
        with code.loop(shape.head) as channels:
            value = code.load(code.at(tile.taken, code.times(channels.index, across), tokens.index))
            code.store(value, code.at(row, channels.index))
