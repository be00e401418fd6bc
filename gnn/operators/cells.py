"""The field of any moments on the points of a batch, of which some systems are in cells."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnn.operators.derivatives import refuse_transforms
from gnn.operators.lattice import System
from gnn.operators.periodic import system_in_cell
from multipoles import indexing
from multipoles.lattice.periodic import TOLERANCES, Lattice
from multipoles.lattice.split import check_kernel
from multipoles.radial import Kernel

#: Makes the map of moments to their field of systems in free space, from targets, sources and the
#: system of each.
InFreeSpace = Callable[[Tensor, Tensor, tuple[Tensor, Tensor]], Callable[[Tensor], Tensor]]


class Cells(NamedTuple):
    """Lattice vectors as rows, (B, 3, 3), and which of them repeat, bool (B, 3)."""

    vectors: Tensor
    periodic: Tensor


class FieldInCells:
    """The field of any moments on the same points: the first call makes the plan of all.

    Systems in a cell are summed over all images, each in its own (`gnn.operators.lattice`), in
    float64 and with relative errors of 1e-6 or 1e-13, as the type of the points allows.

    Parameters
    ----------
    targets, sources : Tensor
        (N, 3) and (M, 3), on the CPU; one tensor where they are the same.
    order : int
        Order of the field's derivatives.
    kernel : Kernel
        One that decays or is Coulomb's from some distance on.
    index : tuple of Tensor
        Sorted system of each target and of each source.
    cells : Cells
        Of all systems; those of which nothing repeats are in free space.
    in_free_space : callable
        What sums for these.

    Raises
    ------
    ValueError
        If the kernel has no sum over all images, or under the transforms of `torch.func`.
    """

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor,
        order: int,
        kernel: Kernel,
        index: tuple[Tensor, Tensor],
        cells: Cells,
        in_free_space: InFreeSpace,
    ) -> None:
        refuse_transforms()
        check_kernel(kernel)
        self.points, self.same = (targets, sources), targets is sources
        self.order, self.kernel, self.cells = order, kernel, cells
        repeats = cells.periodic.any(1)
        free = [torch.nonzero(~repeats.index_select(0, of))[:, 0] for of in index]
        self._free_rows = free
        self._free: Callable[[Tensor], Tensor] | None = None
        if len(free[0]) and len(free[1]):
            x = targets.index_select(0, free[0])
            s = x if self.same else sources.index_select(0, free[1])
            of = index[0].index_select(0, free[0]), index[1].index_select(0, free[1])
            self._free = in_free_space(x, s, of)
        self._inside = torch.nonzero(repeats)[:, 0].tolist()
        numbers = np.array(self._inside, dtype=np.int64)
        self._rows = [_ranges(of.numpy(), numbers) for of in index]
        order_of_rows = [free[0], *(torch.arange(*rows) for rows in self._rows[0])]
        self._places = torch.argsort(torch.cat(order_of_rows))
        self._systems: list[System | None] | None = None

    def __call__(self, moments: Tensor) -> Tensor:
        """Return the field (n_targets, channels, n_components(order))."""
        if self._systems is None:
            self._systems = self._plan(indexing.order_of(moments.shape[-1]))
        width, count = indexing.n_components(self.order), moments.shape[1]
        if self._free is None:
            found = [moments.new_zeros(len(self._free_rows[0]), count, width)]
        else:
            found = [self._free(moments.index_select(0, self._free_rows[1]))]
        for system, of_targets, of_sources in zip(self._systems, *self._rows, strict=True):
            if system is None:
                found.append(moments.new_zeros(of_targets[1] - of_targets[0], count, width))
            else:
                own = moments[slice(*of_sources)].double()
                found.append(system.field(own, self.order).to(moments.dtype))
        return torch.cat(found).index_select(0, self._places)

    def _plan(self, source_order: int) -> list[System | None]:
        x, s = (points.double() for points in self.points)
        if self.same:
            s = x
        h = self.cells.vectors.double()
        tolerance = TOLERANCES[self.points[0].element_size()]
        systems: list[System | None] = []
        for number, of_targets, of_sources in zip(self._inside, *self._rows, strict=True):
            own = h[number]
            a, b, c = self.cells.periodic[number].tolist()
            lattice = Lattice(own.detach().numpy(), (a, b, c), None, True, "conductor")
            targets = x[slice(*of_targets)]
            sources = targets if self.same else s[slice(*of_sources)]
            orders = source_order, self.order
            empty = not len(targets) or not len(sources)
            given = targets, sources, own, self.kernel, lattice, tolerance, orders, self.same
            systems.append(None if empty else system_in_cell(*given))
        return systems


def _ranges(of: np.ndarray, numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last row, and one more, of each of some systems; `of` is sorted."""
    first, last = np.searchsorted(of, numbers), np.searchsorted(of, numbers, side="right")
    return list(zip(first.tolist(), last.tolist(), strict=True))
