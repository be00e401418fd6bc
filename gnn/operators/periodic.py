"""Which sum serves a system in its cell, and which systems of a batch are summed at once."""

import numpy as np
import torch
from torch import Tensor

from fmm.mesh.choice import ToleranceNotKept
from gnn.operators.lattice import System, width
from gnn.operators.mesh import MeshSystem
from multipoles import indexing
from multipoles.lattice.cell import Cell, cells_of
from multipoles.lattice.groups import alike, numbers_of, systems_of
from multipoles.lattice.options import TOLERANCES, Lattice, check_neutral
from multipoles.lattice.rows import starts_of
from multipoles.lattice.split import decays
from multipoles.radial import Kernel

# tighter ones are left to Ewald sums, whose derivatives are exact to rounding
_TIGHTEST = 1e-9
# fewer targets and sources are not summed sooner on a mesh, with derivatives by points and cell; a
# system of more is in no group
_FEW = 5000


class Sums:
    """Sums over all images for systems of a batch, each in a cell of which the same repeats.

    Parameters
    ----------
    targets, sources : Tensor
        Points of all systems, float64.
    cells : Tensor, shape (n_systems, 3, 3)
        Lattice vectors of those that are summed, float64.
    reduced : Cell
        The reduced cells of their values.
    kernel : Kernel
        Radial kernel.
    lattice : Lattice
        What repeats and what is meant; its cells do not matter.
    tolerance : float
        Relative error that is aimed at.
    orders : tuple of int
        Of moments and field.
    ranges : tuple of two ndarrays of int, shape (n_systems, 2)
        First and last, and one more, of the targets and sources of each, which has both.
    same : bool
        Whether sources are the targets.
    """

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor,
        cells: Tensor,
        reduced: Cell,
        kernel: Kernel,
        lattice: Lattice,
        tolerance: float,
        orders: tuple[int, int],
        ranges: tuple[np.ndarray, np.ndarray],
        same: bool,
    ) -> None:
        self.order, self.lattice, self.kernel = orders[1], lattice, kernel
        self.groups: list[tuple[Tensor, Tensor, System]] = []
        counts = ranges[0][:, 1] - ranges[0][:, 0], ranges[1][:, 1] - ranges[1][:, 0]
        for own in alike(reduced, counts, np.zeros(len(reduced), np.int64)):
            first, second = (torch.from_numpy(numbers_of(each[own])) for each in ranges)
            x = targets.index_select(0, first)
            s = x if same else sources.index_select(0, second)
            ends = starts_of(counts[0][own]), starts_of(counts[1][own])
            system = _kind(reduced[own], kernel, tolerance, orders, *ends)
            given = x, s, cells[torch.from_numpy(own)], reduced[own], kernel, lattice.surface
            try:
                made = system(*given, tolerance, orders, same, ends)
            except ToleranceNotKept:
                made = System(*given, tolerance, orders, same, ends)
            self.groups.append((first, second, made))

    def field(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Return numbers of targets, and the field there (n, channels, components)."""
        fields = []
        for _, rows, system in self.groups:
            own = moments.index_select(0, rows)
            check_neutral(own.detach().numpy(), self.lattice, self.kernel, system.ends[1])
            fields.append(system.field(own, self.order))
        return torch.cat([rows for rows, _, _ in self.groups]), torch.cat(fields)


def _kind(
    cell: Cell,
    kernel: Kernel,
    tolerance: float,
    orders: tuple[int, int],
    of_targets: np.ndarray,
    of_sources: np.ndarray,
) -> type[System]:
    """Return the sum that is faster: on a mesh, if it may keep the tolerance, or Ewald's."""
    few = of_targets[-1] + of_sources[-1] < _FEW
    if len(cell) > 1 or few or tolerance < _TIGHTEST or decays(kernel):
        return System
    return MeshSystem


def field_in_cells(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    kernel: Kernel,
    cell: Tensor,
    lattice: Lattice,
    batches: tuple[np.ndarray | None, np.ndarray | None],
) -> Tensor:
    """Return the field of moments (n, channels, components) of all images, without checks."""
    dtype = targets.dtype
    tolerance = lattice.tolerance or TOLERANCES[targets.element_size()]
    x, s, m, h = (tensor.double() for tensor in (targets, sources, moments, cell))
    numbers, ranges = systems_of(len(x), len(s), lattice, batches)
    zeros = m.new_zeros(len(x), m.shape[1], width(order))
    if not len(numbers):
        return zeros.to(dtype)
    cells = h[None].expand(len(numbers), 3, 3) if h.dim() == 2 else h[torch.from_numpy(numbers)]
    name_of = lattice.name_of(numbers)
    reduced = cells_of(cells.detach().numpy(), lattice.periodic, name_of)
    orders = indexing.order_of(m.shape[-1]), order
    given = x, s, cells, reduced, kernel, lattice, tolerance, orders, ranges
    rows, found = Sums(*given, targets is sources).field(m)
    return zeros.index_copy(0, rows, found).to(dtype)
