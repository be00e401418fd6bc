"""QM/MM reference data for a molecule given as a SMILES string: ``anisole data generate``.

Molecular dynamics of the molecule in TIP3P water (OpenMM, GAFF2/AM1-BCC), quantum chemistry with
electrostatic embedding for each snapshot (PySCF), and one HDF5 file of the layout of
:mod:`gnn.data.formats.hdf5`. Needs the extra ``data``: ``pip install ".[data]"`` in a checkout.

Each finished frame is kept in a work folder beside the output file: the same call, made again
after an interruption or with more frames, goes on where it stopped. Other molecules already in the
output file stay there. The runs are numbered 100, 200, 300, … (one block each), so that
:func:`gnn.data.split_by_run` holds out whole runs.
"""

import glob
import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from gnn.data.common import ATOMIC_LABELS, LABELS, is_hdf5, locked
from gnn.data.formats.by_suffix import read_frames, write_frames
from gnn.data.making.labelling import label_both, level_of
from gnn.data.making.sampling import Dynamics, load, run_dynamics, snapshot_path, store
from gnn.data.making.topology import check_installed, molecule, parametrise
from gnn.data.making.workers import Event, Workers
from gnn.data.splits import RUNS_PER_BLOCK
from gnn.data.systems import Frame, System
from gnn.settings import Checked
from multipoles.files import atomic_write

_FEWEST_RUNS = 3  # needed for a split by run into three sets
Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


class Recipe(Checked):
    """What determines a data set; the number of frames may grow later.

    Parameters
    ----------
    smiles
        The molecule.
    name
        Its name in the output file.
    charge
        Total charge in e.
    level
        Quantum chemistry, METHOD/BASIS.
    grid_level
        Integration grid of density functionals.
    padding
        Least water in Å between the solute and the walls of the box.
    mbis
        Add multipoles of the atoms (:func:`gnn.data.making.mbis.mbis`).
    dynamics
        Settings of the molecular dynamics.
    """

    smiles: str
    name: str
    charge: int
    level: str = "B3LYP/6-31G*"
    grid_level: int = Field(default=2, ge=0, le=9)
    padding: float = Field(default=12.0, gt=0, lt=1000)
    mbis: bool = False
    dynamics: Dynamics = Dynamics()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise ValueError(f"expected letters, digits, _ . + -, got {name!r}")
        return name


def generate(
    recipe: Recipe,
    frames: int,
    out: Path,
    *,
    runs: int = 4,
    processes: int = 1,
    work: Path | None = None,
    say: Say = print,
    progress: Progress = lambda done, total, line: print(f"{line} ({done} of {total})"),
) -> int:
    """Make frames and write them to an HDF5 file.

    Parameters
    ----------
    recipe
        What to compute.
    frames
        Number of frames, shared evenly among the runs.
    out
        HDF5 file; other molecules in it are kept.
    runs
        Number of independent molecular-dynamics runs.
    processes
        Number of processes at work; each takes the threads of ``recipe.dynamics``.
    work
        Folder for what is finished. None: ``<out>.work/<name>``.
    say
        Takes lines about what goes on.
    progress
        Called after each frame with the number of frames labelled by this call, the number it
        has to label, and a line about the frame.

    Returns
    -------
    int
        Number of frames of this molecule now in the file.

    Raises
    ------
    RuntimeError
        If programs are missing or fail.
    ValueError
        If the input is wrong or does not fit what is already there.
    OSError
        If a file cannot be written, or another process is at work in the same folder.
    """
    _check(frames, out, runs, processes)
    check_installed()
    mol = molecule(recipe.smiles, recipe.charge)
    level_of(recipe.level, {atom.GetSymbol() for atom in mol.GetAtoms()})
    work = work or _beside(out) / recipe.name
    (work / "labels").mkdir(parents=True, exist_ok=True)
    with locked(work / "lock", f"another process makes frames in {work}: wait for it to end"):
        _remove_leftovers(work)
        _check_recipe(recipe, work)
        _others(recipe, out)  # fail now rather than after hours
        if runs < _FEWEST_RUNS:
            say(f"note: {runs} run(s) cannot be split by run into three sets; use at least 3")
        say(f"{recipe.name}: force field of {recipe.smiles} (AM1-BCC charges, GAFF2, TIP3P)")
        parametrise(mol, recipe.charge, recipe.padding, work)
        say(f"{recipe.name}: molecular dynamics of {runs} runs, then labels at {recipe.level}")
        tasks = [
            _Task(RUNS_PER_BLOCK * (k + 1), frames // runs + (k < frames % runs))
            for k in range(runs)
        ]
        try:
            _all_frames(recipe, tasks, work, processes, say, progress)
        except BaseException:
            with suppress(OSError):  # the first error is the one to show
                _assemble(recipe, work, out)
            raise
        total = _assemble(recipe, work, out)
    say(f"{out}: {total} frames of {recipe.name}")
    return total


def _remove_leftovers(work: Path) -> None:
    """Remove the temporary files of a call that was killed."""
    for rest in [*work.glob("**/.run_*"), *work.glob(".recipe-*")]:
        rest.unlink(missing_ok=True)
    for rest in work.glob(".amber-*"):
        shutil.rmtree(rest, ignore_errors=True)


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".work")


