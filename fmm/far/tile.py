"""The inner loop of every translation: one tile of a matrix applied to expansions of eight boxes.

It is a matrix product whose columns lie wherever the boxes are: nothing is gathered or scattered.
A tile is `rows` vectors high (up to three); with eight boxes its sums fill 24 registers.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.simd import FLAGS, Vec, address_of, fill_lanes

BOXES = 8
ROWS = 3


@intrinsic(prefer_literal=True)
def tile(typing_context, matrix, start, x, x_starts, y, y_starts, first, row, n_columns, rows):
    """Add ``matrix tile @ x[box]`` to ``y[box]`` for eight boxes.

    matrix : flat; the tile starts at `start` and holds `rows` vectors per column.
    x_starts, y_starts : first .. first + 7 are where each box's coefficients start in x and y.
    row : offset of the tile's rows within a box's coefficients of y.
    """
    lane = Vec(matrix.dtype)
    height = rows.literal_value
    align = matrix.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        vector = context.get_value_type(lane)
        word = args[1].type
        kinds = dict(zip(("matrix", "x", "xp", "y", "yp"), _arrays(sig.args), strict=True))
        values = dict(zip(("matrix", "x", "xp", "y", "yp"), _arrays(args), strict=True))

        def number(value):
            return ir.Constant(word, value)

        def data(name):
            return context.make_array(kinds[name])(context, builder, values[name]).data

        def starts(name):
            pointers = data(name + "p")
            indices = [
                builder.gep(pointers, [builder.add(args[6], number(b))]) for b in range(BOXES)
            ]
            return [builder.gep(data(name), [builder.load(index)]) for index in indices]

        zero = ir.Constant(vector, [0.0] * vector.count)
        sums = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(height)] for _ in range(BOXES)
        ]
        for box in sums:
            for total in box:
                builder.store(zero, total)
        sources = starts("x")
        with cgutils.for_range(builder, args[8]) as loop:
            column = builder.mul(loop.index, number(height * vector.count))
            column = builder.add(args[1], column)
            entries = []
            for i in range(height):
                index = builder.add(column, number(i * vector.count))
                address = address_of(
                    context, builder, kinds["matrix"], values["matrix"], index, vector
                )
                entry = builder.load(address, typ=vector)
                entry.align = align
                entries.append(entry)
            for box, source in zip(sums, sources, strict=True):
                coefficient = builder.load(builder.gep(source, [loop.index]))
                spread = fill_lanes(builder, coefficient, vector)
                for total, entry in zip(box, entries, strict=True):
                    product = builder.fmul(entry, spread, flags=FLAGS)
                    builder.store(builder.fadd(builder.load(total), product, flags=FLAGS), total)
        for box, target in zip(sums, starts("y"), strict=True):
            for i, total in enumerate(box):
                offset = builder.add(args[7], number(i * vector.count))
                address = builder.bitcast(builder.gep(target, [offset]), ir.PointerType(vector))
                old = builder.load(address, typ=vector)
                old.align = align
                new = builder.fadd(old, builder.load(total), flags=FLAGS)
                builder.store(new, address, align=align)
        return context.get_dummy_value()

    integer = types.intp
    signature = types.void(
        matrix, integer, x, x_starts, y, y_starts, integer, integer, integer, rows
    )
    return signature, codegen


def _arrays(items):
    return items[0], items[2], items[3], items[4], items[5]
