"""The points of a plan in a cell, in the order of their tree, and who meets whom across its faces.

Near an image of a box, its points are needed where they are: those of images that are summed
directly follow the sources of the cell.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from fmm.cell.grid import CellGrid, grid_of
from fmm.cell.images import Images, root_colleagues, with_images
from fmm.cell.placing import Placed, placed
from fmm.tree.build import Tree, build_tree
from fmm.tree.curve import SortedPoints, sort_points
from fmm.tree.geometry import Batches, Geometry, along_curve
from fmm.tree.lists import Lists, build_lists, ranges_of, transfers

# boxes from which a box in the middle of others translates
_LIKE_BOXES = 189


class CellGeometry(Geometry):
    """Points of a cell in tree order, their tree with its images, and its lists.

    Parameters
    ----------
    grid : CellGrid
        Root boxes.
    points, sources, targets, leaf_size, least, smallest
        See `Geometry`; lengths of `smallest` are counted in boxes of the coarsest grid. Sources
        are all those of the grid's cell, with copies of the reduced cell.

    Attributes
    ----------
    sources : ndarray
        Those of the cell, then those of images that are near.
    origin : ndarray of int64
        The source of the cell that each is an image of.
    images : Images
        Boxes.
    """

    can_be_direct = False

    def __init__(
        self,
        grid: CellGrid,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float = 0.0,
    ) -> None:
        self.grid, self.n_own = grid, len(sources)
        self.images: Images
        self.estimated: Any = None  # of these, what errors are estimated from
        self.shape = None if grid.is_cubic else tuple(map(tuple, grid.shape.tolist()))
        super().__init__(points, sources, targets, leaf_size, least, smallest)

    def _tree(self) -> Tree:
        smallest = self.smallest * self.grid.multiple
        home = build_tree(self.sorted_points, self.leaf_size, smallest)
        self.images = with_images(home, self.grid)
        tree = self.images.tree
        known = transfers(tree, of_roots=root_colleagues(tree))
        lists = build_lists(tree, self.least, self.least, known)
        source_range = self._place_sources(tree, lists)
        starts, ranges = ranges_of(lists.near_starts, lists.near_boxes, source_range)
        lists = replace(lists, near_range_starts=starts, near_ranges=ranges)
        self.__dict__["lists"] = lists
        return replace(tree, source_range=source_range)

    def _place_sources(self, tree: Tree, lists: Lists) -> np.ndarray:
        """Append the sources of images whose points are summed; return the ranges of all boxes."""
        used = np.union1d(lists.near_boxes, lists.p2l_sources)
        used = used[self.images.is_image[used]]
        ranges = tree.source_range.copy()
        counts = ranges[used, 1] - ranges[used, 0]
        ends = self.n_own + np.cumsum(counts)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        origin = np.repeat(ranges[used, 0], counts) + inside
        by = (self.images.steps[used] @ self.grid.lattice).repeat(counts, axis=0)
        ranges[used] = np.stack([ends - counts, ends], axis=1)
        self.origin = np.concatenate([np.arange(self.n_own), origin])
        self.sources = np.concatenate([self.sources, self.sources[origin] + by])
        return ranges

    # --- what differs from points in space --------------------------------------------------------

    @cached_property
    def root_transfers(self) -> int:  # type: ignore[override]
        """Translations that what root boxes send each other takes the place of."""
        return _LIKE_BOXES * int(self.images.own_ends[0])

    @cached_property
    def root_pairs(self) -> list[tuple[tuple[int, int, int], np.ndarray, np.ndarray]]:
        """Differences of places of root boxes, and who receives and sends over each."""
        n, periods = int(self.images.own_ends[0]), self.grid.periods
        place = self.tree.anchor[:n]
        apart = place[:, None] - place[None]
        repeats = periods > 0
        apart[..., repeats] %= periods[repeats]
        differences, which = np.unique(apart.reshape(-1, 3), axis=0, return_inverse=True)
        order = np.argsort(which.ravel(), kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(which.ravel()))[:-1])
        return [
            ((a, b, c), pairs // n, pairs % n)
            for (a, b, c), pairs in zip(differences.tolist(), parts, strict=True)
        ]

    @property
    def own_sources(self) -> np.ndarray:
        """Sources of the cell, with all copies, in the order of the tree."""
        return self.sources[: self.n_own]

    @property
    def n_sources(self) -> int:
        """Number of sources, those of images and copies not among them."""
        return self.n_own // len(self.grid.copies)

    @cached_property
    def one_copy(self) -> np.ndarray | slice:
        """Sources of the reduced cell: one of each."""
        if len(self.grid.copies) == 1:
            return slice(0, self.n_own)
        return np.flatnonzero(self.tree.source_permutation < self.n_sources)

    @cached_property
    def inside_roots(self) -> tuple[np.ndarray, np.ndarray]:
        """Targets, and sources of the cell, from the middle of their root boxes."""
        n, tree = int(self.images.own_ends[0]), self.tree
        x, s = self.targets.copy(), self.own_sources.copy()
        for box in range(n):
            for points, ranges in ((x, tree.target_range), (s, tree.source_range)):
                points[slice(*ranges[box])] -= tree.centre[box]
        return x, s

    @cached_property
    def source_leaves(self) -> np.ndarray:
        """Leaves of the cell with sources: images have the expansions of their originals."""
        leaves = self._leaves_with(self.tree.source_range)
        return leaves[~self.images.is_image[leaves]]

    @property
    def own_ends(self) -> np.ndarray:
        """Where on every level the boxes end whose expansions are formed."""
        return self.images.own_ends

    @cached_property
    def has_far_field(self) -> bool:
        """True: there are always images far away."""
        return True

    def unsorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and sources in the order in which they were given, in the cell."""
        targets, sources = super().unsorted()
        return targets, sources if self.same else sources[: self.n_sources]

    def fits_single(self, source_order: int, order: int) -> bool:
        """Return whether expansions may be float32, see `Geometry.fits_single`."""
        least = np.log2(self.tree.edge.min(initial=np.inf))
        return bool(-least * max(source_order, order + 1) < 64)

    def direct(self) -> Geometry:
        """Return the same points in undivided root boxes."""
        return self.with_leaves(max(self.n_own, len(self.targets), 1))

    def _like(
        self,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
    ) -> "CellGeometry":
        own = targets if self.same else sources[: self.n_own]
        return CellGeometry(self.grid, points, own, targets, leaf_size, least, self.smallest)

    @cached_property
    def transposed(self) -> "CellGeometry":
        """The same cell with targets and sources exchanged."""
        if self.same:
            return self
        targets, sources = self.unsorted()
        given = self.leaf_size, self.least, self.smallest
        other = geometry_in_cell(self.grid, placed(self.grid, sources, targets), *given)
        other.__dict__["transposed"] = self
        return other

    def moved(self, targets: np.ndarray, sources: np.ndarray, batches: Batches) -> "CellGeometry":
        """Return other points in the same cell, in a tree of the same kind."""
        grid = grid_of(self.grid.cell, targets, sources)
        if self.grid.counts != grid.counts:
            grid = grid.finer(self.grid.multiple)
        given = self.leaf_size, self.least, self.smallest
        return geometry_in_cell(grid, placed(grid, targets, sources), *given)


def geometry_in_cell(
    grid: CellGrid,
    points: Placed,
    leaf_size: int,
    least: int,
    smallest: float,
    known: SortedPoints | None = None,
) -> CellGeometry:
    """Return points of a cell in tree order, their tree and lists.

    `known` are the points along the curve, if they have been sorted.
    """
    along = sort_in_cell(grid, points) if known is None else known
    ordered = along_curve(along, points.targets, points.sources)
    return CellGeometry(grid, along, *ordered, leaf_size, least, smallest)


def sort_in_cell(grid: CellGrid, points: Placed) -> SortedPoints:
    """Return points along the curve through the root boxes of a cell."""
    counts = np.array(grid.counts, np.float64)
    sources = points.source_fractions * counts
    targets = sources if points.same else points.target_fractions * counts
    known = np.zeros((1, 3)), np.ones(1)
    return sort_points(targets, sources, root_grid=max(grid.counts), known_roots=known)
