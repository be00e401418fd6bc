"""Sources of a list, copied into a block: rows of numbers become columns, a vector at a time."""

from typing import Any

from llvmlite import ir
from numba.core import types as nb_types
from numba.extending import intrinsic

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, Vec, address_of


@bare_inline
def gather(sites, sources, weights, first, n, width, step, n_rows, block):
    """Copy the listed sources first ... first + n - 1 into the block; return the padded n.

    `sites` holds a row for each source: coordinates, moments, and what fills whole vectors.
    Moments are multiplied by `weights`, if there are any. Sources are added up to a multiple of
    `step`: the last position again, moments of zero.
    """
    lanes = BYTES // block.itemsize
    full = (n + step - 1) // step * step
    for j in range(0, full, lanes):
        for row in range(0, n_rows, lanes):
            copy_transposed(
                sites, sources, first + j, first + n - 1, row, block, row * width + j, width
            )
    if weights.shape[0] > 0:
        for row in range(3, n_rows):
            for j in range(n):
                block[row * width + j] *= weights[first + j]
    for row in range(3, n_rows):
        for j in range(n, full):
            block[row * width + j] = 0.0
    return full


@intrinsic
def copy_transposed(
    typing_context: Any, sites: Any, sources: Any, first: Any, last: Any, column: Any, block: Any,
    place: Any, width: Any,
) -> Any:  # fmt: skip
    """Copy a square of numbers: columns of listed rows of `sites` become rows of the block.

    Row i of the block, at ``place + i * width``, gets the numbers ``sites[s, column + i]`` of the
    sources ``s = sources[first], sources[first + 1], ...``, the one at `last` from there on.
    """
    lane = Vec(block.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word, vector = ir.IntType(64), context.get_value_type(lane)
        rows = context.make_array(sig.args[0])(context, builder, args[0])
        length = builder.extract_value(rows.shape, 1)
        index = context.make_array(sig.args[1])(context, builder, args[1]).data
        align = lane.dtype.bitwidth // 8
        loaded = []
        for k in range(lane.lanes):
            at = builder.add(args[2], ir.Constant(word, k))
            at = builder.select(builder.icmp_signed("<", at, args[3]), at, args[3])
            source = builder.load(builder.gep(index, [at]))
            start = builder.add(builder.mul(source, length), args[4])
            pointer = builder.gep(rows.data, [start])
            value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
            value.align = align
            loaded.append(value)
        for i, value in enumerate(transposed(builder, loaded)):
            at = builder.add(args[6], builder.mul(args[7], ir.Constant(word, i)))
            pointer = address_of(context, builder, sig.args[5], args[5], at, vector)
            builder.store(value, pointer, align=align)
        return context.get_dummy_value()

    integer = nb_types.intp
    signature = nb_types.void(sites, sources, integer, integer, integer, block, integer, integer)
    return signature, codegen


def transposed(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return the columns of as many vectors as each has lanes.

    Each round exchanges groups of `step` lanes between vectors that are `step` apart.
    """
    lanes = len(vectors)
    kind = ir.VectorType(ir.IntType(32), lanes)
    step = 1
    while step < lanes:
        low = [i if i % (2 * step) < step else lanes + i - step for i in range(lanes)]
        high = [i + step if i % (2 * step) < step else lanes + i for i in range(lanes)]
        new = list(vectors)
        for i in range(lanes):
            if i % (2 * step) < step:
                a, b = vectors[i], vectors[i + step]
                new[i] = builder.shuffle_vector(a, b, ir.Constant(kind, low))
                new[i + step] = builder.shuffle_vector(a, b, ir.Constant(kind, high))
        vectors, step = new, 2 * step
    return vectors
