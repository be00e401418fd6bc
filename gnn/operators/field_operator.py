"""The field of multipoles as one torch operator, closed under differentiation.

The map Phi = F(x, s) M takes moments at sources to field derivatives at targets, and

* its derivative by a target is the same map with one output order more,
* its adjoint is the same map with targets and sources exchanged,
* its derivative by a source is the adjoint's, with one order more.

So one autograd function whose backward calls itself is differentiable to any order, in forward mode
too, and `torch.func` transforms it like any function of torch. The sum itself is made by an
evaluator, which serves all derivatives: the fast multipole method plans its tree once.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gnn.operators import evaluators, field_torch
from gnn.operators.derivatives import each_of_batch, transformed
from gnn.operators.evaluators import Deferred, DeferredTransposed, Evaluator
from gnn.operators.field_neighbours import all_pairs, gpu
from gnn.operators.gpu import on_gpu
from gnn.operators.raising import contract, raised, raised_index
from multipoles import indexing
from multipoles.checks import check_total_order
from multipoles.neighbours import Neighbours
from multipoles.radial import Kernel

if TYPE_CHECKING:
    from multipoles.cuda.neighbours import DeviceNeighbours


def field_by(
    targets: Tensor, sources: Tensor, moments: Tensor, order: int, evaluator: Evaluator
) -> Tensor:
    """Return the field (n_targets, channels, components) as an evaluator sums it."""
    return _field(targets, sources, moments, order, evaluator)


def unchecked_field(
    targets: Tensor,
    sources: Tensor,
    moments: Tensor,
    order: int,
    kernel: Kernel,
    neighbours: "Neighbours | DeviceNeighbours",
    method: str = "direct",
    tolerance: float = 1e-6,
    backend: str = "compiled",
) -> Tensor:
    """`multipole_field` without checks, for neighbours prepared once and moments with channels."""
    how = method, tolerance, backend
    return FieldOf(targets, sources, order, kernel, neighbours, *how)(moments)


class FieldOf:
    """The field of any moments on the same points: the first call makes the plan of all.

    Parameters are those of `unchecked_field`; moments of all calls have one shape.
    """

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor,
        order: int,
        kernel: Kernel,
        neighbours: "Neighbours | DeviceNeighbours",
        method: str = "direct",
        tolerance: float = 1e-6,
        backend: str = "compiled",
    ) -> None:
        self.points, self.order = (targets, sources), order
        self.kernel = kernel
        self.neighbours: Any = neighbours  # of the device of the points
        self.method, self.tolerance, self.backend = method, tolerance, backend
        self._evaluator: Evaluator | None = None

    def __call__(self, moments: Tensor) -> Tensor:
        """Return the field (n_targets, channels, n_components(order))."""
        if self.backend == "torch":
            return self._by_twin(moments)
        if self._evaluator is None:
            if transformed():
                self._evaluator = Deferred(self._checked_plan)
            else:
                self._evaluator = self._plan(*self.points, moments)
        return _field(*self.points, moments, self.order, self._evaluator)

    def _by_twin(self, moments: Tensor) -> Tensor:
        """Return the field in plain torch, on whatever device the points are."""
        device = self.points[0].device
        rows = all_pairs(self.neighbours, device)
        given = *self.points, moments, self.order, self.kernel
        if transformed():  # no shape may depend on the values of tensors
            every = torch.ones(len(rows), dtype=torch.bool, device=device)
            return field_torch.field_where(*given, (rows[:, 0], rows[:, 1]), every)
        return field_torch.field(*given, rows)

    def _plan(self, targets: Tensor, sources: Tensor, moments: Tensor) -> Evaluator:
        same = _is_same(targets, sources)
        if on_gpu(targets):
            points = targets.detach()
            others = points if same else sources.detach()
            return gpu().evaluator(
                self.method, points, others, moments.detach(), self.order, self.kernel,
                self.neighbours, self.tolerance,
            )  # fmt: skip
        x, m = _array(targets), _array(moments)
        s = x if same else _array(sources)
        return evaluators.evaluator(
            self.method, x, s, m, self.order, self.kernel, self.neighbours, self.tolerance
        )

    def _checked_plan(self, *points_and_moments: Any) -> Evaluator:
        """Return `_plan` after the check for finite values, impossible while transformed."""
        tensors = [torch.as_tensor(values) for values in points_and_moments]
        for name, tensor in zip(("targets", "sources", "moments"), tensors, strict=True):
            check_finite(name, tensor)
        return self._plan(*tensors)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are one array in memory."""
    return a.data_ptr() == b.data_ptr() and (a.shape, a.stride()) == (b.shape, b.stride())


