"""The ASE calculator: the model's numbers, exact forces, and ASE's own programs on top of it."""

import importlib
import sys

import numpy as np
import pytest
import torch
from published_cases import WEIGHTS, small_model

import multipoles as mp
from gnn import AMP, System, load_model
from gnn.data import load_shipped, read_frames
from gnn.engines.spread import Spread, SpreadExceeded
from gnn.options import Network
from gnn.training.checkpoint import save_model
from gnn.training.committee import Committee, perturb
from gnn.units import COULOMB

ase = pytest.importorskip("ase", reason="needs the package ase (extra 'engines')")
from ase import Atoms, units  # noqa: E402
from ase.build import molecule  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError  # noqa: E402
from ase.calculators.qmmm import EIQMMM, LJInteractions  # noqa: E402
from ase.calculators.tip3p import TIP3P, epsilon0, sigma0  # noqa: E402
from ase.io import Trajectory, write  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.optimize import BFGS  # noqa: E402
from ase.vibrations import Infrared  # noqa: E402

from gnn.engines.ase import AMPCalculator  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return load_model().double()


@pytest.fixture(scope="module")
def embedded():
    """Return shipped frames of each molecule, in the charges of water."""
    return {frame.name: frame.system for frame in load_shipped() if frame.group == "first"}


@pytest.fixture(scope="module")
def relaxed(model):
    """Return methanol at the model's minimum in vacuum."""
    atoms = molecule("CH3OH", calculator=AMPCalculator(model))
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=100)
    atoms.calc = None
    return atoms


# harmonic wavenumbers of methanol in 1/cm by B3LYP/6-31G* (PySCF, at its own minimum)
FREQUENCIES = [347, 1070, 1099, 1181, 1399, 1513, 1525, 1541, 2996, 3038, 3132, 3751]


def surroundings(system):
    return {"mm_positions": system.mm_positions, "mm_charges": system.mm_charges}


def atoms_in(system, model, **options):
    calculator = AMPCalculator(model, **(surroundings(system) | options))
    return Atoms(system.numbers, system.positions, calculator=calculator)


def slope(value, step=1e-4):
    """Return the derivative at zero, to fourth order in the step."""
    e = [value(k * step) for k in (-2, -1, 1, 2)]
    return (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)


def warm(atoms, temperature, seed=3):
    """Give the atoms momenta of a temperature in K."""
    width = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(width[:, None] * np.random.default_rng(seed).standard_normal((len(atoms), 3)))


