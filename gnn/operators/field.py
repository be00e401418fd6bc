"""The field of multipoles as one torch operator, closed under differentiation.

The map Phi = F(x, s) M takes moments at sources to field derivatives at targets, and

* its derivative by a target is the same map with one output order more,
* its adjoint is the same map with targets and sources exchanged,
* its derivative by a source is the adjoint's, with one order more.

So one autograd function whose backward calls itself is differentiable to any order. How a field is
summed is the affair of an evaluator, which serves all derivatives: a tree is planned once.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.operators import _evaluators, field_torch
from gnn.operators._edge_functions import on_gpu
from gnn.operators._evaluators import Evaluator
from gnn.operators.near_pairs import near_pairs
from multipoles import checks, indexing
from multipoles.interactions import check_total_order, neighbours_of
from multipoles.neighbours import Slots
from multipoles.radial import kernel_object

METHODS = (*_evaluators.METHODS, "torch")


def multipole_field(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    *,
    kernel: Any,
    method: str = "direct",
    tolerance: float = 1e-6,
    target_batch: Tensor | None = None,
    source_batch: Tensor | None = None,
    pairs: Tensor | None = None,
) -> Tensor:
    """Return the field of multipoles at targets, differentiable in all three arguments.

    Parameters
    ----------
    targets, sources : Tensor
        (n_targets, 3) and (n_sources, 3) points; may be the same tensor. Coincident points
        contribute nothing.
    moments : Tensor
        (n_sources, [channels,] n_components) packed Cartesian moments of any order.
    order : int
        Highest derivative of the potential to return.
    kernel
        Radial kernel, such as ``multipoles.Coulomb()``.
    method : {"direct", "fmm", "auto", "torch"}
        Compiled direct sum; the fast multipole method, for kernels that are Coulomb at long range;
        what of the two is expected to be faster; or the direct sum's twin in plain torch.
    tolerance : float
        Of the fast multipole method: largest relative L2 error of the field at every output order,
        and of the fields that make its derivatives.
    target_batch, source_batch : Tensor, optional
        Sorted system index of every point; only points of one system interact.
    pairs : Tensor, optional
        (n_pairs, 2) int64, columns target and source: sum over these pairs only.

    Returns
    -------
    Tensor
        (n_targets, [channels,] n_components(order)): ``sum_alpha (-1)^|alpha| M_alpha
        d^(alpha + beta) f(x - s)``.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, numbers are not finite, orders are too high, `method` is
        unknown, or the fast multipole method cannot do what is asked.
    TypeError
        If an argument is no tensor, or `kernel` no radial kernel.
    """
    given = {"targets": targets, "sources": sources, "moments": moments}
    order = _check(given, order, method, tolerance)
    kernel = kernel_object(kernel)
    single = moments.dim() == 2
    if single:
        moments = moments[:, None]
    neighbours = _neighbours(targets, len(sources), pairs, target_batch, source_batch)
    field = apply(targets, sources, moments, order, kernel, neighbours, method, tolerance)
    return field[:, 0] if single else field


def apply(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    kernel: Any,
    neighbours: Any,
    method: str = "direct",
    tolerance: float = 1e-6,
) -> Tensor:
    """`multipole_field` without checks, for neighbours prepared once and moments with channels."""
    return FieldOf(targets, sources, order, kernel, neighbours, method, tolerance)(moments)


class FieldOf:
    """`apply` for several moments on the same points: what the first call plans serves the others.

    Parameters are those of `multipole_field`; moments of all calls have one shape.
    """

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor,
        order: int,
        kernel: Any,
        neighbours: Any,
        method: str = "direct",
        tolerance: float = 1e-6,
    ) -> None:
        self.points, self.order = (targets, sources), order
        self.kernel, self.neighbours = kernel, neighbours
        self.method, self.tolerance = method, tolerance
        self._evaluator: Evaluator | None = None

    def __call__(self, moments: Tensor) -> Tensor:
        """Return the field (n_targets, channels, n_components(order))."""
        if self.method == "torch":
            device = self.points[0].device
            rows = (
                _gpu().all_pairs(self.neighbours, device)
                if on_gpu(self.points[0])
                else torch.from_numpy(self.neighbours.all_pairs())
            )
            return field_torch.field(*self.points, moments, self.order, self.kernel, rows)
        if self._evaluator is None:
            self._evaluator = self._plan(moments)
        return _Field.apply(*self.points, moments, self.order, self._evaluator)

    def _plan(self, moments: Tensor) -> Evaluator:
        targets, sources = self.points
        same = _is_same(targets, sources)
        if on_gpu(targets):
            points = targets.detach()
            others = points if same else sources.detach()
            return _gpu().evaluator(
                self.method, points, others, moments.detach(), self.order, self.kernel,
                self.neighbours, self.tolerance,
            )  # fmt: skip
        x, m = _array(targets), _array(moments)
        s = x if same else _array(sources)
        return _evaluators.evaluator(
            self.method, x, s, m, self.order, self.kernel, self.neighbours, self.tolerance
        )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same numbers in memory."""
    return a.data_ptr() == b.data_ptr() and (a.shape, a.stride()) == (b.shape, b.stride())


