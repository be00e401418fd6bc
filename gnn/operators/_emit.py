"""Plain Python arithmetic, written once for numbers and compiled without its loops and tables.

A function decorated with `emitted` takes an order and lists of numbers and returns a list of
lists. Called from Numba code it runs once, at compile time, on stand-ins whose ``+ - *`` write
instructions for vectors of channels; loops, tables and zeros vanish. Called from Python (as
``f.plain``) it works on floats or arrays. `Dual` carries a directional derivative through it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.simd import FLAGS, Vec, address_of, fill_lanes


@dataclass(frozen=True, slots=True)
class Dual:
    """A number and its derivative along one direction; None stands for a derivative of zero."""

    value: Any
    slope: Any

    def __add__(self, other: Any) -> "Dual":
        other = _dual(other)
        return Dual(self.value + other.value, _add(self.slope, other.slope))

    def __mul__(self, other: Any) -> "Dual":
        other = _dual(other)
        left = None if self.slope is None else self.slope * other.value
        right = None if other.slope is None else self.value * other.slope
        return Dual(self.value * other.value, _add(left, right))

    __radd__ = __add__
    __rmul__ = __mul__


def _dual(number: Any) -> Dual:
    return number if isinstance(number, Dual) else Dual(number, None)


def _add(a: Any, b: Any) -> Any:
    if a is None:
        return b
    return a if b is None else a + b


class _Number:
    """A scalar or vector of the program being compiled."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def _binary(self, other: Any, instruction: str) -> "_Number":
        left, right = self.value, other
        if isinstance(other, _Number):
            right = other.value
        else:
            kind = left.type
            number = float(other)
            wide = isinstance(kind, ir.VectorType)
            right = ir.Constant(kind, [number] * kind.count if wide else number)
        if isinstance(left.type, ir.VectorType) and not isinstance(right.type, ir.VectorType):
            right = fill_lanes(self.builder, right, left.type)
        if isinstance(right.type, ir.VectorType) and not isinstance(left.type, ir.VectorType):
            left = fill_lanes(self.builder, left, right.type)
        result = getattr(self.builder, instruction)(left, right, flags=FLAGS)
        return _Number(self.builder, result)

    def __add__(self, other: Any) -> "_Number":
        return self if isinstance(other, float) and other == 0 else self._binary(other, "fadd")

    def __mul__(self, other: Any) -> "_Number":
        return self if isinstance(other, float) and other == 1 else self._binary(other, "fmul")

    __radd__ = __add__
    __rmul__ = __mul__


def emitted(plain: Callable) -> Any:
    """Turn ``plain(order, list, ...) -> list of lists`` into a function for Numba code.

    There it is called with the order, known when compiling, and one tuple of tuples of scalars
    or of `Vec`; results are tuples of `Vec`.
    """

    @intrinsic(prefer_literal=True)
    def call(typing_context, order, lists):
        n = order.literal_value
        lane = next(kind.dtype for kind in lists if isinstance(kind.dtype, Vec))
        shape = [len(out) for out in plain(n, *([1.0] * len(kind) for kind in lists))]
        result = types.Tuple([types.UniTuple(lane, length) for length in shape])

        def codegen(context, builder, sig, args):
            vector = context.get_value_type(lane)
            numbers = [
                [_Number(builder, item) for item in cgutils.unpack_tuple(builder, value)]
                for value in cgutils.unpack_tuple(builder, args[1])
            ]
            packed = [
                context.make_tuple(
                    builder, kind, [_as_lanes(builder, item, vector) for item in out]
                )
                for kind, out in zip(sig.return_type, plain(n, *numbers), strict=True)
            ]
            return context.make_tuple(builder, sig.return_type, packed)

        return result(order, lists), codegen

    call.plain = plain
    return call


def _as_lanes(builder: ir.IRBuilder, item: Any, vector: ir.Type) -> ir.Value:
    if not isinstance(item, _Number):
        return ir.Constant(vector, [float(item)] * vector.count)
    if isinstance(item.value.type, ir.VectorType):
        return item.value
    return fill_lanes(builder, item.value, vector)