def droplet(calculator, n_waters=4):
    """Return methanol in some TIP3P waters, in ASE's QM/MM with embedding."""
    solute = molecule("CH3OH")
    water = np.array([[0, 0, 0], [0.7570, 0, 0.5859], [-0.7570, 0, 0.5859]])
    places = 3.4 * np.array([[1, 0, 0], [-1, 0.3, 0], [0, 1.1, 0], [0, 0, 1.2]])[:n_waters]
    atoms = solute + Atoms("OHH" * n_waters, (places[:, None] + water).reshape(-1, 3))
    interaction = LJInteractions({("O", "O"): (epsilon0, sigma0), ("C", "O"): (0.005, 3.4)})
    atoms.calc = EIQMMM(range(6), calculator, TIP3P(rc=20.0), interaction)
    return atoms


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["meoh", "oac"])
def test_gives_what_the_model_gives(model, embedded, name):
    system = embedded[name]
    atoms = atoms_in(system, model, charge=system.charge)
    (expected,) = model.evaluate([system])
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-9)
    assert atoms.get_charges() == pytest.approx(expected["charges"], abs=1e-12)
    assert atoms.get_forces() == pytest.approx(expected["forces"], abs=1e-10)
    assert atoms.get_dipole_moment() == pytest.approx(expected["dipole"], abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.calc.get_forces_on_point_charges() == pytest.approx(expected["mm_forces"])
    for kind, values in atoms.calc.get_atomic_multipoles(atoms).items():
        assert values == pytest.approx(expected[kind], abs=1e-12), kind
    assert atoms.get_charges().sum() == pytest.approx(system.charge, abs=1e-10)


def test_forces_are_the_gradient(model, embedded):
    system = embedded["mam"]
    atoms = atoms_in(system, model, charge=1, uniform_field=[0.05, -0.1, 0.2])
    rng = np.random.default_rng(0)
    start, particles = atoms.positions.copy(), system.mm_positions
    on_atoms = rng.standard_normal(start.shape)
    on_charges = rng.standard_normal(particles.shape)
    forces, mm_forces = atoms.get_forces(), atoms.calc.get_forces_on_point_charges()

    def moved_atoms(x):
        atoms.positions = start + x * on_atoms
        return atoms.get_potential_energy()

    assert slope(moved_atoms) == pytest.approx(-(forces * on_atoms).sum(), rel=1e-6)
    atoms.positions = start

    def moved_charges(x):
        atoms.calc.set(mm_positions=particles + x * on_charges)
        return atoms.get_potential_energy()

    assert slope(moved_charges) == pytest.approx(-(mm_forces * on_charges).sum(), rel=1e-6)


def test_dipole_is_the_response_to_a_field(model, embedded):
    system = embedded["meoh"]
    atoms = atoms_in(system, model)
    dipole = atoms.get_dipole_moment()
    for axis in range(3):

        def in_field(x, axis=axis):
            atoms.calc.set(uniform_field=x * np.eye(3)[axis])
            return atoms.get_potential_energy()

        assert slope(in_field) == pytest.approx(-dipole[axis], rel=1e-5, abs=1e-7)


def test_multipoles_around_the_atoms(model, embedded):
    system, rng = embedded["meoh"], np.random.default_rng(1)
    given = surroundings(system) | {
        "mm_dipoles": 0.1 * rng.standard_normal((system.n_mm, 3)),
        "mm_quadrupoles": np.tile(np.diag([0.1, 0.1, -0.2]), (system.n_mm, 1, 1)),
    }
    atoms = Atoms(system.numbers, system.positions, calculator=AMPCalculator(model, **given))
    (expected,) = model.evaluate([System(system.numbers, system.positions, **given)])
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-9)


def test_a_field_given_as_a_function_moves_with_the_atoms(model):
    """Charges as such a function act as they do as charges, where they are no point charges."""
    atoms = molecule("CH3OH")
    place, charge = np.array([[0.0, 0, 7.0]]), np.array([0.8])

    def field(positions):
        return COULOMB * mp.field(positions, place, charge[:, None], order=3)

    atoms.calc = AMPCalculator(model, external_field=field)
    forces, start = atoms.get_forces(), atoms.positions.copy()
    direction = np.random.default_rng(2).standard_normal(start.shape)

    def moved(x):
        atoms.positions = start + x * direction
        return atoms.get_potential_energy()

    assert slope(moved) == pytest.approx(-(forces * direction).sum(), rel=1e-6)
    atoms.positions = start
    given = atoms.get_potential_energy()
    atoms.calc.set(external_field=None, mm_positions=place, mm_charges=charge)
    assert atoms.get_potential_energy() == pytest.approx(given, abs=1e-6)
    atoms.calc.set(mm_positions=None, mm_charges=None)
    assert abs(atoms.get_potential_energy() - given) > 1e-3


def test_types(model, embedded):
    system = embedded["meoh"]
    exact = atoms_in(system, model).get_forces()
    for dtype in ("float32", torch.float32):
        atoms = atoms_in(system, model, dtype=dtype)
        assert atoms.calc.model.dtype == torch.float32
        difference = np.abs(atoms.get_forces() - exact).max()
        assert 0 < difference < 1e-3
    assert model.dtype == torch.float64  # the caller's stays as it is
    assert AMPCalculator(model).model.dtype == torch.float64


def test_takes_the_shipped_model_and_paths(model, embedded, tmp_path):
    system = embedded["meoh"]
    expected = atoms_in(system, model).get_potential_energy()
    save_model(tmp_path / "model.pt", model)
    for given in (None, tmp_path / "model.pt", str(tmp_path / "model.pt")):
        atoms = atoms_in(system, given, dtype="float64")
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-9)


