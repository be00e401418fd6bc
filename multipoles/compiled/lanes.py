"""Vectors of LLVM while a loop is being written: constants, pieces, and inverse roots.

LLVM takes vectors of any length and cuts them into registers. An estimate of the processor takes
one register: here longer vectors are cut into pieces, and shorter ones filled up.

Numba's objects and LLVM's have no types that mypy knows; they are ``Any`` here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from multipoles.compiled.instructions import features, registers
from multipoles.compiled.jit import FASTMATH

FLAGS = tuple(sorted(FASTMATH))
_WORD = ir.IntType(32)
_X86 = ("x86_64", "i386", "i686")
# from here on numbers have all their digits; estimates take smaller ones for zero
_LEAST = {4: float(np.finfo(np.float32).tiny), 8: float(np.finfo(np.float64).tiny)}
# y (1 + e/2 + 3/8 e^2 ...) is 1/sqrt(a), e = 1 - a y^2
_SERIES = (0.5, 0.375, 0.3125, 0.2734375)


def constant(kind: Any, number: float) -> Any:
    """Return a constant of an LLVM type: a scalar, or a vector with the number in all lanes."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def fill_lanes(builder: Any, value: Any, vector: Any) -> Any:
    """Fill all lanes of a vector with one LLVM scalar."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_WORD, 0))
    return _shuffled(builder, first, undefined, [0] * vector.count)


def itemsize_of(vector: Any) -> int:
    """Return the bytes of a number of a vector's type."""
    return {ir.FloatType(): 4, ir.DoubleType(): 8}[vector.element]


def joined(builder: Any, values: Sequence[Any]) -> Any:
    """Return one vector of the lanes of several, whose number is a power of two."""
    values = list(values)
    while len(values) > 1:
        both = range(2 * values[0].type.count)
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [_shuffled(builder, a, b, both) for a, b in pairs]
    return values[0]


def pieces(builder: Any, value: Any, lanes: int) -> list[Any]:
    """Return a vector in pieces of so many lanes, which divide its own; the inverse of `joined`."""
    starts = range(0, value.type.count, lanes)
    if len(starts) == 1:
        return [value]
    return [_shuffled(builder, value, value, range(i, i + lanes)) for i in starts]


def _shuffled(builder: Any, a: Any, b: Any, mask: Sequence[int]) -> Any:
    kind = ir.VectorType(_WORD, len(mask))
    return builder.shuffle_vector(a, b, ir.Constant(kind, list(mask)))


def call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Call a function of LLVM or of the processor by its name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


# --- inverse roots --------------------------------------------------------------------------------


def inverse_root(context: Any, builder: Any, value: Any) -> Any:
    """Return 1/sqrt(value) of a vector of numbers >= 0, to the last digits but one.

    Zero where there are fewer digits than usual, as in zero itself (below 2^-1022, or 2^-126 in
    float32). Processors give an estimate, which a series improves; where there is none, or none
    that is worth it, 1 is divided by the root.
    """
    return refined(context, builder, value, estimate(context, builder, value))


def refined(context: Any, builder: Any, value: Any, about: Any) -> Any:
    """Return 1/sqrt(value) from what `estimate` returns."""
    terms = _terms(context, value.type)
    return _refined(builder, value, about, terms) if terms else about


def estimate(context: Any, builder: Any, value: Any) -> Any:
    """Return 1/sqrt(value) to three digits at least; zero where `inverse_root` is."""
    if not _terms(context, value.type):
        root = call(builder, f"llvm.sqrt.{_suffix(value.type)}", value.type, [value])
        return _where_normal(builder, value, builder.fdiv(_one(value), root, flags=FLAGS))
    architecture, names = features(context)
    if architecture == "aarch64":
        return _by_register(builder, value, 16, _of_neon)
    if "avx512f" in names:
        return _by_register(builder, value, 64, _of_avx512)
    size = registers(context).size
    if value.type.element == ir.DoubleType():  # two registers share one of float32
        return _by_register(builder, value, 2 * size, _of_high_words)
    return _by_register(builder, value, size, _of_sse)


def _terms(context: Any, vector: Any) -> int:
    """Return how many terms of the series make an estimate exact; zero where it is exact.

    Its digits are 14 bits with AVX-512, 11.4 with AVX and SSE, and 8 with NEON, of which `estimate`
    makes 15 in float64. SSE alone divides float64 sooner than it improves an estimate.
    """
    wide = vector.element == ir.DoubleType()
    architecture, names = features(context)
    if architecture == "aarch64":
        return 3
    if "avx512f" in names:
        return 3 if wide else 1
    if architecture in _X86:
        return (4 if "avx" in names else 0) if wide else 2
    return 0


