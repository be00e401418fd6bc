"""Layers that learn, values and changes, against torch's derivatives of derivatives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

from gnn.layers.networks import EdgeNetwork, dense
from gnn.operators import edges_torch
from gnn.operators.edge_math import invariant_terms
from gnn.passes.amp import layers_of
from gnn.passes.edges import anisotropic_state, pair_invariants
from gnn.passes.learning import Dense, EdgeDense
from gnn.passes.parameters import LearningWeights
from gnn.passes.tape import Tape, Value
from multipoles import indexing

NODES, EDGES = 5, 17


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def drawn(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def ends_of(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    senders = rng.integers(0, NODES, EDGES)
    return senders, np.sort(rng.integers(0, NODES - 1, EDGES))  # the last has no edge


def check(function, parameters, inputs, learned, layer, weights=None):
    """Compare values, changes, and gradients of both kinds; `inputs` are values and changes."""
    rng = np.random.default_rng(1)
    values, along = (
        [torch.from_numpy(x[i].copy()).requires_grad_() for x in inputs] for i in (0, 1)
    )
    found = jvp(lambda *x: function(parameters, *x), tuple(values), tuple(along))
    s, g = (drawn(rng, *found[0].shape) for _ in range(2))
    first = torch.autograd.grad(
        found[0], values, torch.from_numpy(g), retain_graph=True, materialize_grads=True
    )
    total = sum((o * torch.from_numpy(w)).sum() for o, w in zip(found, (s, g), strict=True))
    weighted = list(parameters.values())
    second = torch.autograd.grad(total, [*values, *weighted], materialize_grads=True)
    tape = Tape(learns=True)
    given = [Value(x[0].copy(), learned=flag) for x, flag in zip(inputs, learned, strict=True)]
    out = layer(tape, *given)
    np.testing.assert_allclose(out.x, found[0].detach(), atol=1e-12)
    out.add(g)
    tape.rewind()
    for _ in range(2):  # a second time from the beginning
        if weights is not None:
            weights.look()
        for value, x in zip(given, inputs, strict=True):
            value.move(x[1].copy())
        tape.push()
        np.testing.assert_allclose(out.change, found[1].detach(), atol=1e-12)
        out.add_second(s.copy())
        tape.pull()
    for i, value in enumerate(given):
        np.testing.assert_allclose(value.taken(), first[i], atol=1e-10)
        if value.learned:
            np.testing.assert_allclose(value.taken_second(), second[i], atol=1e-10)
    for parameter, wanted in zip(weighted, second[len(given) :], strict=True):
        np.testing.assert_allclose(weights[parameter].gradient, wanted, atol=1e-10)


def test_dense_learns():
    rng = np.random.default_rng(0)
    net = dense(7, 11, 3)
    nn.init.normal_(net[2].bias)
    weights = LearningWeights(net.parameters())
    layer = Dense(weights, layers_of(net), [4, 3])
    inputs = [drawn(rng, 2, NODES, 4), drawn(rng, 2, NODES, 3)]
    check(
        lambda p, *x: functional_call(net, p, torch.cat(x, 1)),
        dict(net.named_parameters()), inputs, (True, True), layer, weights,
    )  # fmt: skip


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("hidden", [16, 11])
def test_edge_networks_learn(hidden, summed):
    rng = np.random.default_rng(0)
    net = EdgeNetwork(6, 5, hidden, 9)
    weights = LearningWeights(net.parameters())
    layer = EdgeDense(weights, layers_of([net.first, nn.SiLU(), *net.rest]), 6, [3, 2])
    ends = ends_of(rng)
    s, r = map(torch.from_numpy, ends)

    def twin(p, nodes, a, b, fade):
        rows = functional_call(net, p, (nodes, torch.cat([a, b], 1), s, r)) * fade
        return rows.new_zeros(NODES, 9).index_add(0, r, rows) if summed else rows

    shapes = (NODES, 6), (EDGES, 3), (EDGES, 2), (EDGES, 1)
    inputs = [drawn(rng, 2, *shape) for shape in shapes]
    check(
        twin, dict(net.named_parameters()), inputs, (True, True, True, False),
        lambda tape, nodes, a, b, fade: layer(tape, nodes, [a, b], ends, fade, summed), weights,
    )  # fmt: skip


@pytest.mark.parametrize(("order", "channels"), [(0, 8), (1, 3), (2, 11), (3, 8)])
def test_states_and_invariants_change(order, channels):
    rng = np.random.default_rng(0)
    ends = ends_of(rng)
    s, r = map(torch.from_numpy, ends)
    directions = drawn(rng, 2, EDGES, 3)

    def state(_, c, u):
        return edges_torch.anisotropic_state(c.view(EDGES, order + 1, channels), u, r, NODES, order)

    coefficients = drawn(rng, 2, EDGES, (order + 1) * channels)
    check(
        state, {}, [coefficients, directions], (True, False),
        lambda tape, c, u: anisotropic_state(tape, c, u, ends[1], NODES, order),
    )  # fmt: skip
    states = drawn(rng, 2, NODES, indexing.n_components(order), channels)
    check(
        lambda _, x, u: edges_torch.pair_invariants(x, u, s, r, order).flatten(1),
        {}, [states, directions], (True, False),
        lambda tape, x, u: pair_invariants(tape, x, u, ends, order),
    )  # fmt: skip
    assert len(invariant_terms(order)) > 1
