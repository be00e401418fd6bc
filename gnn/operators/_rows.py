"""Rows of channels as tuples of vectors: how the loops over edges read and write arrays.

Row i of an edge or node starts at offset + i * channels. Of the last block of channels only the
first `width` lanes may be touched: there `masked` is one.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.lanes import FLAGS, constant, fill_lanes
from multipoles.compiled.simd import Vec, address_of


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
        zero = constant(vector, 0.0)
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
        zero = constant(vector, 0.0)
        return context.make_tuple(builder, sig.return_type, [zero] * count.literal_value)

    return result(array, count), codegen
