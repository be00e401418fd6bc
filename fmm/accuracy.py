"""How far expansions must go: the truncation error of multipole-to-local, and the degree it asks.

The table holds, for each shift between boxes of one size, the root mean square error of 1/r between
points spread evenly in both boxes when expansions end at degree p, in units of the box edge; fitted
by ``log10 E = a - b p - c log10(p + 1)`` (``benchmarks/truncation.py`` makes it). Derivatives by
source and target multiply it by about the degree each.
"""

from functools import lru_cache

import numpy as np

from fmm.lists import N_CODES, REACH

MAX_DEGREE = 48

# shift (sorted, without signs): a, b, c
_FITS = {
    (2, 0, 0): (-0.338, 0.229, 2.737),
    (2, 1, 0): (-0.768, 0.300, 2.002),
    (2, 1, 1): (-0.781, 0.325, 2.098),
    (2, 2, 0): (-1.006, 0.435, 1.859),
    (2, 2, 1): (-0.982, 0.458, 1.908),
    (2, 2, 2): (-1.287, 0.558, 1.250),
    (3, 0, 0): (-1.180, 0.504, 1.606),
    (3, 1, 0): (-1.181, 0.516, 1.698),
    (3, 1, 1): (-1.172, 0.528, 1.790),
    (3, 2, 0): (-1.257, 0.577, 1.722),
    (3, 2, 1): (-1.241, 0.591, 1.762),
    (3, 2, 2): (-1.280, 0.643, 1.672),
    (3, 3, 0): (-1.440, 0.670, 1.553),
    (3, 3, 1): (-1.409, 0.678, 1.631),
    (3, 3, 2): (-1.453, 0.719, 1.501),
    (3, 3, 3): (-1.698, 0.788, 0.997),
    (4, 0, 0): (-1.521, 0.665, 1.334),
    (4, 1, 0): (-1.503, 0.670, 1.419),
    (4, 1, 1): (-1.474, 0.674, 1.544),
    (4, 2, 0): (-1.524, 0.703, 1.492),
    (4, 2, 1): (-1.500, 0.709, 1.564),
    (4, 2, 2): (-1.490, 0.734, 1.646),
    (4, 3, 0): (-1.601, 0.757, 1.480),
    (4, 3, 1): (-1.571, 0.761, 1.557),
    (4, 3, 2): (-1.558, 0.784, 1.592),
    (4, 3, 3): (-1.792, 0.860, 0.961),
    (4, 4, 0): (-1.736, 0.823, 1.374),
    (4, 4, 1): (-1.711, 0.827, 1.438),
    (4, 4, 2): (-1.705, 0.847, 1.443),
    (4, 4, 3): (-1.862, 0.905, 0.994),
    (4, 4, 4): (-1.974, 0.932, 0.894),
}


@lru_cache
def shifts() -> np.ndarray:
    """Return target minus source anchor of every code, int, shape (N_CODES, 3)."""
    axes = np.arange(-REACH, REACH + 1)
    return np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)


@lru_cache
def _errors() -> np.ndarray:
    """Return log10 of the truncation error per code and degree; infinity for neighbours."""
    p = np.arange(MAX_DEGREE + 1)
    table = np.full((N_CODES, len(p)), np.inf)
    for code, shift in enumerate(np.sort(np.abs(shifts()), axis=1)[:, ::-1].tolist()):
        if max(shift) >= 2:
            a, b, c = _FITS[tuple(shift)]
            table[code] = a - b * p - c * np.log10(p + 1)
    return table


@lru_cache
def errors(derivatives: int) -> np.ndarray:
    """Return the error per code and degree of a derivative of 1/r, in units of the box edge.

    Parameters
    ----------
    derivatives : int
        By source and target together.
    """
    p = np.arange(MAX_DEGREE + 1)
    table = 10.0 ** (_errors() + derivatives * np.log10(1.5 * (p + 1)))
    # below the degree that derivatives need at all, the error is that of leaving everything out
    return np.maximum.accumulate(table[:, ::-1], axis=1)[:, ::-1]


@lru_cache
def degrees(degree: int, derivatives: int) -> np.ndarray:
    """Return the degree at which each code's error is that of the nearest boxes at `degree`.

    Shape (N_CODES,); zero for neighbours.
    """
    table = errors(derivatives)
    nearest = int(np.flatnonzero((shifts() == (2, 0, 0)).all(1))[0])
    enough = table[:, : degree + 1] < np.minimum(0.7 * table[nearest, degree], table[:, :1])
    found = np.where(enough.any(1), enough.argmax(1), degree)
    return np.where(np.isinf(table[:, 0]), 0, found)


def predicted(weights: np.ndarray, edges: np.ndarray, degree: int, powers: np.ndarray, order: int):
    """Return the root mean square error of the far field per output order.

    Parameters
    ----------
    weights : ndarray, shape (n_levels, N_CODES)
        Number of (target, source) pairs per level and code, over the number of targets.
    edges : ndarray, shape (n_levels,)
        Box edge of each level.
    degree : int
        Degree of the expansions.
    powers : ndarray, shape (K + 1,)
        Mean square of the moments of each order.
    order : int
        Highest output order.
    """
    used = degrees(degree, len(powers) - 1)
    total = np.zeros(order + 1)
    for j, power in enumerate(powers):
        for k in range(order + 1):
            error = np.where(used > 0, errors(j + k)[np.arange(N_CODES), used], 0.0)
            by_level = (weights * error**2).sum(1) * edges ** (-2.0 * (j + k + 1))
            # of a derivative along a random direction, and of unit moments: fitted, within 1.5 times
            total[k] += power * (0.5**j * 0.85**k) ** 2 * by_level.sum()
    return np.sqrt(total)
