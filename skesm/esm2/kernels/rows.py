"""Functions of each row of a pack alone, written for LLVM: GELU, LayerNorm, and sums with biases."""

from __future__ import annotations

import math

from llvmlite import ir

from skesm.esm2.gelu import GELU_LOGIT
from skesm.esm2.kernels.code import FLOAT, INDEX, POINTER, Code, lanes_in
from skesm.esm2.spec import ModelSpec

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


def write_norm(module: ir.Module, spec: ModelSpec) -> None:
    """Write ``norm(x, weight, bias, out, rows)``: LayerNorm of each row, (rows, d)."""
    d = spec.width
    code = Code(module, "norm", [POINTER] * 4 + [INDEX])
    x, weight, bias, out, rows = code.arguments
    b, step = code.builder, lanes_in(d, _PARTIAL_SUMS)
    share = ir.Constant(FLOAT, 1 / d)
    zero = code.spread(0.0, step)
    with code.loop(rows) as row:
        start = code.times(row.index, d)
        with code.loop(d, step=step, carry=[zero]) as total:
            total.carried = [b.fadd(total.values[0], code.load(code.at(x, start, total.index), step))]
        mean = code.spread(b.fmul(code.sum_of_lanes(total.carried[0]), share), step)
        with code.loop(d, step=step, carry=[zero]) as square:
            centred = b.fsub(code.load(code.at(x, start, square.index), step), mean)
            square.carried = [code.fma(centred, centred, square.values[0])]
        variance = code.fma(code.sum_of_lanes(square.carried[0]), share, code.spread(spec.layer_norm_eps, 1))
        scale = code.spread(b.fdiv(code.spread(1.0, 1), code.sqrt(variance)), step)
        with code.loop(d, step=step) as column:
            centred = b.fsub(code.load(code.at(x, start, column.index), step), mean)
            scaled = b.fmul(b.fmul(centred, scale), code.load(code.at(weight, column.index), step))
            shifted = b.fadd(scaled, code.load(code.at(bias, column.index), step))
            code.store(shifted, code.at(out, start, column.index))
    code.finish()


def write_add(module: ir.Module, width: int, lanes: int) -> None:
    """Write ``add(x, h, bias, rows)``: x + (h + bias) in place, (rows, width)."""
    code = Code(module, "add", [POINTER] * 3 + [INDEX])
    x, h, bias, rows = code.arguments
    b, step = code.builder, lanes_in(width, lanes)
    with code.loop(rows) as row, code.loop(width, step=step) as column:
        place = code.plus(code.times(row.index, width), column.index)
        added = b.fadd(code.load(code.at(h, place), step), code.load(code.at(bias, column.index), step))
        code.store(b.fadd(code.load(code.at(x, place), step), added), code.at(x, place))
    code.finish()
