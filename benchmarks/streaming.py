"""Frames read from a file during training against frames in memory: memory and time.

    python benchmarks/streaming.py [--frames 20000]

One epoch of batches of 8 is put together (no model), in a fresh process each, from the shipped
methanol frames repeated with small displacements.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from _output import run_alone, write_table

FOLDER = Path("runs")
COLUMNS = ("frames", "file_mb", "how", "peak_mb", "open_s", "epoch_s", "ms_per_batch")


def write_file(path: Path, count: int) -> list:
    """Write frames like those of methanol."""
    from gnn import Frame, System
    from gnn.data import load_shipped, write_frames

    rng = np.random.default_rng(0)
    shipped = load_shipped(["meoh"])
    frames = []
    for i in range(count):
        frame = shipped[i % len(shipped)]
        system = frame.system
        moved = system.positions + 0.01 * rng.standard_normal(system.positions.shape)
        copy = System(system.numbers, moved, 0, system.mm_positions, system.mm_charges)
        frames.append(
            Frame(copy, frame.energy, frame.forces, frame.mm_forces, frame.dipole, i // 100, "meoh")
        )
    write_frames(path, frames, dtype=np.float32)
    return []


def one_epoch(path: Path, streamed: bool) -> list:
    """Return peak memory, time to open and time of an epoch."""
    import torch

    from gnn import AMP
    from gnn.data import read_frames
    from gnn.data.batching import collate
    from gnn.data.streaming import stream_frames
    from gnn.training.frames.loader import Loader

    torch.set_num_threads(1)
    start = time.perf_counter()
    frames = stream_frames(path) if streamed else read_frames(path)
    loader = Loader(frames, AMP(order=1, channels=2))
    opened = time.perf_counter() - start
    start = time.perf_counter()
    batches = loader.batches(8, np.random.default_rng(0))
    for indices in batches:
        collate(loader[indices])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [peak, opened, seconds, 1e3 * seconds / len(batches)]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        what, name, count = json.loads(arguments.one)
        path = Path(name)
        found = write_file(path, count) if what == "write" else one_epoch(path, what == "streamed")
        print(json.dumps(found))
        return
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"streaming_{arguments.frames}.h5"
    # in processes of their own: a child's peak memory begins with its parent's
    if not path.is_file():
        run_alone(__file__, ["write", str(path), arguments.frames], threads=1)
    rows = []
    for how in ("in memory", "streamed"):
        found = run_alone(__file__, [how, str(path), arguments.frames], threads=1)
        size = path.stat().st_size / 2**20
        rows.append(
            (
                arguments.frames,
                f"{size:.0f}",
                how,
                f"{found[0]:.0f}",
                *(f"{x:.3g}" for x in found[1:]),
            )
        )
        print(*(f"{c} {v}  " for c, v in zip(COLUMNS, rows[-1], strict=True)))
    print(f"written: {write_table('streaming', COLUMNS, rows)}")


if __name__ == "__main__":
    main()
