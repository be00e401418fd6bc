"""The inner loop of every translation: one tile of a matrix applied to expansions of eight boxes.

It is a matrix product whose columns lie wherever the boxes are: nothing is gathered or scattered.
A tile is `rows` vectors high (up to three); with eight boxes its sums fill 24 registers.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.simd import FLAGS, Vec, address_of, constant, fill_lanes

BOXES = 8
ROWS = 3


@intrinsic(prefer_literal=True)
def tile(
    typing_context: Any, matrix: Any, start: Any, x: Any, x_starts: Any, y: Any, y_starts: Any,
    first: Any, row: Any, columns: Any, column: Any, n_columns: Any, rows: Any,
) -> Any:  # fmt: skip
    """Add ``matrix tile @ x[box][columns[column : column + n_columns]]`` to ``y[box]``.

    For eight boxes.

    matrix : flat; the tile starts at `start` and holds `rows` vectors per column.
    x_starts, y_starts : first .. first + 7 are where each box's coefficients start in x and y.
    row : offset of the tile's rows within a box's coefficients of y.
    """
    lane = Vec(matrix.dtype)
    height = rows.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        loop = _Loop(context, builder, lane, sig.args)
        zero = constant(loop.vector, 0.0)
        sums = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(height)] for _ in range(BOXES)
        ]
        for box in sums:
            for place in box:
                builder.store(zero, place)
        loop.add_columns(sums, args)
        targets = loop.pointers(args, 4, 5)
        for box, target in zip(sums, targets, strict=True):
            for i, place in enumerate(box):
                loop.add_vector(target, builder.add(args[7], loop.word(i * lane.lanes)), place)
        return context.get_dummy_value()

    integer = types.intp
    signature = types.void(
        matrix, integer, x, x_starts, y, y_starts, integer, integer, columns, integer, integer,
        rows,
    )  # fmt: skip
    return signature, codegen


class _Loop:
    """The loop over a tile's columns being written: addresses, loads and sums."""

    def __init__(self, context: Any, builder: Any, lane: Vec, kinds: Any) -> None:
        self.context, self.builder, self.kinds = context, builder, kinds
        self.vector = context.get_value_type(lane)
        self.align = lane.dtype.bitwidth // 8

    def word(self, number: int) -> Any:
        return ir.Constant(ir.IntType(64), number)

    def pointers(self, args: Any, array: int, starts: int) -> list[Any]:
        """Return where the coefficients of each box start: arguments `array` and `starts`."""
        data, places = (
            self.context.make_array(self.kinds[i])(self.context, self.builder, args[i]).data
            for i in (array, starts)
        )
        boxes = [self.builder.add(args[6], self.word(box)) for box in range(BOXES)]
        indices = [self.builder.load(self.builder.gep(places, [box])) for box in boxes]
        return [self.builder.gep(data, [index]) for index in indices]

    def add_columns(self, sums: list[list[Any]], args: Any) -> None:
        """Add every column of the tile times the boxes' coefficients to their sums."""
        builder, height = self.builder, len(sums[0])
        sources = self.pointers(args, 2, 3)
        columns = self.context.make_array(self.kinds[8])(self.context, builder, args[8]).data
        columns = builder.gep(columns, [args[9]])
        with cgutils.for_range(builder, args[10]) as loop:
            index = builder.load(builder.gep(columns, [loop.index]))
            column = builder.mul(loop.index, self.word(height * self.vector.count))
            column = builder.add(args[1], column)
            entries = [
                self.load(
                    address_of(
                        self.context, builder, self.kinds[0], args[0],
                        builder.add(column, self.word(i * self.vector.count)), self.vector,
                    )
                )
                for i in range(height)
            ]  # fmt: skip
            for box, source in zip(sums, sources, strict=True):
                coefficient = builder.load(builder.gep(source, [index]))
                spread = fill_lanes(builder, coefficient, self.vector)
                for place, entry in zip(box, entries, strict=True):
                    product = builder.fmul(entry, spread, flags=FLAGS)
                    builder.store(builder.fadd(builder.load(place), product, flags=FLAGS), place)

    def load(self, address: Any) -> Any:
        value = self.builder.load(address, typ=self.vector)
        value.align = self.align
        return value

    def add_vector(self, pointer: Any, offset: Any, place: Any) -> None:
        """Add the vector in `place` to what lies `offset` numbers after a pointer."""
        builder = self.builder
        address = builder.gep(pointer, [offset])
        address = builder.bitcast(address, ir.PointerType(self.vector))
        new = builder.fadd(self.load(address), builder.load(place), flags=FLAGS)
        builder.store(new, address, align=self.align)
