"""Edge operators, fields and the model on a GPU against the same on the CPU."""

from contextlib import nullcontext

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba.cuda")

import torch
from on_gpu import DEVICE, operators

import multipoles as mp
from gnn import AMP, System
from gnn.data import collate, prepare
from gnn.operators import anisotropic_state, multipole_field, pair_invariants
from gnn.options import LongRange

pytestmark = pytest.mark.gpu
BOUNDS = {torch.float32: 2e-4, torch.float64: 1e-11}


def graph(nodes=2000, degree=16, seed=0):
    """Return random edges; what torch draws from here on has the same seed."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    receivers = torch.as_tensor(np.sort(rng.integers(0, nodes, nodes * degree)))
    senders = torch.as_tensor(rng.integers(0, nodes, nodes * degree))
    directions = torch.as_tensor(rng.standard_normal((nodes * degree, 3)))
    return senders, receivers, directions / directions.norm(dim=1, keepdim=True)


def derivatives(function, *inputs):
    """Return value, gradients, and gradients of the gradients' squares."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    first = torch.autograd.grad(out.square().mean(), leaves, create_graph=True)
    total = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(total, leaves)
    return [t.detach().double().cpu() for t in (out, *first, *second)]


def compare(function, bound, *inputs):
    expected = derivatives(function, *(x.double() for x in inputs))
    with operators():
        found = derivatives(function, *(x.to(DEVICE) for x in inputs))
    for got, right in zip(found, expected, strict=True):
        assert float((got - right).norm()) <= bound * float(right.norm()) + 1e-30


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("order", range(4))
def test_state_of_edges(order, dtype):
    _, receivers, directions = graph()
    coefficients = torch.randn(len(receivers), order + 1, 16, dtype=torch.float64)

    def state(c, u):
        return anisotropic_state(c, u, receivers.to(u.device), 2000, order)

    compare(state, BOUNDS[dtype], coefficients.to(dtype), directions.to(dtype))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("order", range(4))
def test_invariants_of_pairs(order, dtype):
    senders, receivers, directions = graph()
    state = torch.randn(2000, mp.n_components(order), 16, dtype=torch.float64)

    def invariants(s, u):
        ends = senders.to(u.device), receivers.to(u.device)
        return pair_invariants(s, u, *ends, order)

    compare(invariants, BOUNDS[dtype], state.to(dtype), directions.to(dtype))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_field_with_derivatives(dtype):
    torch.manual_seed(0)
    targets = torch.rand(300, 3, dtype=torch.float64)
    sources = torch.rand(2000, 3, dtype=torch.float64)
    moments = torch.randn(2000, 4, dtype=torch.float64)

    def field(x, s, m):
        return multipole_field(x, s, m, 1, kernel=mp.Erf(5.0))

    compare(field, 10 * BOUNDS[dtype], *(t.to(dtype) for t in (targets, sources, moments)))


def systems(count, atoms=60, particles=3000):
    rng = np.random.default_rng(0)
    grid = 1.45 * (np.indices((4, 4, 4)).reshape(3, -1).T - 1.5)
    for _ in range(count):
        positions = grid[:atoms] + rng.uniform(-0.15, 0.15, (atoms, 3))
        directions = rng.standard_normal((particles, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        around = directions * rng.uniform(7, 20, (particles, 1))
        charges = np.resize([-0.834, 0.417, 0.417], particles)
        # some fall into several parts: all have no charge
        numbers, none = rng.choice([1, 6, 7, 8], atoms), np.zeros(atoms)
        yield System(numbers, positions, 0, around, charges, charges=none)


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_energies_and_forces_of_the_model(count, dtype):
    torch.manual_seed(0)
    model = AMP(long_range=LongRange(), method="direct").double()
    batch = collate([prepare(s, model.cutoff, torch.float64) for s in systems(count)])
    expected = model(batch, forces=True, mm_forces=True)
    there = model.to(DEVICE, dtype)
    with operators():
        got = there(batch.to(DEVICE, dtype), forces=True, mm_forces=True)
    bound = 10 * BOUNDS[dtype]
    for name in ("forces", "mm_forces", "charges"):
        assert got[name].device.type == DEVICE
        difference = got[name].detach().double().cpu() - expected[name].detach()
        assert float(difference.norm()) < bound * float(expected[name].detach().norm())
    assert torch.allclose(got["energy"].cpu(), expected["energy"], rtol=bound)


def test_a_training_step_has_the_gradients_of_the_cpu():
    torch.manual_seed(0)
    model = AMP(method="direct").double()
    batch = collate([prepare(s, model.cutoff, torch.float64) for s in systems(4, 20, 300)])
    found = []
    for device, where in (("cpu", nullcontext()), (DEVICE, operators())):
        model = model.to(device)
        model.zero_grad()
        with where:
            out = model(batch.to(device), forces=True, mm_forces=True, create_graph=True)
            loss = out["forces"].square().mean() + out["mm_forces"].square().mean()
            (loss + out["energy"].square().mean()).backward()
        found.append({n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None})
    expected, got = found
    assert expected.keys() == got.keys() and expected
    # some are zero but for rounding: of what is antisymmetric in the ends of an edge
    least = 1e-13 * max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((got[name] - gradient).norm()) <= 1e-9 * float(gradient.norm()) + least, name
