"""Make the frames of the set of molecules in molecules.yaml: some hours of one core.

    python benchmarks/make_data.py /scratch/set                  # go on where the last call ended
    python benchmarks/make_data.py /scratch/set --write set.h5   # write what is finished

Needs the extra `data`. The molecules take turns (20 frames of each, then 40, …), so that what is
finished is balanced at any time; each finished frame is a file in the work folder, and the call may
be killed at any time. What fails is named and tried again by the next call.
"""

import argparse
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from gnn.data.making.generate import Recipe, make_frames, write_finished
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of what is finished")
    parser.add_argument("--molecules", type=Path, default=MOLECULES, help="list of molecules")
    parser.add_argument("--only", metavar="NAME", help="one molecule")
    parser.add_argument("--processes", type=int, default=1, help="at work at a time")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is finished (.h5)")
    arguments = parser.parse_args()
    if arguments.write is None:
        make(arguments)
        return
    recipes, _ = read_recipes(arguments.molecules)
    folders = {arguments.work / recipe.name: recipe for recipe, _ in recipes}
    count = write_finished({f: r for f, r in folders.items() if f.is_dir()}, arguments.write)
    say(f"{arguments.write}: {count} frames")


if __name__ == "__main__":
    main()
