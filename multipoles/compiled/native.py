"""Functions of users that compiled loops call by their address.

Loops are compiled once and kept on disk, and know nothing of a function that a user writes; its
machine code is made in every process anew (a fraction of a second), since nothing tells when a file
of the user's, or one that it imports, has changed.
"""

import threading
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from multipoles.indexing import MAX_TOTAL_ORDER

# links that there is room for, and some more, lest a slip of a user's end the process
_ROOM = MAX_TOTAL_ORDER + 8

_REALS = types.CPointer(types.float64)
_SIGNATURE = types.void(types.float64, _REALS, types.intp, _REALS)
# numba's type stubs do not know its options
_cfunc: Any = numba.cfunc
# the compiled functions, which live as long as the process
_compiled: dict[Callable[..., Any], Any] = {}
_lock = threading.Lock()


def address_of_chain(function: Callable[..., Any]) -> int:
    """Return the address of ``function(r2, parameters, last, out)``, compiled when first asked for.

    Raises
    ------
    TypeError
        If Numba cannot compile it.
    """
    with _lock:
        if function not in _compiled:
            try:
                # plain arithmetic: a user's sums are not to be reordered
                compiled = _cfunc(_SIGNATURE, error_model="numpy")(function)
            except (NumbaError, TypeError) as error:  # the latter for a wrong number of arguments
                raise TypeError(
                    f"{function.__module__}.{function.__qualname__}: Numba cannot compile it; "
                    f"expected a function of numbers (r2, parameters, last, out): {error}"
                ) from error
            _compiled[function] = compiled
        return int(_compiled[function].address)


@intrinsic
def call_chain(typing_context, address, r2, parameters, last):
    """Call such a function; return where it wrote its links, which the next call overwrites."""

    def codegen(context, builder, sig, args):
        real = ir.DoubleType()
        integer = context.get_value_type(types.intp)
        scratch = cgutils.alloca_once(builder, real, size=ir.Constant(integer, _ROOM))
        data = context.make_array(sig.args[2])(context, builder, args[2]).data
        kind = ir.FunctionType(ir.VoidType(), [real, real.as_pointer(), integer, real.as_pointer()])
        function = builder.inttoptr(args[0], kind.as_pointer())
        number = context.cast(builder, args[1], sig.args[1], types.float64)
        count = context.cast(builder, args[3], sig.args[3], types.intp)
        # what a function leaves out, or loses by an exception, is no plausible number
        nothing = ir.Constant(real, float("nan"))
        links = builder.add(count, integer(1))
        with cgutils.for_range(builder, links, intp=integer) as loop:
            builder.store(nothing, builder.gep(scratch, [loop.index]))
        builder.call(function, [number, data, count, scratch])
        return scratch

    return _REALS(address, r2, parameters, last), codegen