# --- what is kept, and what is computed -----------------------------------------------------------


@pytest.fixture
def counted(model, monkeypatch):
    """Return methanol and a list that grows with each evaluation: whether with derivatives."""
    atoms = molecule("CH3OH", calculator=AMPCalculator(model))
    calls = []
    evaluate = atoms.calc.model.evaluate

    def counting(systems, forces, stress):
        calls.append(forces)
        return evaluate(systems, forces=forces, stress=stress)

    monkeypatch.setattr(atoms.calc.model, "evaluate", counting)
    return atoms, calls


def test_derivatives_are_taken_when_asked_for(counted):
    atoms, calls = counted
    energy = atoms.get_potential_energy()
    atoms.get_charges()
    assert calls == [False]
    atoms.get_forces()
    atoms.get_dipole_moment()
    atoms.calc.get_forces_on_point_charges()
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    assert calls == [False, True]


def test_what_changes_the_energy_discards_results(counted):
    atoms, calls = counted
    place, charge = [[0, 0, 4.0]], [0.5]

    def energy_after(*, changed=True, **surrounding):
        before = len(calls)
        atoms.calc.set(**surrounding)
        energy = atoms.get_potential_energy()
        assert len(calls) - before == changed
        return energy

    alone = energy_after()
    near = energy_after(mm_positions=place, mm_charges=charge)
    assert near == energy_after(changed=False, mm_positions=np.array(place))
    assert near != energy_after(mm_charges=[0.4])
    assert near != energy_after(mm_positions=[[0, 0, 5.0]])
    assert alone == energy_after(mm_positions=None, mm_charges=None)
    assert alone != energy_after(uniform_field=[0, 0, 0.1])
    assert alone == energy_after(uniform_field=None)
    assert alone != energy_after(charge=1)


def test_arrays_are_copied(model):
    place = np.array([[0, 0, 4.0]])
    atoms = molecule("CH3OH", calculator=AMPCalculator(model, mm_positions=place, mm_charges=[1]))
    before = atoms.get_potential_energy()
    place += 1.0
    atoms.rattle(1e-12)
    assert atoms.get_potential_energy() == pytest.approx(before, abs=1e-8)
    forces = atoms.calc.get_forces_on_point_charges()
    forces += 1.0
    assert np.abs(atoms.calc.get_forces_on_point_charges() - forces).min() > 0.5


def test_total_charge_of_the_atoms(model, embedded):
    system = embedded["oac"]
    systems = [System(system.numbers, system.positions, q) for q in (0, -1, 1)]
    neutral, anion, cation = (result["energy"] for result in model.evaluate(systems))
    atoms = Atoms(system.numbers, system.positions, calculator=AMPCalculator(model))
    assert atoms.get_potential_energy() == pytest.approx(neutral)
    partial = np.zeros(len(atoms))
    partial[:2] = -0.3, -0.7000001
    atoms.set_initial_charges(partial)
    assert atoms.get_potential_energy() == pytest.approx(anion, abs=1e-8)
    for name, value, expected in (
        ("total_charge", 1, cation),
        ("charge", -1.0, anion),
        ("charge", np.int64(1), cation),
        ("charge", "-1", anion),
        ("charge", "1+", cation),
        ("charge", np.array(-1), anion),
    ):
        atoms.set_initial_charges(None)
        atoms.info = {name: value}
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-8), (name, value)
    atoms.info = {"charge": None}  # says nothing
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-8)
    atoms.info = {"charge": 1}
    atoms.calc.set(charge=0)  # whatever the atoms say
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-8)
    assert min(abs(neutral - anion), abs(neutral - cation), abs(anion - cation)) > 0.1


