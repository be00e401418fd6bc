"""Small dense products in registers, and SiLU: what loops over rows of networks are made of.

Arrays are one-dimensional. A matrix of `count` inputs and as many outputs as `vectors` hold lies in
*panels* of `panel()` vectors, the last ones of fewer: panel by panel, input by input. The rows of x
and y lie one after the other at a pitch.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.instructions import has_avx512
from multipoles.compiled.jit import inline, jit
from multipoles.compiled.lanes import FLAGS, fill_lanes
from multipoles.compiled.simd import BYTES, Vec, address_of, lane_sum, load, splat, store, within
from multipoles.compiled.simd_math import exp


@intrinsic
def panel(typing_context: Any) -> Any:
    """Return the vectors of a panel: the sums of six rows by one fill the registers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), 4 if has_avx512(context) else 1)

    return types.intp(), codegen


@intrinsic(prefer_literal=True)
def _tile(
    typing_context: Any, x: Any, at: Any, pitch: Any, count: Any, matrix: Any, place: Any,
    y: Any, to: Any, width: Any, tall: Any, wide: Any,
) -> Any:  # fmt: skip
    """Add `tall` rows of x times a panel of `wide` vectors to rows of y."""
    lane = Vec(x.dtype)
    rows, columns = tall.literal_value, wide.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, align = context.get_value_type(lane), lane.dtype.bitwidth // 8
        word = ir.IntType(64)

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def address(array: int, index: Any) -> Any:
            return address_of(context, builder, sig.args[array], args[array], index, vector)

        def places() -> Any:
            for r in range(rows):
                row = builder.add(args[7], builder.mul(args[8], number(r)))
                for v in range(columns):
                    yield r, v, address(6, builder.add(row, number(v * lane.lanes)))

        sums = {}
        for r, v, place in places():
            value = builder.load(place, typ=vector)
            value.align = align
            sums[r, v] = cgutils.alloca_once_value(builder, value)
            builder.store(value, sums[r, v])
        inputs = context.make_array(sig.args[0])(context, builder, args[0]).data
        starts = [
            builder.gep(inputs, [builder.add(args[1], builder.mul(args[2], number(r)))])
            for r in range(rows)
        ]
        with cgutils.for_range(builder, args[3]) as loop:
            base = builder.add(args[5], builder.mul(loop.index, number(columns * lane.lanes)))
            entries = []
            for v in range(columns):
                entry = builder.load(
                    address(4, builder.add(base, number(v * lane.lanes))), typ=vector
                )
                entry.align = align
                entries.append(entry)
            for r in range(rows):
                factor = builder.load(builder.gep(starts[r], [loop.index]))
                spread = fill_lanes(builder, factor, vector)
                for v in range(columns):
                    product = builder.fmul(spread, entries[v], flags=FLAGS)
                    total = builder.load(sums[r, v])
                    builder.store(builder.fadd(total, product, flags=FLAGS), sums[r, v])
        for r, v, place in places():
            builder.store(builder.load(sums[r, v]), place, align=align)
        return context.get_dummy_value()

    integer = types.intp
    signature = types.void(
        x, integer, integer, integer, matrix, integer, y, integer, integer, tall, wide
    )
    return signature, codegen


@inline
def _width(left):
    """Return the vectors of the next panel, of as many as are left."""
    wide = panel()
    while wide > left:
        wide //= 2
    return wide


@inline
def _rows_of_panel(x, at, pitch, rows, count, matrix, place, y, to, width, wide):
    r = 0
    while r + 6 <= rows:
        if wide == 4:
            _tile(x, at + r * pitch, pitch, count, matrix, place, y, to + r * width, width, 6, 4)
        elif wide == 2:
            _tile(x, at + r * pitch, pitch, count, matrix, place, y, to + r * width, width, 6, 2)
        else:
            _tile(x, at + r * pitch, pitch, count, matrix, place, y, to + r * width, width, 6, 1)
        r += 6
    while r < rows:
        if wide == 4:
            _tile(x, at + r * pitch, pitch, count, matrix, place, y, to + r * width, width, 1, 4)
        elif wide == 2:
            _tile(x, at + r * pitch, pitch, count, matrix, place, y, to + r * width, width, 1, 2)
        else:
            _tile(x, at + r * pitch, pitch, count, matrix, place, y, to + r * width, width, 1, 1)
        r += 1


