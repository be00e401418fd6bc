"""The AMP model: exact gradients, symmetries, smoothness, batches, precision."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gnn import AMP, Frame, System
from gnn.data import collate
from gnn.options import LongRange, Network, Surroundings

ETHANOL_LIKE = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])


def _molecule(seed=0, n_mm=12, charge=0):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) - 1.0
    rows = rng.permutation(len(grid))[: len(ETHANOL_LIKE)]
    positions = 1.4 * grid[rows] + rng.uniform(-0.2, 0.2, (len(rows), 3))
    directions = rng.standard_normal((n_mm, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mm = directions * rng.uniform(4.5, 9.0, (n_mm, 1))
    return _even(System(ETHANOL_LIKE, positions, charge, mm, rng.uniform(-0.8, 0.8, n_mm)))


def _even(system):
    """The system with its charge spread over all atoms: these are no molecules of chemistry."""
    return system.with_charges(np.full(system.n_atoms, system.charge / system.n_atoms))


def _model(order=2, dtype=torch.float64, **options):
    torch.manual_seed(order)
    model = AMP(order, 5, 12, network=Network(hidden=16), **options).to(dtype)
    with torch.no_grad():  # biases and output layers off their neutral start
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _twin(model):
    """The same model in plain torch, with edge networks that are not split."""
    changes = {"backend": "torch", "network": {"hidden": 16, "split": False}}
    twin = AMP.from_config(model.config() | changes).double()
    twin.load_state_dict(model.state_dict())
    return twin


def _changed(system, **changes):
    values = {
        name: getattr(system, name)
        for name in ("numbers", "positions", "charge", "mm_positions", "mm_charges")
    }
    return _even(System(**(values | changes)))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_forces_are_the_gradient_of_the_energy(order, backend):
    model, system = _model(order, backend=backend), _molecule(charge=1)
    result = model.evaluate([system])[0]
    for name, forces in (("positions", "forces"), ("mm_positions", "mm_forces")):
        rng = np.random.default_rng(1)
        direction = rng.standard_normal(getattr(system, name).shape)
        step = 1e-4
        energies = model.evaluate(
            [
                _changed(system, **{name: getattr(system, name) + k * step * direction})
                for k in (-2, -1, 1, 2)
            ]
        )
        e = [r["energy"] for r in energies]
        slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)
        expected = -(result[forces] * direction).sum()
        assert slope == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_compiled_equals_torch(order):
    fast, system = _model(order, long_range=LongRange()), _molecule()
    slow = _twin(fast)
    for one, two in zip(fast.evaluate([system]), slow.evaluate([system]), strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_rotation_translation_permutation(order):
    model, system = _model(order, long_range=LongRange()), _molecule(charge=-1)
    R = Rotation.from_quat(np.random.default_rng(3).normal(size=4)).as_matrix()
    shift = np.array([3.0, -8.0, 5.0])
    atoms, particles = np.random.default_rng(4).permutation(9), np.arange(12)[::-1]
    moved = _even(
        System(
            system.numbers[atoms],
            system.positions[atoms] @ R.T + shift,
            system.charge,
            system.mm_positions[particles] @ R.T + shift,
            system.mm_charges[particles],
        )
    )
    one, two = model.evaluate([system, moved])
    assert two["energy"] == pytest.approx(one["energy"], abs=1e-10)
    close = {"rtol": 0, "atol": 1e-10}
    np.testing.assert_allclose(two["forces"], one["forces"][atoms] @ R.T, **close)
    np.testing.assert_allclose(two["mm_forces"], one["mm_forces"][particles] @ R.T, **close)
    np.testing.assert_allclose(two["charges"], one["charges"][atoms], **close)
    np.testing.assert_allclose(two["dipoles"], one["dipoles"][atoms] @ R.T, **close)
    turned = R @ one["quadrupoles"][atoms] @ R.T
    np.testing.assert_allclose(two["quadrupoles"], turned, **close)
    np.testing.assert_allclose(two["dipole"], R @ one["dipole"] + system.charge * shift, **close)


def test_no_net_force_and_no_net_torque():
    system = _molecule()
    result = _model().evaluate([system])[0]
    forces = np.concatenate([result["forces"], result["mm_forces"]])
    points = np.concatenate([system.positions, system.mm_positions])
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-11)
    np.testing.assert_allclose(np.cross(points, forces).sum(0), 0, atol=1e-10)


def test_a_batch_equals_single_systems():
    model = _model(long_range=LongRange())
    systems = [
        _molecule(0, n_mm=12),
        System([8], [[0.0, 0.0, 0.0]], -2, [[3.0, 0, 0]], [0.4]),
        _molecule(1, n_mm=0, charge=1),
        System([1, 9], [[0.0, 0, 0], [0.92, 0, 0]]),
        System([3], [[1.0, 2.0, 3.0]], 1),
        _even(System([1, 1], [[0.0, 0, 0], [40.0, 0, 0]], 0, [[2.0, 2, 2]], [0.3])),
    ]
    together = model.evaluate(systems)
    for system, result in zip(systems, together, strict=True):
        alone = model.evaluate([system])[0]
        for name in alone:
            np.testing.assert_allclose(result[name], alone[name], rtol=0, atol=1e-10)
        assert result["charges"].sum() == pytest.approx(system.charge, abs=1e-12)
        assert np.isfinite(result["energy"])


def test_multipoles_conserve_charge_and_are_traceless():
    result = _model(3).evaluate([_molecule(charge=2)])[0]
    assert result["charges"].sum() == pytest.approx(2, abs=1e-12)
    np.testing.assert_allclose(np.trace(result["quadrupoles"], axis1=1, axis2=2), 0, atol=1e-13)
    np.testing.assert_allclose(
        result["quadrupoles"], result["quadrupoles"].swapaxes(1, 2), atol=1e-14
    )


def _second_differences(model, systems):
    results = model.evaluate(systems)
    energy = np.array([r["energy"] for r in results])
    forces = np.array([np.concatenate([r["forces"], r["mm_forces"]]) for r in results])
    return np.abs(np.diff(energy, 2)).max(), np.abs(np.diff(forces, 2, axis=0)).max()


def _across_cutoff(model):
    """Yield second differences of energy and forces at two step widths, across each cutoff."""
    far = np.array([[0.0, 0, 0], [1.2, 0, 0], [0.3, 1.1, 0], [0, 0, 0]])

    def at(r, extra):
        positions = far.copy()
        positions[3] = [r, 0.0, 0.0] if not extra else [r + 1.2, 0.0, 0.0]
        return _even(System([8, 6, 1, 1], positions, 0, [[0.0, 3.0, 3.0]], [0.5]))

    for extra in (False, True):  # across the cutoff of one neighbour, then of the other
        coarse = [at(r, extra) for r in model.cutoff + np.linspace(-0.02, 0.02, 21)]
        fine = [at(r, extra) for r in model.cutoff + np.linspace(-0.01, 0.01, 21)]
        (e1, f1), (e2, f2) = (_second_differences(model, s) for s in (coarse, fine))
        # a smooth function's second difference falls with the square of the step, a jump's not
        yield e1, f1, e2, f2


@pytest.mark.parametrize("order", [0, 2, 3])
@pytest.mark.parametrize("long_range", [None, LongRange()])
def test_nothing_jumps_where_an_atom_crosses_the_cutoff(order, long_range):
    for e1, f1, e2, f2 in _across_cutoff(_model(order, long_range=long_range)):
        # halving the step, a second difference falls to a quarter for C2, to a half at a kink
        assert e2 < 0.3 * e1 + 1e-11
        assert f2 < 0.3 * f1 + 1e-11


def test_the_test_of_smoothness_sees_a_kink_in_the_force(monkeypatch):
    def once_differentiable(distances, cutoff):
        x = distances / cutoff
        return (1 - x) ** 2 * (1 + 2 * x) * (x < 1)

    monkeypatch.setattr("gnn.operators.fused.envelope", once_differentiable)
    monkeypatch.setattr(AMP, "_compiled", lambda *_: None)
    assert any(f2 > 0.3 * f1 + 1e-11 for _, f1, _, f2 in _across_cutoff(_model(2)))


def test_the_network_sees_the_charge_of_the_system():
    for system in (_molecule(n_mm=0), System([3], [[0.0, 0, 0]])):
        model = _model(electrostatics=None)
        neutral, charged = model.evaluate([system, _changed(system, charge=1)])
        assert abs(neutral["energy"] - charged["energy"]) > 1e-4
    neutral, charged = model.evaluate([_molecule(), _changed(_molecule(), charge=1)])
    assert np.abs(neutral["dipoles"] - charged["dipoles"]).max() > 1e-5


def test_without_surroundings_in_messages_the_network_does_not_see_them():
    model, system = _model(surroundings=Surroundings(in_messages=False)), _molecule()
    inside, alone = model.evaluate([system, _changed(system, mm_positions=None, mm_charges=None)])
    for name in ("charges", "dipoles", "quadrupoles"):
        np.testing.assert_allclose(inside[name], alone[name], rtol=0, atol=1e-14)
    assert abs(inside["energy"] - alone["energy"]) > 1e-6
    assert np.abs(inside["mm_forces"]).max() > 1e-6


def test_results_that_are_not_finite_are_refused():
    model = _model(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"system 1: .*NaN or infinity"):
        model.evaluate([_molecule(), _changed(_molecule(n_mm=1), mm_charges=[1e36])])
    with pytest.raises(TypeError, match="list of systems"):
        model.evaluate(_molecule())
    with pytest.raises(ValueError, match="batch_size"):
        model.evaluate([_molecule()], batch_size=0)


@pytest.mark.filterwarnings("ignore:no frame has an energy")
def test_baseline_tells_charge_from_composition():
    water, cation = System([8, 1, 1], np.eye(3)), System([8, 1, 1], np.eye(3), 1)
    model = _model()
    model.set_baseline([Frame(water, energy=-2079.0), Frame(cation, energy=-2066.4)])
    assert model.charge_baseline == pytest.approx(12.6)
    model.set_baseline([Frame(water, forces=np.zeros((3, 3)))])
    assert model.elements == [1, 8] and model.baseline.abs().max() == 0


def test_nothing_jumps_along_the_path_of_a_surrounding_charge():
    model, base = _model(), _molecule(n_mm=1)
    for radius in (5.0, 8.0, 9.0, 10.0, 14.0, 30.0):
        direction = np.array([0.6, 0.48, 0.64])

        def at(r, direction=direction):
            return _changed(base, mm_positions=[r * direction], mm_charges=[0.8])

        coarse = [at(r) for r in radius + np.linspace(-0.02, 0.02, 21)]
        fine = [at(r) for r in radius + np.linspace(-0.01, 0.01, 21)]
        (e1, f1), (e2, f2) = (_second_differences(model, s) for s in (coarse, fine))
        assert e2 < 0.3 * e1 + 1e-11 and f2 < 0.3 * f1 + 1e-11


def test_float32_far_from_the_origin_is_as_good_as_at_it():
    model = _model(dtype=torch.float32)
    exact = AMP.from_config(model.config()).double()
    exact.load_state_dict({k: v.double() if v.is_floating_point() else v
                           for k, v in model.state_dict().items()})  # fmt: skip
    system = _molecule()
    shift = np.array([100.0, -100.0, 100.0])
    moved = _changed(
        system, positions=system.positions + shift, mm_positions=system.mm_positions + shift
    )
    truth = exact.evaluate([system])[0]
    errors = [np.abs(r["forces"] - truth["forces"]).max() for r in model.evaluate([system, moved])]
    scale = np.abs(truth["forces"]).max()
    assert errors[0] < 1e-4 * scale
    assert errors[1] < 2 * errors[0] + 1e-6 * scale


def test_a_constant_potential_acts_on_the_charge_alone():
    """A distant shell of charge makes a constant potential: only charge times it may change."""
    model, system = _model(), _molecule(n_mm=0, charge=1)
    shell = np.random.default_rng(0).standard_normal((4000, 3))
    shell = np.concatenate([shell, -shell])
    shell *= 1e5 / np.linalg.norm(shell, axis=1, keepdims=True)
    from gnn.units import COULOMB

    charge = 100.0 / COULOMB * 1e5 / len(shell)  # a potential of 100 V
    centre = system.positions.mean(0)
    inside = _changed(system, mm_positions=shell + centre, mm_charges=np.full(len(shell), charge))
    free, shifted = model.evaluate([system, inside])
    assert shifted["energy"] - free["energy"] == pytest.approx(100.0, abs=1e-3)
    np.testing.assert_allclose(shifted["charges"], free["charges"], atol=1e-4)


def _two_groups(distance, turn=0.0):
    """Two molecules at a distance, the second turned about an axis across it."""
    one = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    rotation = Rotation.from_euler("y", turn).as_matrix()
    return System([8, 1, 1] * 2, np.concatenate([one, one @ rotation.T + [distance, 0, 0]]))


def test_atoms_beyond_the_cutoff_act_through_their_states_only_if_long_ranged():
    """And the action depends on how they are turned: it is anisotropic."""
    for long_range in (None, LongRange()):
        model = _model(electrostatics=None, long_range=long_range)
        near, turned, far = model.evaluate(
            [_two_groups(12.0), _two_groups(12.0, 1.0), _two_groups(40.0)]
        )
        acts = abs(near["energy"] - far["energy"]) > 1e-8
        turns = abs(near["energy"] - turned["energy"]) > 1e-8
        assert (acts, turns) == (long_range is not None,) * 2
        assert (np.abs(near["forces"].reshape(2, 3, 3).sum(1)).max() > 1e-8) == acts


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize(("monopoles", "power"), [("local", 3), ("free", 2)])
def test_the_field_of_states_falls_as_its_order_says(order, monopoles, power):
    """Charges in the state act as 1/r^2 on another atom's force, dipoles as 1/r^3."""
    model = _model(order, electrostatics=None, long_range=LongRange(monopoles=monopoles))
    forces = [
        result["forces"][:3].sum(0)[0]
        for result in model.evaluate([_two_groups(r, 1.0) for r in (400.0, 800.0)])
    ]
    assert np.log2(forces[0] / forces[1]) == pytest.approx(power, abs=0.05)


