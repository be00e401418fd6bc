"""The older published models, ANA2B and amp_qmmm, against numbers of the original code."""

import numpy as np
import pytest
import torch
from published_cases import methanol, moved, reference_systems, water
from scipy.spatial.transform import Rotation

from gnn import System
from gnn.data.batching import collate
from gnn.operators.edges import pair_invariants
from gnn.published import AmpQmmm, Ana2b, read_amp_qmmm, read_ana2b
from gnn.published.layers import ANA2B_TERMS, species_graph
from gnn.units import KJ_PER_MOL

NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17}


def _reference(folder, name):
    path = folder / "reference" / name
    if not path.is_file():
        pytest.skip(f"no reference numbers at {path}")
    return np.load(path)


def _weights(data) -> dict:
    return {key[2:]: torch.tensor(data[key]) for key in data.files if key.startswith("w:")}


@pytest.mark.parametrize("kind", ["min", "precision"])
def test_amp_qmmm(shared_dir, kind):
    data = _reference(shared_dir, f"v2_{kind}_random_water_small.npz")
    model = read_amp_qmmm(_weights(data))
    systems = reference_systems(data)
    result = model.evaluate(systems)[0]
    assert model.dtype == torch.float64
    assert result["energy"] / KJ_PER_MOL == pytest.approx(data["energy"][0, 0], abs=1e-12)
    for ours, theirs in (("charges", "monos"), ("dipoles", "dipos"), ("quadrupoles", "quads")):
        expected = data[theirs].reshape(result[ours].shape)
        assert result[ours] == pytest.approx(expected, abs=1e-15, rel=1e-11)
    forces = -result["mm_forces"] / KJ_PER_MOL
    assert forces == pytest.approx(data["grad_mm"][0], abs=1e-13, rel=1e-9)
    # the published gradient is not that of the energy; finite differences are
    gradient = -result["forces"] / KJ_PER_MOL
    assert gradient == pytest.approx(data["fd_grad_qm"][0], abs=1e-8)
    assert np.abs(gradient - data["grad_qm"][0]).max() > 1e-4


def test_ana2b(shared_dir):
    data = _reference(shared_dir, "v1_ampmulti_random.npz")
    model = read_ana2b({key[2:]: data[key] for key in data.files if key.startswith("w:")})
    system = System([NUMBERS[e] for e in data["elements"]], data["coords"].astype(np.float64))
    batch = collate([system], model.cutoff, model.dtype)
    features = model.readout_features(batch).detach()
    norms = features[:, 128:].view(-1, 3, 16).transpose(1, 2).flatten(1)  # theirs by channel
    features = torch.cat([features[:, :128], norms], 1).numpy()
    assert features == pytest.approx(data["readout_features"], abs=5e-6)
    result = model.evaluate([system])[0]
    assert result["energy"] / KJ_PER_MOL == pytest.approx(data["V"][0, 0], abs=2e-6)
    assert -result["forces"] / KJ_PER_MOL == pytest.approx(data["grad"], abs=1e-5)


def test_invariants_of_ana2b(shared_dir):
    data = _reference(shared_dir, "v1_ampmulti_random.npz")
    q = torch.tensor(data["G_in_quads"]).double()
    parts = [q[..., 0, 0], 2 * q[..., 0, 1], 2 * q[..., 0, 2]]
    parts += [q[..., 1, 1], 2 * q[..., 1, 2], q[..., 2, 2]]
    lower = [torch.tensor(data[f"G_in_{name}"]).double() for name in ("monos", "dipos")]
    state = torch.cat([*lower, torch.stack(parts, -1)], -1).transpose(1, 2).contiguous()
    senders, receivers = (torch.tensor(data[k]).long() for k in ("senders", "receivers"))
    order = torch.argsort(receivers, stable=True)
    x = torch.tensor(data["coords"]).double()
    vectors = (x[receivers] - x[senders])[order]
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    found = ANA2B_TERMS(pair_invariants(state, directions, senders[order], receivers[order], 2))
    expected = data["G_out"][order.numpy()]
    assert found.transpose(1, 2).numpy() == pytest.approx(expected, abs=1e-5)