# --- rows of channels -----------------------------------------------------------------------------
# Row i of an edge or node starts at offset + i * channels. Of the last block of channels only
# `width` lanes may be touched.


def _mask(builder: ir.IRBuilder, width: ir.Value, lanes: int) -> ir.Value:
    kind = ir.VectorType(ir.IntType(32), lanes)
    bound = fill_lanes(builder, builder.trunc(width, ir.IntType(32)), kind)
    return builder.icmp_signed("<", ir.Constant(kind, list(range(lanes))), bound)


def _masked(builder: ir.IRBuilder, name: str, vector: ir.Type, result: ir.Type, *args: ir.Value):
    suffix = f"v{vector.count}{'f64' if vector.count == 8 else 'f32'}.p0"
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.{suffix}")
    return builder.call(function, args)


def _load(builder, vector, address, width, masked):
    align = ir.Constant(ir.IntType(32), 8 if vector.count == 8 else 4)
    if masked:
        zero = ir.Constant(vector, [0.0] * vector.count)
        mask = _mask(builder, width, vector.count)
        return _masked(builder, "load", vector, vector, address, align, mask, zero)
    value = builder.load(address, typ=vector)
    value.align = align.constant
    return value


def _store(builder, vector, address, value, width, masked):
    align = ir.Constant(ir.IntType(32), 8 if vector.count == 8 else 4)
    if masked:
        mask = _mask(builder, width, vector.count)
        _masked(builder, "store", vector, ir.VoidType(), value, address, align, mask)
    else:
        builder.store(value, address, align=align.constant)


def _rows(context, builder, array_type, array, offset, channels, count, vector):
    for i in range(count):
        step = builder.mul(channels, ir.Constant(channels.type, i))
        yield address_of(context, builder, array_type, array, builder.add(offset, step), vector)


@intrinsic(prefer_literal=True)
def load_rows(typing_context, array, offset, channels, count, width, masked):
    """Return a tuple of `count` vectors: rows of channels from ``array[offset]`` on."""
    lane = Vec(array.dtype)
    result = types.UniTuple(lane, count.literal_value)

    def codegen(context, builder, sig, args):
        vector = context.get_value_type(lane)
        rows = _rows(
            context, builder, array, args[0], args[1], args[2], count.literal_value, vector
        )
        partial = bool(masked.literal_value)
        values = [_load(builder, vector, row, args[4], partial) for row in rows]
        return context.make_tuple(builder, sig.return_type, values)

    return result(array, types.intp, types.intp, count, types.intp, masked), codegen


def _writer(accumulate: bool):
    @intrinsic(prefer_literal=True)
    def write(typing_context, array, offset, channels, values, width, masked):
        def codegen(context, builder, sig, args):
            vector = context.get_value_type(values.dtype)
            rows = _rows(context, builder, array, args[0], args[1], args[2], len(values), vector)
            partial = bool(masked.literal_value)
            rows, new = list(rows), cgutils.unpack_tuple(builder, args[3])
            if accumulate:
                # all loads first: one that overlaps a masked store in flight would wait for it
                old = [_load(builder, vector, row, args[4], partial) for row in rows]
                new = [builder.fadd(a, b, flags=FLAGS) for a, b in zip(old, new, strict=True)]
            for row, value in zip(rows, new, strict=True):
                _store(builder, vector, row, value, args[4], partial)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp, values, types.intp, masked), codegen

    return write


store_rows = _writer(accumulate=False)
add_rows = _writer(accumulate=True)


@intrinsic(prefer_literal=True)
def zero_rows(typing_context, array, count):
    """Return a tuple of `count` vectors of zeros, of the array's type."""
    lane = Vec(array.dtype)
    result = types.UniTuple(lane, count.literal_value)

    def codegen(context, builder, sig, args):
        vector = context.get_value_type(lane)
        zero = ir.Constant(vector, [0.0] * vector.count)
        return context.make_tuple(builder, sig.return_type, [zero] * count.literal_value)

    return result(array, count), codegen
