"""Compiled passes of AMP against autograd's graph, which knows nothing of them."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import multipoles as mp
from gnn import AMP, System, load_model
from gnn.data import collate, load_shipped
from gnn.options import LongRange, Network, Surroundings

ASKED = {"forces": True, "mm_forces": True, "mm_potential": True, "field_response": True}
SMALL = {"channels": 8, "features": 9, "network": Network(hidden=7, edge_features=6, mixed=4)}


def made(seed=0, atoms=7, particles=23, mm=1, charge=0):
    """Return a cluster of atoms among charges, dipoles or quadrupoles."""
    random = np.random.default_rng(seed)
    grid = 1.4 * np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)[:atoms]
    positions = grid + random.uniform(-0.2, 0.2, grid.shape)
    outer = random.standard_normal((particles, 3))
    outer *= random.uniform(4.5, 9, (particles, 1)) / np.linalg.norm(outer, axis=1, keepdims=True)
    tensors = random.uniform(-1, 1, (particles, 3, 3))
    more = {
        "mm_dipoles": random.uniform(-1, 1, (particles, 3)),
        "mm_quadrupoles": tensors + tensors.transpose(0, 2, 1),
    }
    more = dict(list(more.items())[: {1: 0, 4: 1, 10: 2}[mm]])
    charges = random.uniform(-1, 1, particles)
    return System(
        random.choice([1, 6, 7, 8], atoms), positions, charge, outer + 1.4, charges, **more
    )


def model_of(**options):
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = AMP(**(SMALL | options))
    finally:
        torch.set_default_dtype(before)
    for weight in model.parameters():  # biases that begin with zero, too
        weight.data += 0.1 * torch.randn_like(weight)
    return model.requires_grad_(False)


def by_graph(model, batch, **asked):
    """Return what the twin gives."""
    twin = copy.deepcopy(model)
    twin._compiled = lambda *_: None
    with torch.no_grad():
        return twin(batch, **asked)


def assert_same(model, batch, tolerance=1e-10, **asked):
    asked = ASKED | asked
    assert model._compiled(batch, {"positions": True}) is not None, "the pass was not taken"
    expected = by_graph(model, batch, **asked)
    with torch.no_grad():
        found = model(batch, **asked)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        size = values.abs().max().item() if values.numel() else 0.0
        torch.testing.assert_close(
            found[name], values, rtol=0, atol=tolerance * max(size, 1e-3), msg=name
        )


def batch_of(model, *systems, parts=None):
    return collate(systems, model.cutoff, model.dtype, local_charges=parts)


OPTIONS = {
    "order 0": {"order": 0},
    "order 1": {"order": 1, "steps": 1},
    "order 3": {"order": 3, "steps": 3},
    "shared charges": {"charges": "shared"},
    "one field": {"surroundings": Surroundings(smearing=())},
    "three fields": {"surroundings": Surroundings(smearing=(1.2, 0.8))},
    "no field in messages": {"surroundings": Surroundings(in_messages=False)},
    "no field in energy": {"surroundings": Surroundings(in_energy=False)},
    "mechanical": {"surroundings": Surroundings(in_messages=False, in_energy=False)},
    "no electrostatics": {"electrostatics": None},
    "no walls": {"walls": None},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_all_options_are_those_of_the_graph(name):
    model = model_of(**OPTIONS[name])
    assert_same(model, batch_of(model, made(), made(1, atoms=3, charge=1), made(2, particles=2)))


@pytest.mark.parametrize("mm", [1, 4, 10])
@pytest.mark.parametrize("field", [0, 1, 4, 10, 20])
def test_particles_and_given_fields(mm, field):
    model = model_of()
    batch = batch_of(model, made(3, mm=mm), made(4, mm=mm, atoms=4))
    random = torch.Generator().manual_seed(5)
    given = torch.randn(batch.n_atoms, field, generator=random, dtype=torch.float64)
    uniform = torch.randn(2, 3, generator=random, dtype=torch.float64)
    assert_same(model, replace(batch, external_field=given, uniform_field=0.1 * uniform))


@pytest.mark.parametrize("particles", [0, 9])
@pytest.mark.parametrize("atoms", [1, 2])
def test_few_atoms_and_no_particles(atoms, particles):
    model = model_of()
    assert_same(model, batch_of(model, made(6, atoms=atoms, particles=particles)))


def test_parts_of_different_charge_whose_charges_spread():
    model = model_of()
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.0]])
    hydroxide = np.array([[0.0, 0, 2.7], [0.3, 0.2, 3.6]])
    system = System([8, 1, 1, 8, 1], np.concatenate([water, hydroxide]), -1)
    batch = batch_of(model, system, parts=True)
    assert len(batch.formal.unique()) > 1
    assert_same(model, batch)


def test_an_energy_between_is_part_of_it():
    model = model_of()
    batch = batch_of(model, made(7), made(8, atoms=4))

    def of(positions, moments):
        return (moments.square().sum(1) * positions.square().sum(1)).sum()

    assert_same(model, replace(batch, between=(of, of)))


def test_large_systems_in_threads_and_by_the_fast_multipole_method():
    threads = mp.get_num_threads()
    model = model_of(features=16, channels=8)
    try:
        mp.set_num_threads(2)
        assert_same(model, batch_of(model, made(9, atoms=27, particles=900)))
    finally:
        mp.set_num_threads(threads)
    model = model_of(method="fmm", tolerance=1e-12)
    assert_same(model, batch_of(model, made(10, atoms=27, particles=200)), tolerance=1e-9)


def test_float32_is_close():
    model = model_of(channels=16)
    batch = batch_of(model, made(11))
    exact = by_graph(model, batch, forces=True, mm_forces=True)
    with torch.no_grad():
        found = model.float()(batch.to(torch.float32), forces=True, mm_forces=True)
    for name in ("forces", "mm_forces", "dipole"):
        size = exact[name].abs().max()
        assert (found[name].double() - exact[name]).abs().max() < 1e-4 * size


def test_weights_that_change_count():
    model = model_of()
    batch = batch_of(model, made(12))
    with torch.no_grad():
        before = model(batch)["energy"]
        model.atom_energy[0].weight.data[0, 0] += 1.0
        assert abs(model(batch)["energy"] - before) > 1e-6
    assert_same(model, batch)
    twin = pickle.loads(pickle.dumps(model))
    assert_same(twin, batch)


def test_the_shipped_model_on_its_data():
    model = load_model().double()
    frames = load_shipped()[::97]
    # some of the frames, which that model was not trained on, are beyond its walls
    inside = [
        frame
        for frame in frames
        if model._compiled(batch_of(model, frame, parts=True), {"positions": True}) is not None
    ]
    assert len(inside) > 0.8 * len(frames)
    assert_same(model, batch_of(model, *inside, parts=True), field_response=False)


def test_what_is_for_the_graph():
    system = made(13)
    close = replace(system, mm_positions=system.positions[:1] + 0.5, mm_charges=np.ones(1))
    shipped = load_model().double()
    near = batch_of(shipped, close)
    assert shipped._compiled(near, {}) is None  # beyond its walls
    assert torch.isfinite(shipped(near, forces=True)["forces"]).all()

    class Doubled(AMP):
        def _energy(self, batch):
            energy, results = super()._energy(batch)
            return 2 * energy, results

    for model in (
        model_of(backend="torch"),
        model_of(network=Network(split=False)),
        model_of(long_range=LongRange()),
        Doubled(),
    ):
        assert model._compiled(batch_of(model, system), {}) is None
    model = model_of()
    model.atom_energy[1] = torch.nn.Tanh()  # a layer that no pass knows
    assert model._compiled(batch_of(model, system), {}) is None
    batch = batch_of(model, system)
    assert model(batch)["energy"].grad_fn is None  # nothing asks for a graph
    model = model_of()
    before = model(batch)["energy"]
    assert model._compiled(batch, {}) is not None
    hook = model.atom_energy.register_forward_hook(lambda *given: given[-1] + 1)
    assert model._compiled(batch, {}) is None
    assert abs(model(batch)["energy"] - before - batch.n_atoms) < 1e-9
    hook.remove()
    assert model._compiled(batch, {}) is not None


def deeper(model):
    first, active, last = model.atom_energy
    between = torch.nn.Linear(last.in_features, last.in_features, dtype=torch.float64)
    model.atom_energy = torch.nn.Sequential(first, active, between, active, last)


def without_activation(model):
    model.atom_energy = torch.nn.Sequential(model.atom_energy[0], model.atom_energy[2])


def activated_twice(model):
    model.atom_energy.insert(1, torch.nn.SiLU())


def halved(model):
    class Half(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    torch.nn.utils.parametrize.register_parametrization(model.embedding, "weight", Half())


def of_another_class(model):
    class Doubled(type(model.radial)):
        def forward(self, distances):
            basis, fade = super().forward(distances)
            return 2 * basis, fade

    model.radial.__class__ = Doubled


def with_own_forward(model):
    layer = model.atom_energy[2]
    layer.forward = lambda nodes: 2 * type(layer).forward(layer, nodes)


@pytest.mark.parametrize(
    "change",
    [deeper, without_activation, activated_twice, halved, of_another_class, with_own_forward],
)
def test_layers_that_are_not_as_they_were_made(change, monkeypatch):
    model = model_of()
    batch = batch_of(model, made(15))
    if change is not of_another_class:  # which nobody sees who has looked before
        model(batch, forces=True)
    change(model)
    found = model(batch, forces=True)
    learned = model.requires_grad_(True)(batch, forces=True, create_graph=True)
    monkeypatch.setattr(AMP, "_compiled", lambda *_: None)
    expected = model(batch, forces=True)
    for name in "energy", "forces":
        for one in found, learned:
            torch.testing.assert_close(one[name].detach(), expected[name].detach(), rtol=1e-10,
                                       atol=1e-10)  # fmt: skip


def test_hooks_of_all_modules_are_called():
    model, heard = model_of(), []
    batch = batch_of(model, made(16))
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: heard.append(1))
    model(batch, forces=True)
    hook.remove()
    assert len(heard) > 10


def test_what_others_differentiate_by_takes_the_graph():
    model = model_of()
    batch = batch_of(model, made(17))
    formal = batch.formal.clone().requires_grad_()
    assert model._compiled(replace(batch, formal=formal), {}) is None
    sources = batch.mm_moments.clone().requires_grad_()
    given = replace(batch, mm_moments=sources)
    forces = model.requires_grad_(True)(given, forces=True, create_graph=True)["forces"]
    (gradient,) = torch.autograd.grad(forces.square().sum(), sources)
    assert gradient.abs().max() > 0


def test_gradients_by_weights_have_their_graph():
    model = model_of().requires_grad_(True)
    batch = batch_of(model, made(14))
    model(batch)["energy"].sum().backward()
    assert model.embedding.weight.grad.abs().max() > 0
    model.zero_grad()
    out = model(batch, forces=True, create_graph=True)
    out["forces"].square().sum().backward()
    assert model.embedding.weight.grad.abs().max() > 0
