"""Points on their way to the ranks that own them."""

from typing import NamedTuple

import numpy as np

from fmm.distributed.partition import Domain, Exchange, bounds_of, deepest_level, owners_of
from fmm.distributed.ranks import Ranks
from fmm.tree.build import most_halvings
from fmm.tree.curve import SortedPoints, bits_of, bounds, roots, sort_points
from fmm.tree.geometry import along_curve
from fmm.tree.morton import cells, encode


class Owned(NamedTuple):
    """Points of one rank along the curve, and what belongs to whom."""

    domain: Domain
    points: SortedPoints
    sources: np.ndarray
    """In the order of the curve, float64; so are the targets."""
    targets: np.ndarray
    deepest: int = 1
    """Level whose boxes may be parted; 0: root boxes alone."""


def corners(ranks: Ranks, *points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest coordinates of the points of all ranks."""
    low, high = np.full((1, 3), np.inf), np.full((1, 3), -np.inf)
    for array in points:
        bounds(array, np.empty(0, np.int64), low, high)
    both = ranks.largest(np.concatenate([-low[0], high[0]]))
    return -both[:3], both[3:]


def owned(
    ranks: Ranks,
    targets: np.ndarray,
    sources: np.ndarray,
    root_grid: int,
    smallest: float,
    weights: tuple[np.ndarray, np.ndarray] | None = None,
) -> Owned:
    """Return the points that this rank is to own, of those that are given on all ranks.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        As given here; one object if they are the same points.
    root_grid : int
        Most root cells along an axis.
    smallest : float
        See `fmm.tree.build.build_tree`.
    weights : pair of ndarray, optional
        What each target and source costs; default one.
    """
    same = targets is sources
    kinds = [sources] if same else [sources, targets]
    low, high = corners(ranks, *kinds)
    low, high = np.where(low > high, 0.0, low), np.where(low > high, 0.0, high)
    known = roots(low[None], high[None], root_grid, bits_of(1, root_grid))
    starts, _, exchanges, deepest = shared_out(
        ranks, kinds, float(np.abs([low, high]).max()), known, root_grid, smallest,
        None if weights is None else [weights[1], weights[0]][: len(kinds)],
    )  # fmt: skip
    come = [exchange.forth(array) for exchange, array in zip(exchanges, kinds, strict=True)]
    s, x = come[0], come[-1]
    points = sort_points(x, s, root_grid=root_grid, known_roots=known)
    domain = _domain(ranks, starts, points, exchanges, (targets, sources), x)
    return Owned(domain, points, *along_curve(points, x, s), deepest)


def shared_out(
    ranks: Ranks,
    kinds: list[np.ndarray],
    far: float,
    known: tuple[np.ndarray, np.ndarray],
    root_grid: int,
    smallest: float,
    costs: list[np.ndarray] | None,
) -> tuple[np.ndarray, int, list[Exchange], int]:
    """Return where stretches of ranks begin, bits of keys, how points get there, and how deep.

    Parameters
    ----------
    kinds : list of ndarray, shape (n, 3)
        Sources, and targets if they are others.
    far : float
        Largest of their coordinates on all ranks.
    known : pair of ndarray
        Origin and edge of root boxes.
    costs : list of ndarray, optional
        Of each kind; default one.
    """
    bits, empty = bits_of(1, root_grid), np.empty((1, 0), np.int64)
    like = SortedPoints(empty, empty, empty, empty, bits, root_grid, *known)
    deepest = deepest_level(like, most_halvings(like, smallest), far)
    keys = [_keys(array, known, root_grid, bits) for array in kinds]
    costs = [np.ones(len(k)) for k in keys] if costs is None else costs
    starts = _bounds(ranks, keys, costs, bits, root_grid, deepest)
    return starts, bits, [Exchange.of(ranks, owners_of(starts, k)) for k in keys], deepest


def _keys(
    array: np.ndarray, known: tuple[np.ndarray, np.ndarray], root_grid: int, bits: int
) -> np.ndarray:
    """Return the first words of keys."""
    wide = np.ascontiguousarray(array, np.float64)
    first: np.ndarray = encode(wide, np.empty(0, np.int64), cells(*known, bits), root_grid, bits)[0]
    return first


def _bounds(
    ranks: Ranks,
    keys: list[np.ndarray],
    costs: list[np.ndarray],
    bits: int,
    root_grid: int,
    deepest: int,
) -> np.ndarray:
    """Return where the stretches of ranks begin."""
    together, cost = np.concatenate(keys), np.concatenate(costs)
    order = np.argsort(together, kind="stable")
    return bounds_of(ranks, together[order], cost[order], bits, root_grid**3, deepest)


def _domain(
    ranks: Ranks,
    starts: np.ndarray,
    points: SortedPoints,
    exchanges: list[Exchange],
    given: tuple[np.ndarray, np.ndarray],
    targets: np.ndarray,
) -> Domain:
    """Return what belongs to whom in free space."""
    has = np.concatenate(ranks.gather(np.array([len(targets) > 0])))
    counts = np.full(3, points.root_grid)
    first = np.ones(len(points.source_permutation), bool)
    return Domain(
        ranks, starts, counts, np.zeros(3, np.int64), points.bits, points.root_grid,
        exchanges[-1], exchanges[0], given, has, first,
    )  # fmt: skip
