"""The window that carries moments to a grid and fields from it: a prolate function, as polynomials.

In grid units the window is ψ(2x/P), P points wide, with the band c = P (2π - ω)/2 that leaves least
of it beyond the first alias 2π - ω of the highest wave ω that is wanted.
"""

from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from multipoles.compiled.simd import BYTES
from multipoles.prolate import derivatives, prolate, transform

# ψ(1)/ψ(0) is this times √c exp(-c): for c from 5 to 36 to a few percent
_LEAK = 3.5
# numbers of a vector
_ROUND = BYTES // 8


def band_of(points: int, highest: float) -> float:
    """Return the band of a window of some points for waves up to `highest` (radians a point)."""
    return 0.5 * points * (2 * np.pi - highest)


def padded(points: int) -> int:
    """Return the number of points with those that fill vectors."""
    return -(-points // _ROUND) * _ROUND


@lru_cache(maxsize=64)
def polynomials(points: int, band: float, order: int) -> np.ndarray:
    """Return the window and its derivatives by the place, as powers of z = 2f - 1.

    f is how far a point lies beyond the grid point before it. That point and the points/2 - 1
    before it, and points/2 after, have the window's values at j - points/2 + 1 - f.

    Returns
    -------
    ndarray, shape (order + 1, degree + 1, padded(points))
        Highest power first.
    """
    n = points + 6
    z = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    f = (z + 1) / 2
    x = np.arange(points)[None] - points / 2 + 1 - f[:, None]
    values = derivatives(np.clip(2 * x / points, -1, 1), order, band)
    # x falls with f
    values *= ((-2 / points) ** np.arange(order + 1))[:, None, None]
    series = [chebyshev.chebfit(z, of_order, n - 1) for of_order in values]
    degree = max(map(_degree, series))
    table = np.zeros((order + 1, degree + 1, padded(points)))
    for k, of_order in enumerate(series):
        for j in range(points):
            powers = chebyshev.cheb2poly(of_order[: degree + 1, j])
            table[k, degree + 1 - len(powers) :, j] = powers[::-1]
    table.flags.writeable = False
    return table


def _degree(series: np.ndarray) -> int:
    """Return the degree beyond which all terms are rounding."""
    size = np.abs(series).max(axis=1)
    return int(np.flatnonzero(size > 1e-16 * size.max()).max())


def spectrum(numbers: np.ndarray, n: int, points: int, band: float) -> np.ndarray:
    """Return the window's Fourier transform at waves of so many periods along n grid points."""
    angles = 2 * np.pi * numbers / n
    found: np.ndarray = 0.5 * points * transform(0.5 * points * angles, band)
    return found


@lru_cache(maxsize=4096)
def aliasing(points: int, highest: float, order: int) -> np.ndarray:
    """Return the relative error of waves up to the highest one that the window lets through.

    Of derivatives up to some order, (order + 1,): an alias is multiplied by its own, higher wave
    number.
    """
    band = band_of(points, highest)
    waves = highest * np.array([0.0, 0.25, 0.5, 0.75, 0.9])
    aliases = 2 * np.pi - waves
    # the transform of the window is the window
    through = prolate(np.minimum(0.5 * points * waves / band, 1.0), band)
    # beyond its band the transform falls as 1/ω from this share of its greatest value
    wrong = _LEAK * np.sqrt(band) * np.exp(-band) * band / (0.5 * points * aliases)
    powers = (aliases / highest) ** np.arange(order + 1)[:, None]
    return np.asarray((wrong / through * powers).max(axis=1))
