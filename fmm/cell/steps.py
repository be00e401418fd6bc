"""The steps of a plan in a cell, see `fmm.steps`: those of the CPU, where points have images."""

from functools import cached_property, partial
from typing import Any

import numpy as np

from fmm.cell.far import CellFarField
from fmm.cell.geometry import geometry_in_cell, sort_in_cell
from fmm.cell.grid import CellGrid, NoGrid, grid_of
from fmm.cell.placing import Placed, placed
from fmm.cell.probe import CellProbe, CellStrengths
from fmm.error.in_cell import InCell
from fmm.steps import ROOT_GRIDS
from fmm.steps_cpu import HostSteps
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches, Geometry
from fmm.tree.sorting import gathered
from multipoles.lattice import surface
from multipoles.lattice.cell import Cell, cell_of
from multipoles.lattice.options import Lattice, check_neutral
from multipoles.radial import Kernel

# evaluations between two that are measured
_UNMEASURED = 7
# of the tolerance, for sums by which fields are judged
_SHARE = 0.03
# numbers in matrices between root boxes, and products with them per point
_MATRICES, _PRODUCTS = 1e7, 1e3


class CellSteps(HostSteps):
    """Arrays of NumPy, and a lattice.

    Parameters
    ----------
    lattice : Lattice
        What repeats, and what is meant by it, in the caller's units.
    kernel : Kernel
        Radial kernel.
    tolerance : float
        Of the plan.
    exponent : int
        Lengths of points are counted in two to this power.
    """

    def __init__(
        self, lattice: Lattice, kernel: Kernel, tolerance: float, exponent: int = 0
    ) -> None:
        self.lattice, self.exponent = lattice, exponent
        self._given = lattice, kernel, tolerance
        self.cell: Cell = cell_of(np.ldexp(lattice.cells, -exponent), lattice.periodic)
        self.images = 3**self.cell.n_periodic
        self.unmeasured = _UNMEASURED
        self._last: tuple[Any, Any, tuple[CellGrid, Placed]] | None = None

    def in_units(self, exponent: int) -> "CellSteps":
        """Return the steps for points whose lengths are counted in two to a power."""
        return self if exponent == self.exponent else CellSteps(*self._given, exponent)

    @property
    def probe(self) -> Any:
        """What samples the field at some targets and measures errors there."""
        return partial(CellProbe, exact=self._exact)

    @cached_property
    def _exact(self) -> InCell:
        _, kernel, tolerance = self._given
        unit = float(2.0**-self.exponent)
        return InCell(self.cell, kernel.scaled(unit), _SHARE * tolerance, unit)

    # --- units ------------------------------------------------------------------------------------

    def corners(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the extent of what repeats: by it, not by the points, units are chosen."""
        rows = self.cell.vectors[: self.cell.n_periodic]
        return np.zeros(3), np.full(3, np.abs(rows).max())

    def typical_extent(self, points: Any) -> float:
        """Return the extent of what repeats."""
        return float(self.corners(points)[1][0])

    # --- tree -------------------------------------------------------------------------------------

    def root_grids(self, degree: int, n: int) -> tuple[int, ...]:
        """Return how many times the least number of boxes may lie along the coarsest level.

        All pairs of root boxes meet by matrices, one for every difference of places.
        """
        counts = np.array(grid_of(self.cell).counts)
        boxes = np.array([float((counts * k).prod()) for k in ROOT_GRIDS])
        numbers = (degree + 1.0) ** 4
        fits = (boxes * numbers < _MATRICES) & (boxes**2 * numbers < _PRODUCTS * n)
        return tuple(k for k, fit in zip(ROOT_GRIDS, fits, strict=True) if fit or k == 1)

    def least_edge(self, reach: float) -> float:
        """Return the least edge of boxes, in root boxes, that are so far apart unless they touch.

        Raises
        ------
        NoGrid
            If root boxes are less wide than the distance.
        """
        height = grid_of(self.cell).least_height
        if reach > height:
            raise NoGrid(
                f"kernel: expected one that is 1/r from {height * 2.0**self.exponent:.3g} on, the "
                f"width of a root box of this cell, got one from {reach * 2.0**self.exponent:.3g} "
                "on; use fmm.Mesh or multipoles.field"
            )
        return reach / height

    def sort(
        self, targets: np.ndarray, sources: np.ndarray, batches: Batches, root_grid: int = 1
    ) -> SortedPoints:
        """Return points along the curve through `root_grid` times the boxes of the cell."""
        grid, points = self._placed(targets, sources)
        return sort_in_cell(grid.finer(root_grid), points)

    def geometry(
        self,
        points: SortedPoints,
        targets: np.ndarray,
        sources: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> Geometry:
        """Return points, tree with images and lists, see `CellGeometry`."""
        grid, inside = self._placed(targets, sources)
        grid = grid.finer(points.root_grid // max(grid.counts))
        return geometry_in_cell(grid, inside, leaf_size, least, smallest, points)

    def _placed(self, targets: np.ndarray, sources: np.ndarray) -> tuple[CellGrid, Placed]:
        """Return the coarsest grid, and the points in it: those of the last call, if they are."""
        last = self._last
        if last is None or last[0] is not targets or last[1] is not sources:
            grid = grid_of(self.cell, targets, sources)
            last = self._last = targets, sources, (grid, placed(grid, targets, sources))
        return last[2]

    # --- evaluation -------------------------------------------------------------------------------

    def to_tree(self, geometry: Any, moments: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return moments in the order of the tree, and those of images after them."""
        index = geometry.tree.source_permutation[geometry.origin] % geometry.n_sources
        return gathered(moments, index).astype(dtype, copy=False)

    def far(
        self,
        geometry: Any,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
    ) -> CellFarField:
        """Return what computes the far field of harmonic moments."""
        return CellFarField(geometry, degrees, source_order, order, dtype)

    def not_harmonic(self, geometry: Any, moments: np.ndarray, order: int) -> np.ndarray | None:
        """Return the part of a field that is not harmonic, in the order of the tree.

        That of the background of a cell is the kernel 2 pi y² / 3V of the displacement y, from
        which the places of root boxes are taken off (`fmm.cell.sums`).
        """
        if self.cell.n_periodic < 3:
            return None
        volume = self.cell.volume * len(geometry.grid.copies)
        inside = moments[: geometry.n_own].astype(np.float64)
        # the negative is the kernel of the surface of a sphere in vacuum
        x, s = geometry.inside_roots
        return -surface.field_of_one(x, s, inside, order, volume)

    def of_surface(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray | None:
        """Return the field of the surface of a sphere in vacuum, if that is what is meant."""
        if self.lattice.surface != "vacuum":
            return None
        x, s = (
            np.ldexp(points.astype(np.float64), -self.exponent) for points in (targets, sources)
        )
        return surface.field_of_one(x, s, moments.astype(np.float64), order, self.cell.volume)

    def refuse(self, moments: np.ndarray, kernel: Any) -> None:
        """Refuse a charged cell that is to have no background."""
        check_neutral(moments, self.lattice, kernel)

    def strengths(
        self, moments: np.ndarray, harmonic: np.ndarray, source_order: int
    ) -> CellStrengths:
        """Return how strong moments are."""
        return CellStrengths(harmonic, source_order)
