"""Who is faster in a cell: Ewald sums or the mesh, over numbers of points and tolerances.

    python benchmarks/periodic_map.py [--repeats 5]

Liquids of charges (a lattice whose points are moved by a fifth of their distance) in a cube, on one
thread: seconds of the processor for one field with gradient, pairs found anew, both asked for the
same tolerance.
Prints a table; writes results/periodic_map.csv and results/periodic_map.png beside this file.
"""

import argparse
import time

import numpy as np
from _output import pyplot, write_picture, write_table

import fmm
import multipoles as mp

SIDES = (3, 4, 5, 7, 10, 14, 20)
TOLERANCES = (1e-3, 1e-6, 1e-9)
COLUMNS = ("n", "tolerance", "ewald", "mesh")


def liquid(side: int) -> np.ndarray:
    """Return points with distances of about one."""
    rng = np.random.default_rng(0)
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return sites + 0.2 * rng.uniform(-1, 1, sites.shape)


def measured(side: int, tolerance: float, repeats: int) -> dict[str, float]:
    """Return the seconds of both, in turn."""
    x = liquid(side)
    charges = np.resize([1.0, -1.0], len(x))
    plans = {
        kind.__name__.lower(): kind(x, None, tolerance, cell=side * np.eye(3))
        for kind in (fmm.Ewald, fmm.Mesh)
    }
    best = dict.fromkeys(plans, np.inf)
    for repeat in range(repeats + 1):
        for name, plan in plans.items():
            start = time.process_time()
            plan.rebuild(x)
            plan.field(charges)
            if repeat:  # the first compiles
                best[name] = min(best[name], time.process_time() - start)
    return {"n": len(x), "tolerance": tolerance, **best}


def plot(rows: list[dict[str, float]]) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axis = plt.subplots(figsize=(5, 3.6), constrained_layout=True)
    for k, tolerance in enumerate(TOLERANCES):
        own = [row for row in rows if row["tolerance"] == tolerance]
        for name, style in (("ewald", "o--"), ("mesh", "s-")):
            times = [1e3 * row[name] for row in own]
            axis.loglog(
                [row["n"] for row in own], times, f"C{k}{style}", label=f"{name}, {tolerance:g}"
            )
    axis.set(xlabel="charges in the cell", ylabel="ms, pairs found anew")
    axis.legend(fontsize=8)
    print(f"written: {write_picture('periodic_map', figure)}")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    mp.set_num_threads(1)
    rows = []
    print(f"{'charges':>8}{'tolerance':>11}{'Ewald, ms':>11}{'mesh, ms':>10}")
    for tolerance in TOLERANCES:
        for side in SIDES:
            if side**3 > 3000 and tolerance < 1e-6:
                continue
            row = measured(side, tolerance, options.repeats)
            times = f"{1e3 * row['ewald']:>11.2f}{1e3 * row['mesh']:>10.2f}"
            print(f"{row['n']:>8}{tolerance:>11.0e}{times}", flush=True)
            rows.append(row)
    print(f"written: {write_table('periodic_map', COLUMNS, rows)}")
    plot(rows)


if __name__ == "__main__":
    main()
