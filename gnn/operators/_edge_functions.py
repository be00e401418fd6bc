"""The fused edge operators as autograd functions, each with first and second derivatives.

Values, gradients and gradients of gradients are one pass over the edges each. With F = sum of
values times incoming gradient, the gradients are partial derivatives of F, and the gradients of
those with cotangents v are the change of all partial derivatives of F along v.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from gnn.operators import edge_arrays as arrays
from gnn.operators import edges_torch
from gnn.operators.derivatives import aliases, each_of_batch, gradients, transformed
from gnn.operators.edge_math import invariant_terms
from gnn.operators.gpu import on_gpu
from multipoles import indexing


class State(Function):
    """Anisotropic state of the nodes from coefficients (E, order + 1, C) and directions."""

    @staticmethod
    def forward(ctx, coefficients, directions, receivers, n_nodes, order):
        """Return the state, (n_nodes, n_components, C)."""
        ctx.save_for_backward(coefficients, directions, receivers)
        ctx.order = order
        shape = n_nodes, indexing.n_components(order), coefficients.shape[2]
        state = coefficients.new_empty(shape)
        _run_state("values", (coefficients, directions), receivers, (state,), order, n_nodes)
        return state

    @staticmethod
    @each_of_batch
    def backward(ctx, grad):
        """Return the gradients, differentiable."""
        *inputs, receivers = ctx.saved_tensors
        if transformed():
            found = _by_twin(_state_twin(receivers, len(grad), ctx.order), [*inputs, grad])
        else:
            found = StateGradients.apply(*inputs, grad, receivers, ctx.order)
        return *_needed(ctx, found), *[None] * 3


class StateGradients(Function):
    """Gradients by coefficients and directions."""

    @staticmethod
    def forward(ctx, coefficients, directions, grad, receivers, order):
        """Return gradients like `coefficients` and `directions`."""
        inputs = coefficients, directions, grad
        ctx.save_for_backward(*inputs, receivers)
        ctx.set_materialize_grads(False)
        ctx.order = order
        outs = _empty(coefficients), _zeros(directions)
        _run_state("gradients", inputs, receivers, outs, order, len(grad))
        return outs

    @staticmethod
    @each_of_batch
    def backward(ctx, *cotangents):
        """Return the gradients of the gradients, differentiable."""
        *inputs, receivers = ctx.saved_tensors
        if all(c is None for c in cotangents):
            return (None,) * 5
        along = _along(inputs, cotangents)
        if transformed():
            twin = _state_twin(receivers, len(inputs[2]), ctx.order)
            found = _by_twin(twin, inputs, along)
        else:
            found = StateSecond.apply(*inputs, *along, receivers, ctx.order)
        return *_needed(ctx, found), None, None


class StateSecond(Function):
    """Change of gradients and state along changes of coefficients and directions."""

    @staticmethod
    def forward(ctx, coefficients, directions, grad, along_values, along_directions, *rest):
        """Return gradients like `coefficients`, `directions` and `grad`."""
        receivers, order = rest
        inputs = coefficients, directions, grad, along_values, along_directions
        ctx.save_for_backward(*inputs, receivers)
        ctx.set_materialize_grads(False)
        ctx.order = order
        outs = _empty(coefficients), _zeros(directions), _empty(grad)
        _run_state("second", inputs, receivers, outs, order, len(grad))
        return outs

    @staticmethod
    @each_of_batch
    def backward(ctx, *cotangents):
        """Return third derivatives, by the plain-torch twin."""
        *inputs, receivers = ctx.saved_tensors
        twin = _state_twin(receivers, len(inputs[2]), ctx.order)
        return *_needed(ctx, third_derivatives(twin, inputs, cotangents)), None, None


class PairInvariants(Function):
    """Invariants of the states (N, n_components, C) at the ends of edges."""

    @staticmethod
    def forward(ctx, state, directions, senders, receivers, order):
        """Return the invariants, (E, n_invariants, C)."""
        ctx.save_for_backward(state, directions, senders, receivers)
        ctx.order = order
        channels = state.shape[2]
        found = state.new_empty(len(receivers), len(invariant_terms(order)), channels)
        if on_gpu(state):
            _gpu().run_pair_values(state, directions, (senders, receivers), found, order)
            return found
        ends = _array(senders), _array(receivers)
        arrays.run_pair_values(_array(state), _array(directions), ends, found.numpy(), order)
        return found

    @staticmethod
    @each_of_batch
    def backward(ctx, grad):
        """Return the gradients, differentiable."""
        *inputs, senders, receivers = ctx.saved_tensors
        if transformed():
            found = _by_twin(_pair_twin(senders, receivers, ctx.order), [*inputs, grad])
        else:
            found = PairGradients.apply(*inputs, grad, senders, receivers, ctx.order)
        return *_needed(ctx, found), *[None] * 3


class PairGradients(Function):
    """Gradients by state and directions."""

    @staticmethod
    def forward(ctx, state, directions, grad, senders, receivers, order):
        """Return gradients like `state` and `directions`."""
        inputs, ends = (state, directions, grad), (senders, receivers)
        ctx.save_for_backward(*inputs, *ends)
        ctx.set_materialize_grads(False)
        ctx.order = order
        by_directions = _zeros(directions)
        return _run_pair("gradients", inputs, ends, (by_directions,), order), by_directions

    @staticmethod
    @each_of_batch
    def backward(ctx, *cotangents):
        """Return the gradients of the gradients, differentiable."""
        *inputs, senders, receivers = ctx.saved_tensors
        if all(c is None for c in cotangents):
            return (None,) * 6
        along = _along(inputs, cotangents)
        if transformed():
            found = _by_twin(_pair_twin(senders, receivers, ctx.order), inputs, along)
        else:
            found = PairSecond.apply(*inputs, *along, senders, receivers, ctx.order)
        return *_needed(ctx, found), *[None] * 3


class PairSecond(Function):
    """Change of gradients and invariants along changes of state and directions."""

    @staticmethod
    def forward(ctx, state, directions, grad, along_values, along_directions, *rest):
        """Return gradients like `state`, `directions` and `grad`."""
        *ends, order = rest
        inputs = state, directions, grad, along_values, along_directions
        ctx.save_for_backward(*inputs, *ends)
        ctx.set_materialize_grads(False)
        ctx.order = order
        outs = _zeros(directions), _empty(grad)
        return _run_pair("second", inputs, tuple(ends), outs, order), *outs

    @staticmethod
    @each_of_batch
    def backward(ctx, *cotangents):
        """Return third derivatives, by the plain-torch twin."""
        *inputs, senders, receivers = ctx.saved_tensors
        twin = _pair_twin(senders, receivers, ctx.order)
        return *_needed(ctx, third_derivatives(twin, inputs, cotangents)), *[None] * 3


# --- running the loops --------------------------------------------------------------------------


def _run_state(
    kind: str,
    inputs: tuple[Tensor, ...],
    receivers: Tensor,
    outs: tuple[Tensor, ...],
    order: int,
    n_nodes: int,
) -> None:
    if on_gpu(inputs[0]):
        _gpu().run_state(kind, inputs, receivers, outs, order)
        return
    arrays.run_state(
        kind, [*map(_array, inputs)], _array(receivers), [*map(_array, outs)], order, n_nodes
    )


def _run_pair(
    kind: str,
    inputs: tuple[Tensor, ...],
    ends: tuple[Tensor, Tensor],
    outs: tuple[Tensor, ...],
    order: int,
) -> Tensor:
    if on_gpu(inputs[0]):
        return _gpu().run_pair(kind, inputs, ends, outs, order)
    ends_of = _array(ends[0]), _array(ends[1])
    found = arrays.run_pair(kind, [*map(_array, inputs)], ends_of, [*map(_array, outs)], order)
    return torch.from_numpy(found)


def _gpu() -> Any:
    """Return the module of the GPU's launches, which imports numba.cuda."""
    from gnn.operators import _edge_cuda

    return _edge_cuda