def _by_register(builder: Any, value: Any, size: int, function: Callable[..., Any]) -> Any:
    """Apply a function to pieces of at most so many bytes."""
    lanes = min(size // itemsize_of(value.type), value.type.count)
    return joined(builder, [function(builder, piece) for piece in pieces(builder, value, lanes)])


def _of_avx512(builder: Any, value: Any) -> Any:
    """Return the 14-bit estimate of AVX-512."""
    if value.type.count * itemsize_of(value.type) < 64:
        both = joined(builder, [value, value])
        return pieces(builder, _of_avx512(builder, both), value.type.count)[0]
    kind, suffix = (8, "pd") if value.type.count == 8 else (16, "ps")
    mask = builder.bitcast(_is_normal(builder, value), ir.IntType(kind))
    arguments = [value, constant(value.type, 0.0), mask]
    return call(builder, f"llvm.x86.avx512.rsqrt14.{suffix}.512", value.type, arguments)


def _of_sse(builder: Any, value: Any) -> Any:
    """Return the estimate of SSE and AVX for float32, e below 2^-10.4."""
    return _where_normal(builder, value, _estimate_of_sse(builder, value))


def _estimate_of_sse(builder: Any, value: Any) -> Any:
    count = value.type.count
    if count < 4:
        both = joined(builder, [value, value])
        return pieces(builder, _estimate_of_sse(builder, both), count)[0]
    name = "llvm.x86.sse.rsqrt.ps" if count == 4 else "llvm.x86.avx.rsqrt.ps.256"
    return call(builder, name, value.type, [value])


def _of_high_words(builder: Any, value: Any) -> Any:
    """Return the estimate for float64 by that for float32, of two registers by one of theirs.

    Exponents of float64 have no room in float32. With a = 4^j f, f from 0.5 to 2, the estimate is
    that of f times 2^-j: all by integers, of the high words only, which have 20 of the digits.
    """
    count = value.type.count
    words = ir.VectorType(_WORD, count)
    pairs = builder.bitcast(value, ir.VectorType(_WORD, 2 * count))
    there, back = _orders(count)
    high = _shuffled(builder, pairs, pairs, there)

    def word(number: int) -> Any:
        return ir.Constant(words, [number] * count)

    def shifted(a: Any, digits: int) -> Any:
        return builder.lshr(a, word(digits))

    digits = builder.and_(builder.shl(high, word(3)), word(0x00FFFFFF))
    f = builder.bitcast(builder.or_(digits, word(0x3F000000)), ir.VectorType(ir.FloatType(), count))
    root = builder.bitcast(_estimate_of_sse(builder, f), words)
    # exponents of the estimate in float64, less j: 1407 stands for 1023 - 127 + 511
    exponent = builder.and_(builder.sub(word((1408 << 20) - 1), shifted(high, 1)), word(0x7FF00000))
    root = builder.add(shifted(root, 3), exponent)
    normal = builder.icmp_signed(">", high, word(0x000FFFFF))
    root = builder.select(normal, root, word(0))
    return builder.bitcast(_shuffled(builder, root, word(0), back), value.type)


def _orders(count: int) -> tuple[list[int], list[int]]:
    """Return where high words come from, and where they and zeros go to.

    Such that both are one instruction for each register: they stay within 16 bytes.
    """
    half = count // 2
    # two words of the first register, two of the second, and so on
    order = [k + i for j in range(0, half, 2) for k in (j, half + j) for i in range(min(half, 2))]
    there = [2 * i + 1 for i in order]
    place = {i: k for k, i in enumerate(order)}
    return there, [k for i in range(count) for k in (count, place[i])]


def _of_neon(builder: Any, value: Any) -> Any:
    """Return the estimate of NEON, in float64 after one step of Newton's."""
    if value.type.count * itemsize_of(value.type) < 16:
        both = joined(builder, [value, value])
        return pieces(builder, _of_neon(builder, both), value.type.count)[0]
    suffix = _suffix(value.type)
    y = call(builder, f"llvm.aarch64.neon.frsqrte.{suffix}", value.type, [value])
    y = _where_normal(builder, value, y)
    if value.type.element == ir.FloatType():
        return y
    square = builder.fmul(y, y, flags=FLAGS)
    step = call(builder, f"llvm.aarch64.neon.frsqrts.{suffix}", value.type, [value, square])
    return builder.fmul(y, step, flags=FLAGS)


def _refined(builder: Any, value: Any, y: Any, terms: int) -> Any:
    """Improve y by y (1 + e/2 + 3/8 e^2 + 5/16 e^3 ...), e = 1 - value y^2, up to `terms` terms."""
    vector = value.type

    def mul(a: Any, b: Any) -> Any:
        return builder.fmul(a, b, flags=FLAGS)

    e = builder.fsub(_one(value), mul(value, mul(y, y)), flags=FLAGS)
    series = _SERIES[:terms]
    polynomial = constant(vector, series[-1])
    for coefficient in series[-2::-1]:
        polynomial = builder.fadd(mul(polynomial, e), constant(vector, coefficient), flags=FLAGS)
    return builder.fadd(y, mul(mul(y, e), polynomial), flags=FLAGS)


def _is_normal(builder: Any, value: Any) -> Any:
    least = constant(value.type, _LEAST[itemsize_of(value.type)])
    return builder.fcmp_ordered(">=", value, least)


def _where_normal(builder: Any, value: Any, found: Any) -> Any:
    return builder.select(_is_normal(builder, value), found, constant(value.type, 0.0))


def _one(value: Any) -> Any:
    return constant(value.type, 1.0)


def _suffix(vector: Any) -> str:
    return f"v{vector.count}f{8 * itemsize_of(vector)}"
