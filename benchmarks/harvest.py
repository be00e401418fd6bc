"""Frames where a model is in doubt: from its own hot dynamics, and with bonds nearly torn.

    python benchmarks/harvest.py /scratch/harvest                       # half an hour of one core
    python benchmarks/harvest.py /scratch/harvest --write new.h5 --join set.h5

Of every molecule of the frames that ship and that is trained on, in vacuum, labelled as they are:

* hot@800: 2 ps of Langevin dynamics on the model's forces at 800 K (hot_runs.py), from a frame of
  each block. The run is cut into windows; of each the snapshot of highest novelty is taken. The
  last one before a molecule breaks, and the first after, are among them.
* torn@800: one bond of such a snapshot, in no ring, at 1.2 to 1.9 of its length.
* beside@450: with one water, 2 ps at 450 K, chosen as the first.

A frame belongs to the block of the frame that its run started from. Each labelled frame is a file
in the work folder; the same call, made again, does what is left. What has other parts than the
molecule, forces above the limit of molecules.yaml, an energy of dynamics far above the lowest, or
does not converge, is left out. Needs the extra `data`.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hot_runs import HotRun
from make_data import MOLECULES, is_of_use, say

from gnn import Frame, System
from gnn.data import read_frames, shipped_path, write_frames
from gnn.data.common import LABELS
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.making.finished import MM_FORCE_STEP
from gnn.data.making.kinds import stretched
from gnn.data.making.labelling import label_both
from gnn.data.making.sampling import load, store
from gnn.data.making.workers import Workers
from gnn.data.parts import bonds_of, parts_of
from gnn.data.shipped import UNSEEN
from gnn.data.splits import RUNS_PER_BLOCK, is_of
from gnn.engines._models import ready_model

#: Frames of each kind from each block: 1 to 3 train, 4 tests, 5 validates.
COUNTS = {1: 6, 2: 6, 3: 6, 4: 2, 5: 2}
KINDS = ("hot@800", "torn@800", "beside@450")
FIRST_RUN = 50  # of a block: the generator's runs have lower numbers
EVERY = 25  # steps between snapshots
SCALES = 1.2, 1.9  # of a torn bond
HIGHEST = 0.5  # eV per atom above the lowest frame: a model's dynamics had burst

Key = tuple[str, int, int]  # name of the molecule, run, number of the frame


def begin(frames: Sequence[Frame], beside: bool, rng: np.random.Generator) -> dict[str, System]:
    """Return a frame of each molecule, alone or beside water, and block: ``name@block``."""
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        block = frame.run // RUNS_PER_BLOCK
        fits = frame.group.startswith("pair") if beside else "+" not in frame.name
        if fits and block in COUNTS:
            groups.setdefault(f"{frame.name}@{block}", []).append(frame)
    return {key: own[rng.integers(len(own))].system for key, own in sorted(groups.items())}


def trajectories(
    model: Any, starts: dict[str, System], temperature: float, steps: int
) -> dict[str, list[System]]:
    """Return snapshots of the dynamics of each start, up to the first where it is broken."""
    run = HotRun(model, starts, temperature)
    found: dict[str, list[System]] = {key: [] for key in starts}
    for _ in range(steps // EVERY):
        before = run.moving.copy()
        run.advance(EVERY)
        for k, (key, start) in enumerate(starts.items()):
            positions = run.positions[run.system == k].astype(np.float32)
            if before[k] and np.isfinite(positions).all():
                found[key].append(System(start.numbers, positions, start.charge))
    say(f"{temperature:g} K: {run.moving.sum()} of {len(starts)} whole after {run.step} steps")
    return found


def keeps_parts(system: System, start: System) -> bool:
    """Tell whether it has as many parts as at the start."""
    count = parts_of(system.numbers, system.positions).max()
    return bool(count == parts_of(start.numbers, start.positions).max())


def doubtful(model: Any, shots: list[System], count: int) -> list[System]:
    """Return the snapshot of highest novelty of each of a few windows."""
    chosen = []
    for window in np.array_split(np.arange(len(shots)), count):
        if len(window):
            results = model.evaluate([shots[i] for i in window], unknown="ignore")
            novelty = [float(np.max(result["novelty"])) for result in results]
            chosen.append(shots[window[int(np.argmax(novelty))]])
    return chosen


def torn(shot: System, rng: np.random.Generator) -> System:
    """Return a snapshot with one bond nearly torn."""
    parts = {"numbers": shot.numbers, "positions": shot.positions}
    bonds = bonds_of(shot.numbers, shot.positions)
    given = parts | {"bonds": bonds, "mm_positions": np.zeros((0, 3))}
    positions = stretched(given, rng, SCALES).astype(np.float32)
    return System(shot.numbers, positions, shot.charge)


def candidates(model: Any, frames: Sequence[Frame], steps: int) -> dict[Key, System]:
    """Return what is to be labelled."""
    rng, chosen = np.random.default_rng(0), {}
    for kind, beside in ((0, False), (2, True)):
        starts = begin(frames, beside, rng)
        temperature = float(KINDS[kind].partition("@")[2])
        for key, shots in trajectories(model, starts, temperature, steps).items():
            name, _, block = key.partition("@")
            fitting = [shot for shot in shots if keeps_parts(shot, starts[key])]
            count, run = COUNTS[int(block)], int(block) * RUNS_PER_BLOCK + FIRST_RUN
            picked = doubtful(model, fitting, count)
            chosen |= {(name, run + kind, i): shot for i, shot in enumerate(picked)}
            if kind == 0 and fitting:
                drawn = (torn(fitting[rng.integers(len(fitting))], rng) for _ in range(10 * count))
                kept = [shot for shot in drawn if keeps_parts(shot, starts[key])][:count]
                chosen |= {(name, run + 1, i): shot for i, shot in enumerate(kept)}
    return chosen


# --- labels -------------------------------------------------------------------------------------


def file_of(work: Path, key: Key) -> Path:
    name, run, index = key
    return work / f"{name}_{run}_{index}.npz"


def label(settings: dict[str, Any], work: Path, key: Key) -> Iterator[str]:
    """Label a candidate in a worker."""
    shot = load(file_of(work / "candidates", key))
    system = System(shot["numbers"], shot["positions"], int(shot["charge"]))
    start = time.monotonic()
    frame, _ = label_both(system, settings["level"], density_fit=settings["density_fit"])
    labels = {name: getattr(frame, name) for name in LABELS}
    store(file_of(work / "labels", key), {k: v for k, v in labels.items() if v is not None})
    yield f"{frame.energy:.4f} eV, {time.monotonic() - start:.1f} s"


def key_of(path: Path) -> Key:
    name, run, index = path.stem.rsplit("_", 2)
    return name, int(run), int(index)


def make(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    work = arguments.work
    for folder in ("candidates", "labels"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    if not any((work / "candidates").iterdir()):
        frames = read_frames(arguments.join or shipped_path(), vacuum=True)
        frames = [frame for frame in frames if not is_of(frame.name, UNSEEN)]
        model = ready_model(arguments.model, "float32")
        for key, system in candidates(model, frames, arguments.steps).items():
            arrays = {"numbers": system.numbers, "positions": system.positions}
            store(file_of(work / "candidates", key), arrays | {"charge": np.array(system.charge)})
    keys = sorted(map(key_of, (work / "candidates").glob("*.npz")), key=lambda key: key[::-1])
    left = deque(key for key in keys if not file_of(work / "labels", key).is_file())
    total = len(left)
    with Workers(partial(label, settings["recipe"], work), arguments.processes) as workers:
        done = 0
        for event in workers.events(left):
            if event.kind != "done":
                done += 1
                say(f"{done} of {total}: {'_'.join(map(str, event.task))} {event.value}")


def centred(shot: dict[str, Any], labels: dict[str, Any], **told: Any) -> Frame:
    """Return a frame with the molecule, waters apart, about the origin."""
    waters = 3 * (told["name"].count("+h2o"))
    centre = shot["positions"][: len(shot["numbers"]) - waters].mean(0, dtype=np.float64)
    positions = (shot["positions"] - centre).astype(np.float32)
    system = System(shot["numbers"], positions, int(shot["charge"]))
    dipole = labels["dipole"] - system.charge * centre
    return Frame(system, **(labels | {"dipole": dipole}), **told)


def write(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    remarks = read_remarks(arguments.join)[0]
    pairs = [*zip(*(read_frames(arguments.join, vacuum=v) for v in (False, True)), strict=True)]
    lowest: dict[str, float] = {}
    for _, frame in pairs:
        lowest[frame.name] = min(lowest.get(frame.name, np.inf), frame.energy)
    more, left_out = [], 0
    for path in sorted((arguments.work / "labels").glob("*.npz"), key=key_of):
        name, run, _ = key = key_of(path)
        shot, labels = load(file_of(arguments.work / "candidates", key)), load(path)
        kind = KINDS[run % RUNS_PER_BLOCK - FIRST_RUN]
        frame = centred(shot, labels, name=name, group=kind, run=run)
        above = (frame.energy - lowest.get(name, np.inf)) / frame.system.n_atoms
        burst = above > HIGHEST and not kind.startswith("torn")
        if is_of_use(frame, settings) and not burst:
            more.append(frame)
        else:
            left_out += 1
    pairs += [(frame, replace(frame)) for frame in more]
    pairs.sort(key=lambda pair: (pair[0].name, pair[0].run))
    embedded, vacuum = (list(frames) for frames in zip(*pairs, strict=True))
    write_frames(
        arguments.write, embedded, vacuum=vacuum, attributes=remarks, dtype=np.float32,
        mm_force_step=MM_FORCE_STEP,
    )  # fmt: skip
    say(f"{arguments.write}: {len(more)} frames more, {left_out} left out, {len(pairs)} in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of what is finished")
    parser.add_argument("--model", metavar="CHECKPOINT", help="default: the one that ships")
    parser.add_argument("--steps", type=int, default=2000, help="of dynamics, fs")
    parser.add_argument("--processes", type=int, default=1, help="at work at a time")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is finished (.h5)")
    parser.add_argument("--join", type=Path, metavar="FILE", help="frames to start from and add to")
    arguments = parser.parse_args()
    settings = yaml.safe_load(MOLECULES.read_text(encoding="utf-8"))
    if arguments.write is None:
        make(arguments, settings)
    else:
        write(arguments, settings)


if __name__ == "__main__":
    main()
