"""What costs least: degrees of expansions for these moments, larger leaves, or a direct sum."""

from math import inf
from typing import Any

import numpy as np

from fmm.cost import Work
from fmm.error import accuracy
from fmm.far.truncation import MAX_DEGREE

# up to so many levels with a far field, each may have a degree of its own
_DEGREES = 4
# making the operators of degree p takes so many seconds times (p + 1)^3, shared by so many
# evaluations
_BUILD, _OFTEN = 2.5e-6, 10.0


def least_degrees(
    geometry: Any, weights: np.ndarray, limits: np.ndarray, work: Work
) -> tuple[int, ...]:
    """Return the degrees of the levels that the error model grants.

    Parameters
    ----------
    geometry : Geometry
        Tree and lists.
    weights : ndarray, shape (K + 1, n_levels, N_CODES)
        What boxes send to how many targets, see `accuracy.predicted`.
    limits : ndarray, shape (order + 1,)
        Root mean square error that is allowed at each order.
    work : Work
        What is to be computed; decides what degrees cost.

    Returns
    -------
    tuple of int
        One per level; all zero if there is nothing to compute.
    """
    n_levels = len(geometry.tree.level_starts) - 1
    if not weights.any():
        return (0,) * n_levels
    edges = geometry.edges
    expected = accuracy.predicted(weights, edges, len(limits) - 1)
    squares = np.maximum(limits**2, np.finfo(float).tiny)
    # points form and evaluate expansions of the highest degree: half of that counts on every level
    counts = geometry.translations.copy()
    counts[0] += geometry.root_transfers
    costs = counts[:, None] * work.translations(geometry.n_boxes)
    costs += 0.5 * geometry.everywhere[0] * work.harmonics()
    active = np.any(expected[:, :, 0] > 0, axis=0)
    if np.count_nonzero(active) > _DEGREES:
        # the operators of every degree are read once: with few boxes per level one degree is best
        expected, costs = expected.sum(axis=1, keepdims=True), costs.sum(axis=0, keepdims=True)
    degrees = accuracy.choose(expected, squares, costs) or (MAX_DEGREE,)
    if len(degrees) < n_levels:
        return tuple(degrees[0] if used else 0 for used in active)
    if geometry.root_transfers and any(degrees[1:]):
        # points would pay for a higher one of the few root boxes
        return (min(degrees[0], max(degrees[1:])), *degrees[1:])
    return degrees


def seconds(geometry: Any, work: Work, degrees: tuple[int, ...]) -> float:
    """Return what one evaluation with expansions of some degrees is expected to take.

    The operators of a degree are made once, and serve some evaluations.
    """
    harmonics = work.harmonics()
    operators = _BUILD / _OFTEN * (max(degrees) + 1.0) ** 3 if any(degrees) else 0.0
    full = min(max(degrees) + work.source_order + work.order, MAX_DEGREE)
    return float(
        geometry.n_near_pairs * work.seconds_per_pair()
        + geometry.translations @ work.translations(geometry.n_boxes)[list(degrees)]
        + geometry.n_leaves * work._replace(degree=max(degrees)).seconds_per_leaf()
        + geometry.everywhere[0] * harmonics[max(degrees)]
        + 0.5 * geometry.n_mixed * harmonics[full]
        + operators
    )


def direct_seconds(geometry: Any, work: Work) -> float:
    """Return what the direct sum over all pairs of every system is expected to take."""
    if not geometry.can_be_direct:
        return inf
    system, targets, sources = geometry.roots
    counts = [np.bincount(system, r[:, 1] - r[:, 0]) for r in (targets, sources)]
    return float(counts[0] @ counts[1] * work.seconds_per_wide_pair())


def larger_leaves(
    geometry: Any, weights: np.ndarray, limits: np.ndarray, work: Work, weigh: Any
) -> tuple[Any, tuple[int, ...]]:
    """Return the geometry, with its leaves or larger ones, and its degrees, that cost least.

    High orders at points that keep their distance, such as a lattice, need it: there the far field
    is a small part of the whole only if the near field reaches far enough.

    Parameters
    ----------
    geometry, weights, limits, work
        See `least_degrees`.
    weigh : callable
        Returns the weights of a geometry.
    """
    best, degrees = geometry, least_degrees(geometry, weights, limits, work)
    shortest = seconds(best, work, degrees)
    best_degrees = degrees
    while best.has_far_field:
        least = work._replace(degree=max(best_degrees)).least_for_expansion()
        trial = best.with_leaves(int(2.5 * best.leaf_size), least)
        if trial.n_leaves == best.n_leaves:
            break
        degrees = least_degrees(trial, weigh(trial), limits, work)
        expected = seconds(trial, work, degrees)
        if expected > 0.9 * shortest:
            break
        best, best_degrees, shortest = trial, degrees, expected
    return best, best_degrees


def for_levels(degrees: tuple[int, ...], n_levels: int) -> tuple[int, ...]:
    """Return degrees for another number of levels; levels that had none get the highest."""
    most = max(degrees, default=0)
    known = [d or most for d in degrees[:n_levels]]
    return (*known, *[most] * (n_levels - len(known)))
