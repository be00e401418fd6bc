"""What stands for `numba.cuda` in kernels compiled for the CPU.

The registers of a thread and its block's memory lie at fixed addresses (see blocks.c); barriers and
exchanges are calls of functions whose pointers lie there too.
"""

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.lowering import BaseLower
from numba.core.typing.npydecl import parse_dtype
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    register_model,
    typeof_impl,
)
from numba.np.arrayobj import populate_array

STATE = 0x6E0000000000
SHARED = STATE + (1 << 16)
# what a block may have without asking for more; blocks.c has room for this and more
MOST_SHARED = 48 * 1024
_FUNCTIONS = STATE + 14 * 4
_SYNC_BLOCK, _SYNC_WARP, _ACTIVE, BAD_INDEX, BAD_ADDRESS = range(5)
_i32, _i64 = ir.IntType(32), ir.IntType(64)

# no effect on results but those of rounding
FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
OPTIONS = {
    "nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "no_cfunc_wrapper": True,
    "no_cpython_wrapper": True, "_nrt": False,
}  # fmt: skip


def small(function):
    """Compile a function that is inlined where it is called."""
    return numba.njit(**OPTIONS, forceinline=True)(function)


@dataclass
class Shared:
    """The memory of a block, as a kernel that is being compiled declares it."""

    poison: bytearray = field(default_factory=bytearray)

    def place(self, dtype, count, alignment):
        """Return the address of an array, and let it hold what nobody would take for results."""
        start = -len(self.poison) % max(alignment, dtype.itemsize) + len(self.poison)
        item = np.array(np.nan, dtype) if dtype.kind == "f" else None
        filled = item.tobytes() * count if item is not None else b"\xee" * (count * dtype.itemsize)
        self.poison.extend(b"\xee" * (start - len(self.poison)))
        self.poison.extend(filled)
        if len(self.poison) > MOST_SHARED:
            raise MemoryError(
                f"expected at most {MOST_SHARED} bytes of shared memory, got {len(self.poison)}"
            )
        return SHARED + start


_shared = [Shared()]
_checked = [False]


@contextmanager
def compiling(checked):
    """Collect the shared memory of the kernel that is compiled inside; let it check its indices."""
    _shared.append(Shared())
    _checked.append(checked)
    try:
        yield _shared[-1]
    finally:
        _shared.pop()
        _checked.pop()


def is_checked():
    """Tell whether what is compiled now is to check its indices."""
    return _checked[-1]


# --- names with values that machine code reads ----------------------------------------------------


@dataclass(frozen=True)
class Register:
    """A 32-bit integer of the thread."""

    index: int


class Namespace:
    """Stands for a module, with registers among its members."""

    def __init__(self, name, **members):
        self._name = name
        self.members = {key.removesuffix("__"): value for key, value in members.items()}
        self.__dict__.update(self.members)


class NamespaceType(types.Dummy):
    def __init__(self, namespace):
        self.namespace = namespace
        super().__init__(f"emulated({namespace._name})")


register_model(NamespaceType)(models.OpaqueModel)


@typeof_impl.register(Namespace)
def _type_of_namespace(value, context):
    return NamespaceType(value)


@infer_getattr
class _Members(AttributeTemplate):
    key = NamespaceType

    def generic_resolve(self, typ, attr):
        if attr not in typ.namespace.members:
            raise NotImplementedError(f"the emulator has no {typ.namespace._name}.{attr}")
        member = typ.namespace.members[attr]
        if isinstance(member, Register | int):
            return types.int32
        return self.context.resolve_value_type(member)


@lower_getattr_generic(NamespaceType)
def _read_member(context, builder, typ, value, attr):
    member = typ.namespace.members[attr]
    if isinstance(member, Register):
        return read(builder, member.index)
    if isinstance(member, int):
        return context.get_constant(types.int32, member)
    return context.get_dummy_value()


def read(builder, index):
    """Write what reads a register."""
    return builder.load(_pointer(STATE + 4 * index, _i32), typ=_i32)


def _pointer(address, kind):
    return ir.Constant(_i64, address).inttoptr(kind.as_pointer())


# --- calls ----------------------------------------------------------------------------------------


def call(builder, slot, *arguments):
    """Write a call of a function of blocks.c, with the line that is compiled as last argument."""
    values = [a if isinstance(a, ir.Value) else _i64(a) for a in (*arguments, _line())]
    wide = [v if v.type == _i64 else builder.zext(v, _i64) for v in values]
    kind = ir.FunctionType(_i64, [_i64] * len(wide))
    place = _pointer(_FUNCTIONS + 8 * slot, kind.as_pointer())
    return builder.call(builder.load(place, typ=kind.as_pointer()), wide)


def _line():
    """Return the line of the source that Numba is compiling."""
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, BaseLower) and getattr(found, "loc", None) is not None:
            return found.loc.line
        frame = frame.f_back
    return 0


NOTHING, COUNT, AND, OR, SHUFFLE, UP, DOWN, XOR, ALL, ANY, EQUAL, BALLOT = range(12)
MATCH_ANY, MATCH_ALL = 12, 13


