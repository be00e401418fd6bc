"""Make the frames of the set of molecules in molecules.yaml: some hours of one core.

    python benchmarks/make_data.py /scratch/set                  # go on where the last call ended
    python benchmarks/make_data.py /scratch/set --write set.h5   # write what is finished

Needs the extra `data`. The molecules take turns (20 frames of each, then 40, …), so that what is
finished is balanced at any time; each finished frame is a file in the work folder, and the call may
be killed at any time. What fails is named and tried again by the next call. The file has no frames
with a charge within an atom (molecules.yaml: `nearest_charge`) or crushed atoms (`largest_force`).
`--join qmmm.h5` adds the frames of a file without density fitting, shifted by what it adds to the
energies.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from scipy.spatial.distance import cdist

from gnn.data import Frame, read_frames, write_frames
from gnn.data.making.finished import MM_FORCE_STEP, write_finished
from gnn.data.making.generate import Recipe, make_frames
from gnn.data.making.topology import molecule

MOLECULES = Path(__file__).with_name("molecules.yaml")


def read_recipes(path: Path) -> tuple[list[tuple[Recipe, float]], dict[str, Any]]:
    """Return recipe and share of the frames of each molecule, and the other settings."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipes = []
    for group in settings["groups"].values():
        for name, smiles in group["molecules"].items():
            charge = sum(atom.GetFormalCharge() for atom in molecule(smiles).GetAtoms())
            recipe = Recipe(
                smiles=smiles, name=name, charge=charge, kinds=group["kinds"], **settings["recipe"]
            )
            recipes.append((recipe, group.get("share", 1.0)))
    return recipes, settings


def turns(
    recipes: list[tuple[Recipe, float]], rounds: list[int], runs: int
) -> Iterator[tuple[Recipe, int]]:
    """Yield each molecule of each round with its number of frames."""
    for frames in rounds:
        for recipe, share in recipes:
            yield recipe, max(round(share * frames), runs)


def say(text: str) -> None:
    print(f"{datetime.now():%m-%d %H:%M:%S} {text}", flush=True)


def make(arguments: argparse.Namespace) -> None:
    recipes, settings = read_recipes(arguments.molecules)
    chosen = [pair for pair in recipes if arguments.only in (None, pair[0].name)]
    runs = settings["runs"]
    for recipe, frames in turns(chosen, settings["rounds"], runs):
        start = time.monotonic()

        def progress(done: int, total: int, line: str, name: str = recipe.name) -> None:
            say(f"{name}: {line} ({done} of {total})")

        try:
            make_frames(
                recipe,
                frames,
                arguments.work / recipe.name,
                runs=runs,
                processes=arguments.processes,
                say=say,
                progress=progress,
            )
        except (RuntimeError, ValueError) as error:
            say(f"{recipe.name}: FAILED, {error}")
        say(f"{recipe.name}: {frames} frames, {time.monotonic() - start:.0f} s")


def write(arguments: argparse.Namespace) -> None:
    if arguments.write.exists():
        raise SystemExit(f"{arguments.write} is there already: name another file")
    recipes, settings = read_recipes(arguments.molecules)
    folders = {arguments.work / recipe.name: recipe for recipe, _ in recipes}
    folders = {folder: recipe for folder, recipe in folders.items() if folder.is_dir()}
    write_finished(folders, arguments.write)
    count = finish(arguments.write, arguments.join, settings)
    say(f"{arguments.write}: {count} frames")


def is_of_use(frame: Frame, settings: dict[str, Any]) -> bool:
    """Tell whether no charge is within an atom, and no atom within another."""
    system = frame.system
    away = cdist(system.positions, system.mm_positions).min(initial=np.inf)
    largest = np.linalg.norm(frame.forces, axis=1).max()
    return bool(away >= settings["nearest_charge"] and largest <= settings["largest_force"])


def finish(path: Path, other: Path | None, settings: dict[str, Any]) -> int:
    """Leave out frames of no use, and add those of another file, their energies shifted."""
    with h5py.File(path) as file:
        remarks = {
            key: value
            for key, value in file.attrs.items()
            if key in ("level", "density_fit") or key.startswith("smiles_")
        }
    shifts = settings["shifts"] if other is not None else {}
    if shifts:
        remarks["shifts"] = ", ".join(f"{name} {shift:g}" for name, shift in shifts.items())

    def shifted(frame: Frame) -> Frame:
        return replace(frame, energy=frame.energy + shifts[frame.name], group="first")

    own = [read_frames(path, vacuum=vacuum) for vacuum in (False, True)]
    kept = [is_of_use(frame, settings) for frame in own[0]]
    say(f"left out {len(kept) - sum(kept)} of {len(kept)} frames, with crushed atoms or bonds")
    parts = []
    for vacuum, frames in zip((False, True), own, strict=True):
        more = [] if other is None else map(shifted, read_frames(other, vacuum=vacuum))
        parts.append([*more, *compress(frames, kept)])
    write_frames(
        path, parts[0], vacuum=parts[1], attributes=remarks, dtype=np.float32,
        mm_force_step=MM_FORCE_STEP,
    )  # fmt: skip
    return len(parts[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of what is finished")
    parser.add_argument("--molecules", type=Path, default=MOLECULES, help="list of molecules")
    parser.add_argument("--only", metavar="NAME", help="one molecule")
    parser.add_argument("--processes", type=int, default=1, help="at work at a time")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is finished (.h5)")
    parser.add_argument("--join", type=Path, metavar="FILE", help="frames to add, such as qmmm.h5")
    arguments = parser.parse_args()
    if arguments.write is None:
        make(arguments)
        return
    write(arguments)


if __name__ == "__main__":
    main()
