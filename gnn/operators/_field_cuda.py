"""The field of multipoles on the GPU: tensors to tensors on torch's stream.

In Numba's simulator tensors of the CPU stand in for those of a device (`_edge_cuda.emulated`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmm import FMM
from multipoles import direct_cuda, indexing
from multipoles._cuda import SIMULATED
from multipoles._device import NumbaSpace, space_of, view
from multipoles.neighbours import PairList
from multipoles.neighbours_cuda import DeviceNeighbours, DevicePairs


class Direct:
    """The sum over all pairs of a system, or over those of a list; see `_evaluators.Direct`."""

    def __init__(self, kernel: Any, neighbours: DeviceNeighbours) -> None:
        self.kernel, self.neighbours = kernel, neighbours

    def field(self, targets: Tensor, sources: Tensor, moments: Tensor, order: int) -> Tensor:
        """Return the field (n_targets, channels, n_components(order)) at the targets."""
        shape = len(targets), moments.shape[1], indexing.n_components(order)
        if 0 in (*shape, len(sources)):
            return moments.new_zeros(shape)
        space = NumbaSpace() if SIMULATED else space_of(targets)
        x, s, m = (view(t.detach().contiguous()) for t in (targets, sources, moments))
        found = direct_cuda.field(space, x, s, m, order, self.kernel, self.neighbours)
        return torch.from_numpy(space.download(found)) if SIMULATED else space.give(found)

    @property
    def transposed(self) -> "Direct":
        """The same pairs with targets and sources exchanged."""
        return Direct(self.kernel, self.neighbours.transposed)


def evaluator(
    method: str,
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    kernel: Any,
    neighbours: DeviceNeighbours,
    tolerance: float,
) -> Any:
    """Return what sums by a method; like `_evaluators.evaluator`, but ``"auto"`` is direct."""
    from gnn.operators._evaluators import METHODS, Planned

    if method not in METHODS:
        raise ValueError(f"expected method to be one of {METHODS}, got {method!r}")
    if method != "fmm":
        return Direct(kernel, neighbours)
    if isinstance(neighbours, DevicePairs):
        raise ValueError(
            "method 'fmm' sums over all pairs of a system, expected no list of pairs: use 'direct'"
        )
    plan = FMM(
        sources, targets, tolerance, indexing.order_of(moments.shape[2]), order,
        source_batch=neighbours.source_batch, target_batch=neighbours.target_batch,
        channels=max(moments.shape[1], 1), kernel=kernel,
    )  # fmt: skip
    return Planned(plan)


def everybody(
    n_targets: int, n_sources: int, target_batch: Tensor | None, source_batch: Tensor | None
) -> DeviceNeighbours:
    """Return the neighbours of systems, or of a single one."""
    batches = (None if b is None else _index(b) for b in (target_batch, source_batch))
    return DeviceNeighbours(n_targets, n_sources, *batches)


def listed(pairs: Tensor, n_targets: int, n_sources: int) -> DevicePairs:
    """Return the neighbours of a list (n_pairs, 2)."""
    return DevicePairs(_index(pairs[:, 0]), _index(pairs[:, 1]), n_targets, n_sources)


def uploaded(pairs: PairList, like: Tensor) -> DevicePairs:
    """Return a list made on the host, on the tensor's device."""
    rows = torch.from_numpy(np.ascontiguousarray(pairs.all_pairs())).to(like.device)
    return listed(rows, pairs.n_targets, pairs.n_sources)


def _index(tensor: Tensor) -> Any:
    return view(tensor.detach().to(torch.int64).contiguous())
