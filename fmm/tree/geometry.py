"""The points of a plan in the order of their tree, the tree, and who meets whom in it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fmm.tree.build import Tree, build_tree
from fmm.tree.curve import SortedPoints, sort_points
from fmm.tree.lists import Lists, Transfers, build_lists, transfers, transfers_of_levels
from fmm.tree.sorting import gathered
from multipoles.layout import Tiles, cut_tiles

Batches = tuple[np.ndarray | None, np.ndarray | None]

# leaves of more targets are cut into tiles of about so many
MOST_TARGETS, TILE = 512, 256


@dataclass(frozen=True, eq=False)
class Outline:
    """As much of a geometry as errors are estimated from, in arrays of NumPy.

    See `fmm.error.indicators.Boxed`; of tree and lists, what an estimate does not ask for may be
    empty.
    """

    tree: Tree
    lists: Lists
    edges: np.ndarray
    levels: np.ndarray
    targets: np.ndarray
    target_leaves: np.ndarray


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

    shape: tuple[tuple[float, float, float], ...] | None = None
    """Vectors of boxes in units of their edge; None of cubes."""
    root_transfers = 0
    """How many translations between root boxes cost as much as what they send each other."""
    can_be_direct = True
    """Whether all pairs may be summed directly instead."""

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
        self.same = targets is sources
        self.tree = self._tree()
        self._points: dict[np.dtype, tuple[np.ndarray, np.ndarray]] = {}
        self._transfers: Transfers | None = None  # of this tree, or of one that may have its boxes

    def _tree(self) -> Tree:
        return build_tree(self.sorted_points, self.leaf_size, self.smallest)

    @property
    def own_sources(self) -> np.ndarray:
        """Sources that were given, in the order of the tree."""
        return self.sources

    @property
    def n_targets(self) -> int:
        """Number of targets that were given."""
        return int(self.targets.shape[0])

    @property
    def n_sources(self) -> int:
        """Number of sources that were given."""
        return int(self.sources.shape[0])

    @property
    def everywhere(self) -> tuple[int, int]:
        """Targets and sources on all machines together; so are the numbers that follow."""
        return int(self.targets.shape[0]), int(self.sources.shape[0])

    @property
    def n_boxes(self) -> int:
        """Boxes of the tree."""
        return int(self.tree.n_children.shape[0])

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
        own = self.own_sources
        sources = np.empty_like(own)
        sources[self.tree.source_permutation] = own
        if self.same:
            return sources, sources
        targets = np.empty_like(self.targets)
        targets[self.tree.target_permutation] = self.targets
        return targets, sources

    @cached_property
    def lists(self) -> Lists:
        """Who meets whom; worked out when first needed."""
        self._transfers = transfers(self.tree, self._transfers)
        return build_lists(self.tree, self.least, self.least, self._transfers)

    @cached_property
    def has_far_field(self) -> bool:
        """Whether any pair is not summed directly."""
        lists = self.lists
        kinds = lists.m2l_targets, lists.m2p_targets, lists.p2l_targets
        return any(boxes.shape[0] for boxes in kinds)

    @cached_property
    def near(self) -> Tiles:
        """Leaves, and the sources near to each.

        Those of many targets are cut, so that threads may share the work.
        """
        leaves, starts = self.target_leaves, self.lists.near_range_starts
        starts = np.append(starts[leaves], starts[-1])
        tiles = self.tree.target_range[leaves], starts, self.lists.near_ranges
        return cut_tiles(tiles, TILE, MOST_TARGETS)

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
        n, tree = int(self.own_ends[0]), self.tree
        return tree.system[:n], tree.target_range[:n], tree.source_range[:n]

    @cached_property
    def target_leaves(self) -> np.ndarray:
        """Leaves with targets."""
        return self._leaves_with(self.tree.target_range)

    @cached_property
    def source_leaves(self) -> np.ndarray:
        """Leaves whose expansions are formed of their sources."""
        return self._leaves_with(self.tree.source_range)

    def _leaves_with(self, ranges: np.ndarray) -> np.ndarray:
        return np.flatnonzero((ranges[:, 1] > ranges[:, 0]) & (self.tree.n_children == 0))

    @property
    def own_ends(self) -> np.ndarray:
        """Where on every level the boxes end whose expansions are formed."""
        return self.tree.level_starts[1:]

    def own_boxes(self, level: int) -> np.ndarray:
        """Return the boxes of a level whose expansions are formed."""
        return np.arange(self.tree.level_starts[level], self.own_ends[level])

    @cached_property
    def translations(self) -> np.ndarray:
        """Multipole-to-local translations of each level."""
        return transfers_of_levels(self.lists, self.tree.level_starts)

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
    def leaf_edges(self) -> tuple[float, float]:
        """Edges of the smallest and of the largest leaf."""
        edges = self.tree.edge[self.tree.n_children == 0]
        return float(edges.min(initial=np.inf)), float(edges.max(initial=0.0))

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

    def _like(
        self,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
    ) -> "Geometry":
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
        points = sort_points(targets, sources, *batches, root_grid=self.sorted_points.root_grid)
        ordered = along_curve(points, targets, sources)
        after = self._like(points, *ordered, self.leaf_size, self.least)
        after._transfers = self._transfers
        return after


def edges_of(edge: np.ndarray, level_starts: np.ndarray) -> np.ndarray:
    """Return the edge of the largest boxes of every level; one without any box."""
    if not len(edge):
        return np.ones(len(level_starts) - 1)
    return np.maximum.reduceat(edge, level_starts[:-1])


def along_curve(
    points: SortedPoints, targets: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sources and targets along the curve, float64."""
    ordered = np.asarray(gathered(sources, points.source_permutation), np.float64)
    # the same points in other systems are sorted differently
    if points.target_permutation is points.source_permutation:
        return ordered, ordered
    return ordered, np.asarray(gathered(targets, points.target_permutation), np.float64)
