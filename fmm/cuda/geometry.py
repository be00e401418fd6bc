"""Points, tree and lists on the GPU, under the names of `fmm.tree.geometry`."""

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fmm.cost import Work
from fmm.cuda.build import build_tree
from fmm.cuda.curve import gather, launch, occupancy, scatter, sort_points
from fmm.cuda.lists import DeviceLists, build_lists
from fmm.error.accuracy import N_CODES, POINTS
from fmm.tree.build import Tree
from fmm.tree.curve import SortedPoints, upper
from fmm.tree.geometry import (
    MOST_TARGETS,
    TILE,
    Batches,
    Geometry,
    cheaper,
    choose_leaves,
    edges_of,
)
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import blocks_for, marked, running_sum, total

# pairs that a thread counts: they are sorted, so that it adds to few places
_RUN = 32
_OF_TREE = ("parent", "target_range", "source_range", "centre", "edge")
_OF_LISTS = (
    "m2l_starts", "m2l_targets", "m2l_sources", "m2p_targets", "m2p_sources", "p2l_targets",
    "p2l_sources",
)  # fmt: skip


class _Tally(NamedTuple):
    """Counts on the host, exact: sums of integers."""

    weights: np.ndarray
    """Pairs of points per level and translation code."""
    translations: np.ndarray
    """Multipole-to-local pairs of each level."""
    near: int
    mixed: int
    leaves: int


@dataclass(frozen=True, eq=False)
class OnHost:
    """What `indicators` and `sampling` of `fmm.error` ask of a geometry, in arrays of NumPy."""

    tree: Any
    lists: Any
    edges: np.ndarray
    levels: np.ndarray
    targets: np.ndarray
    target_leaves: np.ndarray


