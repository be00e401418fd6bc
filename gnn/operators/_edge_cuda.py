"""The edge operators on the GPU, launched on torch's current stream without waiting for results.

The arithmetic of an edge is `edge_math`, that of the CPU's loops. A thread takes one channel of one
edge or of one node. What edges add to a node is first written edge by edge, then summed by the
node's own thread in a fixed order: every run gives the same bits.

Arrays are as in `_edge_kernels`: flat, channels last. In Numba's simulator tensors of the CPU stand
in for those of a device (`gpu.emulated`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.operators.edge_math import (
    invariant_terms,
    pair_gradients,
    pair_second,
    pair_values,
    state_gradients,
    state_second,
    state_term,
    traceless,
    traceless_adjoint,
)
from multipoles import indexing
from multipoles.compiled.cuda_access import loader, row_loader, row_storer, zeros
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, kernels
from multipoles.cuda.device import NumbaSpace, Space, space_of, view

THREADS = 4 if SIMULATED else 128


# --- launches -------------------------------------------------------------------------------------


def run_state(
    kind: str, inputs: tuple[Tensor, ...], receivers: Tensor, outs: tuple[Tensor, ...], order: int
) -> None:
    """Compute values, gradients or second derivatives of the state; like `_run_state`."""
    channels = inputs[0].shape[2]
    if kind == "values":
        state = outs[0]
        starts = _row_starts(receivers, len(state))
        _launch(state_values(order), inputs[0], len(state), *inputs, starts, channels, state)
        return
    edges = len(receivers)
    parts = inputs[0].new_empty(edges, 3, channels)
    kernel = (state_second_by_edge if kind == "second" else state_gradients_by_edge)(order)
    _launch(kernel, inputs[0], edges, *inputs, receivers, channels, outs[0], parts)
    if kind == "second":
        starts, by_grads = _row_starts(receivers, len(outs[2])), outs[2]
        kernel = state_second_by_node(order)
        _launch(kernel, inputs[0], len(by_grads), *inputs, starts, channels, by_grads)
    _add_channels(parts, outs[1])


def run_pair_values(
    state: Tensor, directions: Tensor, ends: tuple[Tensor, Tensor], out: Tensor, order: int
) -> None:
    """Compute the pair invariants."""
    _launch(
        pair_values_by_edge(order), state, len(ends[1]), state, directions, *ends, state.shape[2],
        out,
    )  # fmt: skip


def run_pair(
    kind: str,
    inputs: tuple[Tensor, ...],
    ends: tuple[Tensor, Tensor],
    outs: tuple[Tensor, ...],
    order: int,
) -> Tensor:
    """Compute first or second derivatives of the pair invariants; like `_run_pair`."""
    state, (senders, receivers) = inputs[0], ends
    edges, (nodes, components, channels) = len(receivers), state.shape
    sent, received = (state.new_empty(edges, components, channels) for _ in range(2))
    parts = state.new_empty(edges, 3, channels)
    kernel = (pair_second_by_edge if kind == "second" else pair_gradients_by_edge)(order)
    _launch(
        kernel, state, edges, *inputs, senders, receivers, channels, sent, received, parts,
        *outs[1:],
    )  # fmt: skip
    _add_channels(parts, outs[0])
    by_state = torch.empty_like(state, memory_format=torch.contiguous_format)
    sender_starts, permutation = _rows_of(senders, nodes)
    _launch(
        gathered(components), state, nodes, received, _row_starts(receivers, nodes), sent,
        sender_starts, permutation, channels, by_state,
    )  # fmt: skip
    return by_state


def _launch(kernel: Any, like: Tensor, rows: int, *arguments: Any) -> None:
    """Run a kernel with a thread for each row and channel."""
    if rows == 0 or like.shape[2] == 0:
        return
    space = _space(like)
    dtype = np.dtype(str(like.dtype).removeprefix("torch."))
    flat = (_flat(a) if isinstance(a, Tensor) else a for a in arguments)
    blocks = -(-rows * like.shape[2] // THREADS)
    kernel(space.stream, dtype, blocks, THREADS, *flat)


def _space(tensor: Tensor) -> Space:
    return NumbaSpace() if SIMULATED else space_of(tensor)


def _flat(tensor: Tensor) -> Any:
    return view(tensor.detach().contiguous().reshape(-1))


def _add_channels(parts: Tensor, out: Tensor) -> None:
    """Write the sums over channels of (E, 3, channels)."""
    torch.sum(parts, dim=2, out=out)


def _row_starts(receivers: Tensor, nodes: int) -> Tensor:
    """Return where the edges of each node start, and the end; receivers are sorted.

    They are kept with the tensor.
    """
    found: Tensor = _kept(receivers, "_starts", nodes, lambda: _searched(receivers, nodes + 1))
    return found


def _searched(rows: Tensor, n: int) -> Tensor:
    """Return where 0, 1, … n - 1 begin in sorted rows."""
    return torch.searchsorted(rows, torch.arange(n, device=rows.device))


def _kept(of: Tensor, name: str, nodes: int, make: Callable[[], Any]) -> Any:
    """Return what is made once of the numbers of a tensor, and kept with it."""
    if of.is_inference():  # whose changes nobody counts
        return make()
    state = of._version, nodes
    kept = getattr(of, name, {})
    if state not in kept:  # what was kept of other numbers goes
        kept = {}
        setattr(of, name, kept)
    return _space(of).once(kept, state, make)


def _rows_of(senders: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return where each node's edges start among edges sorted by sender, and their permutation.

    Both are kept with the tensor: the same edges serve every layer and derivative.
    """

    def make() -> tuple[Tensor, Tensor]:
        permutation = torch.argsort(senders, stable=True)
        return _searched(senders[permutation], nodes + 1), permutation

    found: tuple[Tensor, Tensor] = _kept(senders, "_rows", nodes, make)
    return found


