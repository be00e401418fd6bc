"""Solutes that are taken out of their surroundings by parameters: charges first, then cores."""

import numpy as np
import pytest
import torch
from methanol import in_water

from gnn import System, load_model
from gnn.units import KJ_PER_MOL

openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
from openmm import app, unit  # noqa: E402

N = 6
METHANOL = [6, 8, 1, 1, 1, 1]
CHARGES, CORES = "lambda_electrostatics", "lambda_sterics"


@pytest.fixture(scope="module")
def model():
    return load_model().double()


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """Topology and positions of methanol in water."""
    return in_water(tmp_path_factory.mktemp("box"))


def built(box, model, **options):
    from gnn.engines.openmm import create_system

    prmtop, _ = box
    return create_system(prmtop.topology, prmtop, range(N), model, dtype=torch.float64, **options)


def context_of(system, box):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPeriodicBoxVectors(*box[1].boxVectors)
    context.setPositions(box[1].positions)
    return context


def state_of(context, groups=-1, **parameters):
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True, groups=groups)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def without_model(system):
    """Leave what is classical."""
    for i in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(i), openmm.PythonForce):
            system.removeForce(i)
    return system


@pytest.fixture(scope="module")
def context(box, model):
    system = built(box, model, alchemical=True)
    for force in system.getForces():
        if force.getName().startswith("SoftCore"):
            force.setForceGroup(2)
    return context_of(system, box)


def test_coupled_it_is_the_plain_system(box, model, context):
    energy, forces = state_of(context, **{CHARGES: 1, CORES: 1})
    plain, wanted = state_of(context_of(built(box, model), box))
    assert energy == pytest.approx(plain, abs=1e-5)
    np.testing.assert_allclose(forces, wanted, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "options",
    [{"nonbondedMethod": app.NoCutoff}, {"nonbondedMethod": app.CutoffNonPeriodic},
     {"nonbondedMethod": app.CutoffPeriodic, "switchDistance": 0.0}],
    ids=["whole", "cut", "sharp"],
)  # fmt: skip
def test_coupled_cores_are_those_of_any_method(box, model, options):
    options = options | {"nonbondedCutoff": 0.9}
    pair = [without_model(built(box, model, alchemical=a, **options)) for a in (True, False)]
    (energy, forces), (plain, wanted) = (state_of(context_of(s, box)) for s in pair)
    assert energy == pytest.approx(plain, abs=1e-5)
    np.testing.assert_allclose(forces, wanted, atol=1e-6 * np.abs(wanted).max())


def test_without_charges_the_model_is_in_vacuum(box, model, context):
    energy, forces = state_of(context, {1}, **{CHARGES: 0, CORES: 1})
    atoms = np.array(box[1].positions.value_in_unit(unit.angstrom))[:N]
    (alone,) = model.evaluate([System(METHANOL, atoms)])
    assert energy == pytest.approx(alone["energy"] / KJ_PER_MOL, abs=1e-6)
    np.testing.assert_allclose(forces[:N], 10 * alone["forces"] / KJ_PER_MOL, atol=1e-5)
    assert not forces[N:].any()


def test_decoupled_nothing_is_felt(box, context):
    """Not even a water on top of the solute."""
    energy, _ = state_of(context, **{CHARGES: 0, CORES: 0})
    moved = np.array(box[1].positions.value_in_unit(unit.nanometer))
    moved[:N] += moved[N] - moved[0] + 0.003
    context.setPositions(moved)
    other, forces = state_of(context)
    context.setPositions(box[1].positions)
    assert other == pytest.approx(energy, abs=1e-6)
    assert np.isfinite(forces).all()


def test_slope_is_the_derivative_by_the_charges(box, model):
    from gnn.engines.openmm import QMMMForce

    seen = []
    original = QMMMForce._evaluate

    def noted(self, state):
        found = original(self, state)
        seen.append(self.embedding.slope / KJ_PER_MOL)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QMMMForce, "_evaluate", noted)
        context = context_of(built(box, model, alchemical=True), box)
        h = 1e-4
        for at in (0.3, 1 - h):
            above, below = (state_of(context, {1}, **{CHARGES: at + d})[0] for d in (h, -h))
            state_of(context, {1}, **{CHARGES: at})
            assert seen[-1] == pytest.approx((above - below) / (2 * h), rel=1e-5)
        state_of(context, {1}, **{CHARGES: 0})
        assert np.isnan(seen[-1])


