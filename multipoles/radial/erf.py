"""The error function: Gaussian charges, or the long-ranged part of an Ewald sum."""

import math
from dataclasses import dataclass

import numpy as np

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, lane_min, lane_of
from multipoles.radial.base import Kernel, scaled_inverse_length

_ROOT_PI = math.sqrt(math.pi)
# links that `erf_by_table` has, and terms of its series
TABULATED, _TERMS = 12, 13
# rows of its table for each unit of t, and units
_PER_UNIT, _UNITS = 2, 66
# link n of erf(alpha r)/r is smaller than that of 1/r by the fraction Gamma(n + 1/2, t)/Gamma(n +
# 1/2) with t = (alpha r)^2: less than the last digit where t is above one of these plus _PER_LINK n
_POINT_LIKE_64 = 40.0
_POINT_LIKE_32 = 18.0
_PER_LINK = 2.1


def _boys_functions() -> np.ndarray:
    """F_n(t), n = 0 ... TABULATED + _TERMS - 1, then exp(-t), at t = 0, 1/2, ... a row each."""
    t = np.arange(_PER_UNIT * _UNITS + 1) / _PER_UNIT
    top = TABULATED + _TERMS - 1
    table = np.empty((len(t), top + 2))
    decay = table[:, -1] = np.exp(-t)
    terms = np.cumprod(2 * t[:, None] / (2 * top + 1 + 2 * np.arange(1, 220)), axis=1)
    boys = decay * (1 + terms.sum(axis=1)) / (2 * top + 1)
    for n in range(top, -1, -1):
        table[:, n] = boys
        boys = (2 * t * boys + decay) / (2 * n - 1)
    return table


_BOYS = _boys_functions()
_INVERSES = 1 / np.maximum(np.arange(_TERMS), 1)
_ODD_INVERSES = 1 / (2.0 * np.arange(TABULATED + 1) - 1)


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
def erf_by_table(r2, parameters, last, out, start, stride):
    """Do the same for (alpha r)^2 < 66 and last <= TABULATED, with the sign of g_n = (-1)^n B_n.

    F_n(t + d) = sum_k F_(n+k)(t) (-d)^k / k! from the nearest row of a table.
    """
    alpha = parameters[0]
    square = alpha * alpha
    t = square * r2
    row = int(_PER_UNIT * t + 0.5)
    d = t - row * (1.0 / _PER_UNIT)
    boys, decay = _BOYS[row, last + _TERMS - 1], 1.0
    for k in range(_TERMS - 1, 0, -1):
        step = d * _INVERSES[k]
        boys = _BOYS[row, last + k - 1] - boys * step
        decay = 1.0 - decay * step
    decay *= _BOYS[row, TABULATED + _TERMS]
    for n in range(last, -1, -1):
        out[start + n * stride] = boys
        boys = (2.0 * t * boys + decay) * _ODD_INVERSES[n]
    power = 2.0 * alpha / _ROOT_PI
    for n in range(last + 1):
        out[start + n * stride] *= power
        power *= -2.0 * square


@bare_inline
def screen_near_lanes(parameters, r2, last, chain):
    """Replace 1/r by erf(alpha r) / r in the lanes where they differ in the last digit."""
    lanes = BYTES // chain.itemsize
    square_alpha = parameters[0] * parameters[0]
    point_like = (_POINT_LIKE_64 if lanes == 8 else _POINT_LIKE_32) + _PER_LINK * last
    if lane_min(r2) * square_alpha > point_like:
        return
    for lane in range(lanes):
        distance2 = np.float64(lane_of(r2, lane))
        # (alpha r)^2 may underflow to zero
        if not (distance2 > 0.0 and distance2 * square_alpha <= point_like):
            continue
        if last <= TABULATED:
            erf_by_table(distance2, parameters, last, chain, lane, lanes)
        else:
            erf(distance2, parameters, last, chain, lane, lanes)
            for n in range(1, last + 1, 2):
                chain[n * lanes + lane] = -chain[n * lanes + lane]


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
