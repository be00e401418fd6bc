"""How large leaves should be: what costs least for points that lie as they do.

Trees know points only; here is what evaluations on them cost (`fmm.cost`).
"""

from typing import NamedTuple

import numpy as np

from fmm import choice
from fmm.cost import Work, best_occupancy, seconds_per_point
from fmm.steps import ROOT_GRIDS, Array, Steps
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches, Geometry

# a direct sum that takes more than so many times the fixed cost of a far field is never cheapest
_NEVER_DIRECT = 100.0
# uneven points whose direct sum takes more than so many times get a tree, to see what they are like
_WORTH_A_TREE = 5.0
# how many times the mean of all leaves the fullest leaf holds where points are spread unevenly
_FULLEST = 2.8


def arrange(
    steps: Steps,
    targets: Array,
    sources: Array,
    batches: Batches,
    work: Work,
    leaf_size: int | None,
    smallest: float = 0.0,
) -> Geometry:
    """Return points, tree and lists for what is to be computed.

    Parameters
    ----------
    steps : Steps
        Those of the place where the points lie.
    targets, sources : array, shape (n, 3)
        float32 or float64; the same object if they are the same points.
    batches : pair of array or None
        System of each target and source.
    work : Work
        What an evaluation asks for; decides the size of leaves.
    leaf_size : int or None
        Most points in a leaf; None to choose.
    smallest : float
        Points closer than this are to be near.
    """
    points = steps.sort(targets, sources, batches)
    chosen = leaf_size is None
    if leaf_size is None:
        numbers = steps.number(targets), steps.number(sources)
        root_grids = steps.root_grids(work.degree, numbers[1])
        given = points, numbers, steps.occupancy(points), work, smallest, root_grids, steps.images
        root_grid, leaf_size = choose_leaves(*given)
        if root_grid > 1:
            points = steps.sort(targets, sources, batches, root_grid)
    least = work.least_for_expansion()
    geometry = steps.geometry(points, targets, sources, leaf_size, least, smallest)
    return cheaper(geometry, work) if chosen else geometry


def cheaper(geometry: Geometry, work: Work) -> Geometry:
    """Return a geometry, or that of direct sums if these turn out to cost less."""
    if not geometry.can_be_direct:
        return geometry
    direct = _direct_seconds(work, *geometry.everywhere)
    many_systems = len(geometry.sorted_points.edge) > 1
    if many_systems or direct > _NEVER_DIRECT * work.machine().fixed or not geometry.has_far_field:
        return geometry
    degrees = (work.degree,) * (len(geometry.tree.level_starts) - 1)
    expected = choice.seconds(geometry, work, degrees) + work.machine().fixed
    return geometry.direct() if direct < expected else geometry


def _direct_seconds(work: Work, n_targets: float, n_sources: float) -> float:
    """Return what direct sums cost; on a GPU few targets take as long as many."""
    if work.processor != "cpu":
        n_targets = max(n_targets, n_sources)
    return n_targets * n_sources * work.seconds_per_wide_pair()