def test_a_file_and_the_calculator_agree_on_the_charge(model, tmp_path, recwarn):
    """One rule: initial charges count for both; the energies differ by 1.4 eV without them."""
    acetate = molecule("CH3COOH")
    del acetate[3]  # the proton
    acetate.set_initial_charges([0, -0.6, -0.6, 0.2, 0, 0, 0])
    write(tmp_path / "acetate.extxyz", acetate)
    (frame,) = read_frames(tmp_path / "acetate.extxyz")
    assert frame.system.charge == -1
    acetate.calc = AMPCalculator(model)
    (expected,) = model.evaluate([frame])
    assert acetate.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-5)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("info", "initial", "message"),
    [
        ({"charge": -1, "total_charge": 0}, None, "'total_charge' is 0; 'charge' is -1"),
        ({"charge": 0}, -1.0, "'charge' is 0; 'initial_charges' of the atoms add up to -1"),
        ({"charge": "-1 1"}, None, "'charge': expected one whole number .* got '-1 1'"),
        ({"charge": np.nan}, None, "'charge': expected one whole number .* got nan"),
    ],
)
def test_charges_that_contradict_are_refused(model, info, initial, message):
    atoms = molecule("CH3OH", calculator=AMPCalculator(model))
    atoms.info.update(info)
    if initial is not None:
        atoms.set_initial_charges([initial] + [0] * 5)
    with pytest.raises(ValueError, match=message):
        atoms.get_potential_energy()


def test_names_like_that_of_a_charge_are_named_once(model):
    atoms = molecule("CH3OH", calculator=AMPCalculator(model))
    atoms.info.update(net_charge=-1, Charge=0, spin=2)
    with pytest.warns(UserWarning, match=r"'net_charge' \(-1\) looks like a total charge") as found:
        for _ in range(2):
            atoms.get_potential_energy()
            atoms.rattle(1e-3)
    assert len(found) == 1  # not for a charge of zero, which is what is used


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, TypeError, "expected a model or the path of a checkpoint, got int"),
        ({"model": "missing.pt"}, FileNotFoundError, "no checkpoint at missing.pt"),
        ({"dtype": "float16"}, TypeError, "dtype to be 'float32' or 'float64', got 'float16'"),
        ({"dtype": "double precision"}, TypeError, "got 'double precision'"),
        ({"charge": 0.5}, ValueError, "charge: expected one whole number"),
        ({"mm_positions": [0, 0, 1]}, ValueError, r"mm_positions: expected shape \(any, 3\)"),
        ({"mm_charges": [np.nan]}, ValueError, "mm_charges: expected finite numbers"),
        ({"mm_charges": ["a"]}, TypeError, "expected an array of real numbers"),
        ({"uniform_field": 1.0}, ValueError, r"uniform_field: expected shape \(3\), got \(\)"),
        ({"external_field": [1.0]}, TypeError, "expected a function that takes positions"),
    ],
)
def test_arguments_are_checked(model, options, error, message):
    with pytest.raises(error, match=message):
        AMPCalculator(**({"model": model} | options))


