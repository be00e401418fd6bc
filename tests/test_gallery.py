"""The examples of the documentation: their helpers against known numbers; all of them, slowly."""

import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest

import multipoles as mp
from multipoles.indexing import n_components, sum_index

GALLERY = Path(__file__).resolve().parent.parent / "docs" / "gallery"
EXAMPLES = sorted(GALLERY.glob("plot_*.py"))


def load(name):
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", GALLERY / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_induced_dipoles_of_amoeba_water(shared_dir):
    """216 waters: dipoles and polarisation energy of OpenMM at a target of 1e-9."""
    paths = [shared_dir / f"reference/amoeba2018_water216{s}.npz" for s in ("", "_polarized")]
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path.name} not found")
    permanent, polarised = (dict(np.load(path)) for path in paths)
    nm, x = 10.0, 10.0 * permanent["positions_nm"]
    flat = permanent["quadrupole_lab_enm2"].reshape(-1, 9) * nm**2
    parts = permanent["charge_e"][:, None], permanent["dipole_lab_enm"] * nm, flat
    moments = mp.from_convention(np.concatenate(parts, axis=1), "amoeba")
    alpha = polarised["polarizability_nm3"] * nm**3
    found = load("induced").solve(x, moments, alpha, polarised["thole"], permanent["molecule"])
    wanted = polarised["induced_dipole_enm"] * nm
    assert np.linalg.norm(found.dipoles - wanted) < 1e-7 * np.linalg.norm(wanted)
    k = float(permanent["coulomb_kjmol_nm_e2"]) * nm
    energy = (
        float(permanent["energy_nocutoff_kjmol"]) - 0.5 * k * (found.dipoles * found.field).sum()
    )
    assert energy == pytest.approx(float(polarised["energy_kjmol"]), rel=1e-9)


def in_a_box_by_openmm(amoeba, x, box, polarised):
    """Return energy, forces and induced dipoles of water (kJ/mol, Å, e), on a fine mesh."""
    import openmm

    system = amoeba.create_system(amoeba.water_topology(len(x) // 3))
    system.setDefaultPeriodicBoxVectors(*np.diag(0.1 * box))
    force = amoeba.multipole_force(system)
    force.setNonbondedMethod(force.PME)
    # its B-splines have order 5: only a grid far too fine has forces to 1e-6
    force.setCutoffDistance(0.93)
    force.setPMEParameters(4.1, 192, 192, 192)
    force.setMutualInducedTargetEpsilon(1e-10)
    force.setMutualInducedMaxIterations(200)
    if not polarised:
        force.setPolarizationType(force.Direct)
        for i in range(force.getNumMultipoles()):
            *given, _ = force.getMultipoleParameters(i)
            force.setMultipoleParameters(i, *given, 0.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(0.1 * x)
    state = context.getState(getEnergy=True, getForces=True)
    dipoles = 10 * np.array([list(row) for row in force.getInducedDipoles(context)])
    forces = 0.1 * state.getForces(asNumpy=True)._value
    return state.getPotentialEnergy()._value, forces, dipoles


def in_a_box_by_hand(x, moments, sites, molecule, box, solved):
    """Return energy, forces, and gradient by the moments, of permanent and induced moments.

    Dipoles that are solved for make the energy stationary, so that its derivatives are those at
    fixed dipoles. Permanent moments of one molecule do not act on each other, nor do they induce.
    """
    pairs, factors = oracles.water_exclusions(molecule)
    energy, forces, gradients = mp.energy_forces(
        x, moments, cell=np.diag(box), pair_scale=(pairs, factors)
    )
    energy -= 0.5 * (solved.dipoles * solved.field).sum()
    damped = load("induced").DampedField(x, *sites, 1e-11, box, order=3)
    induced = mp.pack(np.zeros(len(x)), solved.dipoles)
    from_outside = damped(induced, molecule)
    on_induced = damped(moments, molecule) + damped(induced)
    for order, own, phi in ((1, induced, on_induced), (2, moments, from_outside)):
        raised = sum_index(order, 1)[:, 1:]
        forces = forces - np.einsum("ik,ika->ia", own, phi[:, raised])
    return energy, forces, gradients + from_outside[:, : n_components(2)]


@pytest.mark.slow
@pytest.mark.parametrize("polarised", [False, True], ids=["permanent", "polarised"])
def test_amoeba_water_in_a_box(shared_dir, polarised):
    """Energy, forces and induced dipoles of 216 waters in a box are OpenMM's."""
    pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
    amoeba, induced = load("amoeba"), load("induced")
    path = shared_dir / "reference/amoeba2018_water216.npz"
    if not path.exists():
        pytest.skip(f"{path.name} not found")
    data = dict(np.load(path))
    x, box, molecule = 10 * data["positions_nm"], 10 * data["box_nm"], data["molecule"]
    moments, *sites = amoeba.sites(amoeba.create_system(amoeba.water_topology(216)), x)
    if polarised:
        solved = induced.solve(x, moments, *sites, molecule, tolerance=1e-11, box=box)
    else:
        solved = induced.Solution(np.zeros_like(x), np.zeros_like(x), [])
    energy, forces, gradients = in_a_box_by_hand(x, moments, sites, molecule, box, solved)
    k = 10 * float(data["coulomb_kjmol_nm_e2"])
    torques = mp.torques(moments, gradients)
    forces = k * (forces + oracles.project_torques(torques, {**data, "positions_nm": x}))
    wanted = in_a_box_by_openmm(amoeba, x, box, polarised)
    assert k * energy == pytest.approx(wanted[0], rel=1e-7)
    assert np.linalg.norm(forces - wanted[1]) < 1e-6 * np.linalg.norm(wanted[1])
    assert np.linalg.norm(solved.dipoles - wanted[2]) <= 1e-6 * np.linalg.norm(wanted[2])


def test_induced_dipoles_need_a_box_wider_than_thole_s_damping():
    with pytest.raises(ValueError, match=r"edges of 10\.0 Å at least"):
        load("induced").DampedField(
            np.zeros((1, 3)), np.ones(1), np.ones(1), 1e-6, np.array([20, 20, 9.0])
        )


def test_one_polarisable_atom_beside_a_charge():
    """Closed form: mu = alpha q / r^2, undamped at this distance; the charge is not polarisable."""
    x = np.array([[0.0, 0, 0], [0, 0, 20.0]])
    moments = mp.pack(charges=[0.0, 1.5], dipoles=np.zeros((2, 3)))
    found = load("induced").solve(
        x, moments, np.array([1.2, 1e-9]), np.array([0.39, 0.39]), np.array([0, 1])
    )
    np.testing.assert_allclose(found.dipoles[0], [0, 0, -1.2 * 1.5 / 400], rtol=1e-6, atol=1e-12)


def test_sites_read_from_openmm():
    """Dipoles of a protein, ions and some water in the laboratory frame are those of OpenMM."""
    pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
    import openmm
    from openmm import app, unit

    amoeba = load("amoeba")
    pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.delete([r for r in modeller.topology.residues() if r.name == "HOH"][20:])
    x = np.array(modeller.positions.value_in_unit(unit.angstrom))
    system = amoeba.create_system(modeller.topology)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(0.1 * x)
    wanted = amoeba.multipole_force(system).getLabFramePermanentDipoles(context)
    found = amoeba.sites(system, x).moments[:, 1:4]
    np.testing.assert_allclose(found, 10 * np.array([list(row) for row in wanted]), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.syspath_prepend(str(GALLERY))
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path))
