"""Atomic multipoles of an electron density: minimal-basis iterative stockholder (MBIS).

The density is shared among the atoms in proportion to a promolecule of exponentials, a few around
each nucleus, whose populations and widths fit the density itself (T. Verstraelen et al., J. Chem.
Theory Comput. 2016, 12, 3894). The fit is an expectation-maximisation; its steps are extrapolated
(SQUAREM: R. Varadhan and C. Roland, Scand. J. Stat. 2008, 35, 335). Needs the extra ``data``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.units import BOHR

_SHELLS = (2, 8, 8, 18, 18, 32, 32)  # electrons of the shells, from the innermost
_FEWEST = 1e-12  # electrons; keeps logarithms finite where a shell empties
_BLOCK = 20_000  # grid points whose orbitals are held at once


def mbis(mol: Any, density: NDArray[Any], grid_level: int = 4) -> dict[str, NDArray[np.float64]]:
    """Charges, dipoles and quadrupoles of the atoms of a molecule.

    Parameters
    ----------
    mol : pyscf.gto.Mole
        The molecule.
    density : array, (k, k)
        Density matrix of a closed shell.
    grid_level : int
        Fineness of the integration grid, 0 to 9.

    Returns
    -------
    dict
        ``charges`` (n,) in e, which add up to the molecule's charge; ``dipoles`` (n, 3) in e Å;
        ``quadrupoles`` (n, 3, 3) in e Å², Q = 1/2 sum q r r, with their traces.

    Raises
    ------
    RuntimeError
        If the shells do not converge.
    """
    from pyscf import dft

    grids = dft.gen_grid.Grids(mol)
    grids.level = grid_level
    grids.build()
    points, weights = grids.coords, grids.weights
    rho = np.empty(len(weights))
    for first in range(0, len(weights), _BLOCK):
        part = slice(first, first + _BLOCK)
        orbitals = dft.numint.eval_ao(mol, points[part])
        rho[part] = dft.numint.eval_rho(mol, orbitals, density, hermi=1)
    electrons = weights * np.maximum(rho, 0)
    electrons *= mol.nelectron / electrons.sum()  # the error of the grid, spread evenly
    kept = np.abs(electrons) > 1e-12  # some angular grids have negative weights
    charges = mol.atom_charges().astype(float)
    core = [mol.atom_nelec_core(i) for i in range(mol.natm)]
    populations, dipoles, quadrupoles = stockholder(
        points[kept], electrons[kept], mol.atom_coords(), charges, core
    )
    return {
        "charges": charges - populations,
        "dipoles": -BOHR * dipoles,
        "quadrupoles": -(BOHR**2) * quadrupoles,
    }


def stockholder(
    points: NDArray[Any],
    electrons: NDArray[Any],
    centres: NDArray[Any],
    charges: NDArray[Any],
    core: Any = None,
    tolerance: float = 1e-7,
    steps: int = 3000,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Share electrons on a grid among atoms.

    Parameters
    ----------
    points : array, (p, 3)
        Grid points in Bohr.
    electrons : array, (p,)
        Electrons that each stands for: density times weight.
    centres : array, (n, 3)
        Nuclei in Bohr.
    charges : array, (n,)
        Their charges in e, less the electrons that an effective core potential replaces.
    core : sequence of int, optional
        Numbers of electrons so replaced.
    tolerance : float
        Largest change of a shell's population (electrons) in the last step.
    steps : int
        Most steps.

    Returns
    -------
    populations : array, (n,)
        Electrons of each atom.
    dipoles, quadrupoles : array, (n, 3) and (n, 3, 3)
        First moments of the electrons about the nucleus, and half their second moments.

    Raises
    ------
    RuntimeError
        If the shells do not converge.
    """
    atoms, shells = _first_shells(charges, np.zeros(len(charges), int) if core is None else core)
    distances = np.linalg.norm(points[None] - centres[:, None], axis=-1)
    shells = _converged(shells, distances[atoms], electrons, tolerance, steps)
    shares = _promolecule(shells, distances[atoms])
    shares *= electrons / shares.sum(0)
    n = len(centres)
    populations, dipoles, quadrupoles = np.zeros(n), np.zeros((n, 3)), np.zeros((n, 3, 3))
    for atom in range(n):
        mine, arms = shares[atoms == atom].sum(0), points - centres[atom]
        populations[atom] = mine.sum()
        dipoles[atom] = mine @ arms
        quadrupoles[atom] = 0.5 * (mine[:, None] * arms).T @ arms
    return populations, dipoles, quadrupoles


def _first_shells(charges: NDArray[Any], core: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Atom of each shell, and (2, s): logarithms of its population and of its width in Bohr."""
    atoms, populations, widths = [], [], []
    for atom, pair in enumerate(zip(charges, core, strict=True)):
        charge, hidden = map(float, pair)
        sizes: list[float] = []
        left: float = charge + hidden
        for size in _SHELLS:
            sizes.append(min(float(size), left))
            left -= sizes[-1]
            if left <= 0:
                break
        for k, filled in enumerate(sizes):
            outside = max(filled - max(hidden - sum(sizes[:k]), 0), 0)
            if outside > 0:
                atoms.append(atom)
                populations.append(outside)
                # from the nuclear charge for the innermost to 2 / Bohr for the outermost
                power = 1 - k / (len(sizes) - 1) if len(sizes) > 1 else 0.0
                widths.append(0.5 * (charge + hidden) ** -power)
    return np.array(atoms), np.log([populations, widths])


def _promolecule(shells: NDArray[Any], distances: NDArray[Any]) -> NDArray[np.float64]:
    """Density of each shell at each point, (s, p)."""
    populations, widths = np.exp(shells)
    height = populations / (8 * np.pi * widths**3)
    # never zero, so that points far from all nuclei are shared, too
    exponent = np.maximum(-distances / widths[:, None], -600)
    return height[:, None] * np.exp(exponent)


def _step(
    shells: NDArray[Any], distances: NDArray[Any], electrons: NDArray[Any]
) -> NDArray[np.float64]:
    """One step of expectation and maximisation."""
    shares = _promolecule(shells, distances)
    shares *= electrons / shares.sum(0)
    populations = np.maximum(shares.sum(1), _FEWEST)
    widths = (shares * distances).sum(1) / (3 * populations)
    return np.log([populations, np.maximum(widths, _FEWEST)])


def _converged(
    shells: NDArray[Any],
    distances: NDArray[Any],
    electrons: NDArray[Any],
    tolerance: float,
    steps: int,
) -> NDArray[np.float64]:
    """Repeat the step, extrapolated, until no population changes any more."""
    for _ in range(0, steps, 3):
        first = _step(shells, distances, electrons)
        second = _step(first, distances, electrons)
        change, bend = first - shells, second - 2 * first + shells
        if np.abs(np.exp(second[0]) - np.exp(first[0])).max() < tolerance:
            return second
        length = max(1.0, float(np.linalg.norm(change) / (np.linalg.norm(bend) + 1e-300)))
        far = shells + 2 * length * change + length**2 * bend
        # an extrapolation that fails is dropped
        sane = np.isfinite(far).all() and np.abs(far - second).max() < 2
        shells = _step(far if sane else second, distances, electrons)
    raise RuntimeError(f"MBIS: the shells did not converge in {steps} steps")
