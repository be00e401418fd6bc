"""QM/MM systems in OpenMM: energies against their parts, forces against finite differences."""

import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from methanol import in_water

from gnn import System, load_model
from gnn.engines.embedding._group_loops import switched
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.images import nearest_image
from gnn.engines.embedding.zone import Sites, Surroundings, Zone
from gnn.units import KJ_PER_MOL, NANOMETER

openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
from openmm import app, unit  # noqa: E402

N = 6


@pytest.fixture(scope="module")
def model():
    return load_model().double()


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """Topology and positions of methanol in water."""
    return in_water(tmp_path_factory.mktemp("box"))


def qmmm(box, model, **options):
    from gnn.engines.openmm import create_system

    prmtop, _ = box
    return create_system(prmtop.topology, prmtop, range(N), model, dtype=torch.float64, **options)


def context_of(system, start, platform="Reference"):
    integrator = openmm.VerletIntegrator(0.5 * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPeriodicBoxVectors(*start.boxVectors)
    context.setPositions(start.positions)
    return context


def nanometres(quantity):
    return np.asarray(quantity.value_in_unit(unit.nanometer))


def energy(context, groups=-1):
    return context.getState(energy=True, groups=groups).getPotentialEnergy()._value


def tiny(model, seed=0, n_waters=6, cutoff=6.0):
    """Water as QM in a few charge groups, some of them in the shell where they fade."""
    rng = np.random.default_rng(seed)
    atoms = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    away = rng.standard_normal((n_waters, 3))
    away *= np.linspace(3.0, 6.4, n_waters)[:, None] / np.linalg.norm(away, axis=1)[:, None]
    turned = [atoms @ np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(n_waters)]
    around = (away[:, None] + np.array(turned)).reshape(-1, 3)
    count = 3 + len(around)
    bonds = np.array([[0, 1], [0, 2]])
    zone = Zone(np.array([8, 1, 1]), Sites.of_particles(range(3), count), 0, bonds, held=bonds)
    surroundings = Surroundings(
        np.tile([-0.8, 0.4, 0.4], n_waters),
        Sites.of_particles(range(3, count), count),
        np.repeat(np.arange(n_waters), 3),
        np.tile([1.0, 0, 0], n_waters),
    )
    embedding = Embedding(model, zone, surroundings, cutoff=cutoff, switch_width=2.5)
    return embedding, np.concatenate([atoms, around])


# --- the embedding by itself ----------------------------------------------------------------------


switch = np.vectorize(switched, otypes="dd")


def test_switch_falls_smoothly_from_one_to_zero():
    r = np.array([0.0, 3.0, 4.0, 5.0, 9.0])
    value, slope = switch(r, 3.0, 5.0)
    np.testing.assert_allclose(value, [1, 1, 0.5, 0, 0])
    np.testing.assert_allclose(slope[[0, 1, 3, 4]], 0)
    r, h = np.linspace(3.1, 4.9, 7), 1e-6
    numeric = (switch(r + h, 3.0, 5.0)[0] - switch(r - h, 3.0, 5.0)[0]) / (2 * h)
    np.testing.assert_allclose(switch(r, 3.0, 5.0)[1], numeric, rtol=1e-7)


def test_nearest_image_in_a_skewed_box():
    box = np.array([[20.0, 0, 0], [4.0, 18.0, 0], [-5.0, 6.0, 17.0]])
    rng = np.random.default_rng(1)
    short = rng.uniform(-3, 3, (50, 3))
    moved = short + rng.integers(-3, 4, (50, 3)) @ box
    np.testing.assert_allclose(nearest_image(moved, box), short, atol=1e-12)
    assert nearest_image(moved, None) is moved


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(None, id="free", marks=pytest.mark.slow),
        pytest.param(np.diag([19.0, 21.0, 20.0]), id="periodic"),
    ],
)
def test_forces_are_the_gradient_of_the_energy_in_the_fading_shell(model, box):
    embedding, positions = tiny(model)
    _, forces = embedding.energy_forces(positions, box)
    h, numeric = 3e-5, np.zeros_like(forces)
    for i in range(len(positions)):
        for axis in range(3):
            moved = [positions.copy(), positions.copy()]
            moved[0][i, axis] += h
            moved[1][i, axis] -= h
            up, down = (embedding.energy_forces(x, box)[0] for x in moved)
            numeric[i, axis] = -(up - down) / (2 * h)
    assert np.abs(forces[3:]).max() > 1e-3
    np.testing.assert_allclose(forces, numeric, atol=2e-7)