MODELS = {
    "ana2b": lambda: Ana2b(16, 8, 3, 2),
    "minimal": lambda: AmpQmmm("minimal", 3, 2, features=16, edge_features=8),
    "precision": lambda: AmpQmmm("precision", 3, 2, features=16, edge_features=8),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(3)
    return MODELS[request.param]().double().eval()


def test_invariance_and_batches(model):
    rotation = Rotation.random(random_state=5).as_matrix()
    systems = [water(), moved(water(), rotation, 3.0), methanol(0)]
    one, turned, other = model.evaluate(systems)
    assert turned["energy"] == pytest.approx(one["energy"], abs=1e-12)
    assert turned["forces"] == pytest.approx(one["forces"] @ rotation.T, abs=1e-11)
    assert other["energy"] == pytest.approx(model.evaluate(systems[2:])[0]["energy"], abs=1e-12)


def test_forces_are_the_gradient(model):
    system, step = water(), 1e-4
    forces = model.evaluate([system])[0]["forces"]
    for place in ((0, 2), (1, 1)):
        ends = []
        for sign in (1, -1):
            positions = system.positions.copy()
            positions[place] += sign * step
            mm = system.mm_positions, system.mm_charges
            ends.append(model.evaluate([System(system.numbers, positions, 0, *mm)])[0]["energy"])
        slope = (ends[1] - ends[0]) / (2 * step)
        assert forces[place] == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_a_single_atom_is_no_obstacle(model):
    result = model.evaluate([System([8], np.zeros((1, 3)), -2.0, [[0, 0, 4.0]], [1.0])])[0]
    assert np.isfinite(result["energy"])
    assert np.isfinite(result["forces"]).all()


def test_elements_beyond_the_tables_are_refused(model):
    with pytest.raises(ValueError, match="expected atomic numbers up to"):
        model.evaluate([System([1, 92], [[0, 0, 0], [0, 0, 1.5]])])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("numbers", [(1, 1), (1, 6), (7, 8), (8, 17), (16, 17)])
def test_short_distances_have_forces_that_are_the_gradient(model, numbers):
    for r in (0.2, 0.5, 0.9):
        ends = [System(numbers, [[0, 0, 0], [0.6 * d, 0, 0.8 * d]]) for d in (r, r * 1.00001)]
        ends.append(System(numbers, [[0, 0, 0], [0.6 * r * 0.99999, 0, 0.8 * r * 0.99999]]))
        one, up, down = model.evaluate(ends)
        slope = (up["energy"] - down["energy"]) / (2e-5 * r)
        rounding = 1e-8 + 1e-15 * abs(one["energy"]) / (1e-5 * r)
        assert one["forces"][1] @ [0.6, 0, 0.8] == pytest.approx(-slope, rel=1e-5, abs=rounding)


def test_config_builds_the_same_architecture(model):
    again = type(model)(**model.config()).double()
    again.load_state_dict(model.state_dict())
    assert again.evaluate([water()])[0]["energy"] == model.evaluate([water()])[0]["energy"]


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="not the weights of amp_qmmm"):
        read_amp_qmmm({"a.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="not the weights of ANA2B"):
        read_ana2b({"a.0.kernel": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="expected kind to be one of"):
        AmpQmmm("large")


def test_geometry_of_edges_points_to_the_receiver():
    model = Ana2b(8, 8, 2, 1)
    batch = collate([System([1, 1], [[0, 0, 0], [0, 0, 2.0]])], 5.0, torch.float32)
    graph = species_graph(batch, model.radial, model.edges)
    directions, fade = graph.directions, graph.fade
    assert torch.equal(directions[:, 2], torch.tensor([-1.0, 1.0]))
    assert batch.receivers.tolist() == [0, 1]
    x = 2 / 5
    expected = (1 - 28 * x**6 + 48 * x**7 - 21 * x**8) / x
    assert fade[0].item() == pytest.approx(expected, rel=1e-5)
