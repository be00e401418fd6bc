"""The error function: Gaussian charges, or the long-ranged part of an Ewald sum."""

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, store, within
from multipoles.compiled.simd_math import (
    PIECES,
    any_below,
    exp,
    fit,
    least,
    nearest,
    piecewise,
    rough_root,
    scaled,
)
from multipoles.radial.base import Kernel, scaled_inverse_length
from multipoles.radial.lanes import LINKS, in_range

_ROOT_PI = math.sqrt(math.pi)
# link n of erf(alpha r)/r is smaller than that of 1/r by the fraction Gamma(n + 1/2, t)/Gamma(n +
# 1/2) with t = (alpha r)^2: less than the last digit where t is above one of these plus _PER_LINK n
_POINT_LIKE_64 = 40.0
_POINT_LIKE_32 = 18.0
_PER_LINK = 2.1
_ODD_INVERSES = 1 / (2.0 * np.arange(LINKS + 1) - 1)


def _boys_of_piece(n: int, centre: float, half: float, u: np.ndarray) -> np.ndarray:
    """F_n(t) = exp(-t) sum_i (2t)^i / ((2n+1)(2n+3)...(2n+2i+1)), t = centre + half u < 70."""
    t = centre + half * u
    odd = 2 * n + 1 + 2 * np.arange(160, dtype=np.longdouble)
    terms = np.cumprod(np.concatenate([np.ones((1, t.size)), 2 * t / odd[1:, None]]), axis=0)
    return np.asarray(np.exp(-t) * terms.sum(axis=0) / odd[0])


@cache
def _boys_by_pieces(lanes: int) -> np.ndarray:
    """F_n as polynomials of t, for pieces of equal steps of its root up to where f is 1/r."""
    point_like, terms = (_POINT_LIKE_64, 18) if lanes == 8 else (_POINT_LIKE_32, 10)
    table = np.empty((LINKS + 1, terms + 1, PIECES))
    for n in range(LINKS + 1):
        ends = (point_like + _PER_LINK * n) * (np.arange(PIECES + 1) / PIECES) ** 2
        for piece in range(PIECES):
            half = (ends[piece + 1] - ends[piece]) / 2
            centre = table[n, 0, piece] = ends[piece] + half
            table[n, 1:, piece] = fit(partial(_boys_of_piece, n, centre, half), terms, half)
    return table


_boys_pieces = piecewise(_boys_by_pieces)


# long, and called in few lanes: not inlined into every loop
@bare
def erf(r2, parameters, last, out, start, stride):
    """B_n = 2 alpha/sqrt(pi) (2 alpha^2)^n F_n(alpha^2 r^2), F_n Boys's function."""
    alpha = parameters[0]
    square = alpha * alpha
    t = square * r2
    decay = math.exp(-t)
    odd = 1.0
    for _ in range(last):
        odd += 2.0
    # t > 16 + last: from B_0 upwards nothing is lost
    if 2.0 * t > 31.0 + odd:
        r = math.sqrt(r2)
        b = math.erf(alpha * r) / r
        gauss = 2.0 * alpha / _ROOT_PI * decay
        odd = 1.0
        out[start] = b
        for n in range(last):
            b = (odd * b - gauss) / r2
            odd += 2.0
            gauss *= 2.0 * square
            out[start + (n + 1) * stride] = b
        return
    # all terms positive: F_n = exp(-t) sum_i (2t)^i / ((2n+1)(2n+3)...(2n+2i+1))
    denominator = odd
    term = 1.0 / denominator
    boys = term
    while term > 1e-17 * boys:
        denominator += 2.0
        term *= 2.0 * t / denominator
        boys += term
    boys *= decay
    for n in range(last, -1, -1):
        out[start + n * stride] = boys
        odd -= 2.0
        boys = (2.0 * t * boys + decay) / odd
    # from B_0 upwards: high powers of a small alpha underflow to zero
    power = 2.0 * alpha / _ROOT_PI
    for n in range(last + 1):
        out[start + n * stride] *= power
        power *= 2.0 * square


@bare_inline
def _point_like(last, lanes):
    """Return the square of alpha r from which on all links are those of 1/r."""
    return (_POINT_LIKE_64 if lanes == 8 else _POINT_LIKE_32) + _PER_LINK * last


@bare_inline
def erf_acts(parameters, r2, last, lanes):
    """Return whether the kernel is not 1/r in some lane."""
    return any_below(r2 * (parameters[0] * parameters[0]), _point_like(last, lanes))


@bare_inline
def erf_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n as vectors, r2 being the first of `chain`; zeros where it is zero.

    The last link from a table, the others by recursion downwards.
    """
    lanes = BYTES // chain.itemsize
    r2 = load(chain, 0)
    alpha, limit = parameters[0], _point_like(last, lanes)
    square = alpha * alpha
    near = limit / square
    square = in_range(square, lanes, 2.0**126)
    inverse = rsqrt(r2)
    t = least(r2 * square, limit)
    decay = exp(-t, 0.0)
    # a polynomial serves beyond the ends of its piece too, but not far
    place = rough_root(t) * (PIECES / math.sqrt(limit))
    boys = _boys_pieces(last, nearest(least(place, PIECES - 0.25) - 0.5), t)
    t = t + t
    for n in range(last, 0, -1):
        store(chain, n * lanes, boys)
        boys = (t * boys + decay) * _ODD_INVERSES[n]
    store(chain, 0, boys)
    # two factors: their product may leave the range of the type
    first, second = 2.0 * alpha / _ROOT_PI, 1.0
    g, square_inverse = inverse, inverse * inverse
    for n in range(last + 1):
        screened = scaled(load(chain, n * lanes), first, second)
        store(chain, n * lanes, within(r2, near, screened, g))
        first, second = -2.0 * square * second, first
        g = g * square_inverse * -(2 * n + 1)


@dataclass(frozen=True)
class Erf(Kernel, code=2):
    """f = erf(alpha r)/r: Gaussian charges, or the long-ranged part of an Ewald sum.

    Parameters
    ----------
    alpha : float
        Inverse width, > 0. Two Gaussian charges exp(-a r^2), exp(-b r^2) have
        alpha^2 = a b/(a + b).
    """

    write_chain = staticmethod(erf)
    alpha: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (scaled_inverse_length(self.alpha),)

    def _scaled(self, factor: float) -> Kernel:
        return Erf(scaled_inverse_length(self.alpha, factor))

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return where Gamma(n + 1/2, t)/Gamma(n + 1/2), t = (alpha r)^2, is the tolerance."""
        from scipy import special  # takes as long to import as all else here

        return float(special.gammainccinv(links + 0.5, tolerance)) ** 0.5 / self.alpha
