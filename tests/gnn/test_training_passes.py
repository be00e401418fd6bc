"""The training step in compiled passes against the graph of autograd, which is its twin."""

import copy
import threading

import numpy as np
import pytest
import torch

from gnn import AMP, Frame, System
from gnn.data import Batch, collate
from gnn.options import LongRange, Network, Surroundings, Walls
from gnn.training.config import Config, LossConfig
from gnn.training.loop import Trainer
from gnn.training.loss import weighted_loss

OPTIONS = {
    "plain": {},
    "order 0, no smearing": {"order": 0, "surroundings": Surroundings(smearing=())},
    "order 1, one step": {"order": 1, "steps": 1, "channels": 5},
    "order 3, three steps": {"order": 3, "steps": 3, "channels": 8},
    "shared charges": {"charges": "shared"},
    "two smearings": {"surroundings": Surroundings(smearing=(1.2, 0.8))},
    "not in messages": {"surroundings": Surroundings(in_messages=False)},
    "not in the energy": {"surroundings": Surroundings(in_energy=False)},
    "no electrostatics": {"electrostatics": None},
    "no walls": {"walls": None},
    "odd widths": {"features": 9, "network": Network(11, 7, 5, 3), "channels": 3},
}
FAST = "plain", "shared charges"
LABELS = "energy", "forces", "mm_forces", "dipole"


def frame(rng: np.random.Generator, numbers, particles: int, multipoles: int, **given) -> Frame:
    """Return atoms at bond-like distances in a shell of particles, with labels of any kind."""
    grid = 1.3 * np.indices((3, 3, 3)).reshape(3, -1).T
    positions = grid[: len(numbers)] + rng.uniform(-0.1, 0.1, (len(numbers), 3))
    around = rng.standard_normal((particles, 3))
    around *= rng.uniform(6, 9, particles)[:, None] / np.linalg.norm(around, axis=1)[:, None]
    if particles and multipoles > 0:
        given["mm_dipoles"] = rng.standard_normal((particles, 3))
    if particles and multipoles > 1:
        tensors = rng.standard_normal((particles, 3, 3))
        given["mm_quadrupoles"] = tensors + tensors.transpose(0, 2, 1)
    charges = rng.standard_normal(particles) if particles else None
    system = System(
        numbers, positions, mm_positions=around if particles else None, mm_charges=charges, **given
    )
    labels = (rng.standard_normal(shape) for shape in (positions.shape, around.shape, 3))
    return Frame(system, float(rng.standard_normal()), *labels)


def batch_of(multipoles: int = 0) -> Batch:
    """Return an ion of many atoms, one without particles, a lone atom, and one in other fields."""
    rng = np.random.default_rng(multipoles)
    frames = [
        frame(rng, [6, 1, 8, 1, 7, 1, 1, 6], 30, multipoles, charge=-1),
        frame(rng, [8, 1, 1], 0, multipoles),
        frame(rng, [11], 12, multipoles, charge=1),
        frame(
            rng, [6, 8, 1, 1], 10, multipoles,
            uniform_field=rng.standard_normal(3), external_field=rng.standard_normal((4, 10)),
        ),
    ]  # fmt: skip
    return collate(frames, 5.0, torch.float64, local_charges=None)


def model_of(**options) -> AMP:
    torch.manual_seed(1)
    model = AMP(**options).double()
    with torch.no_grad():  # biases begin at zero
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def step(model: AMP, batch: Batch, more: bool = False) -> tuple[dict, dict]:
    """Return outputs and gradients by all parameters of a loss."""
    model.zero_grad()
    out = model(batch, forces=True, mm_forces=True, create_graph=True)
    loss = weighted_loss(out, batch, LossConfig())
    if more:
        loss = loss + sum(out[k].pow(3).sum() for k in ("charges", "dipoles", "quadrupoles"))
    loss.backward()
    return out, {name: parameter.grad for name, parameter in model.named_parameters()}


def by_graph(monkeypatch, model: AMP, batch: Batch, more: bool = False) -> tuple[dict, dict]:
    with monkeypatch.context() as patch:
        patch.setattr(AMP, "_learning", lambda *_: None)
        return step(model, batch, more)


def is_compiled(out: dict) -> bool:
    return "Learned" in str(out["charges"].grad_fn)


def largest(values: torch.Tensor) -> float:
    return values.detach().abs().max().item() if values.numel() else 0.0