def _check(frames: int, out: Path, runs: int, processes: int) -> None:
    if not is_hdf5(out):
        raise ValueError(f"{out}: expected a file name ending in .h5 or .hdf5")
    if not 1 <= runs <= frames:
        raise ValueError(f"expected 1 <= runs <= frames, got {runs} runs and {frames} frames")
    if processes < 1:
        raise ValueError(f"expected at least one process, got {processes}")


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All that must stay the same when a data set is continued."""
    settings = recipe.model_dump()
    del settings["dynamics"]["threads"]
    return settings


def _check_recipe(recipe: Recipe, work: Path) -> None:
    path, settings = work / "recipe.json", _settings(recipe)
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
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


@dataclass(frozen=True)
class _Task:
    """The dynamics of a run (no index), or the labels of one of its snapshots."""

    run: int
    count: int
    index: int | None = None

    def __str__(self) -> str:
        if self.index is None:
            return f"run {self.run}: molecular dynamics"
        return f"run {self.run} frame {self.index + 1}/{self.count}"


def _do(recipe: Recipe, work: Path, task: _Task) -> Iterator[Any]:
    """Carry out a task in a worker: yields numbers of snapshots, or a line about the labels."""
    if task.index is None:
        yield from run_dynamics(work, task.run, task.count, recipe.dynamics)
        return
    system = _system(recipe, load(snapshot_path(work, task.run, task.index)))
    embedded, vacuum = label_both(system, recipe.level, recipe.grid_level, recipe.mbis)
    arrays = {
        f"{prefix}_{key}": getattr(frame, key)
        for prefix, frame in (("embedded", embedded), ("vacuum", vacuum))
        for key in (*LABELS, *ATOMIC_LABELS)
        if getattr(frame, key) is not None
    }
    store(_label_path(work, task.run, task.index), arrays)
    yield _summary(embedded, vacuum)


def _all_frames(
    recipe: Recipe, tasks: list[_Task], work: Path, processes: int, say: Say, progress: Progress
) -> None:
    """Dynamics and labels of every frame that is not there yet."""
    total, done = sum(task.count for task in tasks), 0
    waiting = deque(tasks)
    seen: set[_Task] = set()
    threads = recipe.dynamics.threads
    with Workers(partial(_do, recipe, work), processes, threads) as workers:
        for event in workers.events(waiting):
            task = event.task
            if event.kind in ("failed", "lost"):
                _complain(event, say)
                stored = [label for label in seen if label.run == task.run]
                total -= task.count - len(stored) if task.index is None else 1
            elif event.kind == "item" and task.index is not None:
                done += 1
                progress(done, total, f"{task}: {event.value}")
            elif event.kind == "item" and event.value is not None:
                label = replace(task, index=event.value)
                if label in seen:
                    continue
                seen.add(label)
                if _label_path(work, label.run, event.value).is_file():
                    total -= 1
                else:  # before the dynamics of the runs that are left
                    labels = sum(other.index is not None for other in waiting)
                    waiting.insert(labels, label)


def _complain(event: Event, say: Say) -> None:
    """Report the failure of one task, or raise an error that concerns all tasks."""
    if isinstance(event.value, OSError) or (event.kind == "failed" and event.task.index is None):
        raise event.value
    say(f"{event.task}: left out, {event.value} (tried again by the next call)")


def _summary(embedded: Frame, vacuum: Frame) -> str:
    forces: Any = embedded.forces
    mm_forces: Any = embedded.mm_forces
    net = np.abs(forces.sum(0) + mm_forces.sum(0)).max()
    shift = embedded.energy - vacuum.energy  # type: ignore[operator]
    return (
        f"{embedded.energy:.4f} eV, embedding {shift:+.4f} eV, {embedded.system.n_mm} charges, "
        f"net force {net:.1e} eV/Å"
    )


def _system(recipe: Recipe, shot: dict[str, Any]) -> System:
    return System(
        shot["numbers"], shot["positions"], recipe.charge, shot["mm_positions"], shot["mm_charges"]
    )


def _label_path(work: Path, run: int, index: int) -> Path:
    return work / "labels" / f"run_{run}_frame_{index:05d}.npz"


def _finished(recipe: Recipe, work: Path) -> list[tuple[Frame, Frame]]:
    """All frames of a work folder that have labels: embedded and vacuum."""
    pairs = []
    numbers = (re.findall(r"\d+", path.stem) for path in (work / "labels").glob("run_*.npz"))
    for run, index in sorted((int(run), int(index)) for run, index in numbers):
        system = _system(recipe, load(snapshot_path(work, run, index)))
        labels = load(_label_path(work, run, index))
        alone = System(system.numbers, system.positions, system.charge)
        embedded, vacuum = (
            Frame(part, **_labels(labels, prefix), run=run, name=recipe.name)
            for part, prefix in ((system, "embedded"), (alone, "vacuum"))
        )
        pairs.append((embedded, vacuum))
    return pairs


def _labels(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    start = prefix + "_"
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def _others(recipe: Recipe, out: Path) -> tuple[list[tuple[Frame, Frame]], dict[str, str]]:
    """Frames of other molecules in the output file, and the file's remarks."""
    if not out.is_file():
        return [], {}
    import h5py

    with h5py.File(out, "r") as file:
        remarks = {key: str(value) for key, value in file.attrs.items()}
    remarks = {key: remarks[key] for key in remarks if key == "level" or key.startswith("smiles_")}
    before = remarks.get("level", "unknown")
    if before != recipe.level:
        raise ValueError(
            f"{out} holds frames at level {before}, not {recipe.level}: choose another --out, or "
            "the same --level"
        )
    smiles = remarks.get(f"smiles_{recipe.name}", recipe.smiles)
    if smiles != recipe.smiles:
        raise ValueError(
            f"{out} holds another molecule named {recipe.name!r} ({smiles}): choose another --name"
        )
    pairs = zip(read_frames(out), read_frames(out, vacuum=True), strict=True)
    return list(pairs), remarks


def _assemble(recipe: Recipe, work: Path, out: Path) -> int:
    """Write the output file from the work folder and what it holds of other molecules."""
    own = _finished(recipe, work)
    ours = {(frame.run, frame.energy) for frame, _ in own}
    with locked(_beside(out) / "lock", f"{out} is written by another process", wait=True):
        for rest in out.parent.glob(f".{glob.escape(out.stem)}-????????{out.suffix}"):
            rest.unlink(missing_ok=True)  # left by a call that was killed while writing
        before, remarks = _others(recipe, out)
        # Frames of this molecule from a work folder that is gone are kept, too.
        pairs = own + [
            pair
            for pair in before
            if pair[0].name != recipe.name or (pair[0].run, pair[0].energy) not in ours
        ]
        pairs.sort(key=lambda pair: (pair[0].name, pair[0].run))  # stable: the same file each time
        if own:
            remarks |= {"level": recipe.level, f"smiles_{recipe.name}": recipe.smiles}
            embedded, vacuum = (list(frames) for frames in zip(*pairs, strict=True))
            write_frames(out, embedded, vacuum=vacuum, attributes=remarks, dtype=np.float32)
    return sum(frame.name == recipe.name for frame, _ in pairs)
