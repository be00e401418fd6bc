"""Points, tree and lists on the GPU, under the names of `fmm.tree.geometry`."""

from dataclasses import fields
from functools import cached_property

import numpy as np

from fmm.cuda.build import DeviceTree, build_tree
from fmm.cuda.curve import DeviceArray, gather, launch, scatter, sort_points
from fmm.cuda.lists import DeviceLists, build_lists
from fmm.cuda.tally import Tally
from fmm.tree.build import Tree
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches, Geometry, Outline, edges_of
from fmm.tree.lists import Lists
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space

_OF_TREE = ("parent", "target_range", "source_range", "centre", "edge")
_OF_LISTS = (
    "m2l_starts", "m2l_targets", "m2l_sources", "m2p_targets", "m2p_sources", "p2l_targets",
    "p2l_sources",
)  # fmt: skip


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

    tree: DeviceTree

    def __init__(
        self,
        space: Space,
        points: SortedPoints,
        sources: DeviceArray,
        targets: DeviceArray,
        leaf_size: int,
        least: int,
        smallest: float = 0.0,
    ) -> None:
        self.space = space
        super().__init__(points, sources, targets, leaf_size, least, smallest)

    def _tree(self) -> DeviceTree:
        return build_tree(self.space, self.sorted_points, self.leaf_size, self.smallest)

    def _like(
        self,
        points: SortedPoints,
        sources: DeviceArray,
        targets: DeviceArray,
        leaf_size: int,
        least: int,
    ) -> "DeviceGeometry":
        return DeviceGeometry(self.space, points, sources, targets, leaf_size, least, self.smallest)

    def points(self, dtype: np.dtype) -> tuple[DeviceArray, DeviceArray]:
        """Return targets and sources of a dtype, in the caller's coordinates."""
        dtype = np.dtype(dtype)
        if dtype not in self._points:
            sources = self._converted(self.sources, dtype)
            same = self.targets is self.sources
            self._points[dtype] = sources if same else self._converted(self.targets, dtype), sources
        return self._points[dtype]

    def _converted(self, points: DeviceArray, dtype: np.dtype) -> DeviceArray:
        if points.dtype == dtype:
            return points
        out = self.space.empty(points.shape, dtype)
        launch(self.space, _convert(), points.shape[0], points, out)
        return out

    def _system_keys(self, keys: DeviceArray) -> DeviceArray:
        """Return keys that name the system of points in one root cell, and nothing else."""
        points, n = self.sorted_points, keys.shape[1]
        out = self.space.empty((1, n), np.int64)
        launch(
            self.space, _name_systems(), n, keys, 3 * points.bits, points.root_grid**3, out
        )  # fmt: skip
        return out

    def unsorted(self) -> tuple[DeviceArray, DeviceArray]:
        """Return targets and sources, float64, in the order in which they were given."""
        sources = scatter(self.space, self.sources, self.tree.source_permutation)
        if self.targets is self.sources:
            return sources, sources
        return scatter(self.space, self.targets, self.tree.target_permutation), sources

    @cached_property
    def lists(self) -> DeviceLists:
        """Who meets whom; worked out when first needed."""
        return build_lists(self.space, self.tree, self.least, self.least)

    @property
    def target_leaves(self) -> DeviceArray:
        """Leaves with targets, int64."""
        return self.lists.leaves.targets

    @property
    def source_leaves(self) -> DeviceArray:
        """Leaves with sources, int64."""
        leaves = self.lists.leaves
        return leaves.targets if self.sources is self.targets else leaves.sources

    @property
    def leaf_targets(self) -> DeviceArray:
        """Ranges of targets of `target_leaves`."""
        return self.lists.leaves.target_ranges

    @property
    def near(self) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """Ranges of targets, starts of the ranges of sources near to each, and these.

        Of leaves, those of many targets cut into tiles, so that blocks may share the work.
        """
        return self.lists.leaves.near

    @property
    def _tally(self) -> Tally:
        return self.lists.tally

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
        weights: np.ndarray = self._tally.weights / max(self.targets.shape[0], 1)
        return weights

    @cached_property
    def host(self) -> Outline:
        """What tells where errors can sit, on the host; waits for all of it."""

        def there(thing: DeviceArray, kind: type, names: tuple[str, ...]) -> dict[str, np.ndarray]:
            none = np.empty(0, np.int64)
            return {
                item.name: self.space.download(getattr(thing, item.name))
                if item.name in names
                else none
                for item in fields(kind)
            }

        arrays = there(self.tree, Tree, _OF_TREE) | {"level_starts": self.tree.level_starts}
        tree, lists = Tree(**arrays), Lists(**there(self.lists, Lists, _OF_LISTS))
        targets, leaves = (self.space.download(a) for a in (self.targets, self.target_leaves))
        return Outline(tree, lists, self.edges, self.levels, targets, leaves)

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

    def moved(
        self, targets: DeviceArray, sources: DeviceArray, batches: Batches
    ) -> "DeviceGeometry":
        """Return other points in a tree of the same kind: root grid, leaf size, smallest box."""
        grid = self.sorted_points.root_grid
        points = sort_points(self.space, targets, sources, *batches, root_grid=grid)
        ordered = along_curve(self.space, points, targets, sources)
        return self._like(points, *ordered, self.leaf_size, self.least)


def along_curve(
    space: Space, points: SortedPoints, targets: DeviceArray, sources: DeviceArray
) -> tuple[DeviceArray, DeviceArray]:
    """Return sources and targets along the curve, float64."""
    ordered = gather(space, sources, points.source_permutation)
    same = points.target_permutation is points.source_permutation
    return ordered, ordered if same else gather(space, targets, points.target_permutation)


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
