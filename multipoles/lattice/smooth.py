"""What is left to waves when 1/r is split, or when a kernel is smooth as it is.

    1/r = (1 - Φ(r/R))/r + Φ(r/R)/r

with Φ the integral of the prolate function ψ of a band c. The first part is zero beyond R
(`multipoles.radial.remainder`), the second has the transform 4π/k² ψ(kR/c), no waves beyond c/R.
Gaussian charges, erf(αr)/r, have the transform 4π/k² exp(-k²/4α²): if they are wide they need no
splitting.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev, legendre

from multipoles.lattice.ewald import erf_at_zero
from multipoles.lattice.own import even_tensor
from multipoles.prolate import prolate, smooth_derivatives


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """A smooth part.

    Parameters
    ----------
    radius : float
        Within which it differs from 1/r.
    band : float
        The longest wave times the radius.
    alpha : float
        Of Gaussian charges that are waves and nothing else; 0 for a splitting by a prolate function
        of this band.
    """

    radius: float
    band: float
    alpha: float = 0.0

    @property
    def longest(self) -> float:
        """The longest wave."""
        return self.band / self.radius

    def profile(self, share: np.ndarray) -> np.ndarray:
        """Return what waves of 1/r are multiplied by, at shares of the longest one."""
        if self.alpha:
            decay: np.ndarray = np.exp(-((share * self.longest / (2 * self.alpha)) ** 2))
            return decay
        values: np.ndarray = chebyshev.chebval(2 * share**2 - 1, profile_series(self.band))
        return values

    def profile_slope(self, share: np.ndarray) -> np.ndarray:
        """Return its derivative by the share, over the share."""
        if self.alpha:
            return -0.5 * (self.longest / self.alpha) ** 2 * self.profile(share)
        series = 4 * chebyshev.chebder(profile_series(self.band))
        values: np.ndarray = chebyshev.chebval(2 * share**2 - 1, series)
        return values

    @property
    def lacks(self) -> float:
        """The integral over the space of 1/r less the smooth part."""
        if self.alpha:
            return float(np.pi / self.alpha**2)
        # ∫ (1 - Φ)/r is 2π R² <x²>
        return 2 * np.pi * self.radius**2 * second_moment(self.band)

    def at_zero(self, order: int) -> np.ndarray:
        """Return its derivatives at zero, (n_components(order),)."""
        if self.alpha:
            return erf_at_zero(order, self.alpha)
        return _at_zero(order, self.radius, self.band)


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
def _at_zero(order: int, radius: float, band: float) -> np.ndarray:
    n = np.arange(order // 2 + 1)
    slopes = smooth_derivatives(np.zeros(1), order // 2, band)[:, 0]
    found = even_tensor(slopes / radius ** (2.0 * n + 1), order)
    found.flags.writeable = False
    return found
