"""The error of a field in a cell as measured: at a few targets, against sums without expansions."""

from typing import Any

import numpy as np

from fmm.cell.geometry import CellGeometry
from fmm.error.in_cell import InCell
from fmm.error.sampling import Probe


class CellProbe(Probe):
    """Targets at which the whole field is known, see `Probe`.

    Parameters
    ----------
    given
        See `Probe`.
    exact : InCell
        Sums in the cell.
    """

    _geometry: CellGeometry

    def __init__(self, *given: Any, exact: InCell) -> None:
        self._in_cell = exact
        super().__init__(*given)

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        """Return the whole field at ascending targets, in float64."""
        own = self._geometry.one_copy
        targets, sources = self._geometry.points(np.dtype(np.float64))
        moments = np.ascontiguousarray(self._moments[own], np.float64)
        ends = np.ascontiguousarray(targets[samples]), np.ascontiguousarray(sources[own])
        return self._in_cell.field(*ends, moments, self._order)