# --- the anisotropic state ------------------------------------------------------------------------


@kernels
def state_values(order):
    """Write the state of a node."""
    n, ranks = indexing.n_components(order), order + 1
    load, point, store, zero = row_loader(ranks), loader(3), row_storer(n), zeros(n)

    def loop(coefs, dirs, starts, channels, state):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        node, channel = t // channels, t % channels
        if node < starts.shape[0] - 1:
            total = zero()
            e, end = starts[node], starts[node + 1]
            while e < end:
                c = load(coefs, e * ranks * channels + channel, channels)
                total = state_term(order, (total, c, point(dirs, 3 * e)))[0]
                e += 1
            place = node * n * channels + channel
            store(state, place, channels, traceless(order, (total,))[0])

    return loop


@kernels
def state_gradients_by_edge(order):
    """Write gradients by coefficients, and by directions for each channel."""
    n, ranks = indexing.n_components(order), order + 1
    load, load_state, point = row_loader(ranks), row_loader(n), loader(3)
    store, store_direction = row_storer(ranks), row_storer(3)

    def loop(coefs, dirs, grads, receivers, channels, by_coefs, parts):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        e, channel = t // channels, t % channels
        if e < receivers.shape[0]:
            g = load_state(grads, receivers[e] * n * channels + channel, channels)
            g = traceless_adjoint(order, (g,))[0]
            place = e * ranks * channels + channel
            c = load(coefs, place, channels)
            by_c, by_u = state_gradients(order, (c, point(dirs, 3 * e), g))
            store(by_coefs, place, channels, by_c)
            store_direction(parts, 3 * e * channels + channel, channels, by_u)

    return loop


@kernels
def state_second_by_edge(order):
    """Write the change of gradients by coefficients and by directions."""
    n, ranks = indexing.n_components(order), order + 1
    load, load_state, point, zero = row_loader(ranks), row_loader(n), loader(3), zeros(n)
    store, store_direction = row_storer(ranks), row_storer(3)

    def loop(coefs, dirs, grads, d_coefs, d_dirs, receivers, channels, by_coefs, parts):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        e, channel = t // channels, t % channels
        if e < receivers.shape[0]:
            g = load_state(grads, receivers[e] * n * channels + channel, channels)
            g = traceless_adjoint(order, (g,))[0]
            place = e * ranks * channels + channel
            c, dc = load(coefs, place, channels), load(d_coefs, place, channels)
            u, du = point(dirs, 3 * e), point(d_dirs, 3 * e)
            by_c, by_u, _ = state_second(order, (zero(), c, u, g, dc, du))
            store(by_coefs, place, channels, by_c)
            store_direction(parts, 3 * e * channels + channel, channels, by_u)

    return loop


