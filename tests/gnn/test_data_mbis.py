"""MBIS: exact for a density of exponentials; moments and potential of a molecule's density."""

import numpy as np
import pytest

from gnn.data.making.mbis import stockholder
from gnn.units import BOHR


def _grid(half, n):
    axis = (np.arange(n) + 0.5) / n * 2 * half - half
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return points, (2 * half / n) ** 3


def _shell(points, centre, population, width):
    r = np.linalg.norm(points - centre, axis=1)
    return population / (8 * np.pi * width**3) * np.exp(-r / width)


def test_a_promolecule_is_found_again():
    points, volume = _grid(9.0, 60)
    centres = np.array([[0.05, 0, 0], [1.9, 0.1, 0]])
    density = _shell(points, centres[0], 1.3, 0.6) + _shell(points, centres[1], 0.7, 0.45)
    electrons = density * volume
    populations, dipoles, quadrupoles = stockholder(points, electrons, centres, np.ones(2))
    np.testing.assert_allclose(populations, [1.3, 0.7], atol=2e-3)
    np.testing.assert_allclose(dipoles, 0, atol=2e-3)
    # <x x> of an exponential of width s is 4 s², and half of it is the moment
    exact = 2 * np.array([1.3 * 0.6**2, 0.7 * 0.45**2])
    for found, value in zip(quadrupoles, exact, strict=True):
        np.testing.assert_allclose(found, value * np.eye(3), atol=5e-3)


def test_the_result_does_not_depend_on_extrapolation():
    points, volume = _grid(7.0, 30)
    centres = np.array([[0.1, 0, 0], [2.1, 0.1, 0]])
    density = _shell(points, centres[0] + 0.3, 5.0, 0.6) + _shell(points, centres[1], 1.5, 0.4)
    arguments = points, density * volume, centres, np.array([4.0, 1.0])
    loose = stockholder(*arguments)[0]
    tight = stockholder(*arguments, tolerance=1e-12)[0]
    np.testing.assert_allclose(loose, tight, atol=1e-5)
    assert loose.sum() == pytest.approx((density * volume).sum(), rel=1e-12)


def test_too_few_steps_are_an_error():
    points, volume = _grid(6.0, 20)
    density = _shell(points, np.zeros(3), 6.0, 0.5) * volume
    with pytest.raises(RuntimeError, match="did not converge in 3 steps"):
        stockholder(points, density, np.zeros((1, 3)), np.array([6.0]), steps=3)


@pytest.fixture(scope="module")
def acetate_like():
    """A polar ion with its density: formate in the field of two charges."""
    pytest.importorskip("pyscf")
    from pyscf import gto, qmmm, scf

    atoms = "C 0 0 0; O 1.14 0.55 0; O -1.14 0.55 0; H 0 -1.13 0"
    mol = gto.M(atom=atoms, basis="6-31g*", charge=-1, verbose=0)
    mf = qmmm.mm_charge(scf.RHF(mol), [[3.5, 1.0, 0.0], [0, -3, 0.5]], [0.4, -0.8]).run()
    return mol, mf.make_rdm1(), mf


def test_moments_of_a_molecule(acetate_like):
    from gnn.data.making.mbis import mbis

    mol, density, mf = acetate_like
    found = mbis(mol, density)
    assert found["charges"].sum() == pytest.approx(-1, abs=1e-9)
    positions = mol.atom_coords() * BOHR
    dipole = found["charges"] @ positions + found["dipoles"].sum(0)
    np.testing.assert_allclose(dipole, mf.dip_moment(unit="AU", verbose=0) * BOHR, atol=1e-5)
    # second moments, too: of the multipoles about the origin, and of the density by integrals
    from_multipoles = (
        found["quadrupoles"].sum(0)
        + 0.5 * np.einsum("n,ni,nj->ij", found["charges"], positions, positions)
        + 0.5 * np.einsum("ni,nj->ij", found["dipoles"], positions)
        + 0.5 * np.einsum("ni,nj->ij", positions, found["dipoles"])
    )
    nuclei = np.einsum("n,ni,nj->ij", mol.atom_charges(), positions, positions)
    integrals = mol.intor("int1e_rr").reshape(3, 3, mol.nao, mol.nao)
    exact = 0.5 * (nuclei - np.einsum("xypq,qp->xy", integrals, density) * BOHR**2)
    np.testing.assert_allclose(from_multipoles, exact, atol=1e-4)


def test_potential_outside_a_molecule(acetate_like):
    import multipoles as mp
    from gnn.data.making.mbis import mbis

    mol, density, _ = acetate_like
    found = mbis(mol, density)
    centres = mol.atom_coords()
    rng = np.random.default_rng(0)
    points = rng.uniform(-12, 12, (3000, 3))
    distance = np.linalg.norm(points[:, None] - centres, axis=-1).min(1)
    points = points[(distance > 6) & (distance < 9)]  # Bohr: outside the van der Waals surface
    inverse = 1 / np.linalg.norm(points[:, None] - centres, axis=-1)
    exact = inverse @ mol.atom_charges()
    for i, point in enumerate(points):
        with mol.with_rinv_origin(point):
            exact[i] -= np.einsum("pq,qp->", mol.intor("int1e_rinv"), density)
    errors = []
    for names in (["charges"], ["charges", "dipoles"], ["charges", "dipoles", "quadrupoles"]):
        moments = mp.pack(**{name: found[name] for name in names})
        potential = mp.field(points * BOHR, centres * BOHR, moments, order=0)[:, 0] * BOHR
        errors.append(np.sqrt(((potential - exact) ** 2).mean()) / exact.std())
    assert errors[0] > 2 * errors[1] > 4 * errors[2], errors
    assert errors[2] < 0.01, errors
