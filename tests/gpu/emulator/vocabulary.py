"""The members of what stands for `numba.cuda` in kernels compiled for the CPU."""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from emulator import language
from emulator.language import Namespace, Register, read, small

_i32, _i64 = ir.IntType(32), ir.IntType(64)

# --- atomic operations: one thread runs at a time -------------------------------------------------


def _atomic(combine):
    combine = small(combine)

    def update(array, place, value):
        old = array[place]
        array[place] = combine(old, value)
        return old

    return small(update)


def _compare_and_swap(array, old, value):
    found = array[0]
    if found == old:
        array[0] = value
    return found


def _cas(array, place, old, value):
    found = array[place]
    if found == old:
        array[place] = value
    return found


_ATOMIC = Namespace(
    "cuda.atomic",
    add=_atomic(lambda a, b: a + b),
    sub=_atomic(lambda a, b: a - b),
    max=_atomic(lambda a, b: max(a, b)),
    min=_atomic(lambda a, b: min(a, b)),
    and_=_atomic(lambda a, b: a & b),
    or_=_atomic(lambda a, b: a | b),
    xor=_atomic(lambda a, b: a ^ b),
    exch=_atomic(lambda a, b: b),
    inc=_atomic(lambda a, b: 0 if a >= b else a + 1),
    dec=_atomic(lambda a, b: b if a == 0 or a > b else a - 1),
    compare_and_swap=small(_compare_and_swap),
    cas=small(_cas),
)


# --- bits and numbers -----------------------------------------------------------------------------


def _of_bits(write):
    @intrinsic
    def count(context, value):
        def codegen(context, builder, sig, args):
            found = write(builder, args[0])
            return found if found.type == _i32 else builder.trunc(found, _i32)

        return types.int32(value), codegen

    return count


def _first_set(builder, value):
    """Return the place of the lowest bit that is set, from one; zero if there is none."""
    zero = value.type(0)
    place = builder.add(builder.cttz(value, ir.IntType(1)(0)), value.type(1))
    return builder.select(builder.icmp_unsigned("==", value, zero), zero, place)


@intrinsic
def _brev(context, value):
    def codegen(context, builder, sig, args):
        return builder.bitreverse(args[0])

    return value(value), codegen


@small
def rsqrtf(x):
    """Return 1/sqrt in float32."""
    return np.float32(1.0) / np.sqrt(np.float32(x))


@small
def rsqrt(x):
    """Return 1/sqrt in float64."""
    return 1.0 / np.sqrt(np.float64(x))


@small
def _selp(condition, one, other):
    return one if condition else other


@small
def _fma(a, b, c):
    return a * b + c


def _place(name, first):
    return Namespace(f"cuda.{name}", **{axis: Register(first + k) for k, axis in enumerate("xyz")})


_thread, _block = _place("threadIdx", 0), _place("blockIdx", 3)
_block_size, _grid_size = _place("blockDim", 6), _place("gridDim", 9)


def _over_grid(write):
    """Return the function that gives an integer along one axis, or a tuple along two or three."""

    @intrinsic(prefer_literal=True)
    def grid(context, ndim):
        n = getattr(ndim, "literal_value", None)
        if n is None:
            return None

        def codegen(context, builder, sig, args):
            found = []
            for axis in range(n):
                thread, block, size, blocks = (
                    builder.sext(read(builder, 3 * k + axis), _i64) for k in range(4)
                )
                found.append(write(builder, thread, block, size, blocks))
            return found[0] if n == 1 else cgutils.pack_array(builder, found)

        return (types.int64 if n == 1 else types.UniTuple(types.int64, n))(ndim), codegen

    return grid


cuda = Namespace(
    "cuda",
    threadIdx=_thread,
    blockIdx=_block,
    blockDim=_block_size,
    gridDim=_grid_size,
    laneid=Register(12),
    grid=_over_grid(lambda b, thread, block, size, _: b.add(b.mul(block, size), thread)),
    gridsize=_over_grid(lambda b, thread, block, size, blocks: b.mul(size, blocks)),
    warpsize=32,
    syncthreads=language.syncthreads,
    syncthreads_count=language.voted_by_block(language.COUNT),
    syncthreads_and=language.voted_by_block(language.AND),
    syncthreads_or=language.voted_by_block(language.OR),
    syncwarp=language.syncwarp,
    shfl_sync=language.exchanged(language.SHUFFLE),
    shfl_up_sync=language.exchanged(language.UP),
    shfl_down_sync=language.exchanged(language.DOWN),
    shfl_xor_sync=language.exchanged(language.XOR),
    all_sync=language.voted_by_warp(language.ALL),
    any_sync=language.voted_by_warp(language.ANY),
    eq_sync=language.voted_by_warp(language.EQUAL),
    ballot_sync=language.voted_by_warp(language.BALLOT, types.uint32),
    match_any_sync=language.voted_by_warp(language.MATCH_ANY, types.uint32),
    activemask=language.activemask,
    lanemask_lt=language.lanemask_lt,
    threadfence=language.nothing,
    threadfence_block=language.nothing,
    threadfence_system=language.nothing,
    shared=Namespace("cuda.shared", array=language.maker(language.of_block)),
    local=Namespace("cuda.local", array=language.maker(language.of_thread)),
    atomic=_ATOMIC,
    popc=_of_bits(lambda builder, value: builder.ctpop(value)),
    clz=_of_bits(lambda builder, value: builder.ctlz(value, ir.IntType(1)(0))),
    ffs=_of_bits(_first_set),
    brev=_brev,
    selp=_selp,
    fma=_fma,
    libdevice=Namespace("cuda.libdevice", rsqrtf=rsqrtf, rsqrt=rsqrt),
)
