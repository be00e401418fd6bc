"""What the model does beyond the trained extent: nothing inside, no hole and no jump outside."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tiny import methanol, tiny_config, tiny_model

from gnn import AMP, System
from gnn.data import collate, load_shipped
from gnn.data.checking.atoms import RADII
from gnn.data.extent import Extent, extent_of, valences
from gnn.export import Traceable
from gnn.layers.walls import clamped, repulsion, zbl
from gnn.operators.fused import saturation
from gnn.options import Walls
from gnn.training.checkpoint import load_model, save_model
from gnn.training.setup import build_model

KNOWN = (1, 6, 7, 8, 16)


@cache
def shipped_frames():
    """Return frames of kinds that the model that ships was trained on."""
    return [frame for frame in load_shipped() if frame.group != "near"][::10]


@cache
def shipped_extent() -> Extent:
    return extent_of(shipped_frames())


def free_model(dtype=torch.float64) -> AMP:
    """Return the model that ships, without its walls."""
    model = load_model().to(dtype)
    model.border = None
    return model


def shipped_model(dtype=torch.float64, extent: Extent | None = None) -> AMP:
    """Return the same with walls about some of its frames."""
    model = free_model(dtype)
    model.set_extent(extent or shipped_extent())
    model._calibrate(shipped_frames())
    return model


@cache
def shipped_twice() -> tuple[AMP, AMP]:
    return free_model(), shipped_model()


def given(numbers, positions, charge=0):
    """Return a system whose charge is that of its first atom, whatever its bonds tell."""
    return System(numbers, positions, charge, charges=[charge, *[0] * (len(numbers) - 1)])


def energies(model, systems):
    with torch.no_grad():
        batch = collate(systems, model.cutoff, dtype=model.dtype, local_charges=True)
        return model(batch)["energy"].numpy()


def rises(model, systems):
    """Whether the energy rises from each system to the next."""
    values = energies(model, systems)
    return np.isfinite(values).all() and (np.diff(values) > 0).all()


def inwards(border):
    """Distances from a little below the border to where nuclei are on top of each other."""
    return np.linspace(0.93 * border, 0.2, 30)


# --- the functions --------------------------------------------------------------------------------


def test_functions_are_smooth_and_differentiable_twice():
    r = torch.linspace(0.3, 1.6, 14, dtype=torch.float64, requires_grad=True)
    border, bare = torch.full_like(r, 1.234), torch.full_like(r, 5.0)
    functions = (
        lambda x: clamped(x, border, 0.05),
        lambda x: repulsion(x, border, bare, 100.0),
        lambda x: saturation(x, border, 1.5) * x,
        lambda x: zbl(x, border, bare),
    )
    for function in functions:
        assert torch.autograd.gradcheck(function, r)
        assert torch.autograd.gradgradcheck(function, r)


@pytest.mark.parametrize("step", [1e-3, 1e-4])
def test_second_derivatives_have_no_jump_at_the_border(step):
    one = torch.ones(2, dtype=torch.float64)
    functions = (
        (-1, lambda x: repulsion(x, one, 5 * one, 100.0)),
        (-1, lambda x: clamped(x, one, 0.05)),
        (1, lambda x: saturation(x * x, one, 1.5) * x),
    )
    for side, function in functions:
        at = torch.tensor([1.0, 1.0 + side * step], dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(function(at).sum(), at, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), at)
        assert (second[0] - second[1]).abs() < 4e3 * step


def test_inside_is_exact():
    r = torch.linspace(1.0, 4.0, 50)
    border = torch.ones_like(r)
    assert torch.equal(clamped(r, border, 0.05), r)
    assert not repulsion(r, border, 10 / r, 100.0).any()
    assert torch.equal(saturation(1 / r, border, 1.5), torch.ones_like(r))
    assert (clamped(r - 1.0, border, 0.05) > 0.9499).all()
    lengths = torch.logspace(-3, 10, 50, dtype=torch.float64)
    scaled = saturation(lengths**2, torch.ones_like(lengths), 1.5) * lengths
    assert (scaled < 1.5 + 1e-12).all() and (scaled.diff() > -1e-12).all()
    unset = saturation(lengths, torch.full_like(lengths, torch.inf), 1.5)
    assert torch.equal(unset, torch.ones_like(lengths))


# --- inside the trained extent --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shipped_frames_are_what_they_were(dtype):
    frames = shipped_frames()[::26]
    without, walls = free_model(dtype), shipped_model(dtype)
    rounding = 1e-10 if dtype == torch.float64 else 1e-3  # derivatives are added up in other order
    for one, two in zip(without.evaluate(frames), walls.evaluate(frames), strict=True):
        assert two["energy"] == one["energy"]
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, rtol=0, atol=rounding, err_msg=name)


def test_a_model_whose_extent_is_unknown_is_as_without_walls():
    torch.manual_seed(0)
    model = tiny_model()
    bare = AMP.from_config(model.config() | {"walls": None})
    bare.load_state_dict(model.state_dict(), strict=False)
    assert model.extent is None and bare.extent is None
    system = System([1, 8], [[0, 0, 0], [0, 0, 0.1]], 0, [[0, 0, 0.2]], [3.0])
    one, two = model.evaluate([system])[0], bare.evaluate([system])[0]
    assert one["energy"] == two["energy"]
    np.testing.assert_allclose(one["forces"], two["forces"], rtol=1e-5, atol=1e-4)


# --- outside --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "charge",
    [
        0,
        -1,
        pytest.param(
            1,
            marks=pytest.mark.xfail(
                raises=AssertionError, strict=True, reason="docs/limits.md: cations of two atoms"
            ),
        ),
    ],
)
def test_every_pair_of_known_elements_repels(charge):
    model = calibrated_model()
    rng = np.random.default_rng(charge + 1)
    for i, first in enumerate(KNOWN):
        for second in KNOWN[i:]:
            border = float(model.border.shortest(torch.tensor(first), torch.tensor(second)))
            u = rng.normal(size=3)
            u /= np.linalg.norm(u)
            scan = [given([first, second], [0 * u, r * u], charge) for r in inwards(border)]
            assert rises(model, scan), (first, second)


def test_bonds_and_contacts_of_a_molecule_repel():
    model = shipped_twice()[1]
    system = load_shipped(["meoh"], vacuum=True)[0].system
    x, z = system.positions, system.numbers
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    for moved in range(len(z)):
        for other in np.argsort(distances[moved])[1:3]:  # a bond, and an atom beyond or beside it
            border = float(model.border.shortest(torch.tensor(z[moved]), torch.tensor(z[other])))
            u = (x[moved] - x[other]) / distances[moved, other]
            scan = []
            for r in inwards(border):
                places = x.copy()
                places[moved] = x[other] + r * u
                scan.append(given(z, places))
            assert rises(model, scan), (moved, other)
    hydroxyl = next(a for a in np.flatnonzero(z == 1) if distances[a, z == 8] < 1.2)
    places = x.copy()
    oxygen = np.flatnonzero(z == 8)[0]
    places[hydroxyl] = x[oxygen] + 0.3 * (x[hydroxyl] - x[oxygen]) / distances[hydroxyl, oxygen]
    assert np.diff(energies(model, [system, given(z, places)])) > 50


def outward(system, atom, borders, rng):
    """A direction from an atom along which no other atom's border is crossed, or hardly."""
    directions = rng.normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    path = (
        system.positions[atom] + directions[:, None] * np.linspace(0.2, borders[atom], 8)[:, None]
    )
    others = np.delete(np.arange(system.n_atoms), atom)
    gaps = np.linalg.norm(path[:, :, None] - system.positions[others], axis=3) / borders[others]
    return directions[np.argmax(gaps.min(axis=(1, 2)))]


