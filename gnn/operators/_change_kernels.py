"""Loops over nodes and their edges for changes along a direction, and second gradients.

Arrays are those of `gnn.operators._edge_kernels`; changes and second gradients are those of
`gnn.passes.tape`. Directions are given: nothing that is learned moves them.
"""

from functools import lru_cache
from typing import Any

from gnn.operators._edge_kernels import _end, _triple
from gnn.operators._rows import add_rows, load_rows, store_rows, zero_rows
from gnn.operators.edge_math import (
    invariant_terms,
    pair_change,
    pair_second_by_states,
    state_change,
    state_second_by_coefficients,
    traceless,
    traceless_adjoint,
)
from multipoles import indexing
from multipoles.compiled.jit import jit
from multipoles.compiled.simd import BYTES


@lru_cache
def state_loop(order: int, masked: int) -> Any:
    """Return the loop for the change of the anisotropic state."""
    n, ranks = indexing.n_components(order), order + 1

    @jit
    def loop(coefs, d_coefs, dirs, d_dirs, receivers, channels, nodes, change):
        lanes, edge = BYTES // coefs.itemsize, 0
        for node in range(nodes):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                total = zero_rows(coefs, n)
                for e in range(edge, stop):
                    at = e * ranks * channels + block
                    c = load_rows(coefs, at, channels, ranks, width, masked)
                    dc = load_rows(d_coefs, at, channels, ranks, width, masked)
                    given = total, c, _triple(dirs, e), dc, _triple(d_dirs, e)
                    total = state_change(order, given)[0]
                at = node * n * channels + block
                store_rows(change, at, channels, traceless(order, (total,))[0], width, masked)
            edge = stop

    return loop


@lru_cache
def state_second_loop(order: int, masked: int) -> Any:
    """Return the loop for the second gradients by the state's coefficients."""
    n, ranks = indexing.n_components(order), order + 1

    @jit
    def loop(dirs, d_dirs, grads, seconds, receivers, channels, nodes, by_coefs):
        lanes, edge = BYTES // grads.itemsize, 0
        for node in range(nodes):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                at = node * n * channels + block
                g = load_rows(grads, at, channels, n, width, masked)
                s = load_rows(seconds, at, channels, n, width, masked)
                g, s = traceless_adjoint(order, (g,))[0], traceless_adjoint(order, (s,))[0]
                for e in range(edge, stop):
                    given = _triple(dirs, e), _triple(d_dirs, e), g, s
                    by_c = state_second_by_coefficients(order, given)[0]
                    store_rows(
                        by_coefs, e * ranks * channels + block, channels, by_c, width, masked
                    )
            edge = stop

    return loop


@lru_cache
def pair_loop(order: int, masked: int) -> Any:
    """Return the loop for the changes of the pair invariants."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))

    @jit
    def loop(state, d_state, dirs, d_dirs, senders, receivers, channels, nodes, changes):
        lanes, edge = BYTES // state.itemsize, 0
        for node in range(nodes):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                at = node * n * channels + block
                two = load_rows(state, at, channels, n, width, masked)
                d_two = load_rows(d_state, at, channels, n, width, masked)
                for e in range(edge, stop):
                    at = senders[e] * n * channels + block
                    one = load_rows(state, at, channels, n, width, masked)
                    d_one = load_rows(d_state, at, channels, n, width, masked)
                    given = one, two, _triple(dirs, e), d_one, d_two, _triple(d_dirs, e)
                    found = pair_change(order, given)[0]
                    store_rows(
                        changes, e * terms * channels + block, channels, found, width, masked
                    )
            edge = stop

    return loop


@lru_cache
def pair_second_loop(order: int, masked: int) -> Any:
    """Return the loop for the second gradients by the states of pairs."""
    n, terms = indexing.n_components(order), len(invariant_terms(order))

    @jit
    def loop(
        state, d_state, dirs, d_dirs, senders, receivers, channels, grads, seconds, nodes, by_state
    ):
        lanes, edge = BYTES // state.itemsize, 0
        for node in range(nodes):
            stop = _end(receivers, edge, node)
            for block in range(0, channels, lanes):
                width = channels - block
                place = node * n * channels + block
                two = load_rows(state, place, channels, n, width, masked)
                d_two = load_rows(d_state, place, channels, n, width, masked)
                total = zero_rows(state, n)
                for e in range(edge, stop):
                    to = senders[e] * n * channels + block
                    one = load_rows(state, to, channels, n, width, masked)
                    d_one = load_rows(d_state, to, channels, n, width, masked)
                    at = e * terms * channels + block
                    g = load_rows(grads, at, channels, terms, width, masked)
                    s = load_rows(seconds, at, channels, terms, width, masked)
                    u, du = _triple(dirs, e), _triple(d_dirs, e)
                    by_one, total = pair_second_by_states(
                        order, (one, two, u, d_one, d_two, du, g, s, total)
                    )
                    add_rows(by_state, to, channels, by_one, width, masked)
                add_rows(by_state, place, channels, total, width, masked)
            edge = stop

    return loop
