"""The field of multipoles in torch: what users call, which checks and dispatches.

Free space goes to `field_operator`, cells to `lattice`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnn.operators.derivatives import refuse_transforms, transformed
from gnn.operators.edges import BACKENDS
from gnn.operators.evaluators import METHODS
from gnn.operators.field_neighbours import given_neighbours
from gnn.operators.field_operator import check_finite, unchecked_field
from gnn.operators.gpu import on_gpu
from gnn.operators.periodic import field_in_cells
from multipoles import checks, indexing
from multipoles.checks import check_total_order
from multipoles.lattice.options import lattice_of
from multipoles.lattice.split import check_kernel
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()


def multipole_field(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int = 1,
    *,
    kernel: Kernel = _COULOMB,
    method: str = "direct",
    tolerance: float = 1e-6,
    target_batch: Tensor | None = None,
    source_batch: Tensor | None = None,
    pairs: Tensor | None = None,
    backend: str = "compiled",
    cell: Tensor | None = None,
    periodic: bool | Sequence[bool] = True,
    background: bool = True,
    surface: str = "conductor",
) -> Tensor:
    """Return the field of multipoles at targets, differentiable in all its tensors.

    Parameters
    ----------
    targets, sources : Tensor
        (n_targets, 3) and (n_sources, 3) points; may be the same tensor. Coincident points
        contribute nothing.
    moments : Tensor
        (n_sources, [channels,] n_components) packed Cartesian moments of any order.
    order : int
        Highest derivative of the potential to return.
    kernel : Kernel
        Radial kernel of `multipoles`.
    method : {"direct", "fmm", "auto"}
        How to sum: over all pairs; by the fast multipole method, for kernels that are Coulomb's at
        long range; or by the one of the two that is expected to be faster.
    tolerance : float
        Of the fast multipole method: largest relative L2 error of the field at every output order,
        and of the fields that make its derivatives. In a cell: the relative error aimed at.
    target_batch, source_batch : Tensor, optional
        Sorted system index of every point; only points of one system interact.
    pairs : Tensor, optional
        (n_pairs, 2) int64, columns target and source: sum over these pairs only.
    backend : {"compiled", "torch"}
        Compiled sums, or the direct sum's twin in plain torch.
    cell : Tensor, optional
        (3, 3), or (n_systems, 3, 3) with batches: lattice vectors as rows. The sum is over all
        images, as `multipoles.field` has it, by Ewald's method or, for many points, on a mesh; on
        the CPU, with derivatives by `torch.autograd` (not `torch.func`, nor forward mode).
    periodic, background, surface
        What repeats, and what is meant by it, see `multipoles.field`.

    Returns
    -------
    Tensor
        (n_targets, [channels,] n_components(order)): ``sum_alpha (-1)^|alpha| M_alpha
        d^(alpha + beta) f(x - s)``.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, numbers are not finite, orders are too high, `method` or
        `backend` is unknown, or the fast multipole method cannot do what is asked.
    TypeError
        If an argument is no tensor, or `kernel` no radial kernel.
    """
    given = {"targets": targets, "sources": sources, "moments": moments}
    order = _check(given, order, method, tolerance, backend)
    kernel = kernel_object(kernel)
    single = moments.dim() == 2
    if single:
        moments = moments[:, None]
    if cell is not None:
        given_cell = cell, periodic, tolerance, background, surface
        batches = target_batch, source_batch
        _check_cell(cell, targets, method, backend, pairs)
        field = _in_cells(targets, sources, moments, order, kernel, given_cell, batches)
        return field[:, 0] if single else field
    neighbours = given_neighbours(targets, len(sources), pairs, target_batch, source_batch)
    how = method, tolerance, backend
    field = unchecked_field(targets, sources, moments, order, kernel, neighbours, *how)
    return field[:, 0] if single else field


def _check_cell(
    cell: Tensor, targets: Tensor, method: str, backend: str, pairs: Tensor | None
) -> None:
    if not isinstance(cell, Tensor):
        raise TypeError(f"expected cell as a torch tensor, got {type(cell).__name__}")
    refuse_transforms()
    if on_gpu(targets) or cell.device.type != "cpu":
        raise ValueError("expected tensors on the CPU in a cell, got some on a GPU")
    if cell.dtype != targets.dtype:
        raise ValueError(f"expected cell of {targets.dtype} like the points, got {cell.dtype}")
    if method == "fmm" or backend != "compiled" or pairs is not None:
        raise ValueError(
            "cell: expected method 'auto' or 'direct' (Ewald's sum), backend 'compiled' and no "
            f"pairs, got method {method!r}, backend {backend!r}"
            + (" and pairs" if pairs is not None else "")
        )


def _in_cells(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    kernel: Kernel,
    given: tuple[Any, ...],
    batches: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    cell, periodic, tolerance, background, surface = given
    first, second = (None if batch is None else batch.numpy() for batch in batches)
    of_targets, of_sources = checks.batches(first, second, len(targets), len(sources))
    batched = of_targets is not None
    rows = cell.detach().numpy()
    lattice = lattice_of(rows, periodic, tolerance, background, surface, batched)
    check_kernel(kernel, surface)
    systems = of_targets, of_sources
    return field_in_cells(targets, sources, moments, order, kernel, cell, lattice, systems)


def _check(
    given: dict[str, Tensor], order: int, method: str, tolerance: float, backend: str
) -> int:
    """Refuse what the operator cannot do; return the order as a plain int."""
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"expected {name} as a torch tensor, got {type(tensor).__name__}")
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(f"expected {name} on the CPU or a GPU, got one on {tensor.device}")
        if tensor.device != given["targets"].device:
            raise ValueError(
                f"expected tensors of one device, got targets on {given['targets'].device} and "
                f"{name} on {tensor.device}"
            )
        if not transformed():  # under a transform tensors have no values yet
            check_finite(name, tensor)
    targets, sources, moments = given.values()
    for name in ("targets", "sources"):
        if given[name].dim() != 2 or given[name].shape[1] != 3:
            raise ValueError(f"expected {name} of shape (n, 3), got {tuple(given[name].shape)}")
    if moments.dim() not in (2, 3) or len(moments) != len(sources):
        raise ValueError(
            f"expected moments of shape ({len(sources)}, [channels,] n_components), got "
            f"{tuple(moments.shape)}"
        )
    kinds = {targets.dtype, sources.dtype, moments.dtype}
    if len(kinds) > 1 or kinds.pop() not in (torch.float32, torch.float64):
        raise ValueError(
            "expected targets, sources and moments of one dtype, float32 or float64, got "
            f"{targets.dtype}, {sources.dtype}, {moments.dtype}"
        )
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {METHODS}, got {method!r}")
    if backend not in BACKENDS:
        raise ValueError(f"expected backend to be one of {BACKENDS}, got {backend!r}")
    if backend == "torch" and method == "fmm":
        raise ValueError("method 'fmm' is compiled: expected backend 'compiled', got 'torch'")
    if not isinstance(tolerance, int | float) or not 1e-14 <= tolerance < 1:
        raise ValueError(f"expected a tolerance from 1e-14 to below 1, got {tolerance!r}")
    order = checks.order(order)
    check_total_order(indexing.order_of(moments.shape[-1]), order)
    return order
