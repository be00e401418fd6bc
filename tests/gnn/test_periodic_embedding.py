"""Periodic electrostatics of a zone: against the model in a cell, OpenMM's PME, and slow twins."""

import copy

import numpy as np
import pytest
import torch

from gnn import System, load_model
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.periodic import FarField
from gnn.engines.embedding.zone import Sites, Surroundings, Zone
from gnn.layers.surroundings import given_field
from gnn.operators.field import multipole_field
from gnn.potential import Potential
from gnn.training.committee import Committee, perturb
from gnn.units import COULOMB

SKEWED = np.array([[20.0, 0, 0], [4.0, 19.0, 0], [-5.0, 6.0, 21.0]])


@pytest.fixture(scope="module")
def model():
    return load_model().double()


class Charged(Potential):
    """Atoms with charges that nothing changes: classical charges in place of a model."""

    cutoff = 1.0

    def __init__(self, charges):
        super().__init__()
        self.own = torch.nn.Parameter(torch.as_tensor(charges, dtype=torch.float64))

    def _energy(self, batch):
        n = batch.n_atoms
        phi = given_field(batch)[:, 0]
        if batch.n_mm:
            apart = torch.cdist(batch.positions, batch.mm_positions)
            phi = phi + COULOMB * (batch.mm_charges / apart).sum(1)
        per_atom = self.own * phi
        multipoles = {
            "charges": self.own,
            "dipoles": per_atom.new_zeros(n, 3),
            "quadrupoles": per_atom.new_zeros(n, 3, 3),
        }
        return per_atom.sum()[None], multipoles


def waters(box, count, clear=3.0, seed=0):
    """Water in a box about an atom group at the origin: positions, charges."""
    rng = np.random.default_rng(seed)
    shape = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    grid = np.stack(np.meshgrid(*[(np.arange(6) + 0.5) / 6 - 0.5] * 3), -1).reshape(-1, 3) @ box
    free = grid[np.linalg.norm(grid, axis=1) > clear]
    chosen = free[rng.permutation(len(free))[:count]]
    turned = [shape @ np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in chosen]
    return (chosen[:, None] + np.array(turned)).reshape(-1, 3), np.tile([-0.8, 0.4, 0.4], count)


def water_zone(model, box, n_waters=60, charge_of_one=0.0, **options):
    """A water molecule in water, and all positions; one particle may have a charge more."""
    atoms = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    around, charges = waters(box, n_waters)
    charges[0] += charge_of_one
    count = 3 + len(around)
    bonds = np.array([[0, 1], [0, 2]])
    zone = Zone(np.array([8, 1, 1]), Sites.of_particles(range(3), count), 0, bonds, held=bonds)
    sites = Sites.of_particles(range(3, count), count)
    groups, centres = np.repeat(np.arange(n_waters), 3), np.tile([1.0, 0, 0], n_waters)
    surroundings = Surroundings(charges, sites, groups, centres)
    options = {"cutoff": 6.0, "periodic": True} | options
    return Embedding(model, zone, surroundings, **options), np.concatenate([atoms, around])


# --- sums over all images -------------------------------------------------------------------------


def twin(atoms, sites, charges, points, seen, box):
    """The field at the atoms by the periodic operator of torch and a direct sum."""
    exact = {"order": 3, "cell": torch.tensor(box), "tolerance": 1e-12}
    everything = multipole_field(atoms, sites, charges[:, None], **exact)
    return COULOMB * (everything - multipole_field(atoms, points, seen[:, None], order=3))


@pytest.mark.parametrize("box", [np.diag([18.0, 20.0, 22.0]), SKEWED], ids=["straight", "skewed"])
def test_field_and_reaction_are_those_of_a_slow_twin(box):
    rng = np.random.default_rng(1)
    sites, charges = waters(box, 60)
    charges[0] += 0.5  # a cell with a background
    atoms = rng.uniform(-2, 2, (5, 3))
    near = np.flatnonzero(np.linalg.norm(sites, axis=1) < 7)
    points, seen = sites[near] + box[0], rng.random(len(near)) * charges[near]
    moved = sites + rng.integers(-2, 3, (len(sites), 3)) @ box
    far = FarField(charges).around(atoms, moved, (points, seen), box)

    given = [torch.tensor(t).requires_grad_() for t in (atoms, sites, charges, points, seen)]
    expected = twin(*given, box)
    response = rng.standard_normal((5, 10))
    work = (torch.tensor(response) * expected[:, :10]).sum()
    _, by_sites, _, by_points, by_seen = torch.autograd.grad(work, given)

    for n, part in enumerate((slice(0, 1), slice(1, 4), slice(4, 10), slice(10, 20))):
        wrong = np.abs(far.field() - expected.detach().numpy())[:, part].max()
        assert wrong < 1e-5 * 3**n, (n, wrong)  # V/Å^n
    on_sites, on_points, found = far.reaction(response)
    np.testing.assert_allclose(on_sites, -by_sites, atol=1e-4)
    np.testing.assert_allclose(on_points, -by_points, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, by_seen, rtol=1e-9, atol=1e-9)


