"""The emitter: plain arithmetic in Python that writes the instructions of compiled loops.

The field of a multipole is a polynomial with many terms. It is easily said with loops over tables
of indices, but a compiled loop over pairs of points must not run through these tables again for
every pair. So *plain* functions say it in Python, for whatever knows ``+ - *``:

    def powers(order, x):                  # orders, lists of numbers -> list of lists
        out = [1.0]
        for _ in range(order):
            out.append(out[-1] * x[0])
        return [out]

On floats, ``powers(3, [2.0])`` is ``[[1.0, 2.0, 4.0, 8.0]]``. In a loop for the CPU or a kernel for
the GPU, ``emitted(powers)(3, ((x,),))`` is ``((1.0, x, x * x, x * x * x),)``: when Numba compiles
the call, Python runs `powers` once on numbers whose operators append instructions of LLVM to the
program. Of its loops, tables and zeros nothing is left.

A plain function takes any kind of `Number` and mixes it with floats:

* `Written` stands for values of the program that is being compiled. One value is a scalar (a
  thread's number on the GPU) or a vector (`simd.Vec`: a number in each lane, of a source or of a
  channel); where a scalar meets a vector it is put in all lanes. Several values are a group, say
  the vectors of several targets: every operation writes one instruction for each, one after
  another, so that a processor has work that does not wait for what it has just begun.
* `Dual` carries a derivative along: a plain function of duals is that function's derivative, and
  duals of `Written` numbers write its instructions.
* `Counted` counts products: the cost of a plain function.

Numba's objects and LLVM's have no types that mypy knows; they are ``Any`` here.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.lanes import FLAGS, constant, fill_lanes
from multipoles.compiled.simd import Vec


class Number:
    """What plain arithmetic takes for a number; subclasses say what one operation does.

    A sum with the float 0 and a product with the float 1 are no operation: tables are full of them.
    """

    def _apply(self, operation: str, *others: Any) -> Any:
        """Return the result of "add", "sub", "mul" with another, or of "neg"."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        return self if _is(other, 0.0) else self._apply("add", other)

    def __sub__(self, other: Any) -> Any:
        return self if _is(other, 0.0) else self._apply("sub", other)

    def __mul__(self, other: Any) -> Any:
        return self if _is(other, 1.0) else self._apply("mul", other)

    def __neg__(self) -> Any:
        return self._apply("neg")

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__


def _is(other: Any, number: float) -> bool:
    return isinstance(other, float) and other == number


class Written(Number):
    """Values of the program being compiled: a scalar, a vector, or one of these per group member.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
        Where instructions are appended.
    values : sequence of llvmlite.ir.Value
        One value, or as many as the group has members. A number with one value serves all members.
    flags : tuple of str
        What LLVM may do to the arithmetic: fuse products with sums, reorder sums.
    """

    def __init__(self, builder: Any, values: Sequence[Any], flags: tuple[str, ...] = FLAGS) -> None:
        self.builder, self.values, self.flags = builder, list(values), flags

    def _apply(self, operation: str, *others: Any) -> "Written":
        write = getattr(self.builder, f"f{operation}")
        operands = [self.values, *map(self._values_of, others)]
        members = max(map(len, operands))
        rows = zip(*(v if len(v) == members else v * members for v in operands), strict=True)
        values = [write(*_alike(self.builder, row), flags=self.flags) for row in rows]
        return Written(self.builder, values, self.flags)

    def _values_of(self, other: Any) -> list[Any]:
        if isinstance(other, Written):
            return other.values
        return [constant(self.values[0].type, float(other))]


def _alike(builder: Any, values: Sequence[Any]) -> list[Any]:
    """Return values of one type: scalars in all lanes where there is a vector among them."""
    vectors = [value.type for value in values if isinstance(value.type, ir.VectorType)]
    return [_as_type(builder, value, vectors[0]) for value in values] if vectors else [*values]


def _as_type(builder: Any, value: Any, kind: Any) -> Any:
    if isinstance(kind, ir.VectorType) and not isinstance(value.type, ir.VectorType):
        return fill_lanes(builder, value, kind)
    return value


@dataclass(frozen=True)
class Dual(Number):
    """A number and its derivative along one direction; None stands for a derivative of zero."""

    value: Any
    slope: Any

    def _apply(self, operation: str, *others: Any) -> "Dual":
        operate = getattr(operator, operation)
        if not others:
            return Dual(operate(self.value), None if self.slope is None else operate(self.slope))
        other = others[0] if isinstance(others[0], Dual) else Dual(others[0], None)
        left, right = self.slope, other.slope
        if operation == "mul":
            left = None if left is None else left * other.value
            right = None if right is None else self.value * right
        elif operation == "sub":
            right = None if right is None else -right
        return Dual(operate(self.value, other.value), _sum(left, right))


def _sum(a: Any, b: Any) -> Any:
    if a is None:
        return b
    return a if b is None else a + b


class Counted(Number):
    """A number that counts products; all that is computed from it is this number again."""

    def __init__(self) -> None:
        self.products = 0

    def _apply(self, operation: str, *others: Any) -> "Counted":
        self.products += operation == "mul"
        return self


def emitted(plain: Callable[..., list[list[Any]]]) -> Any:
    """Turn ``plain(orders, list, ...) -> list of lists`` into a function for compiled code.

    There it is called with the integer `orders`, known when compiling, and one tuple of tuples of
    scalars or of `Vec`; it returns a tuple of tuples. These are of `Vec` if any argument is.
    Loops for the CPU call it as it is; for kernels of the GPU, `cuda_kernels` makes its like from
    the attribute `plain`, which also serves in Python.
    """
    call: Any = intrinsic(prefer_literal=True)(typed(plain, types, cgutils))
    call.plain = plain
    return call


def typed(plain: Callable[..., list[list[Any]]], types: Any, cgutils: Any) -> Any:
    """Return what `intrinsic` takes: a function from types of arguments to a result's, and code.

    Parameters
    ----------
    plain : callable
        See `emitted`.
    types, cgutils : module
        Of numba.core for the CPU or of numba.cuda for the GPU: their classes are different.
    """

    def call(typing_context: Any, orders: Any, lists: Any) -> Any:
        n = getattr(orders, "literal_value", None)
        if n is None:  # Numba tries again with the integer's value
            return None
        kinds = [item.dtype for item in lists]
        kind = next((k for k in kinds if isinstance(k, Vec)), kinds[0])
        lengths = [len(out) for out in plain(n, *([1.0] * len(item) for item in lists))]
        result = types.Tuple([types.UniTuple(kind, length) for length in lengths])

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            llvm_type = context.get_value_type(kind)

            def value_of(number: Any) -> Any:
                if isinstance(number, Written):
                    return _as_type(builder, number.values[0], llvm_type)
                return constant(llvm_type, float(number))

            numbers = [
                [Written(builder, [value]) for value in cgutils.unpack_tuple(builder, item)]
                for item in cgutils.unpack_tuple(builder, args[1])
            ]
            outs = [[value_of(number) for number in out] for out in plain(n, *numbers)]
            packed = [
                context.make_tuple(builder, out_kind, out)
                for out_kind, out in zip(sig.return_type, outs, strict=True)
            ]
            return context.make_tuple(builder, sig.return_type, packed)

        return result(orders, lists), codegen

    return call
