"""Times of periodic sums at a measured error: what ``python -m fmm bench --periodic`` runs."""

import csv
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import multipoles as mp
from fmm.bench import results_folder
from fmm.method import FMM
from fmm.planning import plan
from fmm.validation import peak_memory
from multipoles import indexing
from multipoles.files import atomic_write

_DENSITY = 0.1  # charges per Å³, as in water
# times the bound: what to ask for so that the measured error just keeps it
_LADDER = tuple(900 * 0.77**k for k in range(32))
_SAMPLE = 300


class Row(NamedTuple):
    """A line of the table: how many points, which moments, to which error of the forces."""

    n: int
    source_order: int
    bound: float
    target: float
    """s, pairs found anew; zero for none."""


METHODS = ("fmm", "mesh")
# of the time without a cell, what the fast multipole method may take in one
_IN_A_CELL = 1.15
ROWS = (
    Row(10_000, 0, 1e-4, 0.015),
    Row(10_000, 0, 1e-6, 0.028),
    Row(10_000, 0, 1e-9, 0.060),
    Row(100_000, 0, 1e-4, 0.170),
    Row(100_000, 0, 1e-6, 0.300),
    Row(100_000, 0, 1e-9, 0.650),
    Row(10_000, 2, 1e-4, 0.060),
    Row(1_000_000, 0, 1e-4, 0.0),
)


class Measurement(NamedTuple):
    """What a sum needed: with pairs found anew, and on the same points again."""

    case: str
    n: int
    bound: float
    asked: float
    error: float
    seconds: float
    again: float
    target: float
    memory: float
    method: str


class Problem:
    """Random points in a cube, neutral moments, and the exact forces of some of them.

    `apart` puts points near random sites of a lattice: no two come close.
    """

    def __init__(self, n: int, source_order: int, apart: bool = False) -> None:
        rng = np.random.default_rng(1)
        edge = (n / _DENSITY) ** (1 / 3)
        self.cell = edge * np.eye(3)
        self.points = edge * (_apart(n, rng) if apart else rng.random((n, 3)))
        self.moments = rng.standard_normal((n, indexing.n_components(source_order)))
        self.moments[:, 0] -= self.moments[:, 0].mean()
        self.source_order = source_order
        self.places = np.sort(rng.choice(n, min(n, _SAMPLE), replace=False))
        exact = mp.field(
            self.points[self.places], self.points, self.moments, source_order + 1,
            cell=self.cell, tolerance=1e-12,
        )  # fmt: skip
        raised = indexing.sum_index(source_order, 1)[:, 1:]
        own = self.moments[self.places]
        self.exact = -np.einsum("ik,ika->ia", own, exact[:, raised])

    def plan(self, tolerance: float, method: str = "auto") -> Any:
        """Return a plan that has seen the moments, and what its later evaluations are like."""
        order = self.source_order
        given = self.points, None, tolerance, order, order + 1
        made: Any = plan(*given, cell=self.cell, method=method)
        for _ in range(2):
            self.sums(made)
            made.rebuild(self.points)
        return made

    def sums(self, plan: Any) -> tuple[Any, ...]:
        """Return energy, forces and gradients by the moments, and torques where there are any."""
        found = plan.energy_forces(self.moments)
        return (*found, mp.torques(self.moments, found[2])) if self.source_order else found

    def error(self, forces: np.ndarray) -> float:
        """Return the relative L2 error of the forces."""
        apart = forces[self.places] - self.exact
        return float(np.linalg.norm(apart) / np.linalg.norm(self.exact))


def _apart(n: int, rng: np.random.Generator) -> np.ndarray:
    side = int(np.ceil(n ** (1 / 3)))
    sites = rng.permutation(side**3)[:n]
    lattice = np.stack(np.unravel_index(sites, (side,) * 3), axis=1)
    return (lattice + 0.2 * rng.uniform(-1, 1, (n, 3))) / side


