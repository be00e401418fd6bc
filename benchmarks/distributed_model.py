"""What ranks of the fast multipole method send, counted and predicted; and a billion points.

    python benchmarks/distributed_model.py [--quick] [--no-mpi] [--again]

Charges that fill a cube evenly, to potential and gradient at 1e-6. Ranks that are threads of this
process count bytes and messages of 2 to 64 ranks; ranks of MPI on this machine, if mpi4py and an
MPI are installed, take the time of 1 and 2, and as many single ranks at the same time. Beside what
is counted stands what `fmm.distributed.model` predicts, which does not know it; then what it
predicts for a million points on each of many ranks. Prints tables; writes, in results,
distributed_model.csv (counted), distributed_time.csv and distributed_memory.csv (measured),
distributed_cluster.csv (predicted) and distributed_model.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _output import THREADS, label_decades, pyplot, read_table, write_picture, write_table

TOLERANCE = 1e-6
# points of each rank, and of all ranks together
EACH, ALL = 20_000, 1_000_000
RANKS = (2, 4, 8, 16, 32, 64)
# points of each rank that are timed, and of those of a cluster
TIMED, LARGE = 200_000, 1_000_000
ROUNDS = 4
# ranks, and points of each, whose memory is measured
HELD = ((1, 1_000_000), (2, 1_000_000), (8, 1_000_000))
CLUSTER = (1, 8, 27, 64, 125, 216, 512, 1000)
QUANTITIES = ("ghosts", "boxes", "messages", "MB", "top", "MB summed")


def counted(n: int, ranks: int) -> list[dict[str, Any]]:
    """Return what each quantity is, counted on ranks that are threads, and predicted."""
    from fmm.distributed import FMM, threads
    from fmm.distributed.model import predict

    def work(mine: threads.ThreadRanks) -> tuple[Any, int, int]:
        rng = np.random.default_rng(mine.rank)
        points, charges = rng.random((n // ranks, 3)), rng.standard_normal((n // ranks, 1))
        plan = FMM(points, None, TOLERANCE, comm=mine)
        plan.field(charges)
        plan.field(charges)
        geometry: Any = plan._layout.geometry
        return plan.report(), int(geometry.box_link.received.sum()), len(geometry.merged.top)

    reports, boxes, top = zip(*threads.run(ranks, work), strict=True)
    expected = predict(n, ranks, TOLERANCE)
    print(
        f"{ranks} ranks, {n} points: tree from {reports[0].root_grid} boxes along an axis in "
        f"{reports[0].n_levels} levels (predicted {expected.grid.root}, {expected.grid.depth + 1}),"
        f" degree {max(reports[0].degrees)} ({expected.work.degree}), "
        f"{reports[0].traffic.reductions} reductions",
        flush=True,
    )
    found = {
        "ghosts": [r.owned[2] for r in reports], "boxes": list(boxes),
        "messages": [r.traffic.messages for r in reports],
        "MB": [r.traffic.bytes / 1e6 for r in reports], "top": list(top),
        "MB summed": [r.traffic.reduced_bytes / 1e6 for r in reports],
    }  # fmt: skip
    theory = {
        "ghosts": expected.ghosts, "boxes": expected.boxes.sum(axis=1),
        "messages": expected.messages, "top": np.array([expected.top]),
        "MB": (expected.moments + expected.expansions + expected.dealt) / 1e6,
        "MB summed": np.array([expected.summed]) / 1e6,
    }  # fmt: skip
    return [
        {
            "ranks": ranks, "n": n, "quantity": name, "mean": float(np.mean(found[name])),
            "most": float(np.max(found[name])), "predicted": float(np.mean(theory[name])),
            "predicted_most": float(np.max(theory[name])),
        }
        for name in QUANTITIES
    ]  # fmt: skip


def _bench(*words: str) -> list[str]:
    return [sys.executable, "-m", "fmm.distributed", "bench", "--repeats", "5", *words]


def timed(ranks: int, n: int, weak: bool, apart: bool = False) -> dict[str, Any] | None:
    """Return a run of ``python -m fmm.distributed bench``; None where there is no MPI.

    If `apart`, as many processes at the same time that know nothing of each other, and sum their
    own points each: what the machine gives, without a message.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.json" for k in range(ranks if apart else 1)]
        kind = ["--n", str(n), *(["--weak"] if weak else [])]
        commands = [_bench(*kind, "--json", str(path)) for path in paths]
        if not apart:
            commands = [[launcher, "-n", str(ranks), *commands[0]]]
        environment = os.environ | dict.fromkeys(THREADS, "1")
        started = [
            subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL) for c in commands
        ]
        if any([process.wait() for process in started]):
            return None
        found = [json.loads(path.read_text())[0] for path in paths]
        return max(found, key=lambda run: run["again"])