@kernels
def state_second_by_node(order):
    """Write the change of the state."""
    n, ranks = indexing.n_components(order), order + 1
    load, point, store, zero = row_loader(ranks), loader(3), row_storer(n), zeros(n)

    def loop(coefs, dirs, grads, d_coefs, d_dirs, starts, channels, by_grads):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        node, channel = t // channels, t % channels
        if node < starts.shape[0] - 1:
            total, nothing = zero(), zero()
            e, end = starts[node], starts[node + 1]
            while e < end:
                place = e * ranks * channels + channel
                c, dc = load(coefs, place, channels), load(d_coefs, place, channels)
                u, du = point(dirs, 3 * e), point(d_dirs, 3 * e)
                total = state_second(order, (total, c, u, nothing, dc, du))[2]
                e += 1
            place = node * n * channels + channel
            store(by_grads, place, channels, traceless(order, (total,))[0])

    return loop


# --- pair invariants ------------------------------------------------------------------------------


@kernels
def pair_values_by_edge(order):
    """Write the invariants of an edge."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))
    load, point, store = row_loader(n), loader(3), row_storer(terms)

    def loop(state, dirs, senders, receivers, channels, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        e, channel = t // channels, t % channels
        if e < receivers.shape[0]:
            one = load(state, senders[e] * n * channels + channel, channels)
            two = load(state, receivers[e] * n * channels + channel, channels)
            values = pair_values(order, (one, two, point(dirs, 3 * e)))[0]
            store(out, e * terms * channels + channel, channels, values)

    return loop


@kernels
def pair_gradients_by_edge(order):
    """Write an edge's gradients by the states of its sender and receiver, and by its direction."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))
    load, load_terms, point, zero = row_loader(n), row_loader(terms), loader(3), zeros(n)
    store, store_direction = row_storer(n), row_storer(3)

    def loop(state, dirs, grads, senders, receivers, channels, sent, received, parts):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        e, channel = t // channels, t % channels
        if e < receivers.shape[0]:
            one = load(state, senders[e] * n * channels + channel, channels)
            two = load(state, receivers[e] * n * channels + channel, channels)
            g = load_terms(grads, e * terms * channels + channel, channels)
            by_one, by_two, by_u = pair_gradients(order, (one, two, point(dirs, 3 * e), g, zero()))
            store(sent, e * n * channels + channel, channels, by_one)
            store(received, e * n * channels + channel, channels, by_two)
            store_direction(parts, 3 * e * channels + channel, channels, by_u)

    return loop


@kernels
def pair_second_by_edge(order):
    """Write the change of an edge's gradients, and of its invariants."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))
    load, load_terms, point, zero = row_loader(n), row_loader(terms), loader(3), zeros(n)
    store, store_terms, store_direction = row_storer(n), row_storer(terms), row_storer(3)

    def loop(
        state, dirs, grads, d_state, d_dirs, senders, receivers, channels, sent, received, parts,
        by_grads,
    ):  # fmt: skip
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        e, channel = t // channels, t % channels
        if e < receivers.shape[0]:
            first = senders[e] * n * channels + channel
            second = receivers[e] * n * channels + channel
            one, d_one = load(state, first, channels), load(d_state, first, channels)
            two, d_two = load(state, second, channels), load(d_state, second, channels)
            place = e * terms * channels + channel
            g = load_terms(grads, place, channels)
            u, du = point(dirs, 3 * e), point(d_dirs, 3 * e)
            by_one, by_two, by_u, by_g = pair_second(
                order, (one, two, u, g, d_one, d_two, du, zero())
            )
            store_terms(by_grads, place, channels, by_g)
            store(sent, e * n * channels + channel, channels, by_one)
            store(received, e * n * channels + channel, channels, by_two)
            store_direction(parts, 3 * e * channels + channel, channels, by_u)

    return loop


@kernels
def gathered(n):
    """Write the sum of what a node received on its edges and of what it sent on others."""

    def loop(received, starts, sent, sender_starts, permutation, channels, out):
        t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        node, channel = t // channels, t % channels
        if node < starts.shape[0] - 1:
            for i in range(n):
                total = 0.0
                for e in range(starts[node], starts[node + 1]):
                    total += received[(e * n + i) * channels + channel]
                for k in range(sender_starts[node], sender_starts[node + 1]):
                    total += sent[(permutation[k] * n + i) * channels + channel]
                out[(node * n + i) * channels + channel] = total

    return loop
