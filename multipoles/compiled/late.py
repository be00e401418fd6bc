"""Functions that compiled loops call through a table, each compiled when it is first called.

A loop that calls another compiled function has that function's machine code in its own: loops that
serve all radial kernels would have the chains of all in them, each several times as long to compile
as the loop. Here loops know the address of a table, by the name of a symbol; its entries are first
functions of Python, which compile what they stand for, put it in their place and call it.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_WORD, _POINTER = ctypes.c_int64, ctypes.c_void_p
# how Numba passes an array: two owners, number of items and bytes of one, data, shape, stride
_ARRAY = (_POINTER, _POINTER, _WORD, _WORD, _POINTER, _WORD, _WORD)
# status; places of the result and of an exception, code, parameters, last, chain
_Native = ctypes.CFUNCTYPE(ctypes.c_int32, _POINTER, _POINTER, _WORD, *_ARRAY, _WORD, *_ARRAY)
# places of the chain's number of items, of the bytes of one, and of its data, among the arguments
_ITEMS, _BYTES, _DATA = 13, 14, 15
_REALS = (types.float64, types.float32)
# tables and what they hold first live as long as the loops that know their addresses
_kept: list[Any] = []


def _signature(real: Any) -> tuple[Any, ...]:
    """Return the types of code, parameters, last and chain."""
    parameters = types.Array(types.float64, 1, "C", readonly=True)
    return types.intp, parameters, types.intp, types.Array(real, 1, "C")


def late(symbol: str, functions: Sequence[Any]) -> Any:
    """Return a function (entry, code, parameters, last, chain) for loops, which calls one of many.

    Parameters
    ----------
    symbol : str
        Name of the table, of which the process has one.
    functions : sequence
        Compiled functions (code, parameters, last, chain), one for each entry: ``parameters`` is a
        contiguous array of float64, ``chain`` one of float64 or float32.
    """
    size = len(functions) * len(_REALS)
    table = (_POINTER * size)()
    stubs = [
        _stub(table, len(_REALS) * entry + k, function, _signature(real))
        for entry, function in enumerate(functions)
        for k, real in enumerate(_REALS)
    ]
    _kept.append((table, stubs))
    table[:] = [ctypes.cast(stub, _POINTER).value for stub in stubs]
    llvmlite.binding.add_symbol(symbol, ctypes.addressof(table))

    @intrinsic
    def call(
        typing_context: Any, entry: Any, code: Any, parameters: Any, last: Any, chain: Any
    ) -> Any:
        native = _signature(chain.dtype)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = context.call_conv.get_function_type(types.none, native)
            data = _global(builder.module, symbol, ir.ArrayType(ir.PointerType(kind), size))
            place = builder.mul(args[0], args[0].type(len(_REALS)))
            place = builder.add(place, args[0].type(_REALS.index(chain.dtype)))
            address = builder.gep(data, [place.type(0), place])
            function = builder.load(address, typ=ir.PointerType(kind))
            context.call_conv.call_function(builder, function, types.none, native, args[1:])
            return context.get_dummy_value()

        return types.none(types.intp, types.intp, parameters, types.intp, chain), codegen

    return call


def _stub(table: Any, place: int, function: Any, signature: tuple[Any, ...]) -> Any:
    """Return what stands in the table until a function is called."""

    def compile_and_call(*arguments: Any) -> int:
        try:
            function.compile(signature)
            compiled = function.overloads[signature]
            name = compiled.fndesc.llvm_func_name
            address = compiled.library.get_pointer_to_function(name)
        except BaseException:
            # nothing can be raised through a loop: what was to be written is no plausible number
            ctypes.memset(arguments[_DATA], 0xFF, arguments[_ITEMS] * arguments[_BYTES])
            raise
        table[place] = address
        return int(_Native(address)(*arguments))

    return _Native(compile_and_call)


def _global(module: Any, symbol: str, kind: Any) -> Any:
    """Return the table as loops know it."""
    known = module.globals.get(symbol)
    return known if known is not None else ir.GlobalVariable(module, kind, symbol)
