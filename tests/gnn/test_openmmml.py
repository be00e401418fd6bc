"""Our models through OpenMM-ML: its calls, with its parameters, give what our own give."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from methanol import in_water

from gnn import System, load_model
from gnn.units import KJ_PER_MOL

openmm = pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
mlpotential = pytest.importorskip(
    "openmmml.mlpotential", reason="needs the package openmmml (extra 'engines')"
)
from openmm import app, unit  # noqa: E402

from gnn.engines.openmmml_factories import (  # noqa: E402
    ElectrostaticsFactory,
    ModelPotentialFactory,
)

MLPotential = mlpotential.MLPotential
N = 6
METHANOL = [6, 8, 1, 1, 1, 1]
LAMBDA = "lambda_interpolate"


@pytest.fixture(scope="module", autouse=True)
def registered():
    """As the entry points do it where the package is installed."""
    for name in ("anisole", "amp-bms"):
        MLPotential.registerImplFactory(name, ModelPotentialFactory())
    MLPotential.registerEmbeddingFactory("anisole", ElectrostaticsFactory())


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """Topology, positions in nm and classical system of methanol in water."""
    prmtop, start = in_water(tmp_path_factory.mktemp("box"))
    system = prmtop.createSystem(
        nonbondedMethod=app.PME, nonbondedCutoff=0.9, constraints=app.HBonds, rigidWater=True
    )
    system.setDefaultPeriodicBoxVectors(*start.boxVectors)
    return prmtop.topology, np.array(start.positions.value_in_unit(unit.nanometer)), system


@pytest.fixture(scope="module")
def alone(box):
    """Topology and positions of the molecule."""
    topology, positions, _ = box
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.delete([atom for atom in topology.atoms() if atom.index >= N])
    modeller.topology.setPeriodicBoxVectors(None)
    return modeller.topology, positions[:N]


def context_of(system, positions):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    return context


def state_of(system, positions, **parameters):
    context = context_of(system, positions)
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def assert_same(found, wanted, atol=1e-4):
    assert found[0] == pytest.approx(wanted[0], abs=atol)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6 * np.abs(wanted[1]).max())


def test_a_molecule_by_itself(alone):
    topology, positions = alone
    potential = MLPotential("anisole")
    assert {"anisole", "electrostatic", "mechanical"} <= set(potential.getSupportedEmbeddings())
    system = potential.createSystem(topology, precision="double")
    energy, forces = state_of(system, positions)
    (wanted,) = load_model().double().evaluate([System(METHANOL, 10 * positions)])
    assert energy == pytest.approx(wanted["energy"] / KJ_PER_MOL, abs=1e-6)
    np.testing.assert_allclose(forces, 10 * wanted["forces"] / KJ_PER_MOL, atol=1e-6)


def test_a_checkpoint_and_its_precision(alone, tmp_path):
    from gnn.training.checkpoint import model_state, save

    model = load_model()
    with torch.no_grad():
        model.baseline[6] += 1.0
    save(tmp_path / "own.pt", model_state(model))
    topology, positions = alone
    names = {"modelPath": tmp_path / "own.pt"}, {}
    one, other = (
        state_of(MLPotential("anisole", **name).createSystem(topology), positions)[0]
        for name in names
    )
    assert one - other == pytest.approx(1 / KJ_PER_MOL, abs=1e-2)
    with pytest.raises(ValueError, match="'single' or 'double', got 'half'"):
        MLPotential("anisole").createSystem(topology, precision="half")
    with pytest.raises(FileNotFoundError):
        MLPotential("anisole", modelPath=tmp_path / "none.pt")


def test_a_box_of_atoms_is_periodic(alone):
    topology, positions = alone
    topology = copy.deepcopy(topology)
    topology.setPeriodicBoxVectors(np.diag([0.7, 0.8, 0.9]) * unit.nanometer)
    system = MLPotential("anisole").createSystem(topology, precision="double")
    energy, forces = state_of(system, positions)
    cell = np.diag([7.0, 8.0, 9.0])
    given = System(METHANOL, 10 * positions, cell=cell)
    (wanted,) = load_model().double().evaluate([given])
    assert energy == pytest.approx(wanted["energy"] / KJ_PER_MOL, abs=1e-6)
    np.testing.assert_allclose(forces, 10 * wanted["forces"] / KJ_PER_MOL, atol=1e-6)


def test_a_model_without_cells_refuses_a_box(alone):
    topology, _ = alone
    topology = copy.deepcopy(topology)
    topology.setPeriodicBoxVectors(np.eye(3) * 2 * unit.nanometer)
    model = load_model()
    model.__class__ = type("Open", (type(model),), {"takes_cells": False})
    with pytest.raises(ValueError, match="Open computes no periodic systems"):
        MLPotential("anisole", modelPath=model).createSystem(topology)


@pytest.fixture(scope="module")
def own(box):
    """What our own call gives for the mixed system."""
    from gnn.engines.openmm import create_system

    topology, positions, system = box
    mixed = create_system(topology, system, range(N), dtype=torch.float64)
    return state_of(mixed, positions)


def test_electrostatic_embedding_is_ours(box, own):
    topology, positions, system = box
    mixed = MLPotential("anisole").createMixedSystem(
        topology, system, range(N), embedding="electrostatic", precision="double", forceGroup=3
    )
    assert_same(state_of(mixed, positions), own)
    (force,) = (f for f in mixed.getForces() if isinstance(f, openmm.PythonForce))
    assert force.getForceGroup() == 3
    assert mixed.getNumConstraints() == 3 * 368
    kept = MLPotential("anisole").createMixedSystem(
        topology, system, range(N), embedding="electrostatic", removeConstraints=False
    )
    assert kept.getNumConstraints() == system.getNumConstraints() == 3 * 368 + 4
    info = MLPotential("anisole").createMixedSystem(
        topology, system, range(N), embedding="electrostatic", returnInfo=True
    )
    assert info["oldToNew"] == list(range(topology.getNumAtoms()))


def test_interpolation_between_force_field_and_model(box, own):
    topology, positions, system = box
    mixed = MLPotential("anisole").createMixedSystem(
        topology, system, range(N), embedding="electrostatic", precision="double", interpolate=True
    )
    classical = state_of(system, positions)
    assert_same(state_of(mixed, positions), own)
    assert_same(state_of(mixed, positions, **{LAMBDA: 0}), classical)
    half = state_of(mixed, positions, **{LAMBDA: 0.5})
    assert_same(half, [0.5 * (a + b) for a, b in zip(own, classical, strict=True)])
    molecules = context_of(mixed, positions).getMolecules()
    assert tuple(range(N)) in molecules and len(molecules) == 369


def test_mechanical_embedding_leaves_charges_to_the_force_field(box, alone):
    topology, positions, system = box
    mixed = MLPotential("anisole").createMixedSystem(topology, system, range(N), forceGroup=3)
    energies = {}
    for moved in (0.0, 0.05):
        turned = positions.copy()
        turned[N:] += moved
        context = context_of(mixed, turned)
        energies[moved] = context.getState(energy=True, groups={3}).getPotentialEnergy()._value
    inner, _ = state_of(MLPotential("anisole").createSystem(alone[0]), alone[1])
    assert energies[0.0] == pytest.approx(inner, abs=0.05) == energies[0.05]
    classical, _ = state_of(system, positions)
    mixed = MLPotential("anisole").createMixedSystem(topology, system, range(N), interpolate=True)
    assert state_of(mixed, positions, **{LAMBDA: 0})[0] == pytest.approx(classical, abs=0.05)


def test_our_electrostatics_for_other_potentials(box, alone, own):
    """With our model as the potential, too, its energy alone comes and goes."""
    topology, positions, system = box
    embedded = {"embedding": "anisole", "precision": "double"}
    mixed = MLPotential("anisole").createMixedSystem(topology, system, range(N), **embedded)
    assert_same(state_of(mixed, positions), own)

    class Nothing(mlpotential.MLPotentialImpl):
        def addForces(self, topology, system, atoms, forceGroup, **args):
            system.addForce(openmm.CustomExternalForce("0"))

    class NothingFactory(mlpotential.MLPotentialImplFactory):
        def createImpl(self, name, **args):
            return Nothing()

    MLPotential.registerImplFactory("nothing", NothingFactory())
    mixed = MLPotential("nothing").createMixedSystem(topology, system, range(N), **embedded)
    inner, _ = state_of(MLPotential("anisole").createSystem(alone[0], precision="double"), alone[1])
    assert state_of(mixed, positions)[0] == pytest.approx(own[0] - inner, abs=1e-3)


def test_cut_bonds_are_capped_by_the_mechanical_embedding():
    """Ethanol as a methyl group and the rest: the model computes methane."""
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    symbols = ["C", "H", "H", "H", "C", "H", "H", "O", "H"]
    atoms = [topology.addAtom(s, app.Element.getBySymbol(s), residue) for s in symbols]
    for i, j in [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7), (7, 8)]:
        topology.addBond(atoms[i], atoms[j])
    system, force = openmm.System(), openmm.NonbondedForce()
    for atom in atoms:
        system.addParticle(atom.element.mass)
        force.addParticle(0.0, 0.1, 0.0)
    system.addForce(force)
    from ase.build import molecule

    ethanol = molecule("CH3CH2OH")  # C C O H H H H H H
    positions = 0.1 * ethanol.positions[[0, 6, 7, 8, 1, 4, 5, 2, 3]]
    info = MLPotential("anisole").createMixedSystem(
        topology, system, range(4), precision="double", returnInfo=True
    )
    context = context_of(info["system"], np.concatenate([positions, np.zeros((1, 3))]))
    context.computeVirtualSites()
    state = context.getState(energy=True, positions=True)
    placed = state.getPositions(asNumpy=True)._value[[0, 1, 2, 3, 9]]
    (wanted,) = load_model().double().evaluate([System([6, 1, 1, 1, 1], 10 * placed)])
    assert state.getPotentialEnergy()._value == pytest.approx(
        wanted["energy"] / KJ_PER_MOL, abs=1e-5
    )
    with pytest.raises(ValueError, match=r"1 bonds of the atoms .* are cut, and 0 link atoms"):
        MLPotential("anisole")._impl.addForces(topology, openmm.System(), range(4), 0)


@pytest.mark.slow
def test_the_published_model(box, alone, shared_dir):
    from gnn.engines.openmm import create_system
    from gnn.published import load_amp_bms

    topology, positions, system = box
    model = load_amp_bms(shared_dir / "reference" / "amp_bms_MIN_state_dict")
    potential = MLPotential("amp-bms", modelPath=model)
    energy, _ = state_of(potential.createSystem(alone[0], precision="double"), alone[1])
    (wanted,) = model.double().evaluate([System(METHANOL, 10 * alone[1])])
    assert energy == pytest.approx(wanted["energy"] / KJ_PER_MOL, abs=1e-5)
    mixed = potential.createMixedSystem(
        topology, system, range(N), embedding="electrostatic", precision="double"
    )
    wanted = create_system(topology, system, range(N), model, dtype=torch.float64)
    assert_same(state_of(mixed, positions), state_of(wanted, positions))


def test_ours_may_be_imported_first(tmp_path):
    """OpenMM-ML loads our factories while our module waits for it."""
    here = tmp_path / "anisole-0.dist-info"
    here.mkdir()
    (here / "METADATA").write_text("Metadata-Version: 2.1\nName: anisole-test\nVersion: 0\n")
    factories = "gnn.engines.openmmml_factories"
    (here / "entry_points.txt").write_text(
        f"[openmmml.potentials]\nanisole = {factories}:ModelPotentialFactory\n"
        f"[openmmml.embeddings]\nanisole = {factories}:ElectrostaticsFactory\n"
    )
    root = Path(__file__).resolve().parents[2]
    code = (
        "from gnn.engines.openmmml import ModelPotential; from openmmml import MLPotential; "
        "assert isinstance(MLPotential('anisole')._impl, ModelPotential)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
