"""Times of plan and evaluation beside fmm3dpy: what ``python -m fmm bench`` runs."""

import csv
import importlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fmm.distributions import cloud, random_moments
from fmm.method import FMM
from fmm.validation import errors, sampled
from multipoles import interactions
from multipoles.files import atomic_write

# times the row's bound: what to ask for so that the measured error just keeps the bound
_LADDER = (100.0, 50.0, 25.0, 12.0, 8.0, 5.0, 3.0, 2.0, 1.4, 1.0, 0.7, 0.4)
# more pairs than this would take minutes
_MOST_DIRECT = 1.1e10


class Row(NamedTuple):
    """A line of the table: which sum, and to which error."""

    name: str
    distribution: str
    source_order: int
    order: int
    judged: slice
    """Output orders whose largest error counts."""
    bound: float
    eps: tuple[float, ...] = ()
    """What fmm3dpy is asked for, the first that keeps the bound, else the last; none: it cannot."""
    seconds: float = 0.0
    """Least aim for 1e5 points; zero for none."""
    ratio: float = 0.0
    """Least aim for the time of fmm3dpy over ours; zero for none."""
    multiple: float = 0.0
    """Most times that the row before may take; zero for none."""


_POTENTIAL, _GRADIENT, _ALL = slice(0, 1), slice(1, 2), slice(None)


def _coarser(bound: float) -> tuple[float, ...]:
    """Return what to ask fmm3dpy for: it is often more accurate than asked."""
    return tuple(bound * factor for factor in (1e4, 1e3, 1e2, 10, 1, 0.1) if bound * factor < 0.5)


_CHARGES = "charges → gradient"
ROWS = (
    Row(_CHARGES, "uniform", 0, 1, _GRADIENT, 1e-3, (1e-3,), seconds=0.18, ratio=7),
    Row(_CHARGES, "uniform", 0, 1, _GRADIENT, 3e-7, (1e-6,), seconds=0.29, ratio=19),
    Row(_CHARGES, "uniform", 0, 1, _GRADIENT, 1e-9, _coarser(1e-9), seconds=0.7),
    Row("… and dipoles → gradient", "uniform", 1, 1, _GRADIENT, 2e-8, _coarser(2e-8), seconds=0.9),
    Row(_CHARGES, "uniform", 0, 1, _GRADIENT, 1e-6, _coarser(1e-6)),
    Row("… quadrupoles → third derivatives", "uniform", 2, 3, _ALL, 1e-6, multiple=3),
    Row("charges on a sphere → potential", "sphere", 0, 1, _POTENTIAL, 1.7e-5, _coarser(1.7e-5)),
    Row("charges on a sphere → potential", "sphere", 0, 1, _POTENTIAL, 2e-8, _coarser(2e-8)),
    Row("charges on a sphere → potential", "sphere", 0, 1, _POTENTIAL, 1e-11, _coarser(1e-11)),
)


class Measurement(NamedTuple):
    """What one program needed; `asked` is the tolerance it was given, `again` a second field."""

    part: str
    case: str
    program: str
    n: int
    asked: float
    error: float
    seconds: float
    again: float


class Problem:
    """Points, moments, and the exact field at sampled targets."""

    def __init__(self, distribution: str, n: int, source_order: int = 0, order: int = 1) -> None:
        rng = np.random.default_rng(1)
        _, self.points = cloud(distribution, n, rng)
        self.moments = random_moments(n, source_order, rng)[:, 0]
        self.source_order, self.order = source_order, order
        self._places = sampled(n, rng)
        self._exact = interactions.field(
            self.points[self._places], self.points, self.moments, order=order
        )

    def plan(self, tolerance: float) -> FMM:
        """Return a new plan."""
        return FMM(self.points, None, tolerance, self.source_order, self.order)

    def ours(self, tolerance: float) -> np.ndarray:
        """Return the field of a new plan."""
        return self.plan(tolerance).field(self.moments)

    def direct(self) -> np.ndarray:
        """Return the field by direct sums."""
        return interactions.field(self.points, self.points, self.moments, order=self.order)

    def peer(self, eps: float) -> np.ndarray:
        """Return potential and gradient of charges, or charges and dipoles, by fmm3dpy."""
        dipoles = {}
        if self.source_order == 1:
            dipoles = {"dipvec": np.asfortranarray(self.moments[:, 1:].T)}
        result = optional("fmm3dpy").lfmm3d(
            eps=eps, sources=np.asfortranarray(self.points.T),
            charges=np.ascontiguousarray(self.moments[:, 0]), pg=2, **dipoles,
        )  # fmt: skip
        # its kernel is 1/(4 pi r)
        return 4 * np.pi * np.column_stack([result.pot, result.grad.T])

    def error(self, field: np.ndarray, judged: slice) -> float:
        """Return the largest relative L2 error over the output orders `judged`."""
        return float(np.max(errors(field, self._exact, self._places)[judged]))