def test_only_known_parameters_can_be_set(model):
    with pytest.raises(
        ValueError, match="cannot set mm_position, only charge, charges, mm_positions"
    ):
        AMPCalculator(model).set(mm_position=[[0, 0, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mm_charges": [1.0]}, "mm_charges is given without mm_positions"),
        ({"mm_positions": [[9, 9, 9]], "mm_charges": [1, 2]}, r"mm_charges: expected shape \(1\)"),
        ({"mm_positions": np.zeros((1, 3)), "mm_charges": [1]}, "MM charge 0 lies on atom"),
        ({"external_field": lambda x: np.zeros((2, 4))}, r"external_field: expected shape"),
    ],
)
def test_surroundings_must_fit_the_atoms(model, options, message):
    atoms = molecule("CH3OH")
    atoms.positions -= atoms.positions[0]
    atoms.calc = AMPCalculator(model, **options)
    for _ in range(2):  # the second time, too
        with pytest.raises(ValueError, match=message):
            atoms.get_forces()


def test_atoms_that_cannot_be_computed(model):
    calculator = AMPCalculator(model)
    with pytest.raises(ValueError, match=r"knows nothing of \[14\]"):
        molecule("SiH4", calculator=calculator).get_potential_energy()
    with pytest.raises(ValueError, match="there are no atoms yet"):
        AMPCalculator(model).get_property("energy")
    with pytest.raises(ValueError, match=r"shape \(n,\) with n >= 1"):
        Atoms(calculator=calculator).get_potential_energy()
    with pytest.raises(PropertyNotImplementedError):
        molecule("CH3OH", calculator=calculator).get_stress()
    atoms = molecule("CH3OH", calculator=calculator)
    atoms.set_initial_charges([0.3] + [0] * 5)
    with pytest.raises(ValueError, match=r"add up to 0\.3 e, no whole number"):
        atoms.get_potential_energy()


def test_a_cell_alone_changes_nothing(model):
    atoms = molecule("CH3OH", calculator=AMPCalculator(model))
    energy = atoms.get_potential_energy()
    atoms.set_cell([9.0, 9.0, 9.0])
    assert atoms.get_potential_energy() == energy
    assert not atoms.calc.calculation_required(atoms, ["energy"])


def test_without_ase_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ase", None)
    monkeypatch.delitem(sys.modules, "gnn.engines.ase")
    with pytest.raises(
        ImportError, match=r"needs the package ase: in a checkout, pip install '\.\[engines"
    ):
        importlib.import_module("gnn.engines.ase")


# --- committees ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committee(model):
    """Return the model that ships and one whose weights are perturbed, with scaled spreads."""
    other = load_model().double()
    perturb(other, 0.02, seed=1)
    return Committee([model, other], {"energy": 3.0, "forces": 2.0})


def test_results_hold_the_spread_of_a_committee(committee, embedded, tmp_path):
    system = embedded["meoh"]
    atoms = atoms_in(system, committee)
    (expected,) = committee.evaluate([system], unknown="ignore")
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_std"] == pytest.approx(expected["energy_std"], rel=1e-6)
    assert "forces_std" not in atoms.calc.results  # no derivatives
    atoms.get_forces()
    for name in ("energy_std", "forces_std", "dipole_std"):
        assert np.allclose(atoms.calc.results[name], expected[name], rtol=1e-6), name
    write(tmp_path / "some.extxyz", atoms)  # ASE writes what it has names for
    with Trajectory(tmp_path / "some.traj", "w") as file:
        file.write(atoms)
    alone = molecule("CH3OH", calculator=AMPCalculator(committee.members[0]))
    alone.get_forces()
    assert not any(name.endswith("_std") for name in alone.calc.results)


def test_a_committee_that_disagrees_warns_once_or_stops(committee, recwarn):
    spread = Spread()
    atoms = molecule("CH3OH", calculator=AMPCalculator(committee, unknown="ignore"))
    atoms.get_forces()
    spread(atoms.calc.results)
    below, above = 0.9 * spread.force, 1.1 * spread.force

    def limited(**limits):
        return AMPCalculator(committee, unknown="ignore", **limits)

    atoms.calc = limited(warn_spread=above, stop_spread=above)
    atoms.get_forces()
    assert not recwarn.list
    atoms.calc = limited(warn_spread=below)
    atoms.get_potential_energy()  # the spread of forces is not known
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"members of the committee disagree.*above warn_spread"):
        atoms.get_forces()
    atoms.positions[0, 0] += 1e-3
    atoms.get_forces()
    assert not recwarn.list
    atoms.calc = limited(stop_spread=below)
    for _ in range(2):
        with pytest.raises(SpreadExceeded, match=r"spread of the forces is .* above stop_spread"):
            atoms.get_forces()
    assert not atoms.calc.results


def test_limits_of_the_spread_that_make_no_sense_are_refused(model, committee):
    with pytest.raises(ValueError, match=r"need a committee as the model, got one AMP"):
        AMPCalculator(model, warn_spread=0.1)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"stop_spread: expected a number > 0"):
            AMPCalculator(committee, stop_spread=bad)


# --- ASE's programs -------------------------------------------------------------------------------


def test_optimisation_finds_methanol(relaxed):
    assert relaxed.get_distance(0, 1) == pytest.approx(1.42, abs=0.02)
    assert relaxed.get_distance(1, 3) == pytest.approx(0.97, abs=0.02)
    assert relaxed.get_angle(0, 1, 3) == pytest.approx(108, abs=2)


