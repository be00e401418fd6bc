"""QM/MM reference data for a molecule given as a SMILES string: ``anisole data generate``.

Molecular dynamics of the molecule in TIP3P water (OpenMM, GAFF2/AM1-BCC), quantum chemistry with
electrostatic embedding for each snapshot (PySCF), and one HDF5 file of the layout of
:mod:`gnn.data.formats.hdf5`. Needs the extra ``data``: ``pip install ".[data]"`` in a checkout.

Each finished frame is kept in a work folder beside the output file: the same call, made again
after an interruption or with more frames, goes on where it stopped. Other molecules already in the
output file stay there. Every block of runs has an equilibration of its own, from which one run of
each kind of frames starts: runs 100, 101, … of the first block, 200, 201, … of the second, so that
:func:`gnn.data.split_by_run` holds out whole runs.
"""

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import ATOMIC_LABELS, LABELS, locked
from gnn.data.making.cluster import ClusterWorkers
from gnn.data.making.finished import (
    beside,
    check_out,
    check_recipe,
    label_path,
    other_frames,
    system_of,
    write_finished,
)
from gnn.data.making.kinds import Kind, schedule
from gnn.data.making.labelling import label_both, level_of
from gnn.data.making.recipe import Recipe
from gnn.data.making.sampling import run_dynamics, store
from gnn.data.making.topology import check_installed, molecule, parametrise
from gnn.data.making.workers import Event, Workers
from gnn.data.splits import RUNS_PER_BLOCK
from gnn.data.systems import Frame

_FEWEST_RUNS = 3  # needed for a split by run into three sets
Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


def generate(
    recipe: Recipe,
    frames: int,
    out: Path,
    *,
    runs: int = 4,
    processes: int = 1,
    client: Any = None,
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
        Number of frames, shared among the kinds and evenly among the runs.
    out
        HDF5 file; other molecules in it are kept.
    runs
        Number of independent molecular-dynamics runs of each kind.
    processes
        Number of processes at work; each takes the threads of ``recipe.dynamics``.
    client : distributed.Client, optional
        Of a Dask cluster whose workers do the work instead, and see the work folder.
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
    check_out(out)
    work = work or beside(out) / recipe.name
    other_frames([recipe], out)  # fail now rather than after hours
    try:
        make_frames(
            recipe, frames, work,
            runs=runs, processes=processes, client=client, say=say, progress=progress,
        )  # fmt: skip
    except BaseException:
        with suppress(OSError, ValueError):  # the first error is the one to show
            write_finished({work: recipe}, out)
        raise
    total = write_finished({work: recipe}, out)
    say(f"{out}: {total} frames of {recipe.name}")
    return total


def make_frames(
    recipe: Recipe,
    frames: int,
    work: Path,
    *,
    runs: int,
    processes: int,
    client: Any = None,
    say: Say,
    progress: Progress,
) -> None:
    """Do the dynamics and the labels in a work folder; see :func:`generate`."""
    _check(frames, runs, processes)
    check_installed()
    mol = molecule(recipe.smiles, recipe.charge)
    elements = {atom.GetSymbol() for atom in mol.GetAtoms()}
    waters = max(Kind.named(name).waters for name in recipe.kinds)
    level_of(recipe.level, elements | ({"H", "O"} if waters else set()))
    (work / "labels").mkdir(parents=True, exist_ok=True)
    with locked(work / "lock", f"another process makes frames in {work}: wait for it to end"):
        _remove_leftovers(work)
        check_recipe(recipe, work)
        if runs < _FEWEST_RUNS:
            say(f"note: {runs} run(s) cannot be split by run into three sets; use at least 3")
        say(f"{recipe.name}: force field of {recipe.smiles} (AM1-BCC charges, GAFF2, TIP3P)")
        parametrise(mol, recipe.charge, recipe.padding, work)
        counts = Counter(
            RUNS_PER_BLOCK * (block + 1) + kind
            for kind, block in schedule(recipe.kinds, frames, runs)
        )
        tasks = [_Task(run, count) for run, count in sorted(counts.items())]
        say(
            f"{recipe.name}: molecular dynamics of {len(tasks)} runs, then labels at {recipe.level}"
        )
        do, threads = partial(_do, recipe, work.resolve()), recipe.dynamics.threads
        if client is None:
            workers: Any = Workers(do, processes, threads)
        else:
            workers = ClusterWorkers(client, do, say, folder=work)
        with workers:
            _all_frames(tasks, work, workers, say, progress)


def _remove_leftovers(work: Path) -> None:
    """Remove the temporary files of a call that was killed."""
    for rest in [*work.glob("**/.run_*"), *work.glob(".recipe-*"), *work.glob(".anisole-*")]:
        rest.unlink(missing_ok=True)
    for rest in work.glob(".amber-*"):
        shutil.rmtree(rest, ignore_errors=True)


def _check(frames: int, runs: int, processes: int) -> None:
    if not 1 <= runs <= frames:
        raise ValueError(f"expected 1 <= runs <= frames, got {runs} runs and {frames} frames")
    if processes < 1:
        raise ValueError(f"expected at least one process, got {processes}")


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
        kind = recipe.kind(task.run)
        yield from run_dynamics(work, kind, task.run, task.count, recipe.dynamics)
        return
    options = {"density_fit": recipe.density_fit, "multipoles": recipe.mbis}
    system = system_of(recipe, work, task.run, task.index)
    embedded, vacuum = label_both(system, recipe.level, recipe.grid_level, **options)
    arrays = {
        f"{prefix}_{key}": getattr(frame, key)
        for prefix, frame in (("embedded", embedded), ("vacuum", vacuum))
        for key in (*LABELS, *ATOMIC_LABELS)
        if getattr(frame, key) is not None
    }
    store(label_path(work, task.run, task.index), arrays)
    yield _summary(embedded, vacuum)


def _all_frames(tasks: list[_Task], work: Path, workers: Any, say: Say, progress: Progress) -> None:
    """Dynamics and labels of every frame that is not there yet."""
    total, done = sum(task.count for task in tasks), 0
    waiting = deque(tasks)
    seen: set[_Task] = set()
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
            if label_path(work, label.run, event.value).is_file():
                total -= 1
            else:  # before the dynamics of the runs that are left
                labels = sum(other.index is not None for other in waiting)
                waiting.insert(labels, label)


def _complain(event: Event, say: Say) -> None:
    """Report the failure of one task, or raise an error that concerns all tasks."""
    if isinstance(event.value, OSError | ImportError) or (
        event.kind == "failed" and event.task.index is None
    ):
        raise event.value
    say(f"{event.task}: left out, {event.value} (tried again by the next call)")


def _summary(embedded: Frame, vacuum: Frame) -> str:
    forces: Any = embedded.forces
    mm_forces: Any = embedded.mm_forces
    net = np.abs(forces.sum(0) + (0 if mm_forces is None else mm_forces.sum(0))).max()
    shift = embedded.energy - vacuum.energy  # type: ignore[operator]
    return (
        f"{embedded.energy:.4f} eV, embedding {shift:+.4f} eV, {embedded.system.n_mm} charges, "
        f"net force {net:.1e} eV/Å"
    )
