"""Geometries for reference data: molecular dynamics of one solute in water (extra ``data``)."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from gnn.data.common import locked
from gnn.data.making.kinds import Kind
from gnn.data.splits import RUNS_PER_BLOCK
from gnn.settings import Checked
from gnn.untrusted import read_npz
from multipoles.files import atomic_write

_PART = 1000  # steps of an equilibration after which the state is stored
_BOILING = 373.0  # K, above which the volume stays that of the liquid
_LIQUID = 300.0  # K, of the liquid that is heated
_GRID = 256  # places per Å of the point charges, so that files of them are small


class Dynamics(Checked):
    """Settings of the molecular dynamics: steps of 1 fs, NPT at 1 bar, flexible solute.

    Above 373 K, water is equilibrated at 300 K and heated at constant volume.

    Parameters
    ----------
    temperature
        K.
    equilibration
        Steps of equilibration, shared by the runs of a block.
    warming
        Steps of each run, with velocities of its own, before the first snapshot.
    interval
        Steps between snapshots.
    cutoff
        Point charges of whole waters whose oxygen is within this distance in Å of an atom.
    threads
        Threads of the CPU.
    """

    temperature: float = Field(default=300.0, gt=0)
    equilibration: int = Field(default=5000, ge=0)
    warming: int = Field(default=1000, ge=0)
    interval: int = Field(default=150, ge=1)
    cutoff: float = Field(default=9.0, gt=0)
    threads: int = Field(default=1, ge=1)


def run_dynamics(
    folder: Path, kind: Kind, run: int, count: int, settings: Dynamics
) -> Iterator[int | None]:
    """Carry out one molecular-dynamics run, or go on with it, and store its snapshots.

    After each part of the equilibration and each snapshot the state is stored, and the dynamics
    restart from the stored state with a new seed: a run that was killed continues to the same
    snapshots as one that was not (with the same number of threads).

    Parameters
    ----------
    folder
        With the topology; gets ``run_<run>.state``, ``block_<block>.state`` and ``snapshots/``.
    kind
        Tells the medium, and the temperature if it has its own.
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
    box = _Box(folder, settings, kind.temperature or settings.temperature, kind.in_vacuum)
    path = folder / f"run_{run}.state"
    part, text = _read_state(path)
    lengths = _parts(settings.warming)
    if part == 0:
        text = yield from _equilibrated(folder, run, settings, box)
        text = box.warmed(text, _seed(run, 0))
    while part < len(lengths) + count:
        steps = lengths[part] if part < len(lengths) else settings.interval
        text = box.advance(text, steps, _seed(run, part + 1))
        index = part - len(lengths)
        if index >= 0 and not snapshot_path(folder, run, index).is_file():
            store(snapshot_path(folder, run, index), box.snapshot())
        part += 1
        _write_state(path, part, text)
        yield index if index >= 0 else None


def _equilibrated(
    folder: Path, run: int, settings: Dynamics, box: "_Box"
) -> Generator[None, None, str]:
    """Return the state from which the runs of a block start; of the solute alone, a minimum."""
    if box.in_vacuum:
        return box.minimised()
    block = run // RUNS_PER_BLOCK * RUNS_PER_BLOCK
    path = folder / f"block_{block}.state"
    with locked(folder / f"block_{block}.lock", "", wait=True):
        part, text = _read_state(path)
        lengths = _parts(settings.equilibration)
        if part == len(lengths) and text:
            return text
        kelvin = settings.temperature if settings.temperature <= _BOILING else _LIQUID
        start = box if kelvin == box.kelvin else _Box(folder, settings, kelvin, False)
        if part == 0:
            text = start.warmed(start.minimised(), _seed(block, -1))
        while part < len(lengths):
            text = start.advance(text, lengths[part], _seed(block, -2 - part))
            part += 1
            _write_state(path, part, text)
            yield None
        return text


def snapshot_path(folder: Path, run: int, index: int) -> Path:
    """Return the file of a snapshot: numbers, positions, bonds, charges (Å and e)."""
    return folder / "snapshots" / f"run_{run}_frame_{index:05d}.npz"


