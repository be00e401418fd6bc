"""Frames divided by file among processes: the rate at which HDF5 gives them, and that of training.

    python benchmarks/hosts.py [--frames 8000]

Files of methanol frames (those of ``benchmarks/streaming.py``), by one process and by two at once,
each its own files: the arrays alone, read block by block (hdf5), and frames in random order that
are made ready for batches (read); beside that, steps of the default model by one process.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _output import run_alone, write_table
from streaming import write_file

FOLDER = Path("runs")
FILES = 4
BATCH = 16
COLUMNS = ("what", "processes", "frames_per_second")


def paths() -> list[Path]:
    """Return the files."""
    return [FOLDER / f"hosts_{k}.h5" for k in range(FILES)]


def read(rank: int, size: int) -> list:
    """Return frames per second at which a process gets its share of batches ready, and how many."""
    import torch

    from gnn import AMP
    from gnn.data.batching import collate
    from gnn.data.streaming import stream_frames
    from gnn.training.frames.loader import Loader
    from gnn.training.parallel import Ranks
    from gnn.training.sharing import Shares

    torch.set_num_threads(1)
    frames = stream_frames(paths())
    shares = Shares(Ranks(rank, size), frames)
    loader, owner = Loader(frames, AMP()), shares.owner_of(frames)
    best = 0.0
    for epoch in range(2):
        batches = loader.batches(BATCH, np.random.default_rng(epoch))
        start, count = time.perf_counter(), 0
        for batch in batches:
            own = loader[shares.of_batch(batch, owner)]
            count += len(own)
            if own:
                collate(own)
        best = max(best, count / (time.perf_counter() - start))
    return [best]


def raw(rank: int, size: int) -> list:
    """Return frames per second at which HDF5 alone gives a process the arrays of its files."""
    import h5py

    best = 0.0
    for _ in range(6):
        start = time.perf_counter()
        count = sum(_read_arrays(h5py.File(path)) for path in paths()[rank::size])
        best = max(best, count / (time.perf_counter() - start))
    return [best]


def _read_arrays(file: Any) -> int:
    """Read all arrays of a file block by block; return how many frames it has."""
    count = 0
    with file:
        for group in file.values():
            total, pointer = len(group["positions"]), group["mm_ptr"][()]
            for first in range(0, total, 256):
                rows = slice(first, min(first + 256, total))
                around = slice(pointer[rows.start], pointer[rows.stop])
                for name, data in group.items():
                    if name.startswith("mm_") and name != "mm_ptr":
                        data[around]
                    elif data.shape[:1] == (total,):
                        data[rows]
                count += rows.stop - rows.start
    return count


def train() -> list:
    """Return frames per second of training steps of the default model."""
    from gnn.data.streaming import stream_frames
    from gnn.training.config import parse_config
    from gnn.training.loop import Trainer
    from gnn.training.setup import build_model

    frames = stream_frames(paths()).take(range(0, 2000, 10))
    config = parse_config({"training": {"batch_size": BATCH, "threads": 1}})
    few = list(frames)
    trainer = Trainer(build_model(config, few), config, few)
    batches = trainer._batches()
    trainer._train_step(batches[0], 0.0)
    times = []
    for batch in batches[1:]:
        start = time.perf_counter()
        trainer._train_step(batch, 0.0)
        times.append(time.perf_counter() - start)
    return [BATCH / min(times)]


def together(what: str, size: int) -> float:
    """Return frames per second of several processes that do it at once."""
    runs = [
        subprocess.Popen(
            [sys.executable, __file__, "--one", json.dumps([what, rank, size])],
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    return sum(json.loads(run.communicate()[0].splitlines()[-1])[0] for run in runs)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        what, *more = json.loads(arguments.one)
        if what == "write":
            write_file(Path(more[0]), more[1])
        does = {"read": read, "hdf5": raw, "train": train}.get(what)
        print(json.dumps([] if does is None else does(*more)))
        return
    FOLDER.mkdir(exist_ok=True)
    for path in paths():
        if not path.is_file():
            run_alone(__file__, ["write", str(path), arguments.frames // FILES], threads=1)
    rows = [
        (what, size, f"{together(what, size):.0f}") for what in ("hdf5", "read") for size in (1, 2)
    ]
    rows.append(("train", 1, f"{run_alone(__file__, ['train'], threads=1)[0]:.0f}"))
    for row in rows:
        print(*(f"{c} {v}  " for c, v in zip(COLUMNS, row, strict=True)))
    print(f"written: {write_table('hosts', COLUMNS, rows)}")


if __name__ == "__main__":
    main()
