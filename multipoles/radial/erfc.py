"""The complementary error function: the short-ranged part of an Ewald sum."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, store, within
from multipoles.compiled.simd_math import exp, fit, polynomial, product_tail, scaled
from multipoles.radial.base import Kernel, scaled_inverse_length
from multipoles.radial.lanes import in_range

_ROOT_PI = math.sqrt(math.pi)
# (1 + 2x) exp(x^2) erfc(x) is a polynomial of (x - _MIDDLE)/(x + _MIDDLE) (Shepherd & Laframboise,
# Math. Comput. 36, 249 (1981))
_MIDDLE = 3.0
# squares of alpha r from which on vectors of float64 and float32 have decayed to zero
_ZERO_64, _ZERO_32 = 707.0, 86.0


@cache
def _scaled_erfc(lanes: int) -> np.ndarray:
    return fit(_of_mapped, 24 if lanes == 8 else 12)


def _of_mapped(u: np.ndarray) -> np.ndarray:
    from scipy import special  # slow to import, and asked for when a loop is compiled only

    x = _MIDDLE * (1 + u) / (1 - u)
    return np.asarray((1 + 2 * x) * special.erfcx(x.astype(np.float64)))


_scaled_polynomial = polynomial(_scaled_erfc)


@bare_inline
def erfc(r2, parameters, last, out, start, stride):
    """B_{n+1} = ((2n+1) B_n + (2 alpha^2)^(n+1)/(alpha sqrt(pi)) exp(-alpha^2 r^2))/r^2."""
    alpha = parameters[0]
    square = alpha * alpha
    r = math.sqrt(r2)
    b = math.erfc(alpha * r) / r
    gauss = 2.0 * alpha / _ROOT_PI * math.exp(-square * r2)
    odd = 1.0
    out[start] = b
    for n in range(last):
        b = (odd * b + gauss) / r2
        odd += 2.0
        gauss *= 2.0 * square
        out[start + (n + 1) * stride] = b


@bare_inline
def erfc_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n as vectors, r2 being the first of `chain`; zeros where it is zero."""
    lanes = BYTES // chain.itemsize
    r2 = load(chain, 0)
    square = parameters[0] * parameters[0]
    beyond = (_ZERO_64 if lanes == 8 else _ZERO_32) / square
    alpha = in_range(parameters[0], lanes, 2.0**100)
    tail = product_tail(parameters[0], parameters[0], square)
    square = in_range(square, lanes, 2.0**126)
    inverse = rsqrt(r2)
    down = -(inverse * inverse)
    x = r2 * inverse * alpha
    t = r2 * square
    decay = exp(-t, -(product_tail(square, r2, t) + r2 * tail))
    above, shifted = x * 2.0 + 1.0, x + _MIDDLE
    both = 1.0 / (above * shifted)
    g = decay * _scaled_polynomial((x - _MIDDLE) * above * both) * shifted * both * inverse
    zero = inverse - inverse
    store(chain, 0, within(r2, beyond, g, zero))
    # two factors: their product may leave the range of the type
    first, second = 2.0 * alpha / _ROOT_PI, 1.0
    for n in range(last):
        g = (g * (2 * n + 1) + scaled(decay, first, second)) * down
        first, second = -2.0 * square * second, first
        store(chain, (n + 1) * lanes, within(r2, beyond, g, zero))


@dataclass(frozen=True)
class Erfc(Kernel, code=3):
    """f = erfc(alpha r)/r, the short-ranged part of an Ewald sum.

    Parameters
    ----------
    alpha : float
        Inverse width, > 0.
    """

    write_chain = staticmethod(erfc)
    alpha: float

    @property
    def parameters(self) -> tuple[float, ...]:
        """The inverse length, with a square that is a number."""
        return (scaled_inverse_length(self.alpha),)

    def _scaled(self, factor: float) -> Kernel:
        return Erfc(scaled_inverse_length(self.alpha, factor))

    def negligible_beyond(self, tolerance: float, links: int) -> float:
        """Return where the rest of the integral of r^2 times the field is the tolerance."""
        from scipy import special  # takes as long to import as all else here

        return float(special.gammainccinv(links + 1.5, tolerance)) ** 0.5 / self.alpha
