"""Periodic sums beside other programs, at equal measured error of the forces, one thread each.

    python benchmarks/periodic_peers.py [--python PATH] [--programs helpme,OpenMM] [--quick]

Random charges at 0.1/Å³ in a cube to energy and forces; charges, dipoles and quadrupoles near sites
of a lattice to energy, forces and torques (random ones come so close that a few pairs are all of
the error); 64 cells of 96 charges. The parameters of each program (radius, order, grid) are
scanned for the least time at which the forces of a sample keep the error, held against Ewald's sum.
Ours is asked for the tolerance that just keeps it, and timed before and after each of the others.
Times are those of the processor, for energy and forces, with pairs found anew, and without where a
program keeps them: whoever used a second thread would be charged for it, and other processes count
for little.

Others are imported by the interpreter PATH (default: $PERIODIC_PEERS_PYTHON, else this one); what
it lacks is left out. It needs NumPy and SciPy, and for helPME, which sums waves only, Numba: near
pairs are summed by benchmarks/_pair_loop.py. Prints a table, writes results/periodic_peers.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from _output import THREADS, write_table
from _peers import CELLS, CHARGES, MULTIPOLES

import multipoles as mp
from fmm.bench_periodic import Problem, SmallSystems, least, loosest

WORKER = Path(__file__).with_name("_periodic_worker.py")
COLUMNS = (
    "case", "bound", "program", "version", "error", "ms", "ms_with_lists", "ours_ms",
    "ours_ms_with_lists", "setting",
)  # fmt: skip


class Ours(NamedTuple):
    """What is timed of ours: sums with pairs found anew, and on the same points again."""

    error: float
    anew: Callable[[], Any]
    again: Callable[[], Any]

    def times(self, repeats: int) -> np.ndarray:
        """Return the least seconds of both, in turn."""
        turns = range(repeats)
        return np.min([[least(run, 1, process_time) for run in self[1:]] for _ in turns], axis=0)


class Race:
    """One problem: given to the others in a file, and summed by us to an error."""

    def __init__(self, case: str, problem: Problem | SmallSystems, folder: Path) -> None:
        self.case, self.problem = case, problem
        self.file = folder / f"{case}.npz"
        many = isinstance(problem, SmallSystems)
        np.savez(
            self.file, points=problem.points, moments=problem.moments, exact=problem.exact,
            edge=(problem.cells[0] if many else problem.cell)[0, 0],
            places=np.arange(len(problem.points)) if many else problem.places,
            cells=len(problem.cells) if many else 1,
        )  # fmt: skip

    def ours(self, bound: float) -> Ours:
        """Ask for what just keeps the bound."""
        problem = self.problem
        if isinstance(problem, SmallSystems):
            asked, error = loosest(bound, lambda asked: problem.error(problem.sums(asked)[1]))
            return Ours(error, lambda: problem.sums(asked), lambda: problem.sums(asked))
        asked, error = loosest(
            bound, lambda asked: problem.error(problem.sums(problem.plan(asked))[1])
        )
        plan = problem.plan(asked)
        problem.sums(plan)

        def anew() -> None:
            plan.rebuild(problem.points)
            problem.sums(plan)

        return Ours(error, anew, lambda: problem.sums(plan))

    def theirs(self, python: str, given: dict[str, Any]) -> dict[str, Any]:
        """Let another interpreter measure a program."""
        done = subprocess.run(
            [python, str(WORKER), str(self.file), json.dumps(given)],
            stdout=subprocess.PIPE, text=True, check=False,
            env=os.environ | dict.fromkeys((*THREADS, "NUMBA_NUM_THREADS"), "1"),
        )  # fmt: skip
        if done.returncode:
            return {"missing": "failed"}
        return json.loads(done.stdout.splitlines()[-1])


def rows(race: Race, bound: float, programs: list[str], options: Any, hints: dict) -> Iterator:
    """Measure ours and the others in turn; yield rows of the table."""
    ours = race.ours(bound)
    repeats = 2 if options.quick else 7
    ours.times(1)
    least_of_ours, found = ours.times(repeats), {}
    for program in programs:
        given = {"program": program, "bound": bound, "repeats": repeats}
        # what kept the error for fewer points with moments of the same orders
        key = program, bound, race.problem.moments.shape[1]
        given["hints"] = hints.get(key, [])
        one = race.theirs(options.python, given)
        if "missing" in one:
            print(f"  {program}: {one['missing']}", flush=True)
            continue
        hints[key] = one["hints"]
        found[program] = one
        least_of_ours = np.minimum(least_of_ours, ours.times(repeats))
    anew, again = 1e3 * least_of_ours
    print(f"{race.case:<42}{bound:>6.0e}{'ours':>40}{ours.error:>9.1e}{again:>9.2f}{anew:>9.2f}")
    yield race.case, bound, "ours", "", ours.error, again, anew, again, anew, ""
    for program, one in found.items():
        times = 1e3 * one["again"], 1e3 * one["anew"]
        print(
            f"{'':<48}{program:>40}{one['error']:>9.1e}{times[0]:>9.2f}{times[1]:>9.2f}"
            f"{times[0] / again:>8.1f}{times[1] / anew:>8.1f}   {one['version']}", flush=True,
        )  # fmt: skip
        setting = "radius {:g}, eta {:.4f}, order {}, grid {}".format(*one["setting"])
        yield race.case, bound, program, one["version"], one["error"], *times, again, anew, setting


def races(quick: bool, folder: Path) -> Iterator[tuple[Race, tuple[float, ...], list[str]]]:
    """Return the problems, the errors, and who takes part."""
    for n in (10_000,) if quick else (10_000, 100_000):
        race = Race(f"{n} charges", Problem(n, 0), folder)
        yield race, (1e-4, 1e-6, 1e-9), list(CHARGES)
    case = "10000 charges, dipoles and quadrupoles"
    yield Race(case, Problem(10_000, 2, apart=True), folder), (1e-4,), list(MULTIPOLES)
    yield Race("64 cells of 96 charges (Ewald)", SmallSystems(), folder), (1e-6,), list(CELLS)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("PERIODIC_PEERS_PYTHON", sys.executable)
    parser.add_argument("--python", default=default, help="interpreter that has the programs")
    parser.add_argument("--programs", default="", help="parts of names, with commas; default all")
    parser.add_argument("--quick", action="store_true", help="10 000 charges, fewer repeats")
    options = parser.parse_args()
    parts = options.programs.split(",")
    mp.set_num_threads(1)
    print(f"{'':<88}{'error':>9}{'ms':>9}{'+ lists':>9}{'ratio':>8}{'ratio':>8}   version")
    table, hints = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for race, bounds, programs in races(options.quick, Path(folder)):
            chosen = [name for name in programs if any(part in name for part in parts)]
            for bound in bounds:
                table += rows(race, bound, chosen, options, hints)
    print(f"written: {write_table('periodic_peers', COLUMNS, table)}")


if __name__ == "__main__":
    main()
