"""Labels for reference data: quantum chemistry with electrostatic embedding (extra ``data``)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from gnn.data.making.mbis import mbis
from gnn.data.systems import Frame, System
from gnn.units import BOHR, HARTREE


class NotConverged(RuntimeError):
    """The self-consistent field did not converge."""


def level_of(text: str, elements: Iterable[str] = ()) -> tuple[str, str]:
    """Split a level into method and basis, such as "B3LYP/6-31G*" or "HF/STO-3G".

    Raises
    ------
    ValueError
        If it is not of the form METHOD/BASIS, or PySCF knows no such functional, or no such basis
        for one of the elements.
    """
    method, separator, basis = text.partition("/")
    if not (method and separator and basis):
        raise ValueError(f"level: expected METHOD/BASIS such as B3LYP/6-31G*, got {text!r}")
    if method.upper() != "HF":
        from pyscf import dft

        try:
            dft.libxc.parse_xc(method)
        except (KeyError, ValueError) as error:
            raise ValueError(f"level: {method!r} is no functional of PySCF ({error})") from error
    for element in elements:
        from pyscf import gto

        try:
            gto.basis.load(basis, element)
        except Exception as error:  # PySCF raises errors of many types
            raise ValueError(f"level: PySCF has no basis {basis!r} for {element}") from error
    return method, basis


def label(
    system: System,
    level: str,
    *,
    guess: np.ndarray | None = None,
    grid_level: int = 2,
    multipoles: bool = False,
) -> tuple[dict[str, Any], np.ndarray]:
    """Energy, forces and dipole of a closed-shell system in the field of its point charges.

    Parameters
    ----------
    system
        Atoms and point charges.
    level
        Such as "B3LYP/6-31G*"; "HF" for Hartree-Fock, else a functional of PySCF.
    guess
        Density matrix to start from, such as that of the same atoms in vacuum.
    grid_level
        Fineness of the integration grid of density functionals.
    multipoles
        Add those of the atoms by :func:`gnn.data.making.mbis.mbis`.

    Returns
    -------
    labels : dict
        energy (eV), forces (n, 3) and mm_forces (m, 3) (eV/Å), dipole (3,) (e Å, about the origin
        of the coordinates); with `multipoles` also charges, dipoles and quadrupoles. The energy
        includes nuclei-charge terms, not charge-charge ones.
    density : array
        Density matrix.

    Raises
    ------
    NotConverged
        If the self-consistent field does not converge.
    """
    from pyscf import dft, gto, qmmm, scf

    method, basis = level_of(level)
    atoms = [
        (int(z), tuple(x)) for z, x in zip(system.numbers, system.positions.tolist(), strict=True)
    ]
    mol = gto.M(atom=atoms, basis=basis, charge=system.charge, unit="Angstrom", verbose=0)
    if method.upper() == "HF":
        field = scf.RHF(mol)
    else:
        field = dft.RKS(mol, xc=method)
        field.grids.level = grid_level
    field.conv_tol = 1e-9
    if system.n_mm:
        field = qmmm.mm_charge(field, system.mm_positions, system.mm_charges, unit="Angstrom")
    energy = field.kernel(dm0=guess)
    if not field.converged:
        raise NotConverged(f"the self-consistent field did not converge at {level}")
    density = field.make_rdm1()
    gradient = field.nuc_grad_method()
    atomic_unit = HARTREE / BOHR
    mm_forces = np.zeros((0, 3))
    forces = -gradient.kernel() * atomic_unit
    if system.n_mm:
        mm_forces = -(gradient.grad_nuc_mm() + gradient.grad_hcore_mm(density)) * atomic_unit
    dipole = field.dip_moment(unit="AU", verbose=0) * BOHR
    labels = {"energy": energy * HARTREE, "forces": forces, "mm_forces": mm_forces}
    labels["dipole"] = np.asarray(dipole)
    return labels | (mbis(mol, density) if multipoles else {}), density


def label_both(
    system: System, level: str, grid_level: int = 2, multipoles: bool = False
) -> tuple[Frame, Frame]:
    """Frames of a system with its point charges and without them.

    Raises
    ------
    NotConverged
        If the self-consistent field does not converge.
    """
    alone = System(system.numbers, system.positions, system.charge)
    options: dict[str, Any] = {"grid_level": grid_level, "multipoles": multipoles}
    vacuum, density = label(alone, level, **options)
    embedded, _ = label(system, level, guess=density, **options)
    return Frame(system, **embedded), Frame(alone, **vacuum)
