"""Functions for kernels that read and write numbers of an array as tuples, or make such tuples.

In the simulator they are plain Python; on a device those that read and write are LLVM's
instructions (`multipoles.compiled.cuda_kernels.Access`).
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from multipoles.compiled.cuda_kernels import Access, Device

# bytes of the widest load: shared arrays that are read so start at multiples of it
WIDEST = 16


@cache
def loader(n: int, aligned: int = 1) -> Access:
    """Return the function for kernels that reads n numbers, ``load(array, place)``.

    Places that are multiples of `aligned` allow wider loads.
    """

    @cache
    def compiled() -> Any:
        from llvmlite import ir
        from numba.cuda import types
        from numba.cuda.extending import intrinsic

        @intrinsic
        def load(typing_context: Any, array: Any, place: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                kind = context.get_data_type(array.dtype)
                width = min(8 * WIDEST // array.dtype.bitwidth, aligned)
                values = []
                for first in range(0, n, width):
                    count = min(width, n - first)
                    pointer = _address(context, builder, array, args, first)
                    if count < width or width == 1:
                        for k in range(first, first + count):
                            pointer = _address(context, builder, array, args, k)
                            values.append(builder.load(pointer, typ=kind))
                        continue
                    vector = ir.VectorType(kind, width)
                    wide = builder.load(builder.bitcast(pointer, vector.as_pointer()), typ=vector)
                    wide.align = width * array.dtype.bitwidth // 8
                    lanes = [ir.Constant(ir.IntType(32), k) for k in range(width)]
                    values += [builder.extract_element(wide, lane) for lane in lanes]
                return context.make_tuple(builder, sig.return_type, values)

            return types.UniTuple(array.dtype, n)(array, types.intp), codegen

        return load

    items = "".join(f"a[i + {k}], " for k in range(n))
    return Access(_made(f"def load(a, i):\n    return ({items})", "load"), compiled, aligned)


@cache
def storer(n: int) -> Access:
    """Return the function for kernels that writes n numbers, ``store(array, place, tuple)``."""

    @cache
    def compiled() -> Any:
        from numba.cuda import cgutils, types
        from numba.cuda.extending import intrinsic

        @intrinsic
        def store(typing_context: Any, array: Any, place: Any, values: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                for k, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
                    builder.store(value, _address(context, builder, array, args, k))
                return context.get_dummy_value()

            return types.void(array, types.intp, values), codegen

        return store

    lines = "".join(f"    a[i + {k}] = v[{k}]\n" for k in range(n))
    return Access(_made(f"def store(a, i, v):\n{lines}", "store"), compiled)


@cache
def row_loader(n: int) -> Access:
    """Return the function that reads n numbers a step apart, ``load(array, place, step)``."""

    @cache
    def compiled() -> Any:
        from numba.cuda import types
        from numba.cuda.extending import intrinsic

        @intrinsic
        def load(typing_context: Any, array: Any, place: Any, step: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                kind = context.get_data_type(array.dtype)
                values = [
                    builder.load(pointer, typ=kind)
                    for pointer in _rows(context, builder, array, args, n)
                ]
                return context.make_tuple(builder, sig.return_type, values)

            return types.UniTuple(array.dtype, n)(array, types.intp, types.intp), codegen

        return load

    items = "".join(f"a[i + {k} * step], " for k in range(n))
    return Access(_made(f"def load(a, i, step):\n    return ({items})", "load"), compiled)


@cache
def row_storer(n: int) -> Access:
    """Return the function that writes n numbers a step apart, ``store(array, place, step, v)``."""

    @cache
    def compiled() -> Any:
        from numba.cuda import cgutils, types
        from numba.cuda.extending import intrinsic

        @intrinsic
        def store(typing_context: Any, array: Any, place: Any, step: Any, values: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                rows = _rows(context, builder, array, args, n)
                for value, pointer in zip(
                    cgutils.unpack_tuple(builder, args[3]), rows, strict=True
                ):
                    builder.store(value, pointer)
                return context.get_dummy_value()

            return types.void(array, types.intp, types.intp, values), codegen

        return store

    lines = "".join(f"    a[i + {k} * step] = v[{k}]\n" for k in range(n))
    return Access(_made(f"def store(a, i, step, v):\n{lines}", "store"), compiled)


def _rows(context: Any, builder: Any, array: Any, args: Any, n: int) -> Iterator[Any]:
    """Yield the addresses of n numbers a step apart."""
    pointer = _address(context, builder, array, args, 0)
    for k in range(n):
        if k:
            pointer = builder.gep(pointer, [args[2]], inbounds=True)
        yield pointer


def _address(context: Any, builder: Any, array: Any, args: Any, offset: int) -> Any:
    """Return the address of the number `offset` after the place of an access."""
    data = context.make_array(array)(context, builder, args[0]).data
    place = builder.gep(data, [args[1]], inbounds=True)
    return builder.gep(place, [args[1].type(offset)], inbounds=True) if offset else place


@cache
def zeros(n: int) -> Device:
    """Return the function for kernels that makes a tuple of n zeros."""
    return Device(_made(f"def make():\n    return ({'0.0, ' * n})", "make"))


def _made(source: str, name: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(source, scope)
    function: Callable[..., Any] = scope[name]
    return function