def store(path: Path, arrays: dict[str, Any]) -> None:
    """Write named arrays to a file."""
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`store` wrote."""
    return read_npz(path)


def _parts(steps: int) -> list[int]:
    """Return the lengths of the parts of an equilibration."""
    whole, rest = divmod(steps, _PART)
    return [_PART] * whole + [rest] * (rest > 0)


def _seed(run: int, part: int) -> int:
    """Return the seed of one part of a run, or of its block's equilibration (negative numbers).

    Never 0, by which OpenMM means any.
    """
    state = np.random.SeedSequence([run, abs(part), int(part < 0)]).generate_state(1)
    return 1 + int(state[0]) % (2**31 - 2)


def _read_state(path: Path) -> tuple[int, str]:
    """Return how many parts of a run are done, and the state after them."""
    if not path.is_file():
        return 0, ""
    number, _, text = path.read_text(encoding="utf-8").partition("\n")
    return int(number), text


def _write_state(path: Path, part: int, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(f"{part}\n{text}", encoding="utf-8")


class _Box:
    """The molecule, in water or alone, in OpenMM, driven from one stored state to the next."""

    def __init__(self, folder: Path, settings: Dynamics, kelvin: float, in_vacuum: bool) -> None:
        import openmm
        from openmm import app, unit

        name = "alone" if in_vacuum else "solute"
        topology = app.AmberPrmtopFile(str(folder / f"{name}.prmtop"))
        self.start = app.AmberInpcrdFile(str(folder / f"{name}.rst7"))
        self.kelvin, self.cutoff, self.in_vacuum = kelvin, settings.cutoff, in_vacuum
        if in_vacuum:
            system = topology.createSystem(constraints=None, removeCMMotion=False)
        else:
            topology.topology.setPeriodicBoxVectors(self.start.boxVectors)
            system = topology.createSystem(
                nonbondedMethod=app.PME,
                nonbondedCutoff=0.9 * unit.nanometer,
                rigidWater=True,
                constraints=None,
            )
        self.barostat = openmm.MonteCarloBarostat(1 * unit.bar, kelvin * unit.kelvin)
        if not in_vacuum and kelvin <= _BOILING:
            system.addForce(self.barostat)
        self.integrator = openmm.LangevinMiddleIntegrator(
            kelvin * unit.kelvin, 2 / unit.picosecond, 1 * unit.femtosecond
        )
        # a few atoms are faster without threads and neighbour lists
        platform = openmm.Platform.getPlatformByName("Reference" if in_vacuum else "CPU")
        options = {"Threads": str(settings.threads), "DeterministicForces": "true"}
        self.simulation = app.Simulation(
            topology.topology, system, self.integrator, platform, {} if in_vacuum else options
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
        bonds = [(one.index, two.index) for one, two in solute.internal_bonds()]
        self.bonds = np.array(bonds, dtype=np.int64).reshape(-1, 2)

    def minimised(self) -> str:
        """Minimise the energy and return the state."""
        self.simulation.context.setPositions(self.start.positions)
        self.simulation.minimizeEnergy(maxIterations=300)
        return self._state()

    def warmed(self, text: str, seed: int) -> str:
        """Draw velocities for a state and return it."""
        self._set(text)
        self.simulation.context.setVelocitiesToTemperature(self.kelvin, seed)
        return self._state()

    def advance(self, text: str, steps: int, seed: int) -> str:
        """Go on from a state with fresh random numbers; return the state after `steps`."""
        self.integrator.setRandomNumberSeed(seed)
        self.barostat.setRandomNumberSeed(seed)
        self.simulation.context.reinitialize()
        self._set(text)
        self.simulation.step(steps)
        return self._state()

    def _set(self, text: str) -> None:
        import openmm

        self.simulation.context.setState(openmm.XmlSerializer.deserialize(text))

    def _state(self) -> str:
        import openmm

        state = self.simulation.context.getState(getPositions=True, getVelocities=True)
        return openmm.XmlSerializer.serialize(state)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return the solute, centred at the origin, and the waters near it."""
        from openmm import unit

        state = self.simulation.context.getState(getPositions=True)
        everything = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        n = len(self.numbers)
        everything = everything - everything[:n].mean(0)
        box = np.zeros(3)
        if not self.in_vacuum:
            box = np.diag(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
        near = _near_waters(everything[:n], everything[n:], box, self.cutoff)
        charges = self.charges[n:].reshape(-1, 3)[near[0]]
        # float32 from here on: labels are computed at exactly the coordinates that are stored.
        return {
            "numbers": self.numbers,
            "positions": everything[:n].astype(np.float32),
            "bonds": self.bonds,
            "mm_positions": (np.round(near[1] * _GRID) / _GRID).astype(np.float32),
            "mm_charges": charges.ravel().astype(np.float32),
        }


def _near_waters(
    solute: np.ndarray, waters: np.ndarray, box: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which waters are near the solute, and where the atoms of these are."""
    waters = waters.reshape(-1, 3, 3)
    if not len(waters):
        return np.zeros(0, dtype=bool), np.zeros((0, 3))
    if (np.abs(solute).max(0) + cutoff > box / 2).any():
        raise RuntimeError(
            f"the box ({' x '.join(f'{side:.1f}' for side in box)} Å) is too small for the solute "
            f"and a cutoff of {cutoff:g} Å: use a larger --padding and a new work folder"
        )
    waters = waters - box * np.round(waters[:, :1] / box)
    near = np.linalg.norm(waters[:, :1] - solute, axis=-1).min(1) < cutoff
    return near, waters[near].reshape(-1, 3)
