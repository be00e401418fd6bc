"""Time and memory of the fast multipole method from a thousand to ten million points.

    python benchmarks/fmm_scaling.py [--max 10000000] [--tolerance 1e-6]

Charges in a cube to potential and gradient, on one and on two threads, of one and of sixteen
channels. Every run has a process of its own, so that the most memory it held is its own. Prints a
table; writes results/fmm_scaling.csv and results/fmm_scaling.png beside this file.
"""

import argparse
import json
import os
import time
from typing import NamedTuple

import numpy as np
from _output import pyplot, run_alone, write_scaling, write_table

SIZES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
# (threads, channels): how many points at most; sixteen fields of more fill the memory
LIMITS = {(1, 1): 10_000_000, (2, 1): 10_000_000, (1, 16): 1_000_000, (2, 16): 1_000_000}
# bytes that a million points may take, and what two threads and sixteen channels should give
MEMORY_AIM, SPEED_UP_AIM, CHANNELS_AIM = 1.5e9, 1.7, 6.0


class Result(NamedTuple):
    """One run: seconds to plan and for a first and a repeated field, bytes at most."""

    n: int
    threads: int
    channels: int
    plan: float
    first: float
    again: float
    memory: int

    @property
    def seconds(self) -> float:
        """Plan and first field."""
        return self.plan + self.first


def measure(n: int, threads: int, channels: int, tolerance: float) -> Result:
    """Run here: what the process that `run` starts does."""
    import fmm
    import multipoles as mp
    from fmm.validation import peak_memory

    mp.set_num_threads(threads)
    rng = np.random.default_rng(0)
    times = []
    # the first time compiles
    for m in (min(n, 20_000), n, n) if n <= 300_000 else (20_000, n):
        points, charges = rng.random((m, 3)), rng.standard_normal((m, channels, 1))
        start = time.perf_counter()
        plan = fmm.FMM(points, tolerance=tolerance, channels=channels)
        planned = time.perf_counter()
        plan.field(charges)
        first = time.perf_counter()
        plan.field(charges)
        times.append((planned - start, first - planned, time.perf_counter() - first))
        del plan
    best = min(times[1:], key=lambda t: t[0] + t[1])
    return Result(n, threads, channels, *best, peak_memory())


def run(n: int, threads: int, channels: int, tolerance: float) -> Result:
    """Measure in a fresh process; BLAS keeps to as many threads as the kernels."""
    return Result(*run_alone(__file__, [n, threads, channels, tolerance], threads))


def show(result: Result) -> None:
    print(
        f"{result.n:>9}{result.threads:>8}{result.channels:>9}{result.plan:>9.3f}"
        f"{result.first:>9.3f}{result.again:>9.3f}{1e6 * result.seconds / result.n:>11.2f}"
        f"{result.memory / 1e9:>11.2f}",
        flush=True,
    )


def judge(results: list[Result]) -> None:
    """Print what the largest common sizes say about memory, growth, threads and channels."""
    found = {(r.n, r.threads, r.channels): r for r in results}

    def ratio(name: str, above: tuple[int, int], below: tuple[int, int]) -> float | None:
        sizes = [n for n, *rest in found if tuple(rest) == above and (n, *below) in found]
        if not sizes:
            return None
        n = max(sizes)
        value = found[n, *above].seconds / found[n, *below].seconds
        print(f"{name}, {n} points: {value:.2f}", end="")
        return value

    def verdict(met: bool, aim: str) -> None:
        print(f"  (aim {aim}: {'met' if met else 'MISSED'})")

    if (speed_up := ratio("one thread over two", (1, 1), (2, 1))) is not None:
        verdict(speed_up >= SPEED_UP_AIM, f"≥ {SPEED_UP_AIM}")
    if (factor := ratio("sixteen channels over one", (1, 16), (1, 1))) is not None:
        verdict(factor <= CHANNELS_AIM, f"≤ {CHANNELS_AIM:g}")
    if (million := found.get((1_000_000, 1, 1))) is not None:
        print(f"memory of a million points: {million.memory / 1e9:.2f} GB", end="")
        verdict(million.memory <= MEMORY_AIM, f"≤ {MEMORY_AIM / 1e9:g} GB")
    sizes = [r for r in results if (r.threads, r.channels) == (1, 1) and r.n >= 100_000]
    if len(sizes) > 1:
        power = np.polyfit(np.log([r.n for r in sizes]), np.log([r.seconds for r in sizes]), 1)[0]
        print(f"seconds grow as points to the power {power:.2f} from 100000 on")


def plot(results: list[Result], tolerance: float) -> None:
    if (plt := pyplot()) is None:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colours, styles = {1: "#1b6ca8", 16: "#c8553d"}, {1: "o-", 2: "s--"}
    for threads, channels in LIMITS:
        mine = [r for r in results if (r.threads, r.channels) == (threads, channels)]
        label = f"{channels} channel{'s' if channels > 1 else ''}, {threads} thread"
        label += "s" if threads > 1 else ""
        style = {"color": colours[channels], "label": label, "ms": 4}
        n = [r.n for r in mine]
        left.loglog(n, [r.seconds for r in mine], styles[threads], **style)
        if threads == 1:
            right.loglog(n, [r.memory / 1e9 for r in mine], styles[threads], **style)
    whole = [r for r in results if (r.threads, r.channels) == (1, 1)]
    if len(whole) > 1:
        n = np.array([r.n for r in whole])
        left.loglog(n, n * whole[-1].seconds / n[-1], ":", color="0.6", zorder=0, label="linear")
    right.plot(1e6, MEMORY_AIM / 1e9, "k*", ms=9, label="aim, 1 channel")
    left.set(xlabel="points", ylabel="seconds: plan and first field")
    right.set(xlabel="points", ylabel="most memory of the process, GB")
    left.set_title(f"charges in a cube to gradient, tolerance {tolerance:g}", fontsize=10)
    write_scaling("fmm_scaling", figure, (left, right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max", type=int, default=10_000_000, help="most points")
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    print(f"tolerance {options.tolerance:g}; {os.cpu_count()} cores")
    columns = ("plan s", "first s", "again s")
    print(
        f"{'points':>9}{'threads':>8}{'channels':>9}" + "".join(f"{c:>9}" for c in columns)
        + f"{'µs/point':>11}{'memory GB':>11}"
    )  # fmt: skip
    results = []
    for n in (n for n in SIZES if n <= options.max):
        for (threads, channels), most in LIMITS.items():
            if n <= most:
                results.append(run(n, threads, channels, options.tolerance))
                show(results[-1])
        write_table("fmm_scaling", Result._fields, results)  # what a run that is stopped leaves
    judge(results)
    plot(results, options.tolerance)


if __name__ == "__main__":
    main()
