"""The field of any moments on the points of a batch, of which some systems are in cells."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnn.operators.derivatives import refuse_transforms
from gnn.operators.periodic import Sums
from multipoles import indexing
from multipoles.lattice.cell import cells_of
from multipoles.lattice.options import TOLERANCES, Lattice
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
        self._index = index
        self._sums: list[Sums] | None = None

    def __call__(self, moments: Tensor) -> Tensor:
        """Return the field (n_targets, channels, n_components(order))."""
        if self._sums is None:
            self._sums = list(self._plans(indexing.order_of(moments.shape[-1])))
        width = indexing.n_components(self.order)
        out = moments.new_zeros(len(self.points[0]), moments.shape[1], width)
        if self._free is not None:
            found = self._free(moments.index_select(0, self._free_rows[1]))
            out = out.index_copy(0, self._free_rows[0], found)
        for sums in self._sums:
            rows, found = sums.field(moments.double())
            out = out.index_copy(0, rows, found.to(moments.dtype))
        return out

    def _plans(self, source_order: int) -> Iterator[Sums]:
        """Yield the sums of the systems of which the same directions repeat."""
        x, s = (points.double() for points in self.points)
        h = self.cells.vectors.double()
        tolerance = TOLERANCES[self.points[0].element_size()]
        count = len(self.cells.periodic)
        edges = [np.searchsorted(of.numpy(), np.arange(count + 1)) for of in self._index]
        both = torch.from_numpy(np.logical_and(*(np.diff(each) > 0 for each in edges)))
        for a, b, c in product((True, False), repeat=3):
            periodic = a, b, c
            chosen = (self.cells.periodic == torch.tensor(periodic)).all(1) & both
            own = torch.nonzero(chosen)[:, 0].numpy()
            if not any(periodic) or not len(own):
                continue
            lattice = Lattice(np.empty((0, 3, 3)), periodic, None, True, "conductor")
            first, second = (np.stack([each[own], each[own + 1]], axis=1) for each in edges)
            mine, orders = h[torch.from_numpy(own)], (source_order, self.order)
            reduced = cells_of(mine.detach().numpy(), periodic, lattice.name_of(own))
            given = x, s, mine, reduced, self.kernel, lattice, tolerance, orders
            yield Sums(*given, (first, second), self.same)
