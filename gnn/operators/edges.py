"""Edge operators of message passing: the anisotropic state and the invariants of pairs.

Thürlemann & Riniker, ICLR 2023, section 3. Both are fused: one compiled pass over the edges for
the values, one for all first derivatives, one for all second derivatives, so that no tensor of an
edge is ever stored. Derivatives of third and higher order go through the plain-torch twins.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from gnn.operators import _edge_kernels as kernels
from gnn.operators import edges_torch
from gnn.operators._edge_math import invariant_terms
from multipoles import _jit, indexing
from multipoles._simd import BYTES

MAX_ORDER = 3
METHODS = ("numba", "torch")

# cost of one edge and channel, in units of the pair interactions that `run_chunks` counts in
_EDGE_WORK = 1.0


def n_invariants(order: int) -> int:
    """Return how many invariants a pair of states has: 2, 5, 11, 22 for order 0, 1, 2, 3."""
    return len(invariant_terms(_checked_order(order)))


def anisotropic_state(
    coefficients: Tensor,
    directions: Tensor,
    receivers: Tensor,
    n_nodes: int,
    order: int,
    *,
    method: str = "numba",
) -> Tensor:
    """Build the anisotropic state of all nodes from coefficients of their incoming edges.

    S[t, alpha, c] = sum over edges e to t of coefficients[e, |alpha|, c] Y_alpha(u_e), where Y
    are the packed traceless tensors of u⊗…⊗u (order 2: u u - 1/3; packed off-diagonals hold
    sums). Y is a harmonic polynomial in u, so derivatives hold for vectors of any length.

    Parameters
    ----------
    coefficients : Tensor
        (E, order + 1, C), float32 or float64.
    directions : Tensor
        (E, 3) unit vectors from sender to receiver.
    receivers : Tensor
        (E,) int64, sorted.
    n_nodes, order : int
        Number of nodes; highest order of the state, 0 to 3.
    method : str
        "numba" for the fused operator (CPU), "torch" for its plain twin.

    Returns
    -------
    Tensor
        (n_nodes, n_components(order), C), traceless, differentiable to any order.

    Raises
    ------
    ValueError
        If shapes or the method are wrong, a receiver does not exist, or receivers are unsorted.
    TypeError
        If dtypes differ or are not floating point.
    """
    _check_edges(directions, receivers, receivers, n_nodes)
    shape = (len(receivers), _checked_order(order) + 1)
    if coefficients.ndim != 3 or coefficients.shape[:2] != shape:
        raise ValueError(
            f"expected coefficients of shape (edges, order + 1, channels) = {(*shape, 'C')}, "
            f"got {tuple(coefficients.shape)}"
        )
    _check_dtypes(coefficients, directions)
    if _use_torch(method, coefficients):
        return edges_torch.anisotropic_state(coefficients, directions, receivers, n_nodes, order)
    _check_indices(receivers, receivers, n_nodes)
    return _State.apply(coefficients, directions, receivers, n_nodes, order)


def pair_invariants(
    state: Tensor,
    directions: Tensor,
    senders: Tensor,
    receivers: Tensor,
    order: int,
    *,
    method: str = "numba",
) -> Tensor:
    """Contract the states of every edge's ends with the direction and with each other.

    With a[l, k] the state's tensor of rank l contracted l - k times with u, the invariants are,
    in this order: for l = 0 … order the full contractions of sender and of receiver, a1[l, 0] and
    a2[l, 0]; then for l1, l2 = 1 … order and k = 1 … min(l1, l2), each loop inside the one
    before, the products <a1[l1, k], a2[l2, k]> over all k indices. Order 2, with monopoles m,
    dipoles D, quadrupoles Q, d = D.u, s = u.Q.u, y = Q u: m1, m2, d1, d2, s1, s2, D1.D2, D1.y2,
    y1.D2, y1.y2, Q1:Q2.

    Parameters
    ----------
    state : Tensor
        (N, n_components(order), C) packed in the convention of moments, float32 or float64.
    directions : Tensor
        (E, 3) unit vectors from sender to receiver.
    senders, receivers : Tensor
        (E,) int64; receivers are sorted.
    order : int
        Highest order of the state, 0 to 3.
    method : str
        "numba" for the fused operator (CPU), "torch" for its plain twin.

    Returns
    -------
    Tensor
        (E, n_invariants(order), C), differentiable to any order.

    Raises
    ------
    ValueError
        If shapes or the method are wrong, a node does not exist, or receivers are unsorted.
    TypeError
        If dtypes differ or are not floating point.
    """
    _check_edges(directions, senders, receivers, len(state))
    components = indexing.n_components(_checked_order(order))
    if state.ndim != 3 or state.shape[1] != components:
        raise ValueError(
            f"expected a state of shape (nodes, {components}, channels) for order {order}, "
            f"got {tuple(state.shape)}"
        )
    _check_dtypes(state, directions)
    if _use_torch(method, state):
        return edges_torch.pair_invariants(state, directions, senders, receivers, order)
    _check_indices(senders, receivers, len(state))
    return _Pair.apply(state, directions, senders, receivers, order)


def self_invariants(state: Tensor, order: int) -> Tensor:
    """Return the squared norms of a state's tensors of order 1 … order.

    Parameters
    ----------
    state : Tensor
        (N, n_components(order), C) packed in the convention of moments.
    order : int
        Highest order of the state.

    Returns
    -------
    Tensor
        (N, order * C), orders first.
    """
    return edges_torch.self_invariants(state, _checked_order(order))


# --- checks -------------------------------------------------------------------------------------


def _checked_order(order: int) -> int:
    if order not in range(MAX_ORDER + 1):
        raise ValueError(f"expected an order from 0 to {MAX_ORDER}, got {order!r}")
    return order


def _check_edges(directions: Tensor, senders: Tensor, receivers: Tensor, n_nodes: int) -> None:
    edges = len(receivers)
    if directions.shape != (edges, 3):
        raise ValueError(
            f"expected directions of shape (edges, 3) = ({edges}, 3), "
            f"got {tuple(directions.shape)}"
        )
    for name, index in (("senders", senders), ("receivers", receivers)):
        if index.shape != (edges,) or index.dtype != torch.int64:
            raise ValueError(
                f"expected {name} as int64 of shape ({edges},), "
                f"got {index.dtype} of shape {tuple(index.shape)}"
            )
    if n_nodes < 0:
        raise ValueError(f"expected n_nodes >= 0, got {n_nodes}")


def _check_indices(senders: Tensor, receivers: Tensor, n_nodes: int) -> None:
    fault = kernels.check_edges(senders.numpy(), receivers.numpy(), n_nodes)
    if fault == 1:
        raise ValueError(
            f"expected senders and receivers from 0 to {n_nodes - 1}, got "
            f"{int(torch.minimum(senders.min(), receivers.min()))} to "
            f"{int(torch.maximum(senders.max(), receivers.max()))}"
        )
    if fault == 2:
        raise ValueError(
            "expected edges sorted by receiver; sort them with torch.argsort(receivers)"
        )


def _check_dtypes(values: Tensor, directions: Tensor) -> None:
    if values.dtype != directions.dtype or not values.is_floating_point():
        raise TypeError(
            "expected floating-point tensors of one dtype, "
            f"got {values.dtype} and directions of {directions.dtype}"
        )


def _use_torch(method: str, values: Tensor) -> bool:
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {METHODS}, got {method!r}")
    if method == "torch" or values.device.type != "cpu":
        return True
    if values.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"expected float32 or float64, got {values.dtype}; other dtypes need method='torch'"
        )
    return False


# --- running the kernels ------------------------------------------------------------------------


def _flat(tensor: Tensor):
    """Return a one-dimensional NumPy view of a tensor's numbers, made contiguous if need be."""
    return tensor.detach().contiguous().numpy().reshape(-1)