@pytest.mark.parametrize("charge", [-1.0, -0.2, 0.417, 1.0])
def test_charges_are_repelled_by_each_atom_of_methanol(charge):
    model = shipped_twice()[1]
    system = load_shipped(["meoh"])[0].system
    borders = model.border.shortest_to_charges(torch.tensor(system.numbers)).numpy()
    rng = np.random.default_rng(1)
    for atom in range(system.n_atoms):
        u, x = outward(system, atom, borders, rng), system.positions
        path = [x[atom] + r * u for r in inwards(borders[atom])]
        scan = [System(system.numbers, x, 0, [place], [charge]) for place in path]
        assert rises(model, scan), atom


def test_polarisation_saturates_and_nothing_diverges():
    model = shipped_twice()[1]
    system = load_shipped(["meoh"], vacuum=True)[0].system
    bare = {"numbers": system.numbers, "positions": system.positions}
    fields = [System(**bare, uniform_field=[0, 0, f]) for f in (0.0, 2.0, 20.0, 200.0, 2e4)]
    dipoles = np.array([r["dipole"] for r in model.evaluate(fields, unknown="ignore")])
    assert np.abs(dipoles).max() < 20
    np.testing.assert_allclose(dipoles[4], dipoles[3], atol=0.1)
    at, rng = system.positions.mean(0), np.random.default_rng(0)
    offset = np.array([0.0, 0.0, 3.5])
    enemies = [
        System(**bare, mm_positions=[at + offset, at - offset], mm_charges=[1e3, 1e3]),
        System(**bare, mm_positions=[system.positions[0] + 0.01], mm_charges=[-50.0]),
        System(**bare, mm_positions=at + rng.normal(size=(40, 3)), mm_charges=rng.normal(size=40)),
        System(**bare, external_field=1e3 * rng.normal(size=(6, 20))),
    ]
    for result in model.evaluate(enemies, unknown="ignore"):
        assert np.abs(result["dipoles"]).max() < 50 and np.isfinite(result["forces"]).all()


