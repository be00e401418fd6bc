"""The error of a far field before it is summed, from truncation and moments; degrees that keep it.

Typical errors of translations (`fmm.far.truncation`) times what the sending boxes hold.
"""

from functools import lru_cache

import numpy as np

from fmm.far.truncation import MAX_DEGREE, degrees, errors
from fmm.tree.lists import N_CODES

_LARGEST = 1e140


def share(derivatives: int) -> float:
    """Return the share of the tolerance that the predicted truncation error may take.

    The more derivatives by source and target, the more of the error comes from few pairs of points
    in corners of boxes, and the less a predicted mean can be relied on.
    """
    return 0.5 / (1 + 0.15 * max(derivatives - 1, 0))


@lru_cache
def _squares(source_order: int, derivatives: int) -> np.ndarray:
    """Return each code's square error if the nearest boxes' degree is p; shape (N_CODES, p)."""
    used = np.stack([degrees(p, source_order) for p in range(MAX_DEGREE + 1)], axis=1)
    kept = np.take_along_axis(errors(derivatives), used, axis=1)
    return np.where(np.isinf(kept), 0.0, kept) ** 2


def gains(
    edges: np.ndarray, source_order: int, order: int, of_levels: tuple[int, ...]
) -> np.ndarray:
    """Return the mean square error at a point, for a unit of what the sending box holds.

    Parameters
    ----------
    edges : ndarray, shape (n_levels,)
        Box edge of each level.
    source_order, order : int
        Of moments and field.
    of_levels : tuple of int
        Degree of the translations of each level.

    Returns
    -------
    ndarray, shape (order + 1, K + 1, n_levels, N_CODES)
        Of each output order, from moments of each order.
    """
    out = np.empty((order + 1, source_order + 1, len(edges), N_CODES))
    for k in range(order + 1):
        for j in range(source_order + 1):
            squares = _squares(source_order, j + k)[:, list(of_levels)]
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
    # fitted to unit moments of random directions; right within a factor of 1.5
    scale = edges ** -(j + k + 1.0) * 0.55**j * 0.85**k
    # for the smallest boxes of the deepest trees it would overflow
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
        # all higher degrees are compared: the next may gain nothing where a later one does
        extra = costs - costs[levels, chosen][:, None]
        rate = np.divide(gain, extra, out=np.zeros_like(gain), where=later > chosen[:, None])
        level, degree = np.unravel_index(np.argmax(rate), rate.shape)
        if rate[level, degree] <= 0:
            return None
        chosen[level] = degree
