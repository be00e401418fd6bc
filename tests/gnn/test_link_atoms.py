"""Cut bonds: link atoms, charges at the frontier, terms of the force field across the cut."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from gnn import load_model
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.frontier import links_of
from gnn.engines.embedding.redistribution import redistributed, zone_charge
from gnn.engines.embedding.topology import bonds_among, surroundings_of, zone_of

openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
from openmm import app, unit  # noqa: E402

from gnn.engines.openmm import create_system  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS = ROOT.parent / "shared" / "reference" / "amp_bms_MIN_state_dict"
ALA, SER = range(10, 14), range(10, 15)  # side chains of the peptides, from CB on
THREE = [8, 9]  # CA and HA of serine, between N, C and CB

pytestmark = pytest.mark.filterwarnings("ignore:.*outside training")


@pytest.fixture(scope="module")
def model():
    return load_model().double()


@pytest.fixture(scope="module")
def field():
    return app.ForceField("amber14-all.xml", "amber14/tip4pew.xml")


def peptide(name="ala"):
    """Topology, and positions in nm, of ACE-ALA-NME or ACE-SER-NME."""
    return read(f"ace_{name}_nme")


def read(name):
    pdb = app.PDBFile(str(ROOT / "benchmarks" / "data" / f"{name}.pdb"))
    return pdb.topology, np.array(pdb.positions.value_in_unit(unit.nanometer))


def charges_of(system):
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    return np.array(
        [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    )


def parts(field, name, qm, scheme, charge=None):
    """Zone, surroundings, links and the force field's charges."""
    topology, _ = peptide(name)
    charges = charges_of(field.createSystem(topology))
    links = links_of(topology, set(qm), scheme)
    charge = zone_charge(charges, bonds_among(topology, qm), qm, links, charge)
    zone = zone_of(topology, qm, charge, None, True, links)
    moved = redistributed(scheme, links, zone, qm, charges)
    return zone, surroundings_of(topology, set(qm), charges, moved, links), links, charges


