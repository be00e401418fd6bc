"""Frames with charges nearer than dynamics brings them in a few picoseconds.

    python benchmarks/near_charges.py /scratch/near                        # label, or go on
    python benchmarks/near_charges.py /scratch/near --write new.h5

A run that nobody trained on brings a water nearer to an atom, sooner or later, than any training
frame had it. There the model's walls act, and forces are wrong by a multiple of what they are off
elsewhere. These frames reach farther: snapshots in water of the training blocks, of every molecule
that is trained on, in which the waters nearest to a few atoms are pulled in, each as a whole along
the line between the atom and the water's site that is nearest to it, to 0.78 to 0.95 of their
distance, but no charge nearer to an atom than molecules.yaml allows. Waters may overlap: there is
no energy between charges. Of the same atoms without charges the file has labels already.

`--more FILES` adds frames of water runs of their own besides (make_data.py with
molecules_more.yaml), as runs of the training blocks; runs named by `--but` are left out, for a test
of their own. Needs the extra `data`.
"""

import argparse
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from harvest import Key, file_of, key_of
from make_data import MOLECULES, is_of_use, say
from scipy.spatial.distance import cdist

from gnn import Frame, System
from gnn.data import read_frames, shipped_path, write_frames
from gnn.data.common import LABELS
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.making.finished import MM_FORCE_STEP
from gnn.data.making.labelling import label
from gnn.data.making.sampling import load, store
from gnn.data.making.workers import Workers
from gnn.data.shipped import BLOCKS, UNSEEN
from gnn.data.splits import RUNS_PER_BLOCK, is_of

GROUPS = ("first", "water")  # in water at 300 K
GROUP, RUN = "near", 53  # of a block; those of harvest.py end at 52
MORE_RUN = 60  # first of a block for other files
COUNT = 1  # frames of each molecule and block
WATERS = 3  # that are pulled in, at most
SCALES = 0.78, 0.95
_GRID = 256  # places per Å of the charges, as in the file
_TRIES = 20


def pulled(system: System, nearest: float, rng: np.random.Generator) -> System:
    """Return a system with a few waters nearer to an atom each, no charge nearer than `nearest`."""
    waters = np.array(system.mm_positions, dtype=np.float64).reshape(-1, 3, 3)
    atoms, moved = system.positions, set()
    for atom in rng.permutation(len(atoms))[:WATERS]:
        distances = np.linalg.norm(waters - atoms[atom], axis=-1)
        water, site = np.unravel_index(distances.argmin(), distances.shape)
        away = waters[water, site] - atoms[atom]
        length = np.linalg.norm(away)
        for _ in range(_TRIES * (water not in moved)):
            wanted = max(rng.uniform(*SCALES) * length, nearest)
            placed = waters[water] + (wanted / length - 1) * away
            placed = np.round(placed * _GRID) / _GRID
            if cdist(placed, atoms).min() >= nearest:
                waters[water] = placed
                moved.add(water)
                break
    positions = waters.reshape(-1, 3).astype(np.float32)
    return System(system.numbers, atoms, system.charge, positions, system.mm_charges)


def sources(path: Path) -> dict[Key, tuple[Frame, Frame]]:
    """Return the frames to begin from, with charges and without, by what will become of them."""
    blocks: dict[tuple[str, int], list[tuple[Frame, Frame]]] = {}
    pairs = zip(read_frames(path), read_frames(path, vacuum=True), strict=True)
    for frame, alone in pairs:
        block = frame.run // RUNS_PER_BLOCK
        if frame.group in GROUPS and block in BLOCKS["train"] and not is_of(frame.name, UNSEEN):
            blocks.setdefault((frame.name, block), []).append((frame, alone))
    found = {}
    for (name, block), own in sorted(blocks.items()):
        rng = np.random.default_rng([zlib.crc32(name.encode()), block])
        for index, chosen in enumerate(rng.permutation(len(own))[:COUNT]):
            found[name, block * RUNS_PER_BLOCK + RUN, index] = own[chosen]
    return found


