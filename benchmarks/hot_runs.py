"""Does every molecule hold when it is hot? 100 ps at 600 K of each, in vacuum, all in one batch.

    python benchmarks/hot_runs.py --model runs/shipped/best.pt --folder runs/hot
    python benchmarks/hot_runs.py --picoseconds 1 --molecules h2o nma     # a trial, no table

Langevin dynamics (LangevinMiddle, 1 fs, 1/ps) of every molecule of the frames that ship, trained on
or not, from its vacuum frame of lowest energy; forces in float32, the rest in float64. Every 10 fs
all distances are looked at, in units of the sum of the two covalent radii: a bond is broken where
it is longer than 1.5 at two looks in a row, a new one is formed where two atoms that were not bound
at the start are closer than 1.2 at two looks in a row. Such a molecule is noted, with the time, and
taken out. Every 100 fs it is asked whether the model says that it lies outside of its training.

The state is written to the folder every few thousand steps: the same command goes on from there.
Prints a table; writes benchmarks/results/hot_runs.csv.
"""

import argparse
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _output import write_table

from gnn import Frame, System
from gnn.commands._common import console, count
from gnn.data import collate, read_frames, shipped_path
from gnn.data.elements import symbol
from gnn.data.parts import bonds_of
from gnn.engines._models import ready_model
from gnn.potential import Potential
from gnn.training.report.tables import escape, plain_table
from multipoles.files import atomic_write

BROKEN, FORMED = 1.5, 1.2  # times the sum of covalent radii
LOOK, ASK = 10, 100  # steps between looks at distances, and at novelty
FRICTION = 1.0  # 1/ps
_EVERYTHING = 1e4  # Å: all atoms of a molecule are neighbours
COLUMNS = (
    "molecule", "atoms", "charge", "time_ps", "end", "temperature", "shortest", "pair", "novel",
)  # fmt: skip
#: Arrays of a run that change, by name: what is written to the folder.
STATE = (
    "positions", "velocities", "suspect", "ended", "reasons", "heat", "shortest", "nearest",
    "looks", "novel", "asked",
)  # fmt: skip


def starts(frames: Sequence[Frame], names: Sequence[str] | None = None) -> dict[str, System]:
    """Return the geometry of lowest energy of each molecule, from frames in vacuum."""
    best: dict[str, Frame] = {}
    for frame in frames:
        if "+" not in frame.name and (names is None or frame.name in names):
            before = best.get(frame.name)
            if before is None or frame.energy < before.energy:
                best[frame.name] = frame
    if missing := set(names or ()) - set(best):
        raise SystemExit(f"no frames of {', '.join(sorted(missing))}")
    return {name: frame.system for name, frame in sorted(best.items())}


def checksum(model: Potential) -> int:
    """Return a number that tells a model from others."""
    found = 0
    for value in model.state_dict().values():
        found = zlib.crc32(value.cpu().numpy().tobytes(), found)
    return found


