"""The examples of the documentation: their helpers against known numbers; all of them, slowly."""

import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import multipoles as mp

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