def test_images_do_not_matter(model):
    box = np.diag([19.0, 21.0, 20.0])
    embedding, positions = tiny(model)
    energy, forces = embedding.energy_forces(positions, box)
    rng = np.random.default_rng(2)
    moved = positions + rng.integers(-2, 3, positions.shape) @ box  # molecules torn apart, too
    again, same = embedding.energy_forces(moved, box)
    assert again == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(same, forces, atol=1e-9)
    assert embedding.energy_forces(positions)[0] == pytest.approx(energy, abs=1e-9)


def test_within_the_shell_it_is_the_model_itself(model):
    embedding, positions = tiny(model, cutoff=60.0)
    energy, forces = embedding.energy_forces(positions)
    system = System([8, 1, 1], positions[:3], 0, positions[3:], embedding.surroundings.charges)
    result = model.evaluate([system])[0]
    assert energy == pytest.approx(result["energy"], abs=1e-9)
    expected = np.concatenate([result["forces"], result["mm_forces"]])
    np.testing.assert_allclose(forces, expected, atol=1e-9)


def test_beyond_the_cutoff_there_is_nothing(model):
    embedding, positions = tiny(model)
    positions[3:] += [40.0, 0, 0]
    energy, forces = embedding.energy_forces(positions)
    alone = model.evaluate([System([8, 1, 1], positions[:3])])[0]
    assert energy == pytest.approx(alone["energy"], abs=1e-9)
    np.testing.assert_allclose(forces[3:], 0)


def test_the_energy_is_smooth_where_a_group_leaves(model):
    embedding, positions = tiny(model, n_waters=1)
    direction = positions[3] / np.linalg.norm(positions[3])
    steps = np.arange(0, 4.0, 0.02)  # from 3 Å to beyond the cutoff
    along = []
    for step in steps:
        moved = positions.copy()
        moved[3:] += step * direction
        along.append(embedding.energy_forces(moved)[0])
    curvature = np.diff(along, 2) / 0.02**2
    assert np.abs(np.diff(curvature)).max() < 0.15 * np.abs(curvature).max()


def test_charges_come_with_all_their_images_in_a_narrow_box(model):
    """A box narrower than twice the reach equals its charges and their images in free space."""
    from itertools import product

    embedding, positions = tiny(model, n_waters=4)
    box = np.array([[9.0, 0, 0], [1.0, 10.0, 0], [-2.0, 1.0, 9.5]])
    energy, forces = embedding.energy_forces(positions, box)
    moves = np.array(list(product((-2, -1, 0, 1, 2), repeat=3))) @ box
    waters, n = positions[3:], len(moves)
    copies = np.concatenate([positions[:3], *(waters + move for move in moves)])
    count = len(copies)
    around = Surroundings(
        np.tile(embedding.surroundings.charges, n),
        Sites.of_particles(range(3, count), count),
        np.repeat(np.arange(4 * n), 3),
        np.tile([1.0, 0, 0], 4 * n),
    )
    zone = Zone(np.array([8, 1, 1]), Sites.of_particles(range(3), count), 0)
    free = Embedding(model, zone, around, cutoff=6.0, switch_width=2.5)
    expected, on_copies = free.energy_forces(copies)
    assert energy == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(forces[:3], on_copies[:3], atol=1e-9)
    of_images = on_copies[3:].reshape(n, -1, 3)
    assert (np.abs(of_images).max(axis=(1, 2)) > 1e-4).sum() > 1
    np.testing.assert_allclose(forces[3:], of_images.sum(axis=0), atol=1e-9)


