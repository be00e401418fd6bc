"""The fast multipole method on the GPU: plans, evaluations of all kinds, clustered points."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from _gpu import Launches, Place, Row, sampled_error

import fmm
import multipoles as mp

# seconds that are asked for, by points and order of the field
EVALUATED = {(10**6, 1): 6e-3, (10**6, 3): 50e-3}
PLANNED = {(10**6, 1): 20e-3, (10**7, 1): 0.15}
NAMES = {1: "charges to gradients", 3: "quadrupoles to third derivatives"}
CLUSTERED = f"clustered, {NAMES[1]}"


def uniform(n: int) -> np.ndarray:
    """Return points spread evenly over the unit box."""
    return np.random.default_rng(0).random((n, 3)).astype(np.float32)


def clustered(n: int) -> np.ndarray:
    """Return points a third of which are even, the others in clusters, large and tiny."""
    rng = np.random.default_rng(0)
    parts = [rng.random((n - 2 * (n // 3), 3))]
    for width in (1e-2, 1e-4):
        centres = rng.random((100, 3))[rng.integers(0, 100, n // 3)]
        parts.append(centres + width * rng.standard_normal((n // 3, 3)))
    return np.concatenate(parts).astype(np.float32)


def multipole_method(place: Place) -> Iterator[Row]:
    """Uniform and clustered points, charges and quadrupoles."""
    if place.smoke:
        yield from planned_sum(place, NAMES[1], uniform(60), 0, 1)
        yield from planned_sum(place, CLUSTERED, clustered(60), 0, 1)
        yield from planned_sum(place, NAMES[3], uniform(40), 2, 2)
    else:
        yield from planned_sum(place, NAMES[1], uniform(10**6), 0, 1)
        yield from planned_sum(place, CLUSTERED, clustered(10**6), 0, 1)
        yield from planned_sum(place, NAMES[3], uniform(10**6), 2, 3)
        yield from planned_sum(place, NAMES[1], uniform(10**7), 0, 1)


def planned_sum(
    place: Place, name: str, x: np.ndarray, source_order: int, order: int
) -> Iterator[Row]:
    """Yield evaluations as they come and replayed, plan with evaluation, a plan rebuilt."""
    n, tolerance = len(x), 0.1 if place.smoke else 1e-4
    rng = np.random.default_rng(1)
    m = rng.standard_normal((n, mp.n_components(source_order))).astype(np.float32)
    shifted = x + rng.normal(0, 1e-4, x.shape).astype(np.float32)
    there, moved, moments = (place.put(array) for array in (x, shifted, m))
    options = {"tolerance": tolerance, "source_order": source_order, "order": order}
    options |= {"leaf_size": 4} if place.smoke else {}  # so that there is a far field
    plan = fmm.FMM(there, **options)

    def again() -> Any:
        return plan.field(moments, order)

    def whole() -> Any:
        return fmm.FMM(there, **options).field(moments, order)

    def rebuilt() -> Any:
        plan.rebuild(moved)
        return plan.field(moments, order)

    key = () if name == CLUSTERED else (n, order)
    for part, task, target, at in (
        ("evaluation, first", lambda: first(plan, again), None, x),
        ("evaluation", again, EVALUATED.get(key), x),
        ("plan and evaluation", whole, PLANNED.get(key), x),
        ("rebuilt and evaluated", rebuilt, None, shifted),
    ):
        seconds, launches, found = timed(place, task)
        error = sampled_error(place, found, at, at, m, order)
        yield Row(
            f"FMM, {name}: {part}", n, "float32", seconds, target, n / seconds, "points", None,
            error, tolerance, f"{launches} launches",
        )  # fmt: skip


def first(plan: Any, evaluate: Callable[[], Any]) -> Any:
    """Evaluate as if never before: each kernel is launched by the host."""
    plan._layout.replays.clear()
    return evaluate()


def timed(place: Place, task: Callable[[], Any]) -> tuple[float, int, Any]:
    """Return seconds of a task, often enough repeated, and launches and result of another run."""
    seconds = math.nan if place.smoke else place.seconds(task, repeats=5, warm=4)
    with Launches() as launched:
        found = task()
    return seconds, launched.counts.total(), found
