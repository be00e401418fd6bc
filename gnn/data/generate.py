"""Make QM/MM reference data for a molecule given as a SMILES string.

    python -m gnn.data.generate CO --name meoh --frames 100 --out data.h5

Molecular dynamics of the molecule in TIP3P water (OpenMM, GAFF2/AM1-BCC), quantum chemistry with
electrostatic embedding for each snapshot (PySCF), and one HDF5 file of the layout of
:mod:`gnn.data.hdf5`. Needs the extra ``data``: ``pip install "anisole[data]"``.

Each finished frame is kept in a work folder beside the output file: the same command, started
again after an interruption or with more frames, goes on where it stopped. Other molecules already
in the output file stay there. The runs are numbered 100, 200, 300, … (one block each), so that
:func:`gnn.data.split_by_run` holds out whole runs.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import LABELS, write_atomically
from gnn.data.formats import read_frames, write_frames
from gnn.data.labelling import NotConverged, label_both, level_of
from gnn.data.sampling import (
    Dynamics,
    check_installed,
    molecule,
    parametrise,
    snapshots,
    stored_snapshots,
)
from gnn.data.splits import RUNS_PER_BLOCK
from gnn.data.systems import Frame, System

_FEWEST_RUNS = 3  # below, a split by run has nothing to hold out


@dataclass(frozen=True)
class Recipe:
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
    dynamics
        Settings of the molecular dynamics.
    """

    smiles: str
    name: str
    charge: int
    level: str = "B3LYP/6-31G*"
    grid_level: int = 2
    padding: float = 12.0
    dynamics: Dynamics = field(default_factory=Dynamics)


