"""Water with charges on virtual sites, ions, flexible water: forces, groups, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gnn import load_model

openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
from openmm import app, unit  # noqa: E402

from gnn.engines.openmm import create_system  # noqa: E402

DATA = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "data"
SIDE_CHAIN = range(10, 14)
WATERS = {
    "tip4pew": ("amber14/tip4pew.xml", "tip4pew", 4),
    "tip4pfb": ("amber14/tip4pfb.xml", "tip4pew", 4),
    "opc": ("amber14/opc.xml", "tip4pew", 4),
    "tip5p": ("tip5p.xml", "tip5p", 5),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*outside training")


@pytest.fixture(scope="module")
def model():
    return load_model().double()


def droplet(water, **options):
    """Alanine dipeptide in some water, free of a box: topology, force field, positions in nm."""
    file, kind, _ = WATERS[water]
    pdb = app.PDBFile(str(DATA / "ace_ala_nme.pdb"))
    field = app.ForceField("amber14-all.xml", file)
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(field, model=kind, boxSize=openmm.Vec3(1.6, 1.6, 1.6), **options)
    modeller.topology.setPeriodicBoxVectors(None)
    return modeller.topology, field, np.array(modeller.positions.value_in_unit(unit.nanometer))


def context_of(system, positions, platform="Reference"):
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    context.computeVirtualSites()
    return context


@pytest.mark.parametrize(
    ("water", "rigid"),
    [
        ("tip4pew", True),
        pytest.param("tip4pew", False, marks=pytest.mark.slow),
        pytest.param("tip4pfb", True, marks=pytest.mark.slow),
        pytest.param("opc", True, marks=pytest.mark.slow),
        pytest.param("tip5p", True, marks=pytest.mark.slow),
    ],
)
def test_forces_on_virtual_sites_reach_the_atoms(model, water, rigid):
    topology, field, positions = droplet(water)
    system = create_system(
        topology, field, SIDE_CHAIN, model, link_scheme="shift", dtype=torch.float64,
        cutoff=7.0, rigidWater=rigid, nonbondedMethod=app.NoCutoff,
    )  # fmt: skip
    context = context_of(system, positions)
    x = context.getState(positions=True).getPositions(asNumpy=True)._value
    forces = context.getState(forces=True, groups={1}).getForces(asNumpy=True)._value
    sites = [i for i in range(len(x)) if system.isVirtualSite(i)]
    assert sites
    oxygens = [
        i
        for i in range(22, len(x))
        if not system.isVirtualSite(i) and system.getParticleMass(i)._value > 10
    ]
    near = oxygens[np.argmin(np.linalg.norm(x[oxygens] - x[10], axis=1))]
    for i in (near, near + 1, near + 2):
        for axis in range(3):
            found = []
            for sign in (1, -1):
                moved = x.copy()
                moved[i, axis] += sign * 1e-5
                context.setPositions(moved)
                context.computeVirtualSites()
                state = context.getState(energy=True, groups={1})
                found.append(state.getPotentialEnergy()._value)
            assert forces[i, axis] == pytest.approx((found[1] - found[0]) / 2e-5, abs=3e-3)
    assert np.abs(forces[near : near + 3]).max() > 1
    on_cpu = context_of(system, x, "CPU").getState(forces=True, groups={1})
    np.testing.assert_allclose(on_cpu.getForces(asNumpy=True)._value, forces, atol=1e-2)


def test_groups_of_water_with_virtual_sites_and_ions(model):
    from gnn.engines.embedding.topology import surroundings_of

    topology, field, positions = droplet("tip4pew", ionicStrength=1.0 * unit.molar)
    system = field.createSystem(topology)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = np.array(
        [force.getParticleParameters(i)[0]._value for i in range(system.getNumParticles())]
    )
    around = surroundings_of(topology, set(range(22)), charges)
    residues = [r for r in topology.residues() if r.index > 2]
    assert {r.name for r in residues} >= {"HOH", "NA", "CL"}
    sums = np.bincount(around.groups, around.charges)
    centres = np.zeros((len(residues), 3))
    np.add.at(centres, around.groups, around.centres[:, None] * around.sites.at(positions))
    for residue, total, centre in zip(residues, sums, centres, strict=True):
        first = next(residue.atoms())
        expected = {"HOH": 0.0, "NA": 1.0, "CL": -1.0}[residue.name]
        assert total == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(centre, positions[first.index])  # oxygen, or the ion


def test_water_with_virtual_sites_is_no_zone(model):
    topology, field, _ = droplet("tip4pew")
    oxygen = next(r for r in topology.residues() if r.name == "HOH")
    atoms = [atom.index for atom in oxygen.atoms()]
    with pytest.raises(ValueError, match="is a virtual site of QM atom"):
        create_system(topology, field, atoms[:3], model)
    with pytest.raises(ValueError, match="has no element"):
        create_system(topology, field, atoms, model)


def test_a_virtual_site_on_the_atom_behind_a_cut_is_refused(model):
    pdb = app.PDBFile(str(DATA / "ace_ala_nme.pdb"))
    topology = pdb.topology
    system = app.ForceField("amber14-all.xml").createSystem(topology)
    site = system.addParticle(0.0)
    system.setVirtualSite(site, openmm.TwoParticleAverageSite(8, 9, 0.5, 0.5))
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force.addParticle(0.0, 0.1, 0.0)
    topology.addAtom("LP", None, list(topology.residues())[-1])
    with pytest.raises(ValueError, match=r"virtual site of atom 8, whose bond .* cut another"):
        create_system(topology, system, SIDE_CHAIN, model, link_scheme="shift")
