"""The field of multipoles on the GPU: tensors to tensors on torch's stream.

In Numba's simulator tensors of the CPU stand in for those of a device (`gpu.emulated`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmm import FMM
from gnn.operators.evaluators import METHODS
from multipoles import indexing
from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda import direct as direct_cuda
from multipoles.cuda.device import NumbaSpace, Space, space_of, view
from multipoles.cuda.neighbours import DeviceNeighbours, DevicePairs, pairs_within


class Systems(DeviceNeighbours):
    """All pairs of points of each system; batches stay tensors, which plans take as they are."""

    def __init__(
        self,
        n_targets: int,
        n_sources: int,
        target_batch: Tensor | None = None,
        source_batch: Tensor | None = None,
    ) -> None:
        self.tensors = target_batch, source_batch
        seen = (None if b is None else _index(b) for b in self.tensors)
        super().__init__(n_targets, n_sources, *seen)


class Direct:
    """The sum over all pairs of a system, or over those of a list; see `evaluators.Direct`."""

    def __init__(self, kernel: Any, neighbours: DeviceNeighbours) -> None:
        self.kernel, self.neighbours = kernel, neighbours

    def field(self, targets: Tensor, sources: Tensor, moments: Tensor, order: int) -> Tensor:
        """Return the field (n_targets, channels, n_components(order)) at the targets."""
        shape = len(targets), moments.shape[1], indexing.n_components(order)
        if 0 in (*shape, len(sources)):
            return moments.new_zeros(shape)
        space = _space(targets)
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
    """Return the evaluator of a method; as `evaluators.evaluator`, but ``"auto"`` is direct."""
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {METHODS}, got {method!r}")
    if method != "fmm":
        return Direct(kernel, neighbours)
    if not isinstance(neighbours, Systems):
        raise ValueError(
            "method 'fmm' sums over all pairs of a system, expected no list of pairs: use 'direct'"
        )
    points = sources.contiguous()
    others = points if targets is sources else targets.contiguous()
    batches = neighbours.tensors
    if SIMULATED:
        points, others = (view(t) for t in (points, others))
        batches = neighbours.target_batch, neighbours.source_batch
    plan = FMM(
        points, others, tolerance, indexing.order_of(moments.shape[2]), order,
        target_batch=batches[0], source_batch=batches[1],
        channels=max(moments.shape[1], 1), kernel=kernel,
    )  # fmt: skip
    return Planned(plan)


class Planned:
    """The fast multipole method by a plan, which knows the points."""

    def __init__(self, plan: FMM) -> None:
        self.plan = plan

    def field(self, targets: Tensor, sources: Tensor, moments: Tensor, order: int) -> Tensor:
        """Return the field at the plan's targets."""
        given = moments.detach().contiguous()
        found: Any = self.plan.field(view(given) if SIMULATED else given, order)
        return torch.from_numpy(found.copy_to_host()) if SIMULATED else found

    @property
    def transposed(self) -> "Planned":
        """The same tree with targets and sources exchanged."""
        return Planned(self.plan.transpose())


def all_pairs(neighbours: Systems | DevicePairs, device: torch.device) -> Tensor:
    """Return targets and sources (n_pairs, 2) of all pairs, for the twin in plain torch."""
    if isinstance(neighbours, DevicePairs):
        ends = neighbours.targets, neighbours.sources
        return torch.stack([_tensor(array, device) for array in ends], dim=1)
    x, s = neighbours.tensors
    if x is None or s is None:
        sizes = neighbours.n_targets, neighbours.n_sources
        x, s = (torch.zeros(n, dtype=torch.int64, device=device) for n in sizes)
    first, end = (torch.searchsorted(s, x, right=right) for right in (False, True))
    counts = end - first
    targets = torch.repeat_interleave(counts)
    before = torch.repeat_interleave(torch.cumsum(counts, 0) - counts - first, counts)
    return torch.stack([targets, torch.arange(len(targets), device=device) - before], dim=1)


def _tensor(array: Any, device: torch.device) -> Tensor:
    """Return integers on the device as a tensor."""
    if array.size == 0:
        return torch.empty(0, dtype=torch.int64, device=device)
    if SIMULATED:
        return torch.from_numpy(array.copy_to_host())
    return torch.as_tensor(array, device=device)


def everybody(
    n_targets: int, n_sources: int, target_batch: Tensor | None, source_batch: Tensor | None
) -> DeviceNeighbours:
    """Return all pairs of points of each system, or of a single one."""
    return Systems(n_targets, n_sources, target_batch, source_batch)


def listed(pairs: Tensor, n_targets: int, n_sources: int) -> DevicePairs:
    """Return the neighbours of a list (n_pairs, 2)."""
    return DevicePairs(_index(pairs[:, 0]), _index(pairs[:, 1]), n_targets, n_sources)


def of_fixed(pairs: Any, like: Tensor, n_targets: int, n_sources: int) -> DevicePairs:
    """Return the neighbours of a `fixed_pairs.FixedPairs`: of pairs that are none, weight zero."""
    space = _space(like)
    first, second, starts = (_index(t) for t in (pairs.first, pairs.second, pairs.starts))
    if pairs.present is None:
        found = DevicePairs(first, second, n_targets, n_sources)
    else:
        weights = view(pairs.present.to(like.dtype))
        found = DevicePairs(first, second, n_targets, n_sources, weights)
        space.once(found._kept, np.dtype(weights.dtype), lambda: weights)
    space.once(found._kept, "rows", lambda: (starts, second, None))
    return found


def within(
    targets: Tensor, sources: Tensor, target_batch: Tensor, source_batch: Tensor, reach: float
) -> DevicePairs:
    """Return the pairs of systems within a distance."""
    systems = everybody(len(targets), len(sources), target_batch, source_batch)
    x, s = view(targets.contiguous()), view(sources.contiguous())
    return pairs_within(_space(targets), x, s, systems, reach)


def _space(tensor: Tensor) -> Space:
    return NumbaSpace() if SIMULATED else space_of(tensor)


def _index(tensor: Tensor) -> Any:
    return view(tensor.detach().to(torch.int64).contiguous())
