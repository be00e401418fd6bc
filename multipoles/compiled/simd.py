"""Vectors of numbers as a Numba type: scalar functions run on eight or sixteen pairs at once.

A `Vec` holds 64 bytes of float64 or float32 (eight or sixteen *lanes*). It knows ``+ - * /`` and
unary minus, with other vectors and with plain numbers, so a function written for scalars compiles
for vectors unchanged. LLVM turns a vector into one AVX-512 register, two AVX2 ones, or four of
NEON: the code is portable, and only `rsqrt` asks what the processor has (`lanes`).

Numba's and LLVM's objects have no types that mypy knows; they are ``Any`` here.
"""

import operator
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from multipoles.compiled.lanes import FLAGS, constant, fill_lanes, inverse_root

BYTES = 64


class Vec(types.Type):
    """Numba type of a vector of `lanes` numbers of type `dtype`: `BYTES`, if not said otherwise."""

    def __init__(self, dtype: Any, lanes: int | None = None) -> None:
        self.dtype = dtype
        self.lanes = BYTES * 8 // dtype.bitwidth if lanes is None else lanes
        super().__init__(name=f"Vec({dtype}x{self.lanes})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        scalar = manager.lookup(fe_type.dtype).get_value_type()
        super().__init__(manager, fe_type, ir.VectorType(scalar, fe_type.lanes))


def _as_vector(context: Any, builder: Any, value: Any, from_type: Any, to_type: Any) -> Any:
    if isinstance(from_type, Vec):
        return value
    scalar = context.cast(builder, value, from_type, to_type.dtype)
    return fill_lanes(builder, scalar, context.get_value_type(to_type))


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any, to: Any) -> Any:
    """Return the address of element `index` of a one-dimensional contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(to))


# --- arithmetic ---------------------------------------------------------------------------------


def _define_binary(op: Any, instruction: str) -> None:
    @infer_global(op)
    class Binary(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, Vec)]
            others = [a for a in args if not isinstance(a, Vec)]
            if len(args) != 2 or not vectors or any(v != vectors[0] for v in vectors):
                return None
            if not all(isinstance(a, types.Number) for a in others):
                return None
            return signature(vectors[0], *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left, right = (
            _as_vector(context, builder, value, kind, sig.return_type)
            for value, kind in zip(args, sig.args, strict=True)
        )
        return getattr(builder, instruction)(left, right, flags=FLAGS)

    for pair in ((Vec, Vec), (Vec, types.Number), (types.Number, Vec)):
        lower_builtin(op, *pair)(lower)


for _op, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_binary(_op, _instruction)
    _inplace = {
        operator.add: operator.iadd,
        operator.sub: operator.isub,
        operator.mul: operator.imul,
        operator.truediv: operator.itruediv,
    }[_op]
    _define_binary(_inplace, _instruction)


@infer_global(operator.neg)
class _Negative(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], args[0]) if isinstance(args[0], Vec) else None


@lower_builtin(operator.neg, Vec)
def _lower_negative(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    zero = constant(context.get_value_type(sig.return_type), -0.0)
    return builder.fsub(zero, args[0], flags=FLAGS)


# --- memory -------------------------------------------------------------------------------------


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Load as many numbers as a vector has lanes, from ``array[index]`` on (one dimension)."""
    result = Vec(array.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = context.get_value_type(sig.return_type)
        address = address_of(context, builder, sig.args[0], args[0], args[1], vector)
        value = builder.load(address, typ=vector)
        value.align = array.dtype.bitwidth // 8
        return value

    return result(array, types.intp), codegen


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Store a vector to ``array[index]`` and what follows it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = context.get_value_type(sig.args[2])
        address = address_of(context, builder, sig.args[0], args[0], args[1], vector)
        builder.store(args[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def splat(typing_context: Any, array: Any, number: Any) -> Any:
    """Return a vector of the array's type with `number` in every lane."""
    result = Vec(array.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _as_vector(context, builder, args[1], sig.args[1], sig.return_type)

    return result(array, number), codegen


# --- lanes --------------------------------------------------------------------------------------


@intrinsic
def lane_sum(typing_context: Any, value: Any) -> Any:
    """Return the sum over the lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = args[0]
        count = vector.type.count
        while count > 1:
            count //= 2
            kind = ir.VectorType(ir.IntType(32), count)
            undefined = ir.Constant(vector.type, ir.Undefined)
            low = builder.shuffle_vector(vector, undefined, ir.Constant(kind, list(range(count))))
            high = builder.shuffle_vector(
                vector, undefined, ir.Constant(kind, list(range(count, 2 * count)))
            )
            vector = builder.fadd(low, high, flags=FLAGS)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return value.dtype(value), codegen


@intrinsic
def lane_of(typing_context: Any, value: Any, lane: Any) -> Any:
    """Return the number in one lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], builder.trunc(args[1], ir.IntType(32)))

    return value.dtype(value, types.intp), codegen


@intrinsic
def within(typing_context: Any, value: Any, bound: Any, inside: Any, outside: Any) -> Any:
    """Return `inside` in the lanes where 0 < value < bound, else `outside`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = args[0].type
        limit = _as_vector(context, builder, args[1], sig.args[1], sig.args[0])
        below = builder.fcmp_ordered("<", args[0], limit)
        above = builder.fcmp_ordered(">", args[0], constant(vector, 0.0))
        return builder.select(builder.and_(below, above), args[2], args[3])

    return value(value, bound, inside, outside), codegen


@intrinsic
def rsqrt(typing_context: Any, r2: Any) -> Any:
    """Return 1/sqrt(r2), and zero where r2 is zero: coincident points contribute nothing.

    From an estimate of the processor, where it has one, which a series improves to the last digits;
    see `lanes.inverse_root`.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return inverse_root(context, builder, args[0])

    return r2(r2), codegen
