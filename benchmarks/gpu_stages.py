"""Where the time of the fast multipole method goes on a GPU: stages, kernels, size of leaves.

    python benchmarks/gpu_stages.py [--points N]     on a machine with a GPU
    python benchmarks/gpu_stages.py --once N         one plan, one evaluation, nothing timed: for
                                                     profilers
    python benchmarks/gpu_stages.py --checked N      one of everything on few points, for checkers
                                                     of memory and races
    python benchmarks/gpu_stages.py --smoke          anywhere: tiny, in the simulator

Launches and host times without a GPU: gpu_launches.py.

Prints each row when it is made and writes results/gpu_stages.csv anew after it. A stage has its
time, the time after which the host was free again, how many kernels it launched, and the host's
time in these launches. Ends with status 1 if there is no GPU that works.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from datetime import date
from time import perf_counter
from typing import Any

import numpy as np
from _gpu_place import prepared
from _output import write_table

COLUMNS = (
    "kind", "name", "n", "milliseconds", "host_milliseconds", "launches", "launch_milliseconds",
    "remark", "device", "date",
)  # fmt: skip
TOLERANCE = 1e-4
LEAVES = (40, 64, 96, 131, 200, 300, 450, 700)


def points(place: Any, n: int) -> tuple[Any, Any]:
    """Return uniform points and charges on the device."""
    rng = np.random.default_rng(0)
    return tuple(
        place.put(a.astype(np.float32)) for a in (rng.random((n, 3)), rng.standard_normal((n, 1)))
    )


def stages(place: Any, n: int) -> Iterator[dict]:
    """Plan, evaluation and sort: times of device and host."""
    import fmm
    from multipoles.cuda import library
    from multipoles.cuda.device import space_of, view
    from multipoles.cuda.sorting import argsort

    x, q = points(place, n)
    keys = np.random.default_rng(1).integers(0, 1 << 60, n)
    own, theirs = place.put(keys), place.tensor(keys)
    plan = fmm.FMM(x, tolerance=TOLERANCE)

    def rebuilt() -> Any:
        plan.rebuild(x)
        return plan.field(q, 1)

    def sorted_here() -> Any:
        library.ENABLED = False
        try:
            return argsort(space_of(own), view(own), 60)
        finally:
            library.ENABLED = True

    for name, task in (
        ("evaluation", lambda: plan.field(q, 1)),
        ("evaluation, first", lambda: first(plan, q)),
        ("plan", lambda: fmm.FMM(x, tolerance=TOLERANCE)),
        ("plan and first evaluation", lambda: fmm.FMM(x, tolerance=TOLERANCE).field(q, 1)),
        ("rebuild and evaluation", rebuilt),
        ("own sort, 60 bits", sorted_here),
        ("torch.sort", lambda: theirs.sort(stable=True)),
    ):
        yield timed(place, name, n, task)
    print(plan.report(), flush=True)


def first(plan: Any, q: Any) -> Any:
    """Evaluate as if never before: each kernel is launched by the host, no graph."""
    plan._layout.replays.clear()
    return plan.field(q, 1)


def timed(place: Any, name: str, n: int, task: Callable[[], Any], repeats: int = 5) -> dict:
    """Return the row of the fastest of some runs, after some that warm up and note graphs."""
    from _gpu import Launches

    for _ in range(1 if place.smoke else 3):
        task()
    rows = []
    for _ in range(1 if place.smoke else repeats):
        place.synchronize()
        with Launches() as launched:
            start = perf_counter()
            task()
            host = perf_counter() - start
            place.synchronize()
            rows.append((perf_counter() - start, host, launched))
    seconds, host, launched = min(rows, key=lambda row: row[0])
    return {
        "kind": "stage", "name": name, "n": n, "milliseconds": 1e3 * seconds,
        "host_milliseconds": 1e3 * host, "launches": launched.counts.total(),
        "launch_milliseconds": 1e3 * launched.seconds,
    }  # fmt: skip


def kernels(place: Any, n: int) -> Iterator[dict]:
    """Device time of the slowest kernels of an evaluation and of a plan, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    import fmm

    x, q = points(place, n)
    plan = fmm.FMM(x, tolerance=TOLERANCE)
    plan.field(q, 1)
    watched = [ProfilerActivity.CPU if place.smoke else ProfilerActivity.CUDA]
    for name, task in (
        ("evaluation", lambda: first(plan, q)),
        ("plan", lambda: fmm.FMM(x, tolerance=TOLERANCE)),
    ):
        with profile(activities=watched) as seen:
            task()
            place.synchronize()
        for event in sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:22]:
            yield {
                "kind": f"kernel of {name}", "name": event.key[:110], "n": n,
                "milliseconds": 1e-3 * event.self_device_time_total, "launches": event.count,
            }  # fmt: skip


