"""The points that one rank owns, in the order of their tree, with what it meets of other ranks.

What is summed directly lies behind the own sources: first what other ranks own, then, in a cell,
images of both.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fmm.distributed.boxes import Merged, merged
from fmm.distributed.links import boxes_link, sources_link
from fmm.distributed.partition import Domain
from fmm.tree.build import Tree, build_tree
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import MOST_TARGETS, TILE, Batches, Geometry
from fmm.tree.lists import Lists, build_lists, ranges_of, transfers
from multipoles.layout import Tiles, cut_tiles


class SomePairs(NamedTuple):
    """Some of the multipole-to-local pairs, see `fmm.far.driver.Pairs`."""

    m2l_starts: np.ndarray
    m2l_targets: np.ndarray
    m2l_sources: np.ndarray


class Numbers(NamedTuple):
    """Numbers of all ranks together, by which all decide alike."""

    translations: np.ndarray
    near_pairs: int
    mixed: int
    leaves: int
    boxes: int
    targets: int
    sources: int
    far: int
    """Ranks with any far field."""


class Foreign(Geometry):
    """A geometry that knows boxes of other ranks; in free space and in a cell alike.

    Attributes
    ----------
    domain : Domain
        What belongs to whom.
    merged : Merged
        Own boxes and those of others, images not among them.
    n_own, n_first : int
        Own sources, and these with what other ranks own.
    """

    domain: Domain
    merged: Merged
    n_own: int
    n_first: int
    root_edge: float

    # --- boxes of others --------------------------------------------------------------------------

    def _own_ranges(self, home: Tree) -> np.ndarray:
        """Return the ranges of own sources of all merged boxes, none where they are not own."""
        ranges = np.zeros((len(self.merged.own), 2), np.int64)
        own = self.merged.own >= 0
        ranges[own] = home.source_range[self.merged.own[own]]
        return ranges

    def _link_sources(self, home: Tree, needed: np.ndarray) -> np.ndarray:
        """Append sources of some boxes of others; return the ranges of all merged boxes."""
        ranges = self._own_source_ranges.copy()
        needed = needed[self.merged.own[needed] < 0]
        link, boxes, counts = sources_link(self.domain, self.merged, needed, home.source_range)
        ends = self.n_own + np.cumsum(counts)
        ranges[boxes] = np.stack([ends - counts, ends], axis=1)
        come = link.post(self.sources).wait()
        if len(come):
            same = self.same
            self.sources = np.concatenate([self.sources, come])
            if same:
                self.targets = self.sources[: self.n_own]
        self.source_link, self.n_first = link, len(self.sources)
        return ranges

    def _link_boxes(self, needed: np.ndarray) -> None:
        """Ask for the expansions of some merged boxes."""
        at_top = np.zeros(len(self.merged.own), bool)
        at_top[self.merged.top] = True
        needed = needed[(self.merged.own[needed] < 0) & ~at_top[needed]]
        self.box_link, self._box_rows = boxes_link(self.domain, self.merged, needed)
        self._is_ready = (self.merged.own >= 0) & ~at_top

    def completed(self, rows: np.ndarray) -> Callable[[], None]:
        """Begin to fill in what other ranks know; returns what waits for it.

        Parameters
        ----------
        rows : ndarray, shape (n_merged, ...)
            Values of boxes: own ones, and of shared ones this rank's part of the sum.
        """
        top = self.merged.top
        parts = rows[top]
        parts[self.merged.own[top] < 0] = 0
        whole = self.domain.ranks.post_sum(parts)
        others = self.box_link.post(rows)

        def fill() -> None:
            rows[self._box_rows] = others.wait()
            rows[top] = whole.wait()

        return fill

    def box_sums(self, values: np.ndarray) -> np.ndarray:
        """Return sums over the sources of all boxes of the tree, on whatever rank they are.

        Parameters
        ----------
        values : ndarray, shape (n, columns)
            Of the sources, of which the own ones count.
        """
        ends = np.zeros((self.n_own + 1, values.shape[1]))
        np.cumsum(values[: self.n_own], axis=0, out=ends[1:])
        ranges = self._own_source_ranges
        sums: np.ndarray = ends[ranges[:, 1]] - ends[ranges[:, 0]]
        self.completed(sums)()
        return self.of_all(sums)

    _own_source_ranges: np.ndarray

    def of_all(self, rows: np.ndarray) -> np.ndarray:
        """Return values of all boxes of the tree from those of merged boxes: here they are one."""
        return rows

    # --- what lists are made of -------------------------------------------------------------------

    @property
    def is_own(self) -> np.ndarray:
        """Of every box of the tree, whether points or expansions of this rank are in it."""
        return self.merged.own >= 0

    @property
    def is_ready(self) -> np.ndarray:
        """Of every box of the tree, whether its expansion is known without other ranks."""
        return self._is_ready

    def own_boxes(self, level: int) -> np.ndarray:
        """Return the boxes of a level whose expansions are formed."""
        first, last = self.tree.level_starts[level : level + 2]
        return first + np.flatnonzero(self.is_own[first:last])

    @cached_property
    def source_leaves(self) -> np.ndarray:
        """Leaves whose expansions are formed of their sources."""
        leaves = self._leaves_with(self.tree.source_range)
        return leaves[self.is_own[leaves]]

    @cached_property
    def pairs(self) -> tuple[SomePairs, SomePairs]:
        """Multipole-to-local pairs whose senders are known at once, and the others."""
        lists = self.lists
        ready = self.is_ready[lists.m2l_sources]
        before = np.append(0, np.cumsum(ready))[lists.m2l_starts]
        first = SomePairs(before, lists.m2l_targets[ready], lists.m2l_sources[ready])
        starts = lists.m2l_starts - before
        return first, SomePairs(starts, lists.m2l_targets[~ready], lists.m2l_sources[~ready])

    @cached_property
    def near_parts(self) -> tuple[Tiles, Tiles]:
        """Leaves with the own sources near to each, and leaves with others."""
        starts, boxes = self.lists.near_starts, self.lists.near_boxes
        own = self.tree.source_range[boxes, 1] <= self.n_own
        return self._tiles(starts, boxes, own, True), self._tiles(starts, boxes, ~own, False)

    def _tiles(
        self, starts: np.ndarray, boxes: np.ndarray, chosen: np.ndarray, every: bool
    ) -> Tiles:
        """Return leaves with those of their near boxes that are chosen; all leaves, if `every`."""
        starts = np.append(0, np.cumsum(chosen))[starts]
        range_starts, ranges = ranges_of(starts, boxes[chosen], self.tree.source_range)
        leaves = self.target_leaves
        if not every:
            leaves = leaves[range_starts[leaves + 1] > range_starts[leaves]]
        ends = np.append(range_starts[leaves], range_starts[-1])
        return cut_tiles((self.tree.target_range[leaves], ends, ranges), TILE, MOST_TARGETS)

    # --- numbers of all ranks ---------------------------------------------------------------------

    # Ranks that are threads of one process must not meet in a `cached_property`: up to Python 3.11
    # it has one lock for all objects of a class.

    def _count(self) -> None:
        """Work out the numbers of all ranks together; all do when they make a geometry."""
        base: Any = super()
        is_own = self.is_own
        is_leaf = is_own & (self.tree.n_children == 0)
        counts = [
            base.n_near_pairs, base.n_mixed, is_leaf.sum(), is_own.sum(), len(self.targets),
            self.n_own, base.has_far_field,
        ]  # fmt: skip
        found = self.domain.ranks.sum(np.append(counts, base.translations).astype(np.int64))
        self.numbers = Numbers(found[7:], *found[:7].tolist())
        edges = self.tree.edge[is_leaf]
        ends = np.array([-edges.min(initial=np.inf), edges.max(initial=0.0)])
        smallest, largest = self.domain.ranks.largest(ends)
        self._leaf_edges = float(-smallest), float(largest)

    numbers: Numbers
    _leaf_edges: tuple[float, float]

    @property
    def n_near_pairs(self) -> int:
        """Pairs of points summed directly."""
        return self.numbers.near_pairs

    @property
    def n_mixed(self) -> int:
        """Points that meet expansions of boxes."""
        return self.numbers.mixed

    @property
    def n_leaves(self) -> int:
        """Boxes that are not divided."""
        return self.numbers.leaves

    @property
    def n_boxes(self) -> int:
        """Boxes of the trees; those that ranks share count for each."""
        return self.numbers.boxes

    @property
    def translations(self) -> np.ndarray:
        """Multipole-to-local translations of each level."""
        return self.numbers.translations

    @property
    def everywhere(self) -> tuple[int, int]:
        """Targets and sources."""
        return self.numbers.targets, self.numbers.sources

    @property
    def leaf_edges(self) -> tuple[float, float]:
        """Edges of the smallest and of the largest leaf of any rank."""
        return self._leaf_edges

    @cached_property
    def edges(self) -> np.ndarray:
        """Edge of the boxes of every level."""
        edges: np.ndarray = np.ldexp(self.root_edge, -np.arange(len(self.tree.level_starts) - 1))
        return edges

    @property
    def roots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The one system, and numbers of targets and sources, as ranges."""
        targets, sources = self.everywhere
        return np.zeros(1, np.int64), np.array([[0, targets]]), np.array([[0, sources]])

    def costs(self, seconds: float, near_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Return what the targets and sources cost that were given here, in seconds.

        Parameters
        ----------
        seconds, near_seconds : float
            That this rank was busy with an evaluation, and with pairs of points.
        """
        base: Any = super()
        leaves, starts, ranges = base.near
        lengths = np.append(0, np.cumsum(ranges[:, 1] - ranges[:, 0]))
        held = leaves[:, 1] - leaves[:, 0]
        pairs = np.repeat(np.diff(lengths[starts]), held).astype(np.float64)
        n = max(len(self.targets), 1)
        share = min(near_seconds, seconds) / max(pairs.sum(), 1.0)
        of_targets = np.full(len(self.targets), max(seconds - near_seconds, 0.0) / n)
        order = np.concatenate([np.arange(a, b) for a, b in leaves] or [np.empty(0, np.int64)])
        of_targets[order] += share * pairs
        in_order = np.empty_like(of_targets)
        in_order[self.tree.target_permutation] = of_targets
        back = self.domain.targets.back(in_order)
        if self.same:
            return back, back
        return back, np.full(self.n_sources, 0.1 * seconds / max(self.n_own, 1))

    # --- what was given ---------------------------------------------------------------------------

    @property
    def own_sources(self) -> np.ndarray:
        """Sources that this rank owns, in the order of the tree."""
        return self.sources[: self.n_own]

    @property
    def n_targets(self) -> int:
        """Number of targets that were given on this rank."""
        return len(self.domain.given[0])

    @property
    def n_sources(self) -> int:
        """Number of sources that were given on this rank."""
        return len(self.domain.given[1])

    def unsorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and sources, float64, in the order in which they were given."""
        targets, sources = self.domain.given
        wide = sources.astype(np.float64, copy=False)
        return wide if targets is sources else targets.astype(np.float64, copy=False), wide

    @property
    def transposed(self) -> Any:  # a geometry of the same kind
        """The same points with targets and sources exchanged."""
        if self.same:
            return self
        if self._other is None:
            self._other = self._exchanged()
            self._other._other = self
        return self._other

    _other: "Foreign | None" = None

    def _exchanged(self) -> "Foreign":
        """Make the geometry of exchanged points."""
        raise NotImplementedError


class SharedGeometry(Foreign):
    """Points of one rank in free space.

    Parameters
    ----------
    domain : Domain
        What belongs to whom.
    place : callable
        Places other points, see `moved`.
    points, sources, targets, leaf_size, least, smallest
        See `Geometry`: those that this rank owns.
    """

    def __init__(
        self,
        domain: Domain,
        place: Callable[..., "SharedGeometry"],
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float = 0.0,
    ) -> None:
        self.domain, self.n_own, self._place = domain, len(sources), place
        self.root_edge = float(points.edge[0])
        super().__init__(points, sources, targets, leaf_size, least, smallest)
        self._count()

    def _tree(self) -> Tree:
        stretch = self.domain.stretch
        home = build_tree(self.sorted_points, self.leaf_size, self.smallest, stretch)
        self.merged = merged(home, self.domain, self.root_edge)
        tree = self.merged.tree
        lists = build_lists(tree, self.least, self.least, transfers(tree))
        return self._with_sources(home, tree, lists)

    def _with_sources(self, home: Tree, tree: Tree, lists: Lists) -> Tree:
        """Fetch what lists ask for; return the tree with the sources that are here."""
        self._own_source_ranges = self._own_ranges(home)
        ranges = self._link_sources(home, np.union1d(lists.near_boxes, lists.p2l_sources))
        starts, near = ranges_of(lists.near_starts, lists.near_boxes, ranges)
        self.__dict__["lists"] = replace(lists, near_range_starts=starts, near_ranges=near)
        self._link_boxes(np.union1d(lists.m2l_sources, lists.m2p_sources))
        return replace(tree, source_range=ranges)

    @property
    def has_far_field(self) -> bool:
        """Whether any pair of any rank is not summed directly."""
        return self.numbers.far > 0

    def direct(self) -> Geometry:
        """Return the same points, all pairs of which are summed directly: every rank has all."""
        own = self.targets if self.same else self.own_sources
        given = self.domain, self._place, self.sorted_points, own, self.targets
        return AllPairs(*given, max(*self.everywhere, 1), self.least, self.smallest)

    def _like(
        self,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
    ) -> "SharedGeometry":
        own = targets if self.same else sources[: self.n_own]
        given = self.domain, self._place, points, own, targets
        return SharedGeometry(*given, leaf_size, least, self.smallest)

    def _exchanged(self) -> "SharedGeometry":
        given = self.domain.transposed(), self._place, self.sorted_points.transposed()
        own = self.targets, self.own_sources
        return type(self)(*given, *own, self.leaf_size, self.least, self.smallest)

    def moved(self, targets: np.ndarray, sources: np.ndarray, batches: Batches) -> "SharedGeometry":
        """Return other points in a tree of the same kind, shared out anew."""
        given = self.sorted_points.root_grid, self.leaf_size, self.least, self.smallest
        return self._place(targets, sources, *given)


class AllPairs(SharedGeometry):
    """Points of one rank, and the sources of all: every pair is summed directly."""

    def _tree(self) -> Tree:
        size, rank = self.domain.ranks.size, self.domain.ranks.rank
        points, n = self.sorted_points, size
        targets, sources = (np.zeros((n, 2), np.int64) for _ in range(2))
        targets[rank, 1], sources[rank, 1] = len(self.targets), self.n_own
        nothing, single = np.zeros(n, np.int32), np.zeros((n, 3), np.int64)
        tree = Tree(
            points.target_permutation, points.source_permutation, np.array([0, n]), single,
            nothing - 1, nothing, nothing, nothing, targets, sources, np.zeros((n, 3)),
            np.full(n, self.root_edge),
        )  # fmt: skip
        own = np.where(np.arange(n) == rank, 0, -1)
        self.merged = Merged(tree, own, np.arange(n), np.zeros(n, np.int64), np.empty(0, np.int64))
        home = replace(tree, source_range=sources[rank : rank + 1])
        starts = np.where(np.arange(n + 1) > rank, n, 0)
        none, codes = np.empty(0, np.int32), np.zeros(1 + 9**3, np.int64)
        lists = Lists(
            starts, np.arange(n, dtype=np.int32), starts, np.empty((0, 2), np.int64), codes,
            none, none, none, none, none, none,
        )  # fmt: skip
        return self._with_sources(home, tree, lists)

    def direct(self) -> Geometry:
        """Return this one."""
        return self
