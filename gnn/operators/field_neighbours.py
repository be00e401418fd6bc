"""Which pairs of targets and sources interact in a field, on the device of the points."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnn.operators.gpu import on_gpu
from gnn.operators.near_pairs import near_pairs
from multipoles.neighbours import Neighbours, Slots, neighbours_of

if TYPE_CHECKING:
    from multipoles.cuda.neighbours import DeviceNeighbours


def neighbours_of_systems(
    points: Tensor, target_batch: Tensor, source_batch: Tensor, single: bool = False
) -> "Neighbours | DeviceNeighbours":
    """Return all pairs of points of one system; `single` says that there is only one."""
    n_targets, n_sources = len(target_batch), len(source_batch)
    if on_gpu(points):
        if single:  # sources are divided among blocks
            return gpu().everybody(n_targets, n_sources, None, None)
        return gpu().everybody(n_targets, n_sources, target_batch, source_batch)
    return Slots(n_targets, n_sources, target_batch.numpy(), source_batch.numpy())


def neighbours_within(
    targets: Tensor,
    sources: Tensor,
    target_batch: Tensor,
    source_batch: Tensor,
    reach: float | Tensor,
) -> "Neighbours | DeviceNeighbours":
    """Return the pairs of points of one system within a distance, or within one for each target.

    On a GPU, the largest of these counts for all.
    """
    x, s = targets.detach(), sources.detach()
    if on_gpu(targets):
        return gpu().within(x, s, target_batch, source_batch, float(torch.as_tensor(reach).max()))
    within = reach.numpy() if isinstance(reach, Tensor) else reach
    return near_pairs(x.numpy(), s.numpy(), target_batch.numpy(), source_batch.numpy(), within)


def all_pairs(neighbours: "Neighbours | DeviceNeighbours", device: torch.device) -> Tensor:
    """Return targets and sources of all pairs, (n_pairs, 2)."""
    if isinstance(neighbours, Neighbours):
        return torch.from_numpy(neighbours.all_pairs())
    return gpu().all_pairs(neighbours, device)


def _neighbours_on_gpu(
    points: Tensor,
    n_sources: int,
    pairs: Tensor | None,
    target_batch: Tensor | None,
    source_batch: Tensor | None,
) -> "DeviceNeighbours":
    given = {"pairs": pairs, "target_batch": target_batch, "source_batch": source_batch}
    n = len(points)
    shapes = {"pairs": (-1, 2), "target_batch": (n,), "source_batch": (n_sources,)}
    for name, tensor in given.items():
        if tensor is None:
            continue
        if tensor.device != points.device or tensor.dtype != torch.int64:
            raise ValueError(
                f"expected {name} as int64 on {points.device}, got {tensor.dtype} on "
                f"{tensor.device}"
            )
        wanted = shapes[name]
        if tensor.dim() != len(wanted) or (tensor.shape[-1] != wanted[-1]):
            raise ValueError(f"expected {name} of shape {wanted}, got {tuple(tensor.shape)}")
    if (target_batch is None) != (source_batch is None):
        raise ValueError("expected target_batch and source_batch together, got one of them")
    if pairs is None:
        return gpu().everybody(n, n_sources, target_batch, source_batch)
    if target_batch is not None:
        raise ValueError("give pairs or batches, not both: a pair list needs no system index")
    return gpu().listed(pairs, n, n_sources)


def given_neighbours(
    points: Tensor, n_sources: int, *index: Tensor | None
) -> "Neighbours | DeviceNeighbours":
    """Return the interacting pairs, from a pair list or the batches of targets and of sources."""
    for tensor in index:
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"expected pairs and batches as tensors, got {type(tensor).__name__}")
    if on_gpu(points):
        return _neighbours_on_gpu(points, n_sources, *index)
    try:
        with torch._C._DisableFuncTorch():
            pairs, targets, sources = (None if t is None else t.numpy() for t in index)
    except RuntimeError as error:
        raise ValueError(
            "expected pairs and batches as plain tensors: torch.func cannot transform by them"
        ) from error
    return neighbours_of(len(points), n_sources, pairs, targets, sources)


def gpu() -> Any:
    """Return the module that sums on a GPU, imported only where there is one."""
    from gnn.operators import _field_cuda

    return _field_cuda
