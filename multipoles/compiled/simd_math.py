"""Functions of vectors: the exponential, polynomials, polynomials by pieces, exact remainders.

Arithmetic of `simd` lets LLVM reorder sums and products. What must not be reordered is written with
flags of its own: Numba gives those of the function to every instruction that has none.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from multipoles.compiled.instructions import has_avx512, has_fma
from multipoles.compiled.lanes import FLAGS, constant, estimate
from multipoles.compiled.simd import Vec, _as_vector

PIECES = 16
"""Pieces that a function of `piecewise` has: one AVX-512 instruction takes one of 16 numbers."""
# may be fused, and nothing at all: the flag is one for divisions
_FUSED, _STRICT = ("contract", "nsz"), ("arcp",)
_PI = np.longdouble("3.14159265358979323846264338327950288")
# log(2) in two parts: products of the first with whole numbers below 2^11 are exact
_LOG_2 = {8: (0.6931471803691238, 1.9082149292705877e-10), 16: (0.693359375, -2.12194440e-4)}
# a sum with it is rounded to a whole number, which its last bits hold
_WHOLE = {8: 1.5 * 2.0**52, 16: 1.5 * 2.0**23}
# from here downwards the exponential counts as zero; all above are normal numbers
EXP_ZERO = {8: -708.0, 16: -87.0}


@cache
def _exp_remainder(lanes: int) -> np.ndarray:
    """Coefficients of the polynomial for (exp(r) - 1 - r)/r^2, by a series without subtraction."""
    half = np.log(2.0) / 2
    series = np.polynomial.Polynomial(1 / np.cumprod(np.arange(1.0, 25.0))[1:])
    return fit(lambda u: series(half * u), {8: 10, 16: 5}[lanes], half)


def fit(function: Callable[[Any], Any], terms: int, half: float = 1.0) -> np.ndarray:
    """Return a polynomial for a function of u on [-1, 1], its coefficients in powers of d = half u.

    The Chebyshev series of the function, cut off: close to the best polynomial there is.
    """
    nodes = 2 * terms
    angles = (np.arange(nodes) + np.longdouble(0.5)) * (_PI / nodes)
    cosines = np.cos(np.arange(terms)[:, None] * angles)
    series = cosines @ function(np.cos(angles)) / terms
    series[0] /= 2
    powers = np.zeros(terms, np.longdouble)
    found = np.polynomial.chebyshev.cheb2poly(series)
    powers[: len(found)] = found
    return powers / np.longdouble(half) ** np.arange(terms)


def _sum_of_powers(builder: Any, x: Any, terms: Sequence[Any], flags: Any = FLAGS) -> Any:
    """Return the polynomial with the given coefficients, by pairs: short chains of instructions."""
    terms = list(terms)
    while len(terms) > 1:
        pairs = [
            builder.fadd(builder.fmul(high, x, flags=flags), low, flags=flags)
            for low, high in zip(terms[::2], terms[1::2], strict=False)
        ]
        terms = pairs + terms[2 * len(pairs) :]
        x = builder.fmul(x, x, flags=flags)
    return terms[0]


def _whole_type(vector: Any) -> Any:
    return ir.VectorType(ir.IntType(512 // vector.count), vector.count)


@intrinsic
def exp(typing_context: Any, value: Any, tail: Any) -> Any:
    """Return exp(value + tail), `tail` the digits that `value` has no room for.

    An error of one in the last digit. Zero below -708 (float32: -87); values go up to 709 (88).
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, tail = args[0], _as_vector(context, builder, args[1], sig.args[1], sig.return_type)
        vector, lanes = x.type, x.type.count

        def number(value: float) -> Any:
            return constant(vector, float(value))

        def add_product(a: Any, b: float, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, number(b), flags=_FUSED), c, flags=_FUSED)

        shifted = add_product(x, 1 / np.log(2.0), number(_WHOLE[lanes]))
        whole = builder.fsub(shifted, number(_WHOLE[lanes]), flags=_STRICT)
        rest = add_product(whole, -_LOG_2[lanes][0], x)
        rest = builder.fadd(add_product(whole, -_LOG_2[lanes][1], rest), tail, flags=_FUSED)
        # exp(r) = 1 + r + r^2 q(r)
        q = _sum_of_powers(builder, rest, [number(c) for c in _exp_remainder(lanes)])
        square = builder.fmul(rest, rest, flags=_FUSED)
        power = builder.fadd(builder.fmul(square, q, flags=_FUSED), rest, flags=_FUSED)
        power = builder.fadd(power, number(1.0), flags=_FUSED)
        # the whole number is added to the exponent of the power
        bits = _whole_type(vector)
        digits = 52 if lanes == 8 else 23
        exponent = builder.shl(builder.bitcast(shifted, bits), ir.Constant(bits, [digits] * lanes))
        result = builder.bitcast(builder.add(builder.bitcast(power, bits), exponent), vector)
        seen = builder.fcmp_ordered(">", x, number(EXP_ZERO[lanes]))
        return builder.select(seen, result, number(0.0))

    return value(value, tail), codegen


