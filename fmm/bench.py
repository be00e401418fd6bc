"""Times of plan and evaluation beside FMM3D: what ``python -m fmm bench`` runs."""

import csv
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fmm.distributions import DISTRIBUTIONS, random_moments
from fmm.plan import FMM
from multipoles import interactions
from multipoles.indexing import order_slice


class Row(NamedTuple):
    """One line of the table: what is computed, to which error of which output order."""

    name: str
    distribution: str
    source_order: int
    order: int
    judged: int
    """Output order whose error counts."""
    bound: float
    peer_eps: float
    """Tolerance that FMM3D is asked for; zero if it cannot do this."""
    target: float
    """Seconds aimed at for 1e5 points, zero for none."""


ROWS = (
    Row("charges to gradient, 1e-3", "uniform", 0, 1, 1, 1e-3, 1e-3, 0.18),
    Row("charges to gradient, 3e-7", "uniform", 0, 1, 1, 3e-7, 1e-6, 0.29),
    Row("charges to gradient, 1e-9", "uniform", 0, 1, 1, 1e-9, 1e-9, 0.7),
    Row("dipoles to gradient, 2e-8", "uniform", 1, 1, 1, 2e-8, 1e-7, 0.9),
    Row("quadrupoles to order 3, 1e-6", "uniform", 2, 3, 0, 1e-6, 0.0, 0.0),
    Row("sphere, potential, 1.7e-5", "sphere", 0, 1, 0, 1.7e-5, 1e-4, 0.0),
    Row("sphere, potential, 2e-8", "sphere", 0, 1, 0, 2e-8, 1e-7, 0.0),
    Row("sphere, potential, 1e-11", "sphere", 0, 1, 0, 1e-11, 1e-10, 0.0),
)


class Measured(NamedTuple):
    """Seconds and error of one program in one row."""

    seconds: float
    again: float
    error: float