def compare(found: dict, wanted: dict, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    most = max(largest(want) for want in wanted.values() if want is not None)
    for name, want in wanted.items():
        got = torch.zeros(()) if found[name] is None else found[name]
        want = torch.zeros(()) if want is None else want
        size = max(largest(want), 1e-3 * most)
        assert largest(got - want) <= tolerance * size, name


def check(monkeypatch, batch: Batch, **options) -> None:
    model = model_of(**options)
    out, found = step(model, batch, more=True)
    twin, wanted = by_graph(monkeypatch, model, batch, more=True)
    assert is_compiled(out) and not is_compiled(twin)
    compare(out, twin, 1e-10)
    compare(found, wanted, 1e-9)


@pytest.mark.parametrize("name", FAST)
def test_gradients_are_those_of_the_graph(monkeypatch, name):
    check(monkeypatch, batch_of(2 * (name == "shared charges")), **OPTIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("multipoles", [0, 1, 2])
def test_gradients_with_all_options(monkeypatch, name, multipoles):
    check(monkeypatch, batch_of(multipoles), **OPTIONS[name])


def test_only_what_learns_has_gradients(monkeypatch):
    model, batch = model_of(), batch_of()
    model.embedding.weight.requires_grad_(False)
    model.multipoles.requires_grad_(False)
    _, found = step(model, batch)
    _, wanted = by_graph(monkeypatch, model, batch)
    assert found["embedding.weight"] is None and found["multipoles.weights.0.weight"] is None
    compare(found, wanted, 1e-9)


@pytest.mark.slow  # compiles everything once more
def test_single_precision(monkeypatch):
    model, batch = model_of().float(), batch_of().to(dtype=torch.float32)
    out, found = step(model, batch)
    _, wanted = by_graph(monkeypatch, model, batch)
    assert is_compiled(out)
    compare(found, wanted, 2e-3)


def test_what_is_beyond_the_walls_takes_the_graph():
    model, batch = model_of(walls=Walls()), batch_of()
    assert model.border is not None
    model.border.outputs.fill_(1e-3)
    assert not is_compiled(step(model, batch)[0])


def test_who_listens_to_layers_hears_them():
    model, batch, heard = model_of(), batch_of(), []
    assert is_compiled(step(model, batch)[0])
    model.steps[0].update.register_forward_hook(lambda *_: heard.append(1))
    assert not is_compiled(step(model, batch)[0]) and heard


def test_weights_that_change_before_the_way_back_are_noticed():
    model, batch = model_of(), batch_of()
    out = model(batch, forces=True, create_graph=True)
    with torch.no_grad():
        model.steps[0].mix.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out["forces"].sum().backward()


def test_two_losses_of_one_evaluation_and_copies():
    model, batch = model_of(), batch_of()
    out = model(batch, forces=True, mm_forces=True, create_graph=True)
    parameter = model.steps[0].mix.weight
    (one,) = torch.autograd.grad(out["forces"].pow(2).sum(), parameter, retain_graph=True)
    (two,) = torch.autograd.grad(out["energy"].pow(2).sum(), parameter, retain_graph=True)
    total = out["forces"].pow(2).sum() + out["energy"].pow(2).sum()
    (both,) = torch.autograd.grad(total, parameter)
    torch.testing.assert_close(one + two, both)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.steps[0].mix.weight.mul_(2.0)
    _, changed = step(other, batch)
    _, again = step(model, batch)
    assert not torch.equal(changed["steps.0.mix.weight"], again["steps.0.mix.weight"])


def test_gradients_of_several_losses_at_once():
    model, batch = model_of(), batch_of()
    out = model(batch, forces=True, create_graph=True)
    parameter, energy = model.steps[0].mix.weight, out["energy"]
    each = torch.eye(len(energy), dtype=energy.dtype)
    given = {"is_grads_batched": True, "retain_graph": True}
    (found,) = torch.autograd.grad(energy, parameter, each, **given)
    for one, row in zip(found, energy, strict=True):
        (expected,) = torch.autograd.grad(row, parameter, retain_graph=True)
        torch.testing.assert_close(one, expected)


def test_edges_are_not_needed(monkeypatch):
    """A batch of lone atoms, without particles."""
    rng = np.random.default_rng(0)
    frames = [frame(rng, [11], 0, 0, charge=1), frame(rng, [17], 0, 0, charge=-1)]
    check(monkeypatch, collate(frames, 5.0, torch.float64, local_charges=None))


def test_a_run_goes_both_ways(monkeypatch):
    rng = np.random.default_rng(3)
    frames = [frame(rng, [6, 1, 8, 1], 8, 0, charges=np.zeros(4)) for _ in range(8)]
    config = Config(training={"epochs": 3, "batch_size": 4, "dtype": "float64"})
    torch.manual_seed(0)
    start = model_of(order=1)
    start.set_baseline(frames)
    trained = []
    for way in (AMP._learning, lambda *_: None):
        monkeypatch.setattr(AMP, "_learning", way)
        model = copy.deepcopy(start)
        trainer = Trainer(model, config, frames)
        trainer.run()
        trained.append((model, trainer.average, [row["train_loss"] for row in trainer.history]))
    np.testing.assert_allclose(trained[0][2], trained[1][2], rtol=1e-9)
    for one, other in zip(trained[0][:2], trained[1][:2], strict=True):
        assert any(
            not torch.equal(a, b) for a, b in zip(one.parameters(), start.parameters(), strict=True)
        )
        torch.testing.assert_close(
            dict(one.named_parameters()), dict(other.named_parameters()), rtol=1e-6, atol=1e-8
        )


def test_long_range_coupling_takes_the_graph():
    assert not is_compiled(step(model_of(long_range=LongRange()), batch_of(0))[0])


def test_threads_do_not_mix_their_gradients():
    """Passes that are made while another thread's gradients are being added."""
    model, batch = model_of(), batch_of()
    learner, parameter = model._learner, model.steps[0].mix.weight
    out = model(batch, forces=True, create_graph=True)
    (expected,) = torch.autograd.grad(out["forces"].sum(), parameter, retain_graph=True)
    weights = learner.of(model)[0]
    reached = threading.Event()
    other = threading.Thread(target=lambda: (learner.of(model), reached.set()))
    with weights.lock:
        other.start()
        assert not reached.wait(0.1)  # it is not to forget what is being added
    other.join()
    assert reached.is_set()
    (again,) = torch.autograd.grad(out["forces"].sum(), parameter)
    assert torch.equal(again, expected)
