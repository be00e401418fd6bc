"""Functions for kernels of products: wide stores, and code that is written out for each of a few.

The loads are those of `multipoles.compiled.cuda_access`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from multipoles.compiled.cuda_access import WIDEST
from multipoles.compiled.cuda_kernels import Access, Device


@cache
def wide_storer(n: int) -> Access:
    """Return the function for kernels that writes n numbers at once, ``store(array, place, v)``.

    Places must be multiples of n, a power of two.
    """

    @cache
    def compiled() -> Any:
        from llvmlite import ir
        from numba.cuda import cgutils, types
        from numba.cuda.extending import intrinsic

        @intrinsic
        def store(typing_context: Any, array: Any, place: Any, values: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                kind = context.get_data_type(array.dtype)
                width = min(n, 8 * WIDEST // array.dtype.bitwidth)
                vector = ir.VectorType(kind, width)
                data = context.make_array(array)(context, builder, args[0]).data
                numbers = cgutils.unpack_tuple(builder, args[2])
                for first in range(0, n, width):
                    wide = ir.Constant(vector, ir.Undefined)
                    for lane in range(width):
                        at = ir.Constant(ir.IntType(32), lane)
                        wide = builder.insert_element(wide, numbers[first + lane], at)
                    place = builder.add(args[1], args[1].type(first))
                    pointer = builder.gep(data, [place], inbounds=True)
                    there = builder.bitcast(pointer, vector.as_pointer(data.type.addrspace))
                    written = builder.store(wide, there)
                    written.align = width * array.dtype.bitwidth // 8
                return context.get_dummy_value()

            return types.void(array, types.intp, values), codegen

        return store

    lines = "".join(f"    a[i + {k}] = v[{k}]\n" for k in range(n))
    return Access(written_out(f"def store(a, i, v):\n{lines}"), compiled)


def repeated(n: int, arguments: str, item: str, **scope: Any) -> Device:
    """Return the function for kernels that makes a tuple of n expressions, one for each ``{j}``.

    Parameters
    ----------
    n : int
    arguments : str
        Names of the function's arguments.
    item : str
        Expression with ``{j}`` for the number of the item.
    **scope
        What else the expression knows.
    """
    items = "".join(f"{item.format(j=j)}, " for j in range(n))
    return Device(written_out(f"def make({arguments}):\n    return ({items})", **scope))


def written_out(source: str, **scope: Any) -> Callable[..., Any]:
    """Return the function that a text defines."""
    exec(source, scope)
    function: Callable[..., Any] = next(
        value for name, value in scope.items() if source.startswith(f"def {name}(")
    )
    return function
