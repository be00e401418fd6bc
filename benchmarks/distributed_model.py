"""What ranks of the fast multipole method send, counted and predicted; and a billion points.

    python benchmarks/distributed_model.py [--quick] [--no-mpi] [--again]

Charges that fill a cube evenly, to potential and gradient at 1e-6. Ranks that are threads of this
process count bytes and messages of 2 to 64 ranks; ranks of MPI on this machine, if mpi4py and an MPI
are installed, take the time of 1, 2 and 4. Beside each stands what `fmm.distributed.model` predicts,
which knows neither; then what it predicts for a million points on each of many ranks. Prints tables;
writes results/distributed_model.csv (counted), results/distributed_time.csv (seconds) and
results/distributed_model.png.
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
from _output import THREADS, pyplot, read_table, write_picture, write_table

TOLERANCE = 1e-6
# points of each rank, and of all ranks together
EACH, ALL = 20_000, 1_000_000
RANKS = (2, 4, 8, 16, 32, 64)
# points of each rank that are timed, and of those of a cluster
TIMED, LARGE = 200_000, 1_000_000
CLUSTER = (1, 8, 27, 64, 125, 216, 512, 1000)
QUANTITIES = ("ghosts", "boxes", "messages", "MB", "top", "MB summed")
# ranks that share two cores take turns
CORES = os.cpu_count() or 1


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


def timed(ranks: int, n: int, weak: bool) -> dict[str, Any] | None:
    """Return a run of ``python -m fmm.distributed bench``; None where there is no MPI."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        command = [launcher, "-n", str(ranks), sys.executable, "-m", "fmm.distributed", "bench"]
        command += ["--n", str(n), "--json", str(path), *(["--weak"] if weak else [])]
        done = subprocess.run(command, env=os.environ | dict.fromkeys(THREADS, "1"), check=False)
        return json.loads(path.read_text())[0] if done.returncode == 0 else None


def times(quick: bool) -> list[dict[str, Any]]:
    """Return seconds of fields on ranks of MPI, beside those that one rank's foretell."""
    from fmm.distributed.model import Network, predict

    each, rows = (50_000 if quick else TIMED), []
    for weak in (True, False):
        per_point = 0.0
        for ranks in (1, 2, 4):
            run = timed(ranks, each if weak else 2 * each, weak)
            if run is None:
                print("no times: expected mpi4py and an MPI")
                return rows
            per_point = per_point or run["again"] / run["n"]
            expected = predict(run["n"], ranks, TOLERANCE)
            turns = max(1.0, ranks / CORES)
            seconds = expected.seconds(Network(), per_point * turns)
            run |= {"predicted": seconds, "predicted_bytes": float(np.mean(
                expected.moments + expected.expansions + expected.dealt))}  # fmt: skip
            rows.append(run)
    return rows


def cluster(per_point: float) -> list[tuple[int, Any]]:
    """Return predictions for a million points on each of many ranks."""
    from fmm.distributed.model import predict

    return [(ranks, predict(LARGE * ranks, ranks, TOLERANCE)) for ranks in CLUSTER]


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'ranks':>6}{'points':>9}  {'':<10}{'mean':>10}{'predicted':>11}{'most':>10}{'predicted':>11}")
    for row in rows:
        print(
            f"{row['ranks']:>6.0f}{row['n']:>9.0f}  {row['quantity']:<10}{row['mean']:>10.4g}"
            f"{row['predicted']:>11.4g}{row['most']:>10.4g}{row['predicted_most']:>11.4g}"
        )


def plot(rows: list[dict[str, Any]], runs: list[dict[str, Any]], large: list, per_point: float) -> None:
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
            mine = [r for r in rows if r["quantity"] == quantity and (r["n"] == EACH * r["ranks"]) == weak]
            x = [r["ranks"] for r in mine]
            name = f"{EACH:,} points each" if weak else f"{ALL:,} points in all"
            axis.loglog(x, [r["predicted"] for r in mine], "-", color=colours[weak],
                        label=f"{name}, predicted")  # fmt: skip
            axis.loglog(x, [r["predicted_most"] for r in mine], ":", color=colours[weak], lw=1)
            axis.loglog(x, [r["mean"] for r in mine], "o", color=colours[weak], label="counted, mean")
            axis.loglog(x, [r["most"] for r in mine], "^", color=colours[weak], mfc="none", ms=5,
                        label="counted, most")  # fmt: skip
        axis.set(xlabel="ranks", ylabel=label)
    last = axes[2]
    seconds = [p.seconds(Network(), per_point) for _, p in large]
    last.semilogx([r for r, _ in large], [s / seconds[0] for s in seconds], "-", color="0.3",
                  label="predicted, 1,000,000 points each")  # fmt: skip
    for run_kind in (True, False):
        mine = [r for r in runs if r["weak"] == run_kind and r["ranks"] <= CORES]
        if mine:
            scale = [1.0 if run_kind else r["ranks"] for r in mine]
            y = [r["again"] * s / mine[0]["again"] for r, s in zip(mine, scale, strict=True)]
            name = f"{mine[0]['n'] // 1000},000 points {'each' if run_kind else 'in all'}, MPI"
            last.semilogx([r["ranks"] for r in mine], y, "o", color=colours[run_kind], label=name)
    last.set(xlabel="ranks", ylabel="time of a point and rank, that of one rank = 1", ylim=(0, 1.5))
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
                f"{run['ranks']} ranks, {run['n']} points: {run['again']:.3f} s, predicted "
                f"{run['predicted']:.3f}; {run['n_bytes'] / 1e6:.3g} MB, predicted "
                f"{run['predicted_bytes'] / 1e6:.3g}; {run['memory']:.0f} bytes a point"
            )
    per_point = runs[0]["again"] / runs[0]["n"] if runs else 2e-6
    large = cluster(per_point)
    print(details(large[-1][1], Network(), per_point))
    for name, network in (("ten times the latency", Network(15e-6)),
                          ("a tenth of the bandwidth", Network(1.5e-6, 1.2e9))):  # fmt: skip
        busy = large[-1][1].busy(per_point).mean()
        print(f"{name}: efficiency {busy / large[-1][1].seconds(network, per_point):.3f}")
    plot(rows, runs, large, per_point)


if __name__ == "__main__":
    main()
