"""Time and memory of the field of anisotropic states at each other, from a thousand to a million.

    python benchmarks/long_range.py [--max 1000000] [--threads 1] [--methods direct ...]

Atoms on a jittered lattice of 0.1 per cubic ångström; states of 16 channels and order 2, their
field to order 2 under `Softened(5.0)`, in float32: what a model with long range asks for in every
step. Forward, and forward with the gradient by positions and states; by the fast multipole method
at two tolerances and directly (what would take more than a minute is extrapolated from fewer
targets, and marked). Every run has a process of its own, so that the most memory it held is its
own. Prints a table; writes results/long_range.csv and results/long_range.png beside this file,
where rows of methods that are not asked for stay.
"""

import argparse
import json
import time
from typing import NamedTuple

import numpy as np
from _output import pyplot, read_table, run_alone, write_scaling, write_table

SIZES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
METHODS = {"direct": 0.0, "fmm 1e-3": 1e-3, "fmm 1e-5": 1e-5}
DENSITY, CHANNELS, ORDER, CUTOFF = 0.1, 16, 2, 5.0
# seconds that a direct sum may take; above, some targets stand for all
PATIENCE = 60.0
SAMPLED_PAIRS = 2e7
# channels at a time, so that a million atoms fit into memory
BLOCKS = {1_000_000: 4, 300_000: 8}
MEMORY_AIM = 20e9


class Result(NamedTuple):
    """One run: seconds forward, and forward and backward, bytes at most, measured error."""

    n: int
    method: str
    forward: float
    both: float
    memory: int
    extrapolated: bool
    error: float


