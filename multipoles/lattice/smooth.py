"""What is left to waves when 1/r is split by prolate functions.

    1/r = (1 - Φ(r/R))/r + Φ(r/R)/r

with Φ the integral of the prolate function ψ of a band c. The first part is zero beyond R
(`multipoles.radial.remainder`), the second has the transform 4π/k² ψ(kR/c), no waves beyond c/R.
"""

from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev, legendre

from multipoles.lattice.own import even_tensor
from multipoles.prolate import prolate, smooth_derivatives


def profile(share: np.ndarray, band: float) -> np.ndarray:
    """Return ψ at many places from 0 to 1, by a polynomial of their squares."""
    values: np.ndarray = chebyshev.chebval(2 * share**2 - 1, profile_series(band))
    return values


def profile_slope(share: np.ndarray, band: float) -> np.ndarray:
    """Return ψ'(x)/x."""
    series = 4 * chebyshev.chebder(profile_series(band))
    values: np.ndarray = chebyshev.chebval(2 * share**2 - 1, series)
    return values


@lru_cache(maxsize=64)
def profile_series(band: float) -> np.ndarray:
    """Return ψ as a Chebyshev series in 2x² - 1."""
    n = int(band) + 24
    u = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    series = chebyshev.chebfit(u, prolate(np.sqrt((1 + u) / 2), band), n - 1)
    last = int(np.flatnonzero(np.abs(series) > 1e-17 * np.abs(series).max()).max())
    kept: np.ndarray = series[: last + 1]
    return kept


@lru_cache(maxsize=64)
def second_moment(band: float) -> float:
    """Return the mean of x² under ψ."""
    nodes, weights = legendre.leggauss(60)
    psi = weights * prolate(nodes, band)
    return float((psi * nodes**2).sum() / psi.sum())


@lru_cache(maxsize=64)
def at_zero(order: int, radius: float, band: float) -> np.ndarray:
    """Return the derivatives of the smooth part at zero, (n_components(order),)."""
    n = np.arange(order // 2 + 1)
    slopes = smooth_derivatives(np.zeros(1), order // 2, band)[:, 0]
    found = even_tensor(slopes / radius ** (2.0 * n + 1), order)
    found.flags.writeable = False
    return found