@intrinsic
def nearest(typing_context: Any, value: Any) -> Any:
    """Return the nearest whole numbers; values are far smaller than the greatest that are exact."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shift = constant(args[0].type, _WHOLE[args[0].type.count])
        return builder.fsub(builder.fadd(args[0], shift, flags=_STRICT), shift, flags=_STRICT)

    return value(value), codegen


@intrinsic
def rough_root(typing_context: Any, value: Any) -> Any:
    """Return the square root of a finite value >= 0, to four digits at least."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, lanes = args[0], args[0].type.count
        if has_avx512(context):
            return builder.fmul(x, estimate(context, builder, x))
        name = f"llvm.sqrt.v{lanes}{'f64' if lanes == 8 else 'f32'}"
        kind = ir.FunctionType(x.type, [x.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x])

    return value(value), codegen


@intrinsic
def least(typing_context: Any, value: Any, bound: Any) -> Any:
    """Return the lesser of a vector and a number, which stands for NaN too."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        limit = _as_vector(context, builder, args[1], sig.args[1], sig.args[0])
        return builder.select(builder.fcmp_ordered("<", args[0], limit), args[0], limit)

    return value(value, bound), codegen


@intrinsic
def lesser(typing_context: Any, value: Any, bound: Any, inside: Any, outside: Any) -> Any:
    """Return `inside` in the lanes where value < bound, else `outside`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        limit = _as_vector(context, builder, args[1], sig.args[1], sig.args[0])
        return builder.select(builder.fcmp_ordered("<", args[0], limit), args[2], args[3])

    return value(value, bound, inside, outside), codegen


@intrinsic
def any_below(typing_context: Any, value: Any, bound: Any) -> Any:
    """Return whether value < bound in any lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        limit = _as_vector(context, builder, args[1], sig.args[1], sig.args[0])
        bits = ir.IntType(args[0].type.count)
        mask = builder.bitcast(builder.fcmp_ordered("<", args[0], limit), bits)
        return builder.icmp_unsigned("!=", mask, bits(0))

    return types.boolean(value, bound), codegen


@intrinsic
def scaled(typing_context: Any, value: Any, first: Any, second: Any) -> Any:
    """Return value * first * second of a vector and two numbers, multiplied in this order.

    The product of the two numbers may be beyond the range of their type.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        result = args[0]
        for k in (1, 2):
            factor = _as_vector(context, builder, args[k], sig.args[k], sig.args[0])
            result = builder.fmul(result, factor, flags=_STRICT)
        return result

    return value(value, first, second), codegen