def test_a_zone_wider_than_half_of_the_box(model):
    """A chain across most of the box, torn apart by it, equals chain and images in free space."""
    from itertools import product

    rng = np.random.default_rng(3)
    chain = np.stack([1.25 * np.arange(14), 0.45 * (-1.0) ** np.arange(14), np.zeros(14)], 1)
    box = np.diag([24.0, 13.0, 12.5])
    places = rng.uniform(0, 1, (400, 3)) @ box
    vectors = nearest_image(places[:, None] - chain, box)
    places = places[np.linalg.norm(vectors, axis=2).min(axis=1) > 2.8][:12]
    turned = [tiny(model, seed)[1][3:6] - tiny(model, seed)[1][3] for seed in range(12)]
    waters = (places[:, None] + np.array(turned)).reshape(-1, 3)
    bonds = np.stack([np.arange(13), np.arange(1, 14)], 1)

    def embedding(n):
        count = 14 + 36 * n
        zone = Zone(np.full(14, 6), Sites.of_particles(range(14), count), 0, bonds, held=bonds)
        sites = Sites.of_particles(range(14, count), count)
        around = Surroundings(
            np.tile([-0.8, 0.4, 0.4], 12 * n), sites, np.repeat(np.arange(12 * n), 3),
            np.tile([1.0, 0, 0], 12 * n),
        )  # fmt: skip
        return Embedding(model, zone, around, cutoff=6.0, switch_width=2.5)

    moves = np.array(list(product((-1, 0, 1), repeat=3))) @ box
    copies = np.concatenate([chain, *(waters + move for move in moves)])
    expected, on_copies = embedding(27).energy_forces(copies)
    positions = np.concatenate([chain, waters])
    torn = positions + rng.integers(-1, 2, positions.shape) @ box
    energy, forces = embedding(1).energy_forces(torn, box)
    assert energy == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(forces[:14], on_copies[:14], atol=1e-9)
    of_images = on_copies[14:].reshape(27, -1, 3)
    assert (np.abs(of_images).max(axis=(1, 2)) > 1e-4).sum() > 3
    np.testing.assert_allclose(forces[14:], of_images.sum(axis=0), atol=1e-9)


def test_a_box_too_small_is_refused(model):
    embedding, positions = tiny(model)
    with pytest.raises(ValueError, match=r"too small.*5\.8 Å from images of themselves"):
        embedding.energy_forces(positions, np.diag([6.9, 30, 30]))
    assert embedding.energy_forces(positions, np.diag([30, 30, 6.5]))  # flat, as the water is


def test_a_molecule_that_falls_apart_is_not_a_box_too_small(model):
    embedding, positions = tiny(model)
    positions[2] += [0, 5.0, 0]
    with pytest.raises(ValueError, match=r"fallen apart: QM atoms 0 and 2 .* are 5\.93 Å apart"):
        embedding.energy_forces(positions, np.diag([19.0, 11.9, 20.0]))


def test_numbers_that_are_not_finite_are_refused(model):
    embedding, positions = tiny(model)
    positions[4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        embedding.energy_forces(positions)


def test_wrong_cutoffs_and_elements(model):
    def alone(number):
        return Zone(np.array([number]), Sites.of_particles([0], 1), 0)

    with pytest.raises(ValueError, match="switch_width"):
        Embedding(model, alone(8), cutoff=5.0, switch_width=6.0)
    with pytest.raises(ValueError, match=r"knows nothing of \[79\]"):
        Embedding(model, alone(79))


# --- in OpenMM ------------------------------------------------------------------------------------


def test_energy_is_the_sum_of_its_parts(box, model):
    """The model's part equals the model; the rest equals the force field with charges taken out."""
    prmtop, start = box
    system = qmmm(box, model, switch_width=0.5, electrostatics="cutoff")
    context = context_of(system, start)
    positions = nanometres(start.positions) * NANOMETER
    lengths = np.diag(nanometres(start.boxVectors)) * NANOMETER
    solute = positions[:N] - positions[:N].mean(0)
    waters = (positions[N:] - positions[:N].mean(0)).reshape(-1, 3, 3)
    waters = waters - lengths * np.round(waters[:, :1] / lengths)
    distance = np.linalg.norm(waters[:, :1] - solute, axis=2).min(1)
    weight = 1 - np.prod(
        1 - switch(np.linalg.norm(waters[:, :1] - solute, axis=2), 8.5, 9.0)[0], axis=1
    )
    assert ((distance > 8.5) & (distance < 9.0)).any()  # some do fade
    near = weight > 0
    charges = weight[near, None] * np.array([-0.834, 0.417, 0.417])
    numbers = [atom.element.atomic_number for atom in list(prmtop.topology.atoms())[:N]]
    alone = System(numbers, solute, 0, waters[near].reshape(-1, 3), charges.ravel())
    expected = model.evaluate([alone])[0]["energy"] / KJ_PER_MOL
    assert energy(context, groups={1}) == pytest.approx(expected, abs=1e-3)
    # classical rest: the whole force field, without what the solute's charges and bonds do
    bare = qmmm(box, model)
    plain = prmtop.createSystem(
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        switchDistance=0.8 * unit.nanometer,
        constraints=None,
    )
    for force in plain.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for i in range(N):
                force.setParticleParameters(i, 0.0, *force.getParticleParameters(i)[1:])
            force.setForceGroup(2)
    lj_water = energy(context_of(plain, start), groups={2})
    # the solute's own Lennard-Jones energy, by hand
    nonbonded = next(f for f in plain.getForces() if isinstance(f, openmm.NonbondedForce))
    pairs = {
        frozenset(nonbonded.getExceptionParameters(k)[:2]): nonbonded.getExceptionParameters(k)
        for k in range(nonbonded.getNumExceptions())
    }
    own = 0.0
    for i in range(N):
        for j in range(i + 1, N):
            r = np.linalg.norm(solute[i] - solute[j]) / NANOMETER
            first, second = (nonbonded.getParticleParameters(k) for k in (i, j))
            sigma = 0.5 * (first[1]._value + second[1]._value)
            epsilon = np.sqrt(first[2]._value * second[2]._value)
            charge = 0.0
            if frozenset((i, j)) in pairs:
                _, _, product, length, depth = pairs[frozenset((i, j))]
                sigma, epsilon, charge = length._value, depth._value, product._value
            own += 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6) + 138.93546 * charge / r
    # flexible bonds of the solute are zero in the QM/MM system, and water is rigid
    assert energy(context_of(bare, start), groups={0}) == pytest.approx(lj_water - own, abs=0.5)


