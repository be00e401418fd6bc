"""Seconds, messages and memory of ranks: what ``python -m fmm.distributed bench`` runs."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fmm.distributed.method import FMM
from fmm.distributed.ranks import Ranks, Traffic
from fmm.validation import peak_memory
from multipoles.files import atomic_write

# enough points for a far field on every rank: compiles, and makes operators
_WARM_UP = 6000
# how far points move before a plan is rebuilt, of the edge of the cube
_STEP = 1e-3


class Row(NamedTuple):
    """What a run took; of ranks the mean, and the most where a name says so.

    Attributes
    ----------
    ranks, n : int
        Their number, and that of the points of all together.
    weak : bool
        Whether the points of each rank were named, not those of all.
    tolerance : float
        What was asked.
    plan, first, again, rebuild : float
        Seconds of a plan, a first and a repeated field, and of going over to moved points, on the
        slowest rank.
    busy, busy_most, waited : float
        Seconds of the repeated field without and with others.
    n_bytes, bytes_most, messages, messages_most : float
        Sent in the repeated field.
    reduced_bytes, reductions : float
        Summed over ranks or told to all.
    plan_bytes : float
        Sent by a plan.
    owned, ghosts : float
        Own sources, and those of others that are summed directly beside them.
    imbalance : float
        Of busy seconds: the most over the mean.
    memory_plan, memory : float
        Bytes for each point that a rank gives, by which the most memory it has held has grown with
        the plan, and with a field too, on the rank where this is most. The caller's points and
        moments do not count, the field does.
    leaf_size, root_grid, degree, levels : int
        The tree.
    """

    ranks: int
    n: int
    weak: bool
    tolerance: float
    plan: float
    first: float
    again: float
    rebuild: float
    busy: float
    busy_most: float
    waited: float
    n_bytes: float
    bytes_most: float
    messages: float
    messages_most: float
    reduced_bytes: float
    reductions: float
    plan_bytes: float
    owned: float
    ghosts: float
    imbalance: float
    memory_plan: float
    memory: float
    leaf_size: int
    root_grid: int
    degree: int
    levels: int


def measure(ranks: Ranks, n: int, tolerance: float, weak: bool = False, repeats: int = 3) -> Row:
    """Time charges in a cube to potential and gradient; all ranks call it together.

    Parameters
    ----------
    ranks : Ranks
        All of them, each of which gives as many points from anywhere in the cube.
    n : int
        Points of all ranks.
    tolerance : float
        Of the plan.
    weak : bool
        What the row is to say.
    repeats : int
        How often what is timed is repeated; the least time counts.

    Returns
    -------
    Row
        The same on all ranks.
    """
    rng = np.random.default_rng(ranks.rank)
    _run(ranks, rng.random((min(n // ranks.size, _WARM_UP), 3)), tolerance)
    here = n // ranks.size + int(ranks.rank < n % ranks.size)
    points, charges = rng.random((here, 3)), rng.standard_normal((here, 1))
    gc.collect()
    before = peak_memory()
    sent = ranks.traffic.copy()
    plan, planned = _timed(ranks, lambda: FMM(points, None, tolerance, comm=ranks))
    of_plan, memory_plan = ranks.traffic - sent, peak_memory() - before
    _, first = _timed(ranks, lambda: plan.field(charges))
    memory = peak_memory() - before
    again, report = _best(ranks, plan, charges, repeats)
    points = points + _STEP * rng.standard_normal(points.shape)
    _, rebuilt = _timed(ranks, lambda: plan.rebuild(points))
    traffic = report.traffic or Traffic()
    of_rank = [
        here, traffic.waited, traffic.bytes, traffic.messages, traffic.reduced_bytes,
        traffic.reductions, of_plan.bytes, report.owned[1], report.owned[2],
        memory_plan / max(here, 1), memory / max(here, 1),
    ]  # fmt: skip
    told = np.concatenate(ranks.gather(np.array(of_rank, np.float64)[None]))
    mean, most = told.mean(axis=0).tolist(), told.max(axis=0).tolist()
    assert report.busy is not None
    return Row(
        ranks.size, n, weak, tolerance, planned, first, again, rebuilt, float(report.busy.mean()),
        float(report.busy.max()), mean[1], mean[2], most[2], mean[3], most[3], mean[4], mean[5],
        mean[6], mean[7], mean[8], report.imbalance, most[9], most[10], report.leaf_size,
        report.root_grid, max(report.degrees, default=0), report.n_levels,
    )  # fmt: skip


def _run(ranks: Ranks, points: np.ndarray, tolerance: float) -> None:
    plan = FMM(points, None, tolerance, comm=ranks)
    plan.field(np.ones((len(points), 1)))
    plan.rebuild(points)


def _timed(ranks: Ranks, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work returns, and its seconds on the slowest rank."""
    ranks.largest(np.zeros(1))  # all begin together
    start = perf_counter()
    found = work()
    return found, float(ranks.largest(np.array([perf_counter() - start]))[0])


