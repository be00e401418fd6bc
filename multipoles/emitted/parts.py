"""Coordinates in two parts of float32: what they are relative to an origin, and what is left.

Both parts come from the same operations for sources and targets, none of which LLVM may reorder:
points that coincide have equal parts.
"""

from typing import Any

from llvmlite import ir
from numba.core import types as nb_types
from numba.extending import intrinsic

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.lanes import fill_lanes
from multipoles.compiled.simd import BYTES, address_of


@bare_inline
def split_targets(targets, begin, end, out):
    """Write both parts of targets begin ... end - 1, six numbers each, relative to the first."""
    for i in range(begin, end):
        for axis in range(3):
            whole, rest = parts(targets[i, axis], targets[begin, axis])
            out[6 * (i - begin) + axis] = whole
            out[6 * (i - begin) + 3 + axis] = rest


@intrinsic
def parts(typing_context: Any, value: Any, origin: Any) -> Any:
    """Return a number relative to an origin, rounded to float32, and what is left."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = _parts(builder, args[0], args[1], ir.FloatType())
        return context.make_tuple(builder, sig.return_type, pair)

    return nb_types.UniTuple(nb_types.float32, 2)(nb_types.float64, nb_types.float64), codegen


@intrinsic
def store_parts(
    typing_context: Any, array: Any, index: Any, origin: Any, block: Any, place: Any, rest: Any
) -> Any:
    """Store both parts of a vector of numbers, from ``array.flat[index]`` on, to `block`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = BYTES // 4
        wide = ir.VectorType(ir.DoubleType(), lanes)
        narrow = ir.VectorType(ir.FloatType(), lanes)
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), wide.as_pointer())
        value = builder.load(pointer)
        value.align = 8
        both = _parts(builder, value, fill_lanes(builder, args[2], wide), narrow)
        for part, at in zip(both, args[4:], strict=True):
            address = address_of(context, builder, sig.args[3], args[3], at, narrow)
            builder.store(part, address, align=4)
        return context.get_dummy_value()

    integer = nb_types.intp
    return nb_types.void(array, integer, nb_types.float64, block, integer, integer), codegen


def _parts(builder: Any, value: Any, origin: Any, narrow: Any) -> tuple[Any, Any]:
    """Write the operations, without leave to reorder them."""
    difference = builder.fsub(value, origin)
    whole = builder.fptrunc(difference, narrow)
    left = builder.fsub(difference, builder.fpext(whole, value.type))
    return whole, builder.fptrunc(left, narrow)
