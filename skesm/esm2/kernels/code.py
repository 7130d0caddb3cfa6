"""A few words for writing LLVM's code: loops, vectors of float32, and functions of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

FLOAT, INT, BIT = ir.FloatType(), ir.IntType(32), ir.IntType(1)
INDEX, POINTER = ir.IntType(64), ir.PointerType()
ALIGNMENT = 4  # bytes: rows of arrays begin anywhere

#: Adding and subtracting it rounds a float32 to a whole number, whose bits are the last ones of the sum.
_ROUNDS = 1.5 * 2.0**23
#: Powers of two of numbers beyond are those of these.
_LEAST_EXPONENT, _MOST_EXPONENT = -126.0, 127.0
#: 2^x on |x| <= 1/2, fitted by least squares of the relative error: 2e-9 off, before rounding.
_EXP2 = (
    1.0000000005920209,
    0.69314720560051,
    0.24022646608714168,
    0.05550328997517005,
    0.009618519534335871,
    0.0013399860363395102,
    0.00015337576838842464,
)

#: A value of LLVM's code. Its types are unknown to type checkers.
Value = Any
Type = Any


class Loop:
    """A loop while it is written: its index, and the values that it carries from turn to turn."""

    def __init__(self, index: Value, values: list[Value]) -> None:
        self.index = index
        self.values = values
        self.carried: Sequence[Value] = values  # of the next turn, or of the last when the loop is over


class Code:
    """A function while it is written.

    Parameters
    ----------
    module : ir.Module
    name : str
    arguments : sequence of Type
    """

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[Type]) -> None:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        function.attributes.add("nounwind")
        for argument in function.args:
            if argument.type == POINTER:
                argument.add_attribute("noalias")
        self.arguments = function.args
        self._module = module
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))

    # Whole numbers

    def number(self, value: int | Value) -> Value:
        """An index."""
        return ir.Constant(INDEX, value) if isinstance(value, int) else value

    def plus(self, *parts: int | Value) -> Value:
        """The sum of indices."""
        total = self.number(parts[0])
        for part in parts[1:]:
            total = self.builder.add(total, self.number(part))
        return total

    def times(self, one: int | Value, other: int | Value) -> Value:
        """The product of two indices."""
        return self.builder.mul(self.number(one), self.number(other))

    # Control

    @contextmanager
    def loop(
        self, stop: int | Value, *, start: int | Value = 0, step: int = 1, carry: Sequence[Value] = ()
    ) -> Iterator[Loop]:
        """A loop from `start` to less than `stop`. The code that is written inside is its body."""
        b = self.builder
        before = b.block
        head, body, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(INDEX)
        phis = [b.phi(value.type) for value in carry]
        b.cbranch(b.icmp_signed("<", index, self.number(stop)), body, after)
        b.position_at_end(body)
        written = Loop(index, phis)
        yield written
        following = self.plus(index, step)
        end = b.block
        b.branch(head)
        index.add_incoming(self.number(start), before)
        index.add_incoming(following, end)
        for phi, first, later in zip(phis, carry, written.carried, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, end)
        b.position_at_end(after)
        written.carried = phis

    def finish(self) -> None:
        """End the function."""
        self.builder.ret_void()

    # Memory

    def at(self, pointer: Value, *offset: int | Value) -> Value:
        """The place of an element."""
        return self.builder.gep(pointer, [self.plus(*offset)], source_etype=FLOAT)

    def load(self, place: Value, lanes: int = 1) -> Value:
        """One number, or several in a row."""
        return self.builder.load(place, align=ALIGNMENT, typ=vector(lanes) if lanes > 1 else FLOAT)

    def load_index(self, pointer: Value, *offset: int | Value) -> Value:
        """An index of an array of int64."""
        place = self.builder.gep(pointer, [self.plus(*offset)], source_etype=INDEX)
        return self.builder.load(place, align=8, typ=INDEX)

    def store(self, value: Value, place: Value) -> None:
        """Write one number, or several in a row."""
        self.builder.store(value, place, align=ALIGNMENT)

    # Numbers

    def spread(self, scalar: float | Value, lanes: int) -> Value:
        """A number in all lanes."""
        if isinstance(scalar, float | int):
            constant = ir.Constant(FLOAT, float(scalar))
            return constant if lanes == 1 else ir.Constant(vector(lanes), [constant] * lanes)
        if lanes == 1:
            return scalar
        b = self.builder
        one = b.insert_element(ir.Constant(vector(lanes), ir.Undefined), scalar, ir.Constant(INT, 0))
        return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(INT, lanes), [ir.Constant(INT, 0)] * lanes))

    def call(self, name: str, result: Type, *arguments: Value) -> Value:
        """One of LLVM's own functions."""
        kinds = [argument.type for argument in arguments]
        function = self._module.globals.get(name)
        if function is None:
            function = ir.Function(self._module, ir.FunctionType(result, kinds), name)
        return self.builder.call(function, arguments)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """The sum a b + c, rounded once where the processor can."""
        return self.call(f"llvm.fmuladd.{_suffix(a.type)}", a.type, a, b, c)

    def sqrt(self, x: Value) -> Value:
        """The square root."""
        return self.call(f"llvm.sqrt.{_suffix(x.type)}", x.type, x)

    def larger(self, a: Value, b: Value) -> Value:
        """The larger of two. It is b if one is no number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def sum_of_lanes(self, x: Value) -> Value:
        """The sum of a vector's lanes, pairs of halves first."""
        b, lanes = self.builder, x.type.count
        while lanes > 1:
            lanes //= 2
            parts = [
                b.shuffle_vector(
                    x,
                    x,
                    ir.Constant(ir.VectorType(INT, lanes), [ir.Constant(INT, i) for i in range(begin, begin + lanes)]),
                )
                for begin in (0, lanes)
            ]
            x = b.fadd(*parts)
        return b.extract_element(x, ir.Constant(INT, 0))

    def all_lanes(self, bits: Value) -> Value:
        """Whether all lanes are true."""
        return self.call(f"llvm.vector.reduce.and.v{bits.type.count}i1", BIT, bits)

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """The sum of coefficients times powers of x, the constant first."""
        lanes = lanes_of(x)
        result = self.spread(coefficients[-1], lanes)
        for coefficient in coefficients[-2::-1]:
            result = self.fma(result, x, self.spread(coefficient, lanes))
        return result

    def exp2(self, x: Value) -> Value:
        """Two to the power of x, which is -126 for less or no number, and 127 for more."""
        b, lanes = self.builder, lanes_of(x)
        least, most, rounds = (self.spread(c, lanes) for c in (_LEAST_EXPONENT, _MOST_EXPONENT, _ROUNDS))
        x = self.larger(x, least)
        x = b.select(b.fcmp_ordered("<", x, most), x, most)
        shifted = b.fadd(x, rounds)
        power = self.polynomial(b.fsub(x, b.fsub(shifted, rounds)), _EXP2)
        whole = ir.VectorType(INT, lanes) if lanes > 1 else INT
        shift = ir.Constant(INT, 23)
        shifts = ir.Constant(whole, [shift] * lanes) if lanes > 1 else shift
        exponent = b.shl(b.bitcast(shifted, whole), shifts)
        return b.bitcast(b.add(b.bitcast(power, whole), exponent), x.type)


def vector(lanes: int) -> Type:
    """Several numbers at once."""
    return ir.VectorType(FLOAT, lanes)


def lanes_of(value: Value) -> int:
    """How many numbers a value is."""
    return value.type.count if isinstance(value.type, ir.VectorType) else 1


def _suffix(kind: Type) -> str:
    return f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