@intrinsic
def syncthreads(context):
    def codegen(context, builder, sig, args):
        call(builder, _SYNC_BLOCK, NOTHING, 0)
        return context.get_dummy_value()

    return types.void(), codegen


def voted_by_block(kind):
    @intrinsic
    def vote(context, predicate):
        def codegen(context, builder, sig, args):
            found = call(
                builder, _SYNC_BLOCK, kind, context.cast(builder, args[0], sig.args[0], types.int64)
            )
            return builder.trunc(found, _i32)

        return types.int32(predicate), codegen

    return vote


@intrinsic
def syncwarp(context, mask=None):
    def codegen(context, builder, sig, args):
        some = 0xFFFFFFFF
        if sig.args[0] is not types.none:
            some = context.cast(builder, args[0], sig.args[0], types.int64)
        call(builder, _SYNC_WARP, NOTHING, some, 0, 0)
        return context.get_dummy_value()

    return types.void(types.none if mask is None else mask), codegen


def exchanged(kind):
    @intrinsic
    def exchange(context, mask, value, other):
        if value not in (types.int32, types.int64, types.float32, types.float64):
            raise TypeError(f"shuffles take integers and reals of 32 or 64 bits, got {value}")

        def codegen(context, builder, sig, args):
            mask, other = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (0, 2))
            own, bits = args[1], ir.IntType(value.bitwidth)
            if isinstance(value, types.Float):
                own = builder.bitcast(own, bits)
            found = call(builder, _SYNC_WARP, kind, mask, own, other)
            if value.bitwidth == 32:
                found = builder.trunc(found, bits)
            if isinstance(value, types.Float):
                return builder.bitcast(found, context.get_value_type(value))
            return found

        return value(mask, value, other), codegen

    return exchange


def voted_by_warp(kind, result=types.boolean):
    @intrinsic
    def vote(context, mask, predicate):
        def codegen(context, builder, sig, args):
            mask, own = (
                context.cast(builder, a, t, types.int64)
                for a, t in zip(args, sig.args, strict=True)
            )
            found = call(builder, _SYNC_WARP, kind, mask, own, 0)
            if result is types.boolean:
                return builder.icmp_unsigned("!=", found, _i64(0))
            return builder.trunc(found, _i32)

        return result(mask, predicate), codegen

    return vote


@intrinsic
def activemask(context):
    def codegen(context, builder, sig, args):
        return builder.trunc(call(builder, _ACTIVE), _i32)

    return types.uint32(), codegen


_lane = Namespace("lane", id=Register(12))


@small
def lanemask_lt():
    return np.uint32((1 << _lane.id) - 1)


@small
def nothing():
    pass


# --- arrays of a block and of a thread ------------------------------------------------------------


def _declared(shape, dtype):
    """Return the type of an array and its shape, which must be known when compiling."""
    items = [shape] if isinstance(shape, types.Integer) else list(shape)
    if not all(isinstance(item, types.IntegerLiteral) for item in items):
        return None, None
    shape = tuple(item.literal_value for item in items)
    return types.Array(parse_dtype(dtype), len(shape), "C"), shape


def array_at(context, builder, kind, lengths, pointer):
    """Write what makes an array, in C order, of the memory at a pointer."""
    item = np.dtype(str(kind.dtype)).itemsize
    strides = [_i64(item)]
    for length in reversed(lengths[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    array = context.make_array(kind)(context, builder)
    data = builder.bitcast(pointer, context.get_data_type(kind.dtype).as_pointer())
    populate_array(
        array, data=data, shape=cgutils.pack_array(builder, lengths),
        strides=cgutils.pack_array(builder, strides), itemsize=_i64(item), meminfo=None,
    )  # fmt: skip
    return array._getvalue()


def maker(place):
    """Return the function that declares arrays at addresses that `place` gives."""

    def make(context, shape, dtype, alignment=None):
        kind, lengths = _declared(shape, dtype)
        if kind is None:
            return None
        given = (shape, dtype, types.none if alignment is None else alignment)
        align = getattr(alignment, "literal_value", 1)

        def codegen(context, builder, sig, args):
            pointer = place(builder, np.dtype(str(kind.dtype)), int(np.prod(lengths)), align)
            return array_at(context, builder, kind, [_i64(n) for n in lengths], pointer)

        return kind(*given), codegen

    return intrinsic(prefer_literal=True)(make)


def of_block(builder, dtype, count, alignment):
    return _pointer(_shared[-1].place(dtype, count, alignment), ir.IntType(8))


def of_thread(builder, dtype, count, alignment):
    size = max(count, 1) * dtype.itemsize
    with builder.goto_entry_block():
        place = builder.alloca(ir.ArrayType(ir.IntType(8), size))
    place.align = max(alignment, 16)
    pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
    # not a number, or -1: what nobody wrote stands out
    cgutils.memset(builder, pointer, _i64(size), 0xFF)
    return pointer