def context_of(system, positions, platform="Reference"):
    integrator = openmm.VerletIntegrator(0.5 * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


def numeric_forces(context, positions, particles, h=1e-5):
    found = np.zeros((len(particles), 3))
    for row, i in enumerate(particles):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[i, axis] += sign * h
                context.setPositions(moved)
                energies.append(context.getState(energy=True).getPotentialEnergy()._value)
            found[row, axis] = (energies[1] - energies[0]) / (2 * h)
    return found


# --- places and charges ---------------------------------------------------------------------------


def test_link_atoms_are_on_the_bond(field):
    zone, _, links, _ = parts(field, "ala", list(ALA), "shift")
    _, x = peptide()
    assert zone.numbers.tolist() == [6, 1, 1, 1, 1]
    assert (links[0].inner, links[0].outer, links[0].others) == (10, 8, (6, 9, 14))
    ratio = 1.09 / 1.53
    np.testing.assert_allclose(zone.sites.at(x)[4], (1 - ratio) * x[10] + ratio * x[8])
    assert [0, 4] in zone.bonds.tolist()
    np.testing.assert_allclose(zone.formal, 0)


@pytest.mark.filterwarnings("ignore:.*(polar|several cut bonds|goes to the frontier)")
@pytest.mark.parametrize("scheme", ["shift", "rcd"])
@pytest.mark.parametrize(
    ("name", "qm", "charge"), [("ala", ALA, None), ("ser", SER, 1), ("ser", THREE, None)]
)
def test_total_charge_and_dipole_are_kept(field, scheme, name, qm, charge):
    """With what the zone's whole number leaves of the force field's charges at M1."""
    qm = list(qm)
    zone, around, links, charges = parts(field, name, qm, scheme, charge)
    _, x = peptide(name)
    assert zone.charge + around.charges.sum() == pytest.approx(charges.sum(), abs=1e-13)
    expected = charges.copy()
    expected[qm] = 0
    for link in links:
        expected[link.outer] += (charges[qm].sum() - zone.charge) / len(links)
    dipole = around.charges @ around.sites.at(x)
    np.testing.assert_allclose(dipole, expected @ x, atol=1e-14)
    seen = around.sites.at(x)[around.charges != 0]
    for link in links:  # M1 itself has no charge
        assert np.linalg.norm(seen - x[link.outer], axis=1).min() > 0.05
    assert (np.diff(around.groups) >= 0).all()


def test_a_deleted_charge_is_named(field):
    with pytest.warns(UserWarning, match=r"delete' the model sees \+0\.0321 e less"):
        zone, around, _, charges = parts(field, "ala", list(ALA), "delete")
    missing = charges.sum() - zone.charge - around.charges.sum()
    assert missing == pytest.approx(0.0337 - 0.0016, abs=1e-12)


def test_each_molecule_leaves_its_own_remainder(field):
    """Two side chains of two peptides: what each has more than a whole number stays with it."""
    topology, _ = peptide("ser")
    nowhere = [openmm.Vec3(0, 0, 0)] * 23 * unit.nanometer
    modeller = app.Modeller(topology, nowhere)
    modeller.add(topology, nowhere)
    both = modeller.topology
    charges = charges_of(field.createSystem(both))
    charges[33] += 0.2  # CB of the second one
    qm = [*SER, *(23 + i for i in SER)]
    links = links_of(both, set(qm), "rcd")
    zone = zone_of(both, qm, 0, None, True, links)
    assert zone.numbers[-2:].tolist() == [1, 1]
    moved = redistributed("rcd", links, zone, qm, charges)
    gone = charges - moved.charges
    first, second = charges[list(SER)].sum(), charges[[23 + i for i in SER]].sum()
    others = list(links[0].others)
    np.testing.assert_allclose(gone[others], (charges[8] + first) / 3)
    np.testing.assert_allclose(gone[[23 + i for i in others]], (charges[31] + second) / 3)


def test_a_doubtful_charge_is_said(field):
    with pytest.warns(
        UserWarning,
        match=r"add up to 0\.055 e, the zone has 1: -0\.945 e beside the charge of atom 8",
    ):
        parts(field, "ser", list(SER), "shift", charge=1)


def test_residues_at_the_cut_never_fade(field):
    """Their centres are M1, or M2 in a neighbouring residue, however large they are."""
    qm = [15, 16]  # C and O of serine: M1 is CA on one side; the other bond is an amide's
    with pytest.raises(ValueError, match="amide"):
        parts(field, "ser", qm, "shift")
    qm = list(range(15, 23))  # C to the end: M1 is CA
    _, around, links, _ = parts(field, "ser", qm, "shift")
    assert links[0].outer == 8
    centre = around.sites.weights[np.flatnonzero(around.centres)].indices
    assert around.centres.max() == 1
    assert 8 in centre


def test_images_do_not_matter(field, model):
    zone, around, _, _ = parts(field, "ser", list(SER), "shift")
    embedding = Embedding(model, zone, around)
    _, x = peptide("ser")
    x, box = 10 * x, np.diag([24.0, 25.0, 26.0])
    energy, forces = embedding.energy_forces(x)
    rng = np.random.default_rng(0)
    for shifts in (rng.integers(-2, 3, x.shape), np.arange(23)[:, None] % 2 * np.ones(3)):
        again, same = embedding.energy_forces(x + shifts @ box, box)
        assert again == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(same, forces, atol=1e-8)


# --- the force field ------------------------------------------------------------------------------


def strong_terms(system):
    """Bonded terms that act, as atoms."""
    found = Counter()
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            rows = [force.getBondParameters(i) for i in range(force.getNumBonds())]
            found.update(tuple(row[:2]) for row in rows if row[3]._value)
        elif isinstance(force, openmm.HarmonicAngleForce):
            rows = [force.getAngleParameters(i) for i in range(force.getNumAngles())]
            found.update(tuple(row[:3]) for row in rows if row[4]._value)
        elif isinstance(force, openmm.PeriodicTorsionForce):
            rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
            found.update(tuple(row[:4]) for row in rows if row[6]._value)
        elif isinstance(force, openmm.CMAPTorsionForce):
            rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
            found.update(tuple(row[1:]) for row in rows)
    return found


@pytest.mark.parametrize(("name", "qm"), [("ala", ALA), ("ser", SER)])
def test_terms_across_the_cut(field, model, name, qm):
    topology, positions = peptide(name)
    plain = field.createSystem(topology)
    system = create_system(topology, field, qm, model, link_scheme="shift")
    before, after = strong_terms(plain), strong_terms(system)
    gone = before - after
    assert after - before == Counter()
    lost = {2: 2, 3: 2, 4: 3}  # as many QM atoms as this, and the model has it
    for atoms in before:
        inside = sum(i in qm for i in atoms)
        assert (atoms in gone) == (inside >= lost[len(atoms)]), atoms
    assert (8, 10) in after or (10, 8) in after
    assert any(set(atoms) == {6, 8, 10, 11} for atoms in after)
    # molecules are what they were, and exceptions across the cut keep Lennard-Jones alone
    molecules = context_of(system, positions).getMolecules()
    assert molecules == context_of(plain, positions).getMolecules()
    kept = [exceptions(made) for made in (plain, system)]
    scaled = 0
    for pair, (product, *rest) in kept[0].items():
        inside = len(pair & set(qm))
        if inside == 1:
            assert kept[1][pair] == (0.0, *rest)
            scaled += product != 0
        elif inside == 0:
            assert kept[1][pair] == (product, *rest)
    assert scaled > 4


def exceptions(system):
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    rows = [force.getExceptionParameters(k) for k in range(force.getNumExceptions())]
    return {frozenset(row[:2]): tuple(value._value for value in row[2:]) for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("files", ["charmm36.xml", "amber19-all.xml"])
def test_force_fields_with_custom_terms(files, model):
    """CHARMM: Urey-Bradley, impropers and 1-4 pairs as custom terms; Amber ff19SB: maps."""
    topology, positions = read("ala_ser_ala")
    field, qm = app.ForceField(files), range(16, 21)
    system = create_system(topology, field, qm, model, link_scheme="shift", dtype=torch.float64)
    before, after = strong_terms(field.createSystem(topology)), strong_terms(system)
    for atoms in before - after:
        assert sum(i in qm for i in atoms) >= {2: 1, 3: 2, 4: 3, 8: 3}[len(atoms)]
    assert (16, 14) in after or (14, 16) in after
    context = context_of(system, positions)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    chosen = [12, 14, 15, 16, 19, 21]
    numeric = numeric_forces(context, positions, chosen)
    np.testing.assert_allclose(forces[chosen], numeric, atol=3e-3)


def test_constraints_across_the_cut(field, model):
    topology, _ = peptide()
    system = create_system(topology, field, ALA, model, link_scheme="shift", constraints=app.HBonds)
    held = {
        i for k in range(system.getNumConstraints()) for i in system.getConstraintParameters(k)[:2]
    }
    assert held and held.isdisjoint(ALA)
    with pytest.raises(ValueError, match=r"a constraint holds atoms .* one is not"):
        create_system(topology, field, ALA, model, link_scheme="shift", constraints=app.AllBonds)


@pytest.mark.parametrize(
    ("name", "qm", "scheme", "moved"),
    [
        ("ala", ALA, "shift", (8, 9, 10, 14)),
        pytest.param("ala", ALA, "shift", range(22), marks=pytest.mark.slow),
        pytest.param("ser", SER, "rcd", range(23), marks=pytest.mark.slow),
        pytest.param("ser", range(15, 23), "shift", range(23), marks=pytest.mark.slow),
    ],
)
def test_forces_are_the_gradient_of_the_energy(field, model, name, qm, scheme, moved):
    topology, positions = peptide(name)
    system = create_system(topology, field, qm, model, link_scheme=scheme, dtype=torch.float64)
    context = context_of(system, positions)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    numeric = numeric_forces(context, positions, moved)
    assert np.abs(forces).max() > 100
    np.testing.assert_allclose(forces[list(moved)], numeric, atol=3e-3)


def test_the_rest_of_the_force_field_is_as_it_was(field, model):
    """Energy without the model: that of the force field, less what the model replaces."""
    topology, positions = peptide()
    system = create_system(topology, field, ALA, model, link_scheme="shift")
    plain = field.createSystem(topology)
    for force in plain.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for i in ALA:
                force.setParticleParameters(i, 0.0, *force.getParticleParameters(i)[1:])
            for k in range(force.getNumExceptions()):
                i, j, _, *rest = force.getExceptionParameters(k)
                if {i, j} & set(ALA):
                    force.setExceptionParameters(k, i, j, 0.0, *rest)
                if {i, j} <= set(ALA):
                    force.setExceptionParameters(k, i, j, 0.0, 0.1, 0.0)
        elif isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                i, j, length, strength = force.getBondParameters(k)
                if {i, j} <= set(ALA):
                    force.setBondParameters(k, i, j, length, 0 * strength)
        elif isinstance(force, openmm.HarmonicAngleForce):
            for k in range(force.getNumAngles()):
                *atoms, angle, strength = force.getAngleParameters(k)
                if len(set(atoms) & set(ALA)) >= 2:
                    force.setAngleParameters(k, *atoms, angle, 0 * strength)
    expected = context_of(plain, positions).getState(energy=True).getPotentialEnergy()._value
    ours = context_of(system, positions).getState(energy=True, groups={0})
    assert ours.getPotentialEnergy()._value == pytest.approx(expected, abs=1e-6)


# --- what is refused, and what is said ------------------------------------------------------------


def graph(symbols, bonds, **kinds):
    """A topology of one residue, from elements and bonds such as "0-1" with kinds such as b01=."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [
        topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
        for i, symbol in enumerate(symbols)
    ]
    for i, j in bonds:
        topology.addBond(atoms[i], atoms[j], **kinds.get(f"b{i}{j}", {}))
    return topology


ETHANE = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6), (1, 7)]
PROPANE = ("C" * 3 + "H" * 8, [(0, 1), (1, 2), *((0, k) for k in (3, 4, 5)), (1, 6), (1, 7),
           *((2, k) for k in (8, 9, 10))])  # fmt: skip


@pytest.mark.parametrize(
    ("symbols", "bonds", "qm", "words"),
    [
        ("CCHHHHHH", ETHANE, [0, 1, 2, 3, 4, 5, 6], "it is one to hydrogen"),
        ("CCHHHH", [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)], [0, 2, 3], "double, aromatic"),
        ("CCOHHHHC", [(0, 1), (1, 2), (1, 7), (0, 3), (0, 4), (0, 5)], [2], "double, aromatic"),
        ("NCOHHCHHH", [(0, 1), (1, 2), (0, 3), (0, 4), (1, 5), (5, 6), (5, 7), (5, 8)],
         [0, 3, 4], "amide"),
        ("CZnHHH", [(0, 1), (0, 2), (0, 3), (0, 4)], [0, 2, 3, 4], "no link atom"),
        ("COHHH", [(0, 1), (0, 2), (0, 3), (0, 4)], [0, 2, 3, 4], "double, aromatic"),
        (*PROPANE, [0, 2, 3, 4, 5, 8, 9, 10], "bonded to two QM atoms"),
        ("CCCCHHHHHHHH", [(0, 1), (1, 2), (2, 3), (3, 0), *((k // 2, 4 + k) for k in range(8))],
         [0, 1, 4, 5, 6, 7], "there must be an atom between"),
    ],
)  # fmt: skip
def test_bonds_that_must_not_be_cut(symbols, bonds, qm, words):
    names = ["C", "Zn", "H", "H", "H"] if symbols == "CZnHHH" else symbols
    with pytest.raises(ValueError, match=words):
        links_of(graph(names, bonds), set(qm), "shift")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"type": app.Double}, "it is double"),
        ({"type": app.Aromatic}, "it is aromatic"),
        ({"type": app.Amide}, "it is an amide's"),
        ({"order": 2}, "it is of order 2"),
    ],
)
def test_what_the_topology_says_of_a_bond_counts(kind, words):
    topology = graph("CCHHHHHH", ETHANE, b01=kind)
    with pytest.raises(ValueError, match=words):
        links_of(topology, {0, 2, 3, 4}, "shift")
    single = graph("CCHHHH", [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)], b01={"type": app.Single})
    with pytest.warns(UserWarning, match="is conjugated"):
        assert len(links_of(single, {0, 2, 3}, "shift")) == 1


def test_what_is_said_of_cut_bonds(field):
    topology = graph("CCHHHHHH", ETHANE)
    with pytest.warns(UserWarning, match=r"1 bond gets a link atom: .* 0 \(C0 of MOL 1\).*0\.712"):
        links_of(topology, {0, 2, 3, 4})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert links_of(topology, {0, 2, 3, 4}, "rcd")
        assert links_of(topology, set(range(8))) == []
    with pytest.raises(ValueError, match="whole molecules"):
        links_of(topology, {0, 2, 3, 4}, "refuse")
    with pytest.raises(ValueError, match="link_scheme to be one of shift, rcd"):
        links_of(topology, {0, 2, 3, 4}, "move")
    methanol = graph("COHHHC", [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)])
    with pytest.warns(UserWarning, match="is polar"):
        (link,) = links_of(methanol, {0, 2, 3, 4}, "shift")
    assert link.ratio == pytest.approx(1.09 / 1.43)
    with warnings.catch_warnings(), pytest.warns(UserWarning, match="atom 8 .* several cut"):
        warnings.filterwarnings("ignore", message=".*is polar")
        links_of(peptide("ser")[0], set(THREE), "shift")


def test_the_ratio():
    topology, qm = graph("CCHHHHHH", ETHANE), {0, 2, 3, 4}
    assert links_of(topology, qm, "shift", 0.7)[0].ratio == 0.7
    assert links_of(topology, qm, "shift", {("C", "C"): 0.69})[0].ratio == 0.69
    assert links_of(topology, qm, "shift", {("N", "C"): 0.69})[0].ratio == 1.09 / 1.53
    for wrong in (0.0, 1.2, np.nan):
        with pytest.raises(ValueError, match="link_ratio"):
            links_of(topology, qm, "shift", wrong)
    with pytest.raises(TypeError, match="link_ratio"):
        links_of(topology, qm, "shift", "0.7")


def test_a_cutoff_within_the_frontier_is_refused(field, model):
    topology, _ = peptide()
    with pytest.raises(ValueError, match="must not fade"):
        create_system(topology, field, ALA, model, link_scheme="shift", cutoff=4.0)


def test_terms_of_distant_atoms_are_still_refused(field, model):
    topology, _ = peptide()
    system = field.createSystem(topology)
    bias = openmm.HarmonicBondForce()
    bias.addBond(10, 20, 0.5, 100.0)
    system.addForce(bias)
    with pytest.raises(ValueError, match="no bonds of the topology join"):
        create_system(topology, system, ALA, model, link_scheme="shift")
    system = field.createSystem(topology)
    charged = openmm.CustomBondForce("138.9*qq/r")
    charged.addPerBondParameter("qq")
    charged.addBond(11, 6, [0.1])
    system.addForce(charged)
    with pytest.raises(ValueError, match=r"acts on the charges of atoms 11 and 6 \(qq = 0\.1\)"):
        create_system(topology, system, ALA, model, link_scheme="shift")


# --- with the published model ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the weights of AMP-BMS")
def test_energy_is_conserved(field):
    from gnn.published import load_amp_bms

    model = load_amp_bms(WEIGHTS).double()
    topology, positions = peptide("ser")
    system = create_system(topology, field, SER, model, link_scheme="shift", dtype=torch.float64)
    context = context_of(system, positions)
    context.setVelocitiesToTemperature(300, 1)
    found = []
    for _ in range(60):
        context.getIntegrator().step(10)
        state = context.getState(energy=True)
        found.append((state.getPotentialEnergy()._value, state.getKineticEnergy()._value))
    potential, kinetic = np.array(found)[10:].T
    assert np.std(potential + kinetic) < 0.03 * np.std(kinetic)