def _array(tensor: Tensor) -> np.ndarray:
    """Return the numbers of a tensor, made contiguous if need be."""
    return tensor.detach().contiguous().numpy()


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, memory_format=torch.contiguous_format)


# --- derivatives --------------------------------------------------------------------------------


def _needed(ctx: Any, found: tuple) -> tuple:
    """Return the gradients that are asked for, None in place of others."""
    needs = ctx.needs_input_grad[: len(found)]
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))


def _along(inputs: list[Tensor], cotangents: tuple) -> list[Tensor]:
    return [
        torch.zeros_like(x) if c is None else c for x, c in zip(inputs, cotangents, strict=False)
    ]


Twin = Callable[[Tensor, Tensor], Tensor]


def _state_twin(receivers: Tensor, n_nodes: int, order: int) -> Twin:
    return lambda c, u: edges_torch.anisotropic_state(c, u, receivers, n_nodes, order)


def _pair_twin(senders: Tensor, receivers: Tensor, order: int) -> Twin:
    return lambda s, u: edges_torch.pair_invariants(s, u, senders, receivers, order)


def _by_twin(
    twin: Twin, inputs: list[Tensor], along: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Return first or, along cotangents of these, second derivatives through the twin.

    For many incoming gradients at once, as `torch.func.vmap` and vectorised Jacobians bring them.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        values, directions, grad = used = aliases(inputs)
        one = [values, directions]
        later = further or along is not None
        found = gradients([twin(*one)], one, [grad], later)
        if along is not None:
            found = gradients(found, used, along, further)
    return tuple(found)


def third_derivatives(twin: Twin, inputs: list[Tensor], cotangents: tuple) -> tuple[Tensor, ...]:
    """Differentiate the second derivatives of an operator, through its twin.

    Parameters
    ----------
    twin : callable
        The operator in plain torch, of values and directions.
    inputs : list of Tensor
        Values, directions, incoming gradient, cotangents of the gradients by the first two.
    cotangents : tuple of (Tensor or None)
        Of the second derivatives by values, directions and incoming gradient.

    Returns
    -------
    tuple of Tensor
        Gradients by all `inputs`, themselves differentiable if gradients are enabled.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        used = aliases(inputs)
        values, directions, grad, *along = used
        first = gradients([twin(values, directions)], [values, directions], [grad])
        second = gradients(first, [values, directions, grad], along)
        ends = [
            torch.zeros_like(s) if c is None else c for s, c in zip(second, cotangents, strict=True)
        ]
        third = gradients(second, used, ends, further)
    return tuple(third)
