"""Kernels compiled for the CPU: copies of their functions with helpers and constants exchanged.

What `multipoles.compiled.cuda_kernels.retargeted` does for a device is done here with what stands
for `numba.cuda` (`language`, `vocabulary`).
"""

from types import CellType, FunctionType
from uuid import uuid4

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from emulator import language, vocabulary
from multipoles.compiled import cuda_kernels

# machine code calls other machine code by name, and some comes from the files of other processes
_PROCESS = uuid4().hex[:12]
_I64 = ir.IntType(64)
_made = {}


def copied(function, dtype):
    """Return a copy of a function whose real numbers have one type, with the CPU's helpers."""
    scope = dict(function.__globals__)
    for name in cuda_kernels._names(function.__code__) & scope.keys():
        scope[name] = _converted(scope[name], dtype)
    cells = tuple(
        CellType(_converted(cell.cell_contents, dtype)) for cell in function.__closure__ or ()
    )
    code = cuda_kernels._typed(function.__code__, dtype)
    copy = FunctionType(code, scope, function.__name__, function.__defaults__, cells)
    copy.__qualname__ = f"{function.__qualname__}_{_PROCESS}_{len(_made)}"
    copy.__module__ = function.__module__
    return copy


def _converted(value, dtype):
    """Return what stands for a global or a variable of the closure in the copy."""
    if value is cuda_kernels.cuda:
        return vocabulary.cuda
    for original, other in cuda_kernels._substitutes:
        if value is original:
            return _helper(other, dtype)
    if isinstance(value, cuda_kernels.Real):
        return dtype.type
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return value.astype(dtype)
    if isinstance(value, cuda_kernels.Device):
        return _helper(value, dtype)
    if hasattr(value, "plain"):
        return value
    if hasattr(value, "py_func"):
        return _once(value.py_func, dtype, language.small)
    return cuda_kernels._number(value, dtype)


def _once(function, dtype, compile_):
    key = function, dtype, language.is_checked()
    if key not in _made:
        _made[key] = None  # the name of the copy counts it
        _made[key] = compile_(copied(function, dtype))
    return _made[key]


def _helper(device, dtype):
    if device is cuda_kernels.positive_rsqrt:
        return vocabulary.rsqrtf if dtype == np.float32 else vocabulary.rsqrt
    if isinstance(device, cuda_kernels.Access):
        return _once(device.function, dtype, _access(device))
    # inlined before types are found, as on the device: shared memory is the kernel's, and integers
    # that are known when compiling stay so
    return _once(device.function, dtype, numba.njit(**language.OPTIONS, inline="always"))


def _access(device):
    """Return what compiles a function that reads or writes at a place of an array."""
    if not language.is_checked():
        return language.small
    aligned = device.aligned

    def compile_(function):
        plain = language.small(function)
        if function.__code__.co_argcount == 2:
            return language.small(lambda a, i: plain(a, checked_place(a, i, aligned)))
        if function.__code__.co_argcount == 3:
            return language.small(lambda a, i, v: plain(a, checked_place(a, i, aligned), v))
        return language.small(lambda a, i, s, v: plain(a, checked_place(a, i, aligned), s, v))

    return compile_


@intrinsic
def checked_place(context, array, place, aligned):
    """Return a place for an access, which is not negative; its address must be a multiple."""

    def codegen(context, builder, sig, args):
        place = context.cast(builder, args[1], sig.args[1], types.int64)
        with builder.if_then(builder.icmp_signed("<", place, _I64(0)), likely=False):
            language.call(builder, language.BAD_INDEX, 0, place, 0)
        data = context.make_array(array)(context, builder, args[0]).data
        address = builder.ptrtoint(builder.gep(data, [place]), _I64)
        size = array.dtype.bitwidth // 8
        wide = context.cast(builder, args[2], sig.args[2], types.int64)
        wide = builder.mul(wide, _I64(size))
        wide = builder.select(builder.icmp_signed(">", wide, _I64(16)), _I64(16), wide)
        off = builder.icmp_signed("!=", builder.srem(address, wide), _I64(0))
        with builder.if_then(off, likely=False):
            language.call(builder, language.BAD_ADDRESS, address, wide)
        return place

    return types.int64(array, place, aligned), codegen


def bounds(context, builder, index, length, axis=None):
    """Write the check of an index of an array; stands for Numba's, which raises."""
    wide = [builder.sext(v, _I64) if v.type != _I64 else v for v in (index, length)]
    # an unsigned comparison finds negative ones too
    with builder.if_then(builder.icmp_unsigned(">=", *wide), likely=False):
        where = axis if axis is not None else 0
        language.call(builder, language.BAD_INDEX, where, *wide)


def entry(function, dtype, kinds, checked):
    """Compile a kernel for arguments of some types.

    Returns
    -------
    cfunc : numba's C callback
        Takes the address of arguments as the driver is given them, in words of 8 bytes: a number
        is one; an array is two of no use, size, size of a number, pointer, shape and strides.
    poison : bytes
        What a block's memory holds when it begins.
    """
    kept = cgutils.do_boundscheck
    cgutils.do_boundscheck = bounds
    try:
        with language.compiling(checked) as shared:
            options = language.OPTIONS | {"boundscheck": checked}
            kernel = numba.njit(**options, forceinline=True)(copied(function, dtype))
            unpack = _unpacker(kinds)

            def run(packed):
                kernel(*unpack(packed))

            run.__qualname__ = f"emulated_{function.__qualname__}_{_PROCESS}_{len(_made)}"
            _made[run] = None
            options = {k: v for k, v in options.items() if not k.startswith("no_")}
            return numba.cfunc(types.void(types.int64), **options)(run), bytes(shared.poison)
    finally:
        cgutils.do_boundscheck = kept


def _unpacker(kinds):
    result = types.Tuple(kinds)

    @intrinsic
    def unpack(context, packed):
        def codegen(context, builder, sig, args):
            def load(word, kind):
                address = builder.add(args[0], _I64(8 * word))
                return builder.load(builder.inttoptr(address, kind.as_pointer()), typ=kind)

            values, word = [], 0
            for kind in kinds:
                if not isinstance(kind, types.Array):
                    data = load(word, context.get_data_type(kind))
                    values.append(context.data_model_manager[kind].from_data(builder, data))
                    word += 1
                    continue
                data = load(word + 4, context.get_data_type(kind.dtype).as_pointer())
                lengths = [load(word + 5 + k, _I64) for k in range(kind.ndim)]
                values.append(language.array_at(context, builder, kind, lengths, data))
                word += 5 + 2 * kind.ndim
            return context.make_tuple(builder, result, values)

        return result(packed), codegen

    return unpack
