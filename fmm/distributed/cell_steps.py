"""The steps of a plan in a cell whose points lie on many ranks, see `fmm.cell.steps`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fmm.cell.far import CellFarField
from fmm.cell.grid import grid_of
from fmm.cell.probe import CellProbe, CellStrengths
from fmm.cell.steps import CellSteps
from fmm.distributed.cell_geometry import SharedCellGeometry
from fmm.distributed.cell_placing import OwnedInCell, extremes, owned_in_cell
from fmm.distributed.far import SharedFarField
from fmm.distributed.geometry import Foreign
from fmm.distributed.probe import SharedProbe, SharedStrengths
from fmm.distributed.ranks import Pending, Ranks
from fmm.distributed.steps import OverRanks
from fmm.error.indicators import Boxed, Where
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Geometry
from fmm.tree.sorting import gathered
from multipoles.lattice import surface
from multipoles.lattice.options import Lattice, check_neutral
from multipoles.radial import Kernel


class SharedCellFarField(SharedFarField, CellFarField):
    """The far field of the points of one rank in a cell."""

    geometry: SharedCellGeometry

    def _merged_rows(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = rows[self.geometry.home_rows]
        return found

    def _place(self, rows: np.ndarray, first: np.ndarray) -> None:
        # images get theirs now, when those of other ranks are there
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

    def _made_owned(
        self, targets: np.ndarray, sources: np.ndarray, root_grid: int, smallest: float
    ) -> OwnedInCell:
        ends = extremes(self.ranks, self.cell, targets, sources)
        grid = grid_of(self.cell, *ends).finer(root_grid)
        return owned_in_cell(self.ranks, grid, targets, sources, smallest, self.weights)

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
