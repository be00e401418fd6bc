"""Networks of the published models in compiled loops against torch."""

import copy

import numpy as np
import pytest
import torch
from published_cases import methanol, small_model, water

import multipoles as mp
from gnn.data.batching import collate
from gnn.operators.perceptron import Layer, Network, perceptron
from gnn.published import constants
from gnn.published.edge_geometry import near_multiples
from gnn.published.layers import BesselBasis
from gnn.published.networks import EdgePerceptron
from gnn.published.networks import perceptron as layers

ASKED = {"forces": True, "mm_forces": True, "mm_potential": True}
NODES, EDGES = 30, 211


def _random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _ends():
    random = np.random.default_rng(1)
    receivers = np.sort(random.integers(0, NODES, EDGES))
    return torch.from_numpy(random.integers(0, NODES, EDGES)), torch.from_numpy(receivers)


def _results(module, inputs, **options):
    """Return outputs and gradients in torch, and compiled."""
    found = []
    for weights in (None, constants.Weights()):
        if weights is not None:
            weights.look(module)
        leaves = [x.clone().requires_grad_() for x in inputs]
        with constants.constant(weights):
            out = module(leaves[0], leaves[2:], *_ends(), leaves[1], **options)
        seeds = _random(*out.shape, dtype=out.dtype, seed=7)
        found.append([out, *torch.autograd.grad((out * seeds).sum(), leaves)])
    return found


@pytest.mark.parametrize(
    ("hidden", "depth", "outputs", "options"),
    [
        (24, 2, 5, {}),
        (24, 2, 5, {"lead": 3}),
        (128, 2, None, {"summed": True}),
        (19, 1, 16, {}),
        (40, 3, None, {}),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_networks_of_edges_are_those_of_torch(hidden, depth, outputs, options, dtype, tolerance):
    torch.manual_seed(0)
    module = EdgePerceptron(11, 9 + 6, hidden, depth, outputs).to(dtype)
    widths = (NODES, 11), (EDGES, 1), (EDGES, 4 + 9), (EDGES, 6)  # four columns are no inputs
    inputs = [_random(*shape, dtype=dtype, seed=k) for k, shape in enumerate(widths)]
    for expected, found in zip(*_results(module, inputs, **options), strict=True):
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_large_inputs_neither_overflow_nor_hide():
    module = layers(3, 16, 2, 1).double()
    weights = constants.Weights()
    weights.look(module)
    x = torch.tensor([[1e3, -2e3, 5e2], [-1e5, 1e5, 1e5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    with torch.no_grad(), constants.constant(weights):
        found = module(x)
        assert module(x * torch.nan).isnan().all()
    with torch.no_grad():
        assert torch.allclose(found, module(x), rtol=1e-12)


def test_a_changed_weight_is_noticed():
    model = small_model()
    systems = [water(), methanol()]
    before = model.evaluate(systems)
    weight = model.steps[1].message.first.weight
    weight.data[0, 0] += 0.5  # which no version of torch's tells
    changed, copied = model.evaluate(systems), copy.deepcopy(model).evaluate(systems)
    assert abs(changed[1]["energy"] - before[1]["energy"]) > 1e-8
    assert copied[1]["energy"] == changed[1]["energy"]
    weight.data[0, 0] -= 0.5
    assert model.evaluate(systems)[1]["energy"] == pytest.approx(before[1]["energy"], abs=1e-12)


def test_weights_that_are_trained_get_their_derivatives():
    model = small_model()
    batch = collate([water(), methanol()], model.cutoff, torch.float64)
    model(batch)["energy"].sum().backward()
    assert all(p.grad is not None for p in model.steps.parameters())


@pytest.mark.parametrize("mode", ["training", "simulation"])
def test_potential_is_the_derivative_by_the_charges(mode):
    model, step = small_model(mode=mode), 1e-4
    batch = collate([water(20), methanol()], model.cutoff, torch.float64)
    found = model(batch, **ASKED)["mm_potential"]
    for k in (0, 7, 25):
        ends = []
        for sign in (1, -1):
            batch.mm_moments[k, 0] += sign * step
            ends.append(float(model(batch)["energy"].sum().detach()))
            batch.mm_moments[k, 0] -= sign * step
        assert float(found[k]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_threads_give_the_same(monkeypatch):
    for module in ("network", "edge_arrays"):
        monkeypatch.setattr(f"gnn.operators.{module}._THREAD_GRAIN", 1.0)
    monkeypatch.setattr("multipoles.compiled.jit.equal_ranges.__defaults__", (1.0,))
    model = small_model()
    batch = collate([methanol(40), water(30), methanol(9)], model.cutoff, torch.float64)
    before, results = mp.get_num_threads(), []
    try:
        for threads in (1, 3):
            mp.set_num_threads(threads)
            results.append(model(batch, **ASKED))
    finally:
        mp.set_num_threads(before)
    for name, one in results[0].items():
        assert torch.allclose(one, results[1][name], rtol=1e-11, atol=1e-11), name


def test_torch_keeps_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        small_model().evaluate([water()])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_gone_is_not_used_again():
    network = Network([Layer(_random(8, 3), None, True)], [3])
    x = _random(5, 3).requires_grad_()
    out = perceptron(network, [x])
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        out.sum().backward()
    with pytest.raises(ValueError, match="blocks of 3 columns together"):
        Network([Layer(_random(8, 3), None, True)], [2])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_edges_are_those_of_torch(dtype, tolerance):
    radial = BesselBasis(4.0, 8).to(dtype)
    found = []
    for weights in (None, constants.Weights()):
        points = (1.1 * _random(NODES, 3, dtype=dtype)).requires_grad_()
        senders, receivers = _ends()
        apart = senders != receivers
        with constants.constant(weights):
            out = radial.of_edges(points, senders[apart], receivers[apart])
        total = sum((one * _random(*one.shape, dtype=dtype, seed=5)).sum() for one in out)
        found.append([*out, *torch.autograd.grad(total, [points])])
    for expected, new in zip(*found, strict=True):
        assert new.dtype == dtype
        assert (new - expected).abs().max() <= tolerance * expected.abs().max()
    assert (found[1][1] == 0).any()  # beyond the cutoff
    radial.frequencies *= 1.1
    assert not near_multiples(radial.frequencies)
