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

from gnn.operators import _edge_kernels as kernels
from gnn.operators import edges_torch
from gnn.operators.derivatives import aliases, each_of_batch, gradients, transformed
from gnn.operators.edge_math import invariant_terms
from gnn.operators.gpu import on_gpu
from multipoles import indexing
from multipoles.compiled import jit
from multipoles.compiled.simd import BYTES

Range = tuple[int, int, int]

# measured nanoseconds per edge, vector of channels and component (state) or invariant (pair)
_STATE_COST = {"values": 0.3, "gradients": 0.6, "second": 1.5}
_PAIR_COST = {"values": 1.0, "gradients": 3.5, "second": 7.0}
# waking a thread costs some 50 microseconds, more when another library's threads still spin
_THREAD_GRAIN = 1e5
# times as long as that takes an edge whose channels do not fill a vector
_MASKED_COST = 4


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
        loop = kernels.pair_values_loop(order, _masked(state))
        ends = _flat(senders), _flat(receivers)
        args = _flat(state), _flat(directions), *ends, channels, _flat(found)
        ranges = _ranges("values", _PAIR_COST, receivers, state, found.shape[1])
        jit.run_ranges(lambda *part: loop(*args, *part), ranges)
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
    factory = {
        "values": kernels.state_values_loop,
        "gradients": kernels.state_gradients_loop,
        "second": kernels.state_second_loop,
    }[kind]
    loop = factory(order, _masked(inputs[0]))
    args = *map(_flat, inputs), _flat(receivers), inputs[0].shape[2], *map(_flat, outs)
    ranges = _ranges(kind, _STATE_COST, receivers, inputs[0], indexing.n_components(order), n_nodes)
    jit.run_ranges(lambda *part: loop(*args, *part), ranges)


def _run_pair(
    kind: str,
    inputs: tuple[Tensor, ...],
    ends: tuple[Tensor, Tensor],
    outs: tuple[Tensor, ...],
    order: int,
) -> Tensor:
    """Run a loop that adds to rows of receivers and of senders; return the sums, like the state.

    Receivers belong to one part each. Senders do not: where there are several parts, each adds
    them to rows of its own, from its lowest to its highest sender, and these are added in order
    afterwards.
    """
    state = inputs[0]
    if on_gpu(state):
        return _gpu().run_pair(kind, inputs, ends, outs, order)
    second = kind == "second"
    factory = kernels.pair_second_loop if second else kernels.pair_gradients_loop
    loop = factory(order, _masked(state))
    by_state = _zeros(state)
    total, senders, receivers = _flat(by_state), _flat(ends[0]), _flat(ends[1])
    channels, row = state.shape[2], state.shape[1] * state.shape[2]
    args = *map(_flat, inputs), senders, receivers, channels, total
    results = [_flat(out) for out in outs]
    ranges = _ranges(kind, _PAIR_COST, ends[1], state, len(invariant_terms(order)))

    def task(first: int, last: int, edge: int) -> tuple[np.ndarray, int]:
        rows, base = total, 0
        if len(ranges) > 1:
            own = senders[edge : receivers.searchsorted(last)]
            base, top = (int(own.min()), int(own.max()) + 1) if len(own) else (0, 0)
            rows = np.zeros((top - base) * row, dtype=total.dtype)
        loop(*args, rows, base, *results, first, last, edge)
        return rows, base

    for rows, base in jit.run_ranges(task, ranges):
        if rows is not total:
            total[base * row : base * row + len(rows)] += rows
    return by_state


def _ranges(
    kind: str,
    cost: dict[str, float],
    receivers: Tensor,
    values: Tensor,
    rows: int,
    n_nodes: int | None = None,
) -> list[Range]:
    """Return the parts of the nodes that threads work on: one part where more do not pay."""
    n_nodes = len(values) if n_nodes is None else n_nodes
    vectors = values.shape[2] * values.element_size() // BYTES + 1
    nanoseconds = cost[kind] * len(receivers) * rows * vectors
    if _masked(values):
        nanoseconds *= _MASKED_COST
    parts = min(jit.get_num_threads(), int(nanoseconds // _THREAD_GRAIN))
    if parts <= 1:
        return [(0, n_nodes, 0)]
    return kernels.node_ranges(_flat(receivers), n_nodes, parts)


def _gpu() -> Any:
    """Return the module of the GPU's launches, which imports numba.cuda."""
    from gnn.operators import _edge_cuda

    return _edge_cuda


def _flat(tensor: Tensor) -> np.ndarray:
    """Return a one-dimensional NumPy view of a tensor's numbers, made contiguous if need be."""
    return tensor.detach().contiguous().numpy().reshape(-1)


def _masked(values: Tensor) -> int:
    return int(values.shape[2] * values.element_size() % BYTES != 0)


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