def _best(ranks: Ranks, plan: FMM, charges: np.ndarray, repeats: int) -> tuple[float, Any]:
    """Return the least seconds of repeated fields, and the report of that one."""
    found = []
    for _ in range(repeats):
        _, seconds = _timed(ranks, lambda: plan.field(charges))
        found.append((seconds, plan.report()))
    return min(found, key=lambda pair: pair[0])


# --- what is printed ------------------------------------------------------------------------------


def details(row: Row) -> str:
    """Return a row in words."""
    kind = "each rank has as many in all runs" if row.weak else "all ranks together as many"
    return "\n".join((
        f"{row.ranks} ranks, {row.n} points ({kind}), tolerance {row.tolerance:g}: degree "
        f"{row.degree}, {row.levels} levels from {row.root_grid} boxes along an axis, leaves of at "
        f"most {row.leaf_size}",
        f"seconds: plan {row.plan:.3f}, first field {row.first:.3f}, again {row.again:.3f}, "
        f"rebuild {row.rebuild:.3f}",
        f"a field: busy {row.busy:.3f} s (at most {row.busy_most:.3f}, {row.imbalance:.2f} times "
        f"the mean), waited {row.waited:.3f} s",
        f"a rank owns {row.owned:.0f} points, sums {row.ghosts:.0f} of others beside them, and "
        f"sends {row.n_bytes / 1e6:.3g} MB (at most {row.bytes_most / 1e6:.3g}) in "
        f"{row.messages:.1f} messages (at most {row.messages_most:.0f})",
        f"over all ranks: {row.reductions:.0f} reductions of {row.reduced_bytes / 1e6:.3g} MB",
        f"memory: {row.memory_plan:.0f} bytes a point for the plan, {row.memory:.0f} with a field",
    ))  # fmt: skip


def added(path: Path, row: Row) -> list[Row]:
    """Append a row to a file of JSON, which is made if need be; return all its rows.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    rows = []
    if path.exists():
        try:
            rows = [Row(**given) for given in json.loads(path.read_text())]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: expected rows of python -m fmm.distributed bench, got {error}"
            ) from error
    rows.append(row)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps([r._asdict() for r in rows], indent=1))
    return rows


def table(rows: list[Row]) -> str:
    """Return rows, with efficiencies against the fewest ranks of the same kind."""
    lines = [
        f"{'':<8}{'ranks':>6}{'points':>10}{'plan s':>9}{'again s':>9}{'rebuild s':>11}"
        f"{'busy s':>9}{'MB sent':>9}{'messages':>10}{'bytes/pt':>10}{'efficiency':>12}"
    ]
    for row in sorted(rows, key=lambda r: (_kind(r), r.ranks)):
        least = min((r for r in rows if _kind(r) == _kind(row)), key=lambda r: r.ranks)
        share = least.again / row.again * (1.0 if row.weak else least.ranks / row.ranks)
        lines.append(
            f"{'weak' if row.weak else 'strong':<8}{row.ranks:>6}{row.n:>10}{row.plan:>9.3f}"
            f"{row.again:>9.3f}{row.rebuild:>11.3f}{row.busy:>9.3f}{row.n_bytes / 1e6:>9.2f}"
            f"{row.messages:>10.1f}{row.memory:>10.0f}{share:>12.2f}"
        )
    return "\n".join(lines)


def _kind(row: Row) -> tuple[bool, float, int]:
    """Return what is the same in all runs of a kind: the points of a rank, or of all, are."""
    return row.weak, row.tolerance, row.n // row.ranks if row.weak else row.n