def test_reaction_is_the_derivative_of_the_sums_themselves():
    """The field of a grid errs; its derivatives do not, so that energy is conserved."""
    rng = np.random.default_rng(2)
    sites, charges = waters(SKEWED, 40)
    atoms, response = rng.uniform(-2, 2, (4, 3)), rng.standard_normal((4, 10))
    far = FarField(charges, tolerance=1e-4)

    def work(places, x=atoms):
        nothing = np.zeros((0, 3)), np.zeros(0)
        around = far.around(x, places, nothing, SKEWED)
        return (response * around.field()[:, :10]).sum(), around

    h = 1e-4
    forces = work(sites)[1].reaction(response)[0]
    for i in (0, 7, 100):
        step = h * np.eye(len(sites))[i][:, None] * np.array([0.6, 0.0, 0.8])
        slope = (work(sites + step)[0] - work(sites - step)[0]) / (2 * h)
        assert slope == pytest.approx(-forces[i] @ [0.6, 0, 0.8], abs=1e-6)


@pytest.mark.parametrize("reach", [1.0, 6.0], ids=["small", "wide"])
def test_images_of_the_zone_are_all_images_but_itself(reach):
    rng = np.random.default_rng(3)
    atoms, moments = rng.uniform(-reach, reach, (5, 3)), rng.standard_normal((5, 10))
    moments[:, 4] = -moments[:, 7] - moments[:, 9]  # a trace works where there is a background
    far = FarField(np.ones(1)).around(
        atoms, np.ones((1, 3)), (np.zeros((0, 3)), np.zeros(0)), SKEWED
    )
    x, m = (torch.tensor(t).requires_grad_() for t in (atoms, moments))
    exact = {"order": 2, "cell": torch.tensor(SKEWED), "tolerance": 1e-12}
    field = multipole_field(x, x, m, **exact) - multipole_field(x, x, m, order=2)
    expected = 0.5 * COULOMB * (m * field).sum()
    found = far.between(x, m)
    assert found.item() == pytest.approx(expected.item(), abs=2e-5)
    ours, theirs = (torch.autograd.grad(e, [x, m]) for e in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=5e-5)


# --- energies and forces --------------------------------------------------------------------------


@pytest.mark.parametrize("charge", [0.0, 1.0], ids=["neutral", "charged"])
def test_it_is_the_model_in_a_cell_whatever_it_sees_one_by_one(model, charge):
    """The model sums over all images by itself if it gets a cell: other code, one meaning."""
    embedding, positions = water_zone(model, SKEWED, charge_of_one=charge)
    energy, forces = embedding.energy_forces(positions, SKEWED)
    other, _ = water_zone(model, SKEWED, charge_of_one=charge, cutoff=8.0)
    assert other.energy_forces(positions, SKEWED)[0] == pytest.approx(energy, abs=2e-6)
    charges = embedding.surroundings.charges
    system = System([8, 1, 1], positions[:3], 0, positions[3:], charges, cell=SKEWED)
    result = model.evaluate([system], unknown="ignore")[0]
    assert energy == pytest.approx(result["energy"], abs=5e-6)
    expected = np.concatenate([result["forces"], result["mm_forces"]])
    np.testing.assert_allclose(forces, expected, atol=5e-5)
    assert np.abs(embedding.far.error) < 1e-5


def test_forces_are_the_gradient_of_the_energy(model):
    embedding, positions = water_zone(model, SKEWED, charge_of_one=0.3)
    _, forces = embedding.energy_forces(positions, SKEWED)
    # pairs come and go at the radius of the near part by what the tolerance allows
    h, rng = 1e-3, np.random.default_rng(4)

    def energy(change):
        return embedding.energy_forces(positions + h * change, SKEWED)[0]

    directions = [np.zeros_like(positions) for _ in range(3)]
    directions[0][:3] = rng.standard_normal((3, 3))
    directions[1][3:] = rng.standard_normal((len(positions) - 3, 3))
    directions[2][3:6] = rng.standard_normal((3, 3))
    for d in directions:
        slope = (8 * (energy(d) - energy(-d)) - energy(2 * d) + energy(-2 * d)) / (12 * h)
        assert slope == pytest.approx(-(forces * d).sum(), abs=2e-5)


