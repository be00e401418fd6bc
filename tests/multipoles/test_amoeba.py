"""Permanent multipoles of AMOEBA: energies and forces of OpenMM, with covalent scaling."""

import numpy as np
import oracles
import pytest

import multipoles
from multipoles import conventions, moments, reference

SYSTEMS = ("water216", "peptide")
# OpenMM's own rounding is 1e-14
ENERGY, FORCES = 1e-10, 1e-8
MASSES = {1: 1.00794, 6: 12.0107, 7: 14.0067, 8: 15.9994, 16: 32.065, 17: 35.453}


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request, shared_dir):
    path = shared_dir / "reference" / f"amoeba2018_{request.param}.npz"
    if not path.exists():
        pytest.skip(f"{path.name} not found")
    with np.load(path) as file:
        data = dict(file)
    charges, dipoles, quadrupoles = oracles.amoeba_moments(data)
    flat = quadrupoles.reshape(-1, 9)
    form = np.concatenate([charges[:, None], dipoles, flat], axis=1)
    if "molecule" in data:
        scale = oracles.water_exclusions(data["molecule"])
    else:
        scale = oracles.covalent_scaling(data["covalent_12_13_14_15"])
    return data, conventions.from_convention(form, "amoeba"), scale


def test_frames_give_the_laboratory_moments(system):
    data, M, _ = system
    parts = moments.unpack(M)
    np.testing.assert_allclose(parts.dipoles, data["dipole_lab_enm"], atol=1e-16)
    if "quadrupole_lab_enm2" in data:
        np.testing.assert_allclose(parts.quadrupoles, data["quadrupole_lab_enm2"], atol=1e-16)


def check(data, M, e, forces, gradients):
    k = float(data["coulomb_kjmol_nm_e2"])
    assert k * e == pytest.approx(float(data["energy_nocutoff_kjmol"]), rel=ENERGY)
    forces = k * (forces + oracles.project_torques(moments.torques(M, gradients), data))
    wanted = data["forces_nocutoff"]
    assert np.abs(forces - wanted).max() < FORCES * np.abs(wanted).max()


def test_reference_gives_openmm_energy_and_forces(system):
    data, M, scale = system
    check(data, M, *reference.energy_forces(data["positions_nm"], M, pair_scale=scale))


def test_energy_forces_gives_openmm_energy_and_forces(system):
    data, M, scale = system
    result = multipoles.energy_forces(data["positions_nm"], M, pair_scale=scale)
    check(data, M, *result)
    e = multipoles.energy(data["positions_nm"], M, pair_scale=scale)
    assert e == pytest.approx(float(result[0]), rel=1e-13)


def test_forces_without_torques_are_wrong(system):
    # the check above can fail: torques matter
    data, M, scale = system
    _, forces, _ = reference.energy_forces(data["positions_nm"], M, pair_scale=scale)
    wanted = data["forces_nocutoff"]
    assert np.abs(float(data["coulomb_kjmol_nm_e2"]) * forces - wanted).max() > 10


def test_electrostatic_potential_outside(system):
    data, M, _ = system
    phi = reference.field(data["esp_points_nm"], data["positions_nm"], M, 0)[:, 0]
    k = float(data["coulomb_kjmol_nm_e2"])
    # OpenMM's potential, unlike its energy, contains the traces up to 1e-8 e nm^2 that the
    # peptide's force field has left in, and that the data here have not
    tolerance = 1e-10 if "molecule" in data else 1e-6
    np.testing.assert_allclose(k * phi, data["esp_kjmol_e"], rtol=tolerance)


def test_system_moments_by_shift_of_origin(system):
    data, M, _ = system
    # OpenMM reports the traceless quadrupole of Buckingham, about the centre of mass
    masses = np.vectorize(MASSES.get)(data["atomic_numbers"])
    x = data["positions_nm"]
    centre = masses @ x / masses.sum()
    total = moments.shift(M, centre - x).sum(axis=0, keepdims=True)
    out = conventions.convert(total, "buckingham")[0]
    wanted = data["system_moments_debye"]
    debye, debye_angstrom = 48.0321, 480.321
    np.testing.assert_allclose(debye * out[1:4], wanted[1:4], rtol=1e-9)
    theta = debye_angstrom * out[4:]
    np.testing.assert_allclose(
        theta, wanted[4:].reshape(3, 3)[np.triu_indices(3)], atol=1e-5 * np.abs(theta).max()
    )


@pytest.fixture(scope="module")
def water(shared_dir):
    path = shared_dir / "reference" / "amoeba2018_water216.npz"
    if not path.exists():
        pytest.skip(f"{path.name} not found")
    with np.load(path) as file:
        data = dict(file)
    charges, dipoles, quadrupoles = oracles.amoeba_moments(data)
    form = np.concatenate([charges[:, None], dipoles, quadrupoles.reshape(-1, 9)], axis=1)
    return data, conventions.from_convention(form, "amoeba")


def test_a_periodic_box_of_water(water):
    data, M = water
    given = {"pair_scale": oracles.water_exclusions(data["molecule"])}
    found = multipoles.energy_forces(
        data["positions_nm"], M, cell=np.diag(data["box_nm"]), virial=True, **given
    )
    k = float(data["coulomb_kjmol_nm_e2"])
    torques = oracles.project_torques(moments.torques(M, found[2]), data)
    forces = k * (found[1] + torques)
    # converged Ewald sums of another program
    assert k * found[0] == pytest.approx(float(data["energy_ewald_own_kjmol"]), rel=1e-11)
    wanted = data["forces_ewald_own"]
    assert np.abs(forces - wanted).max() < 1e-9 * np.abs(wanted).max()
    # OpenMM's mesh of order 5, with four choices of splitting and grid
    np.testing.assert_allclose(data["energy_pme_openmm_kjmol"], k * found[0], rtol=1e-6)
    wanted = data["forces_pme_openmm"]
    assert np.abs(forces - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_mesh_in_a_box_of_water(water):
    data, M = water
    fmm = pytest.importorskip("fmm")
    x, cell = data["positions_nm"], np.diag(data["box_nm"])
    exact = multipoles.energy_forces(x, M, cell=cell, virial=True)
    found = fmm.Mesh(x, None, 1e-6, 2, 3, cell=cell).energy_forces(M, virial=True)
    for one, other in zip(found, exact, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()