def close_system(rng=None):
    """Atoms and charges on both sides of their borders."""
    x = [[0.0, 0, 0], [0.85, 0.1, 0], [-0.2, 0.9, 0.3], [1.1, 1.3, 0.2]]
    mm = [[0.3, -1.2, 0.4], [2.0, 0.2, -0.3], [0.0, 0.0, 4.0], [-0.4, 2.0, 0.1]]
    return System([8, 1, 1, 6], x, 0, mm, [-0.8, 0.4, 0.4, 0.0])


def test_derivatives_beyond_the_borders():
    model = shipped_twice()[1]
    system = close_system()
    result = model.evaluate([system], unknown="ignore")[0]
    total = result["forces"].sum(0) + result["mm_forces"].sum(0)
    np.testing.assert_allclose(total, 0, atol=1e-7)
    step = 1e-6  # what saturates turns quickly: third derivatives are 1e8 eV/Å³
    for name, forces in (("positions", "forces"), ("mm_positions", "mm_forces")):
        for row, axis in ((0, 0), (1, 2), (3, 1)):
            pair = []
            for sign in (1, -1):
                arrays = {k: getattr(system, k).copy() for k in ("positions", "mm_positions")}
                arrays[name][row, axis] += sign * step
                moved = System(
                    system.numbers, arrays["positions"], 0, arrays["mm_positions"],
                    system.mm_charges,
                )  # fmt: skip
                pair.append(moved)
            difference = -np.diff(energies(model, pair[::-1]))[0] / (2 * step)
            np.testing.assert_allclose(result[forces][row, axis], difference, rtol=1e-5, atol=1e-5)