def _masked(values: Tensor) -> int:
    return int(values.shape[2] % (BYTES // values.element_size()) != 0)


def _ranges(receivers: Any, n_nodes: int, channels: int) -> list[tuple[int, int, int]]:
    """Return the parts of the nodes that threads work on, one part where more do not pay."""
    work = _EDGE_WORK * len(receivers) * channels
    parts = min(_jit.get_num_threads(), int(work // 5e4))
    if parts <= 1:
        return [(0, n_nodes, 0)]
    return kernels.node_ranges(receivers, n_nodes, parts)


def _run(task: Callable[[int, int, int], Any], ranges: list[tuple[int, int, int]]) -> list:
    if len(ranges) == 1:
        return [task(*ranges[0])]
    found = _jit.run_chunks(lambda a, b: [task(*r) for r in ranges[a:b]], len(ranges), 1e12)
    return [item for chunk in found for item in chunk]


def _higher(twin: Callable, inputs: tuple, cotangents: tuple) -> tuple:
    """Differentiate the second derivatives of an operator, by those of its twin."""
    with torch.enable_grad():
        used = [x if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        values, directions, grad, *along = used
        first = torch.autograd.grad(
            twin(values, directions), (values, directions), grad, create_graph=True
        )
        seconds = torch.autograd.grad(
            first, (values, directions, grad), along, create_graph=True, materialize_grads=True
        )
    return torch.autograd.grad(
        seconds,
        used,
        [torch.zeros_like(s) if c is None else c for s, c in zip(seconds, cotangents, strict=True)],
        create_graph=torch.is_grad_enabled(),
        materialize_grads=True,
    )


def _along(values: Tensor, cotangent: Tensor | None) -> Tensor:
    return torch.zeros_like(values) if cotangent is None else cotangent


# --- anisotropic state --------------------------------------------------------------------------


class _State(Function):
    @staticmethod
    def forward(ctx, coefficients, directions, receivers, n_nodes, order):
        ctx.save_for_backward(coefficients, directions, receivers)
        ctx.order = order
        channels = coefficients.shape[2]
        components = indexing.n_components(order)
        state = coefficients.new_empty(n_nodes, components, channels)
        loop = kernels.state_kernels(order, _masked(coefficients)).values
        to = receivers.numpy()
        args = _flat(coefficients), _flat(directions), to, channels, _flat(state)
        _run(lambda *part: loop(*args, *part), _ranges(to, n_nodes, channels))
        return state

    @staticmethod
    def backward(ctx, grad):
        coefficients, directions, receivers = ctx.saved_tensors
        found = _StateGradients.apply(coefficients, directions, grad, receivers, ctx.order)
        return *_needed(ctx, found), None, None, None


class _StateGradients(Function):
    @staticmethod
    def forward(ctx, coefficients, directions, grad, receivers, order):
        ctx.save_for_backward(coefficients, directions, grad, receivers)
        ctx.set_materialize_grads(False)
        ctx.order = order
        channels = coefficients.shape[2]
        by_coefs = torch.empty_like(coefficients, memory_format=torch.contiguous_format)
        by_dirs = torch.zeros_like(directions, memory_format=torch.contiguous_format)
        loop = kernels.state_kernels(order, _masked(coefficients)).gradients
        to = receivers.numpy()
        args = (*map(_flat, (coefficients, directions, grad)), to, channels)
        outs = _flat(by_coefs), _flat(by_dirs)
        _run(lambda *part: loop(*args, *outs, *part), _ranges(to, len(grad), channels))
        return by_coefs, by_dirs

    @staticmethod
    def backward(ctx, along_coefs, along_dirs):
        if along_coefs is None and along_dirs is None:
            return (None,) * 5
        coefficients, directions, grad, receivers = ctx.saved_tensors
        along = _along(coefficients, along_coefs), _along(directions, along_dirs)
        found = _StateSecond.apply(coefficients, directions, grad, *along, receivers, ctx.order)
        return *_needed(ctx, found), None, None


class _StateSecond(Function):
    @staticmethod
    def forward(ctx, coefficients, directions, grad, along_coefs, along_dirs, receivers, order):
        inputs = coefficients, directions, grad, along_coefs, along_dirs
        ctx.save_for_backward(*inputs, receivers)
        ctx.set_materialize_grads(False)
        ctx.order = order
        channels = coefficients.shape[2]
        by_coefs = torch.empty_like(coefficients, memory_format=torch.contiguous_format)
        by_dirs = torch.zeros_like(directions, memory_format=torch.contiguous_format)
        by_grad = torch.empty_like(grad, memory_format=torch.contiguous_format)
        loop = kernels.state_kernels(order, _masked(coefficients)).second
        to = receivers.numpy()
        args = (*map(_flat, inputs), to, channels)
        outs = _flat(by_coefs), _flat(by_dirs), _flat(by_grad)
        _run(lambda *part: loop(*args, *outs, *part), _ranges(to, len(grad), channels))
        return by_coefs, by_dirs, by_grad

    @staticmethod
    def backward(ctx, *cotangents):
        *inputs, receivers = ctx.saved_tensors

        def twin(coefficients, directions):
            return edges_torch.anisotropic_state(
                coefficients, directions, receivers, len(inputs[2]), ctx.order
            )

        return *_needed(ctx, _higher(twin, tuple(inputs), cotangents)), None, None


def _needed(ctx, found: tuple) -> tuple:
    return tuple(
        g if need else None for g, need in zip(found, ctx.needs_input_grad, strict=False)
    )


# --- invariants of pairs ------------------------------------------------------------------------


class _Pair(Function):
    @staticmethod
    def forward(ctx, state, directions, senders, receivers, order):
        ctx.save_for_backward(state, directions, senders, receivers)
        ctx.order = order
        channels = state.shape[2]
        found = state.new_empty(len(receivers), len(invariant_terms(order)), channels)
        loop = kernels.pair_kernels(order, _masked(state)).values
        to = receivers.numpy()
        args = _flat(state), _flat(directions), senders.numpy(), to, channels, _flat(found)
        _run(lambda *part: loop(*args, *part), _ranges(to, len(state), channels))
        return found

    @staticmethod
    def backward(ctx, grad):
        state, directions, senders, receivers = ctx.saved_tensors
        found = _PairGradients.apply(state, directions, grad, senders, receivers, ctx.order)
        return *_needed(ctx, found), None, None, None


class _PairGradients(Function):
    @staticmethod
    def forward(ctx, state, directions, grad, senders, receivers, order):
        ctx.save_for_backward(state, directions, grad, senders, receivers)
        ctx.set_materialize_grads(False)
        ctx.order = order
        by_dirs = torch.zeros_like(directions, memory_format=torch.contiguous_format)
        loop = kernels.pair_kernels(order, _masked(state)).gradients
        inputs = [_flat(x) for x in (state, directions, grad)]
        by_state = _scatter(loop, inputs, state, senders, receivers, [_flat(by_dirs)])
        return by_state, by_dirs

    @staticmethod
    def backward(ctx, along_state, along_dirs):
        if along_state is None and along_dirs is None:
            return (None,) * 6
        state, directions, grad, *ends = ctx.saved_tensors
        along = _along(state, along_state), _along(directions, along_dirs)
        found = _PairSecond.apply(state, directions, grad, *along, *ends, ctx.order)
        return *_needed(ctx, found), None, None, None


class _PairSecond(Function):
    @staticmethod
    def forward(ctx, state, directions, grad, along_state, along_dirs, senders, receivers, order):
        tensors = state, directions, grad, along_state, along_dirs
        ctx.save_for_backward(*tensors, senders, receivers)
        ctx.set_materialize_grads(False)
        ctx.order = order
        by_dirs = torch.zeros_like(directions, memory_format=torch.contiguous_format)
        by_grad = torch.empty_like(grad, memory_format=torch.contiguous_format)
        loop = kernels.pair_kernels(order, _masked(state)).second
        inputs = [_flat(x) for x in tensors]
        outs = [_flat(by_dirs), _flat(by_grad)]
        by_state = _scatter(loop, inputs, state, senders, receivers, outs)
        return by_state, by_dirs, by_grad

    @staticmethod
    def backward(ctx, *cotangents):
        *inputs, senders, receivers = ctx.saved_tensors

        def twin(state, directions):
            return edges_torch.pair_invariants(state, directions, senders, receivers, ctx.order)

        found = _higher(twin, tuple(inputs), cotangents)
        return *_needed(ctx, found), None, None, None


def _scatter(
    loop: Any, inputs: list, state: Tensor, senders: Tensor, receivers: Tensor, outs: list
) -> Tensor:
    """Run a loop that adds to rows of receivers and of senders; return the sums, like `state`.

    Receivers belong to one part each. Senders do not, so every part but the first adds them to
    rows of its own, from its lowest to its highest sender; these are added in order afterwards.
    """
    channels = state.shape[2]
    by_state = torch.zeros_like(state, memory_format=torch.contiguous_format)
    total, begin, to = _flat(by_state), senders.numpy(), receivers.numpy()
    row = state.shape[1] * channels
    ranges = _ranges(to, len(state), channels)

    def task(first: int, last: int, edge: int) -> tuple:
        rows, base = total, 0
        if edge:
            own = begin[edge : to.searchsorted(last)]
            base, top = int(own.min()), int(own.max()) + 1
            rows = np.zeros((top - base) * row, dtype=total.dtype)
        loop(*inputs, begin, to, channels, total, rows, base, *outs, first, last, edge)
        return rows, base

    for rows, base in _run(task, ranges):
        if rows is not total:
            total[base * row : base * row + len(rows)] += rows
    return by_state