def test_forces_against_finite_differences_of_the_total_energy(box, model):
    _, start = box
    system = qmmm(box, model, ewaldErrorTolerance=1e-5)
    context = context_of(system, start)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    positions = nanometres(start.positions)
    near = np.argsort(np.linalg.norm(positions[N:] - positions[1], axis=1))[0] + N
    # 0.5 kJ/mol/nm: what the mesh sums of PME leave of 1e3
    for i in (0, 1, 5, near):
        for axis in range(3):
            h, found = 1e-4, []
            for sign in (1, -1):
                moved = positions.copy()
                moved[i, axis] += sign * h
                context.setPositions(moved)
                found.append(energy(context))
            numeric = -(found[0] - found[1]) / (2 * h)
            assert forces[i, axis] == pytest.approx(numeric, abs=0.5, rel=1e-3)


def test_the_solute_is_free_and_uncharged(box, model):
    prmtop, _ = box
    system = qmmm(box, model, constraints=app.HBonds)
    constrained = {
        i for k in range(system.getNumConstraints()) for i in system.getConstraintParameters(k)[:2]
    }
    assert constrained == set(range(N, prmtop.topology.getNumAtoms()))
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert all(nonbonded.getParticleParameters(i)[0]._value == 0 for i in range(N))
    assert all(nonbonded.getParticleParameters(i)[2]._value > 0 for i in (0, 1))


def test_a_force_field_of_openmm_and_the_charge_of_the_solute(model):
    """Water in water by ForceField; one of them is the model's."""
    forcefield = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(forcefield, boxSize=openmm.Vec3(2.4, 2.4, 2.4), model="tip3p")
    from gnn.engines.openmm import create_system

    system = create_system(modeller.topology, forcefield, [3, 4, 5], model)
    assert system.getNumForces() > 2
    context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    context.setPositions(modeller.positions)
    forces = context.getState(forces=True, groups={1}).getForces(asNumpy=True)._value
    assert np.abs(forces[3:6]).max() > 10 and np.isfinite(forces).all()
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    again = openmm.Context(copy, openmm.VerletIntegrator(0.001))
    again.setPositions(modeller.positions)
    assert energy(again, {1}) == pytest.approx(energy(context, {1}), abs=1e-6)


