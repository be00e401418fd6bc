"""The smooth part of a periodic sum wave by wave, without a grid: soonest where there are few.

Structure factors of so many charges, and the field of so many waves, take a few operations for
each charge and wave. A grid asks for hundreds of its points for each charge, however many waves
there are: it pays in large boxes only (`fmm.mesh`).
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fmm.mesh.choice import band_for
from gnn.engines.embedding.near import FEW
from multipoles import indexing
from multipoles.lattice.cell import Cell
from multipoles.lattice.smooth import Smooth
from multipoles.lattice.split import spacing
from multipoles.lattice.transform import transform
from multipoles.lattice.waves import Waves
from multipoles.polynomials import monomial_matrices

Array = NDArray[np.float64]

# ns, there and back: a charge and a wave, a charge by itself, a pair of it and one of few atoms, of
# many; and a charge on a grid
_WAVE, _CHARGE, _OF_FEW, _OF_MANY, _ON_GRID = 0.5, 45.0, 8.0, 40.0, 900.0
# order of moments and fields, at most
_HIGHEST = 3
# radii that are tried, in Å
_RADII = np.arange(6.0, 24.0, 0.5)


def waves_pay(
    n_atoms: int, n_charges: int, cell: Cell, tolerance: float, top: int
) -> Smooth | None:
    """Return how to split a sum into near pairs and waves; None where a grid is faster.

    Parameters
    ----------
    n_atoms, n_charges
        Points at which the field of all charges is wanted, and charges.
    cell : Cell
        What repeats, in three directions.
    tolerance
        Relative error that is aimed at.
    top
        Order of the moments and of the field together.
    """
    apart = float(spacing(n_charges, cell, np.zeros(0)))
    tolerance = tolerance / (1 + (top / 2.2) ** 3)  # sums of many orders err by more, as on a grid
    bands = np.array([band_for(tolerance, top, radius / apart) for radius in _RADII.tolist()])
    # half of those within the sphere: one of k and -k
    n_waves = cell.volume * (bands / _RADII) ** 3 / (12 * np.pi**2)
    pairs = n_atoms * n_charges / cell.volume * 4 / 3 * np.pi * _RADII**3
    pair = _OF_FEW if n_atoms <= FEW else _OF_MANY
    costs = n_charges * (_WAVE * n_waves + _CHARGE) + pair * pairs
    best = int(np.argmin(costs))
    if costs[best] > _ON_GRID * n_charges:
        return None
    return Smooth(radius=float(_RADII[best]), band=float(bands[best]))


class WaveSum:
    """The smooth part of 1/r in a cell, split as `Smooth` says.

    It has what `fmm.mesh.plan.MeshSum` has for points that come and go.

    Parameters
    ----------
    cell : Cell
        What repeats, in three directions.
    setting : Smooth
        How the sum is split.
    """

    def __init__(self, cell: Cell, setting: Smooth):
        self.cell, self.setting = cell, setting
        edges = np.linalg.norm(cell.vectors, axis=1)
        limits = np.floor(setting.longest * edges / (2 * np.pi)).astype(np.int64)
        self._waves = Waves(limits[None], cell.inverse[None], setting.longest)

    @cached_property
    def _weights(self) -> Array:
        """What structure factors are multiplied by; twice where -k is not there."""
        k = self._waves.vectors
        profile = self.setting.profile(np.linalg.norm(k, axis=1) / self.setting.longest)
        weights: Array = transform(k, self.cell, 0.0) * profile * (2 / self.cell.volume)
        return weights

    @cached_property
    def _changes(self) -> Array:
        """The matrix that takes packed moments to those in fractional coordinates."""
        n = indexing.n_components(_HIGHEST)
        matrix = np.zeros((n, n))
        for order, block in enumerate(monomial_matrices(self.cell.inverse[None], _HIGHEST)):
            here = indexing.order_slice(order)
            matrix[here, here] = block[0]
        return matrix

    @staticmethod
    def _changed(packed: Array, matrix: Array) -> Array:
        """Return packed numbers (n, channels, components) in other coordinates."""
        n = packed.shape[2]
        if n == 1:
            return packed
        found: Array = packed.reshape(-1, n) @ matrix[:n, :n]
        return found.reshape(packed.shape)

    def spectrum_of(self, points: Array, moments: Array) -> NDArray[np.complex128]:
        """Return the waves that moments (n, channels, components) at points (n, 3) make."""
        given = self._changed(moments, self._changes)
        ends = np.array([0, len(points)])
        return self._waves.structure_factors(points @ self.cell.inverse, given, ends)

    def smooth_field_at(self, points: Array, spectrum: NDArray[np.complex128], order: int) -> Array:
        """Return the smooth part of the field (n, channels, components) at points (n, 3)."""
        ends = np.array([0, len(points)])
        given = points @ self.cell.inverse, spectrum * self._weights, order, ends
        return self._changed(self._waves.synthesis(*given), self._changes.T)

    def background(self, moments: Array) -> Array:
        """Return the potential (channels,) of the background that makes a cell neutral."""
        charges: Array = moments[:, :, 0].sum(axis=0)
        return -self.setting.lacks / self.cell.volume * charges