class Forces:
    """Forces of a model on several molecules in one batch, edges found anew at each call.

    Parameters
    ----------
    model
        Without gradients of its weights.
    systems
        One molecule each; its parts keep the charges that they have here.
    """

    def __init__(self, model: Potential, systems: Sequence[System]):
        local = model.charges == "local" or None
        self.model, self.domain = model, model.domain
        self.batch = collate(systems, _EVERYTHING, model.dtype, local_charges=local)
        self.system = self.batch.batch.numpy()
        self.sizes = np.bincount(self.system)[:, None]

    def __call__(self, positions: np.ndarray, asked: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the forces (n, 3) in eV/Å and, if asked, the molecules' novelty, else zeros."""
        centres = np.zeros((len(self.sizes), 3))
        np.add.at(centres, self.system, positions)
        centred = positions - (centres / self.sizes)[self.system]
        x = torch.from_numpy(centred).to(self.model.dtype)
        ends = self.batch.receivers, self.batch.senders
        receivers, senders = (x.index_select(0, end) for end in ends)
        near = ((receivers - senders) ** 2).sum(1) < self.model.cutoff**2
        edges = {"receivers": ends[0][near], "senders": ends[1][near]}
        batch = replace(self.batch, positions=x, **edges)
        self.model.domain = self.domain if asked else None  # novelty takes its time
        try:
            found = self.model(batch, forces=True)
        finally:
            self.model.domain = self.domain
        novelty = np.zeros(len(self.sizes))
        if "novelty" in found:
            np.maximum.at(novelty, self.system, found["novelty"].numpy())
        return found["forces"].detach().double().numpy(), novelty


class HotRun:
    """Langevin dynamics of several molecules, and what became of each.

    Parameters
    ----------
    model
        Gives the forces.
    molecules
        Starting geometry of each, by name.
    temperature
        K.
    seed
        Of velocities and noise.
    timestep
        fs.
    """

    def __init__(
        self,
        model: Potential,
        molecules: dict[str, System],
        temperature: float = 600.0,
        seed: int = 0,
        timestep: float = 1.0,
    ):
        from ase import units
        from ase.data import atomic_masses

        self.model, self.names, self.systems = model, list(molecules), list(molecules.values())
        self.temperature, self.timestep = temperature, timestep
        self.numbers = np.concatenate([system.numbers for system in self.systems])
        sizes = [system.n_atoms for system in self.systems]
        self.system = np.repeat(np.arange(len(sizes)), sizes)
        self.masses = atomic_masses[self.numbers][:, None]
        self.step, self.kb = 0, units.kB
        self.dt = timestep * units.fs
        self.decay = np.exp(-FRICTION * timestep * 1e-3)
        self.speed = np.sqrt(units.kB * temperature / self.masses)  # of one component
        self.random = np.random.default_rng(seed)
        self.positions = np.concatenate([system.positions for system in self.systems])
        self.velocities = self.speed * self.random.standard_normal(self.positions.shape)
        self._list_pairs(sizes)
        number = len(sizes)
        self.ended = np.full(number, -1)  # step, of those that broke
        self.reasons = np.full(number, "", dtype="U40")
        self.heat, self.looks = np.zeros(number), np.zeros(number, dtype=int)
        self.shortest, self.nearest = np.full(number, np.inf), np.zeros(number, dtype=int)
        self.novel, self.asked = np.zeros(number, dtype=int), np.zeros(number, dtype=int)
        self._forces: Forces | None = None

    def _list_pairs(self, sizes: Sequence[int]) -> None:
        """List all pairs of atoms of one molecule, and which of them are bonds."""
        from ase.data import covalent_radii

        first, second, bonded, offset = [], [], [], 0
        for system, size in zip(self.systems, sizes, strict=True):
            i, j = np.triu_indices(size, 1)
            matrix = np.zeros((size, size), dtype=bool)
            matrix[tuple(bonds_of(system.numbers, system.positions).T)] = True
            first.append(i + offset)
            second.append(j + offset)
            bonded.append(matrix[i, j])
            offset += size
        self.first, self.second, self.bonded = map(np.concatenate, (first, second, bonded))
        self.radii = covalent_radii[self.numbers[self.first]]
        self.radii = self.radii + covalent_radii[self.numbers[self.second]]
        self.suspect = np.zeros(len(self.first), dtype=bool)

    @property
    def moving(self) -> np.ndarray:
        """Which molecules are whole."""
        return self.ended < 0

    # --- dynamics ---------------------------------------------------------------------------------

    def advance(self, steps: int) -> None:
        """Do some steps."""
        for _ in range(steps):
            if not self.moving.any():
                return
            own = self.moving[self.system]
            if self._forces is None:
                chosen = np.flatnonzero(self.moving)
                self._forces = Forces(self.model, [self.systems[k] for k in chosen])
            asked = self.step % ASK == 0 and self.model_knows
            forces, novelty = self._forces(self.positions[own], asked)
            if asked:
                self.novel[self.moving] += novelty > 1
                self.asked[self.moving] += 1
            self._move(own, forces)
            self.step += 1
            if self.step % LOOK == 0:
                self.look()

    @property
    def model_knows(self) -> bool:
        """Whether the model has a domain."""
        return self._forces is not None and self._forces.domain is not None

    def _move(self, own: np.ndarray, forces: np.ndarray) -> None:
        """Do a step of LangevinMiddle: kick, half a drift, friction and noise, half a drift."""
        noise = self.random.standard_normal(self.positions.shape)  # of all: independent of ends
        self.velocities[own] += self.dt * forces / self.masses[own]
        drift = 0.5 * self.dt * own[:, None]
        self.positions += drift * self.velocities
        self.velocities *= self.decay
        self.velocities += np.sqrt(1 - self.decay**2) * self.speed * noise
        self.positions += drift * self.velocities

    # --- what became of them ----------------------------------------------------------------------

    def look(self) -> None:
        """Note temperatures and shortest distances, and which molecules are whole no more."""
        kinetic = (self.masses * self.velocities**2).sum(1)
        size = np.bincount(self.system)
        kelvin = np.bincount(self.system, kinetic) / (3 * size * self.kb)
        self.heat[self.moving] += kelvin[self.moving]
        self.looks[self.moving] += 1
        vectors = self.positions[self.first] - self.positions[self.second]
        lengths = np.linalg.norm(vectors, axis=1)
        self._note_shortest(lengths)
        ratios = lengths / self.radii
        off = np.where(self.bonded, ratios > BROKEN, ratios < FORMED)
        for pair in np.flatnonzero(off & self.suspect):
            what = "broken" if self.bonded[pair] else "formed"
            self._end(self.system[self.first[pair]], f"{self.pair_name(pair)} {what}")
        self.suspect = off
        lost = ~np.isfinite(self.positions).all(1) | ~np.isfinite(self.velocities).all(1)
        for k in np.unique(self.system[lost]):
            self._end(k, "not finite")

    def _note_shortest(self, lengths: np.ndarray) -> None:
        """Note the shortest distance of each moving molecule, and between which atoms."""
        order = np.lexsort((lengths, self.system[self.first]))
        molecules, best = np.unique(self.system[self.first[order]], return_index=True)
        pairs = order[best]
        nearer = self.moving[molecules] & (lengths[pairs] < self.shortest[molecules])
        self.shortest[molecules[nearer]] = lengths[pairs[nearer]]
        self.nearest[molecules[nearer]] = pairs[nearer]

    def _end(self, molecule: int, reason: str) -> None:
        if self.moving[molecule]:
            self.ended[molecule], self.reasons[molecule] = self.step, reason
            self._forces = None

    def pair_name(self, pair: int) -> str:
        """Return the elements of a pair of atoms, such as "O–H"."""
        ends = self.numbers[[self.first[pair], self.second[pair]]]
        return "–".join(symbol(z) for z in sorted(map(int, ends), reverse=True))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each molecule."""
        made = []
        for k, (name, system) in enumerate(zip(self.names, self.systems, strict=True)):
            steps = self.step if self.ended[k] < 0 else int(self.ended[k])
            looks, asked = max(int(self.looks[k]), 1), int(self.asked[k])
            made.append({
                "molecule": name, "atoms": system.n_atoms, "charge": system.charge,
                "time_ps": f"{steps * self.timestep * 1e-3:.2f}",
                "end": str(self.reasons[k]) or "whole",
                "temperature": f"{self.heat[k] / looks:.0f}",
                "shortest": f"{self.shortest[k]:.2f}",
                "pair": self.pair_name(self.nearest[k]) if system.n_atoms > 1 else "",
                "novel": f"{100 * self.novel[k] / asked:.2f}" if asked else "",
            })  # fmt: skip
        return made

    # --- files ------------------------------------------------------------------------------------

    @property
    def settings(self) -> str:
        """What must be the same where a run goes on."""
        numbers = self.numbers.tolist()
        settings = [self.temperature, self.timestep]
        return json.dumps([checksum(self.model), self.names, numbers, settings])

    def save(self, path: Path) -> None:
        """Write the state."""
        with atomic_write(path) as temporary:
            np.savez(
                temporary,
                step=self.step,
                settings=self.settings,
                random=json.dumps(self.random.bit_generator.state),
                **{name: getattr(self, name) for name in STATE},
            )

    def restore(self, path: Path) -> None:
        """Go on from a state that `save` wrote."""
        with np.load(path) as file:
            if str(file["settings"]) != self.settings:
                raise SystemExit(
                    f"{path} is of another model, molecules or settings: name another --folder"
                )
            self.step = int(file["step"])
            self.random.bit_generator.state = json.loads(str(file["random"]))
            for name in STATE:
                setattr(self, name, file[name])
        self._forces = None


# --- the command ----------------------------------------------------------------------------------


def carry_on(run: HotRun, steps: int, path: Path, every: int) -> None:
    """Do all steps that are left, and write the state every so many of them."""
    while run.step < steps and run.moving.any():
        start, before = time.perf_counter(), run.step
        run.advance(min(every - run.step % every, steps - run.step))
        run.save(path)
        cost = (time.perf_counter() - start) / (run.step - before)
        print(
            f"step {run.step} of {steps}: {run.moving.sum()} of {len(run.names)} molecules whole, "
            f"{1e3 * cost:.1f} ms a step, {cost * (steps - run.step) / 60:.0f} minutes left",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="CHECKPOINT", help="default: the one that ships")
    parser.add_argument("--data", type=Path, metavar="FILE", help="default: the frames that ship")
    parser.add_argument("--molecules", nargs="+", metavar="NAME", help="some only: no table")
    parser.add_argument("--picoseconds", type=float, default=100.0)
    parser.add_argument("--temperature", type=float, default=600.0, help="K")
    parser.add_argument("--folder", type=Path, default=Path("runs/hot"), help="for the state")
    parser.add_argument("--save-every", type=count, default=2000, metavar="STEPS")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    frames = read_frames(arguments.data or shipped_path(), vacuum=True)
    molecules = starts(frames, arguments.molecules)
    model = ready_model(arguments.model, "float32")
    run = HotRun(model, molecules, arguments.temperature, arguments.seed)
    path = arguments.folder / "state.npz"
    if path.is_file():
        run.restore(path)
    carry_on(run, round(1e3 * arguments.picoseconds / run.timestep), path, arguments.save_every)
    table = plain_table(f"{arguments.picoseconds:g} ps at {arguments.temperature:g} K")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("molecule", "end") else "right")
    for row in run.rows():
        table.add_row(*(escape(str(row[column])) for column in COLUMNS))
    console().print(table)
    if arguments.molecules is None:
        print(f"written: {write_table('hot_runs', COLUMNS, run.rows())}")


if __name__ == "__main__":
    main()
