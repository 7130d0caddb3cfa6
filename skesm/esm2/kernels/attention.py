"""Attention of sequences laid end to end, written for LLVM: scores never leave the processor's registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

from skesm.esm2.kernels.code import INDEX, POINTER, Code, Value
from skesm.esm2.kernels.shape import Shape, lanes_in

#: Keys that are worked on at a time, by the lanes of vectors: scores of two vectors of queries fill the registers.
_KEYS = {8: 6, 16: 8}
#: Channels between two tests of a loop.
_UNROLL = 4
# A query's sum of exp2(scores) in this range has neither overflowed nor lost a score that counts
_SUM_MIN, _SUM_MAX = 2.0**-60, 2.0**100
_LEAST_SCORE = -3.4e38


class Tile(NamedTuple):
    """Some queries of one head of a sequence, and its keys, in scratch memory.

    Attributes
    ----------
    keys, values : Value
        (length, h), and rows of zeros up to a multiple of `_KEYS`.
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
    return 2 * (longest + _KEYS[shape.lanes]) * shape.head + (2 * shape.head + 1) * 2 * shape.lanes


class Head(NamedTuple):
    """A head of one sequence in the products of queries, keys and values.

    Attributes
    ----------
    parts : tuple of Value
        First token of its queries, keys and values.
    biases : tuple of Value
    row : Value
        From a token to the next.
    """

    parts: tuple[Value, Value, Value]
    biases: tuple[Value, Value, Value]
    row: Value