def test_vibrations_of_methanol(model, relaxed, tmp_path):
    atoms = relaxed.copy()
    atoms.calc = AMPCalculator(model)
    vibrations = Infrared(atoms, name=str(tmp_path / "ir"))
    vibrations.run()
    frequencies = vibrations.get_frequencies()
    assert np.abs(frequencies[:6]).max() < 100  # translation and rotation
    modes = frequencies[6:]
    assert np.abs(modes.imag).max() == 0 and modes.real.min() > 200
    assert modes.real == pytest.approx(FREQUENCIES, rel=0.04)  # the level that it learned
    assert vibrations.intensities[6:].max() > 1.0  # (D/Å)²/amu


def test_molecular_dynamics_conserves_energy(model, relaxed):
    """Velocity Verlet is of second order: a quarter of the fluctuation with half the step."""
    fluctuations = []
    for n_steps, step in ((50, 0.5), (100, 0.25)):
        atoms = relaxed.copy()
        atoms.calc = AMPCalculator(model)
        warm(atoms, 300)
        dynamics = VelocityVerlet(atoms, step * units.fs)
        energies = [atoms.get_total_energy() for _ in dynamics.irun(n_steps)]
        fluctuations.append(np.std(energies))
    assert fluctuations[0] < 2e-3
    assert 3.5 < fluctuations[0] / fluctuations[1] < 4.5


def test_trajectories_hold_the_results(model, embedded, tmp_path):
    atoms = atoms_in(embedded["meoh"], model, charge=0)
    forces, dipole = atoms.get_forces(), atoms.get_dipole_moment()
    with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        trajectory.write()
    with Trajectory(tmp_path / "run.traj") as trajectory:
        again = trajectory[0]
    assert again.get_potential_energy() == atoms.get_potential_energy()
    assert again.get_forces() == pytest.approx(forces)
    assert again.get_dipole_moment() == pytest.approx(dipole)
    assert (tmp_path / "run.traj").stat().st_size < 5000  # not the surroundings
    assert atoms.calc.todict() == {
        "model": "AMP", "dtype": "float64", "charge": 0, "n_mm": embedded["meoh"].n_mm,
    }  # fmt: skip


# --- ASE's QM/MM ----------------------------------------------------------------------------------


def test_embedding_energy_is_the_sum_of_its_parts(model):
    calculator = AMPCalculator(model)
    atoms = droplet(calculator)
    total = atoms.get_potential_energy()
    solute, waters = atoms[:6], atoms[6:]
    charges = np.tile([-0.834, 0.417, 0.417], 4)
    (result,) = model.evaluate(
        [System(solute.numbers, solute.positions, 0, waters.positions, charges)]
    )
    waters.calc = TIP3P(rc=20.0)
    pairs, _, _ = atoms.calc.interaction.calculate(solute, waters, np.zeros(3))
    expected = result["energy"] + waters.get_potential_energy() + pairs
    assert total == pytest.approx(expected, abs=1e-9)


def test_embedding_takes_the_charge_of_the_atoms(model):
    """Those of the solute only: the waters' charges are the force field's."""
    calculator = AMPCalculator(model)
    atoms = droplet(calculator)
    atoms.set_initial_charges([0.6, 0.4] + [0] * 4 + [-0.834, 0.417, 0.417] * 4)
    atoms.get_potential_energy()
    assert calculator.results["charges"].sum() == pytest.approx(1, abs=1e-10)
    atoms.info["charge"] = 0
    with pytest.raises(ValueError, match=r"'charge' is 0; 'initial_charges' .* to 1"):
        droplet(calculator).calc.qmcalc.get_property("energy", atoms[:6])


def test_embedding_forces_are_the_gradient(model):
    atoms = droplet(AMPCalculator(model))
    forces, start = atoms.get_forces(), atoms.positions.copy()
    direction = np.random.default_rng(5).standard_normal(start.shape)
    direction[:6] *= 0.3

    def moved(x):
        atoms.positions = start + x * direction
        return atoms.get_potential_energy()

    assert slope(moved) == pytest.approx(-(forces * direction).sum(), rel=1e-6)