@pytest.mark.parametrize("charge", [0.0, 1.0], ids=["neutral", "charged"])
def test_the_energy_knows_the_volume(model, charge):
    """A barostat scales places of molecules: the slope is that of the model's own stress."""
    embedding, positions = water_zone(model, SKEWED, charge_of_one=charge)
    molecules = positions.reshape(-1, 3, 3)
    centres = molecules.mean(axis=1, keepdims=True)

    def energy(strain):
        moved = (molecules + strain * centres).reshape(-1, 3)
        return embedding.energy_forces(moved, SKEWED * (1 + strain))[0]

    charges = embedding.surroundings.charges
    system = System([8, 1, 1], positions[:3], 0, positions[3:], charges, cell=SKEWED)
    result = model.evaluate([system], stress=True, unknown="ignore")[0]
    forces = np.concatenate([result["forces"], result["mm_forces"]]).reshape(-1, 3, 3)
    whole = np.trace(result["stress"]) * abs(np.linalg.det(SKEWED))
    expected = whole + (forces * (molecules - centres)).sum()
    h = 1e-3
    slope = (8 * (energy(h) - energy(-h)) - energy(2 * h) + energy(-2 * h)) / (12 * h)
    assert slope == pytest.approx(expected, abs=2e-4)


def test_the_slope_of_a_committee_is_the_derivative_by_the_charges(model):
    """Members have energies of their own with their images; the field is measured on the way."""
    other = copy.deepcopy(model)
    perturb(other, 0.05, 1)
    embedding, positions = water_zone(Committee([model, other]), SKEWED)
    h, energies = 1e-3, []
    for coupling in (0.0, 0.4 + h, 0.4 - h, 0.4):
        embedding.coupling = coupling
        energies.append(embedding.energy_forces(positions, SKEWED)[0])
    numeric = (energies[1] - energies[2]) / (2 * h)
    assert embedding.slope == pytest.approx(numeric, rel=1e-6)
    assert embedding.far.error < embedding.far.tolerance


def test_a_zone_that_is_everything_feels_its_images_alone(model):
    bonds = np.array([[0, 1], [0, 2]])
    zone = Zone(np.array([8, 1, 1]), Sites.of_particles(range(3), 3), 0, bonds, held=bonds)
    embedding = Embedding(model, zone, cutoff=6.0, periodic=True)
    full, positions = water_zone(model, SKEWED)
    full.far.charges[:] = full.surroundings.charges[:] = 0.0
    energy, forces = embedding.energy_forces(positions[:3], SKEWED)
    other, wanted = full.energy_forces(positions, SKEWED)
    assert energy == pytest.approx(other, abs=1e-6)
    np.testing.assert_allclose(forces, wanted[:3], atol=1e-6)


def test_what_cannot_be_periodic_is_refused(model):
    embedding, positions = water_zone(model, SKEWED)
    with pytest.raises(ValueError, match="expected a box, got none"):
        embedding.energy_forces(positions)

    class Deaf(Charged):
        def _energy(self, batch):
            from dataclasses import replace

            return super()._energy(replace(batch, external_field=batch.external_field[:, :0]))

    deaf, positions = water_zone(Deaf([0.1, 0.1, -0.2]), SKEWED)
    with pytest.raises(ValueError, match="Deaf does not answer to an external field"):
        deaf.energy_forces(positions, SKEWED)


# --- OpenMM ---------------------------------------------------------------------------------------


def nonbonded_system(openmm, topology, charges, box, n_zone):
    """Charges and repulsion alone; atoms of the zone do not meet each other."""
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*(0.1 * box))
    for q in charges:
        system.addParticle(1.0)
        force.addParticle(q, 0.15, 0.1)
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(0.9)
    force.setEwaldErrorTolerance(1e-6)
    force.setUseDispersionCorrection(False)
    for i in range(n_zone):
        for j in range(i):
            force.addException(i, j, 0.0, 0.1, 0.0)
    for i in range(n_zone, len(charges), 3):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            force.addException(i + a, i + b, 0.0, 0.1, 0.0)
    system.addForce(force)
    return system