def atoms(n: int) -> np.ndarray:
    """Return points on a lattice, each moved at random but none closer than 0.85 Å to another."""
    rng = np.random.default_rng(0)
    edge, spacing = int(np.ceil(n ** (1 / 3))), DENSITY ** (-1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
    return (spacing * grid + rng.uniform(-0.65, 0.65, (n, 3))).astype(np.float32)


def measure(n: int, method: str) -> Result:
    """Run here: what the process that `run` starts does."""
    import torch

    import multipoles as mp
    from fmm.validation import peak_memory
    from gnn.operators.field import multipole_field

    torch.set_num_threads(mp.get_num_threads())
    kernel, tolerance = mp.Softened(CUTOFF), METHODS[method] or 1e-6
    name = "fmm" if METHODS[method] else "direct"
    block = min([channels for size, channels in BLOCKS.items() if n >= size] or [CHANNELS])
    rng = np.random.default_rng(1)
    x = torch.from_numpy(atoms(n))
    states = torch.from_numpy(
        rng.standard_normal((n, CHANNELS, mp.n_components(ORDER)), dtype=np.float32)
    )

    def step(count: int, differentiate: bool) -> float:
        start = time.perf_counter()
        for first in range(0, CHANNELS, block):
            points = x.clone().requires_grad_(differentiate)
            part = states[:, first : first + block].clone().requires_grad_(differentiate)
            targets = points if count == n else points[:count]
            field = multipole_field(
                targets, points, part, ORDER, kernel=kernel, method=name, tolerance=tolerance
            )
            if differentiate:
                # the work of the field on the states: what an update contracts
                (part[:count] * field).sum().backward()
        return time.perf_counter() - start

    some = min(n // 2, max(32, int(SAMPLED_PAIRS / n)))

    def slope(differentiate: bool) -> float:
        """Return the time of all targets from that of some and of twice as many."""
        few, more = (
            min(step(count, differentiate) for _ in range(3)) for count in (some, 2 * some)
        )
        return max(more - few, 0.5 * few) * n / some

    times, extrapolated = [], name == "direct" and slope(False) > PATIENCE / 3
    for differentiate in (False, True):
        if extrapolated:
            times.append(slope(differentiate))
        else:
            # the first time compiles
            repeats = 3 if n <= 100_000 else 1
            warm = step(n, differentiate) if n <= 100_000 else 0.0
            times.append(min([step(n, differentiate) for _ in range(repeats)] or [warm]))
    error = _error(x, states, kernel, tolerance) if name == "fmm" else 0.0
    return Result(n, method, *times, peak_memory(), extrapolated, error)


def _error(x, states, kernel, tolerance: float) -> float:
    """Return the worst relative L2 error of any order, of a channel at 300 targets."""
    import fmm
    import multipoles as mp
    from multipoles.indexing import order_slice

    points, moments = x.numpy(), np.ascontiguousarray(states[:, :1].numpy())
    plan = fmm.FMM(points, None, tolerance, ORDER, ORDER, kernel=kernel)
    some = np.random.default_rng(2).choice(len(points), min(len(points), 300), replace=False)
    wide = points.astype(float)
    exact = mp.field(wide[some], wide, moments.astype(float), ORDER, kernel)
    off = plan.field(moments)[some] - exact
    parts = [order_slice(k) for k in range(ORDER + 1)]
    return max(float(np.linalg.norm(off[..., p]) / np.linalg.norm(exact[..., p])) for p in parts)


def run(n: int, method: str, threads: int) -> Result:
    """Measure in a fresh process."""
    alone = run_alone(__file__, [n, method], threads, NUMBA_NUM_THREADS=str(threads))
    return Result(*alone)


def show(r: Result) -> None:
    mark = "*" if r.extrapolated else " "
    print(
        f"{r.n:>9}  {r.method:<10}{r.forward:>10.3f}{mark}{r.both:>10.3f}{mark}"
        f"{1e6 * r.forward / r.n:>11.1f}{r.memory / 1e9:>11.2f}"
        + (f"{r.error:>11.1e}" if r.error else ""),
        flush=True,
    )


def judge(results: list[Result]) -> None:
    """Print how time grows, and whether the largest run kept to its memory."""
    for method in METHODS:
        mine = [r for r in results if r.method == method and r.n >= 10_000]
        if len(mine) > 1:
            n = np.log([r.n for r in mine])
            forward = np.polyfit(n, np.log([r.forward for r in mine]), 1)[0]
            both = np.polyfit(n, np.log([r.both for r in mine]), 1)[0]
            print(f"{method}: grows as N^{forward:.2f}, with gradients N^{both:.2f}, from 10000 on")
    for r in results:
        if r.n == 1_000_000 and not r.extrapolated:
            verdict = "met" if r.memory <= MEMORY_AIM else "MISSED"
            print(f"{r.method}, a million atoms: {r.memory / 1e9:.1f} GB (aim ≤ 20: {verdict})")


def kept(methods: list[str]) -> list[Result]:
    """Return the rows of an earlier run for other methods than these."""
    return [
        Result(
            int(r["n"]), r["method"], float(r["forward"]), float(r["both"]), int(r["memory"]),
            r["extrapolated"] == "True", float(r["error"]),
        )
        for r in read_table("long_range")
        if r["method"] not in methods
    ]  # fmt: skip


def plot(results: list[Result], threads: int) -> None:
    if (plt := pyplot()) is None:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colours = dict(zip(METHODS, ("0.45", "#1b6ca8", "#c8553d"), strict=True))
    for method, colour in colours.items():
        mine = [r for r in results if r.method == method]
        for field, style in (("forward", "o-"), ("both", "s--")):
            label = method + ("" if field == "forward" else ", with gradients")
            values = np.array([getattr(r, field) for r in mine])
            n = np.array([r.n for r in mine])
            left.loglog(n, values, style, color=colour, label=label, ms=4)
            marked = np.array([r.extrapolated for r in mine], bool)
            left.loglog(n[marked], values[marked], "o", color="white", mec=colour, ms=4, zorder=5)
        whole = [r for r in mine if not r.extrapolated]
        right.loglog(
            [r.n for r in whole], [r.memory / 1e9 for r in whole], "o-", color=colour, ms=4,
            label=method,
        )  # fmt: skip
    right.axhline(MEMORY_AIM / 1e9, color="k", ls=":", lw=0.8)
    left.set(xlabel="atoms", ylabel="seconds (open: extrapolated)")
    right.set(xlabel="atoms", ylabel="most memory of the process, GB")
    left.set_title(f"16 channels of order 2, float32, {threads} thread(s)", fontsize=10)
    write_scaling("long_range", figure, (left, right), fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max", type=int, default=1_000_000, help="most atoms")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    print(f"{options.threads} thread(s); * extrapolated from some targets")
    print(
        f"{'atoms':>9}  {'method':<10}{'forward s':>11}{'+ grad. s':>11}{'µs/atom':>10}"
        f"{'memory GB':>11}{'error':>11}"
    )
    results = kept(options.methods)
    for n in (n for n in SIZES if n <= options.max):
        for method in options.methods:
            results.append(run(n, method, options.threads))
            show(results[-1])
        write_table("long_range", Result._fields, results)  # what a run that is stopped leaves
    judge(results)
    plot(results, options.threads)


if __name__ == "__main__":
    main()
