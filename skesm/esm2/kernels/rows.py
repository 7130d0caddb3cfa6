"""Functions of each row of a pack alone, written for LLVM: GELU, LayerNorm, and sums with biases."""

from __future__ import annotations

import math

from llvmlite import ir

from skesm.esm2.gelu import GELU_LOGIT
from skesm.esm2.kernels.code import FLOAT, INDEX, POINTER, Code
from skesm.esm2.kernels.shape import Shape, lanes_in

#: Partial sums of a row, on every processor: their number decides the last bits.
_PARTIAL_SUMS = 16


def write_gelu(module: ir.Module, name: str, width: int, lanes: int) -> None:
    """Write ``name(x, bias, rows)``: GELU(x + bias) in place, x (rows, width)."""
    code = Code(module, name, [POINTER, POINTER, INDEX])
    x, bias, rows = code.arguments
    b, step = code.builder, lanes_in(width, lanes)
    exponents = [-math.log2(math.e) * coefficient for coefficient in GELU_LOGIT]
    with code.loop(rows) as row, code.loop(width, step=step) as column:
        place = code.at(x, code.times(row.index, width), column.index)
        value = b.fadd(code.load(place, step), code.load(code.at(bias, column.index), step))
        exponent = b.fmul(value, code.polynomial(b.fmul(value, value), exponents))
        one = code.spread(1.0, step)
        code.store(b.fdiv(value, b.fadd(one, code.exp2(exponent))), place)
    code.finish()


def write_norm(module: ir.Module, epsilon: float, shape: Shape) -> None:
    """Write ``norm(x, row, block, weight, bias, out, row, block, rows)``: LayerNorm of each row of x into out.

    Rows of x, and of out, are `row` apart, their blocks of channels `block`.
    """
    d = shape.width
    code = Code(module, "norm", [POINTER, INDEX, INDEX, POINTER, POINTER, POINTER, INDEX, INDEX, INDEX])
    x, x_row, x_block, weight, bias, out, out_row, out_block, rows = code.arguments
    b, step = code.builder, lanes_in(shape.block, _PARTIAL_SUMS)
    blocks = range(d // shape.block)
    share = ir.Constant(FLOAT, 1 / d)
    zero = code.spread(0.0, step)
    with code.loop(rows) as row:
        of_row = [code.at(x, code.times(row.index, x_row), code.times(x_block, block)) for block in blocks]
        total = zero
        for part in of_row:
            with code.loop(shape.block, step=step, carry=[total]) as sums:
                sums.carried = [b.fadd(sums.values[0], code.load(code.at(part, sums.index), step))]
            (total,) = sums.carried
        mean = code.spread(b.fmul(code.sum_of_lanes(total), share), step)
        total = zero
        for part in of_row:
            with code.loop(shape.block, step=step, carry=[total]) as squares:
                centred = b.fsub(code.load(code.at(part, squares.index), step), mean)
                squares.carried = [code.fma(centred, centred, squares.values[0])]
            (total,) = squares.carried
        variance = code.fma(code.sum_of_lanes(total), share, code.spread(epsilon, 1))
        scale = code.spread(b.fdiv(code.spread(1.0, 1), code.sqrt(variance)), step)
        for block, part in zip(blocks, of_row, strict=True):
            into = code.at(out, code.times(row.index, out_row), code.times(out_block, block))
            with code.loop(shape.block, step=step) as column:
                channel = code.plus(column.index, block * shape.block)
                centred = b.fsub(code.load(code.at(part, column.index), step), mean)
                scaled = b.fmul(b.fmul(centred, scale), code.load(code.at(weight, channel), step))
                shifted = b.fadd(scaled, code.load(code.at(bias, channel), step))
                code.store(shifted, code.at(into, column.index))
    code.finish()


def write_add(module: ir.Module, shape: Shape) -> None:
    """Write ``add(x, h, bias, rows)``: x + (h + bias) in place, x (rows, d), h (blocks, rows, block)."""
    code = Code(module, "add", [POINTER] * 3 + [INDEX])
    x, h, bias, rows = code.arguments
    b, step = code.builder, lanes_in(shape.block, shape.lanes)
    with code.loop(shape.width, step=shape.block) as blocks, code.loop(rows) as row:
        place = code.plus(code.times(row.index, shape.width), blocks.index)
        of_h = code.plus(code.times(blocks.index, rows), code.times(row.index, shape.block))
        with code.loop(shape.block, step=step) as column:
            given = code.load(code.at(h, of_h, column.index), step)
            added = b.fadd(given, code.load(code.at(bias, blocks.index, column.index), step))
            at = code.at(x, place, column.index)
            code.store(b.fadd(code.load(at, step), added), at)
    code.finish()