class DeviceGeometry(Geometry):
    """Points in tree order, tree and lists, all on the device.

    On the host are ``tree.level_starts`` and what `Geometry` gives as numbers.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    points, sources, targets, leaf_size, least, smallest
        As those of `Geometry`.
    """

    def __init__(
        self,
        space: Space,
        points: SortedPoints,
        sources: Any,
        targets: Any,
        leaf_size: int,
        least: int,
        smallest: float = 0.0,
    ) -> None:
        self.space = space
        super().__init__(points, sources, targets, leaf_size, least, smallest)

    def _tree(self) -> Tree:
        return build_tree(self.space, self.sorted_points, self.leaf_size, self.smallest)

    def _like(self, points, sources, targets, leaf_size, least) -> "DeviceGeometry":
        return DeviceGeometry(self.space, points, sources, targets, leaf_size, least, self.smallest)

    def points(self, dtype: np.dtype) -> tuple[Any, Any]:
        """Return targets and sources of a dtype, in the caller's coordinates."""
        dtype = np.dtype(dtype)
        if dtype not in self._points:
            sources = self._converted(self.sources, dtype)
            same = self.targets is self.sources
            self._points[dtype] = sources if same else self._converted(self.targets, dtype), sources
        return self._points[dtype]

    def _converted(self, points: Any, dtype: np.dtype) -> Any:
        if points.dtype == dtype:
            return points
        out = self.space.empty(points.shape, dtype)
        launch(self.space, _convert(), points.shape[0], points, out)
        return out

    def _system_keys(self, keys: Any) -> Any:
        """Return keys that name the system of points in one root cell, and nothing else."""
        points, n = self.sorted_points, keys.shape[1]
        out = self.space.empty((1, n), np.int64)
        launch(
            self.space, _name_systems(), n, keys, 3 * points.bits, points.root_grid**3, out
        )  # fmt: skip
        return out

    def unsorted(self) -> tuple[Any, Any]:
        """Return targets and sources, float64, in the order in which they were given."""
        sources = scatter(self.space, self.sources, self.tree.source_order)
        if self.targets is self.sources:
            return sources, sources
        return scatter(self.space, self.targets, self.tree.target_order), sources

    @cached_property
    def lists(self) -> DeviceLists:
        """Who meets whom; worked out when first needed."""
        return build_lists(self.space, self.tree, self.least, self.least)

    @cached_property
    def target_leaves(self) -> Any:
        """Leaves with targets, int64."""
        return _leaves(self.space, self.tree, self.tree.target_range)

    @cached_property
    def source_leaves(self) -> Any:
        """Leaves with sources, int64."""
        if self.sources is self.targets:
            return self.target_leaves
        return _leaves(self.space, self.tree, self.tree.source_range)

    @cached_property
    def leaf_targets(self) -> Any:
        """Ranges of targets of `target_leaves`."""
        return self._near_of_leaves[0]

    @cached_property
    def _near_of_leaves(self) -> tuple[Any, Any]:
        """Ranges of targets of the leaves, and starts of their ranges of sources."""
        space, leaves = self.space, self.target_leaves
        n = leaves.shape[0]
        targets, starts = space.empty((n, 2), np.int64), space.empty((n + 1,), np.int64)
        launch(
            space, _near(), n + 1, leaves, self.tree.target_range, self.lists.near_range_starts,
            targets, starts,
        )  # fmt: skip
        return targets, starts

    @cached_property
    def near(self) -> tuple[Any, Any, Any]:
        """Ranges of targets, starts of the ranges of sources near to each, and these.

        Of leaves, those of many targets cut into tiles, so that blocks may share the work.
        """
        return _tiles(self.space, *self._near_of_leaves, self.lists.near_ranges)

    @cached_property
    def _tally(self) -> _Tally:
        tree, lists, space = self.tree, self.lists, self.space
        n_levels = len(tree.level_starts) - 1
        level_starts = space.upload(tree.level_starts)
        weights = space.upload(np.zeros((n_levels, N_CODES), np.int64))
        counts = space.upload(np.zeros(n_levels + 2, np.int64))
        ranges = tree.target_range, tree.source_range
        n = lists.m2l_targets.shape[0]
        launch(
            space, _weigh(), blocks_for(n, _RUN), lists.m2l_targets, lists.m2l_sources,
            lists.m2l_codes, level_starts, *ranges, weights, counts,
        )  # fmt: skip
        for targets, sources, boxes, moving in (
            (lists.m2p_targets, lists.m2p_sources, lists.m2p_sources, 0),
            (lists.p2l_targets, lists.p2l_sources, lists.p2l_targets, 1),
        ):
            launch(
                space, _weigh_mixed(), targets.shape[0], targets, sources, boxes, moving,
                level_starts, *ranges, weights, counts,
            )  # fmt: skip
        leaves, starts, near = self.near
        launch(space, _weigh_near(), leaves.shape[0], leaves, starts, near, counts)
        found = space.download(counts)
        whole = _divided(space, tree)
        return _Tally(
            space.download(weights).astype(np.float64), found[:n_levels], int(found[-2]),
            int(found[-1]), tree.parent.shape[0] - whole,
        )  # fmt: skip

    @property
    def n_near_pairs(self) -> int:
        """Pairs of points summed directly."""
        return self._tally.near

    @property
    def n_mixed(self) -> int:
        """Points that meet expansions of boxes."""
        return self._tally.mixed

    @property
    def n_leaves(self) -> int:
        """Boxes that are not divided."""
        return self._tally.leaves

    @property
    def translations(self) -> np.ndarray:
        """Multipole-to-local translations of each level."""
        return self._tally.translations

    @property
    def far_weights(self) -> np.ndarray:
        """Pairs of points per level and translation code over targets."""
        return self._tally.weights / max(self.targets.shape[0], 1)

    @cached_property
    def host(self) -> Any:
        """What tells where errors can sit, on the host: `OnHost`; waits for all of it."""

        def there(thing: Any, names: tuple[str, ...]) -> SimpleNamespace:
            arrays = {name: self.space.download(getattr(thing, name)) for name in names}
            return SimpleNamespace(**arrays)

        tree, lists = there(self.tree, _OF_TREE), there(self.lists, _OF_LISTS)
        tree.level_starts = self.tree.level_starts
        targets, leaves = (self.space.download(a) for a in (self.targets, self.target_leaves))
        return OnHost(tree, lists, self.edges, self.levels, targets, leaves)

    @cached_property
    def edges(self) -> np.ndarray:
        """Edge of the largest boxes of every level, on the host."""
        return edges_of(self.space.download(self.tree.edge), self.tree.level_starts)

    @cached_property
    def n_across(self) -> int:
        """Boxes along the coarsest level."""
        roots = self.space.download(self.tree.anchor[: int(self.tree.level_starts[1])])
        return int(roots.max(initial=0)) + 1

    @property
    def roots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Systems, and ranges of targets and sources, of the boxes of level 0, on the host."""
        n, tree = int(self.tree.level_starts[1]), self.tree
        system, targets, sources = (
            self.space.download(a[:n]) for a in (tree.system, tree.target_range, tree.source_range)
        )
        return system, targets, sources

    def moved(self, targets: Any, sources: Any, batches: Batches) -> "DeviceGeometry":
        """Return other points in a tree of the same kind: root grid, leaf size, smallest box."""
        grid = self.sorted_points.root_grid
        points = sort_points(self.space, targets, sources, *batches, root_grid=grid)
        ordered = _ordered(self.space, points, targets, sources)
        return self._like(points, *ordered, self.leaf_size, self.least)


def arrange(
    space: Space,
    targets: Any,
    sources: Any,
    batches: Batches,
    work: Work,
    leaf_size: int | None,
    smallest: float = 0.0,
) -> DeviceGeometry:
    """Return points, tree and lists for what is to be computed, see `fmm.tree.geometry.arrange`."""
    points = sort_points(space, targets, sources, *batches)
    chosen = leaf_size is None
    if leaf_size is None:
        filling = occupancy(space, points)
        root_grid, leaf_size = choose_leaves(points, filling, work, smallest)
        if root_grid > 1:
            points = sort_points(space, targets, sources, *batches, root_grid=root_grid)
    ordered = _ordered(space, points, targets, sources)
    least = work.least_for_expansion()
    geometry = DeviceGeometry(space, points, *ordered, leaf_size, least, smallest)
    return cheaper(geometry, work) if chosen else geometry


def _ordered(space: Space, points: SortedPoints, targets: Any, sources: Any) -> tuple[Any, Any]:
    """Return sources and targets along the curve, float64."""
    ordered = gather(space, sources, points.source_order)
    same = points.target_order is points.source_order
    return ordered, ordered if same else gather(space, targets, points.target_order)


@kernels
def _convert():
    def loop(points, out):
        i = cuda.grid(1)
        if i < points.shape[0]:
            for axis in range(3):
                out[i, axis] = points[i, axis]

    return loop


@kernels
def _name_systems():
    def loop(keys, bits, cells_of_system, out):
        i = cuda.grid(1)
        if i < keys.shape[1]:
            out[0, i] = (keys[0, i] >> bits) // cells_of_system << bits

    return loop


# --- leaves ---------------------------------------------------------------------------------------


def _leaves(space: Space, tree: Tree, ranges: Any) -> Any:
    """Return the leaves that hold points."""
    n = tree.parent.shape[0]
    marks = space.empty((n,), np.int64)
    launch(space, _mark_leaves(), n, tree.n_children, ranges, marks)
    return marked(space, marks)


def _divided(space: Space, tree: Tree) -> int:
    """Return how many boxes are divided."""
    n = tree.parent.shape[0]
    marks = space.empty((n,), np.int64)
    launch(space, _mark_divided(), n, tree.n_children, marks)
    return total(space, running_sum(space, marks))


@kernels
def _mark_leaves():
    def loop(n_children, ranges, out):
        box = cuda.grid(1)
        if box < out.shape[0]:
            out[box] = 1 if n_children[box] == 0 and ranges[box, 1] > ranges[box, 0] else 0

    return loop


@kernels
def _mark_divided():
    def loop(n_children, out):
        box = cuda.grid(1)
        if box < out.shape[0]:
            out[box] = 1 if n_children[box] > 0 else 0

    return loop


@kernels
def _near():
    def loop(leaves, target_range, range_starts, targets, starts):
        i = cuda.grid(1)
        if i == leaves.shape[0]:
            # boxes that are no leaves, or without targets, have no ranges
            starts[i] = range_starts[range_starts.shape[0] - 1]
        elif i < leaves.shape[0]:
            box = leaves[i]
            starts[i] = range_starts[box]
            targets[i, 0] = target_range[box, 0]
            targets[i, 1] = target_range[box, 1]

    return loop


def _tiles(space: Space, targets: Any, starts: Any, ranges: Any) -> tuple[Any, Any, Any]:
    """Return ranges of targets, starts and ranges of sources, leaves of many targets cut up."""
    n = targets.shape[0]
    parts, entries = space.empty((n,), np.int64), space.empty((n,), np.int64)
    launch(space, _count_tiles(), n, targets, starts, parts, entries)
    first, places = running_sum(space, parts), running_sum(space, entries)
    n_tiles = total(space, first)
    if n_tiles == n:
        return targets, starts, ranges
    tiles, begins = space.empty((n_tiles, 2), np.int64), space.empty((n_tiles + 1,), np.int64)
    out = space.empty((total(space, places), 2), np.int64)
    launch(
        space, _cut(), n_tiles + 1, targets, starts, ranges, first, places, tiles, begins, out
    )  # fmt: skip
    return tiles, begins, out


@kernels
def _count_tiles():
    def loop(targets, starts, parts, entries):
        leaf = cuda.grid(1)
        if leaf < parts.shape[0]:
            held = targets[leaf, 1] - targets[leaf, 0]
            parts[leaf] = (held + TILE - 1) // TILE if held > MOST_TARGETS else 1
            entries[leaf] = parts[leaf] * (starts[leaf + 1] - starts[leaf])

    return loop


@kernels
def _cut():
    def loop(targets, starts, ranges, first, places, tiles, begins, out):
        """Write a tile: a part of the targets of a leaf, and all its ranges of sources."""
        tile, n = cuda.grid(1), targets.shape[0]
        if tile == tiles.shape[0]:
            begins[tile] = places[n]
        if tile >= tiles.shape[0]:
            return
        leaf = upper(first, 0, n, tile) - 1
        part, parts = tile - first[leaf], first[leaf + 1] - first[leaf]
        begin, held = targets[leaf, 0], targets[leaf, 1] - targets[leaf, 0]
        count = starts[leaf + 1] - starts[leaf]
        tiles[tile, 0] = begin + held * part // parts
        tiles[tile, 1] = begin + held * (part + 1) // parts
        begins[tile] = places[leaf] + part * count
        for i in range(count):
            for end in range(2):
                out[begins[tile] + i, end] = ranges[starts[leaf] + i, end]

    return loop


# --- counts: sums of integers, whose order does not matter ----------------------------------------


@kernels
def _weigh():
    def loop(targets, sources, codes, level_starts, target_range, source_range, weights, counts):
        """Add pairs of points, and of boxes, by level and code."""
        first = cuda.grid(1) * _RUN
        last = min(first + _RUN, targets.shape[0])
        if first >= last:
            return
        level = upper(level_starts, 0, level_starts.shape[0], targets[first]) - 1
        code = codes[first]
        pairs, boxes = 0, 0
        for i in range(first, last):
            target, source = targets[i], sources[i]
            inside = level_starts[level] <= target and target < level_starts[level + 1]
            if codes[i] != code or not inside:
                cuda.atomic.add(weights, (level, code), pairs)
                cuda.atomic.add(counts, level, boxes)
                level = upper(level_starts, 0, level_starts.shape[0], target) - 1
                code = codes[i]
                pairs, boxes = 0, 0
            boxes += 1
            pairs += (target_range[target, 1] - target_range[target, 0]) * (
                source_range[source, 1] - source_range[source, 0]
            )
        cuda.atomic.add(weights, (level, code), pairs)
        cuda.atomic.add(counts, level, boxes)

    return loop


@kernels
def _weigh_mixed():
    def loop(
        targets, sources, boxes, of_sources, level_starts, target_range, source_range, weights,
        counts,
    ):  # fmt: skip
        """Add pairs of points that one expansion stands for, and the single points among them."""
        i = cuda.grid(1)
        if i >= targets.shape[0]:
            return
        n_targets = target_range[targets[i], 1] - target_range[targets[i], 0]
        n_sources = source_range[sources[i], 1] - source_range[sources[i], 0]
        level = upper(level_starts, 0, level_starts.shape[0], boxes[i]) - 1
        cuda.atomic.add(weights, (level, POINTS), n_targets * n_sources)
        single = n_sources if of_sources else n_targets
        cuda.atomic.add(counts, counts.shape[0] - 1, single)

    return loop


@kernels
def _weigh_near():
    def loop(leaves, starts, ranges, counts):
        i = cuda.grid(1)
        if i >= leaves.shape[0]:
            return
        n = 0
        for k in range(starts[i], starts[i + 1]):
            n += ranges[k, 1] - ranges[k, 0]
        cuda.atomic.add(counts, counts.shape[0] - 2, n * (leaves[i, 1] - leaves[i, 0]))

    return loop
