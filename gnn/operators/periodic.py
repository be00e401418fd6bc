"""Which sum serves a system in its cell, and the systems of a batch one by one."""

import numpy as np
import torch
from torch import Tensor

from fmm.mesh.choice import ToleranceNotKept
from gnn.operators.lattice import System, width
from gnn.operators.mesh import MeshSystem
from multipoles import indexing
from multipoles.lattice.periodic import TOLERANCES, Lattice, check_neutral, ranges_of_systems
from multipoles.lattice.split import decays
from multipoles.radial import Kernel

# tighter ones are left to Ewald sums, whose derivatives are exact to rounding
_TIGHTEST = 1e-9
# fewer targets and sources are not summed sooner on a mesh, with derivatives by points and cell
_FEW = 1000


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
    found = []
    sizes = len(x), len(s)
    place = 0
    for index, of_targets, of_sources in ranges_of_systems(*sizes, lattice, batches):
        # targets of systems without sources
        found.append(x.new_zeros(of_targets.start - place, m.shape[1], width(order)))
        own = h if h.dim() == 2 else h[index]
        system = system_in_cell(
            x[of_targets], s[of_sources], own, kernel, lattice, tolerance,
            (indexing.order_of(m.shape[-1]), order), targets is sources,
        )  # fmt: skip
        check_neutral(m[of_sources].detach().numpy(), system.plan.cell, lattice, kernel)
        found.append(system.field(m[of_sources], order))
        place = of_targets.stop
    found.append(x.new_zeros(len(x) - place, m.shape[1], width(order)))
    return torch.cat(found).to(dtype)


def system_in_cell(
    targets: Tensor,
    sources: Tensor,
    cell: Tensor,
    kernel: Kernel,
    lattice: Lattice,
    tolerance: float,
    orders: tuple[int, int],
    same: bool,
) -> System:
    """Return the sum of one system: on a mesh where that is faster and keeps the tolerance."""
    given = targets, sources, cell, kernel, lattice, tolerance, orders, same
    few = len(targets) + len(sources) < _FEW
    if few or tolerance < _TIGHTEST or decays(kernel):
        return System(*given)
    try:
        return MeshSystem(*given)
    except ToleranceNotKept:
        return System(*given)
