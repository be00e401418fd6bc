"""The points of a cell that one rank owns: what is of the cell and of ranks, together.

A rank knows the boxes of others that it meets across faces of the cell, too; images are made of
these as of its own.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fmm.cell.geometry import CellGeometry
from fmm.cell.grid import CellGrid
from fmm.cell.images import root_colleagues, with_images
from fmm.distributed.boxes import merged
from fmm.distributed.geometry import Foreign
from fmm.distributed.partition import Domain
from fmm.tree.build import Tree, build_tree
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches, Geometry
from fmm.tree.lists import Lists, build_lists, ranges_of, transfers

# points in a leaf that nothing but ranks divides
_MOST = 1 << 48


class SharedCellGeometry(Foreign, CellGeometry):
    """Points of a cell that one rank owns, see `CellGeometry`.

    Parameters
    ----------
    domain : Domain
        What belongs to whom.
    place : callable
        Places other points, see `moved`.
    grid, points, sources, targets, leaf_size, least, smallest
        See `CellGeometry`; sources are those that this rank owns, copies among them.
    """

    def __init__(
        self,
        domain: Domain,
        place: Callable[..., "SharedCellGeometry"],
        grid: CellGrid,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float = 0.0,
    ) -> None:
        self.domain, self._place, self.root_edge = domain, place, grid.edge
        super().__init__(grid, points, sources, targets, leaf_size, least, smallest)
        self._count()

    def _tree(self) -> Tree:
        smallest = self.smallest * self.grid.multiple
        home = build_tree(self.sorted_points, self.leaf_size, smallest, self.domain.stretch)
        self.merged = merged(home, self.domain, 1.0)
        self.images = with_images(self.merged.tree, self.grid)
        tree = self.images.tree
        self._take_rows()
        lists = build_lists(
            tree, self.least, self.least, transfers(tree, of_roots=root_colleagues(tree))
        )
        return self._with_sources(home, tree, lists)

    def _take_rows(self) -> None:
        """Find which merged box every box of the tree is, or is an image of."""
        here = np.flatnonzero(~self.images.is_image)
        number = np.zeros(len(self.images.original), np.int64)
        number[here] = np.arange(len(here))
        self.of_merged, self.home_rows = number[self.images.original], here

    def _with_sources(self, home: Tree, tree: Tree, lists: Lists) -> Tree:
        """Fetch what lists ask for; return the tree with the sources that are here."""
        self._own_source_ranges = self._own_ranges(home)
        asked = np.union1d(lists.near_boxes, lists.p2l_sources)
        ranges = self._link_sources(home, np.unique(self.of_merged[asked]))
        ranges = self._place_images(asked, ranges[self.of_merged])
        starts, near = ranges_of(lists.near_starts, lists.near_boxes, ranges)
        self.__dict__["lists"] = replace(lists, near_range_starts=starts, near_ranges=near)
        sending = np.union1d(lists.m2l_sources, lists.m2p_sources)
        self._link_boxes(np.unique(self.of_merged[sending]))
        return replace(tree, source_range=ranges)

    def _place_images(self, asked: np.ndarray, ranges: np.ndarray) -> np.ndarray:
        """Append the sources of images that are asked for; return the ranges of all boxes."""
        used = asked[self.images.is_image[asked]]
        counts = ranges[used, 1] - ranges[used, 0]
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        origin = np.repeat(ranges[used, 0], counts) + inside
        by = (self.images.steps[used] @ self.grid.lattice).repeat(counts, axis=0)
        ends = self.n_first + np.cumsum(counts)
        ranges[self.images.is_image] = 0
        ranges[used] = np.stack([ends - counts, ends], axis=1)
        self.origin = np.concatenate([np.arange(self.n_first), origin])
        self.sources = np.concatenate([self.sources, self.sources[origin] + by])
        return ranges

    # --- boxes ------------------------------------------------------------------------------------

    @property
    def is_own(self) -> np.ndarray:
        """Of every box of the tree, whether points or expansions of this rank are in it."""
        own = np.zeros(len(self.of_merged), bool)
        own[self.home_rows] = self.merged.own >= 0
        return own

    @property
    def is_ready(self) -> np.ndarray:
        """Of every box of the tree, whether its expansion is known without other ranks."""
        ready = np.zeros(len(self.of_merged), bool)
        ready[self.home_rows] = self._is_ready
        return ready

    def of_all(self, rows: np.ndarray) -> np.ndarray:
        """Return values of all boxes of the tree from those of merged boxes."""
        return rows[self.of_merged]

    @property
    def one_copy(self) -> np.ndarray | slice:
        """Own sources that are not copies."""
        if len(self.grid.copies) == 1:
            return slice(0, self.n_own)
        return np.flatnonzero(self.domain.first_copy[self.tree.source_permutation])

    def fits_single(self, source_order: int, order: int) -> bool:
        """Return whether expansions may be float32, see `Geometry.fits_single`."""
        return bool(-np.log2(self.edges.min()) * max(source_order, order + 1) < 64)

    # --- other geometries -------------------------------------------------------------------------

    def direct(self) -> Geometry:
        """Return the same points in root boxes that nothing but ranks divides."""
        return self.with_leaves(_MOST)

    def _like(
        self,
        points: SortedPoints,
        sources: np.ndarray,
        targets: np.ndarray,
        leaf_size: int,
        least: int,
    ) -> "SharedCellGeometry":
        own = targets if self.same else sources[: self.n_own]
        given = self.domain, self._place, self.grid, points, own, targets
        return SharedCellGeometry(*given, leaf_size, least, self.smallest)

    def _exchanged(self) -> "SharedCellGeometry":
        targets, sources = self.domain.given
        return self._moved(sources, targets)

    def moved(
        self, targets: np.ndarray, sources: np.ndarray, batches: Batches
    ) -> "SharedCellGeometry":
        """Return other points in the same cell, in a tree of the same kind, shared out anew."""
        return self._moved(targets, sources)

    def _moved(self, targets: np.ndarray, sources: np.ndarray) -> "SharedCellGeometry":
        given = self.grid.multiple, self.leaf_size, self.least, self.smallest
        return self._place(targets, sources, *given)