def test_config_rebuilds_and_baseline_is_fitted():
    model = _model(1)
    assert AMP.from_config(model.config()).config() == model.config()
    systems = [System([1, 1], [[0, 0, 0], [0.74, 0, 0]]), System([8, 1], [[0, 0, 0], [0.97, 0, 0]])]
    model.set_baseline([Frame(s, energy=e) for s, e in zip(systems, (-32.0, -2070.0), strict=True)])
    assert model.elements == [1, 8]
    assert model.baseline[1] == pytest.approx(-16) and model.baseline[8] == pytest.approx(-2054)
    with pytest.raises(ValueError, match=r"trained on elements \[1, 8\].*\[6\]"):
        model.evaluate([System([6], [[0.0, 0, 0]])])


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": 4},
        {"order": 2.0},
        {"channels": 0},
        {"features": True},
        {"cutoff": -1.0},
        {"cutoff": float("inf")},
        {"method": "torch"},
        {"backend": "c"},
        {"tolerance": 0.0},
        {"steps": 1.5},
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AMP(**wrong)


@pytest.mark.parametrize("charges", ["shared", "local"])
def test_training_gradients_equal_those_of_the_twin(charges):
    """The double backward that training on forces needs, compiled against plain torch."""
    fast = _model(2, long_range=LongRange(), charges=charges)
    slow = _twin(fast)
    batch = collate([_molecule(0), _molecule(1, 7)], fast.cutoff, torch.float64)
    for model in (fast, slow):
        out = model(batch, forces=True, mm_forces=True, create_graph=True)
        loss = out["energy"].sum() + out["forces"].square().sum() + out["mm_forces"].square().sum()
        (loss + out["dipole"].square().sum()).backward()
    for (name, one), (_, two) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        # random transfers of charge make gradients of 1e8, and small ones beside them are rounded
        rounding = 1e-13 * float(two.grad.abs().max()) if charges == "local" else 0.0
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-7, atol=1e-9 + rounding, msg=name)
