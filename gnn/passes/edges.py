"""The anisotropic state and the invariants of pairs on a tape."""

import numpy as np
from numpy.typing import NDArray

from gnn.operators import _change_kernels as changes
from gnn.operators import edge_arrays
from gnn.operators.edge_math import invariant_terms
from gnn.passes.tape import Tape, Value, zeros
from multipoles import indexing


def anisotropic_state(
    tape: Tape,
    coefficients: Value,
    directions: Value,
    receivers: NDArray[np.int64],
    n_nodes: int,
    order: int,
) -> Value:
    """Return the state (N, n_components, C) of coefficients (E, (order + 1) C)."""
    channels = coefficients.x.shape[1] // (order + 1)
    rows = coefficients.x.reshape(len(receivers), order + 1, channels)
    state = tape.empty((n_nodes, indexing.n_components(order), channels), rows.dtype)
    inputs = rows, directions.x
    edge_arrays.run_state("values", inputs, receivers, (state,), order, n_nodes)
    value = Value(state)

    def backward() -> None:
        if value.gradient is None:
            return
        by_rows, by_directions = (
            tape.empty(rows.shape, rows.dtype),
            zeros(directions.x),
        )
        given = *inputs, np.ascontiguousarray(value.gradient)
        outs = by_rows, by_directions
        edge_arrays.run_state("gradients", given, receivers, outs, order, n_nodes)
        coefficients.add(by_rows.reshape(coefficients.x.shape))
        directions.add(by_directions)

    which, of = (order, edge_arrays.masked(state)), (receivers, channels, n_nodes)

    def push() -> None:
        moved = np.empty_like(state)
        given = rows, coefficients.moved(), directions.x, directions.moved()
        changes.state_loop(*which)(*map(_flat, given), *of, _flat(moved))
        value.move(moved)

    def pull() -> None:
        found = np.empty_like(coefficients.x)
        given = directions.x, directions.moved(), value.taken(), value.taken_second()
        changes.state_second_loop(*which)(*map(_flat, given), *of, _flat(found))
        coefficients.add_second(found)

    tape.note(backward)
    tape.note_changes(push, pull)
    return value


def pair_invariants(
    tape: Tape,
    state: Value,
    directions: Value,
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    order: int,
) -> Value:
    """Return the invariants (E, n_invariants C) of the states at the ends of edges."""
    shape = len(ends[0]), len(invariant_terms(order)), state.x.shape[2]
    found = tape.empty(shape, state.x.dtype)
    edge_arrays.run_pair_values(state.x, directions.x, ends, found, order)
    value = Value(found.reshape(len(found), shape[1] * shape[2]))

    def backward() -> None:
        if value.gradient is None:
            return
        by_directions = zeros(directions.x)
        inputs = state.x, directions.x, np.ascontiguousarray(value.gradient)
        state.add(edge_arrays.run_pair("gradients", inputs, ends, (by_directions,), order))
        directions.add(by_directions)

    which = order, edge_arrays.masked(state.x)

    def of() -> tuple:
        given = state.x, state.moved(), directions.x, directions.moved()
        return *map(_flat, given), *ends, shape[2]

    def push() -> None:
        moved = np.empty_like(value.x)
        changes.pair_loop(*which)(*of(), len(state.x), _flat(moved))
        value.move(moved)

    def pull() -> None:
        by_state, given = zeros(state.x), (value.taken(), value.taken_second())
        changes.pair_second_loop(*which)(*of(), *map(_flat, given), len(state.x), _flat(by_state))
        state.add_second(by_state)

    tape.note(backward)
    tape.note_changes(push, pull)
    return value


def _flat(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array).reshape(-1)