def test_embedding_evaluates_the_model_once_a_step(model, monkeypatch):
    calculator = AMPCalculator(model)
    atoms = droplet(calculator)
    calls = []
    evaluate = calculator.model.evaluate
    monkeypatch.setattr(
        calculator.model, "evaluate", lambda s, **k: calls.append(k) or evaluate(s, **k)
    )
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.run(3)
    assert len(calls) == 4 and all(k["forces"] for k in calls)


def test_embedding_molecular_dynamics_conserves_energy(model):
    fluctuations = []
    for n_steps, step in ((16, 0.5), (32, 0.25)):
        atoms = droplet(AMPCalculator(model), n_waters=2)
        warm(atoms, 200)
        # ASE's TIP3P has no forces within a molecule: the waters move as they are pushed
        dynamics = VelocityVerlet(atoms, step * units.fs)
        fluctuations.append(np.std([atoms.get_total_energy() for _ in dynamics.irun(n_steps)]))
    assert fluctuations[0] < 5e-3
    assert 3.0 < fluctuations[0] / fluctuations[1] < 5.0


def test_charges_without_positions_are_refused(model):
    atoms = molecule("CH3OH", calculator=AMPCalculator(model))
    charges = atoms.calc.embed([0.4, -0.4])
    with pytest.raises(ValueError, match="mm_charges is given without mm_positions"):
        atoms.get_potential_energy()
    charges.set_positions([[0, 0, 4.0], [0, 0, 5.0]])
    first = atoms.get_potential_energy()
    assert charges.get_forces(atoms.calc).shape == (2, 3)
    charges.set_charges([-0.4, 0.4])
    assert atoms.get_potential_energy() != first


# --- other models ---------------------------------------------------------------------------------


def test_a_model_of_the_published_kind():
    model = small_model()
    atoms = molecule(
        "CH3OH", calculator=AMPCalculator(model, mm_positions=[[0, 0, 4.0]], mm_charges=[0.5])
    )
    system = System(atoms.numbers, atoms.positions, 0, [[0, 0, 4.0]], [0.5])
    (expected,) = model.evaluate([system])
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-10)
    assert atoms.get_forces() == pytest.approx(expected["forces"], abs=1e-10)
    assert atoms.calc.get_forces_on_point_charges() == pytest.approx(expected["mm_forces"])
    assert atoms.calc.todict()["model"] == "AmpBms"


def test_the_published_weights(shared_dir, tmp_path):
    path = shared_dir / "reference" / WEIGHTS
    if not path.is_file():
        pytest.skip(f"the published weights are not at {path}")
    from gnn.published import load_amp_bms

    save_model(tmp_path / "amp_bms.pt", load_amp_bms(path))
    atoms = molecule("CH3OH", calculator=AMPCalculator(tmp_path / "amp_bms.pt", dtype="float64"))
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=100)
    assert atoms.get_distance(0, 1) == pytest.approx(1.42, abs=0.03)
    vibrations = Infrared(atoms, name=str(tmp_path / "ir"))
    vibrations.run()
    modes = vibrations.get_frequencies()[6:]
    assert np.abs(modes.imag).max() == 0 and modes.real.min() > 100
    assert modes.real[-1] == pytest.approx(FREQUENCIES[-1], rel=0.05)
    droplet(atoms.calc).get_forces()  # and in ASE's QM/MM


def test_any_order_of_the_anisotropic_state(embedded):
    torch.manual_seed(0)
    system = embedded["meoh"]
    atoms = atoms_in(system, AMP(3, 3, 8, network=Network(hidden=8)).double())
    start, forces = atoms.positions.copy(), atoms.get_forces()
    direction = np.random.default_rng(7).standard_normal(start.shape)

    def moved(x):
        atoms.positions = start + x * direction
        return atoms.get_potential_energy()

    assert slope(moved) == pytest.approx(-(forces * direction).sum(), rel=1e-6)