@pytest.mark.filterwarnings("ignore:Non-optimal GB")
def test_what_cannot_be_split_is_refused(box, model):
    from gnn.engines.openmm import create_system

    prmtop, _ = box
    topology = prmtop.topology
    with pytest.raises(ValueError, match="would be cut"):
        create_system(topology, prmtop, [0, 1], model, link_scheme="refuse")
    with pytest.raises(ValueError, match="must not be cut: it is one to hydrogen"):
        create_system(topology, prmtop, [0, 1], model)
    for wrong in ([], [0, 0], [-1], [10**6]):
        with pytest.raises(ValueError, match="expected qm_atoms"):
            create_system(topology, prmtop, wrong, model)
    with pytest.raises(TypeError, match="mm_forcefield"):
        create_system(topology, "amber", range(N), model)
    with pytest.raises(TypeError, match="expected a model"):
        create_system(topology, prmtop, range(N), 3)
    born = prmtop.createSystem(implicitSolvent=app.OBC2)
    with pytest.raises(ValueError, match="cannot be split"):
        create_system(topology, born, range(N), model)
    with pytest.raises(ValueError, match="takes no options"):
        create_system(topology, prmtop.createSystem(), range(N), model, rigidWater=True)


# --- splitting: systems of a few waters, of which the first is the model's ------------------------


def waters(count=6, side=None, rigid=False):
    """Topology, system and positions (nm) of waters on a line, 3.1 Å apart."""
    topology, system, nonbonded = app.Topology(), openmm.System(), openmm.NonbondedForce()
    bonds, chain = openmm.HarmonicBondForce(), topology.addChain()
    water = np.array([[0.0, 0, 0], [0.09572, 0, 0], [-0.024, 0.0927, 0]])
    for k in range(count):
        residue = topology.addResidue("HOH", chain)
        atoms = [
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        ]
        for mass, charge, depth in ((16.0, -0.834, 0.636), (1.0, 0.417, 0.0), (1.0, 0.417, 0.0)):
            system.addParticle(mass)
            nonbonded.addParticle(charge, 0.315, depth)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            nonbonded.addException(3 * k + i, 3 * k + j, 0, 0.1, 0)
            length = float(np.linalg.norm(water[i] - water[j]))
            if rigid:
                system.addConstraint(3 * k + i, 3 * k + j, length)
            elif i == 0:
                bonds.addBond(3 * k + i, 3 * k + j, length, 4e5)
            if i == 0:
                topology.addBond(atoms[i], atoms[j])
    system.addForce(nonbonded)
    if not rigid:
        system.addForce(bonds)
    if side is not None:
        system.setDefaultPeriodicBoxVectors(*(side * np.eye(3)))
        nonbonded.setNonbondedMethod(nonbonded.CutoffPeriodic)
        nonbonded.setCutoffDistance(0.9)
    places = 0.31 * np.arange(count)[:, None, None] * np.array([0.0, 1.0, 0.0])
    return topology, system, (water + places).reshape(-1, 3)


CHARGES = np.tile([-0.834, 0.417, 0.417], 6)
INSIDE = [(3 * k + i, 3 * k + j) for k in range(6) for i, j in ((0, 1), (0, 2), (1, 2))]


def force_of(system):
    return next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))


def second_force(charges):
    force = openmm.NonbondedForce()
    for charge in charges:
        force.addParticle(charge, 0.1, 0.0)
    for pair in INSIDE:
        force.addException(*pair, 0, 0.1, 0)
    return force


def custom(expression, rows, names):
    force = openmm.CustomNonbondedForce(expression)
    for name in names:
        force.addPerParticleParameter(name)
    for row in rows:
        force.addParticle(row)
    for pair in INSIDE:
        force.addExclusion(*pair)
    return force


def split_of(topology, system, model, qm=range(3), **options):
    from gnn.engines.openmm import create_system

    return create_system(topology, system, qm, model, **options)


def model_energy(topology, system, positions, model):
    system = split_of(topology, system, model)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    context.setPositions(positions)
    return energy(context, {1})


def test_charges_of_all_nonbonded_forces_reach_the_model(model):
    topology, system, positions = waters()
    expected = model_energy(*waters(), model)
    vacuum = model_energy(*waters(1), model)
    assert abs(expected - vacuum) > 1.0
    system.addForce(second_force(np.zeros(18)))  # the last force has none
    assert model_energy(topology, system, positions, model) == pytest.approx(expected, abs=1e-6)
    topology, system, positions = waters()
    first = force_of(system)
    for i in range(9, 18):  # half of the waters here, half of them there
        first.setParticleParameters(i, 0.0, *first.getParticleParameters(i)[1:])
    system.addForce(second_force(np.where(np.arange(18) < 9, 0.0, CHARGES)))
    assert model_energy(topology, system, positions, model) == pytest.approx(expected, abs=1e-6)