def leaves(place: Any, n: int) -> Iterator[dict]:
    """Time evaluations by size of leaves: whether the cost model chooses well."""
    import fmm

    x, q = points(place, n)
    for size in LEAVES[:2] if place.smoke else LEAVES:
        plan = fmm.FMM(x, tolerance=TOLERANCE, leaf_size=size)
        found = timed(place, str(size), n, lambda plan=plan: plan.field(q, 1), 3)
        geometry = plan._layout.geometry
        yield found | {
            "kind": "leaf size",
            "remark": f"near pairs {geometry.n_near_pairs:.3g}; translations "
            f"{int(geometry.translations.sum())}; degrees {plan.report().degrees}",
        }


def once(place: Any, n: int) -> None:
    """Plan and evaluate, and print the error."""
    from _gpu import sampled_error
    from _gpu_sums import charges

    import fmm

    x, q = charges(n)
    found = fmm.FMM(place.put(x), tolerance=TOLERANCE).field(place.put(q), 1)
    print(f"error of a plan of {n} points: {sampled_error(place, found, x, x, q, 1):.1e}")


def checked(place: Any, n: int) -> None:
    """Launch what there is on few points, and print how far plan and direct sum are apart."""
    from _gpu_sums import in_batch, in_pairs

    import fmm
    import multipoles as mp

    x, q = points(place, n)
    direct = place.take(mp.field(x, x, q, 1))
    for row in (in_batch, in_pairs):
        print(row(place, "molecules", 2, 3, max(n // 20, 4)).error)
    mp.energy_forces(x, q)
    plan = fmm.FMM(x, tolerance=TOLERANCE, leaf_size=60)
    for _ in range(1 if place.smoke else 4):  # the third is noted, the fourth replayed
        found = place.take(plan.field(q, 1))
    plan.rebuild(x)
    plan.field(q, 1)
    difference = np.linalg.norm(found - direct) / np.linalg.norm(direct)
    print(f"difference of plan and direct sum of {n} points: {difference:.1e}")


def show(row: dict) -> None:
    words = [f"{row['kind']:<22}", f"{row['name'][:60]:<60}", f"{row['milliseconds']:>10.3f} ms"]
    if "host_milliseconds" in row:
        words.append(f"host free after {row['host_milliseconds']:.3f} ms")
    if "launches" in row:
        words.append(f"launches {row['launches']}")
    print("  ".join([*words, row.get("remark", "")]).rstrip(), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10**6, metavar="N")
    parser.add_argument("--once", type=int, metavar="N")
    parser.add_argument("--checked", type=int, metavar="N")
    parser.add_argument("--smoke", action="store_true", help="tiny, in the simulator")
    options = parser.parse_args()
    if (device := prepared(options.smoke)) is None:
        return 1
    from _gpu import Place

    place, rows = Place(options.smoke), []
    for alone, size in ((once, options.once), (checked, options.checked)):
        if size:
            alone(place, size)
            return 0
    n = 60 if options.smoke else options.points
    for part in (stages, kernels, leaves):
        for found in part(place, n):
            row = found | {"device": device, "date": str(date.today())}
            show(row)
            rows.append(row)
            if not options.smoke:
                write_table("gpu_stages", COLUMNS, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
