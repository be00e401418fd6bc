"""The frames that a work folder holds, and the file that they are written to."""

import glob
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import is_hdf5, locked
from gnn.data.formats.by_suffix import read_frames, write_frames
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.making.kinds import Kind, geometry, molecule_name
from gnn.data.making.recipe import Recipe
from gnn.data.making.sampling import load, snapshot_path
from gnn.data.systems import Frame, System
from multipoles.files import atomic_write

MM_FORCE_STEP = 2.0**-13  # eV/Å, to which forces on point charges are rounded in the file


def system_of(recipe: Recipe, work: Path, run: int, index: int) -> System:
    """Return what is to be labelled of a snapshot."""
    shot = load(snapshot_path(work, run, index))
    seed = zlib.crc32(recipe.smiles.encode()), run, index
    return geometry(recipe.kind(run), shot, recipe.charge, seed)


def label_path(work: Path, run: int, index: int) -> Path:
    """Return the file of a frame's labels."""
    return work / "labels" / f"run_{run}_frame_{index:05d}.npz"


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All that must stay the same when a data set is continued."""
    settings = recipe.model_dump()
    del settings["dynamics"]["threads"]
    return settings | {"kinds": list(recipe.kinds.items())}  # their order numbers the runs


def check_recipe(recipe: Recipe, work: Path) -> None:
    """Store the recipe in a work folder.

    Raises
    ------
    ValueError
        If the folder was begun with another one.
    """
    path, settings = work / "recipe.json", _settings(recipe)
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        settings = json.loads(json.dumps(settings))
        changed = [key for key, value in settings.items() if before.get(key) != value]
        if changed:
            raise ValueError(
                f"{work} was begun with other settings: "
                + ", ".join(f"{key} {before.get(key)!r}, now {settings[key]!r}" for key in changed)
                + ". Use the same ones, another --name, or another --work folder"
            )
        return
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def beside(out: Path) -> Path:
    """Return the folder of what belongs to an output file."""
    return out.with_name(out.name + ".work")


def check_out(out: Path) -> None:
    """Raise a ValueError unless the file's name says that it is HDF5."""
    if not is_hdf5(out):
        raise ValueError(f"{out}: expected a file name ending in .h5 or .hdf5")


def _finished(recipe: Recipe, work: Path) -> list[tuple[Frame, Frame]]:
    """All frames of a work folder that have labels: embedded and vacuum."""
    pairs = []
    numbers = (re.findall(r"\d+", path.stem) for path in (work / "labels").glob("run_*.npz"))
    for run, index in sorted((int(run), int(index)) for run, index in numbers):
        kind = recipe.kind(run)
        name = molecule_name(recipe.name, kind)
        system = system_of(recipe, work, run, index)
        labels = load(label_path(work, run, index))
        alone = System(system.numbers, system.positions, system.charge).with_charges(system.charges)
        embedded, vacuum = (
            Frame(part, **_labels(labels, prefix), name=name, group=kind.name, run=run)
            for part, prefix in ((system, "embedded"), (alone, "vacuum"))
        )
        pairs.append((embedded, vacuum))
    return pairs


def _labels(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    start = prefix + "_"
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def other_frames(
    recipes: Sequence[Recipe], out: Path
) -> tuple[list[tuple[Frame, Frame]], dict[str, str]]:
    """Frames in the output file, and its remarks, after a check that the new ones belong there."""
    if not out.is_file():
        return [], {}
    remarks, _, _ = read_remarks(out)
    own = ("level", "density_fit")
    remarks = {key: remarks[key] for key in remarks if key in own or key.startswith("smiles_")}
    for recipe in recipes:
        for what, key, value, missing in (
            ("level", "level", recipe.level, "unknown"),
            ("density fitting", "density_fit", recipe.fitting, "none"),
        ):
            if remarks.get(key, missing) != value:
                raise ValueError(
                    f"{out} holds frames at {what} {remarks.get(key, missing)}, not {value}: "
                    "choose another --out, or the same settings"
                )
        smiles = remarks.get(f"smiles_{recipe.name}", recipe.smiles)
        if smiles != recipe.smiles:
            raise ValueError(
                f"{out} holds another molecule named {recipe.name!r} ({smiles}): choose another "
                "--name"
            )
    pairs = zip(read_frames(out), read_frames(out, vacuum=True), strict=True)
    return list(pairs), remarks


def write_finished(parts: Mapping[Path, Recipe], out: Path) -> int:
    """Write what is finished, and what the output file holds of other molecules.

    Parameters
    ----------
    parts
        Recipe of each work folder; all of one level.
    out
        HDF5 file.

    Returns
    -------
    int
        Number of frames of these molecules in the file.

    Raises
    ------
    ValueError
        If the frames do not fit what is there.
    """
    check_out(out)
    for work, recipe in parts.items():
        check_recipe(recipe, work)
    recipes = list(parts.values())
    names = {molecule_name(r.name, Kind.named(kind)) for r in recipes for kind in r.kinds}
    own = [pair for work, recipe in parts.items() for pair in _finished(recipe, work)]
    ours = {(frame.name, frame.run, frame.energy) for frame, _ in own}
    with locked(beside(out) / "lock", f"{out} is written by another process", wait=True):
        for rest in out.parent.glob(f".{glob.escape(out.stem)}-????????{out.suffix}"):
            rest.unlink(missing_ok=True)  # left by a call that was killed while writing
        before, remarks = other_frames(recipes, out)
        # Frames of these molecules from work folders that are gone are kept, too.
        pairs = own + [
            pair for pair in before if (pair[0].name, pair[0].run, pair[0].energy) not in ours
        ]
        pairs.sort(key=lambda pair: (pair[0].name, pair[0].run))  # stable: the same file each time
        if own:
            for recipe in recipes:
                remarks |= {"level": recipe.level, "density_fit": recipe.fitting}
                remarks[f"smiles_{recipe.name}"] = recipe.smiles
            embedded, vacuum = (list(frames) for frames in zip(*pairs, strict=True))
            write_frames(
                out, embedded, vacuum=vacuum, attributes=remarks, dtype=np.float32,
                mm_force_step=MM_FORCE_STEP,
            )  # fmt: skip
    return sum(frame.name in names for frame, _ in pairs)
