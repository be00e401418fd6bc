"""Points moved into a cell, with the copies that a larger cell of the lattice holds.

Points that are images of each other are one, though moving them rounds their coordinates: they are
given the same ones, so that none is near itself.
"""

from dataclasses import dataclass

import numpy as np

from fmm.cell.grid import CellGrid
from multipoles.lattice.ewald import coincidence_of

# a direction along which points of a lattice do not lie at one height
_ALONG = np.array([0.5377, 0.6951, 0.4773])


@dataclass(frozen=True, eq=False)
class Placed:
    """Targets and sources in a cell, one object each if they are the same points.

    Attributes
    ----------
    targets, sources : ndarray, shape (n, 3)
        Sources with all copies, those of the first copy first.
    target_fractions, source_fractions : ndarray, shape (n, 3)
        Coordinates in the cell, from 0 to below 1.
    """

    targets: np.ndarray
    sources: np.ndarray
    target_fractions: np.ndarray
    source_fractions: np.ndarray

    @property
    def same(self) -> bool:
        """Whether targets are the sources."""
        return self.targets is self.sources


def placed(grid: CellGrid, targets: np.ndarray, sources: np.ndarray) -> Placed:
    """Return points in the cell of a grid."""
    same = targets is sources and len(grid.copies) == 1
    copies = sources if same else np.concatenate([sources + copy for copy in grid.copies])
    s, u, moved = grid.placed(copies)
    if same:
        if moved:
            unite(grid, s, u)
        return Placed(s, s, u, u)
    x, v, also = grid.placed(targets)
    if not (moved or also):
        return Placed(x, s, v, u)
    both, fractions = np.concatenate([s, x]), np.concatenate([u, v])
    unite(grid, both, fractions)
    n = len(s)
    return Placed(both[n:], both[:n], fractions[n:], fractions[:n])


def unite(grid: CellGrid, points: np.ndarray, fractions: np.ndarray) -> None:
    """Give points that are one, but for rounding, the coordinates of the first of them."""
    near = coincidence_of(points, points, grid.cell)
    height = points @ _ALONG
    order = np.argsort(height, kind="stable")
    close = np.flatnonzero(np.diff(height[order]) <= near)
    # runs of points that are close along the direction
    for run in np.split(close, np.flatnonzero(np.diff(close) > 1) + 1):
        if not len(run):
            continue
        members = np.sort(order[run[0] : run[-1] + 2])
        for i, first in enumerate(members):
            others = members[i + 1 :]
            apart = np.abs(points[others] - points[first]).max(axis=1, initial=0.0)
            one = others[apart <= near]
            points[one], fractions[one] = points[first], fractions[first]
