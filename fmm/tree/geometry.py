"""The points of a plan in the order of their tree, the tree, and who meets whom in it."""

from functools import cached_property
from typing import Any

import numpy as np

from fmm import choice
from fmm.cost import FIXED_SECONDS, Work, best_occupancy, seconds_per_point
from fmm.tree.build import Tree, build_tree
from fmm.tree.curve import SortedPoints, occupancy, sort_points
from fmm.tree.lists import Lists, build_lists

Batches = tuple[np.ndarray | None, np.ndarray | None]

# boxes along the coarsest level: with halving, leaf grids of 2^k, 3 2^k and 5 2^k
ROOT_GRIDS = (1, 3, 5)
# direct sums that cost more, in units of the fixed cost of a far field, are never the cheapest;
# and from this on uneven points are worth a tree to see what they are like
_NEVER_DIRECT, _WORTH_A_TREE = 100.0, 5.0
# leaves of more targets are cut into tiles of about so many
MOST_TARGETS, TILE = 512, 256


class Geometry:
    """Points in tree order, their tree and its lists.

    Parameters
    ----------
    points : SortedPoints
        Points along the curve.
    sources, targets : ndarray, shape (n, 3)
        Points in that order, float64; the same object if they are the same points.
    leaf_size : int
        Most points in a leaf.
    least : int
        Points a box must hold for its expansion to be used with single points.
    smallest : float
        Least edge of a box that is made by division. Points closer than that are near: boxes that
        do not touch are apart by the edge of the smaller one.
    """

    def __init__(
        self,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float = 0.0,
    ) -> None:
        self.sorted_points, self.sources, self.targets = points, sources, targets
        self.leaf_size, self.least, self.smallest = leaf_size, least, smallest
        self.tree = self._tree()
        self._points: dict[np.dtype, tuple[np.ndarray, np.ndarray]] = {}

    def _tree(self) -> Tree:
        return build_tree(self.sorted_points, self.leaf_size, self.smallest)

    def points(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and sources of a dtype, in the caller's coordinates."""
        if dtype not in self._points:
            sources = self.sources.astype(dtype, copy=False)
            same = self.targets is self.sources
            targets = sources if same else self.targets.astype(dtype, copy=False)
            self._points[dtype] = targets, sources
        return self._points[dtype]

    def unsorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and sources, float64, in the order in which they were given."""
        sources = np.empty_like(self.sources)
        sources[self.tree.source_order] = self.sources
        if self.targets is self.sources:
            return sources, sources
        targets = np.empty_like(self.targets)
        targets[self.tree.target_order] = self.targets
        return targets, sources

    @cached_property
    def lists(self) -> Lists:
        """Who meets whom; worked out when first needed."""
        return build_lists(self.tree, self.least, self.least)

    @cached_property
    def has_far_field(self) -> bool:
        """Whether any pair is not summed directly."""
        lists = self.lists
        kinds = lists.m2l_targets, lists.m2p_targets, lists.p2l_targets
        return any(boxes.shape[0] for boxes in kinds)

    @cached_property
    def near(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ranges of targets, starts of the ranges of sources near to each, and these.

        Of leaves, those of many targets cut into tiles, so that threads may share the work.
        """
        leaves, starts = self.target_leaves, self.lists.near_range_starts
        starts = np.append(starts[leaves], starts[-1])
        return _tiles(self.tree.target_range[leaves], starts, self.lists.near_ranges)

    @cached_property
    def n_near_pairs(self) -> int:
        """Pairs of points summed directly."""
        leaves, starts, ranges = self.near
        lengths = np.append(0, np.cumsum(ranges[:, 1] - ranges[:, 0]))
        return int(((leaves[:, 1] - leaves[:, 0]) * np.diff(lengths[starts])).sum())

    @cached_property
    def edges(self) -> np.ndarray:
        """Edge of the largest boxes of every level."""
        return edges_of(self.tree.edge, self.tree.level_starts)

    @property
    def roots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Systems, and ranges of targets and sources, of the boxes of level 0."""
        n, tree = int(self.tree.level_starts[1]), self.tree
        return tree.system[:n], tree.target_range[:n], tree.source_range[:n]

    @cached_property
    def target_leaves(self) -> np.ndarray:
        """Leaves with targets."""
        occupied = self.tree.target_range[:, 1] > self.tree.target_range[:, 0]
        return np.flatnonzero(occupied & (self.tree.n_children == 0))

    @cached_property
    def translations(self) -> np.ndarray:
        """Multipole-to-local translations of each level."""
        n_levels = len(self.tree.level_starts) - 1
        return np.bincount(self.levels[self.lists.m2l_targets], minlength=n_levels)

    @cached_property
    def levels(self) -> np.ndarray:
        """Level of every box."""
        starts = self.tree.level_starts
        return np.repeat(np.arange(len(starts) - 1), np.diff(starts))

    @cached_property
    def n_mixed(self) -> int:
        """Points that meet expansions of boxes."""
        tree, lists = self.tree, self.lists
        ranges = tree.target_range[lists.m2p_targets], tree.source_range[lists.p2l_sources]
        return int(sum((r[:, 1] - r[:, 0]).sum() for r in ranges))

    @cached_property
    def n_leaves(self) -> int:
        """Boxes that are not divided."""
        return int(np.count_nonzero(self.tree.n_children == 0))

    @cached_property
    def n_across(self) -> int:
        """Boxes along the coarsest level."""
        return int(self.tree.anchor[: self.tree.level_starts[1]].max(initial=0)) + 1

    def fits_single(self, source_order: int, order: int) -> bool:
        """Return whether expansions may be float32, for moments of about one.

        They count in edges of their boxes, moments of order K as edge^-K and fields as
        edge^-(order + 1): small boxes ask for more exponents. Half of them are left to moments.
        """
        halvings = len(self.tree.level_starts) - 2
        least = np.log2(self.sorted_points.edge.min(initial=np.inf)) - halvings
        return bool(-least * max(source_order, order + 1) < 64)

    def with_leaves(self, leaf_size: int, least: int | None = None) -> "Geometry":
        """Return the same points in a tree of other leaves."""
        least = self.least if least is None else least
        return self._like(self.sorted_points, self.sources, self.targets, leaf_size, least)

    def direct(self) -> "Geometry":
        """Return the same points as one leaf for each system: all pairs are summed directly."""
        points = self.sorted_points
        if points.root_grid > 1:
            points = points.in_one_cell(self._system_keys)
        most = max(self.targets.shape[0], self.sources.shape[0], 1)
        return self._like(points, self.sources, self.targets, most, self.least)

    def _system_keys(self, keys: np.ndarray) -> np.ndarray:
        """Return keys that name the system of points in one root cell, and nothing else."""
        bits, cells_of_system = 3 * self.sorted_points.bits, self.sorted_points.root_grid**3
        return (keys[:1] >> bits) // cells_of_system << bits

    def _like(self, points, sources, targets, leaf_size, least) -> "Geometry":
        return Geometry(points, sources, targets, leaf_size, least, self.smallest)

    @cached_property
    def transposed(self) -> "Geometry":
        """The same tree with targets and sources exchanged."""
        if self.sources is self.targets:
            return self
        points = self.sorted_points.transposed()
        other = self._like(points, self.targets, self.sources, self.leaf_size, self.least)
        other.__dict__["transposed"] = self
        return other

    def moved(self, targets: np.ndarray, sources: np.ndarray, batches: Batches) -> "Geometry":
        """Return other points in a tree of the same kind: root grid, leaf size, smallest box.

        Parameters
        ----------
        targets, sources : ndarray, shape (n, 3)
            float32 or float64; the same object if they are the same points.
        batches : pair of ndarray or None
            System of each target and source.
        """
        s = np.ascontiguousarray(sources, np.float64)
        x = s if targets is sources else np.ascontiguousarray(targets, np.float64)
        points = sort_points(x, s, *batches, root_grid=self.sorted_points.root_grid)
        return self._like(points, *_ordered(points, x, s), self.leaf_size, self.least)


def edges_of(edge: np.ndarray, level_starts: np.ndarray) -> np.ndarray:
    """Return the edge of the largest boxes of every level; one without any box."""
    if not len(edge):
        return np.ones(len(level_starts) - 1)
    return np.maximum.reduceat(edge, level_starts[:-1])


def _tiles(
    targets: np.ndarray, starts: np.ndarray, ranges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ranges of targets, starts and ranges of sources, leaves of many targets cut up."""
    held = targets[:, 1] - targets[:, 0]
    parts = np.where(held > MOST_TARGETS, -(-held // TILE), 1)
    if (parts == 1).all():
        return targets, starts, ranges
    leaf = np.repeat(np.arange(len(targets)), parts)
    part = np.arange(len(leaf)) - np.repeat(np.cumsum(parts) - parts, parts)
    ends = [targets[leaf, 0] + held[leaf] * (part + k) // parts[leaf] for k in (0, 1)]
    counts = np.diff(starts)[leaf]
    places = np.append(0, np.cumsum(counts))
    index = np.arange(places[-1]) + np.repeat(starts[leaf] - places[:-1], counts)
    return np.stack(ends, axis=1), places, ranges[index]


def _ordered(
    points: SortedPoints, targets: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sources and targets along the curve."""
    ordered = sources[points.source_order]
    # the same points in other systems are sorted differently
    same = points.target_order is points.source_order
    return ordered, ordered if same else targets[points.target_order]


def arrange(
    targets: np.ndarray,
    sources: np.ndarray,
    batches: Batches,
    work: Work,
    leaf_size: int | None,
    smallest: float = 0.0,
) -> Geometry:
    """Return points, tree and lists for what is to be computed.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        float32 or float64; the same object if they are the same points.
    batches : pair of ndarray or None
        System of each target and source.
    work : Work
        What an evaluation asks for; decides the size of leaves.
    leaf_size : int or None
        Most points in a leaf; None to choose.
    smallest : float
        Points closer than this are to be near.
    """
    s = np.ascontiguousarray(sources, np.float64)
    x = s if targets is sources else np.ascontiguousarray(targets, np.float64)
    points = sort_points(x, s, *batches)
    chosen = leaf_size is None
    if leaf_size is None:
        root_grid, leaf_size = choose_leaves(points, occupancy(points), work, smallest)
        if root_grid > 1:
            points = sort_points(x, s, *batches, root_grid=root_grid)
    geometry = Geometry(
        points, *_ordered(points, x, s), leaf_size, work.least_for_expansion(), smallest
    )
    return cheaper(geometry, work) if chosen else geometry


def cheaper(geometry: Any, work: Work) -> Any:
    """Return a geometry, or that of direct sums if these turn out to cost less."""
    direct = _direct_seconds(work, geometry.targets.shape[0], geometry.sources.shape[0])
    many_systems = len(geometry.sorted_points.edge) > 1
    if many_systems or direct > _NEVER_DIRECT * FIXED_SECONDS or not geometry.has_far_field:
        return geometry
    degrees = (work.degree,) * (len(geometry.tree.level_starts) - 1)
    expected = choice.seconds(geometry, work, degrees) + FIXED_SECONDS
    return geometry.direct() if direct < expected else geometry


def _direct_seconds(work: Work, n_targets: float, n_sources: float) -> float:
    """Return what direct sums cost; on a GPU few targets take as long as many."""
    if work.processor != "cpu":
        n_targets = max(n_targets, n_sources)
    return n_targets * n_sources * work.seconds_per_pair()


def choose_leaves(
    points: SortedPoints, filling: tuple[np.ndarray, np.ndarray], work: Work, smallest: float = 0.0
) -> tuple[int, int]:
    """Return the root grid and the leaf size that cost least.

    Points spread evenly fill a grid whose boxes hold about the best number; of the grids 2^k,
    3 2^k, 5 2^k the cheapest is taken, with leaves large enough not to divide its boxes. Points
    spread unevenly get leaves of about the best size. Few points are one leaf, summed directly.

    Parameters
    ----------
    points : SortedPoints
        On the host or the device.
    filling : pair of ndarray
        What `occupancy` says of them.
    work : Work
        What is to be computed.
    smallest : float
        Least edge of boxes that are made by division.
    """
    n_systems = len(points.edge)
    counts = [keys.shape[1] / n_systems for keys in (points.target_keys, points.source_keys)]
    fewest, n = min(counts), max(counts)
    boxes, crowding = filling
    boxes = boxes / n_systems
    if len(boxes) < 2 or n < 16 or fewest == 0:
        return 1, int(n) + 64
    # boxes of a grid of any size, between the levels of halving
    roots = np.repeat(ROOT_GRIDS, len(boxes))
    grids = np.log2(roots) + np.tile(np.arange(len(boxes)), len(ROOT_GRIDS))
    levels = np.arange(len(boxes))
    filled = np.exp2(np.interp(grids, levels, np.log2(boxes)))
    dimension = np.clip(np.interp(grids, levels, np.gradient(np.log2(boxes))), 1.0, 3.0)
    crowd = np.interp(grids, levels, crowding)
    seconds = np.array(
        [
            seconds_per_point(work, d, n / b, c)
            for d, b, c in zip(dimension, filled, crowd, strict=True)
        ]
    )
    too_small = points.edge.max() < smallest * np.exp2(grids)
    too_empty = n < work.machine().least * filled
    seconds[(too_small | too_empty) & (grids > 0)] = np.inf
    best = int(np.argmin(seconds))
    near = 3.0 ** dimension[best] * crowd[best] * work.seconds_per_pair() * n / filled[best]
    least = _least_per_point(work, fewest, n, filled[best], near, seconds[best] - near)
    direct = _direct_seconds(work, *counts)
    # clusters of different sizes fill no grid evenly: then `cheaper` looks at the tree itself
    uneven = crowd[best] >= 2.0 and n_systems == 1 and direct > _WORTH_A_TREE * FIXED_SECONDS
    if direct < n * least and not uneven:
        return 1, int(4 * n)
    if crowd[best] < 2.0 and n_systems == 1:
        held = n / filled[best]
        # between the fullest of these boxes and the emptiest that would be divided into them
        above = max(held + 3 * held**0.5, 8 * held - 3 * (8 * held) ** 0.5)
        return int(roots[best]), int(min(held + 6 * held**0.5 + 8, above))
    return 1, int(2.2 * best_occupancy(work, float(dimension[best])))


def _least_per_point(
    work: Work, fewest: float, n: float, boxes: float, near: float, far: float
) -> float:
    """Return what expansions cost at least, per point of the larger kind.

    Work falls to the boxes that hold points of the smaller kind; others only form expansions of
    theirs, or evaluate them. `near` and `far` are the cost per point if both kinds are many.
    """
    busy = min(1.0, fewest / min(boxes, n))
    idle = 0.5 * work.harmonics()[work.degree] + work.seconds_per_leaf() * boxes / n
    return near * fewest / n + far * busy + (1 - busy) * float(idle) + FIXED_SECONDS / n