def choose_leaves(
    points: SortedPoints,
    numbers: tuple[int, int],
    filling: tuple[np.ndarray, np.ndarray],
    work: Work,
    smallest: float = 0.0,
    root_grids: tuple[int, ...] = ROOT_GRIDS,
    images: int = 1,
) -> tuple[int, int]:
    """Return the root grid and the leaf size that cost least.

    Points spread evenly fill a grid whose boxes hold about the best number; of the grids 2^k,
    3 2^k, 5 2^k the cheapest is taken, with leaves large enough not to divide its boxes. Points
    spread unevenly get leaves of about the best size. Few points are one leaf, summed directly.

    Parameters
    ----------
    points : SortedPoints
        On the host or the device.
    numbers : tuple of int
        Of targets and sources.
    filling : pair of ndarray
        What `occupancy` says of them.
    work : Work
        What is to be computed.
    smallest : float
        Least edge of boxes that are made by division.
    root_grids : tuple of int
        Boxes along the coarsest level that may be.
    images : int
        How many images of the sources are near.
    """
    n_systems = max(1, len(points.edge))  # batches may be empty, too
    counts = [number / n_systems for number in numbers]
    fewest, n = min(counts), max(counts)
    boxes, crowding = filling
    boxes = boxes / n_systems
    if len(boxes) < 2 or n < 16 or fewest == 0:
        return 1, int(n) + 64
    grids = _grids(boxes, crowding, n, work, root_grids)
    too_small = points.edge.max() < smallest * np.exp2(grids.halvings)
    too_empty = n < work.machine().least * grids.boxes
    seconds = np.where((too_small | too_empty) & (grids.halvings > 0), np.inf, grids.seconds)
    best = int(np.argmin(seconds))
    root, dimension, filled, crowd = (a[best] for a in grids[1:5])
    near = 3.0**dimension * crowd * work.seconds_per_pair() * n / filled
    least = _least_per_point(work, fewest, n, filled, near, seconds[best] - near)
    direct = images * _direct_seconds(work, *counts)
    # clusters of different density fill no grid evenly: `cheaper` then looks at the actual tree
    uneven = crowd >= 2.0 and n_systems == 1 and direct > _WORTH_A_TREE * work.machine().fixed
    if direct < n * least and not uneven:
        return 1, int(4 * n)
    if crowd < 2.0 and n_systems == 1:
        held = n / filled
        # more than the fullest box of this grid holds by chance (held + 3 standard deviations),
        # less than the emptiest box of the grid one level coarser, which is to be divided
        above = max(held + 3 * held**0.5, 8 * held - 3 * (8 * held) ** 0.5)
        return int(root), int(min(held + 6 * held**0.5 + 8, above))
    return 1, int(_FULLEST * best_occupancy(work, float(dimension), n))


class _Grids(NamedTuple):
    """Grids of boxes of one size, between the levels of halving too; arrays of one shape."""

    halvings: np.ndarray
    """Logarithm to base 2 of the boxes along an axis."""
    root: np.ndarray
    """Boxes along an axis on the coarsest level, see `ROOT_GRIDS`."""
    dimension: np.ndarray
    """Of what the points fill: 3 of a volume, 2 of a surface, 1 of a line."""
    boxes: np.ndarray
    """How many boxes of a system hold points."""
    crowding: np.ndarray
    """See `fmm.tree.curve.occupancy`."""
    seconds: np.ndarray
    """What expansions cost per point."""


def _grids(
    boxes: np.ndarray, crowding: np.ndarray, n: float, work: Work, root_grids: tuple[int, ...]
) -> _Grids:
    """Return the grids among which `choose_leaves` chooses."""
    levels = np.arange(len(boxes))
    root = np.repeat(root_grids, len(boxes))
    halvings = np.log2(root) + np.tile(levels, len(root_grids))
    filled = np.exp2(np.interp(halvings, levels, np.log2(boxes)))
    # from the level above: below, boxes may be empty by chance
    growth = np.diff(np.log2(boxes), prepend=2 * np.log2(boxes[0]) - np.log2(boxes[1]))
    dimension = np.clip(np.interp(halvings, levels, growth), 1.0, 3.0)
    crowd = np.interp(halvings, levels, crowding)
    columns = zip(dimension, filled, crowd, strict=True)
    seconds = np.array([seconds_per_point(work, d, n / b, c, n) for d, b, c in columns])
    return _Grids(halvings, root, dimension, filled, crowd, seconds)


def _least_per_point(
    work: Work, fewest: float, n: float, boxes: float, near: float, far: float
) -> float:
    """Return a lower bound of the cost with expansions, per point of the more numerous kind.

    Only boxes that hold points of the rarer kind do all of the work; in others expansions are only
    formed, or only evaluated. `near` and `far` are the cost per point if both kinds are numerous.
    """
    busy = min(1.0, fewest / min(boxes, n))
    idle = 0.5 * work.harmonics()[work.degree] + work.seconds_per_leaf() * boxes / n
    return near * fewest / n + far * busy + (1 - busy) * float(idle) + work.machine().fixed / n
