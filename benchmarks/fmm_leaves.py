"""Whether plans choose the best size of leaves: the chosen one against a sweep.

    python benchmarks/fmm_leaves.py [--n 100000 1000000] [--tolerances 1e-3 1e-6] [--shapes cube]

Charges to potential and gradient on one thread: seconds of plan and first field, the least of some
repeats, with the plan's own choice and with given sizes. Grids of boxes change in steps, so sizes
in between divide into the same boxes. Prints a table; writes results/fmm_leaves.csv and
results/fmm_leaves.png beside this file. The target is a choice never more than a tenth slower than
the best of the sweep.
"""

import argparse
import time
from typing import NamedTuple

import numpy as np
from _output import pyplot, write_picture, write_table

import fmm
import multipoles as mp
from fmm.distributions import DISTRIBUTIONS

SIZES = (12, 20, 32, 50, 80, 120, 190, 300, 480)
TARGET = 1.1


class Result(NamedTuple):
    """One run; `leaf_size` 0 is the plan's own choice. Seconds of plan and field."""

    shape: str
    n: int
    tolerance: float
    leaf_size: int
    plan: float
    field: float
    leaves: int

    @property
    def seconds(self) -> float:
        """Plan and field."""
        return self.plan + self.field


def run(points: np.ndarray, charges: np.ndarray, tolerance: float, leaf_size: int | None) -> tuple:
    start = time.perf_counter()
    plan = fmm.FMM(points, tolerance=tolerance, leaf_size=leaf_size)
    planned = time.perf_counter()
    plan.field(charges)
    return planned - start, time.perf_counter() - planned, plan.report().n_leaves


def sweep(shape: str, n: int, tolerance: float, repeats: int) -> list[Result]:
    """Return the plan's choice and all sizes, interleaved, each the fastest of its repeats."""
    points = DISTRIBUTIONS[shape](n, np.random.default_rng(0))[1]
    charges = np.random.default_rng(1).standard_normal((n, 1))
    best: dict[int, Result] = {}
    for _ in range(repeats):
        for size in (0, *SIZES):
            result = Result(
                shape, n, tolerance, size, *run(points, charges, tolerance, size or None)
            )
            if size not in best or result.seconds < best[size].seconds:
                best[size] = result
    return list(best.values())


def show(found: list[Result]) -> float:
    """Print one line; return how much slower the choice is than the best."""
    chosen = found[0]
    best = min(found, key=lambda r: r.seconds)
    ratio = chosen.seconds / best.seconds
    mark = "" if ratio <= TARGET else "  MISSED"
    print(
        f"{chosen.shape:<10}{chosen.n:>9}{chosen.tolerance:>9.0e}{chosen.seconds:>10.3f} s"
        f"{best.seconds:>10.3f} s{best.leaf_size or '–':>6}{ratio:>7.2f}{mark}", flush=True,
    )  # fmt: skip
    return ratio


def plot(found: list[Result]) -> None:
    if (plt := pyplot()) is None:
        return
    shapes = list(dict.fromkeys(r.shape for r in found))
    figure, axes = plt.subplots(
        1, len(shapes), figsize=(4 * len(shapes), 3.4), constrained_layout=True, squeeze=False
    )
    for axis, shape in zip(axes[0], shapes, strict=True):
        own = [r for r in found if r.shape == shape]
        for k, case in enumerate(dict.fromkeys((r.n, r.tolerance) for r in own)):
            rows = [r for r in own if (r.n, r.tolerance) == case]
            least = min(r.seconds for r in rows)
            given = [r for r in rows if r.leaf_size]
            axis.plot(
                [r.leaf_size for r in given], [r.seconds / least for r in given], f"C{k % 10}.-",
                label=f"{case[0]:.0e}, {case[1]:.0e}",
            )  # fmt: skip
            axis.axhline(rows[0].seconds / least, color=f"C{k % 10}", linestyle=":")
        axis.set(title=shape, xscale="log", xlabel="most points in a leaf", ylim=(0.9, 3))
    axes[0, 0].set_ylabel("time / least time (dotted: chosen)")
    axes[0, 0].legend(fontsize=6, title="points, tolerance", title_fontsize=6)
    print(f"written: {write_picture('fmm_leaves', figure)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--tolerances", type=float, nargs="+", default=[1e-3, 1e-5, 1e-6, 1e-9, 1e-12]
    )
    parser.add_argument("--shapes", nargs="+", default=["uniform", "sphere", "plummer"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    mp.set_num_threads(1)
    print(f"{'shape':<10}{'points':>9}{'':>9}{'chosen':>12}{'best':>12}{'size':>6}{'ratio':>7}")
    found, ratios = [], []
    for shape in options.shapes:
        for n in options.n:
            for tolerance in options.tolerances:
                run(
                    *(np.random.default_rng(0).random((20_000, k)) for k in (3, 1)), tolerance, None
                )
                rows = sweep(shape, n, tolerance, options.repeats)
                ratios.append(show(rows))
                found += rows
    print(f"worst choice {max(ratios):.2f} times the best, median {np.median(ratios):.2f}")
    print(f"written: {write_table('fmm_leaves', Result._fields, found)}")
    plot(found)


if __name__ == "__main__":
    main()
