"""Steps of fixed shapes: the same numbers as in the ordinary way, and what decides between them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from published_cases import methanol, small_model, water

import gnn.graphs
from gnn import AMP, System
from gnn.data import collate, prepare
from gnn.graphs import Graphs
from gnn.options import LongRange, Network
from gnn.outputs import Between
from gnn.published.amp_qmmm import AmpQmmm
from gnn.published.ana2b import Ana2b
from gnn.steps import Step, padded
from gnn.training.committee import Committee

CPU = torch.device("cpu")
ASKED = {"forces": True, "mm_forces": True, "mm_potential": True, "field_response": False}
TINY = {"features": 8, "edge_features": 4, "channels": 3}


def amp(seed=0, dtype=torch.float64, order=1, **options):
    torch.manual_seed(seed)
    network = Network(hidden=8, mixed=4, edge_features=6, n_radial=4)
    model = AMP(order, 2, features=8, method="direct", network=network, **options).to(dtype)
    # whose loops take long to compile
    model._compiled = model._learning = lambda *given: None
    return model


MODELS = {
    "amp": amp,
    "long": lambda: amp(order=2, long_range=LongRange(), charges="shared"),
    "bms": lambda: small_model(mode="training"),
    "bms simulation": lambda: small_model(mode="simulation"),
    "bms published": lambda: small_model(mode="simulation-published"),
    "minimal": lambda: AmpQmmm("minimal", **TINY).double(),
    "precision": lambda: AmpQmmm("precision", **TINY).double(),
    "ana2b": lambda: Ana2b(**TINY).double(),
}


def batch_of(model, *systems):
    return collate([prepare(one, model.cutoff, model.dtype, local_charges=None) for one in systems])


def worst(found, wanted):
    """Return the largest difference relative to the largest number, of all results."""
    return max(
        float((found[k] - right).detach().abs().max() / right.detach().abs().max().clamp(min=1e-6))
        for k, right in wanted.items()
        if right.numel()
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_fixed_shapes_is_the_ordinary_one(name):
    torch.manual_seed(1)
    model = MODELS[name]()
    first = batch_of(model, water(12), methanol(9))
    step = Step(model, first, ASKED, CPU)
    # the same buffers for other positions, and fewer particles
    for batch in (first, batch_of(model, water(11, seed=3), methanol(8, seed=5))):
        wanted = model(batch, **ASKED, create_graph=True)
        found = step(batch)
        assert worst(found, wanted) < 1e-10
        assert found["mm_forces"].shape == batch.mm_positions.shape


@pytest.mark.parametrize("name", MODELS)
def test_without_particles_and_of_one_atom(name):
    model = MODELS[name]()
    for system in (System([8, 1, 1], water().positions), System([8], [[0.0, 0, 0]])):
        batch = batch_of(model, system)
        wanted = model(batch, **ASKED, create_graph=True)
        assert worst(Step(model, batch, ASKED, CPU)(batch), wanted) < 1e-10


def test_in_a_field():
    model = amp()
    positions = water().positions
    system = System([8, 1, 1], positions, 0, uniform_field=[0.1, 0.0, -0.2])
    asked = ASKED | {"field_response": True}
    batch = batch_of(model, system)
    assert worst(Step(model, batch, asked, CPU)(batch), model(batch, **asked)) < 1e-10


@pytest.mark.slow
def test_in_single_precision():
    model = amp(dtype=torch.float32)
    batch = batch_of(model, water(12))
    step = Step(model, batch, ASKED, CPU)
    assert worst(step(batch), model(batch, **ASKED)) < 1e-4


def test_lists_that_are_too_short_grow_and_say_so():
    model = small_model(mode="simulation")
    batch = batch_of(model, water(40))
    step = Step(model, batch, ASKED, CPU)
    wanted = step(batch)
    step.room.sizes = dict.fromkeys(step.room.sizes, 2)
    assert worst(step(batch), wanted) < 1e-12
    assert len(step.said) == 3, "edges, near charges and pairs of atoms"
    assert "edges: expected at most 2 pairs, found 6" in step.said
    assert min(step.room.sizes.values()) > 2


def test_beyond_the_walls_the_ordinary_way_is_taken():
    model = amp()
    extent = gnn.data.extent.extent_of([gnn.data.Frame(water(12))], model.damping)
    model.set_extent(extent)
    inside, beyond = batch_of(model, water(12)), batch_of(model, near_charge())
    step = Step(model, inside, ASKED, CPU)
    assert worst(step(inside), model(inside, **ASKED)) < 1e-10
    assert step(beyond) is None
    graphs = Graphs()
    found = [graphs(model, beyond, ASKED, CPU) for _ in range(4)]
    assert found == [None] * 4 and graphs.beyond == 2, "from the third time on it is tried"


def near_charge():
    """A charge that is nearer than any of the others, which are as many as in `water(12)`."""
    system = water(12)
    points = system.mm_positions.copy()
    points[0] = system.positions[1] + [0.3, 0.5, -0.4]
    return System(system.numbers, system.positions, 0, points, system.mm_charges)


def test_a_shape_is_recorded_when_it_comes_again(monkeypatch):
    model, graphs = amp(), Graphs()
    batch = batch_of(model, water(12))
    found = [graphs(model, batch, ASKED, CPU) for _ in range(3)]
    assert found[:2] == [None, None] and found[2] is not None
    other = batch_of(model, methanol(12))
    assert graphs(model, other, ASKED, CPU) is None
    assert len(graphs.steps) == 1
    # weights that moved: the recording reads where they were
    before = graphs.steps[0]
    model.float().double()
    assert graphs(model, batch, ASKED, CPU) is not None
    assert graphs.steps[0] is not before


def test_a_recording_knows_of_listeners_other_layers_and_options():
    model, graphs = amp(), Graphs()
    batch = batch_of(model, water(12))
    for _ in range(3):
        graphs(model, batch, ASKED, CPU)
    (before,) = graphs.steps
    layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    hook = layer.register_forward_hook(lambda *given: None)
    assert graphs(model, batch, ASKED, CPU) is None  # a replay would not call it
    hook.remove()
    assert graphs(model, batch, ASKED, CPU) is not None and graphs.steps[0] is before
    model.train(not model.training)
    assert graphs(model, batch, ASKED, CPU) is not None and graphs.steps[0] is not before
    before = graphs.steps[0]
    name, child = next(iter(model.named_children()))
    setattr(model, name, copy.deepcopy(child))
    assert graphs(model, batch, ASKED, CPU) is not None and graphs.steps[0] is not before


def images(x, m):
    """An energy of multipoles, with its derivatives by positions and multipoles."""
    charges = m[:, 0]
    squares = (x * x).sum(1)
    energy = 0.01 * (m * m).sum() + 0.02 * (squares * charges * charges).sum()
    by_moments = 0.02 * m
    by_moments[:, 0] += 0.04 * squares * charges
    return float(energy), 0.04 * x * (charges * charges)[:, None], by_moments


@pytest.mark.parametrize("name", ["amp", "bms", "minimal"])
def test_an_energy_that_the_host_adds(name):
    model = MODELS[name]()
    batch = batch_of(model, water(12), methanol(9))
    batch = replace(batch, between=(Between(images), Between(images)))
    assert gnn.graphs.suits(model, batch, ASKED)
    wanted = model(batch, **ASKED, create_graph=name != "amp")
    assert bool((wanted["energy_between"] != 0).all())
    step = Step(model, batch, ASKED, CPU)
    for _ in range(2):
        assert worst(step(batch), wanted) < 1e-10


class Captured:
    """Stands for a graph of CUDA: notes when it is recorded and replayed."""

    log: list = []  # noqa: RUF012

    def capture_begin(self, **options):
        assert options["capture_error_mode"] == "thread_local"
        self.log.append("begin")

    def capture_end(self):
        self.log.append("end")

    def replay(self):
        self.log.append("replay")


@pytest.mark.parametrize("between", [(), (Between(images),)])
def test_a_recording_is_parted_where_the_host_adds(between, monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Captured)
    monkeypatch.setattr(Captured, "log", [])
    model = MODELS["minimal"]()
    batch = replace(batch_of(model, water(12)), between=between)
    step = Step(model, batch, ASKED, CPU)
    step(batch)
    step._capture()
    assert Captured.log == ["begin", "end"] * (1 + len(between))
    assert not step._recording

    def failing(*given):
        raise ValueError("in the middle")

    monkeypatch.setattr(type(model), "evaluated", failing)
    with pytest.raises(ValueError, match="in the middle"):
        step._capture()
    assert Captured.log[-1] == "end" and not step._recording


def test_what_does_not_suit_is_not_tried():
    model = amp()
    batch = batch_of(model, water(12))
    suits = gnn.graphs.suits
    assert suits(model, batch, ASKED)
    assert not suits(model, replace(batch, between=(lambda x, m: m.sum(),)), ASKED)
    assert not suits(model, batch, ASKED | {"stress": True})
    assert not suits(amp(backend="torch"), batch, ASKED)
    model.method = "fmm"
    assert not suits(model, batch, ASKED)
    assert not suits(small_model(mode="simulation", box=[30.0] * 3), batch, ASKED)


def test_a_failed_recording_warns_once_and_the_ordinary_way_is_there(monkeypatch):
    model, graphs = amp(), Graphs()
    batch = batch_of(model, water(12))

    def failing(self):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Step, "_compute", failing)
    for _ in range(2):
        graphs(model, batch, ASKED, CPU)
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing"):
        assert graphs(model, batch, ASKED, CPU) is None
    assert graphs(model, batch, ASKED, CPU) is None


def test_room_for_particles():
    sizes = [padded(n) for n in (0, 1, 33, 3000, 12960)]
    assert sizes == [0, 32, 64, 3072, 13312]
    assert all(padded(n) >= n and padded(n) <= n * 9 / 8 + 32 for n in range(1, 5000))


def test_evaluation_takes_recorded_steps(monkeypatch):
    """The way of `evaluate` on a device, in whose place there is the CPU."""
    monkeypatch.setattr(gnn.potential, "_records_on", lambda device: True)
    one, committee = amp(), Committee([amp(1), amp(2)])
    for model in (one, committee):
        found = [model.evaluate([water(12)])[0] for _ in range(4)]
        assert all(len(part._graphs.steps) == 1 for part in model.models())
        for name in ("energy", "forces", "mm_forces", "dipole"):
            np.testing.assert_allclose(found[3][name], found[0][name], rtol=1e-9, atol=1e-9)
    one.graphs = False
    monkeypatch.setattr(Step, "__call__", lambda *given: pytest.fail("switched off"))
    one.evaluate([water(12)])
    assert copy.deepcopy(one)._graphs.steps == []
