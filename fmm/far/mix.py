"""Loops of translations: coefficients of many boxes side by side, a box in each lane.

`gather` brings the coefficients of boxes into rows, one row for each coefficient; `mix` makes rows
of rows by a small matrix; `scatter` adds rows to the coefficients of boxes. A row holds two
vectors, so that every number of a matrix is loaded for both.
"""

from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.instructions import registers
from multipoles.compiled.lanes import FLAGS, constant, fill_lanes
from multipoles.compiled.simd import BYTES, Vec, address_of
from multipoles.emitted.gather import transposed

#: Vectors of a row.
VECTORS = 2
#: Most rows that `mix` makes at once: their sums stay in registers.
HEIGHT = 8


def _load(builder: Any, address: Any, align: int) -> Any:
    value = builder.load(address)
    value.align = align
    return value


@intrinsic
def gather(
    typing_context: Any, x: Any, starts: Any, first: Any, offset: Any, signs: Any, rows: Any,
    place: Any,
) -> Any:  # fmt: skip
    """Copy a square: of as many boxes as a vector has lanes, as many coefficients.

    Those from `offset` on of the boxes ``first, first + 1, ...``, which begin at `starts` in x,
    times `signs`, become rows of a vector from `place` on.
    """
    lane = Vec(rows.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        square = _Square(context, builder, lane, sig, args)
        signs = square.vector_at(4, args[3])
        values = [
            builder.fmul(_load(builder, address, square.align), signs, flags=FLAGS)
            for address in square.boxes(0)
        ]
        for i, value in enumerate(transposed(builder, values)):
            builder.store(value, square.row(5, args[6], i), align=square.align)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(x, starts, integer, integer, signs, rows, integer), codegen


@intrinsic
def scatter(
    typing_context: Any, y: Any, starts: Any, first: Any, offset: Any, signs: Any, rows: Any,
    place: Any,
) -> Any:  # fmt: skip
    """Add the same square of rows, times `signs`, to the coefficients of boxes in y."""
    lane = Vec(rows.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        square = _Square(context, builder, lane, sig, args)
        signs = square.vector_at(4, args[3])
        rows = [_load(builder, square.row(5, args[6], i), square.align) for i in range(lane.lanes)]
        for address, value in zip(square.boxes(0), transposed(builder, rows), strict=True):
            product = builder.fmul(value, signs, flags=FLAGS)
            total = builder.fadd(_load(builder, address, square.align), product, flags=FLAGS)
            builder.store(total, address, align=square.align)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(y, starts, integer, integer, signs, rows, integer), codegen


class _Square:
    """Addresses of coefficients of boxes, and of rows."""

    def __init__(self, context: Any, builder: Any, lane: Vec, sig: Any, args: Any) -> None:
        self.context, self.builder, self.kinds, self.args = context, builder, sig.args, args
        self.lanes, self.vector = lane.lanes, context.get_value_type(lane)
        self.align = lane.dtype.bitwidth // 8

    def vector_at(self, array: int, index: Any) -> Any:
        """Return the vector from an index of an array on; `array` is its place in the arguments."""
        address = address_of(
            self.context, self.builder, self.kinds[array], self.args[array], index, self.vector
        )
        return _load(self.builder, address, self.align)

    def boxes(self, array: int) -> list[Any]:
        """Return the addresses of the coefficients from the offset on, of each box."""
        builder, word = self.builder, ir.IntType(64)
        starts = self.context.make_array(self.kinds[1])(self.context, builder, self.args[1]).data
        found = []
        for k in range(self.lanes):
            box = builder.add(self.args[2], ir.Constant(word, k))
            start = builder.load(builder.gep(starts, [box]))
            index = builder.add(start, self.args[3])
            found.append(
                address_of(
                    self.context, builder, self.kinds[array], self.args[array], index, self.vector
                )
            )
        return found

    def row(self, array: int, place: Any, i: int) -> Any:
        """Return the address of a vector of the row that is i rows after `place`."""
        at = self.builder.add(place, ir.Constant(ir.IntType(64), i * VECTORS * self.lanes))
        return address_of(
            self.context, self.builder, self.kinds[array], self.args[array], at, self.vector
        )


@intrinsic(prefer_literal=True)
def mix(
    typing_context: Any, matrix: Any, start: Any, x: Any, columns: Any, column: Any, count: Any,
    y: Any, row: Any, height: Any,
) -> Any:  # fmt: skip
    """Write rows ``row, ..., row + height - 1`` of y: a matrix times some rows of x.

    These are ``columns[column : column + count]``; the matrix lies column by column in ``matrix``
    from `start` on.
    """
    tall = height.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar, align = context.get_value_type(x.dtype), x.dtype.bitwidth // 8
        size, count = registers(context)
        vector = ir.VectorType(scalar, size // align)
        data = [
            context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 2, 3, 6)
        ]
        product = _Product(
            builder, vector, tall, builder.gep(data[0], [args[1]]), data[1],
            builder.gep(data[2], [args[4]]), args[5],
        )  # fmt: skip
        length = BYTES // align * VECTORS
        first = builder.mul(args[7], ir.Constant(ir.IntType(64), length))
        most, wide = (12, 2) if count < 32 else (24, 4)
        wide = min(wide, length // vector.count)
        rows = -(-tall // -(-tall // (most // wide)))
        for offset in range(0, length, wide * vector.count):
            for row in range(0, tall, rows):
                places = [offset + v * vector.count for v in range(wide)]
                product.write(range(row, min(row + rows, tall)), places, length, data[3], first)
        return context.get_dummy_value()

    integer = types.intp
    signature = types.void(
        matrix, integer, x, columns, integer, integer, y, integer, height
    )  # fmt: skip
    return signature, codegen


class _Product:
    """Rows of a matrix times rows of x, for as many at once as their sums have registers."""

    def __init__(
        self, builder: Any, vector: Any, tall: int, entries: Any, inputs: Any, indices: Any,
        count: Any,
    ) -> None:  # fmt: skip
        self.builder, self.vector, self.tall, self.count = builder, vector, tall, count
        self.entries, self.inputs, self.indices = entries, inputs, indices
        self.align = 8 if vector.element == ir.DoubleType() else 4

    def write(self, rows: range, offsets: list[int], length: int, outputs: Any, first: Any) -> None:
        """Write the vectors at some offsets of some rows of y, the first of which is at `first`."""
        builder, word = self.builder, ir.IntType(64)
        zero = constant(self.vector, 0.0)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in offsets] for _ in rows]
        for place in chain.from_iterable(sums):
            builder.store(zero, place)
        with cgutils.for_range(builder, self.count) as loop:
            index = builder.load(builder.gep(self.indices, [loop.index]))
            base = builder.gep(self.inputs, [builder.mul(index, ir.Constant(word, length))])
            values = [
                _load(builder, _vector(builder, base, offset, self.vector), self.align)
                for offset in offsets
            ]
            start = builder.mul(loop.index, ir.Constant(word, self.tall))
            here = builder.gep(self.entries, [start])
            for r, places in zip(rows, sums, strict=True):
                entry = builder.load(builder.gep(here, [ir.Constant(word, r)]))
                spread = fill_lanes(builder, entry, self.vector)
                for value, place in zip(values, places, strict=True):
                    product = builder.fmul(spread, value, flags=FLAGS)
                    builder.store(builder.fadd(builder.load(place), product, flags=FLAGS), place)
        base = builder.gep(outputs, [first])
        for r, places in zip(rows, sums, strict=True):
            for offset, place in zip(offsets, places, strict=True):
                address = _vector(builder, base, r * length + offset, self.vector)
                builder.store(builder.load(place), address, align=self.align)


def _vector(builder: Any, base: Any, offset: int, vector: Any) -> Any:
    """Return the address of the vector so many numbers after a pointer."""
    pointer = builder.gep(base, [ir.Constant(ir.IntType(64), offset)])
    return builder.bitcast(pointer, ir.PointerType(vector))
