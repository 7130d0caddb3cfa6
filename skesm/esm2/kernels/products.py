"""Products with weights, written for LLVM: each number of a result is added up in one order everywhere.

BLAS decides by the shape of a product how it adds up. Here it is channel after channel of the input within some
hundreds of them, `Shape.depth`, and these sums one after another, which keeps more digits than one long chain. So the
result of a row is a function of that row alone, whatever the number of rows, the threads, or the width of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from skesm.esm2.kernels.code import INDEX, INT, POINTER, Code, Value
from skesm.esm2.kernels.shape import ACROSS, Shape

#: Channels between two tests of the loop.
_UNROLL = 8
#: Rows of a tile, by the lanes of vectors: its sums and their factors fill the registers.
_TILE_ROWS = {8: 6, 16: 12}
#: Products have a multiple of so many rows.
ROWS = 12


def panel_size(shape: Shape) -> int:
    """Floats of scratch memory for products."""
    return shape.depth * ACROSS * shape.product_lanes


def write_product(module: ir.Module, shape: Shape) -> None:
    """Write ``product(x, weight, out, panel, rows, outputs, weight_row, out_row, add)``: x Wᵀ into out, or added to it.

    x (rows, block); weight (outputs, block), of rows that are `weight_row` apart; out (rows, outputs), of rows that
    are `out_row` apart. Whole tiles of rows, and whole pairs of vectors of outputs. panel is scratch memory.
    """
    code = Code(module, "product", [POINTER] * 4 + [INDEX] * 5)
    x, weight, out, panel, rows, outputs, weight_row, out_row, add = code.arguments
    b, step, depth = code.builder, shape.product_lanes, shape.depth
    starts_at_zero = b.icmp_signed("==", add, code.number(0))
    with code.loop(shape.block, step=depth) as channels:
        left = b.sub(code.number(shape.block), channels.index)
        count = b.select(b.icmp_signed("<", left, code.number(depth)), left, code.number(depth))
        is_first = b.and_(starts_at_zero, b.icmp_signed("==", channels.index, code.number(0)))
        with code.loop(outputs, step=ACROSS * step) as columns:
            weights = code.at(weight, code.times(columns.index, weight_row), channels.index)
            _lay_out_panel(code, weights, weight_row, panel, count, step)
            with code.loop(rows, step=_TILE_ROWS[shape.lanes]) as tiles:
                of_x = code.at(x, code.times(tiles.index, shape.block), channels.index)
                of_out = code.at(out, code.times(tiles.index, out_row), columns.index)
                places = [
                    code.at(of_out, code.times(out_row, m), v * step)
                    for m in range(_TILE_ROWS[shape.lanes])
                    for v in range(ACROSS)
                ]
                sums = _add_up(code, shape, of_x, panel, count)
                with b.if_else(is_first) as (first, later):
                    with first:
                        for total, place in zip(sums, places, strict=True):
                            code.store(total, place)
                    with later:
                        for total, place in zip(sums, places, strict=True):
                            code.store(b.fadd(code.load(place, step), total), place)
    code.finish()


def _add_up(code: Code, shape: Shape, x: Value, panel: Value, count: Value) -> Sequence[Value]:
    """Sums of a tile over the channels of a panel: for each row its vectors."""
    step = shape.product_lanes
    unroll = min(_UNROLL, step)
    start = [code.spread(0.0, step)] * (_TILE_ROWS[shape.lanes] * ACROSS)
    with code.loop(count, step=unroll, carry=start) as channels:
        sums = list(channels.values)
        for u in range(unroll):
            channel = code.plus(channels.index, u)
            of_panel = code.at(panel, code.times(channel, ACROSS * step))
            weights = [code.load(code.at(of_panel, v * step), step) for v in range(ACROSS)]
            for i, total in enumerate(sums):
                m, v = divmod(i, ACROSS)
                if v == 0:
                    value = code.spread(code.load(code.at(x, channel, m * shape.block)), step)
                sums[i] = code.fma(value, weights[v], total)
        channels.carried = sums
    return channels.carried


def _lay_out_panel(code: Code, weight: Value, weight_row: Value, panel: Value, count: Value, step: int) -> None:
    """Weights of two vectors of outputs, (outputs, channels), to (channels, outputs)."""
    with code.loop(count, step=step) as channels:
        for v in range(ACROSS):
            rows = [
                code.load(code.at(weight, code.times(weight_row, v * step + i), channels.index), step)
                for i in range(step)
            ]
            for i, column in enumerate(_transpose(code, rows)):
                code.store(column, code.at(panel, code.times(code.plus(channels.index, i), ACROSS * step), v * step))


def _transpose(code: Code, rows: list[Value]) -> list[Value]:
    """Rows of a square, as many as each has lanes, to its columns: halves of ever larger squares change places."""
    lanes, distance = len(rows), 1
    while distance < lanes:
        upper = [lanes + j - distance if j & distance else j for j in range(lanes)]
        lower = [lanes + j if j & distance else j + distance for j in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = _pick(code, *pair, upper), _pick(code, *pair, lower)
        distance *= 2
    return rows


def _pick(code: Code, one: Value, other: Value, lanes: Sequence[int]) -> Value:
    mask = ir.Constant(ir.VectorType(INT, len(lanes)), [ir.Constant(INT, i) for i in lanes])
    return code.builder.shuffle_vector(one, other, mask)
