"""The prolate spheroidal wave function of order zero.

Of all functions on an interval it is the one whose Fourier transform is most concentrated on
another. ψ on [-1, 1] solves ((1 - x²) ψ')' + (χ - c² x²) ψ = 0 with the least χ, and its transform
on [-1, 1], ∫ ψ(x) exp(i c x y) dx, is a multiple of ψ(y) (Slepian & Pollak, Bell Syst. Tech. J. 40,
43 (1961)). As a series of Legendre polynomials (Xiao, Rokhlin & Yarvin, Inverse Problems 17, 805
(2001)).
"""

from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre


@lru_cache(maxsize=256)
def prolate_series(band: float) -> np.ndarray:
    """Return the coefficients of ψ in Legendre polynomials of even degree, with ψ(0) = 1.

    Parameters
    ----------
    band : float
        The parameter c, > 0.
    """
    from scipy.linalg import eigh_tridiagonal  # slow to import

    terms = int(band) // 2 + 30
    k = 2.0 * np.arange(terms)
    # x² of normalised polynomials, and the Laplacian's k (k + 1)
    diagonal = k * (k + 1) + band**2 * (2 * k * (k + 1) - 1) / ((2 * k + 3) * (2 * k - 1))
    beside = (band**2 * (k + 2) * (k + 1) / ((2 * k + 3) * np.sqrt((2 * k + 1) * (2 * k + 5))))[:-1]
    _, vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=(0, 0))
    series = np.zeros(2 * terms - 1)
    series[::2] = vectors[:, 0] * np.sqrt(k + 0.5)
    series /= legendre.legval(0.0, series)
    series.flags.writeable = False
    return series


def prolate(x: np.ndarray, band: float) -> np.ndarray:
    """Return ψ at numbers from -1 to 1."""
    values: np.ndarray = legendre.legval(x, prolate_series(band))
    return values


def derivatives(x: np.ndarray, order: int, band: float) -> np.ndarray:
    """Return ψ and its derivatives at numbers from -1 to 1, (order + 1, *x.shape).

    ψ is a multiple of the integral of ψ(y) cos(c x y), so that derivatives only multiply by c y.
    """
    nodes, weights = _quadrature(int(band) + 40)
    weights = weights * prolate(nodes, band)
    scale = band * nodes
    angles = np.multiply.outer(x, scale)
    rows = [np.cos(angles + 0.5 * np.pi * k) @ (weights * scale**k) for k in range(order + 1)]
    values: np.ndarray = np.stack(rows) / weights.sum()
    return values


def transform(y: np.ndarray, band: float) -> np.ndarray:
    """Return ∫ ψ(x) cos(y x) dx over [-1, 1], for any y."""
    nodes, weights = _quadrature(int(np.max(np.abs(y), initial=band)) // 2 + 40)
    values: np.ndarray = np.cos(np.multiply.outer(y, nodes)) @ (weights * prolate(nodes, band))
    return values


@lru_cache(maxsize=32)
def _quadrature(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = legendre.leggauss(n)
    return nodes, weights


def share_of_radius(x: np.ndarray, band: float) -> np.ndarray:
    """Return Φ(x), ∫ ψ from 0 to x over that from 0 to 1."""
    series = legendre.legint(prolate_series(band))
    whole = legendre.legval(1.0, series) - legendre.legval(0.0, series)
    values: np.ndarray = (legendre.legval(x, series) - legendre.legval(0.0, series)) / whole
    return values


def smooth_derivatives(s: np.ndarray, order: int, band: float) -> np.ndarray:
    """Return Q(s) = Φ(√s)/√s and its derivatives by s, (order + 1, len(s)).

    Since ψ is its own transform, Q is the sum over y of ψ(y) j₀(c y √s) times 2/(∫ψ)², and each
    derivative turns a j_n(z)/z^n into -(c y)²/2 j_(n+1)(z)/z^(n+1): nothing cancels.
    """
    nodes, weights = _quadrature(int(band) + 40)
    weights = weights * prolate(nodes, band)
    whole = weights.sum()
    scale = np.abs(band * nodes)
    z = scale[:, None] * np.sqrt(s)
    out = np.empty((order + 1, len(s)))
    for n in range(order + 1):
        factors = weights * (-0.5 * scale**2) ** n
        out[n] = 2 / whole**2 * (factors @ _bessel_over_power(n, z))
    return out


def _bessel_over_power(n: int, z: np.ndarray) -> np.ndarray:
    """Return j_n(z)/z^n, by its series where z is small."""
    from scipy import special  # slow to import

    small = z < max(0.5, 0.3 * n)
    far = np.where(small, 1.0, z)
    found = special.spherical_jn(n, far) / far**n
    square = np.where(small, -0.5 * z**2, 0.0)
    term = np.full(z.shape, 1.0 / np.prod(np.arange(1.0, 2 * n + 2, 2)))
    series = term
    for k in range(1, 24):
        term = term * square / (k * (2 * n + 2 * k + 1))
        series = series + term
    values: np.ndarray = np.where(small, series, found)
    return values
