"""A cell whose points lie on many ranks: what is of the cell (`fmm.cell`) and of ranks, together.

A rank knows the boxes of others that it meets across faces of the cell, too; images are made of
these as of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fmm.cell.far import CellFarField
from fmm.cell.geometry import CellGeometry, sort_in_cell
from fmm.cell.grid import CellGrid, grid_of
from fmm.cell.images import root_colleagues, with_images
from fmm.cell.placing import Placed, unite
from fmm.cell.probe import CellProbe, CellStrengths
from fmm.cell.steps import CellSteps
from fmm.distributed.boxes import merged
from fmm.distributed.far import SharedFarField
from fmm.distributed.geometry import Foreign
from fmm.distributed.partition import Domain
from fmm.distributed.placing import shared_out
from fmm.distributed.probe import SharedProbe, SharedStrengths
from fmm.distributed.ranks import Pending, Ranks
from fmm.distributed.steps import OverRanks
from fmm.error.indicators import Boxed, Where
from fmm.tree.build import Tree, build_tree
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches, Geometry, along_curve
from fmm.tree.lists import Lists, build_lists, ranges_of, transfers
from fmm.tree.sorting import gathered
from multipoles.lattice import surface
from multipoles.lattice.cell import Cell
from multipoles.lattice.options import Lattice, check_neutral
from multipoles.radial import Kernel

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

    @property
    def transposed(self) -> "SharedCellGeometry":
        """The same cell with targets and sources exchanged."""
        if self.same:
            return self
        if self._other is None:
            targets, sources = self.domain.given
            self._other = self._moved(sources, targets)
            self._other._other = self
        return self._other

    _other: "SharedCellGeometry | None" = None

    def moved(
        self, targets: np.ndarray, sources: np.ndarray, batches: Batches
    ) -> "SharedCellGeometry":
        """Return other points in the same cell, in a tree of the same kind, shared out anew."""
        return self._moved(targets, sources)

    def _moved(self, targets: np.ndarray, sources: np.ndarray) -> "SharedCellGeometry":
        given = self.grid.multiple, self.leaf_size, self.least, self.smallest
        return self._place(targets, sources, *given)


class SharedCellFarField(SharedFarField, CellFarField):
    """The far field of the points of one rank in a cell."""

    geometry: SharedCellGeometry

    def _coarsen(self, channels: int, multipoles: np.ndarray) -> None:
        # images come when the expansions of other ranks are there
        SharedFarField._coarsen(self, channels, multipoles)

    def _merged_rows(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = rows[self.geometry.home_rows]
        return found

    def _place(self, rows: np.ndarray, first: np.ndarray) -> None:
        rows[:] = first[self.geometry.of_merged]

    def _transfer(self, channels: int, multipoles: np.ndarray, locals_: np.ndarray) -> None:
        SharedFarField._transfer(self, channels, multipoles, locals_)
        self._transfer_roots(channels, multipoles, locals_)


class SharedCellStrengths(SharedStrengths, CellStrengths):
    """How strong the moments of all ranks are in a cell."""

    _now: Foreign

    def weights(self, geometry: Boxed) -> np.ndarray:
        """Return what `accuracy.predicted` asks for."""
        assert isinstance(geometry, Foreign)
        self._now = geometry
        return super().weights(geometry)

    def where(self, geometry: Boxed, degrees: tuple[int, ...], norms: np.ndarray) -> Where:
        """Return where errors are expected, of all output orders alike."""
        assert isinstance(geometry, Foreign)
        self._now = geometry
        return super().where(geometry, degrees, norms)

    def _of_boxes(self, geometry: Boxed, values: np.ndarray) -> np.ndarray:
        return self._now.box_sums(values)


class SharedCellProbe(SharedProbe, CellProbe):
    """Targets of all ranks in a cell at which the whole field is known."""

    _geometry: SharedCellGeometry


class _Owned(NamedTuple):
    """Points of a cell that this rank owns, and what belongs to whom."""

    domain: Domain
    grid: CellGrid
    points: SortedPoints
    sources: np.ndarray
    targets: np.ndarray


class SharedCellSteps(OverRanks, CellSteps):
    """The steps of the points of a cell on many ranks.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    lattice, kernel, tolerance, exponent
        See `CellSteps`.
    """

    def __init__(
        self, ranks: Ranks, lattice: Lattice, kernel: Kernel, tolerance: float, exponent: int = 0
    ) -> None:
        self.ranks = ranks
        CellSteps.__init__(self, lattice, kernel, tolerance, exponent)
        self._made: tuple[Any, Any, tuple[int, float], _Owned] | None = None

    corners = CellSteps.corners
    typical_extent = CellSteps.typical_extent

    def in_units(self, exponent: int) -> "SharedCellSteps":
        """Return the steps for points whose lengths are counted in two to a power."""
        if exponent == self.exponent:
            return self
        other = SharedCellSteps(self.ranks, *self._given, exponent)
        other.weights = self.weights
        return other

    @property
    def probe(self) -> Any:
        """What samples the field at some targets of all ranks and measures errors there."""
        return partial(SharedCellProbe, exact=self._exact)

    # --- tree -------------------------------------------------------------------------------------

    def sort(
        self, targets: np.ndarray, sources: np.ndarray, batches: Batches, root_grid: int = 1
    ) -> SortedPoints:
        """Return the points that this rank is to own, see `CellSteps.sort`."""
        return self._owned(targets, sources, root_grid, 0.0).points

    def geometry(
        self,
        points: SortedPoints,
        targets: np.ndarray,
        sources: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> Geometry:
        """Return own points, their tree with images and lists."""
        coarsest = grid_of(self.cell, *extremes(self.ranks, self.cell, targets, sources))
        multiple = points.root_grid // max(coarsest.counts)
        return self._placed_here(targets, sources, multiple, leaf_size, least, smallest)

    def _placed_here(
        self,
        targets: np.ndarray,
        sources: np.ndarray,
        multiple: int,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> SharedCellGeometry:
        domain, grid, points, s, x = self._owned(targets, sources, multiple, smallest)
        given = domain, self._placed_here, grid, points, s, x, leaf_size, least, smallest
        return SharedCellGeometry(*given)

    def _owned(
        self, targets: np.ndarray, sources: np.ndarray, multiple: int, smallest: float
    ) -> _Owned:
        """Return points on the ranks that own them: those of the last call, if they are."""
        last, key = self._made, (multiple, smallest)
        if last is None or last[0] is not targets or last[1] is not sources or last[2] != key:
            ends = extremes(self.ranks, self.cell, targets, sources)
            grid = grid_of(self.cell, *ends).finer(multiple)
            made = _owned(self.ranks, grid, targets, sources, smallest, self.weights)
            last = self._made = targets, sources, key, made
        return last[3]

    # --- evaluation -------------------------------------------------------------------------------

    def _of_owned(self, geometry: Any, moments: np.ndarray) -> np.ndarray:
        """Return the moments of own sources, copies among them, in the order in which they come."""
        copies = len(geometry.grid.copies)
        rows = moments if copies == 1 else np.tile(moments, (copies, 1, 1))
        return geometry.domain.sources.forth(rows)

    def _filling(self, geometry: Any, moments: np.ndarray, asked: Pending) -> Callable[[], None]:
        first = super()._filling(geometry, moments, asked)

        def fill() -> None:
            first()
            n = geometry.n_first
            moments[n:] = gathered(moments, geometry.origin[n:])

        return fill

    def far(
        self, geometry: Any, degrees: tuple[int, ...], source_order: int, order: int,
        dtype: np.dtype,
    ) -> SharedCellFarField:  # fmt: skip
        """Return what computes the far field of harmonic moments."""
        return SharedCellFarField(geometry, degrees, source_order, order, dtype)

    def not_harmonic(self, geometry: Any, moments: np.ndarray, order: int) -> np.ndarray | None:
        """Return the part of a field that is not harmonic, see `CellSteps.not_harmonic`."""
        if self.cell.n_periodic < 3:
            return None
        volume = self.cell.volume * len(geometry.grid.copies)
        x, s = geometry.inside_roots
        inside = moments[: geometry.n_own].astype(np.float64)
        totals = self.ranks.sum(surface.totals_of_one(s, inside, volume))
        return -surface.field_of_totals(x, totals, order)

    def of_surface(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray | None:
        """Return the field of the surface of a sphere in vacuum, if that is what is meant."""
        if self.lattice.surface != "vacuum":
            return None
        x, s = (
            np.ldexp(points.astype(np.float64), -self.exponent) for points in (targets, sources)
        )
        mine = surface.totals_of_one(s, moments.astype(np.float64), self.cell.volume)
        return surface.field_of_totals(x, self.ranks.sum(mine), order)

    def refuse(self, moments: np.ndarray, kernel: Any) -> None:
        """Refuse a charged cell that is to have no background."""
        charges = moments[:, :, 0].astype(np.float64)
        total, size = self.ranks.sum(np.stack([charges.sum(axis=0), np.abs(charges).sum(axis=0)]))
        # two charges of this sum, and of this sum of sizes, stand for all
        two = 0.5 * np.stack([total + size, total - size])
        check_neutral(two[:, :, None], self.lattice, kernel)

    def strengths(
        self, moments: np.ndarray, harmonic: np.ndarray, source_order: int
    ) -> SharedCellStrengths:
        """Return how strong the moments are that were put in the order of a tree last."""
        assert self._geometry is not None
        return SharedCellStrengths(harmonic, source_order, self._geometry)


def extremes(ranks: Ranks, cell: Cell, *points: np.ndarray) -> list[np.ndarray]:
    """Return points of all ranks that reach as far along what is free as any."""
    across = cell.vectors[cell.n_periodic :]
    found = [np.zeros((0, 3))]
    for array in points:
        if len(array) and len(across):
            along = array @ across.T
            found.append(array[np.concatenate([along.argmin(axis=0), along.argmax(axis=0)])])
    told = np.concatenate(ranks.gather(np.concatenate(found).astype(np.float64)))
    return [told] if len(told) else []


def _owned(
    ranks: Ranks,
    grid: CellGrid,
    targets: np.ndarray,
    sources: np.ndarray,
    smallest: float,
    weights: tuple[np.ndarray, np.ndarray] | None,
) -> _Owned:
    """Return the points of a cell that this rank is to own; see `fmm.distributed.placing.owned`."""
    n_copies = len(grid.copies)
    same = targets is sources and n_copies == 1
    copies = sources if same else np.concatenate([sources + copy for copy in grid.copies])
    kinds = [copies] if same else [copies, targets]
    inside = [grid.placed(array) for array in kinds]
    moved = bool(ranks.largest(np.array([int(any(moved for *_, moved in inside))]))[0])
    counts = np.array(grid.counts)
    scaled = [fraction * counts for _, fraction, _ in inside]
    costs = None
    if weights is not None:
        costs = [np.tile(weights[1], n_copies), weights[0]][: len(kinds)]
    known = np.zeros((1, 3)), np.ones(1)
    root_grid = max(grid.counts)
    starts, bits, exchanges, _ = shared_out(
        ranks, scaled, known, root_grid, smallest * grid.multiple, costs
    )
    first = np.repeat(np.arange(n_copies) == 0, len(sources))
    come = [
        exchange.forth(np.concatenate([place, fraction], axis=1))
        for exchange, (place, fraction, _) in zip(exchanges, inside, strict=True)
    ]
    here = [(np.ascontiguousarray(c[:, :3]), np.ascontiguousarray(c[:, 3:])) for c in come]
    if moved:
        here = _united(grid, here)
    (s, u), (x, v) = here[0], here[-1]
    points = sort_in_cell(grid, Placed(x, s, v, u))
    has = np.concatenate(ranks.gather(np.array([len(x) > 0])))
    domain = Domain(
        ranks, starts, counts, grid.periods, bits, root_grid, exchanges[-1], exchanges[0],
        (targets, sources), has, exchanges[0].forth(first),
    )  # fmt: skip
    return _Owned(domain, grid, points, *along_curve(points, x, s))


def _united(
    grid: CellGrid, kinds: list[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return points with those that are one, but for rounding, at one place."""
    points, fractions = (np.concatenate(parts) for parts in zip(*kinds, strict=True))
    unite(grid, points, fractions)
    if len(kinds) == 1:
        return [(points, fractions)]
    n = len(kinds[0][0])
    return [(points[:n], fractions[:n]), (points[n:], fractions[n:])]
