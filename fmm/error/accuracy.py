"""How far expansions must go: the truncation error of multipole-to-local, and the degree it asks.

The table holds, for each shift between boxes of one size, the root mean square error of 1/r between
points spread evenly in both boxes when expansions end at degree p, in units of the box edge,
fitted by ``log10 E = a - b p - c log10(p + 1) - d / (p + 1)`` (``benchmarks/truncation.py`` makes
it). Derivatives by source and target multiply it by about the degree each.
"""

from functools import lru_cache

import numpy as np

from fmm.tree.lists import N_CODES, REACH

MAX_DEGREE = 48
# the code of no shift stands for single points that meet the expansion of a box: they end at full
# degree, and their error is below that of this shift
POINTS = (N_CODES - 1) // 2
_LIKE_POINTS = (2, 1, 1)
_LARGEST = 1e140

# shift (sorted, without signs): a, b, c, d
_FITS = {
    (2, 0, 0): (4.814, 0.079, 8.452, 7.948),
    (2, 1, 0): (0.447, 0.259, 3.475, 1.826),
    (2, 1, 1): (0.386, 0.282, 3.619, 1.710),
    (2, 2, 0): (0.193, 0.389, 3.369, 1.692),
    (2, 2, 1): (0.378, 0.405, 3.622, 1.975),
    (2, 2, 2): (0.051, 0.474, 3.292, 1.736),
    (3, 0, 0): (0.506, 0.444, 3.582, 2.497),
    (3, 1, 0): (0.128, 0.467, 3.300, 1.905),
    (3, 1, 1): (-0.131, 0.489, 3.105, 1.509),
    (3, 2, 0): (-0.204, 0.534, 3.066, 1.483),
    (3, 2, 1): (-0.267, 0.550, 3.035, 1.384),
    (3, 2, 2): (0.618, 0.563, 4.126, 2.700),
    (3, 3, 0): (-0.585, 0.632, 2.671, 1.165),
    (3, 3, 1): (-0.535, 0.641, 2.753, 1.231),
    (3, 3, 2): (-0.306, 0.669, 2.968, 1.662),
    (3, 3, 3): (-0.841, 0.724, 2.385, 1.084),
    (4, 0, 0): (0.454, 0.579, 3.803, 2.787),
    (4, 1, 0): (0.034, 0.603, 3.374, 2.161),
    (4, 1, 1): (-0.341, 0.626, 2.979, 1.617),
    (4, 2, 0): (-0.666, 0.661, 2.634, 1.186),
    (4, 2, 1): (-0.854, 0.677, 2.441, 0.912),
    (4, 2, 2): (-0.688, 0.696, 2.731, 1.138),
    (4, 3, 0): (-0.937, 0.727, 2.356, 0.912),
    (4, 3, 1): (-0.873, 0.730, 2.470, 0.985),
    (4, 3, 2): (0.027, 0.710, 3.666, 2.213),
    (4, 3, 3): (-1.214, 0.822, 1.867, 0.770),
    (4, 4, 0): (-1.325, 0.804, 1.920, 0.551),
    (4, 4, 1): (-1.225, 0.804, 2.075, 0.677),
    (4, 4, 2): (-0.485, 0.785, 3.069, 1.681),
    (4, 4, 3): (-1.231, 0.855, 1.983, 0.846),
    (4, 4, 4): (-1.334, 0.876, 1.996, 0.788),
}


def share(derivatives: int) -> float:
    """Return what truncation may use of the tolerance by this reckoning.

    The more derivatives by source and target, the more of the error is that of few pairs of points
    in corners of boxes, and the less a mean says.
    """
    return 0.5 / (1 + 0.15 * max(derivatives - 1, 0))


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
        if max(shift) >= 2 or code == POINTS:
            a, b, c, d = _FITS[_LIKE_POINTS if code == POINTS else tuple(shift)]
            table[code] = a - b * p - c * np.log10(p + 1) - d / (p + 1)
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
    found[POINTS] = degree
    return np.where(np.isinf(table[:, 0]), 0, found)


