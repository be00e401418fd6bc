"""What happens at nodes, on a tape: fields induce multipoles in states and do work on them."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gnn.layers.surroundings import FIELD_ORDER
from gnn.operators.edge_math import traceless_matrix
from gnn.passes import _node_loops as loops
from gnn.passes.tape import Tape, Value, zeros
from multipoles import indexing
from multipoles.polynomials import multiplicity


@lru_cache
def _inverse(order: int, dtype: np.dtype) -> tuple[NDArray, NDArray]:
    """Return one over the multiplicities of components, and their ranks."""
    return (1.0 / multiplicity(order)).astype(dtype), np.array(indexing.orders(order))


@lru_cache
def _detrace(dtype: np.dtype) -> NDArray:
    return np.ascontiguousarray(traceless_matrix(2).T).astype(dtype)


def added(tape: Tape, one: Value, two: Value) -> Value:
    """Return the sum of two values."""
    value = Value(one.x + two.x)

    def backward() -> None:
        if value.gradient is not None:
            one.add(value.gradient.copy())
            two.add(value.gradient)

    tape.note(backward)
    return value


def lifted(tape: Tape, fields: Value) -> Value:
    """Return gradients and traceless second derivatives (N, F, 9) of fields (N, F, 10)."""
    if lifted in fields.made:
        return fields.made[lifted]
    detrace = _detrace(fields.x.dtype)
    value = fields.made[lifted] = Value(np.empty((*fields.x.shape[:2], 9), fields.x.dtype))
    loops.lift(fields.x, detrace, value.x)

    def backward() -> None:
        if value.gradient is not None:
            loops.lift_gradient(value.gradient, detrace, fields.room())

    tape.note(backward)
    return value


def induced(tape: Tape, state: Value, fields: Value, factors: Value, order: int) -> Value:
    """Return states (N, n_comp, C) with what fields (N, F, 10) induce.

    `factors` (N, order F C) come from the nodes; `order` is that of the coupling, 1 or 2.
    """
    n, count, channels = len(state.x), fields.x.shape[1], state.x.shape[2]
    shaped = factors.x.reshape(n, order, count, channels)
    inducing = lifted(tape, fields)
    value = Value(state.x.copy())
    loops.induce(inducing.x, shaped, order, value.x)

    def backward() -> None:
        if value.gradient is None:
            return
        by_factors = zeros(shaped)
        given = value.gradient, inducing.room(), by_factors
        loops.induce_gradients(inducing.x, shaped, order, *given)
        factors.add(by_factors.reshape(factors.x.shape))
        state.add(value.gradient)

    tape.note(backward)
    return value


def node_terms(
    tape: Tape,
    state: Value,
    order: int,
    fields: Value | None = None,
    potential: Value | None = None,
) -> Value:
    """Return invariants of states alone, and of states and fields, (N, columns).

    First the squared norms (N, order C) of `gnn.operators.edges.self_invariants`, then what
    `gnn.layers.surroundings.SurroundingsCoupling` returns, in its order.
    """
    n, channels, dtype = len(state.x), state.x.shape[2], state.x.dtype
    weights, ranks = _inverse(order, dtype)
    own, coupled = order * channels, min(order, FIELD_ORDER)
    count = 0 if fields is None else fields.x.shape[1]
    value = Value(np.zeros((n, own + count * (2 + (coupled + 1) * channels)), dtype))
    one = dtype.type(1.0)
    loops.own_terms(state.x, state.x, weights, ranks, one, value.x)
    if fields is not None and potential is not None:
        loops.work_terms(state.x, fields.x, potential.x, coupled, own, value.x)

    def backward() -> None:
        if (g := value.gradient) is None:
            return
        by_state = zeros(state.x)
        loops.own_terms_gradient(state.x, weights, ranks, dtype.type(2.0), g, by_state)
        if fields is not None and potential is not None:
            given = state.x, fields.x, potential.x, coupled, own
            loops.work_terms_gradients(*given, g, by_state, fields.room(), potential.room())
        state.add(by_state)

    tape.note(backward)
    return value


def read_moments(
    tape: Tape, charges: Value, state: Value, weights: Value | None, scale: float
) -> Value:
    """Return packed moments (N, 10) of charges (N,), and of states times weights (N, order C)."""
    n, channels, dtype = len(state.x), state.x.shape[2], state.x.dtype
    order = 0 if weights is None else weights.x.shape[1] // channels
    shaped = np.zeros((n, 0, channels), dtype) if weights is None else weights.x
    shaped = shaped.reshape(n, order, channels)
    factor = dtype.type(scale)
    value = Value(np.empty((n, 10), dtype))
    loops.moments(state.x, shaped, factor, order, charges.x, value.x)

    def backward() -> None:
        if (g := value.gradient) is None:
            return
        charges.add(g[:, 0].copy())
        if weights is None:
            return
        by_state, by_weights = (
            zeros(state.x),
            zeros(shaped),
        )
        loops.moments_gradients(state.x, shaped, factor, order, g, by_state, by_weights)
        state.add(by_state)
        weights.add(by_weights.reshape(weights.x.shape))

    tape.note(backward)
    return value


def column(tape: Tape, rows: Value) -> Value:
    """Return the first column (N,) of rows."""
    value = Value(np.ascontiguousarray(rows.x[:, 0]))

    def backward() -> None:
        if value.gradient is not None:
            by_rows = zeros(rows.x)
            by_rows[:, 0] = value.gradient
            rows.add(by_rows)

    tape.note(backward)
    return value


def potential_steps(
    tape: Tape, fields: Value, fade: Value, ends: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[Value, Value]:
    """Return steps (E, 1) of the potential along edges, and potentials (N, F) of all fields.

    That of the first is the sum over neighbours of envelope times step.
    """
    potential = np.ascontiguousarray(fields.x[:, 0, 0])
    step = Value(np.empty_like(fade.x))
    relative = zeros(potential)
    loops.potential_steps(potential, *ends, fade.x, step.x, relative)
    seen = Value(np.concatenate([relative[:, None], fields.x[:, 1:, 0]], axis=1))

    def backward() -> None:
        by_step, by_seen = step.taken(), seen.taken()
        by_potential, by_fade = (
            zeros(potential),
            zeros(fade.x),
        )
        by_relative = np.ascontiguousarray(by_seen[:, 0])
        given = step.x, *ends, fade.x, by_step, by_relative
        loops.potential_steps_gradients(*given, by_potential, by_fade)
        by_fields = zeros(fields.x)
        by_fields[:, 0, 0] = by_potential
        by_fields[:, 1:, 0] = by_seen[:, 1:]
        fields.add(by_fields)
        fade.add(by_fade)

    tape.note(backward)
    return step, seen