@pytest.mark.parametrize("charges", [(0.0, 0.0), (1.0, -1.0), (-1.0, 0.0)])
def test_all_parts_together_are_one_ewald_sum(charges):
    """With classical charges for a model, QM/MM is the whole box by OpenMM's own sum."""
    openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
    from openmm import app

    from gnn.engines.openmm import create_system

    of_zone, of_rest = charges
    around, others = waters(SKEWED, 50)
    others[0] += of_rest
    own = np.array([-0.8, 0.4, 0.4]) + of_zone / 3
    positions = np.concatenate([[[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], around])
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(len(positions) // 3):
        residue = topology.addResidue("HOH", chain)
        three = [
            topology.addAtom(e, app.element.get_by_symbol(e[0]), residue) for e in ("O", "H1", "H2")
        ]
        topology.addBond(three[0], three[1])
        topology.addBond(three[0], three[2])
    topology.setPeriodicBoxVectors(0.1 * SKEWED)
    whole = nonbonded_system(openmm, topology, np.concatenate([own, others]), SKEWED, 3)
    split = create_system(
        topology, whole, range(3), Charged(own), charge=round(of_zone), cutoff=7.0
    )
    contexts = [
        openmm.Context(
            s, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        for s in (whole, split)
    ]
    for scale in (1.0, 1.04):
        results = []
        for context in contexts:
            context.setPeriodicBoxVectors(*(0.1 * scale * SKEWED))
            context.setPositions(0.1 * scale * positions)
            state = context.getState(energy=True, forces=True)
            results.append(
                (state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value))
            )
        (energy, forces), (ours, our_forces) = results
        assert ours == pytest.approx(energy, abs=1e-4)  # kJ/mol
        np.testing.assert_allclose(our_forces, forces, atol=2e-3)  # kJ/mol/nm


# --- reaction fields ------------------------------------------------------------------------------


def small_amp_bms():
    from gnn.published import AmpBms

    torch.manual_seed(0)
    return AmpBms(features=8, edge_features=4, channels=2, hidden=8, readout=4).double()


def test_reaction_fields_are_those_of_the_published_model():
    """Single charges within the model's cutoff, each as the model itself has it."""
    from gnn.engines.embedding.kinds import in_reaction_field, prepared

    model, cutoff = small_amp_bms(), 6.0
    for kind in ("reaction-field", "reaction-field-published"):
        mode = kind.replace("reaction-field", "simulation")
        ready = prepared(model, kind, cutoff)
        assert (ready.mode, ready.cutoff_mm) == (mode, cutoff) and model.mode == "training"
        embedding, positions = water_zone(model, SKEWED)
        alone, reach = in_reaction_field(ready, embedding.surroundings, cutoff, 1.5)
        embedding = Embedding(ready, embedding.zone, alone, reach)
        charges = np.array(alone.charges)
        images = (np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 1, 3) @ SKEWED)[:, 0]
        around = (positions[3:] + images[:, None]).reshape(-1, 3)
        system = System([8, 1, 1], positions[:3], 0, around, np.tile(charges, len(images)))
        expected = ready.evaluate([system])[0]["energy"]
        assert embedding.energy_forces(positions, SKEWED)[0] == pytest.approx(expected, abs=1e-8)


def test_kinds_that_do_not_fit_are_refused(model):
    from gnn.engines.embedding.kinds import checked_electrostatics, prepared

    assert checked_electrostatics(None, True) == "periodic"
    assert checked_electrostatics(None, False) == "cutoff"
    with pytest.raises(ValueError, match=r"expected one of .*'reaction-field'.*got 'pme'"):
        checked_electrostatics("pme", True)
    with pytest.raises(ValueError, match="'periodic' needs a periodic box"):
        checked_electrostatics("periodic", False)
    with pytest.raises(ValueError, match="published, got a model of kind AMP: use 'periodic'"):
        prepared(model, "reaction-field", 9.0)
    assert prepared(model, "cutoff", 9.0) is model
    assert (
        prepared(prepared(small_amp_bms(), "reaction-field", 9.0), "periodic", 9.0).mode
        == "training"
    )


def test_forces_of_amp_bms_are_the_gradient_of_the_energy():
    embedding, positions = water_zone(small_amp_bms(), SKEWED, charge_of_one=0.3)
    _, forces = embedding.energy_forces(positions, SKEWED)
    h, direction = 1e-3, np.random.default_rng(5).standard_normal(positions.shape)

    def energy(steps):
        return embedding.energy_forces(positions + steps * h * direction, SKEWED)[0]

    slope = (8 * (energy(1) - energy(-1)) - energy(2) + energy(-2)) / (12 * h)
    assert slope == pytest.approx(-(forces * direction).sum(), abs=1e-4)