def generate(
    recipe: Recipe,
    frames: int,
    out: Path,
    *,
    runs: int = 4,
    work: Path | None = None,
    say: Callable[[str], None] = print,
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
    work
        Folder for what is finished. None: ``<out>.work/<name>``.
    say
        Takes lines of progress.

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
    """
    if out.suffix.lower() not in (".h5", ".hdf5"):
        raise ValueError(f"{out}: expected a file name ending in .h5 or .hdf5")
    if not re.fullmatch(r"[\w.+-]+", recipe.name) or recipe.name.startswith("."):
        raise ValueError(f"name: expected letters, digits, _ . + -, got {recipe.name!r}")
    if not 1 <= runs <= frames:
        raise ValueError(f"expected 1 <= runs <= frames, got {runs} runs and {frames} frames")
    check_installed()
    level_of(recipe.level)
    mol = molecule(recipe.smiles, recipe.charge)
    work = work or out.with_name(out.name + ".work") / recipe.name
    (work / "labels").mkdir(parents=True, exist_ok=True)
    _check_recipe(recipe, work)
    _others(recipe, out)  # fail now rather than after hours
    if runs < _FEWEST_RUNS:
        say(f"note: {runs} run(s) cannot be split by run into three sets; use at least 3")
    say(f"{recipe.name}: force field of {recipe.smiles} (AM1-BCC charges, GAFF2, TIP3P)")
    parametrise(mol, recipe.charge, recipe.padding, work)
    try:
        _all_frames(recipe, frames, runs, work, say)
    finally:
        total = _assemble(recipe, work, out)
        say(f"{out}: {total} frames of {recipe.name}")
    return total


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All that must stay the same when a data set is continued."""
    settings = asdict(recipe)
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
    write_atomically(path, lambda name: _write_text(name, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _run_numbers(runs: int) -> list[int]:
    return [RUNS_PER_BLOCK * (k + 1) for k in range(runs)]


def _all_frames(
    recipe: Recipe, frames: int, runs: int, work: Path, say: Callable[[str], None]
) -> None:
    """Dynamics and labels of every frame that is not there yet."""
    timer = _Timer(frames)
    for k, run in enumerate(_run_numbers(runs)):
        count = frames // runs + (k < frames % runs)
        say(f"{recipe.name}: run {run} ({k + 1} of {runs}), molecular dynamics, {count} snapshots")
        for i, shot in enumerate(snapshots(work, run, count, recipe.dynamics)):
            path = _label_path(work, run, i)
            where = f"run {run} frame {i + 1}/{count}"
            if path.is_file():
                timer.skip()
                continue
            system = _system(recipe, shot)
            try:
                embedded, vacuum = label_both(system, recipe.level, recipe.grid_level)
            except NotConverged as error:
                say(f"{where}: left out, {error} (tried again by the next call)")
                timer.skip()
                continue
            _save_labels(path, embedded, vacuum)
            say(f"{where}: {_summary(embedded, vacuum)}; {timer.done()}")


class _Timer:
    """Rate and remaining time of the frames that had to be computed."""

    def __init__(self, total: int) -> None:
        self.left, self.computed, self.start = total, 0, time.monotonic()

    def skip(self) -> None:
        self.left -= 1

    def done(self) -> str:
        self.left -= 1
        self.computed += 1
        each = (time.monotonic() - self.start) / self.computed
        return f"{each:.1f} s a frame, {self.left * each / 60:.0f} min left"


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


def _save_labels(path: Path, embedded: Frame, vacuum: Frame) -> None:
    arrays = {
        f"{prefix}_{key}": getattr(frame, key)
        for prefix, frame in (("embedded", embedded), ("vacuum", vacuum))
        for key in LABELS
    }
    write_atomically(path, lambda name: np.savez(name, **arrays))


def _finished(recipe: Recipe, work: Path) -> list[tuple[Frame, Frame]]:
    """All frames of a work folder that have labels: embedded and vacuum."""
    found = []
    for path in sorted(work.glob("run_*.npz"), key=lambda path: int(path.stem.split("_")[1])):
        run = int(path.stem.split("_")[1])
        for i, shot in enumerate(stored_snapshots(path)):
            if not _label_path(work, run, i).is_file():
                continue
            with np.load(_label_path(work, run, i)) as file:
                labels = {key: file[key] for key in file.files}
            system = _system(recipe, shot)
            alone = System(system.numbers, system.positions, system.charge)
            found.append(
                (
                    Frame(system, **_labels(labels, "embedded"), run=run, name=recipe.name),
                    Frame(alone, **_labels(labels, "vacuum"), run=run, name=recipe.name),
                )
            )
    return found


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
    before, remarks = _others(recipe, out)
    own = _finished(recipe, work)
    ours = {(frame.run, frame.energy) for frame, _ in own}
    # Frames of this molecule from a work folder that is gone are kept, too.
    kept = [
        pair
        for pair in before
        if pair[0].name != recipe.name or (pair[0].run, pair[0].energy) not in ours
    ]
    pairs = kept + own
    if own:
        remarks |= {"level": recipe.level, f"smiles_{recipe.name}": recipe.smiles}
        embedded, vacuum = (list(frames) for frames in zip(*pairs, strict=True))
        write_frames(out, embedded, vacuum=vacuum, attributes=remarks, dtype=np.float32)
    return sum(frame.name == recipe.name for frame, _ in pairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`run` to a parser."""
    add = parser.add_argument
    add("smiles", help="the molecule, such as CO or C[NH3+] or CC(=O)[O-]")
    add("--name", required=True, help="name of the molecule in the file")
    add("--charge", type=int, help="total charge in e (default: from the SMILES string)")
    add("--frames", type=int, default=100, help="number of frames in all (default %(default)s)")
    add("--out", type=Path, required=True, help="HDF5 file (.h5); other molecules in it are kept")
    add("--runs", type=int, default=4, help="independent MD runs (default %(default)s)")
    add("--level", default="B3LYP/6-31G*", help="METHOD/BASIS (default %(default)s)")
    add("--grid-level", type=int, default=2, help="DFT grid of PySCF, 0-9 (default %(default)s)")
    add("--temperature", type=float, default=300.0, help="K (default %(default)s)")
    add("--equilibration", type=int, default=6000, help="steps of 1 fs (default %(default)s)")
    add("--interval", type=int, default=150, help="steps between frames (default %(default)s)")
    add("--cutoff", type=float, default=9.0, help="waters within, Å (default %(default)s)")
    add("--padding", type=float, default=12.0, help="water to the walls, Å (default %(default)s)")
    add("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    add("--work", type=Path, help="folder for finished frames (default OUT.work/NAME)")


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command line; returns the exit status."""
    try:
        check_installed()
        from pyscf import lib
        from rdkit import Chem

        lib.num_threads(arguments.threads)
        charge = arguments.charge
        if charge is None:
            charge = Chem.GetFormalCharge(molecule(arguments.smiles))
        dynamics = Dynamics(
            arguments.temperature,
            arguments.equilibration,
            arguments.interval,
            arguments.cutoff,
            arguments.threads,
        )
        recipe = Recipe(
            arguments.smiles,
            arguments.name,
            charge,
            arguments.level,
            arguments.grid_level,
            arguments.padding,
            dynamics,
        )
        generate(
            recipe,
            arguments.frames,
            arguments.out,
            runs=arguments.runs,
            work=arguments.work,
            say=lambda line: print(line, flush=True),
        )
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m gnn.data.generate``."""
    parser = argparse.ArgumentParser(
        prog="python -m gnn.data.generate",
        description="Make QM/MM reference data for a molecule given as a SMILES string.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
