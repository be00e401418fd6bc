"""Fields and the model on the GPU, or in the simulator, against the CPU."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba.cuda")

from published_cases import methanol, small_model, water

import multipoles as mp
from gnn import AMP, System
from gnn.data import Frame, collate, prepare
from gnn.data.extent import extent_of
from gnn.operators import _field_cuda, fixed_pairs, multipole_field
from gnn.operators.field_neighbours import neighbours_within
from gnn.operators.gpu import emulated
from gnn.operators.near_pairs import near_pairs
from gnn.options import Network
from gnn.published.amp_qmmm import AmpQmmm
from gnn.published.ana2b import Ana2b
from gnn.training.committee import Committee
from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda.device import NumbaSpace

pytestmark = pytest.mark.cuda
SMALL = {"features": 8, "edge_features": 4, "channels": 3}
ASKED = {"forces": True, "mm_forces": True, "mm_potential": True}


def on_device(tensor):
    return tensor if SIMULATED else tensor.to("cuda")


def field_and_derivatives(place, method="direct", backend="compiled", **index):
    torch.manual_seed(0)
    shapes = (4, 3), (5, 3), (5, 2, 4)
    x, s, m = (place(torch.randn(n, dtype=torch.float64)).requires_grad_() for n in shapes)
    index = {name: place(torch.tensor(value)) for name, value in index.items()}
    options = {"kernel": mp.Coulomb(), "method": method, "backend": backend}
    out = multipole_field(x, s, m, 1, **options, **index)
    first = torch.autograd.grad(out.sin().sum(), [x, s, m], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, s, m])
    return [t.detach().cpu() for t in (out, *first, *second)]


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"target_batch": [0, 0, 1, 1], "source_batch": [0, 1, 1, 1, 1]},
        {"pairs": [[0, 1], [0, 4], [3, 2]]},
    ],
)
def test_field(index):
    wanted = field_and_derivatives(lambda t: t, **index)
    with emulated():
        found = field_and_derivatives(on_device, **index)
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"target_batch": [0, 0, 1, 1], "source_batch": [0, 1, 1, 1, 1]},
        {"target_batch": [0, 2, 2, 5], "source_batch": [1, 2, 3, 5, 5]},
        {"pairs": [[0, 1], [0, 4], [3, 2]]},
    ],
)
def test_field_in_plain_torch(index):
    wanted = field_and_derivatives(lambda t: t, backend="torch", **index)
    with emulated():
        found = field_and_derivatives(on_device, backend="torch", **index)
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "index", [{}, {"target_batch": [0, 0, 1, 1], "source_batch": [0, 1, 1, 1, 1]}]
)
def test_field_by_the_fast_multipole_method(index):
    # few points: one box for each system, so that nothing is approximate
    wanted = field_and_derivatives(lambda t: t, **index)
    with emulated():
        found = field_and_derivatives(on_device, "fmm", **index)
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


def test_the_fast_multipole_method_takes_no_list():
    x, pairs = on_device(torch.eye(3)), on_device(torch.tensor([[0, 1]]))
    with emulated(), pytest.raises(ValueError, match="expected no list of pairs"):
        multipole_field(
            x, x, on_device(torch.ones(3, 1)), 0, kernel=mp.Coulomb(), method="fmm", pairs=pairs
        )


@pytest.mark.parametrize("reach", [1.5, 0.0])
def test_pairs_within_a_distance(reach):
    torch.manual_seed(1)
    given = torch.randn(5, 3), torch.randn(7, 3)
    batches = torch.tensor([0, 0, 1, 1, 3]), torch.tensor([0, 0, 0, 1, 2, 3, 3])
    wanted = near_pairs(*(t.numpy() for t in (*given, *batches)), reach)
    assert (len(wanted.pairs) > 2) == (reach > 0)
    with emulated():
        found = neighbours_within(*(on_device(t) for t in (*given, *batches)), reach)
    starts, sources, _ = found.rows(NumbaSpace(), None)
    assert np.array_equal(starts.copy_to_host(), wanted.rows[0])
    assert np.array_equal(sources.copy_to_host(), wanted.rows[1])


def tiny_model(**options):
    torch.manual_seed(0)
    return AMP(
        order=1, channels=2, features=4, steps=1, method="direct",
        network=Network(hidden=4, mixed=2, edge_features=3, n_radial=3), **options,
    ).double()  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    system = System(
        [8, 1, 1], np.array([[0.0, 0, 0], [0.9, 0, 0], [0, 0.9, 0.1]]), 0,
        rng.standard_normal((2, 3)) + 4, np.array([0.4, -0.4]),
    )  # fmt: skip
    return collate([prepare(system, tiny_model().cutoff, torch.float64)])


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_energy_and_forces_of_a_model(batch, backend, monkeypatch):
    model = tiny_model(backend=backend)
    wanted = model(batch, forces=True, mm_forces=True)
    sums = []
    kept = _field_cuda.Direct.field
    monkeypatch.setattr(_field_cuda.Direct, "field", lambda *given: sums.append(1) or kept(*given))
    there = batch
    if not SIMULATED:
        model, there = model.to("cuda"), batch.to("cuda")
    with emulated():
        found = model(there, forces=True, mm_forces=True)
    assert bool(sums) == (backend == "compiled")
    for name in ("energy", "forces", "mm_forces", "charges"):
        torch.testing.assert_close(found[name].cpu(), wanted[name], rtol=1e-9, atol=1e-9)


def test_a_charge_within_the_walls_of_a_model():
    far, points = water(3), water(3).mm_positions.copy()
    points[0] = far.positions[1] + [0.3, 0.5, -0.4]
    near = System(far.numbers, far.positions, 0, points, far.mm_charges)
    model = tiny_model()
    model.set_extent(extent_of([Frame(far)], model.damping))
    batch = collate([prepare(near, model.cutoff, torch.float64)])
    wanted = model(batch, **ASKED)
    assert model._close_particles(batch) is not None
    there = batch
    if not SIMULATED:
        model, there = model.to("cuda"), batch.to("cuda")
    with emulated():
        found = model(there, **ASKED)
    for name in ("energy", "forces", "mm_forces", "mm_potential"):
        torch.testing.assert_close(found[name].cpu(), wanted[name], rtol=1e-9, atol=1e-9)


PUBLISHED = {
    "bms": lambda: small_model(mode="training"),
    "bms simulation": lambda: small_model(mode="simulation"),
    "bms published": lambda: small_model(mode="simulation-published"),
    "bms in a box": lambda: small_model(mode="simulation", box=[30.0] * 3),
    "minimal": lambda: AmpQmmm("minimal", **SMALL).double(),
    "precision": lambda: AmpQmmm("precision", **SMALL).double(),
    "ana2b": lambda: Ana2b(**SMALL).double(),
    "committee": lambda: Committee([small_model(0), small_model(1)]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name):
    torch.manual_seed(0)
    model = PUBLISHED[name]()
    assert model.runs_on_gpu
    systems = [water(3)] if SIMULATED else [water(30), methanol(40)]
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        host = collate([prepare(one, model.cutoff, dtype) for one in systems])
        wanted = model.to("cpu", torch.float64)(host.to(torch.float64), **ASKED)
        model, there = model.to(dtype), host
        if not SIMULATED:
            model, there = model.to("cuda"), host.to("cuda")
        with emulated():
            found = model(there, **ASKED)
        for key in ("energy", "forces", "mm_forces", "mm_potential", "charges"):
            right = wanted[key].detach()
            error = (found[key].detach().double().cpu() - right).norm()
            assert error <= bound * right.norm() + 1e-30, key


def test_a_training_step_of_a_published_model():
    torch.manual_seed(0)
    model = small_model(mode="simulation")
    batch = collate([prepare(water(3), model.cutoff, torch.float64)])

    def gradient(model, batch):
        model.zero_grad()
        out = model(batch, forces=True, create_graph=True)
        (out["energy"].sum() + out["forces"].square().sum()).backward()
        return torch.cat([p.grad.cpu().reshape(-1) for p in model.parameters()])

    wanted = gradient(model, batch)
    if not SIMULATED:
        model, batch = model.to("cuda"), batch.to("cuda")
    with emulated():
        found = gradient(model, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("limit", [pytest.param(float("inf"), marks=pytest.mark.slow), 0.05])
def test_a_training_step(batch, limit):
    model = tiny_model()
    model.border.outputs.fill_(limit)

    def gradient(model, batch):
        model.zero_grad()
        out = model(batch, forces=True, create_graph=True)
        (out["energy"].sum() + out["forces"].square().sum()).backward()
        return torch.cat([p.grad.cpu().reshape(-1) for p in model.parameters()])

    wanted = gradient(model, batch)
    if not SIMULATED:
        model, batch = model.to("cuda"), batch.to("cuda")
    with emulated():
        found = gradient(model, batch)
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


@pytest.mark.parametrize("kind", [fixed_pairs.ALL, fixed_pairs.EDGES, fixed_pairs.HALF])
@pytest.mark.parametrize("capacity", [None, 20, 3, 0])
def test_lists_of_fixed_length(kind, capacity):
    torch.manual_seed(0)
    x, s = (torch.randn(n, 3, dtype=torch.float64) for n in (5, 7))
    batches = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    if kind != fixed_pairs.ALL:
        s, batches = x, (batches[0], batches[0])
    reach = 1.9 + 0.1 * torch.arange(5).double()
    wanted = fixed_pairs.fixed_pairs(x, s, batches, reach, capacity, kind)
    given = [on_device(t) for t in (x, s, *batches, reach)]
    with emulated():
        found = fixed_pairs.fixed_pairs(*given[:2], (given[2], given[3]), given[4], capacity, kind)
    for got, right in zip(found, wanted, strict=True):
        assert (got is None and right is None) or torch.equal(got.cpu(), right)