@lru_cache
def _squares(source_order: int, derivatives: int) -> np.ndarray:
    """Return each code's square error if the nearest boxes' degree is p; shape (N_CODES, p)."""
    used = np.stack([degrees(p, source_order) for p in range(MAX_DEGREE + 1)], axis=1)
    found = np.take_along_axis(errors(derivatives), used, axis=1)
    return np.where(np.isinf(found), 0.0, found) ** 2


def gains(edges: np.ndarray, source_order: int, order: int, degrees: tuple[int, ...]) -> np.ndarray:
    """Return the mean square error at a point, for a unit of what the sending box holds.

    Parameters
    ----------
    edges : ndarray, shape (n_levels,)
        Box edge of each level.
    source_order, order : int
        Of moments and field.
    degrees : tuple of int
        Of the translations of each level.

    Returns
    -------
    ndarray, shape (order + 1, K + 1, n_levels, N_CODES)
        Of each output order, from moments of each order.
    """
    out = np.empty((order + 1, source_order + 1, len(edges), N_CODES))
    for k in range(order + 1):
        for j in range(source_order + 1):
            squares = _squares(source_order, j + k)[:, list(degrees)]
            out[k, j] = _scale(edges, j, k)[:, None] * squares.T
    return out


def predicted(weights: np.ndarray, edges: np.ndarray, order: int) -> np.ndarray:
    """Return the mean square error of the far field.

    Parameters
    ----------
    weights : ndarray, shape (K + 1, n_levels, N_CODES)
        Sum over pairs of boxes, per level and code, of the targets in one and of the squares of
        the moments of each order in the other, over the number of targets.
    edges : ndarray, shape (n_levels,)
        Box edge of each level.
    order : int
        Highest output order.

    Returns
    -------
    ndarray, shape (order + 1, n_levels, MAX_DEGREE + 1)
        What a level contributes to an output order if its expansions end at a degree.
    """
    source_order = len(weights) - 1
    total = np.zeros((order + 1, len(edges), MAX_DEGREE + 1))
    for j, weight in enumerate(weights):
        for k in range(order + 1):
            squares = weight @ _squares(source_order, j + k)
            total[k] += _scale(edges, j, k)[:, None] * squares
    return total


def _scale(edges: np.ndarray, j: int, k: int) -> np.ndarray:
    """Return the square of what turns errors in units of the edge into those of unit moments."""
    # the factors of random directions and unit moments are fitted, within 1.5 times
    scale = edges ** -(j + k + 1.0) * 0.55**j * 0.85**k
    # of the smallest boxes of the deepest trees it would overflow
    return np.minimum(scale, _LARGEST) ** 2


def choose(expected: np.ndarray, limits: np.ndarray, costs: np.ndarray) -> tuple[int, ...] | None:
    """Return the degree of every level that keeps errors within limits at least cost.

    Degrees are raised step by step, always where it takes away most error for its cost.

    Parameters
    ----------
    expected : ndarray, shape (order + 1, n_levels, MAX_DEGREE + 1)
        Mean square errors, see `predicted`.
    limits : ndarray, shape (order + 1,)
        Largest mean square error of each output order.
    costs : ndarray, shape (n_levels, MAX_DEGREE + 1)
        Cost of a level at each degree.

    Returns
    -------
    tuple of int or None
        None if even the highest degree is not enough.
    """
    levels = np.arange(expected.shape[1])
    active = expected[:, :, 0].any(axis=0)
    shares = expected / limits[:, None, None]
    chosen = np.where(active, 1, 0)
    later = np.arange(expected.shape[2])
    while True:
        now = shares[:, levels, chosen]
        over = now.sum(axis=1) > 1
        if not over.any():
            return tuple(chosen.tolist())
        gain = (now[:, :, None] - shares)[over].sum(axis=0)
        # a degree that takes nothing away may lead to one that does
        extra = costs - costs[levels, chosen][:, None]
        rate = np.divide(gain, extra, out=np.zeros_like(gain), where=later > chosen[:, None])
        level, degree = np.unravel_index(np.argmax(rate), rate.shape)
        if rate[level, degree] <= 0:
            return None
        chosen[level] = degree
