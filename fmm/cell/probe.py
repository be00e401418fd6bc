"""The error of a field in a cell as measured: at a few targets, against Ewald sums."""

from typing import Any

import numpy as np

from fmm.cell.geometry import CellGeometry
from fmm.error.sampling import Probe
from multipoles.indexing import order_of
from multipoles.lattice.cell import cell_of
from multipoles.lattice.ewald import Ewald

# of what is measured
_TOLERANCE = 1e-13


class CellProbe(Probe):
    """Targets at which the whole field is known, see `Probe`.

    Parameters
    ----------
    unit : float
        The length whose logarithm is zero, along a wire.
    """

    _geometry: CellGeometry

    def __init__(self, *given: Any, unit: float = 1.0) -> None:
        self._unit = unit
        super().__init__(*given)

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        """Return the whole field at ascending targets, in float64."""
        geometry = self._geometry
        grid, own = geometry.grid, slice(0, geometry.n_own)
        moments = np.ascontiguousarray(self._moments[own], np.float64)
        targets, sources = geometry.points(np.dtype(np.float64))
        rows = grid.lattice
        periodic = tuple((grid.periods > 0).tolist())
        cell = cell_of(rows, periodic)
        order = self._order
        plan = Ewald(
            np.ascontiguousarray(targets[samples]), np.ascontiguousarray(sources[own]), cell,
            self._kernel, _TOLERANCE, order_of(moments.shape[2]), order, self._unit,
        )  # fmt: skip
        return plan.field(moments, plan.factors_of(moments), order)