def write_attention(module: ir.Module, shape: Shape) -> None:
    """Write ``attend(products, row, block, bias, rotary, spans, count, first, last, scratch, out, row, block)``.

    products: queries, keys and values without `bias` (3 d). Their tokens are `row` apart and their blocks of channels
    `block`, and so are those of out. rotary (positions, 4, h/2): cosines and sines for queries, which carry the scale
    of scores, and for keys. spans (count, 2), int64: the first row of each sequence, and the one behind its last. Heads
    from `first` to less than `last`.
    """
    kinds = [POINTER, INDEX, INDEX, *[POINTER] * 3, *[INDEX] * 3, POINTER, POINTER, INDEX, INDEX]
    code = Code(module, "attend", kinds)
    products, row, block, bias, rotary, spans, count, first, last, scratch, out, out_row, out_block = code.arguments
    d, h, lanes = shape.width, shape.head, shape.lanes
    b = code.builder
    with code.loop(count) as sequences:
        begin = code.load_index(spans, code.times(sequences.index, 2))
        length = b.sub(code.load_index(spans, code.times(sequences.index, 2), 1), begin)
        size = code.times(code.plus(length, _KEYS[lanes]), h)
        offsets = (0, size, code.times(size, 2), code.plus(code.times(size, 2), 2 * h * lanes))
        keys, values, queries, taken, sums = (
            code.at(scratch, offset) for offset in (*offsets, code.plus(offsets[-1], 2 * h * lanes))
        )
        with code.loop(last, start=first) as heads:
            per_block = code.number(shape.block // h)
            blocks, channel = b.udiv(heads.index, per_block), code.times(b.urem(heads.index, per_block), h)
            places = [code.times(code.plus(blocks, part * (d // shape.block)), block) for part in range(3)]
            head = Head(
                tuple(code.at(products, place, code.times(begin, row), channel) for place in places),
                tuple(code.at(bias, code.times(heads.index, h), part * d) for part in range(3)),
                row,
            )
            _lay_out_keys(code, shape, head, rotary, (keys, values), length)
            into = code.at(out, code.times(blocks, out_block), code.times(begin, out_row), channel)
            # all queries two vectors at a time, but for a rest that fits into one
            pairs = b.and_(code.plus(length, lanes - 1), code.number(-2 * lanes))
            for vectors, start, stop in ((2, code.number(0), pairs), (1, pairs, length)):
                with code.loop(stop, start=start, step=vectors * lanes) as tiles:
                    left, most = b.sub(length, tiles.index), code.number(vectors * lanes)
                    used = b.select(b.icmp_signed("<", left, most), left, most)
                    tile = Tile(keys, values, queries, taken, sums, length, vectors)
                    _lay_out_queries(code, shape, head, rotary, tile, tiles.index, used)
                    _attend(code, shape, tile)
                    _write_out(code, shape, tile, code.at(into, code.times(tiles.index, out_row)), out_row, used)
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


def _lay_out_keys(code: Code, shape: Shape, head: Head, rotary: Value, memory: Sequence[Value], length: Value) -> None:
    h, b = shape.head, code.builder
    step = lanes_in(h, shape.lanes)
    _, of_keys, of_values = head.parts
    _, key_bias, value_bias = head.biases
    with code.loop(length) as tokens:
        row, into = code.times(tokens.index, head.row), code.times(tokens.index, h)
        table = code.at(rotary, code.times(tokens.index, 2 * h), h)
        key, value = code.at(memory[0], into), code.at(memory[1], into)
        _rotate(
            code, shape, code.at(of_keys, row), key_bias, table, lambda c, vector: code.store(vector, code.at(key, c))
        )
        for c in range(0, h, step):
            given = code.load(code.at(of_values, row, c), step)
            code.store(b.fadd(given, code.load(code.at(value_bias, c), step)), code.at(value, c))
    with code.loop(code.times(_KEYS[shape.lanes], h), step=step) as rest:
        for place in memory:
            code.store(code.spread(0.0, step), code.at(place, code.times(length, h), rest.index))


def _lay_out_queries(
    code: Code, shape: Shape, head: Head, rotary: Value, tile: Tile, begin: Value, used: Value
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

        row = code.at(head.parts[0], code.times(position, head.row))
        _rotate(code, shape, row, head.biases[0], code.at(rotary, code.times(position, 2 * shape.head)), scatter)


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
    sums: Sequence[Value] = [zero] * tile.vectors
    count = _KEYS[lanes]
    whole = b.sub(tile.length, b.urem(tile.length, code.number(count)))
    parts = [(count, code.number(0), whole, False), (count, whole, tile.length, True)]
    if largest is not None:  # seldom: code that is not there need not be compiled
        parts = [(1, code.number(0), tile.length, False)]
    for count, start, stop, ends in parts:
        with code.loop(stop, start=start, step=count, carry=sums) as keys:
            totals = list(keys.values)
            weights = []
            for j, scores in enumerate(_scores(code, shape, tile, keys.index, count)):
                if largest is not None:
                    scores = [b.fsub(score, most) for score, most in zip(scores, largest, strict=True)]
                weights.append([code.exp2(score) for score in scores])
                if largest is not None:  # exp2 is finite, but a score that is infinite or no number has no weight
                    zeros = [b.fmul(score, zero) for score in scores]
                    weights[-1] = [b.fadd(weight, none) for weight, none in zip(weights[-1], zeros, strict=True)]
                if ends:  # keys that are none weigh nothing
                    is_key = b.icmp_signed("<", code.plus(keys.index, j), tile.length)
                    weights[-1] = [b.select(is_key, weight, zero) for weight in weights[-1]]
                totals = [b.fadd(total, weight) for total, weight in zip(totals, weights[-1], strict=True)]
            unroll = lanes_in(shape.head, _UNROLL)
            with code.loop(shape.head, step=unroll) as channels:
                for u in range(unroll):
                    channel = code.plus(channels.index, u)
                    places = [
                        code.at(tile.taken, code.times(channel, 2 * lanes), v * lanes) for v in range(tile.vectors)
                    ]
                    taken = [code.load(place, lanes) for place in places]
                    for j in range(count):
                        of_key = code.times(code.plus(keys.index, j), shape.head)
                        value = code.spread(code.load(code.at(tile.values, of_key, channel)), lanes)
                        taken = [code.fma(value, w, t) for w, t in zip(weights[j], taken, strict=True)]
                    for total, place in zip(taken, places, strict=True):
                        code.store(total, place)
            keys.carried = totals
        sums = keys.carried
    return sums


def _scores(code: Code, shape: Shape, tile: Tile, first: Value, count: int) -> list[list[Value]]:
    """Products of some keys with the queries: for each key the vectors."""
    lanes, unroll = shape.lanes, lanes_in(shape.head, _UNROLL)
    start = [code.spread(0.0, lanes)] * (count * tile.vectors)
    with code.loop(shape.head, step=unroll, carry=start) as channels:
        sums = list(channels.values)
        for u in range(unroll):
            channel = code.plus(channels.index, u)
            place = code.at(tile.queries, code.times(channel, 2 * lanes))
            queries = [code.load(code.at(place, v * lanes), lanes) for v in range(tile.vectors)]
            for j in range(count):
                of_key = code.times(code.plus(first, j), shape.head)
                key = code.spread(code.load(code.at(tile.keys, of_key, channel)), lanes)
                for v, query in enumerate(queries):
                    sums[j * tile.vectors + v] = code.fma(key, query, sums[j * tile.vectors + v])
        channels.carried = sums
    flat = list(channels.carried)
    return [flat[j * tile.vectors : (j + 1) * tile.vectors] for j in range(count)]


def _write_out(code: Code, shape: Shape, tile: Tile, out: Value, out_row: Value, used: Value) -> None:
    """Rows of the result, divided by the weights' sums."""
    lanes, across = shape.lanes, 2 * shape.lanes
    for v in range(tile.vectors):
        share = code.builder.fdiv(code.spread(1.0, lanes), code.load(code.at(tile.sums, v * lanes), lanes))
        with code.loop(shape.head) as channels:
            place = code.at(tile.taken, code.times(channels.index, across), v * lanes)
            code.store(code.builder.fmul(code.load(place, lanes), share), place)
    with code.loop(used) as tokens:
        row = code.at(out, code.times(tokens.index, out_row))
        with code.loop(shape.head) as channels:
            value = code.load(code.at(tile.taken, code.times(channels.index, across), tokens.index))
            code.store(value, code.at(row, channels.index))