def test_second_derivatives_train():
    model = tiny_model(dtype=torch.float64)
    model.set_extent(shipped_extent())
    batch = collate([close_system()], model.cutoff, dtype=torch.float64)
    weight = model.atom_energy[0].weight

    def loss():
        out = model(batch, forces=True, mm_forces=True, mm_potential=True, create_graph=True)
        return out["forces"][1, 0] + out["mm_forces"][0].sum() + out["mm_potential"][3]

    (slope,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[0, 0] += sign * 1e-5
            values.append(loss())
            weight[0, 0] -= sign * 1e-5
    torch.testing.assert_close(slope[0, 0], (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_float32_and_batches():
    model, single = shipped_twice()[1], shipped_model(torch.float32)
    inside = load_shipped(["mam"])[0]
    alone = [model.evaluate([s], unknown="ignore")[0] for s in (close_system(), inside)]
    together = model.evaluate([close_system(), inside, System([6], [[0, 0, 0]])], unknown="ignore")
    for one, two in zip(alone, together, strict=False):
        np.testing.assert_allclose(two["energy"], one["energy"], atol=1e-9)
        np.testing.assert_allclose(two["forces"], one["forces"], atol=1e-9)
    rough = single.evaluate([close_system()], unknown="ignore")[0]
    np.testing.assert_allclose(rough["forces"], alone[0]["forces"], rtol=1e-3, atol=1e-2)


def test_particles_without_charge_are_let_in():
    model = shipped_twice()[1]
    bare = System([8, 1], [[0.0, 0, 0], [0, 0, 0.96]])
    ghost = System([8, 1], bare.positions, 0, [[0, 0.3, 0]], [0.0])
    one, two = model.evaluate([bare, ghost], unknown="ignore")
    np.testing.assert_allclose(two["energy"], one["energy"], atol=1e-10)
    assert np.isfinite(two["mm_forces"]).all()


@pytest.mark.parametrize(
    "moments",
    [
        {"mm_dipoles": [[0.3, 0.0, 0.2]]},
        {"mm_quadrupoles": [np.diag([0.2, -0.1, -0.1])]},
        {"mm_quadrupoles": [np.diag([-0.2, 0.1, 0.1])]},
    ],
    ids=["dipole", "quadrupole", "negative quadrupole"],
)
def test_particles_repel_by_all_their_moments(moments):
    """A particle with a dipole only, and one with a quadrupole only, at each atom of a water."""
    model, rng = calibrated_model(), np.random.default_rng(0)
    system = load_shipped(["h2o"], vacuum=True)[0].system
    numbers, x = system.numbers, system.positions
    borders = model.border.shortest_to_charges(torch.tensor(numbers)).numpy()
    for atom, border in enumerate(borders):
        u = outward(system, atom, borders, rng)
        path = [x[atom] + r * u for r in inwards(border)]
        scan = [System(numbers, x, 0, [place], [0.0], **moments) for place in path]
        assert rises(model, scan), atom


@pytest.mark.parametrize("moments", ["mm_dipoles", "mm_quadrupoles"])
def test_particles_repel_molecules_that_are_unknown(moments):
    """A radical that training never saw."""
    model = calibrated_model()
    border = float(model.border.shortest_to_charges(torch.tensor([8]))[0])
    value = [0.3, 0.0, 0.2] if moments == "mm_dipoles" else np.diag([0.2, -0.1, -0.1])
    bare = System([8, 1], [[0.0, 0, 0], [0, 0, 0.96]])
    scan = [
        System(bare.numbers, bare.positions, 0, [[-r, 0, 0]], [0.0], **{moments: [value]})
        for r in np.linspace(0.9 * border, 0.2, 15)
    ]
    assert rises(model, scan)


def test_the_twin_in_plain_torch_agrees():
    model = shipped_twice()[1]
    inside = [System([6], [[0, 0, 0]]), load_shipped(["oac"])[0].system]
    # beyond the borders rounding grows with what saturates
    for systems, loss in ((inside, 1), ([close_system(), *inside], 200)):
        batch = collate(systems, model.cutoff, dtype=torch.float64)
        one = model(batch, forces=True, mm_forces=True)
        two = Traceable.of(model)(batch, forces=True, mm_forces=True)
        for name in ("energy", "forces", "mm_forces", "dipole"):
            torch.testing.assert_close(two[name], one[name], rtol=1e-7 * loss, atol=1e-6 * loss)


# --- extents of models ----------------------------------------------------------------------------


def test_unseen_pairs_and_charges_have_borders():
    model = AMP(order=0, channels=2, features=4, steps=1)
    model.set_extent(extent_of([System([6], [[0.0, 0, 0]])]))
    carbon, uranium = torch.tensor(6), torch.tensor(92)
    assert float(model.border.shortest(carbon, uranium)) == pytest.approx(0.76 + 1.96 + 0.9)
    assert float(model.border.shortest_to_charges(carbon)) == pytest.approx(0.76 + 0.9)
    far = System([6], [[0.0, 0, 0]], 0, [[0, 0, 5.0]], [1.0])
    model.set_extent(extent_of([far]))
    assert float(model.border.shortest_to_charges(carbon)) == pytest.approx(0.76 + 1.7)


def test_extents_are_kept_in_checkpoints(tmp_path):
    model = tiny_model()
    model.set_extent(shipped_extent())
    save_model(tmp_path / "m.pt", model)
    again = load_model(tmp_path / "m.pt")
    assert isinstance(again, AMP) and again.extent is not None
    assert again.config()["walls"] == {"width": 0.05, "stiffness": 100.0, "saturation": 1.5}
    for name, values in vars(shipped_extent()).items():
        np.testing.assert_allclose(getattr(again.extent, name), values, rtol=1e-6)


def test_training_notes_its_extent_and_joins_that_of_former_training(tmp_path):
    frames = methanol()
    model = build_model(tiny_config(), frames)
    expected = extent_of(frames)
    assert isinstance(model, AMP) and model.extent is not None
    np.testing.assert_allclose(model.extent.field, expected.field, rtol=1e-6)
    save_model(tmp_path / "m.pt", model)
    others = load_shipped(["mam"])[:3]
    start = tiny_config().model_copy(update={"start": str(tmp_path / "m.pt")})
    further = build_model(start, others)
    assert isinstance(further, AMP) and further.extent is not None
    joined = expected.joined(extent_of(others))
    np.testing.assert_allclose(further.extent.pairs, joined.pairs, rtol=1e-6)
    unknown = tiny_model(walls=None)
    save_model(tmp_path / "m.pt", unknown)
    further = build_model(start, others)
    assert isinstance(further, AMP) and further.extent is None and further.border is None


def test_walls_that_make_no_sense_are_refused():
    for name, value in (("width", 0.0), ("stiffness", -1.0), ("saturation", 1.0)):
        with pytest.raises(ValueError, match=rf"walls\.{name}"):
            Walls(**{name: value})


# --- crowds ---------------------------------------------------------------------------------------


@cache
def calibrated_model() -> AMP:
    return load_model().double()


def compressed(system, factor):
    return given(system.numbers, factor * system.positions, system.charge)


@pytest.mark.parametrize("ships", [False, True])
def test_compressed_molecules_and_pairs_of_them_repel(ships):
    model = calibrated_model() if ships else shipped_twice()[1]
    one, two = (load_shipped([name], vacuum=True)[0].system for name in ("meoh", "oac"))
    both = System(
        [*one.numbers, *two.numbers],
        np.concatenate([one.positions, two.positions + np.array([6.0, 0, 0])]),
        one.charge + two.charge,
    )
    for system in (one, two, both):
        scan = [compressed(system, factor) for factor in np.linspace(0.85, 0.25, 25)]
        assert rises(model, scan), system


def test_crowded_atoms_repel_though_no_two_are_too_close():
    rng, extent = np.random.default_rng(0), shipped_extent()
    model = shipped_model(extent=replace(extent, pairs=0.5 * extent.pairs))
    around = rng.normal(size=(12, 3))
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    for _ in range(200):  # points that repel each other spread over the sphere
        gaps = around[:, None] - around[None]
        lengths = np.linalg.norm(gaps, axis=2) + np.eye(12)
        around += 0.02 * (gaps / lengths[:, :, None] ** 3).sum(1)
        around /= np.linalg.norm(around, axis=1, keepdims=True)
    scan = []
    for r in np.linspace(1.2, 0.75, 12):  # hydrogen atoms 1.05 times as far from each other
        scan.append(given([6] + [1] * 12, np.concatenate([np.zeros((1, 3)), r * around])))
    assert (valences(scan[0])[0] > extent.valence[6]).all() and rises(model, scan)


def test_a_swarm_of_atoms_stays_finite_in_energy_and_derivatives():
    model = calibrated_model()
    rng = np.random.default_rng(1)
    for size in (0.5, 1.0, 3.0):
        numbers = rng.choice([1, 6, 7, 8], 30)
        systems = [given(numbers, rng.normal(size=(30, 3)) * size, q) for q in (-1, 0, 1)]
        for result in model.evaluate(systems, unknown="ignore"):
            assert np.isfinite(result["energy"]) and np.isfinite(result["forces"]).all()
            assert np.abs(result["charges"]).max() < 10


def test_valences_are_sums_over_neighbours():
    frames = shipped_frames()[::26]
    for frame in frames:
        x, radii = frame.system.positions, RADII[frame.system.numbers]
        gaps = np.linalg.norm(x[:, None] - x[None], axis=2)
        np.fill_diagonal(gaps, np.inf)
        slow = np.exp((radii[:, None] + radii[None] - gaps) / 0.37).sum(1)
        np.testing.assert_allclose(valences(frame.system), slow, rtol=1e-9)
    extent = extent_of([frame for frame in shipped_frames() if frame.group == "first"])
    assert 1 < extent.valence[1] < 2 and 3.5 < extent.valence[6] < 7
    assert np.isinf(Extent(extent.pairs, extent.charges, extent.field).valence).all()


def test_quick_checks_agree_with_what_acts():
    model, rng = calibrated_model(), np.random.default_rng(2)
    system = load_shipped(["acoh"], vacuum=True)[0].system
    found = set()
    for size in np.linspace(0.0, 0.3, 12):
        moved = System(system.numbers, system.positions + size * rng.normal(size=(8, 3)))
        batch = collate([moved], model.cutoff, dtype=model.dtype)
        lengths = torch.linalg.vector_norm(batch.edge_vectors, dim=1)
        _, weight, energy = model.border.pressed(
            batch, lengths, torch.ones_like(lengths), model.cutoff
        )
        acts = bool((weight != 1).any() or energy.any())
        assert model._crossed(batch, lengths) == acts
        found.add(acts)
    assert found == {False, True}
    changes = torch.randn(5, 96, dtype=torch.float64, generator=torch.manual_seed(0))
    numbers = torch.tensor([1, 6, 7, 8, 1])
    for factor in (0.01, 1.0, 100.0):
        bounded = model._bounded(0, factor * changes, numbers)
        slow = factor * changes * model.border.saturated(0, factor * changes, numbers)[:, None]
        torch.testing.assert_close(bounded, slow, rtol=0, atol=0)
        lengths = torch.linalg.vector_norm(slow, dim=1)
        assert (lengths <= 1.5 * model.border.outputs[0, numbers] * (1 + 1e-12)).all()


def test_outputs_are_bounded_by_those_of_training(tmp_path):
    model, frames = calibrated_model(), shipped_frames()
    free = shipped_twice()[1]
    for frame in frames[::40]:
        one, two = (m.evaluate([frame], unknown="ignore")[0] for m in (free, model))
        assert one["energy"] == two["energy"]
    save_model(tmp_path / "m.pt", model)
    again = load_model(tmp_path / "m.pt")
    assert torch.equal(again.border.outputs, model.border.outputs)
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    weights = state["state_dict"]
    del weights["border.valence"]  # as if written before there were these
    weights["border.changes"] = weights.pop("border.outputs")[:3]
    torch.save(state, tmp_path / "old.pt")
    old = load_model(tmp_path / "old.pt").border
    assert torch.isinf(old.valence).all() and torch.isinf(old.outputs).all()
    model = shipped_model()
    model.border.outputs.fill_(1.0)
    model.set_extent(shipped_extent())
    assert torch.isinf(model.border.outputs).all()


@pytest.mark.parametrize("numbers", [[8, 8], [1, 6], [1, 8], [7, 8]])
def test_multipoles_are_bounded_by_those_of_training(numbers):
    """Cations of two atoms, of which training knew nothing, had charges of 50 e."""
    model = calibrated_model()
    border = float(model.border.shortest(*torch.tensor(numbers)))
    for r in inwards(border):
        system = given(numbers, [[0.0, 0, 0], [0, 0, r]], 1)
        result = model.evaluate([system], unknown="ignore")[0]
        assert abs(result["charges"].sum() - 1) < 1e-9
        assert np.abs(result["charges"]).max() < 2
        first = 1 + 3 * len(model.steps)
        for kind, name in ((1, "dipoles"), (2, "quadrupoles")):
            size = np.linalg.norm(result[name].reshape(2, -1), axis=1)
            most = 1.5 * model.border.outputs[first + kind, torch.tensor(numbers)].numpy()
            assert (size <= most * (1 + 1e-6)).all()
        assert np.abs(result["energy"] - model.baseline[numbers].sum().item()) < 1e4