def run(row: Row, n: int, repeats: int = 5) -> tuple[Measured, Measured | None]:
    """Return what this library and FMM3D (if installed) need for a row.

    The tolerance asked of this library is the loosest of a ladder that keeps the row's bound.
    """
    rng = np.random.default_rng(1)
    points = DISTRIBUTIONS[row.distribution](n, rng)[1]
    moments = random_moments(n, row.source_order, rng)[:, 0]
    sample = rng.permutation(n)[:1000]
    exact = interactions.field(points[sample], points, moments, order=row.order)

    def error(field: np.ndarray) -> float:
        part = order_slice(row.judged)
        size = np.sqrt(np.mean(field[:, part] ** 2))
        return float(np.sqrt(np.mean((field[sample] - exact)[:, part] ** 2)) / size)

    ours = None
    for tolerance in row.bound * np.array([100, 50, 25, 12, 8, 5, 3, 2, 1.4, 1, 0.7]):
        if (
            error(FMM(points, None, tolerance, row.source_order, row.order).field(moments))
            < row.bound
        ):
            ours = _ours(points, moments, tolerance, row, error, repeats)
            break
    if ours is None:
        raise RuntimeError(f"no tolerance kept the bound of: {row.name}")
    peer = _peer(points, moments, row, error, max(1, repeats // 2)) if row.peer_eps else None
    return ours, peer


def _ours(points, moments, tolerance, row: Row, error, repeats: int) -> Measured:
    times, again = [], []
    for _ in range(repeats):
        start = perf_counter()
        plan = FMM(points, None, tolerance, row.source_order, row.order)
        field = plan.field(moments)
        times.append(perf_counter() - start)
        start = perf_counter()
        plan.field(moments)
        again.append(perf_counter() - start)
    return Measured(min(times), min(again), error(field))


def fmm3d() -> Any:
    """Return the module fmm3dpy, or None if it is not installed."""
    try:
        import fmm3dpy
    except ImportError:
        return None
    return fmm3dpy


def peer_field(points: np.ndarray, moments: np.ndarray, eps: float) -> np.ndarray:
    """Return potential and gradient of charges, or charges and dipoles, by FMM3D."""
    dipoles = {}
    if moments.shape[1] == 4:
        dipoles = {"dipvec": np.asfortranarray(moments[:, 1:4].T)}
    out = fmm3d().lfmm3d(
        eps=eps, sources=np.asfortranarray(points.T), charges=moments[:, 0].copy(), pg=2, **dipoles
    )
    return 4 * np.pi * np.concatenate([out.pot[:, None], out.grad.T], axis=1)


def _peer(points, moments, row: Row, error, repeats: int) -> Measured | None:
    if fmm3d() is None:
        return None
    times = []
    for _ in range(repeats):
        start = perf_counter()
        field = peer_field(points, moments, row.peer_eps)
        times.append(perf_counter() - start)
    return Measured(min(times), min(times), error(field))


def table(n: int, report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Run all rows, report them line by line, and return them."""
    report(
        f"{'':<30}{'target':>8}{'seconds':>9}{'again':>8}{'error':>9}   "
        f"{'FMM3D':>7}{'error':>9}{'ratio':>7}"
    )
    lines = []
    for row in ROWS:
        ours, peer = run(row, n, repeats=5 if n <= 200_000 else 2)
        target = f"{row.target:.2f}" if row.target and n == 100_000 else "-"
        text = f"{row.name:<30}{target:>8}{ours.seconds:>9.3f}{ours.again:>8.3f}{ours.error:>9.1e}"
        found = {
            "row": row.name, "n": n, "target": row.target, "seconds": ours.seconds,
            "again": ours.again, "error": ours.error,
        }  # fmt: skip
        if peer is not None:
            ratio = peer.seconds / ours.seconds
            text += f"   {peer.seconds:>7.2f}{peer.error:>9.1e}{ratio:>6.1f}x"
            found |= {"fmm3d": peer.seconds, "fmm3d_error": peer.error, "ratio": ratio}
        report(text)
        lines.append(found)
    return lines


def scaling(sizes: list[int], report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Return seconds of charges to gradient against the number of points, for every program."""
    return [line for n in sizes for line in _at_size(n, report)]


def _at_size(n: int, report: Callable[[str], None]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    points, charges = rng.random((n, 3)), rng.standard_normal((n, 1))
    seconds: dict[str, float] = {}
    for tolerance in (1e-3, 1e-6):
        seconds[f"anisole, {tolerance:.0e}"] = _least(
            lambda t=tolerance: FMM(points, tolerance=t).field(charges), n
        )
        if fmm3d() is not None and n <= 1_000_000:
            seconds[f"FMM3D, {tolerance:.0e}"] = _least(
                lambda t=tolerance: peer_field(points, charges, t), n
            )
    if n <= 100_000:
        seconds["direct sum"] = _least(
            lambda: interactions.field(points, points, charges, order=1), n
        )
    report(f"{n:>9} points  " + "  ".join(f"{k}: {v:.4f} s" for k, v in seconds.items()))
    return [{"program": k, "n": n, "seconds": v} for k, v in seconds.items()]


def trade(n: int, report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Return error of the gradient against seconds, for a ladder of tolerances."""
    rng = np.random.default_rng(3)
    points, charges = rng.random((n, 3)), rng.standard_normal((n, 1))
    sample = rng.permutation(n)[:1000]
    exact = interactions.field(points[sample], points, charges, order=1)[:, 1:]
    lines = []

    def add(program: str, tolerance: float, compute: Callable[[], np.ndarray]) -> None:
        difference = compute()[sample, 1:] - exact
        error = float(np.linalg.norm(difference) / np.linalg.norm(exact))
        seconds = _least(compute, n)
        lines.append(
            {"program": program, "tolerance": tolerance, "error": error, "seconds": seconds}
        )

    for tolerance in 10.0 ** -np.arange(2, 12):
        add("anisole", tolerance, lambda t=tolerance: FMM(points, tolerance=t).field(charges))
        if fmm3d() is not None:
            add("FMM3D", tolerance, lambda t=tolerance: peer_field(points, charges, t))
        report(
            "  ".join(
                f"{x['program']} {x['error']:.1e} {x['seconds']:.3f} s"
                for x in lines
                if x["tolerance"] == tolerance
            )
        )
    return lines


def _least(run: Callable[[], Any], n: int) -> float:
    times = []
    for _ in range(4 if n <= 100_000 else 2):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times[1:])


def save_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write lines as CSV, whole or not at all."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)
    part.replace(path)


def draw(path: Path, sizes: list[dict[str, Any]], errors: list[dict[str, Any]]) -> None:
    """Draw time against number of points, and error against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {
        "anisole, 1e-03": ("#1b6ca8", "o-"), "anisole, 1e-06": ("#1b6ca8", "s--"),
        "FMM3D, 1e-03": ("#c8553d", "o-"), "FMM3D, 1e-06": ("#c8553d", "s--"),
        "direct sum": ("#888888", "^:"), "anisole": ("#1b6ca8", "o-"), "FMM3D": ("#c8553d", "o-"),
    }  # fmt: skip
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, lines, x, y in ((left, sizes, "n", "seconds"), (right, errors, "seconds", "error")):
        for program in dict.fromkeys(line["program"] for line in lines):
            color, style = styles[program]
            chosen = [line for line in lines if line["program"] == program]
            axis.loglog(
                [line[x] for line in chosen], [line[y] for line in chosen], style, color=color,
                label=program, ms=4,
            )  # fmt: skip
        axis.grid(alpha=0.3, which="both", lw=0.4)
        axis.legend(frameon=False, fontsize=9)
    left.set(xlabel="points", ylabel="seconds, plan and field, one thread")
    right.set(xlabel="seconds", ylabel="relative L2 error of the gradient")
    left.set_title("random charges in a cube, potential and gradient", fontsize=10)
    right.set_title("100 000 points", fontsize=10)
    figure.savefig(path, dpi=150)
