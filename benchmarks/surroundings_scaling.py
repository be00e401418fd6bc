"""Time and memory of a model with one QM zone in up to a million surrounding charges.

    python benchmarks/surroundings_scaling.py [--max 1000000] [--threads 2]

A hundred atoms in the middle of a jittered lattice of 0.1 particles per cubic ångström; the other
particles are charges. The whole model (random weights), from a `System` to energy and the forces
on all atoms and charges, its fields summed directly, by the fast multipole method, or as the model
finds best. Every run has a process of its own, so that the most memory it held is its own. Prints
a table; writes results/surroundings_scaling.csv and results/surroundings_scaling.png beside this
file. In float32 a direct sum over a million charges is accurate to 1e-5 only: the energies differ
by that, and the fast multipole method's is the better one.
"""

import argparse
import json
import time
from typing import NamedTuple

import numpy as np
from _output import pyplot, run_alone, write_scaling, write_table

SIZES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
METHODS = ("direct", "fmm", "auto")
ATOMS, DENSITY = 100, 0.1
TIME_AIM, MEMORY_AIM = 10.0, 6e9


class Result(NamedTuple):
    """One run: seconds of the first and of a repeated evaluation, bytes at most, trees made.

    `energy` in eV and `force` (root mean square on the charges, eV/Å) let methods be compared.
    """

    n: int
    method: str
    first: float
    again: float
    memory: int
    plans: int
    energy: float
    force: float


def system(n: int):
    """Return a QM zone in the middle of n charges of either sign, together neutral."""
    from gnn.data.systems import System

    rng = np.random.default_rng(0)
    edge, spacing = int(np.ceil((n + ATOMS) ** (1 / 3))), DENSITY ** (-1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = spacing * (grid - (edge - 1) / 2)
    points = points[np.argsort((points**2).sum(1), kind="stable")[: n + ATOMS]]
    points += rng.uniform(-0.5, 0.5, points.shape)
    charges = rng.uniform(-0.8, 0.8, n)
    numbers = rng.choice([1, 1, 1, 6, 6, 7, 8], ATOMS)
    return System(
        numbers, points[:ATOMS], mm_positions=points[ATOMS:], mm_charges=charges - charges.mean()
    )


def measure(n: int, method: str) -> Result:
    """Run here: what the process that `run` starts does."""
    import torch

    import multipoles as mp
    from fmm.validation import peak_memory
    from gnn.model import AMP
    from gnn.operators import evaluators
    from gnn.options import LongRange

    torch.set_num_threads(mp.get_num_threads())
    torch.manual_seed(0)
    model = AMP(long_range=LongRange(), method=method)
    plans = []
    made = evaluators.FMM
    evaluators.FMM = lambda *a, **k: plans.append(0) or made(*a, **k)  # type: ignore[misc]
    # compiles: the loops of all orders and of both numbers of channels
    model.evaluate([system(min(n, 3000))])
    plans.clear()
    whole = system(n)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        (result,) = model.evaluate([whole])
        times.append(time.perf_counter() - start)
    force = float(np.sqrt((result["mm_forces"] ** 2).sum(1).mean()))
    count = len(plans) // len(times)
    return Result(
        n, method, times[0], min(times[1:]), peak_memory(), count, result["energy"], force
    )


def run(n: int, method: str, threads: int) -> Result:
    """Measure in a fresh process."""
    # waiting threads do not keep others from working
    environment = {"NUMBA_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return Result(*run_alone(__file__, [n, method], threads, **environment))


def show(r: Result) -> None:
    print(
        f"{r.n:>9}  {r.method:<8}{r.first:>9.3f}{r.again:>9.3f}{1e6 * r.again / r.n:>11.2f}"
        f"{r.memory / 1e9:>11.2f}{r.plans:>7}{r.energy:>14.5f}{r.force:>12.4e}",
        flush=True,
    )


def judge(results: list[Result]) -> None:
    """Print how time grows and whether a million charges keep to time and memory."""
    for method in METHODS:
        mine = [r for r in results if r.method == method and r.n >= 30_000]
        if len(mine) > 1:
            n, seconds = (np.log([getattr(r, name) for r in mine]) for name in ("n", "again"))
            print(f"{method}: seconds grow as N^{np.polyfit(n, seconds, 1)[0]:.2f} from 30000 on")
    for r in results:
        if r.n == 1_000_000:
            verdict = "met" if r.again <= TIME_AIM and r.memory <= MEMORY_AIM else "MISSED"
            print(
                f"{r.method}, a million charges: {r.again:.2f} s, {r.memory / 1e9:.2f} GB "
                f"(aim ≤ {TIME_AIM:g} s, ≤ {MEMORY_AIM / 1e9:g} GB: {verdict})"
            )


def plot(results: list[Result], threads: int) -> None:
    if (plt := pyplot()) is None:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    colours = dict(zip(METHODS, ("0.45", "#c8553d", "#1b6ca8"), strict=True))
    for method, colour in colours.items():
        mine = [r for r in results if r.method == method]
        n = [r.n for r in mine]
        style = {"color": colour, "label": method, "ms": 4}
        left.loglog(n, [r.again for r in mine], "o-", **style)
        right.loglog(n, [r.memory / 1e9 for r in mine], "o-", **style)
    left.plot(1e6, TIME_AIM, "k*", ms=9, label="aim")
    right.plot(1e6, MEMORY_AIM / 1e9, "k*", ms=9, label="aim")
    left.set(xlabel="surrounding charges", ylabel="seconds: energy and all forces")
    right.set(xlabel="surrounding charges", ylabel="most memory of the process, GB")
    left.set_title(f"{ATOMS} atoms in N charges, {threads} thread(s)", fontsize=10)
    write_scaling("surroundings_scaling", figure, (left, right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max", type=int, default=1_000_000, help="most charges")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    print(f"{ATOMS} atoms, {options.threads} thread(s)")
    print(
        f"{'charges':>9}  {'method':<8}{'first s':>9}{'again s':>9}{'µs/charge':>11}"
        f"{'memory GB':>11}{'trees':>7}{'energy eV':>14}{'force eV/Å':>12}"
    )
    results = []
    for n in (n for n in SIZES if n <= options.max):
        for method in METHODS:
            results.append(run(n, method, options.threads))
            show(results[-1])
        write_table(
            "surroundings_scaling", Result._fields, results
        )  # what a run that is stopped leaves
    judge(results)
    plot(results, options.threads)


if __name__ == "__main__":
    main()
