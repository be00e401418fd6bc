"""Launches and host time of a plan on a GPU, counted without one.

    python benchmarks/gpu_launches.py [--points N] [--state NAME]

The library's real host code runs on a stub driver (tests/gpu/stub), whose memory is the host's, and
an emulator (tests/gpu/emulator) runs each launched kernel on it with the blocks of a device; so the
host reads what it would read from a device, and decides what it would decide. Counted are launches
of kernels, of graphs, copies, memsets and waits. The host's time is the processor's, of the same
task done again without kernels. Prints a table and adds it to results/gpu_launches.csv under the
name of the state of the library; errors against a sum in float64 at some targets stand beside it.
Needs gcc on Linux.
"""

import argparse
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COUNTED = ("launch", "graph", "copy", "clear", "synchronize")
COLUMNS = (
    "state", "step", "n", "launches", "graphs", "copies", "memsets", "waits", "host_milliseconds",
    "error", "date",
)  # fmt: skip
TOLERANCE = 1e-4


class Counted:
    """Counts the driver's calls, and takes the host's time.

    A task is done once with kernels run where they are launched; what the host reads is kept. Then
    it is done again and again without kernels, and the host is given what it read the first time:
    it does the same, and nothing else has the processor and its caches.
    """

    def __init__(self) -> None:
        from multipoles.compiled import cuda_kernels
        from multipoles.cuda.device import Space

        self._stub = ctypes.CDLL("libcuda.so.1")
        self._stub.stub_calls.restype = ctypes.c_long
        self._stub.stub_seconds.restype = ctypes.c_double
        self._launched, self._downloaded = cuda_kernels.Launch.__call__, Space.download
        self._read: list[np.ndarray] = []
        self._given: Iterator[np.ndarray] | None = None
        cuda_kernels.Launch.__call__ = lambda *arguments: self._launch(*arguments)
        Space.download = lambda space, array: self._download(space, array)

    def _launch(self, kernel: Any, stream: Any, dtype: Any, blocks: Any, *rest: Any) -> None:
        import emulator

        self._launched(kernel, stream, dtype, blocks, *rest)
        if self._given is None and np.all(blocks):
            emulator.run(kernel, dtype, blocks, *rest)

    def _download(self, space: Any, array: Any) -> np.ndarray:
        found = self._downloaded(space, array)
        if self._given is not None:
            return next(self._given)
        self._read.append(found.copy())
        return found

    def calls(self) -> list[int]:
        """Return how often the driver was called by `COUNTED`."""
        return [self._stub.stub_calls(name.encode()) for name in COUNTED]

    def step(self, task: Callable[[], Any], repeats: int = 15) -> tuple[Any, list[int], float]:
        """Return what a task returns, its calls, and the least time of the host."""
        self._read, before = [], self.calls()
        found = task()
        counts = [now - then for now, then in zip(self.calls(), before, strict=True)]
        kept = found.copy_to_host() if hasattr(found, "copy_to_host") else None
        times = []
        for _ in range(repeats):
            self._given = iter(self._read)
            moving, start = self._stub.stub_seconds(), thread_time()
            task()
            # memory is moved by the stub where a device would move it
            moving = self._stub.stub_seconds() - moving
            times.append(thread_time() - start - moving)
        self._given = None
        return kept, counts, min(times)


def measured(n: int) -> list[dict]:
    """Return the rows of steps."""
    from numba import cuda

    import fmm
    import multipoles as mp

    rng = np.random.default_rng(0)
    x, q = rng.random((n, 3), np.float32), rng.standard_normal((n, 1), np.float32)
    chosen = rng.choice(n, min(n, 2000), replace=False)
    right = mp.field(*(a.astype(np.float64) for a in (x[chosen], x, q)), 1)
    there, charges = cuda.to_device(x), cuda.to_device(q)
    counted = Counted()
    plan = fmm.FMM(there, tolerance=TOLERANCE)
    plan.field(charges, 1)  # compiles, and finds degrees
    layout = plan._layout
    # in the end its tree is one that no kernel wrote
    moved = fmm.FMM(there, tolerance=TOLERANCE)
    moved.field(charges, 1)

    def planned() -> Any:
        return fmm.FMM(there, tolerance=TOLERANCE)

    def evaluated() -> Any:
        getattr(layout, "replays", {}).clear()  # as it comes, not as a graph
        return plan.field(charges, 1)

    def first() -> Any:
        return planned().field(charges, 1)

    def rebuilt() -> Any:
        moved.rebuild(there)
        return moved.field(charges, 1)

    rows = []
    for name, task in (
        ("plan", planned), ("evaluation", evaluated), ("rebuilt and evaluated", rebuilt),
        ("plan, errors measured, evaluation", first),
    ):  # fmt: skip
        found, counts, seconds = counted.step(task)
        error = None if found is None else worst(found, right, chosen)
        rows.append(row(name, n, counts, seconds, error))
    return [*rows, *replayed(plan, charges, counted, n)]


def replayed(plan: Any, charges: Any, counted: Counted, n: int) -> list[dict]:
    """Return the row of an evaluation that is replayed; nothing runs, so nothing is checked."""
    if not hasattr(plan._layout, "replays"):
        return []
    for _ in range(4):
        plan.field(charges, 1)
    _, counts, seconds = counted.step(lambda: plan.field(charges, 1))
    return [row("evaluation, replayed", n, counts, seconds, None)]


def row(name: str, n: int, counts: list[int], seconds: float, error: float | None) -> dict:
    """Return a row of the table."""
    columns = ("launches", "graphs", "copies", "memsets", "waits")
    return {"step": name, "n": n, "host_milliseconds": 1e3 * seconds, "error": error} | dict(
        zip(columns, counts, strict=True)
    )


def worst(found: np.ndarray, right: np.ndarray, chosen: np.ndarray) -> float:
    """Return the relative error of potential or gradient, whichever is larger."""
    got = found[chosen]
    parts = (slice(0, 1), slice(1, 4))
    return max(
        float(np.linalg.norm((got - right)[:, p]) / np.linalg.norm(right[:, p])) for p in parts
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10**6, metavar="N")
    parser.add_argument("--state", default="now", help="name of the rows; those of others stay")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "gpu"))
    from stub.build import environment

    if "STUB_QUICK" not in os.environ:  # the loader reads where libraries are when a process starts
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=environment(STUB_QUICK="1")))
    from _output import read_table, write_table

    rows = [r for r in read_table("gpu_launches") if r["state"] != options.state]
    print(
        "step                                  launches graphs copies memsets waits  host    error"
    )
    for found in measured(options.points):
        error = "" if found["error"] is None else f"{found['error']:.1e}"
        print(
            f"{found['step']:<38}{found['launches']:>8}{found['graphs']:>7}{found['copies']:>7}"
            f"{found['memsets']:>8}{found['waits']:>6}{found['host_milliseconds']:>7.2f} ms {error}"
        )
        rows.append(found | {"state": options.state, "date": str(date.today())})
    write_table("gpu_launches", COLUMNS, rows)


if __name__ == "__main__":
    main()
