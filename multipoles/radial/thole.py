"""Thole's smeared charges."""

import math
from dataclasses import dataclass

import numpy as np

from multipoles.compiled.jit import bare_inline
from multipoles.indexing import MAX_TOTAL_ORDER as LONGEST
from multipoles.radial.base import Kernel

_GAMMA_TWO_THIRDS = math.gamma(2.0 / 3.0)
# below about this a r^3 the series in a r^3 keeps more digits than 1 - p exp(-x)
_THOLE_SERIES = 2.3


def _thole_polynomials() -> np.ndarray:
    """Coefficients of p_n: p_1 = 1, p_{n+1} = p_n + 3x (p_n - p_n')/(2n+1)."""
    table = np.zeros((LONGEST + 1, LONGEST + 1))
    table[1, 0] = 1.0
    k = np.arange(LONGEST + 1)
    for n in range(1, LONGEST):
        table[n + 1] = table[n] * (1 - 3 * k / (2 * n + 1))
        table[n + 1, 1:] += 3 / (2 * n + 1) * table[n, :-1]
    return table


_THOLE = _thole_polynomials()


@bare_inline
def upper_gamma_two_thirds(x):
    """Return Gamma(2/3, x): a series below two, above a continued fraction (Lentz)."""
    if x < 2.0:
        shape = 2.0 / 3.0
        term = 1.0 / shape
        total = term
        while term > 1e-17 * total:
            shape += 1.0
            term *= x / shape
            total += term
        return _GAMMA_TWO_THIRDS - x ** (2.0 / 3.0) * math.exp(-x) * total
    b = x + 1.0 / 3.0
    c = 1e30
    d = 1.0 / b
    fraction = d
    count = 0.0
    for _ in range(1, 200):
        count += 1.0
        a = -count * (count - 2.0 / 3.0)
        b += 2.0
        d = 1.0 / (a * d + b)
        c = b + a / c
        factor = c * d
        fraction *= factor
        if abs(factor - 1.0) < 1e-16:
            break
    return math.exp(-x) * x ** (2.0 / 3.0) * fraction


@bare_inline
def thole_series(r2, a, n):
    """Return B_n, n >= 1, by powers of x = a r^3: -(1/r d/dr) applied to (1 - exp(-x))/r^3."""
    r = math.sqrt(r2)
    x = a * r2 * r
    total = 0.0
    size = 0.0
    power = -1.0
    count = 0.0
    for k in range(1, 80):
        count += 1.0
        power *= -x / count
        term = power
        step = 3.0 * count - 3.0
        for _ in range(n - 1):
            term *= -step
            step -= 2.0
        total += term
        # some coefficients vanish and early terms may be small: neither means convergence
        size = max(size, abs(term))
        if 3 * k > 2 * n + 3 and abs(term) < 1e-18 * size and abs(power) < 1e-18:
            break
    for _ in range(n):
        total /= r2
    return total / r


@bare_inline
def thole(r2, parameters, last, out, start, stride):
    """B_n = (2n-1)!!/r^(2n+1) (1 - p_n(x) exp(-x)), x = a r^3, p_n by `_thole_polynomials`."""
    a = parameters[0]
    r = math.sqrt(r2)
    x = a * r2 * r
    decay = math.exp(-x)
    inverse = 1.0 / r2
    bare = 1.0 / r
    out[start] = (
        bare if x > 700.0 else -math.expm1(-x) / r + a ** (1.0 / 3.0) * (upper_gamma_two_thirds(x))
    )
    odd = 1.0
    for n in range(1, last + 1):
        bare *= odd * inverse
        odd += 2.0
        if x > 700.0:
            damped = bare
        elif x < _THOLE_SERIES:
            damped = thole_series(r2, a, n)
        else:
            p = 0.0
            for k in range(n - 1, -1, -1):
                p = p * x + _THOLE[n, k]
            damped = bare * (1.0 - p * decay)
        out[start + n * stride] = damped


@dataclass(frozen=True)
class Thole(Kernel, code=4):
    """Coulomb between smeared charges of density 3a/(4 pi) exp(-a r^3) (Thole 1981; AMOEBA).

    f = (1 - exp(-a r^3))/r + a^(1/3) Gamma(2/3, a r^3), so that B_1 = (1 - exp(-a r^3))/r^3.
    Distances are in units of (alpha_i alpha_j)^(1/6): scale positions, or a, by hand.

    Parameters
    ----------
    a : float
        Width, > 0; 0.39 in AMOEBA.
    """

    write_chain = staticmethod(thole)
    a: float

    def _scaled(self, factor: float) -> Kernel:
        return Thole(self.a / factor / factor / factor)