LENNARD_JONES = "4*sqrt(e1*e2)*((0.5*(s1+s2)/r)^12-(0.5*(s1+s2)/r)^6)"


@pytest.mark.parametrize(
    ("expression", "name", "words"),
    [
        ("138.935456*q1*q2/r", "q", "parameter q .* looks like a charge"),
        ("138.9*foo1*foo2*erfc(3*r)/r", "foo", "parameter foo .*-0.834 to 0.417"),
        ("138.9*foo1*foo2*(1/r+2*r^2-1.4)", "foo", "looks like a charge"),
        ("scale*(1/r+2*r^2); scale=foo1*foo2", "abs", "power 1.0 at long range"),
        ("foo1*foo2*exp(-0.1*r)/r", "abs", "no Lennard-Jones"),
        ("-foo1*foo2/r^4", "abs", "power -5.0"),
    ],
)
def test_charges_in_a_custom_force_are_refused(model, expression, name, words):
    topology, system, _ = waters()
    values, name = (np.abs(CHARGES), "foo") if name == "abs" else (CHARGES, name)
    system.addForce(custom(expression, values[:, None], [name]))
    with pytest.raises(ValueError, match=words):
        split_of(topology, system, model)


def test_a_custom_lennard_jones_force_stays(model):
    topology, system, positions = waters()
    rows = np.tile([[0.6, 0.31], [0.0, 0.1], [0.0, 0.1]], (6, 1))
    system.addForce(custom(LENNARD_JONES, rows, ["e", "s"]))
    split = split_of(topology, system, model)
    context = openmm.Context(split, openmm.VerletIntegrator(0.001))
    context.setPositions(positions)
    assert np.isfinite(energy(context))


def test_what_acts_beside_the_model_is_refused(model):
    def message(change):
        topology, system, _ = waters()
        change(system)
        with pytest.raises(ValueError) as caught:
            split_of(topology, system, model)
        return str(caught.value)

    def field(system):
        force = openmm.CustomExternalForce("-q*z")
        force.addPerParticleParameter("q")
        force.addParticle(1, [0.417])
        system.addForce(force)

    def bond(system):
        force = openmm.HarmonicBondForce()
        force.addBond(0, 3, 0.3, 100.0)
        system.addForce(force)

    def one_four(system):
        force = openmm.CustomBondForce("138.9*qq/r")  # 1-4 charges
        force.addPerBondParameter("qq")
        force.addBond(0, 3, [0.1])
        system.addForce(force)

    def offset(system):
        force_of(system).addGlobalParameter("x", 0.0)
        force_of(system).addParticleParameterOffset("x", 4, 1, 0, 0)

    for change, words in {
        (lambda s: s.addForce(second_force(CHARGES))): "18 particles have charges in several",
        (lambda s: force_of(s).addException(0, 3, 0.0, 0.1, 0.0)): "scales the charges of atoms 0",
        offset: "depend on parameters",
        (lambda s: s.addConstraint(1, 3, 0.3)): "must be whole molecules",
        bond: "must be whole molecules",
        one_four: "acts on QM atoms",
        field: "acts on the charge of QM atom 1",
        (lambda s: s.addForce(openmm.GBSAOBCForce())): "implicit solvent",
        (lambda s: s.addForce(openmm.CustomGBForce())): "implicit solvent",
        (lambda s: s.addForce(openmm.DrudeForce())): "Drude particles are polarisable",
        (lambda s: s.addForce(openmm.AmoebaMultipoleForce())): "AMOEBA is polarisable",
        (lambda s: s.addForce(openmm.HippoNonbondedForce())): "HIPPO is polarisable",
        (lambda s: s.addForce(openmm.GayBerneForce())): "has a GayBerneForce",
    }.items():
        assert words in message(change)


def custom_bonds(*pairs):
    force = openmm.CustomBondForce("k*r^2")
    force.addPerBondParameter("k")
    for pair in pairs:
        force.addBond(*pair, [1.5])
    return force


def custom_torsions(*rows):
    force = openmm.CustomTorsionForce("k*theta^2")
    force.addPerTorsionParameter("k")
    for row in rows:
        force.addTorsion(*row, [2.5])
    return force