def near(key: Key, frame: Frame, settings: dict[str, Any]) -> System:
    """Return what is to be labelled, the same at every call."""
    name, run, index = key
    rng = np.random.default_rng([zlib.crc32(name.encode()), run, index])
    return pulled(frame.system, settings["nearest_charge"] + 0.01, rng)


def labelled(
    begun: dict[Key, tuple[Frame, Frame]], settings: dict[str, Any], work: Path, key: Key
) -> Iterator[str]:
    """Label a frame in a worker."""
    recipe = settings["recipe"]
    system = near(key, begun[key][0], settings)
    found, _ = label(system, recipe["level"], density_fit=recipe["density_fit"])
    store(file_of(work, key), {name: found[name] for name in LABELS if name in found})
    yield f"{found['energy']:.4f} eV"


def make(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    arguments.work.mkdir(parents=True, exist_ok=True)
    begun = sources(arguments.join)
    keys = sorted(begun, key=lambda key: key[2])  # all molecules have some at any time
    left = deque(key for key in keys if not file_of(arguments.work, key).is_file())
    total, done = len(left), 0
    task = partial(labelled, begun, settings, arguments.work)
    with Workers(task, arguments.processes) as workers:
        for event in workers.events(left):
            if event.kind != "done":
                done += 1
                say(f"{done} of {total}: {'_'.join(map(str, event.task))} {event.value}")


def more(path: Path, but: Sequence[int]) -> Iterator[tuple[Frame, Frame]]:
    """Yield the frames of a file as those of runs of the training blocks."""
    pairs = list(zip(read_frames(path), read_frames(path, vacuum=True), strict=True))
    runs = sorted({frame.run for frame, _ in pairs} - set(but))
    blocks = BLOCKS["train"]
    for frame, alone in pairs:
        if frame.run in runs:
            turn, block = divmod(runs.index(frame.run), len(blocks))
            run = blocks[block] * RUNS_PER_BLOCK + MORE_RUN + turn
            yield replace(frame, run=run), replace(alone, run=run)


def write(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    remarks, begun = read_remarks(arguments.join)[0], sources(arguments.join)
    pairs = [*zip(*(read_frames(arguments.join, vacuum=v) for v in (False, True)), strict=True)]
    before = len(pairs)
    for path in sorted(arguments.work.glob("*.npz"), key=key_of):
        key = key_of(path)
        told = {"name": key[0], "run": key[1], "group": GROUP}
        frame, alone = begun[key]
        frame = Frame(near(key, frame, settings), **load(path), **told)
        if is_of_use(frame, settings):
            pairs.append((frame, replace(alone, **told)))
    for path in arguments.more:
        pairs += more(path, arguments.but)
    say(f"{arguments.write}: {len(pairs) - before} frames more, {len(pairs)} in all")
    pairs.sort(key=lambda pair: (pair[0].name, pair[0].run))
    embedded, vacuum = (list(frames) for frames in zip(*pairs, strict=True))
    write_frames(
        arguments.write, embedded, vacuum=vacuum, attributes=remarks, dtype=np.float32,
        mm_force_step=MM_FORCE_STEP,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of what is finished")
    parser.add_argument("--processes", type=int, default=1, help="at work at a time")
    parser.add_argument("--join", type=Path, metavar="FILE", help="frames to begin from and add to")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is finished (.h5)")
    parser.add_argument("--more", type=Path, metavar="FILE", nargs="+", default=[])
    parser.add_argument("--but", type=int, metavar="RUN", nargs="+", default=[])
    arguments = parser.parse_args()
    arguments.join = arguments.join or shipped_path()
    settings = yaml.safe_load(MOLECULES.read_text(encoding="utf-8"))
    if arguments.write is None:
        make(arguments, settings)
    else:
        write(arguments, settings)


if __name__ == "__main__":
    main()
