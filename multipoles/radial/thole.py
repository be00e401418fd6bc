"""Thole's smeared charges."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from multipoles.compiled.jit import bare_inline
from multipoles.compiled.simd import BYTES, load, rsqrt, store, within
from multipoles.compiled.simd_math import any_below, exp, fit, least, lesser, polynomial, scaled
from multipoles.indexing import MAX_TOTAL_ORDER as LONGEST
from multipoles.radial.base import Kernel
from multipoles.radial.lanes import LINKS

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
# below this a r^3 vectors take series
_NEAR = 3.0
# link n of the chain is that of 1/r where a r^3 is above one of these plus _PER_LINK n
_POINT_LIKE_64, _POINT_LIKE_32 = 40.0, 18.0
_PER_LINK = 2.8


def _thole_sums() -> np.ndarray:
    """Coefficients c_nk with 1 - p_n exp(-x) = exp(-x) sum_(0 < k <= n) c_nk x^k S_k.

    S_k = sum_i x^i k!/(k + i)!: x^k S_k/k! is exp(x) less the first k terms of its series.
    """
    table = np.zeros((LINKS + 1, LINKS + 1))
    p = [Fraction(1)]
    for n in range(1, LINKS + 1):
        p.append(Fraction(0))
        # exact: differences of numbers that are nearly equal
        table[n, 1 : n + 1] = [float(p[k - 1] / k - p[k]) for k in range(1, n + 1)]
        slope = Fraction(3, 2 * n + 1)
        p = [c * (1 - slope * k) + (slope * p[k - 1] if k else 0) for k, c in enumerate(p)]
    return table


# high links are the greatest powers of 1/r there are times small sums; without a factor between
# them, float32 would lose links that are numbers
_BALANCE = 2.0**12
_SUMS = _BALANCE * _thole_sums()


def _last_sum(u: np.ndarray) -> np.ndarray:
    """S_LINKS of x = _HALF (1 + u)."""
    x = _HALF * (1 + u)
    return np.cumprod([np.ones_like(x), *(x / (LINKS + i) for i in range(1, 40))], axis=0).sum(0)


def _near_potential(u: np.ndarray) -> np.ndarray:
    """sum_k (-x)^k/k! / (3 (k + 2/3)(k + 1)) of x = _HALF (1 + u)."""
    x, term, total = _HALF * (1 + u), np.ones_like(u), np.zeros_like(u)
    for k in range(60):
        total = total + term / ((3 * k + 2) * (k + 1))
        term = term * -x / (k + 1)
    return total


def _far_potential(u: np.ndarray) -> np.ndarray:
    """1 - x^(1/3) exp(x) Gamma(2/3, x), x = _NEAR (3 + u)/(1 - u), by a continued fraction."""
    x, shape = _NEAR * (3 + u) / (1 - u), np.longdouble(2) / 3
    rest = x + 401 - shape
    for k in range(200, 0, -1):
        rest = x + 2 * k - 1 - shape - k * (k - shape) / rest
    return np.asarray(1 - x / rest)


_HALF = _NEAR / 2
_last_polynomial = polynomial(lambda lanes: fit(_last_sum, 12 if lanes == 8 else 6, _HALF))
_near_polynomial = polynomial(lambda lanes: fit(_near_potential, 14 if lanes == 8 else 8, _HALF))
_far_polynomial = polynomial(lambda lanes: fit(_far_potential, 17 if lanes == 8 else 7))


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


@bare_inline
def thole_acts(parameters, r2, last, lanes):
    """Return whether the kernel is not 1/r in some lane."""
    far = (_POINT_LIKE_64 if lanes == 8 else _POINT_LIKE_32) + _PER_LINK * last
    y2 = r2 * (parameters[1] * parameters[1])
    return any_below(y2 * y2 * y2, far * far)


@bare_inline
def thole_lanes(code, parameters, last, chain):
    """Write g_n = (-1)^n B_n as vectors, r2 being the first of `chain`; zeros where it is zero."""
    lanes = BYTES // chain.itemsize
    r2 = load(chain, 0)
    inverse = rsqrt(r2)
    r, a = r2 * inverse, parameters[0]
    # far beyond where exp(-x) matters, where no power overflows
    x = least(r * r2 * a, 100.0)
    decay = exp(-x, 0.0)
    y = r * parameters[1]
    near = (_GAMMA_TWO_THIRDS - y * y * _near_polynomial(x - _HALF)) * parameters[1]
    mapped = (x - 3.0 * _NEAR) / (x + _NEAR)
    far = (1.0 - decay * _far_polynomial(mapped)) * inverse
    store(chain, 0, within(r2, math.inf, lesser(x, _NEAR, near, far), inverse))
    if any_below(x, _NEAR):
        _thole_sums_of_lanes(x, last, chain)
    g, down = inverse, -(inverse * inverse)
    # a, then 3 a^2 r / r^(2n - 4): powers of r that do not overflow before the link does
    power = -a * decay
    for n in range(1, last + 1):
        g = g * down * (2 * n - 1)
        p = decay - decay
        for k in range(n - 1, -1, -1):
            p = p * x + _THOLE[n, k]
        near, far = power * load(chain, n * lanes), g * (1.0 - p * decay)
        store(chain, n * lanes, within(r2, math.inf, lesser(x, _NEAR, near, far), inverse))
        power = scaled(r * decay * (3.0 / _BALANCE), a, a) if n == 1 else power * down * (2 * n + 1)


@bare_inline
def _thole_sums_of_lanes(x, last, chain):
    """Write sum_k c_nk x^(k - 2) S_k of `_SUMS`, and S_1 for n = 1; x is small."""
    lanes = BYTES // chain.itemsize
    zero = x - x
    for n in range(1, last + 1):
        store(chain, n * lanes, zero)
    series = _last_polynomial(x - _HALF)
    for k in range(LINKS, 1, -1):
        for n in range(k, last + 1):
            store(chain, n * lanes, load(chain, n * lanes) * x + series * _SUMS[n, k])
        series = series * x * (1.0 / k) + 1.0
    if last > 0:
        store(chain, lanes, series)


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

    @property
    def parameters(self) -> tuple[float, ...]:
        """The width and its third root."""
        return (self.a, float(np.cbrt(self.a)))

    def _scaled(self, factor: float) -> Kernel:
        return Thole(self.a / factor / factor / factor)

    def coulomb_beyond(self, tolerance: float, links: int) -> float:
        """Return where exp(-y) sum_(k <= links) y^k / k!, y = a r^3, is the tolerance.

        Link n differs from that of 1/r by exp(-y) times a polynomial of y of degree n - 1, which
        that sum exceeds.
        """
        from scipy import special  # takes as long to import as all else here

        return float(np.cbrt(special.gammainccinv(links + 1.0, tolerance) / self.a))
