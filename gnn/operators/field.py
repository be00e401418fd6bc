"""The field of multipoles as one torch operator, closed under differentiation.

The map Phi = F(x, s) M takes moments at sources to field derivatives at targets, and

* its derivative by a target is the same map with one output order more,
* its adjoint is the same map with targets and sources exchanged,
* its derivative by a source is the adjoint's, with one order more.

So one autograd function whose backward calls itself is differentiable to any order, and forward by
the same map: `torch.func` transforms it like any function of torch. How a field is summed is the
affair of an evaluator, which serves all derivatives: a tree is planned once.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gnn.operators import evaluators, field_torch
from gnn.operators.derivatives import each_of_batch, transformed
from gnn.operators.evaluators import Evaluator, Later, LaterTransposed
from gnn.operators.gpu import on_gpu
from gnn.operators.near_pairs import near_pairs
from multipoles import checks, indexing
from multipoles.checks import check_total_order
from multipoles.neighbours import Slots, neighbours_of
from multipoles.radial import kernel_object

METHODS = (*evaluators.METHODS, "torch")


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
            return self._by_twin(moments)
        if self._evaluator is None:
            later = transformed()
            self._evaluator = Later(self._checked) if later else self._plan(*self.points, moments)
        return _field(*self.points, moments, self.order, self._evaluator)

    def _by_twin(self, moments: Tensor) -> Tensor:
        """Return the field in plain torch, on whatever device the points are."""
        device = self.points[0].device
        if on_gpu(self.points[0]):
            rows = _gpu().all_pairs(self.neighbours, device)
        else:
            rows = torch.from_numpy(self.neighbours.all_pairs())
        given = *self.points, moments, self.order, self.kernel
        if transformed():  # no shape may depend on a number
            every = torch.ones(len(rows), dtype=torch.bool, device=device)
            return field_torch.field_where(*given, (rows[:, 0], rows[:, 1]), every)
        return field_torch.field(*given, rows)

    def _plan(self, targets: Tensor, sources: Tensor, moments: Tensor) -> Evaluator:
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
        return evaluators.evaluator(
            self.method, x, s, m, self.order, self.kernel, self.neighbours, self.tolerance
        )

    def _checked(self, *given: Any) -> Evaluator:
        """Return `_plan` of what an evaluator takes, after the check that had to wait."""
        tensors = [torch.as_tensor(numbers) for numbers in given]
        for name, tensor in zip(("targets", "sources", "moments"), tensors, strict=True):
            _check_finite(name, tensor)
        return self._plan(*tensors)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same numbers in memory."""
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
    # what torch.func can transform costs twice as much a call
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
        if by_target:
            field = _field(targets, sources, moments, ctx.order + 1, ctx.evaluator)
            to_targets = _contract(gradient, field)
        if by_source or by_moments:
            order = indexing.order_of(moments.shape[-1]) + int(by_source)
            adjoint = _field(sources, targets, gradient, order, ctx.evaluator.transposed)
            to_moments = adjoint[..., : moments.shape[-1]] if by_moments else None
            to_sources = _contract(moments, adjoint) if by_source else None
        return to_targets, to_sources, to_moments, None, None

    @staticmethod
    @each_of_batch
    def jvp(ctx, along_targets, along_sources, along_moments, *_):
        """Return the field of moments that change, of sources that move, at targets that move."""
        targets, sources, moments = ctx.saved_tensors
        change: Any = along_moments
        if along_sources is not None:
            # a source that moves by ds raises each of its moments to order + 1 times ds
            moved = _raise(moments, along_sources)
            extra = moved.shape[-1] - moments.shape[-1]
            change = moved if change is None else moved + functional.pad(change, (0, extra))
        found = 0
        if change is not None:
            found = _field(targets, sources, change, ctx.order, ctx.evaluator)
        if along_targets is not None:
            field = _field(targets, sources, moments, ctx.order + 1, ctx.evaluator)
            count = indexing.n_components(ctx.order)
            found = found + (_raised(field, count) * along_targets[:, None, None]).sum(-1)
        return found


def _keep(ctx: Any, inputs: tuple) -> None:
    *tensors, ctx.order, ctx.evaluator = inputs
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


class _Transformable(_Field):
    """The same for `torch.func`."""

    @staticmethod
    def forward(targets, sources, moments, order, evaluator):
        return _sum(targets, sources, moments, order, evaluator)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _keep(ctx, inputs)

    @staticmethod
    def vmap(info, in_dims, targets, sources, moments, order, evaluator):
        """Take a batch of moments as channels; go through a batch of points one by one."""
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
            later = isinstance(evaluator, Later | LaterTransposed)
            own = evaluator.again() if later else evaluator
            fields.append(_field(*given, order, own))
        return torch.stack(fields), 0


def _contract(weights: Tensor, field: Tensor) -> Tensor:
    """Return sum over c and beta of weights[n, c, beta] field[n, c, beta + e_i], (n, 3)."""
    count = weights.shape[-1]
    if count == 1:
        return (weights * field[..., 1:4]).sum(1)
    return (weights[..., None] * _raised(field, count)).sum(dim=(1, 2))


def _raised(field: Tensor, count: int) -> Tensor:
    """Return field[n, c, beta + e_i] for the first `count` beta, (n, c, count, 3)."""
    places = _raised_places(indexing.order_of(count), field.device)
    return field.index_select(-1, places).unflatten(-1, (count, 3))


def _raise(moments: Tensor, vectors: Tensor) -> Tensor:
    """Return moments one order higher with moments[n, c, alpha] vectors[n, i] at alpha + e_i."""
    order = indexing.order_of(moments.shape[-1])
    places = _raised_places(order, moments.device)
    rows = (moments[..., None] * vectors[:, None, None]).flatten(-2)
    zeros = rows.new_zeros(*rows.shape[:2], indexing.n_components(order + 1))
    return zeros.index_add(-1, places, rows)


def _raised_places(order: int, device: torch.device) -> Tensor:
    """Return the places of beta + e_i for all beta up to an order."""
    # what is made under a transform must not outlive it
    return _make_places(order, device) if transformed() else _kept_places(order, device)


def _make_places(order: int, device: torch.device) -> Tensor:
    return torch.tensor(indexing.sum_index(order, 1)[:, 1:4].ravel(), device=device)


_kept_places = cache(_make_places)


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
    try:
        with torch._C._DisableFuncTorch():
            pairs, targets, sources = (None if t is None else t.numpy() for t in index)
    except RuntimeError as error:
        raise ValueError(
            "expected pairs and batches as they are: torch.func cannot transform by who meets whom"
        ) from error
    return neighbours_of(len(points), n_sources, pairs, targets, sources)


def _check_finite(name: str, tensor: Tensor) -> None:
    # on a GPU the host would have to wait for the answer
    if not tensor.is_cuda and not bool(torch.isfinite(tensor.detach()).all()):
        raise ValueError(f"expected {name} of finite numbers, got NaN or infinity")


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
        if not transformed():  # where numbers are not at hand yet
            _check_finite(name, tensor)
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