@jit
def multiply(x, at, pitch, rows, count, matrix, place, vectors, y, to, width):
    """Add rows of x, from `at` on, times the matrix at `place` to rows of y from `to` on.

    `pitch` and `width` are those of x and y, whose rows have room for all vectors.
    """
    lanes = BYTES // x.itemsize
    first = 0
    while first < vectors:
        wide = _width(vectors - first)
        start = place + first * lanes * count
        _rows_of_panel(x, at, pitch, rows, count, matrix, start, y, to + first * lanes, width, wide)
        first += wide


@jit
def pack(weight, start, by_input, by_output, count, outputs, matrix, place):
    """Write a matrix in panels: entry (k, v) is ``weight[start + k by_input + v by_output]``."""
    lanes = BYTES // weight.itemsize
    vectors = (outputs + lanes - 1) // lanes
    first = 0
    while first < vectors:
        wide = _width(vectors - first)
        for k in range(count):
            to = place + first * lanes * count + k * wide * lanes
            source = start + k * by_input
            for v in range(wide * lanes):
                column = first * lanes + v
                inside = column < outputs
                matrix[to + v] = weight[source + column * by_output] if inside else 0.0
        first += wide


@inline
def _sigmoid(x, one):
    """Return 1/(1 + exp(-x))."""
    magnitude = within(x, np.inf, x, -x)
    small = exp(-magnitude, 0.0)
    return within(x, np.inf, one, small) / (small + 1.0)


@inline
def silu(x, at, count, y, to):
    """Write x / (1 + exp(-x)) of `count` numbers, a multiple of a vector's."""
    one = splat(x, 1.0)
    for k in range(0, count, BYTES // x.itemsize):
        value = load(x, at + k)
        store(y, to + k, value * _sigmoid(value, one))


@inline
def times_silu_slope(x, at, count, y, to):
    """Multiply `count` numbers of y by the derivative of SiLU at x."""
    one = splat(x, 1.0)
    for k in range(0, count, BYTES // x.itemsize):
        value = load(x, at + k)
        gate = _sigmoid(value, one)
        slope = gate * (one + value * (one - gate))
        store(y, to + k, load(y, to + k) * slope)


# Plain loops over array[at + c] would not become vectors: Numba asks of each index whether it is
# negative.


@inline
def copy(x, at, count, y, to):
    """Copy `count` numbers."""
    lanes = BYTES // x.itemsize
    whole = count // lanes * lanes
    for c in range(0, whole, lanes):
        store(y, to + c, load(x, at + c))
    for c in range(whole, count):
        y[to + c] = x[at + c]


@inline
def copy_scaled(x, at, count, scale, y, to):
    """Write `count` numbers times a factor."""
    lanes = BYTES // x.itemsize
    whole = count // lanes * lanes
    for c in range(0, whole, lanes):
        store(y, to + c, load(x, at + c) * scale)
    for c in range(whole, count):
        y[to + c] = x[at + c] * scale


@inline
def add_scaled(x, at, count, scale, y, to):
    """Add `count` numbers times a factor."""
    lanes = BYTES // x.itemsize
    whole = count // lanes * lanes
    for c in range(0, whole, lanes):
        store(y, to + c, load(y, to + c) + load(x, at + c) * scale)
    for c in range(whole, count):
        y[to + c] += x[at + c] * scale


@inline
def add_two(x, at, other, count, y, to):
    """Add `count` numbers from one place of x, and those from another."""
    lanes = BYTES // x.itemsize
    whole = count // lanes * lanes
    for c in range(0, whole, lanes):
        store(y, to + c, load(y, to + c) + load(x, at + c) + load(x, other + c))
    for c in range(whole, count):
        y[to + c] += x[at + c] + x[other + c]


@inline
def product(x, at, y, to, count):
    """Return the sum of products of `count` numbers."""
    lanes = BYTES // x.itemsize
    whole = count // lanes * lanes
    sums = splat(x, 0.0)
    for c in range(0, whole, lanes):
        sums = sums + load(x, at + c) * load(y, to + c)
    total = lane_sum(sums)
    for c in range(whole, count):
        total += x[at + c] * y[to + c]
    return total


@inline
def zeros(y, to, count):
    """Write `count` zeros, a multiple of a vector's."""
    zero = splat(y, 0.0)
    for c in range(0, count, BYTES // y.itemsize):
        store(y, to + c, zero)


@inline
def clear(y, to, count):
    """Write `count` zeros."""
    for c in range(to, to + count):
        y[c] = 0.0


@inline
def scale(y, to, count, factor):
    """Multiply `count` numbers, a multiple of a vector's, by a factor."""
    for c in range(to, to + count, BYTES // y.itemsize):
        store(y, c, load(y, c) * factor)
