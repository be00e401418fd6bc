"""Boxes of salt water, small ones and larger ones, labelled by a polarisable force field."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gnn import Frame, System
from gnn.units import KJ_PER_MOL

WATERS, PAIRS, EDGE = 24, 2, 9.3  # of a small box; Å
NEAR = 4.4  # Å, less than half of the shortest edge: where pairs end, in boxes of all sizes
SPLIT, GRID = 0.7, 32  # Ewald's, 1/Å; points along an edge of a small box
KELVIN, STEP = 300.0, 0.5  # K, fs
STRAIN = 2e-4

_WATER = np.array([[0, 0, 0], [0.757, 0, 0.586], [-0.757, 0, 0.586]])
_NUMBERS = (8, 1, 1)


def topology(copies: int) -> Any:
    """Return OpenMM's topology of so many times a small box: waters, then pairs of ions."""
    from openmm import app

    found = app.Topology()
    chain = found.addChain()

    def add(residue: str, atoms: dict[str, Any]) -> list[Any]:
        of = found.addResidue(residue, chain)
        return [found.addAtom(name, element, of) for name, element in atoms.items()]

    hydrogen = app.element.hydrogen
    for _ in range(copies * WATERS):
        oxygen, *two = add("HOH", {"O": app.element.oxygen, "H1": hydrogen, "H2": hydrogen})
        for other in two:
            found.addBond(oxygen, other)
    for _ in range(copies * PAIRS):
        add("NA", {"NA": app.element.sodium})
        add("CL", {"CL": app.element.chlorine})
    return found


def numbers_of(copies: int) -> list[int]:
    return [*_NUMBERS] * (copies * WATERS) + [11, 17] * (copies * PAIRS)


def first_positions(cell, copies: int, wave, rng: np.random.Generator) -> NDArray:
    """Return molecules on a grid; sodium where the cosine of a wave is negative, chloride opposite.

    Without a wave, ions are anywhere.
    """
    waters, pairs = copies * WATERS, copies * PAIRS
    side = int(np.ceil((waters + 2 * pairs) ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    sites = (rng.permutation(grid)[: waters + 2 * pairs] + 0.5) / side
    if wave is not None:  # sodium first, chloride last
        sites = sites[np.argsort(np.cos(2 * np.pi * sites @ wave) >= 0, kind="stable")]
    sites = sites @ cell
    placed = [_WATER @ Rotation.random(rng=rng).as_matrix() + x for x in sites[pairs:-pairs]]
    ions = np.stack([sites[:pairs], sites[-pairs:]], axis=1).reshape(-1, 3)
    return np.concatenate([*placed, ions])


class Dynamics:
    """Molecular dynamics of a box with flexible TIP3P, in which a wave may pull ions apart.

    The potential of the wave, ``pull * charge * cos(2 pi wave . u)`` in kJ/mol at fractional
    coordinates u, acts on ions only, and is no part of any label.
    """

    def __init__(self, copies: int, seed: int):
        import openmm
        from openmm import app, unit

        field = app.ForceField("amber14/tip3p.xml")
        boxes = topology(copies)
        # nothing is asked of these forces but likely geometries
        boxes.setPeriodicBoxVectors(EDGE * copies ** (1 / 3) * np.eye(3) * unit.angstrom)
        system = field.createSystem(
            boxes, nonbondedMethod=app.PME, nonbondedCutoff=NEAR * unit.angstrom, rigidWater=False
        )
        wave = openmm.CustomExternalForce("pull*charge*cos(kx*x+ky*y+kz*z)")
        for name in ("pull", "kx", "ky", "kz"):
            wave.addGlobalParameter(name, 0.0)
        wave.addPerParticleParameter("charge")
        for atom, number in enumerate(numbers_of(copies)):
            if number > 8:
                wave.addParticle(atom, [1.0 if number == 11 else -1.0])
        system.addForce(wave)
        self.integrator = openmm.LangevinMiddleIntegrator(KELVIN, 5.0, 1e-3 * STEP)
        self.integrator.setRandomNumberSeed(seed)
        platform = openmm.Platform.getPlatformByName("CPU")
        self.context = openmm.Context(system, self.integrator, platform, {"Threads": "1"})
        self.copies = copies

    def snapshots(
        self, cell, pull: float, wave, count: int, warming: int, interval: int, rng
    ) -> Iterator[NDArray]:
        """Yield positions in Å, so many steps apart, from molecules on a grid."""
        import openmm

        start = first_positions(cell, self.copies, wave if pull else None, rng)
        k = 2 * np.pi * np.linalg.inv(cell) @ wave
        for name, value in zip(("pull", "kx", "ky", "kz"), (pull, *10 * k), strict=True):
            self.context.setParameter(name, float(value))
        self.context.setPeriodicBoxVectors(*0.1 * cell)
        self.context.setPositions(0.1 * start)
        openmm.LocalEnergyMinimizer.minimize(self.context, maxIterations=300)
        self.context.setVelocitiesToTemperature(KELVIN, int(rng.integers(1 << 30)))
        self.integrator.step(warming)
        for _ in range(count):
            self.integrator.step(interval)
            state = self.context.getState(getPositions=True)
            yield 10 * state.getPositions(asNumpy=True)._value


class Labels:
    """Energy, forces and stress by AMOEBA 2018, whose multipoles polarise each other to the end.

    Electrostatics and polarisation are summed over all images (PME, on a fine grid). Dispersion
    ends at `NEAR`, with the correction for what is beyond, in boxes of all sizes: they have one
    and the same energy function.
    """

    def __init__(self, copies: int):
        import openmm
        from openmm import app, unit

        boxes = topology(copies)
        boxes.setPeriodicBoxVectors(EDGE * copies ** (1 / 3) * np.eye(3) * unit.angstrom)
        near = NEAR * unit.angstrom
        system = app.ForceField("amoeba2018.xml").createSystem(
            boxes, nonbondedMethod=app.PME, nonbondedCutoff=near, vdwCutoff=near,
            polarization="mutual", mutualInducedTargetEpsilon=1e-7,
        )  # fmt: skip
        multipoles = next(
            f for f in system.getForces() if isinstance(f, openmm.AmoebaMultipoleForce)
        )
        points = round(GRID * copies ** (1 / 3))
        multipoles.setPMEParameters(10 * SPLIT, points, points, points)
        platform = openmm.Platform.getPlatformByName("Reference")
        self.context = openmm.Context(system, openmm.VerletIntegrator(1e-3), platform)
        self.copies = copies

    def energy(self, cell, positions) -> float:
        """Return the energy in eV; the cell is a lower triangle."""
        self.context.setPeriodicBoxVectors(*0.1 * cell)
        self.context.setPositions(0.1 * positions)
        return self.context.getState(getEnergy=True).getPotentialEnergy()._value * KJ_PER_MOL

    def stress(self, cell, positions) -> NDArray:
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

    def label(self, cell, positions, **remarks: Any) -> Frame:
        """Return a frame of positions and labels."""
        stress = self.stress(cell, positions)
        energy = self.energy(cell, positions)
        forces = self.context.getState(getForces=True).getForces(asNumpy=True)._value
        ions = np.zeros(len(positions))
        ions[3 * self.copies * WATERS :] = np.tile([1.0, -1.0], self.copies * PAIRS)
        system = System(numbers_of(self.copies), positions, charges=ions, cell=cell)
        return Frame(system, energy, 0.1 * KJ_PER_MOL * forces, stress=stress, **remarks)
