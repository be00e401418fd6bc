"""Labels for reference data: quantum chemistry with electrostatic embedding (extra ``data``)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from gnn.data.making.mbis import mbis
from gnn.data.systems import Frame, System
from gnn.units import BOHR, HARTREE

FITTING_BASIS = "def2-universal-jkfit"  # all elements to radon
_MOST_KEPT = 2 << 30  # bytes of basis functions' values at the grid


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
    density_fit: bool = False,
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
    density_fit
        Fit Coulomb and exchange in the auxiliary basis `FITTING_BASIS`.
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
    field = _mean_field(system, level, grid_level, density_fit)
    return _solved(field, system, guess, multipoles)


def label_both(
    system: System,
    level: str,
    grid_level: int = 2,
    *,
    density_fit: bool = False,
    multipoles: bool = False,
) -> tuple[Frame, Frame]:
    """Frames of a system with its point charges and without them; the same where it has none.

    Raises
    ------
    NotConverged
        If the self-consistent field does not converge.
    """
    alone = System(system.numbers, system.positions, system.charge).with_charges(system.charges)
    field = _mean_field(alone, level, grid_level, density_fit)
    vacuum, density = _solved(field, alone, None, multipoles)
    embedded = vacuum
    if system.n_mm:
        embedded, _ = _solved(field, system, density, multipoles)
    return Frame(system, **embedded), Frame(alone, **vacuum)


def _mean_field(system: System, level: str, grid_level: int, density_fit: bool) -> Any:
    """Return PySCF's calculation of the atoms, without charges."""
    from pyscf import dft, gto, scf

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
        _keep_orbitals(field._numint)
    field.conv_tol = 1e-9
    return field.density_fit(auxbasis=FITTING_BASIS) if density_fit else field


def _keep_orbitals(integrator: Any) -> None:
    """Let the integrator keep the values of the basis functions at the points of the grid.

    They are the same in each iteration, with and without point charges, and evaluating them would
    take a third of the time.
    """
    evaluate = integrator.eval_ao
    kept: dict[Any, np.ndarray] = {}

    def eval_ao(mol: Any, coords: np.ndarray, deriv: int = 0, out: Any = None, **more: Any) -> Any:
        key = deriv, coords.ctypes.data, coords.shape
        if key not in kept:
            values = evaluate(mol, coords, deriv=deriv, **more)
            if sum(array.nbytes for array in kept.values()) + values.nbytes > _MOST_KEPT:
                return values
            kept[key] = values
        return kept[key]

    integrator.eval_ao = eval_ao


def _solved(
    field: Any, system: System, guess: np.ndarray | None, multipoles: bool
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the labels of a system from the calculation of its atoms, and the density matrix."""
    from pyscf import qmmm

    if system.n_mm:  # a copy that shares grid and fitted integrals
        field = qmmm.mm_charge(field, system.mm_positions, system.mm_charges, unit="Angstrom")
    energy = field.kernel(dm0=guess)
    if not field.converged:
        raise NotConverged("the self-consistent field did not converge")
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
    return labels | (mbis(field.mol, density) if multipoles else {}), density