def times(quick: bool) -> list[dict[str, Any]]:
    """Return the least seconds of fields on ranks of MPI, and of as many single ranks at once."""
    from fmm.distributed.model import predict

    each, best = (50_000 if quick else TIMED), {}
    # in turns: what else the machine does changes from minute to minute
    for _ in range(1 if quick else ROUNDS):
        for ranks in (1, 2):
            for apart in (False, True):
                run = timed(ranks, each, True, apart)
                if run is None:
                    print("no times: expected mpi4py and an MPI")
                    return []
                before = best.get((ranks, apart))
                if before is None or run["again"] < before["again"]:
                    best[ranks, apart] = run
    rows = []
    for ranks in (1, 2):
        run, alone = best[ranks, False], best[ranks, True]
        expected = predict(run["n"], ranks, TOLERANCE)
        sent = float(np.mean(expected.moments + expected.expansions + expected.dealt))
        rows.append(run | {"apart": alone["again"], "predicted_bytes": sent})
    return rows


def memory(given: tuple[tuple[int, int], ...] = HELD) -> None:
    """Write what points take of memory: ranks, and points of each."""
    runs = [run for ranks, each in given if (run := timed(ranks, each, True)) is not None]
    if runs:
        write_table("distributed_memory", ("ranks", "n", "memory_plan", "memory"), runs)


def cluster(per_point: float) -> list[tuple[int, Any]]:
    """Return predictions for a million points on each of many ranks, and write them."""
    from fmm.distributed.model import Network, predict

    found = [(ranks, predict(LARGE * ranks, ranks, TOLERANCE)) for ranks in CLUSTER]
    networks = {
        "fast": Network(),
        "latency x 10": Network(15e-6),
        "bandwidth / 10": Network(1.5e-6, 1.2e9),
    }
    rows = []
    for ranks, expected in found:
        for name, network in networks.items():
            busy, seconds = expected.busy(per_point), expected.seconds(network, per_point)
            sent = (expected.moments + expected.expansions) / 1e6
            rows.append((
                ranks, expected.n, name, expected.ghosts.mean(), expected.boxes.sum(axis=1).mean(),
                expected.neighbours.sum(axis=1).max(), expected.messages.mean(), sent.mean(),
                expected.dealt.mean() / 1e6, expected.top, expected.summed / 1e6, seconds,
                busy.mean() / seconds,
            ))  # fmt: skip
    columns = (
        "ranks", "n", "network", "ghosts", "boxes", "messages_to_neighbours", "messages",
        "MB_neighbours", "MB_callers", "top", "MB_summed", "seconds", "efficiency",
    )  # fmt: skip
    write_table("distributed_cluster", columns, rows)
    return found


def show(rows: list[dict[str, Any]]) -> None:
    columns = f"{'mean':>10}{'predicted':>11}{'most':>10}{'predicted':>11}"
    print(f"{'ranks':>6}{'points':>9}  {'':<10}{columns}")
    for row in rows:
        print(
            f"{row['ranks']:>6.0f}{row['n']:>9.0f}  {row['quantity']:<10}{row['mean']:>10.4g}"
            f"{row['predicted']:>11.4g}{row['most']:>10.4g}{row['predicted_most']:>11.4g}"
        )


