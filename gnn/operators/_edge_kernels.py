"""Loops over nodes and their incoming edges: arrays in, arrays out.

All arrays are one-dimensional views of contiguous ones: states (N, n_components, channels),
coefficients (E, order + 1, channels), invariants (E, n_invariants, channels), directions (E, 3).
Lanes are channels, `masked` where these do not fill vectors. A loop works on the nodes
[first, last), whose edges begin at `edge`. Edges are sorted by receiver, so what belongs to the
receiver is loaded and stored once for all its edges; gradients by the sender's state are added to
row ``sender - base`` of `by_senders`.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from gnn.operators._rows import add_rows, load_rows, store_rows, zero_rows
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
from multipoles.compiled.jit import inline, jit
from multipoles.compiled.simd import BYTES, lane_sum


@jit
def check_edges(senders, receivers, n_nodes):
    """Return 0 if edges are fine, 1 if a node does not exist, 2 if receivers are not sorted."""
    before = 0
    for e in range(len(receivers)):
        after = receivers[e]
        if senders[e] < 0 or senders[e] >= n_nodes or after < 0 or after >= n_nodes:
            return 1
        if after < before:
            return 2
        before = after
    return 0


@inline
def _end(receivers, edge, node):
    while edge < len(receivers) and receivers[edge] == node:
        edge += 1
    return edge


@inline
def _triple(array, e):
    return array[3 * e], array[3 * e + 1], array[3 * e + 2]


@inline
def _add_triple(array, e, values):
    array[3 * e] += lane_sum(values[0])
    array[3 * e + 1] += lane_sum(values[1])
    array[3 * e + 2] += lane_sum(values[2])


@lru_cache
def state_values_loop(order: int, masked: int) -> Any:
    """Return the loop for the values of the anisotropic state."""
    n, ranks = indexing.n_components(order), order + 1

    @jit
    def loop(coefs, dirs, receivers, channels, state, first, last, edge):
        lanes = BYTES // coefs.itemsize
        for node in range(first, last):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                total = zero_rows(coefs, n)
                for e in range(edge, stop):
                    at = e * ranks * channels + block
                    c = load_rows(coefs, at, channels, ranks, width, masked)
                    total = state_term(order, (total, c, _triple(dirs, e)))[0]
                at = node * n * channels + block
                store_rows(state, at, channels, traceless(order, (total,))[0], width, masked)
            edge = stop

    return loop


@lru_cache
def state_gradients_loop(order: int, masked: int) -> Any:
    """Return the loop for all first derivatives of the anisotropic state."""
    n, ranks = indexing.n_components(order), order + 1

    @jit
    def loop(coefs, dirs, grads, receivers, channels, by_coefs, by_dirs, first, last, edge):
        lanes = BYTES // coefs.itemsize
        for node in range(first, last):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                at = node * n * channels + block
                g = load_rows(grads, at, channels, n, width, masked)
                g = traceless_adjoint(order, (g,))[0]
                for e in range(edge, stop):
                    at = e * ranks * channels + block
                    c = load_rows(coefs, at, channels, ranks, width, masked)
                    by_c, by_u = state_gradients(order, (c, _triple(dirs, e), g))
                    store_rows(by_coefs, at, channels, by_c, width, masked)
                    _add_triple(by_dirs, e, by_u)
            edge = stop

    return loop


@lru_cache
def state_second_loop(order: int, masked: int) -> Any:
    """Return the loop for the change of all first derivatives of the anisotropic state."""
    n, ranks = indexing.n_components(order), order + 1

    @jit
    def loop(
        coefs, dirs, grads, d_coefs, d_dirs, receivers, channels,
        by_coefs, by_dirs, by_grads, first, last, edge,
    ):  # fmt: skip
        lanes = BYTES // coefs.itemsize
        for node in range(first, last):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                place = node * n * channels + block
                g = load_rows(grads, place, channels, n, width, masked)
                g = traceless_adjoint(order, (g,))[0]
                total = zero_rows(coefs, n)
                for e in range(edge, stop):
                    at = e * ranks * channels + block
                    c = load_rows(coefs, at, channels, ranks, width, masked)
                    dc = load_rows(d_coefs, at, channels, ranks, width, masked)
                    by_c, by_u, total = state_second(
                        order, (total, c, _triple(dirs, e), g, dc, _triple(d_dirs, e))
                    )
                    store_rows(by_coefs, at, channels, by_c, width, masked)
                    _add_triple(by_dirs, e, by_u)
                store_rows(by_grads, place, channels, traceless(order, (total,))[0], width, masked)
            edge = stop

    return loop


@lru_cache
def pair_values_loop(order: int, masked: int) -> Any:
    """Return the loop for the values of the pair invariants."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))

    @jit
    def loop(state, dirs, senders, receivers, channels, found, first, last, edge):
        lanes = BYTES // state.itemsize
        for node in range(first, last):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                two = load_rows(state, node * n * channels + block, channels, n, width, masked)
                for e in range(edge, stop):
                    at = senders[e] * n * channels + block
                    one = load_rows(state, at, channels, n, width, masked)
                    g = pair_values(order, (one, two, _triple(dirs, e)))[0]
                    store_rows(found, e * terms * channels + block, channels, g, width, masked)
            edge = stop

    return loop