class _Field(torch.autograd.Function):
    @staticmethod
    def forward(ctx, targets, sources, moments, order: int, evaluator: Any):
        ctx.save_for_backward(targets, sources, moments)
        ctx.order, ctx.evaluator = order, evaluator
        check_total_order(indexing.order_of(moments.shape[-1]), order)
        if on_gpu(targets):
            given = (t.detach().contiguous() for t in (targets, sources, moments))
            return evaluator.field(*given, order)
        x, s, m = (_array(tensor) for tensor in (targets, sources, moments))
        return torch.from_numpy(evaluator.field(x, s, m, order))

    @staticmethod
    def backward(ctx, gradient):
        targets, sources, moments = ctx.saved_tensors
        by_target, by_source, by_moments = ctx.needs_input_grad[:3]
        to_targets = to_sources = to_moments = None
        if by_target:
            field = _Field.apply(targets, sources, moments, ctx.order + 1, ctx.evaluator)
            to_targets = _contract(gradient, field)
        if by_source or by_moments:
            order = indexing.order_of(moments.shape[-1]) + int(by_source)
            adjoint = _Field.apply(sources, targets, gradient, order, ctx.evaluator.transposed)
            to_moments = adjoint[..., : moments.shape[-1]] if by_moments else None
            to_sources = _contract(moments, adjoint) if by_source else None
        return to_targets, to_sources, to_moments, None, None


def _contract(weights: Tensor, field: Tensor) -> Tensor:
    """Return sum over c and beta of weights[n, c, beta] field[n, c, beta + e_i], (n, 3)."""
    count = weights.shape[-1]
    if count == 1:
        return (weights * field[..., 1:4]).sum(1)
    raised = field.index_select(-1, _raised_places(indexing.order_of(count), field.device))
    raised = raised.view(len(field), field.shape[1], count, 3)
    return (weights[..., None] * raised).sum(dim=(1, 2))


@cache
def _raised_places(order: int, device: torch.device) -> Tensor:
    """Return the places of beta + e_i for all beta up to an order."""
    return torch.tensor(indexing.sum_index(order, 1)[:, 1:4].ravel(), device=device)


def neighbours_of_systems(points: Tensor, target_batch: Tensor, source_batch: Tensor) -> Any:
    """Return that all points of a system meet, on the device of `points`."""
    n_targets, n_sources = len(target_batch), len(source_batch)
    if on_gpu(points):
        return _gpu().everybody(n_targets, n_sources, target_batch, source_batch)
    return Slots(n_targets, n_sources, target_batch.numpy(), source_batch.numpy())


def neighbours_within(
    targets: Tensor, sources: Tensor, target_batch: Tensor, source_batch: Tensor, reach: float
) -> Any:
    """Return the pairs of systems within a distance, on the device of the points."""
    x, s = targets.detach(), sources.detach()
    if on_gpu(targets):
        return _gpu().within(x, s, target_batch, source_batch, reach)
    return near_pairs(x.numpy(), s.numpy(), target_batch.numpy(), source_batch.numpy(), reach)


def _gpu() -> Any:
    """Return the sums on the GPU, which are imported where they are used."""
    from gnn.operators import _field_cuda

    return _field_cuda


def _neighbours_on_gpu(
    points: Tensor,
    n_sources: int,
    pairs: Tensor | None,
    target_batch: Tensor | None,
    source_batch: Tensor | None,
) -> Any:
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
        return _gpu().everybody(n, n_sources, target_batch, source_batch)
    if target_batch is not None:
        raise ValueError("give pairs or batches, not both: a pair list needs no system index")
    return _gpu().listed(pairs, n, n_sources)


def _neighbours(points: Tensor, n_sources: int, *index: Tensor | None) -> Any:
    """Return who meets whom, from a pair list or the batches of targets and of sources."""
    for tensor in index:
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"expected pairs and batches as tensors, got {type(tensor).__name__}")
    if on_gpu(points):
        return _neighbours_on_gpu(points, n_sources, *index)
    pairs, targets, sources = (None if t is None else t.detach().numpy() for t in index)
    return neighbours_of(len(points), n_sources, pairs, targets, sources)


def _check(given: dict[str, Tensor], order: int, method: str, tolerance: float) -> int:
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
        # on a GPU the host would have to wait for the answer
        if not tensor.is_cuda and not bool(torch.isfinite(tensor.detach()).all()):
            raise ValueError(f"expected {name} of finite numbers, got NaN or infinity")
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
    if not isinstance(tolerance, int | float) or not 1e-14 <= tolerance < 1:
        raise ValueError(f"expected a tolerance from 1e-14 to below 1, got {tolerance!r}")
    order = checks.order(order)
    check_total_order(indexing.order_of(moments.shape[-1]), order)
    return order
