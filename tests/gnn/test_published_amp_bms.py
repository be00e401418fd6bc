"""The published AMP-BMS model: its reference numbers, and what any potential must obey."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from published_cases import (
    SMALL,
    WEIGHTS,
    methanol,
    moved,
    reference_files,
    reference_systems,
    small_model,
    water,
)
from scipy.spatial.transform import Rotation

from gnn import Frame, System
from gnn.data.batching import collate
from gnn.published import AmpBms, load_amp_bms
from gnn.units import COULOMB, KJ_PER_MOL

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("ANISOLE_REFERENCE", ROOT.parent / "shared")) / "reference"
FILES = [name for name in reference_files(REFERENCE, "bms_*.npz") if "s66x8" not in name]
NO_FILES = [pytest.param("", marks=pytest.mark.skip(reason="reference data not found"))]
PARTS = {
    "total": "V_total", "nodes": "V_nodes", "coulomb_qm": "V_coulomb_qm",
    "coulomb_mm": "V_coulomb_qmmm", "dispersion": "V_D4", "repulsion": "V_ZBL",
}  # fmt: skip
ATOMIC = {
    "charges": "monos", "dipoles": "dipos", "quadrupoles": "quads", "c6_factors": "C6_factors",
    "c6": "C6", "features": "nodes_final",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(shared_dir) -> Path:
    path = shared_dir / "reference" / WEIGHTS
    if not path.is_file():
        pytest.skip(f"the published weights are not at {path}")
    return path


def _model(weights: Path, name: str, **options) -> AmpBms:
    return load_amp_bms(weights, pol_scaling=1.0 if "_pol1" in name else 0.35, **options).double()


def _batch(model, systems):
    return collate(systems, model.cutoff, dtype=model.dtype)


# --- numbers of the original ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES or NO_FILES)
def test_reproduces_the_reference(weights, name):
    data = np.load(REFERENCE / name)
    options = {}
    if "_md_" in name:
        options = {"mode": "simulation-published", "box": data["box"].tolist()}
    model = _model(weights, name, **options)
    systems = reference_systems(data)
    parts = model.parts(_batch(model, systems))
    for ours, theirs in PARTS.items():
        assert parts[ours].detach().numpy() == pytest.approx(data[theirs][:, 0], abs=1e-6), ours
    for ours, theirs in ATOMIC.items():
        if theirs in data:
            expected = data[theirs].reshape(parts[ours].shape)
            assert parts[ours].detach().numpy() == pytest.approx(expected, rel=1e-9, abs=1e-8), ours
    for result, qm, mm, energy in zip(
        model.evaluate(systems), data["grad_qm"], data["grad_mm"], data["V_total"], strict=True
    ):
        assert result["energy"] / KJ_PER_MOL == pytest.approx(energy[0], abs=1e-6)
        assert -result["forces"] / KJ_PER_MOL == pytest.approx(qm, abs=1e-5)
        assert -result["mm_forces"] / KJ_PER_MOL == pytest.approx(mm, abs=1e-5)


def test_induced_multipoles_are_the_published_ones(weights, shared_dir):
    data = np.load(shared_dir / "reference" / "bms_methanol.npz")
    model = _model(weights, "bms_methanol")
    parts = model.parts(_batch(model, reference_systems(data)))
    unit = 37.27404695554026
    for ours, theirs in (("induced_dipoles", "dipos_qmmm"), ("induced_quadrupoles", "quads_qmmm")):
        assert np.abs(data[theirs]).max() > 5e-3
        assert parts[ours].detach().numpy() * unit == pytest.approx(data[theirs], abs=1e-8)


def test_float32_is_close_and_safe_far_from_the_origin(weights, shared_dir):
    data = np.load(shared_dir / "reference" / "bms_alanine_dipeptide.npz")
    model = load_amp_bms(weights)
    (system,) = reference_systems(data)
    here, far = model.evaluate([system, moved(system, shift=[700.0, -300.0, 500.0])])
    for result in (here, far):
        assert result["energy"] / KJ_PER_MOL == pytest.approx(data["V_total"][0, 0], abs=0.02)
        assert -result["forces"] / KJ_PER_MOL == pytest.approx(data["grad_qm"][0], abs=0.05)
        assert -result["mm_forces"] / KJ_PER_MOL == pytest.approx(data["grad_mm"][0], abs=1e-3)


def test_knows_the_elements_it_was_trained_on(weights):
    model = load_amp_bms(weights)
    assert model.elements == [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]
    with pytest.raises(ValueError, match=r"knows nothing of \[5\]"):
        model.evaluate([System([5], np.zeros((1, 3)))])


def test_a_checkpoint_brings_the_model_back(weights, tmp_path):
    from gnn.training.checkpoint import load_model, save_model

    model = load_amp_bms(weights, pol_scaling=1.0)
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    assert isinstance(again, AmpBms)
    (one,), (two,) = model.evaluate([water()]), again.evaluate([water()])
    assert one["energy"] == two["energy"]
    assert np.array_equal(one["mm_forces"], two["mm_forces"])


# --- atoms much too close -------------------------------------------------------------------------


def _pair(numbers, distance: float) -> System:
    return System(numbers, [[0, 0, 0], [0.6 * distance, 0, 0.8 * distance]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("numbers", [(1, 1), (1, 6), (1, 8), (6, 6), (7, 8), (16, 17), (35, 53)])
def test_short_distances_have_forces_that_are_the_gradient(weights, numbers):
    """Features overflow softplus there, so that factors on C6 coefficients are zero: 0/0."""
    model = load_amp_bms(weights).double()
    for distance in (1.0, 0.5, 0.05):
        batch = _batch(model, [_pair(numbers, distance * (1 + h)) for h in (0.0, 1e-6, -1e-6)])
        result = model(batch, forces=True)
        energy = result["energy"].detach()
        slope = float((energy[1] - energy[2]) / (2e-6 * distance))
        force = float(result["forces"][1] @ torch.tensor([0.6, 0, 0.8], dtype=torch.float64))
        assert force == pytest.approx(-slope, rel=1e-4)


@pytest.mark.filterwarnings("error")
def test_energies_beyond_any_atoms_are_refused_with_the_distance(weights):
    model = load_amp_bms(weights)
    words = r"system 1: .* the nearest atoms 0 and 1 \(atomic numbers 1 and 1\) are 0.5 Å apart"
    with pytest.raises(ValueError, match=words):
        model.evaluate([_pair((1, 1), 0.74), _pair((1, 1), 0.5)])
    for numbers in ((1, 1), (6, 6), (7, 9), (17, 53)):
        for distance in (0.3, 0.1, 0.03, 0.0011):
            with pytest.raises(ValueError, match=rf"are {distance:.3g} Å apart"):
                model.evaluate([_pair(numbers, distance)])
    (bonded,) = model.evaluate([_pair((1, 1), 0.74)])
    assert np.isfinite(bonded["forces"]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [0.0, 1e-45, 1e-30, 1e-20])
def test_factors_of_nothing_leave_derivatives_finite(factor):
    """By the compiled loop and by its twin, to second order."""
    from gnn.published.pair_energies import PairEnergies

    model = small_model().float()
    batch = _batch(model, [water(0)])
    operator = PairEnergies(batch, model.dispersion, model.internal_kernel, 4.0)
    factors = torch.tensor([factor, 1.0, 1.0], requires_grad=True)
    charges = torch.tensor([-0.4, 0.2, 0.2])
    inputs = [batch.positions, charges, factors]
    arrays = [t.detach().numpy() for t in inputs]
    values = operator.twin(*inputs)
    assert values.detach().numpy() == pytest.approx(operator.values(*arrays), rel=1e-4)
    (slope,) = torch.autograd.grad(values.sum(), factors, create_graph=True)
    found = operator.gradients(np.ones((1, 3)), *arrays)[2]
    assert slope.detach().numpy() == pytest.approx(found, rel=1e-4)
    (curvature,) = torch.autograd.grad(slope.sum(), factors)
    assert torch.isfinite(curvature).all()


# --- wrong files and arguments --------------------------------------------------------------------


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_amp_bms(tmp_path / "missing")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(ValueError, match="not a state dict of torch"):
        load_amp_bms(tmp_path / "text")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(ValueError, match="expected tensors by name"):
        load_amp_bms(tmp_path / "list")
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"not hold the weights of AMP-BMS: .* is missing"):
        load_amp_bms(tmp_path / "other")


def test_weights_of_another_shape_are_refused(weights, tmp_path):
    state = torch.load(weights, map_location="cpu", weights_only=True)
    state["QM_monos.2.weight"] = torch.zeros(2, 64)
    torch.save(state, tmp_path / "changed")
    with pytest.raises(ValueError, match=r"charge.2.weight has shape \(2, 64\)"):
        load_amp_bms(tmp_path / "changed")
    del state["QM_monos.2.weight"]
    torch.save(state, tmp_path / "short")
    with pytest.raises(ValueError, match=r"charge\.2\.weight is missing"):
        load_amp_bms(tmp_path / "short")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "md"}, "expected mode to be one of"),
        ({"pol_scaling": -1.0}, "finite pol_scaling >= 0"),
        ({"channels": 0}, "channels to be a positive integer"),
        ({"cutoff_mm": float("inf")}, "cutoff_mm to be a finite number > 0"),
        ({"box": [30, 30, 30]}, "no box in mode 'training'"),
        ({"box": [30, 30], "mode": "simulation"}, "box of three edges"),
        ({"box": [30, 30, 17], "mode": "simulation"}, "at least twice the largest cutoff"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        AmpBms(**options)


def test_elements_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match="atomic numbers up to 53, got 79"):
        small_model().evaluate([System([79], np.zeros((1, 3)))])


# --- any potential, with random weights -----------------------------------------------------------


@pytest.mark.parametrize("mode", ["training", "simulation", "simulation-published"])
def test_forces_are_the_gradient(mode):
    model = small_model(mode=mode)
    system, step = water(), 1e-4
    result = model.evaluate([system])[0]
    for name, forces in (("positions", "forces"), ("mm_positions", "mm_forces")):
        for place in ((0, 1), (2, 2)):
            ends = []
            for sign in (1, -1):
                x = {k: getattr(system, k).copy() for k in ("positions", "mm_positions")}
                x[name][place] += sign * step
                other = System(
                    system.numbers, x["positions"], 0, x["mm_positions"], system.mm_charges
                )
                ends.append(model.evaluate([other])[0]["energy"])
            slope = (ends[1] - ends[0]) / (2 * step)
            assert result[forces][place] == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_simulation_modes_differ_in_the_field_only():
    """The published fields are half of the true ones at 3 Å; the potential is one."""
    parts = {}
    for mode in ("training", "simulation", "simulation-published"):
        model = small_model(mode=mode)
        system = System([8], np.zeros((1, 3)), 1.0, [[0, 0, 3.0]], [1.0])
        parts[mode] = model.parts(_batch(model, [system]))
    charge, dipole, quadrupole = (
        parts["training"][k].detach().numpy() for k in ("charges", "dipoles", "quadrupoles")
    )
    assert abs(dipole[0, 2]) > 1e-5  # induced
    unit = COULOMB / KJ_PER_MOL
    for mode, b1 in (("simulation", 0.03548), ("simulation-published", 0.01774)):
        published = mode.endswith("published")
        b0 = 0.01774 * 9
        b2 = 3 * b1 / 9 if published else 0.0
        expected = unit * (charge[0] * b0 + dipole[0, 2] * 3 * b1 + quadrupole[0, 2, 2] * 9 * b2)
        found = parts[mode]["coulomb_mm"].item()
        assert found == pytest.approx(expected, rel=1e-3 if published else 1e-2)


def test_rotation_translation_permutation():
    model = small_model()
    system = methanol()
    rotation = Rotation.random(random_state=3).as_matrix()
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted = System(
        system.numbers[order], system.positions[order], 0, system.mm_positions, system.mm_charges
    )
    one, turned, shuffled = model.evaluate([system, moved(system, rotation, 5.0), permuted])
    assert turned["energy"] == pytest.approx(one["energy"], abs=1e-11)
    for name in ("forces", "mm_forces", "dipoles"):
        assert turned[name] == pytest.approx(one[name] @ rotation.T, abs=1e-10)
    turned_tensor = rotation @ one["quadrupoles"] @ rotation.T
    assert turned["quadrupoles"] == pytest.approx(turned_tensor, abs=1e-12)
    assert shuffled["energy"] == pytest.approx(one["energy"], abs=1e-11)
    assert shuffled["forces"] == pytest.approx(one["forces"][order], abs=1e-11)


def test_a_batch_equals_its_members():
    model = small_model()
    systems = [water(), System([10], np.zeros((1, 3))), methanol(0), water(3, 5, charge=-1.0)]
    together = model.evaluate(systems)
    for system, result in zip(systems, together, strict=True):
        alone = model.evaluate([system])[0]
        for name, value in alone.items():
            assert result[name] == pytest.approx(value, abs=1e-11), name


def test_total_charge_and_traces():
    model = small_model()
    for charge in (0.0, -1.0, 2.0):
        result = model.evaluate([water(charge=charge)])[0]
        assert result["charges"].sum() == pytest.approx(charge, abs=1e-12)
        assert np.trace(result["quadrupoles"], axis1=1, axis2=2) == pytest.approx(0, abs=1e-12)


def test_single_atom_alone_and_with_a_charge():
    model = small_model()
    alone, near = model.evaluate(
        [System([17], np.ones((1, 3)), -1.0), System([17], np.ones((1, 3)), -1.0, [[1, 1, 5]], [1])]
    )
    assert alone["charges"] == pytest.approx([-1])
    assert np.all(alone["forces"] == 0)
    # the ion and the charge see each other by Coulomb's law, and by induction
    assert near["energy"] - alone["energy"] == pytest.approx(-COULOMB / 4, rel=0.1)
    assert near["forces"] == pytest.approx(-near["mm_forces"], abs=1e-10)


def test_dipole_is_the_response_to_a_field():
    model = small_model()
    system = water()
    result = model.evaluate([system])[0]
    moments = result["charges"] @ system.positions + result["dipoles"].sum(0)
    assert result["dipole"] == pytest.approx(moments, abs=1e-10)


@pytest.mark.parametrize("reach", [4.0, 8.0])
def test_energy_is_smooth_at_the_cutoffs(reach):
    """Of edges, where a neighbour passes, and of polarisation, where a charge does."""
    model = small_model(cutoff_pairs=100.0, pol_scaling=1e4)  # which makes induction visible

    def energy(distance: float) -> float:
        if reach == 4.0:
            system = System([8, 7], [[0, 0, 0], [0, 0, distance]], 0.0)
        else:
            system = System([8], np.zeros((1, 3)), 0.0, [[0, 0, distance]], [0.7])
        return model.evaluate([system])[0]["energy"]

    def jumps(h: float) -> np.ndarray:
        """Value, slope and curvature from the outside minus those from the inside."""
        e = np.array([energy(reach + k * h) for k in (-3, -2, -1, 1, 2, 3)])
        below, above = e[[2, 1, 0]], e[[3, 4, 5]]
        value = np.array([3.0, -3.0, 1.0])
        slope = np.array([-5.0, 8.0, -3.0]) / (2 * h)
        return np.array(
            [value @ (above - below), slope @ (above + below), np.diff(above, 2)[0]
             - np.diff(below, 2)[0]]
        ) / [1, 1, h * h]  # fmt: skip

    wide, narrow = np.abs(jumps(0.04)), np.abs(jumps(0.02))
    assert np.all(wide > 1e-12)
    assert np.all(narrow < np.array([0.2, 0.35, 0.6]) * wide)


def test_a_box_brings_the_nearest_images():
    """Wrapped into a box the system is the same; outside a box it is not."""
    system = water(n_mm=40, seed=4)
    box = [22.0, 23.0, 24.0]
    model = small_model(mode="simulation", box=box)
    shifted = moved(system, shift=[10.8, 0.3, 11.9])
    wrapped = System(
        system.numbers,
        shifted.positions % box,
        0,
        shifted.mm_positions % box,
        system.mm_charges,
    )
    assert np.ptp(wrapped.positions, axis=0).max() > 15  # the molecule itself is cut
    one, two = model.evaluate([system, wrapped])
    open_space = small_model(mode="simulation").evaluate([system])[0]
    assert two["energy"] == pytest.approx(one["energy"], abs=1e-10)
    assert two["forces"] == pytest.approx(one["forces"], abs=1e-10)
    assert two["mm_forces"] == pytest.approx(one["mm_forces"], abs=1e-10)
    assert one["energy"] == pytest.approx(open_space["energy"], abs=1e-10)


def test_training_on_forces_has_the_right_gradient():
    """Second derivatives: the slope of a force by a weight, against finite differences."""
    model = small_model()
    batch = _batch(model, [water(), methanol()])
    weights = dict(model.named_parameters())
    names = ["steps.1.coefficients.first.weight", "polarisation.network.0.weight", "charge.0.bias"]

    def loss():
        result = model(batch, forces=True, mm_forces=True, create_graph=True)
        return (result["forces"] ** 2).sum() + 100 * (result["mm_forces"] ** 2).sum()

    slopes = torch.autograd.grad(loss(), [weights[name] for name in names])
    for name, slope in zip(names, slopes, strict=True):
        place, step = int(slope.abs().argmax()), 1e-5
        with torch.no_grad():
            flat = weights[name].view(-1)
            flat[place] += step
            above = float(loss().detach())
            flat[place] -= 2 * step
            below = float(loss().detach())
            flat[place] += step
        found = float(slope.flatten()[place])
        assert found == pytest.approx((above - below) / (2 * step), rel=1e-4), name


def test_baseline_is_what_labels_have_beside_the_model():
    model = small_model()
    systems = [water(seed=i) for i in range(3)] + [methanol(seed=i) for i in range(3)]
    constants = {1: -13.0, 6: -1030.0, 8: -2040.0}
    own = model.evaluate(systems)
    labels = [
        r["energy"] + sum(constants[z] for z in s.numbers.tolist())
        for r, s in zip(own, systems, strict=True)
    ]
    frames = [Frame(s, energy=e) for s, e in zip(systems, labels, strict=True)]
    model.set_baseline(frames)
    found = [result["energy"] for result in model.evaluate(systems)]
    assert found == pytest.approx(labels, abs=1e-6)
    assert model.elements == [1, 6, 8]
    model.set_baseline(frames)  # again: nothing is left to fit
    assert [r["energy"] for r in model.evaluate(systems)] == pytest.approx(labels, abs=1e-6)


def test_trains_like_any_model():
    from tiny import methanol as frames_of_methanol
    from tiny import tiny_trainer

    frames = frames_of_methanol()
    model = small_model().float().train()
    model.set_baseline(frames[:12])
    trainer = tiny_trainer(model=model, frames=frames, epochs=12, learning_rate=3e-3)

    def force_error(trained):
        results = trained.evaluate(frames[:12])
        return np.mean([((r["forces"] - f.forces) ** 2).mean() for r, f in zip(
            results, frames[:12], strict=True)])  # fmt: skip

    before = force_error(model)
    trainer.run()
    assert force_error(trainer.model) < 0.9 * before


def test_config_builds_the_same_architecture():
    model = small_model(mode="simulation", box=(30, 30, 31), pol_scaling=1.0)
    again = AmpBms(**model.config()).double()
    again.load_state_dict(model.state_dict())
    one, two = (m.evaluate([water()])[0]["energy"] for m in (model, again))
    assert one == two
    assert {**SMALL, "mode": "simulation", "pol_scaling": 1.0}.items() <= model.config().items()


def test_surrounding_multipoles_and_fields_take_part_in_the_electrostatics():
    model = small_model()
    plain = water(1)
    with_field = System(
        plain.numbers, plain.positions, 0, plain.mm_positions, plain.mm_charges,
        mm_dipoles=[[0, 0, 0.5]], uniform_field=[0, 0, 0.1],
    )  # fmt: skip
    one, two = model.evaluate([plain, with_field])
    assert one["dipoles"] == pytest.approx(two["dipoles"])  # they do not polarise
    offset = plain.positions - plain.mm_positions
    r = np.linalg.norm(offset, axis=1)
    potential = 0.5 * COULOMB * offset[:, 2] / r**3
    expected = one["charges"] @ potential - 0.1 * one["dipole"][2]
    assert two["energy"] - one["energy"] == pytest.approx(expected, rel=0.5)
    model.mode = "simulation"
    with pytest.raises(ValueError, match="surrounding charges only"):
        model.evaluate([with_field])


def test_simulation_modes_refuse_fields_and_still_give_a_dipole():
    torch.manual_seed(0)
    model = AmpBms(mode="simulation").double()
    water = [8, 1, 1], [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]
    with pytest.raises(ValueError, match="no uniform or external field"):
        model.evaluate([System(*water, uniform_field=[0.1, 0, 0])])
    with pytest.raises(ValueError, match="no uniform or external field"):
        model.evaluate([System(*water, external_field=np.ones((3, 1)))])
    (result,) = model.evaluate([System(*water)])
    expected = result["charges"] @ np.array(water[1]) + result["dipoles"].sum(0)
    np.testing.assert_allclose(result["dipole"], expected, atol=1e-12)
