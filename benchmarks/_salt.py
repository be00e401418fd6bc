"""Boxes of rock salt, small ones and larger ones, labelled by a polarisable force field."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn import Frame, System
from gnn.units import KJ_PER_MOL

LATTICE = 5.64  # Å, of the cube of four pairs
NEAR = 5.4  # Å, less than half of the shortest edge: where pairs end, in boxes of all sizes
SPLIT, GRID = 0.6, 16  # Ewald's, 1/Å; points along a cube of four pairs
STRAIN = 2e-4


def sites(cubes: int) -> tuple[NDArray, NDArray]:
    """Return fractional coordinates and atomic numbers of a box so many cubes long."""
    places = np.stack(np.meshgrid(*[np.arange(2 * cubes)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return (places + 0.5) / (2 * cubes), np.where(places.sum(1) % 2 == 0, 11, 17)


def topology(numbers: NDArray) -> Any:
    from openmm import app

    found = app.Topology()
    chain = found.addChain()
    for number in numbers:
        element = app.Element.getByAtomicNumber(int(number))
        name = element.symbol.upper()
        found.addAtom(name, element, found.addResidue(name, chain))
    return found


class Labels:
    """Energy, forces and stress by AMOEBA 2018, whose multipoles polarise each other to the end.

    Electrostatics and polarisation are summed over all images (PME, on a fine grid). Dispersion
    ends at `NEAR`, with the correction for what is beyond, in boxes of all sizes: they have one
    and the same energy function.
    """

    def __init__(self, cubes: int):
        import openmm
        from openmm import app, unit

        self.sites, self.numbers = sites(cubes)
        ions = topology(self.numbers)
        ions.setPeriodicBoxVectors(cubes * LATTICE * np.eye(3) * unit.angstrom)
        near = NEAR * unit.angstrom
        system = app.ForceField("amoeba2018.xml").createSystem(
            ions, nonbondedMethod=app.PME, nonbondedCutoff=near, vdwCutoff=near,
            polarization="mutual", mutualInducedTargetEpsilon=1e-7,
        )  # fmt: skip
        multipoles = next(
            f for f in system.getForces() if isinstance(f, openmm.AmoebaMultipoleForce)
        )
        multipoles.setPMEParameters(10 * SPLIT, *[cubes * GRID] * 3)
        platform = openmm.Platform.getPlatformByName("Reference")
        self.context = openmm.Context(system, openmm.VerletIntegrator(1e-3), platform)

    def energy(self, cell: NDArray, positions: NDArray) -> float:
        """Return the energy in eV; the cell is a lower triangle."""
        self.context.setPeriodicBoxVectors(*0.1 * cell)
        # OpenMM misses pairs across a face on which there are ions, or beyond which they are
        u = positions @ np.linalg.inv(cell)
        self.context.setPositions(0.1 * (u - np.floor(u)) @ cell)
        return self.context.getState(getEnergy=True).getPotentialEnergy()._value * KJ_PER_MOL

    def stress(self, cell: NDArray, positions: NDArray) -> NDArray:
        """Return the stress in eV/Å³, by energies of strained boxes."""
        found = np.zeros((3, 3))
        # strains that keep the cell a lower triangle; others differ by a turn
        for i, j in zip(*np.tril_indices(3), strict=True):
            strain = np.zeros((3, 3))
            strain[i, j] = STRAIN
            up, down = (
                self.energy(cell @ turn, positions @ turn)
                for turn in (np.eye(3) + strain, np.eye(3) - strain)
            )
            found[i, j] = found[j, i] = (up - down) / (2 * STRAIN)
        return found / np.linalg.det(cell)

    def label(
        self, cell: NDArray, positions: NDArray, stress: bool = True, **remarks: Any
    ) -> Frame:
        """Return a frame of positions and labels."""
        remarks["stress"] = self.stress(cell, positions) if stress else None
        energy = self.energy(cell, positions)
        forces = self.context.getState(getForces=True).getForces(asNumpy=True)._value
        charges = np.where(self.numbers == 11, 1.0, -1.0)
        system = System(self.numbers, positions, charges=charges, cell=cell)
        return Frame(system, energy, 0.1 * KJ_PER_MOL * forces, **remarks)


def displaced(
    cubes: int, wave: NDArray | None, along: float, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Return a cell, and positions of ions near their sites.

    Cells are strained a little, ions moved at random. Besides, cations move one way and anions the
    other as a wave says (whole numbers of it along the edges of the box): `along` is the cosine
    between wave and motion, so that 1 is longitudinal and 0 transverse.
    """
    strain = np.tril(rng.uniform(-0.02, 0.02, (3, 3)))
    cell = cubes * LATTICE * (np.eye(3) + strain)
    u, numbers = sites(cubes)
    x = u @ cell + rng.uniform(0.05, 0.15) * rng.standard_normal(u.shape)
    if wave is not None:
        x += moved(cell, u, numbers, wave, along, rng.uniform(0.1, 0.4), rng)
    return cell, x


def moved(
    cell: NDArray,
    u: NDArray,
    numbers: NDArray,
    wave: NDArray,
    along: float,
    amplitude: float,
    rng: np.random.Generator,
) -> NDArray:
    """Return how a wave moves ions: cations against anions by so many Å at its crests."""
    k = np.linalg.inv(cell) @ wave
    k /= np.linalg.norm(k)
    across = np.cross(k, rng.standard_normal(3))
    motion = along * k + np.sqrt(1 - along**2) * across / np.linalg.norm(across)
    phase = np.cos(2 * np.pi * (u @ wave + rng.uniform()))
    return 0.5 * amplitude * (np.where(numbers == 11, 1, -1) * phase)[:, None] * motion