def _sum(targets: Tensor, sources: Tensor, moments: Tensor, order: int, evaluator: Any) -> Tensor:
    check_total_order(indexing.order_of(moments.shape[-1]), order)
    if on_gpu(targets):
        given = (t.detach().contiguous() for t in (targets, sources, moments))
        return evaluator.field(*given, order)
    x, s, m = (_array(tensor) for tensor in (targets, sources, moments))
    return torch.from_numpy(evaluator.field(x, s, m, order))


def _field(*inputs: Any) -> Tensor:
    """Apply the map to targets, sources, moments, order and evaluator."""
    # a call of the function that torch.func can transform takes twice as long
    return (_Transformable if transformed() else _Field).apply(*inputs)


class _Field(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep(ctx, inputs)
        return _sum(*inputs)

    @staticmethod
    @each_of_batch
    def backward(ctx, gradient):
        targets, sources, moments = ctx.saved_tensors
        by_target, by_source, by_moments = ctx.needs_input_grad[:3]
        to_targets = to_sources = to_moments = None
        transposed = ctx.evaluator.transposed if by_source or by_moments else None
        both_ends = by_target and by_source and gradient.shape == moments.shape
        if both_ends and transposed is ctx.evaluator:
            # its own adjoint: one sum for both
            stacked = torch.cat([moments, gradient], dim=1)
            field = _field(targets, sources, stacked, ctx.order + 1, ctx.evaluator)
            field, adjoint = field.tensor_split(2, dim=1)
            to_moments = adjoint[..., : moments.shape[-1]] if by_moments else None
            return contract(gradient, field), contract(moments, adjoint), to_moments, None, None
        if by_target:
            field = _field(targets, sources, moments, ctx.order + 1, ctx.evaluator)
            to_targets = contract(gradient, field)
        if by_source or by_moments:
            order = indexing.order_of(moments.shape[-1]) + int(by_source)
            adjoint = _field(sources, targets, gradient, order, transposed)
            to_moments = adjoint[..., : moments.shape[-1]] if by_moments else None
            to_sources = contract(moments, adjoint) if by_source else None
        return to_targets, to_sources, to_moments, None, None

    @staticmethod
    @each_of_batch
    def jvp(ctx, along_targets, along_sources, along_moments, *_):
        """Return the derivative of the field along changes of targets, sources and moments."""
        targets, sources, moments = ctx.saved_tensors
        change: Any = along_moments
        if along_sources is not None:
            # the field of a source at s + ds changes by that of additional moments M_alpha ds_i at
            # alpha + e_i, that is, of one order more
            moved = _raise(moments, along_sources)
            extra = moved.shape[-1] - moments.shape[-1]
            change = moved if change is None else moved + functional.pad(change, (0, extra))
        tangent = 0
        if change is not None:
            tangent = _field(targets, sources, change, ctx.order, ctx.evaluator)
        if along_targets is not None:
            field = _field(targets, sources, moments, ctx.order + 1, ctx.evaluator)
            count = indexing.n_components(ctx.order)
            tangent = tangent + (raised(field, count) * along_targets[:, None, None]).sum(-1)
        return tangent


def _keep(ctx: Any, inputs: tuple) -> None:
    *tensors, ctx.order, ctx.evaluator = inputs
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


class _Transformable(_Field):
    """`_Field` for `torch.func`."""

    @staticmethod
    def forward(targets, sources, moments, order, evaluator):
        return _sum(targets, sources, moments, order, evaluator)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _keep(ctx, inputs)

    @staticmethod
    def vmap(info, in_dims, targets, sources, moments, order, evaluator):
        """Treat a batch of moments as channels; loop over a batch of points."""
        *by_points, by_moments = in_dims[:3]
        if by_points == [None, None]:
            channels = moments.movedim(by_moments, 1)
            field = _field(targets, sources, channels.flatten(1, 2), order, evaluator)
            return field.unflatten(1, channels.shape[1:3]), 1
        fields = []
        for i in range(info.batch_size):
            given = (
                t if dim is None else t.select(dim, i)
                for t, dim in zip((targets, sources, moments), in_dims[:3], strict=True)
            )
            deferred = isinstance(evaluator, Deferred | DeferredTransposed)
            of_points = evaluator.renewed() if deferred else evaluator
            fields.append(_field(*given, order, of_points))
        return torch.stack(fields), 0


def _raise(moments: Tensor, vectors: Tensor) -> Tensor:
    """Return moments one order higher with moments[n, c, alpha] vectors[n, i] at alpha + e_i."""
    order = indexing.order_of(moments.shape[-1])
    index = raised_index(order, moments.device)
    rows = (moments[..., None] * vectors[:, None, None]).flatten(-2)
    zeros = rows.new_zeros(*rows.shape[:2], indexing.n_components(order + 1))
    return zeros.index_add(-1, index, rows)


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity, but on a GPU."""
    # on a GPU the host would have to wait
    if tensor.device.type == "cpu" and not bool(torch.isfinite(tensor.detach()).all()):
        raise ValueError(f"expected {name} of finite numbers, got NaN or infinity")
