"""The fused edge operators as arrays: which loop, which parts of the nodes for which thread."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gnn.operators import _edge_kernels as kernels
from gnn.operators.edge_math import invariant_terms
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

_STATE_LOOPS = {
    "values": kernels.state_values_loop,
    "gradients": kernels.state_gradients_loop,
    "second": kernels.state_second_loop,
}
_PAIR_LOOPS = {
    "gradients": kernels.pair_gradients_loop,
    "second": kernels.pair_second_loop,
}


def run_state(
    kind: str,
    inputs: Sequence[NDArray],
    receivers: NDArray,
    outs: Sequence[NDArray],
    order: int,
    n_nodes: int,
) -> None:
    """Write values, gradients or second derivatives of the anisotropic state to `outs`.

    `inputs` begin with coefficients (E, order + 1, C) and directions (E, 3); gradients add to those
    by the directions. All arrays are contiguous.
    """
    coefficients = inputs[0]
    loop = _STATE_LOOPS[kind](order, masked(coefficients))
    args = *map(_flat, inputs), receivers, coefficients.shape[2], *map(_flat, outs)
    rows = indexing.n_components(order)
    ranges = _ranges(kind, _STATE_COST, receivers, coefficients, rows, n_nodes)
    jit.run_ranges(lambda *part: loop(*args, *part), ranges)


def run_pair_values(
    state: NDArray, directions: NDArray, ends: tuple[NDArray, NDArray], found: NDArray, order: int
) -> None:
    """Write the invariants of states (N, n_components, C) to `found`, (E, n_invariants, C)."""
    loop = kernels.pair_values_loop(order, masked(state))
    args = _flat(state), _flat(directions), *ends, state.shape[2], _flat(found)
    ranges = _ranges("values", _PAIR_COST, ends[1], state, found.shape[1])
    jit.run_ranges(lambda *part: loop(*args, *part), ranges)


def run_pair(
    kind: str,
    inputs: Sequence[NDArray],
    ends: tuple[NDArray, NDArray],
    outs: Sequence[NDArray],
    order: int,
) -> NDArray:
    """Run a loop that adds to rows of receivers and of senders; return the sums, like the state.

    Receivers belong to one part each. Senders do not: where there are several parts, each adds
    them to rows of its own, from its lowest to its highest sender, and these are added in order
    afterwards.
    """
    state = inputs[0]
    loop = _PAIR_LOOPS[kind](order, masked(state))
    by_state = np.zeros(state.shape, state.dtype)
    total, (senders, receivers) = _flat(by_state), ends
    channels, row = state.shape[2], state.shape[1] * state.shape[2]
    args = *map(_flat, inputs), senders, receivers, channels, total
    results = [_flat(out) for out in outs]
    ranges = _ranges(kind, _PAIR_COST, receivers, state, len(invariant_terms(order)))

    def task(first: int, last: int, edge: int) -> tuple[NDArray, int]:
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
    receivers: NDArray,
    values: NDArray,
    rows: int,
    n_nodes: int | None = None,
) -> list[Range]:
    """Return the parts of the nodes that threads work on: one part where more do not pay."""
    n_nodes = len(values) if n_nodes is None else n_nodes
    vectors = values.shape[2] * values.itemsize // BYTES + 1
    nanoseconds = cost[kind] * len(receivers) * rows * vectors
    if masked(values):
        nanoseconds *= _MASKED_COST
    parts = min(jit.get_num_threads(), int(nanoseconds // _THREAD_GRAIN))
    if parts <= 1:
        return [(0, n_nodes, 0)]
    return kernels.node_ranges(receivers, n_nodes, parts)


def _flat(array: NDArray) -> NDArray:
    return array.reshape(-1)


def masked(values: NDArray) -> int:
    """Return 1 if the last of the channels' vectors is not full, else 0."""
    return int(values.shape[-1] * values.itemsize % BYTES != 0)