@intrinsic
def product_tail(typing_context: Any, a: Any, b: Any, product: Any) -> Any:
    """Return a * b - product, to all digits: what rounding took from a product.

    `b` and `product` are vectors, `a` is one or a float64, of which float32 loses digits too; or
    all are float64. Processors that do not fuse products with sums return zero.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b, product = args
        kind = b.type
        if not has_fma(context):
            return constant(kind, 0.0)
        rest = None
        if isinstance(sig.args[0], types.Float) and isinstance(sig.args[1], Vec):
            if sig.args[1].lanes == 16:
                high = builder.fptrunc(a, ir.FloatType())
                low = builder.fsub(a, builder.fpext(high, a.type), flags=_STRICT)
                rest = _as_vector(context, builder, low, sig.args[0], sig.args[1])
            a = _as_vector(context, builder, a, sig.args[0], sig.args[1])
        size = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        element = kind.element if size else kind
        name = f"llvm.fma.{size}{'f64' if element == ir.DoubleType() else 'f32'}"
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), name
        )
        tail = builder.call(fma, [a, b, builder.fneg(product)])
        return tail if rest is None else builder.call(fma, [rest, b, tail])

    return b(a, b, product), codegen


def polynomial(coefficients: Callable[[int], np.ndarray]) -> Any:
    """Return a function of a vector: a polynomial.

    Parameters
    ----------
    coefficients : callable
        Returns them, lowest power first, for vectors of so many lanes: 8 float64, 16 float32. It is
        called when a loop is compiled.
    """

    @intrinsic
    def of_vector(typing_context: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = args[0].type
            terms = [constant(vector, float(c)) for c in coefficients(vector.count)]
            return _sum_of_powers(builder, args[0], terms)

        return value(value), codegen

    return of_vector


def piecewise(pieces: Callable[[int], np.ndarray]) -> Any:
    """Return a function (row, piece, value) of vectors: a polynomial by pieces, one of a set.

    Parameters
    ----------
    pieces : callable
        Returns, for vectors of so many lanes, the array of shape (rows, 1 + terms, PIECES): the
        centre of each piece, then the coefficients of the polynomial in the distance from it,
        lowest power first. It is called when a loop is compiled.
    """

    @intrinsic
    def of_vectors(typing_context: Any, row: Any, piece: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = args[2].type
            table = pieces(vector.count)
            start = builder.mul(args[0], args[0].type(table[0].size))
            data = _constants(builder, vector.element, table)
            indices = builder.fptosi(args[1], _whole_type(vector))
            picked = []
            for k in range(table.shape[1]):
                place = builder.add(start, args[0].type(k * PIECES))
                picked.append(_pick(context, builder, builder.gep(data, [place]), indices, vector))
            d = builder.fsub(args[2], picked[0])
            return _sum_of_powers(builder, d, picked[1:])

        return value(types.intp, piece, value), codegen

    return of_vectors


def _constants(builder: Any, kind: Any, table: np.ndarray) -> Any:
    """Return the address of the numbers of a table in the program."""
    array = ir.ArrayType(kind, table.size)
    value = ir.Constant(array, [kind(float(number)) for number in table.ravel()])
    data = cgutils.global_constant(builder.module, "pieces", value)
    data.align = 64
    return builder.bitcast(data, ir.PointerType(kind))


def _pick(context: Any, builder: Any, row: Any, indices: Any, vector: Any) -> Any:
    """Return for each lane the number at its index in a row of `PIECES`."""
    lanes = vector.count
    if has_avx512(context):
        parts = []
        for first in range(0, PIECES, lanes):
            address = builder.gep(row, [ir.IntType(64)(first)])
            address = builder.bitcast(address, ir.PointerType(vector))
            parts.append(builder.load(address, typ=vector))
            parts[-1].align = 64
        if lanes == 16:
            name, operands = "llvm.x86.avx512.permvar.sf.512", [parts[0], indices]
        else:
            name = "llvm.x86.avx512.vpermi2var.pd.512"
            operands = [parts[0], indices, parts[1]]
        kind = ir.FunctionType(vector, [operand.type for operand in operands])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)
    result = ir.Constant(vector, ir.Undefined)
    for lane in range(lanes):
        place = ir.IntType(32)(lane)
        index = builder.extract_element(indices, place)
        number = builder.load(builder.gep(row, [index]), typ=vector.element)
        result = builder.insert_element(result, number, place)
    return result