def maps(*rows):
    force = openmm.CMAPTorsionForce()
    force.addMap(2, [1.0, 2.0, 3.0, 4.0])
    for row in rows:
        force.addTorsion(0, *row)
    return force


def test_custom_terms_of_the_model_s_atoms_are_taken_out(model):
    """As of CHARMM (1-4 pairs, impropers), GROMACS and force fields with maps of torsions."""
    from gnn.engines.classical.splitting import split

    topology, system, _ = waters(4)
    for force in (
        custom_bonds((0, 2), (6, 7), (1, 2)),
        custom_torsions((2, 0, 1, 3), (6, 7, 8, 9)),
        maps((0, 1, 2, 3, 1, 2, 3, 4), (6, 7, 8, 9, 7, 8, 9, 10)),
    ):
        force.setForceGroup(3)
        system.addForce(force)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(system, topology, set(range(6)))
    kinds = {type(force).__name__: force for force in system.getForces()}
    bonds, torsions = kinds["CustomBondForce"], kinds["CustomTorsionForce"]
    assert bonds.getNumBonds() == torsions.getNumTorsions() == 1
    assert bonds.getBondParameters(0) == [6, 7, (1.5,)]
    assert torsions.getTorsionParameters(0) == [6, 7, 8, 9, (2.5,)]
    assert kinds["CMAPTorsionForce"].getNumTorsions() == 1
    assert bonds.getForceGroup() == torsions.getForceGroup() == 3


@pytest.mark.parametrize(
    ("force", "words"),
    [
        (custom_bonds((0, 3)), "1 of a CustomBondForce"),
        (custom_torsions((1, 0, 2, 3)), None),
        (custom_bonds((1, 2)), None),
    ],
)
def test_what_may_be_a_bias_is_named(model, force, words):
    topology, system, _ = waters()
    system.addForce(force)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split_of(topology, system, model, range(6))
    found = [str(one.message) for one in caught if "biases" in str(one.message)]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_a_restraint_between_molecules_of_the_model_is_named(model):
    topology, system, _ = waters()
    force = openmm.HarmonicBondForce()
    force.addBond(0, 3, 0.3, 100.0)
    system.addForce(force)
    with pytest.warns(UserWarning, match="biases or restraints: 1 of a HarmonicBondForce"):
        split_of(topology, system, model, range(6))


def test_charges_that_a_switch_turns_off_are_found(model):
    topology, system, _ = waters()
    force = custom("on*138.9*a1*a2/r", np.abs(CHARGES)[:, None], ["a"])
    force.addGlobalParameter("on", 0.0)
    system.addForce(force)
    with pytest.raises(ValueError, match="no Lennard-Jones"):
        split_of(topology, system, model)


def test_a_lone_pair_of_a_qm_atom_is_refused(model):
    topology, system, _ = waters()
    site = system.addParticle(0.0)
    system.setVirtualSite(site, openmm.TwoParticleAverageSite(0, 1, 1.2, -0.2))
    force_of(system).addParticle(0.3, 0.1, 0.0)
    topology.addAtom("LP", None, list(topology.residues())[-1])
    with pytest.raises(ValueError, match="particle 18 is a virtual site of QM atom 0"):
        split_of(topology, system, model)


@pytest.mark.parametrize("wrong", [[True, True, True], [0.0, 1.0, 2.5], ["0"], np.ones(18, bool)])
def test_atoms_must_be_indices(model, wrong):
    topology, system, _ = waters()
    with pytest.raises(TypeError, match="no mask"):
        split_of(topology, system, model, wrong)


def test_units_and_charges_of_arguments(model):
    topology, system, _ = waters()
    lengths = {"cutoff": 0.8 * unit.nanometer, "switch_width": 2 * unit.angstrom}
    split = split_of(topology, system, model, np.arange(3), charge="-1", **lengths)
    assert split.getNumForces() == 4
    with pytest.raises(ValueError, match="one whole number"):
        split_of(topology, system, model, charge=0.5)


def test_amoeba_is_refused_by_name(model):
    topology, _, _ = waters(2)
    with pytest.raises(ValueError, match="AMOEBA is polarisable"):
        split_of(topology, app.ForceField("amoeba2018.xml"), model)


