"""Where the time of the fast multipole method goes on a GPU: stages, kernels, size of leaves.

    python benchmarks/gpu_stages.py [--points N]     on a machine with a GPU
    python benchmarks/gpu_stages.py --once N         one direct sum and one plan, nothing timed:
                                                     for memory checkers and profilers
    python benchmarks/gpu_stages.py --smoke          anywhere: tiny, in the simulator

Prints each row when it is made and writes results/gpu_stages.csv anew after it. A stage has its
time, the time after which the host was free again, how many kernels it launched, and the host's
time in these launches. Ends with status 1 if there is no GPU that works.
"""

import argparse
import collections
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


class Launches:
    """Counts the launches of all kernels while it is open, and the host's time in them."""

    def __enter__(self) -> "Launches":
        from multipoles.compiled.cuda_kernels import Launch

        self.counts: collections.Counter = collections.Counter()
        self.seconds, self._kept = 0.0, Launch.__call__

        def launch(kernel: Any, *arguments: Any) -> None:
            start = perf_counter()
            self._kept(kernel, *arguments)
            self.seconds += perf_counter() - start
            self.counts[".".join(kernel.origin[:2])] += 1

        Launch.__call__ = launch  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: Any) -> None:
        from multipoles.compiled.cuda_kernels import Launch

        Launch.__call__ = self._kept  # type: ignore[method-assign]


def synchronize(place: Any) -> None:
    if not place.smoke:
        import torch

        torch.cuda.synchronize()


def points(place: Any, n: int) -> tuple[Any, Any]:
    """Return uniform points and charges on the device."""
    rng = np.random.default_rng(0)
    return tuple(
        place.put(a.astype(np.float32)) for a in (rng.random((n, 3)), rng.standard_normal((n, 1)))
    )


def stages(place: Any, n: int) -> Iterator[dict]:
    """Plan, evaluation and sort: times of device and host."""
    import fmm
    from multipoles.cuda.device import space_of, view
    from multipoles.cuda.sorting import argsort

    x, q = points(place, n)
    keys = np.random.default_rng(1).integers(0, 1 << 60, n)
    own, theirs = place.put(keys), place.tensor(keys)
    plan = fmm.FMM(x, tolerance=TOLERANCE)

    def rebuilt() -> Any:
        plan.rebuild(x)
        return plan.field(q, 1)

    for name, task in (
        ("evaluation", lambda: plan.field(q, 1)),
        ("plan", lambda: fmm.FMM(x, tolerance=TOLERANCE)),
        ("plan and first evaluation", lambda: fmm.FMM(x, tolerance=TOLERANCE).field(q, 1)),
        ("rebuild and evaluation", rebuilt),
        ("own sort, 60 bits", lambda: argsort(space_of(own), view(own), 60)),
        ("torch.sort", lambda: theirs.sort(stable=True)),
    ):
        yield timed(place, name, n, task)
    print(plan.report(), flush=True)


def timed(place: Any, name: str, n: int, task: Callable[[], Any], repeats: int = 5) -> dict:
    """Return the row of the fastest of some runs after one that warms up."""
    task()
    rows = []
    for _ in range(1 if place.smoke else repeats):
        synchronize(place)
        with Launches() as launched:
            start = perf_counter()
            task()
            host = perf_counter() - start
            synchronize(place)
            rows.append((perf_counter() - start, host, launched))
    seconds, host, launched = min(rows, key=lambda row: row[0])
    return {
        "kind": "stage", "name": name, "n": n, "milliseconds": 1e3 * seconds,
        "host_milliseconds": 1e3 * host, "launches": sum(launched.counts.values()),
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
        ("evaluation", lambda: plan.field(q, 1)),
        ("plan", lambda: fmm.FMM(x, tolerance=TOLERANCE)),
    ):
        with profile(activities=watched) as seen:
            task()
            synchronize(place)
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
    """Sum directly and by a plan, and print how far apart the results are."""
    import fmm
    import multipoles as mp

    x, q = points(place, n)
    direct = place.take(mp.field(x, x, q, 1))
    found = place.take(fmm.FMM(x, tolerance=TOLERANCE, leaf_size=60).field(q, 1))
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
    parser.add_argument("--smoke", action="store_true", help="tiny, in the simulator")
    options = parser.parse_args()
    if (device := prepared(options.smoke)) is None:
        return 1
    from _gpu import Place

    place, rows = Place(options.smoke), []
    if options.once:
        once(place, options.once)
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
