"""MDAnalysis and mdtraj open what runs write: both formats, virtual sites, several residues."""

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")

from openmm import Vec3, app, unit

from gnn.engines.runs.failure import write_pdb
from gnn.engines.runs.trajectory import Trajectory
from gnn.engines.runs.zone import zone_tree

FRAMES, BOX = 4, np.array([24.0, 25.0, 26.0])


def built():
    """Two residues with a bond between them, and water of four sites."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    for name, symbols in (("ACE", "CHHHCO"), ("NME", "NHCHHH")):
        residue = topology.addResidue(name, chain)
        for k, symbol in enumerate(symbols):
            element = app.Element.getBySymbol(symbol)
            atoms.append(topology.addAtom(f"{symbol}{k}", element, residue))
    for i, j in [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (6, 7), (6, 8)] + [
        (8, k) for k in (9, 10, 11)
    ]:
        topology.addBond(atoms[i], atoms[j])
    chain = topology.addChain()
    for _ in range(20):
        residue = topology.addResidue("HOH", chain)
        names = ("O", "H1", "H2")
        water = [topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in names]
        topology.addAtom("M", None, residue)
        topology.addBond(water[0], water[1])
        topology.addBond(water[0], water[2])
    rng = np.random.default_rng(0)
    solute = np.cumsum(np.tile([[1.0, 0.4, 0.1]], (12, 1)), axis=0) + 3
    oxygens = rng.uniform(2, 22, (20, 1, 3))
    site = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0.1, 0.12, 0]])
    return topology, np.concatenate([solute, (oxygens + site).reshape(-1, 3)])


@pytest.fixture(scope="module", params=["xtc", "dcd"])
def files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    topology, positions = built()
    write_pdb(
        folder / "topology.pdb", topology, positions, np.diag(BOX), zone_tree(topology, range(12))
    )
    frames = Trajectory(folder / f"trajectory.{request.param}", topology, 0.5, 10)
    box = [Vec3(*row) for row in np.diag(0.1 * BOX).tolist()]
    for k in range(FRAMES):
        frames.write((positions + k) * unit.angstrom, box * unit.nanometer)
    frames.close()
    return str(folder / "topology.pdb"), str(frames.path), positions


def test_mdanalysis(files):
    analysis = pytest.importorskip("MDAnalysis", reason="needs the package MDAnalysis")
    topology, trajectory, positions = files
    universe = analysis.Universe(topology, trajectory)
    assert len(universe.trajectory) == FRAMES
    solute = universe.select_atoms("not water")
    assert solute.indices.tolist() == list(range(12)) and solute.n_residues == 2
    assert len(solute.bonds) == 11 and len(universe.select_atoms("water")) == 80
    assert len(universe.select_atoms("name M")) == 20
    for k, frame in enumerate(universe.trajectory):
        np.testing.assert_allclose(frame.positions, positions + k, atol=0.011)
        np.testing.assert_allclose(frame.dimensions, [*BOX, 90, 90, 90], atol=1e-3)
        assert frame.time == pytest.approx(0.005 * k if trajectory.endswith("xtc") else frame.time)
    assert universe.trajectory.dt == pytest.approx(0.005, rel=1e-4)


def test_mdtraj(files):
    traj = pytest.importorskip("mdtraj", reason="needs the package mdtraj")
    topology, trajectory, positions = files
    found = traj.load(trajectory, top=topology)
    assert found.n_frames == FRAMES
    assert found.topology.select("not water").tolist() == list(range(12))
    assert len(found.topology.select("name M")) == 20
    assert found.topology.n_bonds == 11 + 2 * 20
    np.testing.assert_allclose(found.xyz[2], 0.1 * (positions + 2), atol=1.1e-3)
    np.testing.assert_allclose(found.unitcell_lengths[0], 0.1 * BOX, atol=1e-4)
