"""Truncation error of multipole-to-local translations, and the degree that each shift needs.

The table holds, for each shift between boxes of one size, the root mean square error of 1/r between
points spread evenly in both boxes when expansions end at degree p, in units of the box edge,
fitted by ``log10 E = a - b p - c log10(p + 1) - d / (p + 1)`` (``benchmarks/truncation.py`` makes
it). Each derivative by source or target multiplies it by about the degree.
"""

from functools import lru_cache

import numpy as np

from fmm.tree.lists import N_CODES, POINTS, shifts

MAX_DEGREE = 48
# single points that meet the expansion of a box end at full degree; their error is below that of
# this shift
_LIKE_POINTS = (2, 1, 1)

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
    # at degrees too low for so many derivatives the fit falls: the error there is not below that of
    # higher degrees
    return np.maximum.accumulate(table[:, ::-1], axis=1)[:, ::-1]


@lru_cache
def degrees(
    degree: int, derivatives: int, shape: tuple[tuple[float, ...], ...] | None = None
) -> np.ndarray:
    """Return the degree at which each code's error is that of the nearest boxes at `degree`.

    Parameters
    ----------
    degree : int
        Of the nearest.
    derivatives : int
        By source and target together.
    shape : tuple, optional
        Vectors of boxes in units of their edge; default cubes.

    Returns
    -------
    ndarray, shape (N_CODES,)
        Zero for neighbours.
    """
    if shape is not None:
        return _of_shape(degrees(degree, derivatives), np.array(shape), degree)
    table = errors(derivatives)
    nearest = int(np.flatnonzero((shifts() == (2, 0, 0)).all(1))[0])
    enough = table[:, : degree + 1] < np.minimum(0.7 * table[nearest, degree], table[:, :1])
    lowest = np.where(enough.any(1), enough.argmax(1), degree)
    lowest[POINTS] = degree
    return np.where(np.isinf(table[:, 0]), 0, lowest)


def _of_shape(cubes: np.ndarray, shape: np.ndarray, degree: int) -> np.ndarray:
    """Return degrees for boxes of a shape: what is enough for cubes as far away for their size."""
    corners = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    size = np.linalg.norm(corners @ shape, axis=1).max() / np.linalg.norm(corners[0])
    away, here = np.linalg.norm(shifts(), axis=1), np.linalg.norm(shifts() @ shape, axis=1) / size
    order = np.argsort(away)
    # the most that any cube at a distance, or farther, needs
    most = np.maximum.accumulate(cubes[order][::-1])[::-1]
    found = np.append(most, 1)[np.searchsorted(away[order] - 1e-9, here)]
    found[here < 2] = degree
    found[POINTS] = degree
    return np.where(cubes == 0, 0, np.maximum(found, 1)) if degree else cubes