@pytest.mark.parametrize("charges", [0.0, 0.5])
def test_forces_are_the_gradient_on_the_way(box, context, charges):
    parameters = {CHARGES: charges, CORES: 0.4 if not charges else 1.0}
    _, forces = state_of(context, {1, 2}, **parameters)
    start = np.array(box[1].positions.value_in_unit(unit.nanometer))
    rng = np.random.default_rng(3)
    along = np.zeros_like(start)
    near = np.linalg.norm(start - start[:N].mean(axis=0), axis=1) < 0.9
    along[near] = rng.standard_normal((near.sum(), 3))
    h, energies = 2e-6, []
    for sign in (1, -1):
        context.setPositions(start + sign * h * along)
        energies.append(state_of(context, {1, 2})[0])
    context.setPositions(start)
    numeric = -(energies[0] - energies[1]) / (2 * h)
    assert numeric == pytest.approx((forces * along).sum(), rel=1e-5)


def test_what_parameters_may_be(context):
    with pytest.raises(openmm.OpenMMException, match="lambda_electrostatics from 0 to 1"):
        state_of(context, {1}, **{CHARGES: 1.5})
    with pytest.raises(openmm.OpenMMException, match="lambda_sterics from 0 to 1"):
        state_of(context, {1}, **{CHARGES: 1, CORES: -0.1})
    with pytest.warns(UserWarning, match="take lambda_electrostatics to 0 first"):
        state_of(context, {1}, **{CHARGES: 1, CORES: 0.9})
    state_of(context, {1}, **{CORES: 1})


def test_parts_of_molecules_and_other_charges(box, model):
    with pytest.raises(ValueError, match=r"alchemical=True takes whole molecules .* 1 bond of"):
        part_of_ethanol(model, alchemical=True)
    with pytest.warns(UserWarning, match=r"a charge of 1 e, .* the box has \+1.000 e in all"):
        built(box, model, charge=1)


def part_of_ethanol(model, **options):
    """Build the system of a chain C–C–O whose first atom is the model's."""
    from gnn.engines.openmm import create_system

    topology, system, force = app.Topology(), openmm.System(), openmm.NonbondedForce()
    residue = topology.addResidue("MOL", topology.addChain())
    symbols = "CCOHHHHHH"
    atoms = [topology.addAtom(x, app.Element.getBySymbol(x), residue) for x in symbols]
    for i, j in ((0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)):
        topology.addBond(atoms[i], atoms[j])
    for _ in atoms:
        system.addParticle(1.0)
        force.addParticle(0.0, 0.3, 0.0)
    system.addForce(force)
    options = {"link_scheme": "shift"} | options
    return create_system(topology, system, [0, 3, 4, 5], model, **options)


def argon(change):
    """Return a system of two argon atoms after a change."""
    system, force = openmm.System(), openmm.NonbondedForce()
    for _ in range(2):
        system.addParticle(40.0)
        force.addParticle(0.0, 0.34, 1.0)
    system.addForce(force)
    change(system, force)
    return system


def custom(system, force):
    other = openmm.CustomNonbondedForce("a/r^12")
    other.addPerParticleParameter("a")
    for i in range(2):
        force.setParticleParameters(i, 0.0, 0.34, 0.0)
        other.addParticle([1e-6])
    system.addForce(other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, f: f.setNonbondedMethod(f.LJPME), "LJPME"),
        (lambda s, f: f.addException(0, 1, 0, 0.3, 1.0), "atoms 0 and 1, one QM and one not"),
        (lambda s, f: f.setParticleParameters(0, 0, 0.34, 0), "got 0"),
        (custom, "is in a CustomNonbondedForce"),
    ],
)
def test_what_cannot_be_softened(change, words):
    from gnn.engines.classical.softcore import soften

    with pytest.raises(ValueError, match=words):
        soften(argon(change), {0})