class SmallSystems:
    """64 cubes of 96 random charges each, neutral, and the exact forces of all."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        edge, n = (96 / _DENSITY) ** (1 / 3), 64 * 96
        self.points, self.moments = edge * rng.random((n, 3)), rng.standard_normal((n, 1))
        self.moments -= self.moments.reshape(64, 96, 1).mean(axis=1).repeat(96, axis=0)
        self.batch, self.cells = np.repeat(np.arange(64), 96), np.tile(edge * np.eye(3), (64, 1, 1))
        self.exact = self.sums(None)[1]

    def sums(self, tolerance: float | None) -> Any:
        """Return energies, forces and gradients by Ewald sums."""
        given: dict[str, Any] = {"batch": self.batch, "cell": self.cells, "tolerance": tolerance}
        return mp.energy_forces(self.points, self.moments, **given)

    def error(self, forces: np.ndarray) -> float:
        """Return the relative L2 error of the forces."""
        return float(np.linalg.norm(forces - self.exact) / np.linalg.norm(self.exact))


def loosest(bound: float, error_of: Callable[[float], float]) -> tuple[float, float]:
    """Return what to ask for so that the measured error just keeps the bound, and that error."""
    asked = error = 0.0
    for factor in _LADDER:
        if (asked := factor * bound) < 0.1:
            error = error_of(asked)
            if error <= bound:
                break
    return asked, error


def main(quick: bool = False, csv_path: Path | None = None) -> None:
    """Print the table, and write what was measured.

    Parameters
    ----------
    quick : bool
        Up to 10 000 points, fewer repeats.
    csv_path : Path, optional
        Default ``fmm_periodic.csv`` in the results of a checkout, else right here.
    """
    print(
        "one thread; random points at 0.1/Å³ in a cube; s: pairs found anew, energy and forces\n"
        f"{'':<46}{'error ≤':>9}{'error':>9}{'asked':>9}{'s':>9}{'again':>9}{'target':>16}"
    )
    measured = []
    repeats = 2 if quick else 5
    for row in ROWS:
        if not quick or row.n <= 10_000:
            measured += [_measured(row, method, repeats) for method in METHODS]
    measured.append(_beside_free_space(10_000 if quick else 100_000, repeats))
    measured.append(_small_systems(repeats))
    save(csv_path or results_folder() / "fmm_periodic.csv", measured)


def _measured(row: Row, method: str, repeats: int) -> Measurement:
    problem = Problem(row.n, row.source_order)
    asked, error = loosest(
        row.bound, lambda asked: problem.error(problem.sums(problem.plan(asked, method))[1])
    )
    made = problem.plan(asked, method)
    problem.sums(made)

    def anew() -> None:
        made.rebuild(problem.points)
        problem.sums(made)

    what = ("charges", "… and dipoles", "… and quadrupoles, torques too")[row.source_order]
    again = least(lambda: problem.sums(made), repeats)
    found = Measurement(
        f"{row.n} {what}", row.n, row.bound, asked, error, least(anew, repeats), again, row.target,
        peak_memory() / 1e9, method,
    )  # fmt: skip
    print(_line(found), flush=True)
    return found


def _beside_free_space(n: int, repeats: int) -> Measurement:
    """Measure the fast multipole method in a cell, and of the same points in free space."""
    problem, tolerance = Problem(n, 0), 1e-6
    plans = FMM(problem.points, tolerance=tolerance), problem.plan(tolerance, "fmm")
    best, again = np.full(2, np.inf), np.full(2, np.inf)
    for repeat in range(repeats + 2):
        for k, made in enumerate(plans):
            start = perf_counter()
            made.rebuild(problem.points)
            moved = perf_counter()
            problem.sums(made)
            end = perf_counter()
            if repeat > 1:
                best[k], again[k] = min(best[k], end - start), min(again[k], end - moved)
    error = problem.error(problem.sums(plans[1])[1])
    found = Measurement(
        f"{n} charges; free space: {1e3 * best[0]:.1f} ms", n, tolerance, tolerance, error, best[1],
        again[1], _IN_A_CELL * best[0], peak_memory() / 1e9, "fmm",
    )  # fmt: skip
    print(_line(found), flush=True)
    return found


def _small_systems(repeats: int) -> Measurement:
    """Measure 64 cells of 96 charges each, by Ewald sums."""
    cells, bound = SmallSystems(), 1e-6
    asked, error = loosest(bound, lambda asked: cells.error(cells.sums(asked)[1]))
    seconds = least(lambda: cells.sums(asked), repeats)
    found = Measurement(
        "64 cells of 96 charges (Ewald)",
        len(cells.points),
        bound,
        asked,
        error,
        seconds,
        seconds,
        0.030,
        peak_memory() / 1e9,
        "ewald",
    )
    print(_line(found), flush=True)
    return found


def least(run: Callable[[], Any], repeats: int, clock: Callable[[], float] = perf_counter) -> float:
    """Return the least seconds of several runs."""
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def _line(found: Measurement) -> str:
    aim = ""
    if found.target:
        aim = f"≤ {found.target:.3f} {'met' if found.seconds <= found.target else 'MISSED'}"
    return (
        f"{found.case:<40}{found.method:<6}{found.bound:>9.0e}{found.error:>9.1e}{found.asked:>9.1e}"
        f"{found.seconds:>9.4f}{found.again:>9.4f}{aim:>16}"
    )


def save(path: Path, measured: list[Measurement]) -> None:
    """Write what was measured."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Measurement._fields)
        writer.writerows(measured)
    print(f"written: {path}")