def optional(name: str) -> Any:
    """Return a module of the extra ``bench``, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def main(
    n: int, quick: bool = False, csv_path: Path | None = None, picture: Path | None = None
) -> None:
    """Print the table, and write all that was measured and a picture of it.

    Parameters
    ----------
    n : int
        Number of points of the table and of the error against time.
    quick : bool
        Fewer repeats, sizes and tolerances.
    csv_path, picture : Path, optional
        Default ``fmm_bench.csv`` and ``.png`` in the results of a checkout, else right here.
    """
    if optional("fmm3dpy") is None:
        print("fmm3dpy is not installed (in a checkout: pip install '.[bench]'): no comparison")
    print("one thread; s: plan and first field, again: a second field of one plan\n")
    repeats = 2 if quick else 5
    measured = table(n, repeats)
    print("\nseconds against the number of points, charges in a cube to gradient")
    sizes = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    measured += against_size([m for m in sizes if not quick or m <= n], repeats)
    print(f"\nerror of the gradient against seconds, {n} points")
    measured += against_tolerance(n, 10.0 ** -np.arange(2, 13, 3 if quick else 1), repeats)
    folder = results_folder()
    save_csv(csv_path or folder / "fmm_bench.csv", measured)
    draw(picture or folder / "fmm_bench.png", measured)


def results_folder() -> Path:
    """Return the folder of results of a checkout, else the current one."""
    folder = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
    return folder if folder.is_dir() else Path()


# --- the table ------------------------------------------------------------------------------------


def table(n: int, repeats: int) -> list[Measurement]:
    """Measure and print all rows."""
    print(
        f"{n:<34}{'error ≤':>9}{'error':>9}{'s':>8}{'again':>8}{'aim':>18}"
        f"{'fmm3dpy: eps':>14}{'error':>9}{'s':>8}{'ratio':>8}{'aim':>13}"
    )
    measured: list[Measurement] = []
    before = 0.0
    for row in ROWS:
        ours, peer = measure(row, n, repeats)
        print(_line(row, ours, peer, before, n), flush=True)
        before = ours.seconds
        measured += [ours] if peer is None else [ours, peer]
    return measured


def measure(row: Row, n: int, repeats: int) -> tuple[Measurement, Measurement | None]:
    """Return what this library and fmm3dpy (where it can, and is installed) need for a row.

    Raises
    ------
    RuntimeError
        If no tolerance keeps the row's bound.
    """
    problem = Problem(row.distribution, n, row.source_order, row.order)

    def keeps(field: np.ndarray) -> bool:
        return problem.error(field, row.judged) <= row.bound

    asked = [row.bound * factor for factor in _LADDER if row.bound * factor < 1]
    tolerance = next((t for t in asked if keeps(problem.ours(t))), None)
    if tolerance is None:
        raise RuntimeError(f"no tolerance keeps the bound {row.bound:g} of {row.name!r}")
    eps = None
    if row.eps and optional("fmm3dpy") is not None:
        # not in search of the last: it is taken if all others fail
        eps = next((e for e in row.eps[:-1] if keeps(problem.peer(e))), row.eps[-1])
    return _side_by_side(problem, row, n, tolerance, eps, repeats)


def _side_by_side(
    problem: Problem, row: Row, n: int, tolerance: float, eps: float | None, repeats: int
) -> tuple[Measurement, Measurement | None]:
    """Time both programs in turn."""
    first: list[float] = []
    again: list[float] = []
    others: list[float] = []
    for k in range(repeats):
        start = perf_counter()
        plan = problem.plan(tolerance)
        field = plan.field(problem.moments)
        first.append(perf_counter() - start)
        start = perf_counter()
        plan.field(problem.moments)
        again.append(perf_counter() - start)
        if eps is not None and k < 2 and sum(others) < 20.0:
            start = perf_counter()
            other = problem.peer(eps)
            others.append(perf_counter() - start)
    case = f"{row.name}, {row.bound:g}"
    error = problem.error(field, row.judged)
    ours = Measurement("table", case, "anisole", n, tolerance, error, min(first), min(again))
    if eps is None:
        return ours, None
    error = problem.error(other, row.judged)
    return ours, Measurement("table", case, "fmm3dpy", n, eps, error, min(others), min(others))


def _line(row: Row, ours: Measurement, peer: Measurement | None, before: float, n: int) -> str:
    aim = ""
    if row.multiple:
        times = ours.seconds / before
        aim = f"{times:.1f}x {_mark('≤', row.multiple, times <= row.multiple)}"
    elif row.seconds and n == 100_000:
        aim = _mark("≤", row.seconds, ours.seconds <= row.seconds)
    text = (
        f"{row.name:<34}{row.bound:>9.1e}{ours.error:>9.1e}{ours.seconds:>8.3f}{ours.again:>8.3f}"
        f"{aim:>18}"
    )
    if peer is None:
        return text
    ratio = peer.seconds / ours.seconds
    aim = _mark("≥", row.ratio, ratio >= row.ratio) if row.ratio else ""
    return f"{text}{peer.asked:>14.0e}{peer.error:>9.1e}{peer.seconds:>8.2f}{ratio:>7.1f}x{aim:>13}"


def _mark(relation: str, aim: float, met: bool) -> str:
    return f"{relation} {aim:g} {'met' if met else 'MISSED'}"


# --- the curves -----------------------------------------------------------------------------------


def against_size(sizes: list[int], repeats: int) -> list[Measurement]:
    """Measure charges in a cube to gradient at two tolerances, for all programs."""
    measured = []
    for n in sizes:
        problem = Problem("uniform", n)
        runs = _programs(problem, (1e-3, 1e-6))
        if n * n <= _MOST_DIRECT:
            runs.append(("direct", 0.0, problem.direct))
        mine = [_curve("size", problem, n, *run, repeats) for run in runs]
        text = (f"{m.program}{f' {m.asked:.0e}' if m.asked else ''} {m.seconds:.4f}" for m in mine)
        print(f"{n:>9}  " + "  ".join(text), flush=True)
        measured += mine
    return measured


def against_tolerance(n: int, tolerances: np.ndarray, repeats: int) -> list[Measurement]:
    """Measure charges in a cube to gradient at many tolerances."""
    problem = Problem("uniform", n)
    measured = []
    for tolerance in tolerances.tolist():
        mine = [
            _curve("tolerance", problem, n, *run, repeats)
            for run in _programs(problem, (tolerance,))
        ]
        text = (f"{m.program} {m.error:.1e} {m.seconds:.4f} s" for m in mine)
        print(f"{tolerance:>9.0e}  " + "  ".join(text), flush=True)
        measured += mine
    return measured


def _programs(
    problem: Problem, tolerances: Collection[float]
) -> list[tuple[str, float, Callable[[], np.ndarray]]]:
    runs: list[tuple[str, float, Callable[[], np.ndarray]]] = [
        ("anisole", t, partial(problem.ours, t)) for t in tolerances
    ]
    if optional("fmm3dpy") is not None:
        runs += [("fmm3dpy", t, partial(problem.peer, t)) for t in tolerances]
    return runs


def _curve(
    part: str,
    problem: Problem,
    n: int,
    program: str,
    asked: float,
    run: Callable[[], np.ndarray],
    repeats: int,
) -> Measurement:
    """Time one program: the least of several, fewer if they take long."""
    if program == "anisole":
        run()  # compiles what is missing
    times: list[float] = []
    while len(times) < repeats and sum(times) < 2.0:
        start = perf_counter()
        field = run()
        times.append(perf_counter() - start)
    error = problem.error(field, _GRADIENT)
    return Measurement(part, _CHARGES, program, n, asked, error, min(times), np.nan)


# --- files ----------------------------------------------------------------------------------------


def save_csv(path: Path, measured: list[Measurement]) -> None:
    """Write all measurements as CSV."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Measurement._fields)
        writer.writerows(measured)
    print(f"written: {path}")


