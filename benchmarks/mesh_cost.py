"""What a mesh needs in time and memory, and how much of its time it measures its error.

    python benchmarks/mesh_cost.py [--repeats 5]

Random charges at 0.1 per Å³ in a cube, plan, field and forces on one thread, every line in a
process of its own: processor seconds of the first evaluation with its plan, and of a later one with
pairs found anew, as in a step of dynamics; the share of both that goes into the measurement; and
the most memory that the process held. Prints a table; writes results/mesh_cost.csv.
"""

import argparse
import json
import time

import numpy as np
from _output import run_alone, write_table

import fmm
import multipoles as mp
from fmm.mesh import mesh
from fmm.validation import peak_memory

SIZES = (1_000, 10_000, 100_000, 1_000_000)
TOLERANCES = (1e-4, 1e-6, 1e-9)
COLUMNS = ("n", "tolerance", "first", "first_share", "later", "later_share", "memory", "error")
_DENSITY = 0.1


def measured(n: int, tolerance: float, repeats: int) -> list[float]:
    """Return a row of the table."""
    mp.set_num_threads(1)
    seconds = _Measurement()
    mesh.judged = seconds.of(mesh.judged)
    rng = np.random.default_rng(0)
    edge = (n / _DENSITY) ** (1 / 3)
    points, charges = edge * rng.random((n, 3)), rng.standard_normal(n)
    charges -= charges.mean()

    def made() -> fmm.Mesh:
        plan = fmm.Mesh(points, None, tolerance, cell=edge * np.eye(3))
        plan.energy_forces(charges)
        return plan

    if n < 1_000_000:
        made()  # compiles
    first, first_share, plan = seconds.during(made)
    memory, later = peak_memory(), (np.inf, 0.0)
    for _ in range(repeats):
        moved = points + 1e-3 * rng.standard_normal(points.shape)

        def step(moved: np.ndarray = moved) -> None:
            plan.rebuild(moved)
            plan.energy_forces(charges)

        later = min(later, seconds.during(step)[:2])
    return [first, first_share, *later, memory, float(plan.report().bounds.max())]


class _Measurement:
    """Processor seconds of a function, and which share of them another one took."""

    def __init__(self) -> None:
        self.spent = 0.0

    def of(self, function):
        def timed(*given):
            start = time.process_time()
            found = function(*given)
            self.spent += time.process_time() - start
            return found

        return timed

    def during(self, function) -> tuple:
        start, self.spent = time.process_time(), 0.0
        found = function()
        whole = time.process_time() - start
        return whole, self.spent / whole, found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(*json.loads(options.one))))
        return
    print(
        f"{'charges':>9}{'tolerance':>11}{'first, ms':>11}{'share':>7}{'later, ms':>11}{'share':>7}"
        f"{'memory, MB':>12}{'error':>9}"
    )
    rows = []
    for n in SIZES:
        for tolerance in TOLERANCES:
            found = run_alone(__file__, (n, tolerance, options.repeats), 1)
            first, first_share, later, later_share, memory, error = found
            rows.append((n, tolerance, *found))
            print(
                f"{n:>9}{tolerance:>11.0e}{1e3 * first:>11.1f}{first_share:>7.1%}"
                f"{1e3 * later:>11.1f}{later_share:>7.1%}{memory / 1e6:>12.0f}{error:>9.1e}",
                flush=True,
            )
    print(f"written: {write_table('mesh_cost', COLUMNS, rows)}")


if __name__ == "__main__":
    main()