@lru_cache
def pair_gradients_loop(order: int, masked: int) -> Any:
    """Return the loop for all first derivatives of the pair invariants."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))

    @jit
    def loop(
        state, dirs, grads, senders, receivers, channels,
        by_state, by_senders, base, by_dirs, first, last, edge,
    ):  # fmt: skip
        lanes = BYTES // state.itemsize
        for node in range(first, last):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                place = node * n * channels + block
                two = load_rows(state, place, channels, n, width, masked)
                total = zero_rows(state, n)
                for e in range(edge, stop):
                    at = senders[e] * n * channels + block
                    one = load_rows(state, at, channels, n, width, masked)
                    at = e * terms * channels + block
                    g = load_rows(grads, at, channels, terms, width, masked)
                    by_one, total, by_u = pair_gradients(
                        order, (one, two, _triple(dirs, e), g, total)
                    )
                    at = (senders[e] - base) * n * channels + block
                    add_rows(by_senders, at, channels, by_one, width, masked)
                    _add_triple(by_dirs, e, by_u)
                add_rows(by_state, place, channels, total, width, masked)
            edge = stop

    return loop


@lru_cache
def pair_second_loop(order: int, masked: int) -> Any:
    """Return the loop for the change of all first derivatives of the pair invariants."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))

    @jit
    def loop(
        state, dirs, grads, d_state, d_dirs, senders, receivers, channels,
        by_state, by_senders, base, by_dirs, by_grads, first, last, edge,
    ):  # fmt: skip
        lanes = BYTES // state.itemsize
        for node in range(first, last):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                place = node * n * channels + block
                two = load_rows(state, place, channels, n, width, masked)
                d_two = load_rows(d_state, place, channels, n, width, masked)
                total = zero_rows(state, n)
                for e in range(edge, stop):
                    at = senders[e] * n * channels + block
                    one = load_rows(state, at, channels, n, width, masked)
                    d_one = load_rows(d_state, at, channels, n, width, masked)
                    at = e * terms * channels + block
                    g = load_rows(grads, at, channels, terms, width, masked)
                    by_one, total, by_u, by_g = pair_second(
                        order,
                        (one, two, _triple(dirs, e), g, d_one, d_two, _triple(d_dirs, e), total),
                    )
                    store_rows(by_grads, at, channels, by_g, width, masked)
                    at = (senders[e] - base) * n * channels + block
                    add_rows(by_senders, at, channels, by_one, width, masked)
                    _add_triple(by_dirs, e, by_u)
                add_rows(by_state, place, channels, total, width, masked)
            edge = stop

    return loop


def node_ranges(receivers: np.ndarray, n_nodes: int, parts: int) -> list[tuple[int, int, int]]:
    """Return (first node, last node, first edge) of parts with about as many edges each."""
    cuts = [int(receivers[len(receivers) * i // parts]) for i in range(1, parts)]
    bounds = [0, *cuts, n_nodes]
    edges = np.searchsorted(receivers, bounds[:-1])
    return [
        (first, last, int(edge))
        for first, last, edge in zip(bounds[:-1], bounds[1:], edges, strict=True)
        if first < last
    ]