def draw(path: Path, measured: list[Measurement]) -> None:
    """Draw time against number of points, and error against time, where there is matplotlib."""
    matplotlib = optional("matplotlib")
    if matplotlib is None:
        print("no picture: matplotlib is not installed (in a checkout: pip install '.[bench]')")
        return
    matplotlib.use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    _draw_sizes(left, [m for m in measured if m.part == "size"])
    _draw_errors(right, [m for m in measured if m.part == "tolerance"])
    for axis in (left, right):
        axis.grid(alpha=0.35, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


_COLOURS = {"anisole": "#1b6ca8", "fmm3dpy": "#c8553d", "direct": "#777777"}


def _draw_sizes(axis: Any, measured: list[Measurement]) -> None:
    for program, asked in dict.fromkeys((m.program, m.asked) for m in measured):
        chosen = [m for m in measured if (m.program, m.asked) == (program, asked)]
        axis.loglog(
            [m.n for m in chosen], [m.seconds for m in chosen],
            {1e-3: "o-", 1e-6: "s--"}.get(asked, "^:"), color=_COLOURS[program], ms=4,
            label=f"{program}, {asked:.0e}" if asked else "direct sum",
        )  # fmt: skip
    axis.set(xlabel="points", ylabel="seconds: plan and field, one thread")
    axis.set_title("random charges in a cube, potential and gradient", fontsize=10)


def _draw_errors(axis: Any, measured: list[Measurement]) -> None:
    for program in dict.fromkeys(m.program for m in measured):
        chosen = [m for m in measured if m.program == program]
        axis.loglog(
            [m.seconds for m in chosen], [m.error for m in chosen], "o-", ms=4,
            color=_COLOURS[program], label=program,
        )  # fmt: skip
    n = measured[0].n
    if n == 100_000:
        aims = [row for row in ROWS if row.name == _CHARGES and row.seconds]
        axis.plot([r.seconds for r in aims], [r.bound for r in aims], "k*", ms=9, label="aims")
    axis.set(xlabel="seconds: plan and field, one thread")
    axis.set_ylabel("relative L2 error of the gradient")
    axis.set_title(f"{n:,} points".replace(",", " "), fontsize=10)
