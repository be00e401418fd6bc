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
            if one.live:
                one.add(value.gradient.copy())
            two.add(value.gradient)

    def push() -> None:
        value.move(one.moved() + two.moved())

    def pull() -> None:
        one.add_second(value.taken_second().copy())
        two.add_second(value.taken_second())

    tape.note(backward)
    tape.note_changes(push, pull)
    return value


def lifted(tape: Tape, fields: Value) -> Value:
    """Return gradients and traceless second derivatives (N, F, 9) of fields (N, F, 10)."""
    if lifted in fields.made:
        return fields.made[lifted]
    detrace = _detrace(fields.x.dtype)
    found = np.empty((*fields.x.shape[:2], 9), fields.x.dtype)
    value = fields.made[lifted] = Value(found, learned=False)
    loops.lift(fields.x, detrace, value.x)

    def backward() -> None:
        if value.gradient is not None:
            loops.lift_gradient(value.gradient, detrace, fields.room())

    def push() -> None:
        change = np.empty_like(value.x)
        loops.lift(fields.moved(), detrace, change)
        value.move(change)

    tape.note(backward)
    tape.note_changes(push)
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
        state.add(value.gradient.copy())

    def push() -> None:
        change = state.moved().copy()
        loops.induce(inducing.moved(), shaped, order, change)
        loops.induce(inducing.x, _like(factors.moved(), shaped), order, change)
        value.move(change)

    def pull() -> None:
        s, found, unused = value.taken_second(), zeros(shaped), zeros(inducing.x)
        loops.induce_gradients(inducing.x, shaped, order, s, unused, found)
        loops.induce_gradients(inducing.moved(), shaped, order, value.taken(), unused, found)
        factors.add_second(found.reshape(factors.x.shape))
        state.add_second(s)

    tape.note(backward)
    tape.note_changes(push, pull)
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
    if tape.learns:
        _note_changing_terms(tape, value, state, order, fields, potential)
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

    def push() -> None:
        moved, more = (np.empty_like(value.x) for _ in range(2))
        d_state, d_charges = state.moved(), charges.moved()
        loops.moments(d_state, shaped, factor, order, d_charges, moved)
        if weights is not None:
            d_weights = _like(weights.moved(), shaped)
            loops.moments(state.x, d_weights, factor, order, np.zeros_like(d_charges), more)
            moved += more
        value.move(moved)

    def pull() -> None:
        s, g = value.taken_second(), value.taken()
        charges.add_second(s[:, 0].copy())
        if weights is None:
            return
        by_state, by_weights = zeros(state.x), zeros(shaped)
        d_weights = _like(weights.moved(), shaped)
        loops.moments_gradients(state.x, shaped, factor, order, s, by_state, by_weights)
        given = state.moved(), d_weights, factor, order, g, by_state, by_weights
        loops.moments_gradients(*given)
        state.add_second(by_state)
        weights.add_second(by_weights.reshape(weights.x.shape))

    tape.note(backward)
    tape.note_changes(push, pull)
    return value


def column(tape: Tape, rows: Value) -> Value:
    """Return the first column (N,) of rows."""
    value = Value(np.ascontiguousarray(rows.x[:, 0]), rows.live, rows.learned)

    def backward() -> None:
        if value.gradient is not None and rows.live:
            rows.room()[:, 0] += value.gradient

    def push() -> None:
        value.move(np.ascontiguousarray(rows.moved()[:, 0]))

    def pull() -> None:
        by_rows = zeros(rows.x)
        by_rows[:, 0] = value.taken_second()
        rows.add_second(by_rows)

    tape.note(backward)
    tape.note_changes(push, pull)
    return value


def potential_steps(
    tape: Tape, fields: Value, fade: Value, ends: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[Value, Value]:
    """Return steps (E, 1) of the potential along edges, and potentials (N, F) of all fields.

    That of the first is the sum over neighbours of envelope times step.
    """
    potential = np.ascontiguousarray(fields.x[:, 0, 0])
    step = Value(np.empty_like(fade.x), learned=False)
    relative = zeros(potential)
    loops.potential_steps(potential, *ends, fade.x, step.x, relative)
    seen = Value(np.concatenate([relative[:, None], fields.x[:, 1:, 0]], axis=1), learned=False)

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

    def push() -> None:
        moved = fields.moved()
        d_potential, d_step = np.ascontiguousarray(moved[:, 0, 0]), np.empty_like(step.x)
        d_relative = zeros(potential)
        loops.potential_steps(potential, *ends, fade.moved(), d_step, d_relative)
        loops.potential_steps(d_potential, *ends, fade.x, d_step, d_relative)
        step.move(d_step)
        seen.move(np.concatenate([d_relative[:, None], moved[:, 1:, 0]], axis=1))

    tape.note(backward)
    tape.note_changes(push)
    return step, seen


def _like(array: NDArray, shaped: NDArray) -> NDArray:
    return np.ascontiguousarray(array).reshape(shaped.shape)


def _note_changing_terms(
    tape: Tape,
    value: Value,
    state: Value,
    order: int,
    fields: Value | None,
    potential: Value | None,
) -> None:
    """Note how the terms of nodes change: products of states, fields and each other."""
    x, dtype = state.x, state.x.dtype
    weights, ranks = _inverse(order, dtype)
    two, own, coupled = dtype.type(2.0), order * x.shape[2], min(order, FIELD_ORDER)
    given: tuple | None = None
    if fields is not None and potential is not None:
        count = fields.x.shape[1]
        given, others = (coupled, own), (fields, potential)

    def push() -> None:
        moved, change = state.moved(), zeros(value.x)
        loops.own_terms(x, moved, weights, ranks, two, change)
        if given is not None:
            (f, df), (p, dp) = ((one.x, one.moved()) for one in others)
            loops.work_terms(moved, f, p, *given, change)
            loops.work_terms(x, df, dp, *given, change)
            change[:, own : own + count] = dp
            change[:, own + count : own + 2 * count] = 2 * (f[:, :, 1:4] * df[:, :, 1:4]).sum(2)
        value.move(change)

    def pull() -> None:
        s, g, found = *map(np.ascontiguousarray, (value.taken_second(), value.taken())), x * 0
        loops.own_terms_gradient(x, weights, ranks, two, s, found)
        loops.own_terms_gradient(state.moved(), weights, ranks, two, g, found)
        if given is not None:
            (f, df), (p, dp) = ((one.x, one.moved()) for one in others)
            unused = zeros(f), zeros(p)
            loops.work_terms_gradients(x, f, p, *given, s, found, *unused)
            loops.work_terms_gradients(x, df, dp, *given, g, found, *unused)
        state.add_second(found)

    tape.note_changes(push, pull)