def plot(
    rows: list[dict[str, Any]], runs: list[dict[str, Any]], large: list[Any], per_point: float
) -> None:
    from fmm.distributed.model import Network

    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    colours = {True: "#1b6ca8", False: "#c8553d"}
    for axis, quantity, label in zip(
        axes, ("MB", "messages"), ("MB sent by a rank in a field", "messages of a rank in a field"),
        strict=False,
    ):  # fmt: skip
        for weak in (True, False):
            mine = [
                r
                for r in rows
                if r["quantity"] == quantity and (r["n"] == EACH * r["ranks"]) == weak
            ]
            x = [r["ranks"] for r in mine]
            name = f"{EACH:,} points each" if weak else f"{ALL:,} points in all"
            axis.loglog(x, [r["predicted"] for r in mine], "-", color=colours[weak],
                        label=f"{name}, predicted")  # fmt: skip
            axis.loglog(x, [r["predicted_most"] for r in mine], ":", color=colours[weak], lw=1)
            axis.loglog(x, [r["mean"] for r in mine], "o", color=colours[weak])
            axis.loglog(x, [r["most"] for r in mine], "^", color=colours[weak], mfc="none", ms=5)
        axis.plot([], [], "o", color="0.3", label="counted, mean of ranks")
        axis.plot([], [], "^:", color="0.3", mfc="none", ms=5, lw=1, label="… and rank with most")
        axis.set(xlabel="ranks", ylabel=label)
        axis.set_xticks(RANKS, [str(n) for n in RANKS])
        axis.minorticks_off()
        label_decades(axis)
    last = axes[2]
    for network, style in ((Network(), "-"), (Network(15e-6, 1.2e9), "--")):
        y = [p.seconds(network, per_point) / p.busy(per_point).mean() for _, p in large]
        label = f"predicted, {LARGE:,} points each, {1e6 * network.latency:g} µs, "
        last.semilogx([r for r, _ in large], y, style, color="0.3",
                      label=label + f"{network.bandwidth / 1e9:g} GB/s")  # fmt: skip
    if runs:
        y = [r["again"] / r["apart"] for r in runs]
        label = f"measured, {TIMED:,} points each"
        last.semilogx([r["ranks"] for r in runs], y, "o", color=colours[True], label=label)
    last.set(xlabel="ranks", ylabel="seconds of a field, without messages = 1", ylim=(0, 1.6))
    last.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    for axis in axes:
        axis.grid(alpha=0.35, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    print(f"written: {write_picture('distributed_model', figure)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer ranks and points")
    parser.add_argument("--no-mpi", action="store_true", help="count only")
    parser.add_argument("--again", action="store_true", help="keep what was counted; time only")
    options = parser.parse_args()
    from fmm.distributed.model import Network, details

    rows: list[dict[str, Any]] = []
    columns = ("ranks", "n", "quantity", "mean", "most", "predicted", "predicted_most")
    if options.again:
        rows = [{k: v if k == "quantity" else float(v) for k, v in row.items()}
                for row in read_table("distributed_model")]  # fmt: skip
    for ranks in () if options.again else RANKS[:3] if options.quick else RANKS:
        for n in (EACH * ranks, ALL):
            if not (options.quick and n == ALL):
                rows += counted(n, ranks)
                write_table("distributed_model", columns, rows)
    show(rows)
    runs = [] if options.no_mpi else times(options.quick)
    if runs:
        write_table("distributed_time", tuple(runs[0]), runs)
        for run in runs:
            print(
                f"{run['ranks']} ranks, {run['n']} points: {run['again']:.3f} s, without messages "
                f"{run['apart']:.3f}; {run['n_bytes'] / 1e6:.3g} MB, predicted "
                f"{run['predicted_bytes'] / 1e6:.3g}"
            )
        memory()
    # with all cores busy
    per_point = max((run["apart"] / (run["n"] / run["ranks"]) for run in runs), default=2e-6)
    large = cluster(per_point)
    print(details(large[-1][1], Network(), per_point))
    plot(rows, runs, large, per_point)


if __name__ == "__main__":
    main()
