"""Geometries for reference data: molecular dynamics of one solute in water (extra ``data``)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from gnn.settings import Checked
from multipoles.files import atomic_write

_EQUILIBRATION_PART = 1000  # steps after which the state is stored


class Dynamics(Checked):
    """Settings of the molecular dynamics: steps of 1 fs, NPT at 1 bar, flexible solute.

    Parameters
    ----------
    temperature
        K.
    equilibration
        Steps before the first snapshot.
    interval
        Steps between snapshots.
    cutoff
        Point charges of whole waters whose oxygen is within this distance in Å of an atom.
    threads
        Threads of the CPU.
    """

    temperature: float = Field(default=300.0, gt=0)
    equilibration: int = Field(default=6000, ge=0)
    interval: int = Field(default=150, ge=1)
    cutoff: float = Field(default=9.0, gt=0)
    threads: int = Field(default=1, ge=1)


def run_dynamics(folder: Path, run: int, count: int, settings: Dynamics) -> Iterator[int | None]:
    """Carry out one molecular-dynamics run, or go on with it, and store its snapshots.

    After each part of the equilibration and each snapshot the state is stored, and the dynamics
    restart from the stored state with a new seed: a run that was killed continues to the same
    snapshots as one that was not (with the same number of threads).

    Parameters
    ----------
    folder
        With the topology; gets ``run_<run>.state`` and ``snapshots/``.
    run
        Number of the run, from which its random numbers follow.
    count
        Number of snapshots.
    settings
        Of the dynamics.

    Yields
    ------
    int or None
        Number of a snapshot that is stored now, or None after a part without one.

    Raises
    ------
    RuntimeError
        If the box is too small for the cutoff.
    """
    known = 0
    while known < count and snapshot_path(folder, run, known).is_file():
        yield known
        known += 1
    if known == count:
        return
    (folder / "snapshots").mkdir(exist_ok=True)
    box = _Box(folder, settings)
    path = folder / f"run_{run}.state"
    part, text = _read_state(path)
    lengths = _equilibration(settings.equilibration)
    if part == 0:
        text = box.prepared(_seed(run, 0))
    while part < len(lengths) + count:
        steps = lengths[part] if part < len(lengths) else settings.interval
        text = box.advance(text, steps, _seed(run, part + 1))
        index = part - len(lengths)
        if index >= 0 and not snapshot_path(folder, run, index).is_file():
            store(snapshot_path(folder, run, index), box.snapshot())
        part += 1
        with atomic_write(path) as temporary:
            temporary.write_text(f"{part}\n{text}", encoding="utf-8")
        yield index if index >= 0 else None


def snapshot_path(folder: Path, run: int, index: int) -> Path:
    """Return the file of a snapshot: numbers, positions, mm_positions, mm_charges (Å and e)."""
    return folder / "snapshots" / f"run_{run}_frame_{index:05d}.npz"


def store(path: Path, arrays: dict[str, Any]) -> None:
    """Write named arrays to a file."""
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`store` wrote."""
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def _equilibration(steps: int) -> list[int]:
    """Return the lengths of the parts of the equilibration."""
    whole, rest = divmod(steps, _EQUILIBRATION_PART)
    return [_EQUILIBRATION_PART] * whole + [rest] * (rest > 0)


def _seed(run: int, part: int) -> int:
    """Return the seed of one part of a run; never 0, by which OpenMM means any."""
    return 1 + int(np.random.SeedSequence([run, part]).generate_state(1)[0]) % (2**31 - 2)


def _read_state(path: Path) -> tuple[int, str]:
    """Return how many parts of a run are done, and the state after them."""
    if not path.is_file():
        return 0, ""
    number, _, text = path.read_text(encoding="utf-8").partition("\n")
    return int(number), text


class _Box:
    """The solvated molecule in OpenMM, driven from one stored state to the next."""

    def __init__(self, folder: Path, settings: Dynamics) -> None:
        import openmm
        from openmm import app, unit

        topology = app.AmberPrmtopFile(str(folder / "solute.prmtop"))
        self.start = app.AmberInpcrdFile(str(folder / "solute.rst7"))
        topology.topology.setPeriodicBoxVectors(self.start.boxVectors)
        system = topology.createSystem(
            nonbondedMethod=app.PME,
            nonbondedCutoff=0.9 * unit.nanometer,
            rigidWater=True,
            constraints=None,
        )
        self.kelvin = settings.temperature * unit.kelvin
        self.cutoff = settings.cutoff
        self.barostat = openmm.MonteCarloBarostat(1 * unit.bar, self.kelvin)
        system.addForce(self.barostat)
        self.integrator = openmm.LangevinMiddleIntegrator(
            self.kelvin, 2 / unit.picosecond, 1 * unit.femtosecond
        )
        self.simulation = app.Simulation(
            topology.topology,
            system,
            self.integrator,
            openmm.Platform.getPlatformByName("CPU"),
            {"Threads": str(settings.threads), "DeterministicForces": "true"},
        )
        force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
        self.charges = np.array(
            [
                force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
                for i in range(system.getNumParticles())
            ]
        )
        solute = next(topology.topology.residues())
        self.numbers = np.array([a.element.atomic_number for a in solute.atoms()])

    def prepared(self, seed: int) -> str:
        """Minimise the energy, draw velocities, and return the state."""
        context = self.simulation.context
        context.setPositions(self.start.positions)
        self.simulation.minimizeEnergy(maxIterations=300)
        context.setVelocitiesToTemperature(self.kelvin, seed)
        return self._state()

    def advance(self, text: str, steps: int, seed: int) -> str:
        """Go on from a state with fresh random numbers; return the state after `steps`."""
        import openmm

        self.integrator.setRandomNumberSeed(seed)
        self.barostat.setRandomNumberSeed(seed)
        self.simulation.context.reinitialize()
        self.simulation.context.setState(openmm.XmlSerializer.deserialize(text))
        self.simulation.step(steps)
        return self._state()

    def _state(self) -> str:
        import openmm

        state = self.simulation.context.getState(getPositions=True, getVelocities=True)
        return openmm.XmlSerializer.serialize(state)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return a snapshot of the current state."""
        return _snapshot(self.simulation, self.charges, self.numbers, self.cutoff)


def _snapshot(
    simulation: Any, charges: np.ndarray, numbers: np.ndarray, cutoff: float
) -> dict[str, Any]:
    """Return the solute, centred at the origin, and the waters near it."""
    from openmm import unit

    state = simulation.context.getState(getPositions=True)
    everything = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    box = np.diag(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    n = len(numbers)
    everything = everything - everything[:n].mean(0)
    solute = everything[:n]
    if (np.abs(solute).max(0) + cutoff > box / 2).any():
        raise RuntimeError(
            f"the box ({' x '.join(f'{side:.1f}' for side in box)} Å) is too small for the solute "
            f"and a cutoff of {cutoff:g} Å: use a larger --padding and a new work folder"
        )
    waters = everything[n:].reshape(-1, 3, 3)
    waters = waters - box * np.round(waters[:, :1] / box)
    distance = np.linalg.norm(waters[:, :1] - solute, axis=-1).min(1)
    near = distance < cutoff
    # float32 from here on: labels are computed at exactly the coordinates that are stored.
    return {
        "numbers": numbers,
        "positions": solute.astype(np.float32),
        "mm_positions": waters[near].reshape(-1, 3).astype(np.float32),
        "mm_charges": charges[n:].reshape(-1, 3)[near].ravel().astype(np.float32),
    }