def test_an_exception_with_full_charges_keeps_its_lennard_jones_alone(model):
    topology, system, _ = waters()
    force_of(system).addException(0, 3, 0.834**2, 0.5, 0.25)
    force = force_of(split_of(topology, system, model))
    found = [force.getExceptionParameters(k) for k in range(force.getNumExceptions())]
    (own,) = (row for row in found if {row[0], row[1]} == {0, 3})
    assert [value._value for value in own[2:]] == [0.0, 0.5, 0.25]


def test_surroundings_without_charges_are_said_to_be_vacuum(model):
    topology, system, _ = waters()
    force = force_of(system)
    for i in range(18):
        force.setParticleParameters(i, 0.0, *force.getParticleParameters(i)[1:])
    with pytest.warns(UserWarning, match="none of the 15 particles .* vacuum"):
        split_of(topology, system, model)


@pytest.mark.parametrize("rigid", [True, False])
def test_molecules_of_the_model_stay_molecules(model, rigid):
    """In images and under a barostat, though constraints and strength of bonds are gone."""
    side = 2.2
    topology, system, positions = waters(side=side, rigid=rigid)
    system = split_of(topology, system, model, cutoff=5.0)
    barostat = openmm.MonteCarloBarostat(2000 * unit.bar, 300, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(1e-9), platform)
    assert (0, 1, 2) in [tuple(sorted(found)) for found in context.getMolecules()]
    context.setPositions(positions + np.array([side - 0.05, 0, 0]))  # across the wall
    before = context.getState().getPeriodicBoxVolume()
    context.getIntegrator().step(15)
    state = context.getState(positions=True, enforcePeriodicBox=True)
    assert abs(state.getPeriodicBoxVolume() / before - 1) > 1e-3
    found = nanometres(state.getPositions(asNumpy=True))[:3]
    lengths = np.linalg.norm(found[1:] - found[0], axis=1)
    np.testing.assert_allclose(lengths, [0.09572, 0.09576], atol=1e-4)


def test_lennard_jones_ends_before_a_short_cutoff(box):
    from gnn.engines.openmm import classical_system

    prmtop, _ = box
    for cutoff in (0.7, 0.7 * unit.nanometer, 7 * unit.angstrom):
        force = force_of(classical_system(prmtop.topology, prmtop, {"nonbondedCutoff": cutoff}))
        assert force.getSwitchingDistance()._value == pytest.approx(0.7 * 8 / 9)
    force = force_of(classical_system(prmtop.topology, prmtop, {}))
    assert force.getSwitchingDistance()._value == pytest.approx(0.8)


def test_a_box_too_small_for_the_force_field(box):
    from gnn.engines.openmm import classical_system

    topology, _, _ = waters()
    topology.setPeriodicBoxVectors(1.7 * np.eye(3) * unit.nanometer)
    with pytest.raises(ValueError, match=r"17.0 Å .* own cutoff \(9 Å\)"):
        classical_system(topology, box[0], {})


def test_errors_inside_openmm_keep_their_cause(model, monkeypatch):
    topology, system, positions = waters(2)
    split = split_of(topology, system, model)
    context = openmm.Context(split, openmm.VerletIntegrator(0.001))
    context.setPositions(positions)
    for error, words in (
        (ValueError("the box is\ntoo small"), "the box is\ntoo small"),
        (KeyError("b"), "KeyError: 'b'"),
        (KeyboardInterrupt(), "interrupted by the keyboard"),
    ):
        monkeypatch.setattr(Embedding, "energy_forces", Mock(side_effect=error))
        with pytest.raises(openmm.OpenMMException) as caught:
            energy(context)
        assert str(caught.value) == words


def test_a_published_checkpoint(box):
    weights = Path(__file__).parents[3] / "shared/reference/amp_bms_MIN_state_dict"
    if not weights.is_file():
        pytest.skip("needs the weights that the authors of AMP-BMS publish")
    from gnn.published import load_amp_bms

    embedding, positions = tiny(load_amp_bms(weights).double())
    energy, forces = embedding.energy_forces(positions)
    h = 1e-4
    for i, axis in ((0, 0), (4, 1), (12, 2), (18, 0)):
        moved = [positions.copy(), positions.copy()]
        moved[0][i, axis] += h
        moved[1][i, axis] -= h
        up, down = (embedding.energy_forces(x)[0] for x in moved)
        assert forces[i, axis] == pytest.approx(-(up - down) / (2 * h), abs=1e-6)
    assert np.isfinite(energy)
