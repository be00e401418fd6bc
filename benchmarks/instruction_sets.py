"""Direct sums and FMM by the instructions that loops are compiled for: AVX-512, AVX2, SSE.

    python benchmarks/instruction_sets.py [--quick]

Every row is measured on this machine, each in a process of its own that leaves some of the
processor's instructions alone (``NUMBA_CPU_NAME``, ``NUMBA_CPU_FEATURES``, and for BLAS
``OPENBLAS_CORETYPE``), by turns; times are the least of all turns, on one thread. The last column
is a product of matrices by BLAS: how fast units of this width can be at best. Processors differ:
some have units of 64 bytes, others do AVX-512 in two halves, where AVX2 is as wide.

Targets: AVX2 reaches 75 % of the rate of AVX-512, and its FMM takes at most 1.4 times as long.
Beside each stands what the ratio of the products alone would leave of it. Writes
results/instruction_sets.csv and .png; exits with 1 where a target is missed.
"""

import argparse
import json
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
from _output import pyplot, run_alone, write_picture, write_table

TOLERANCES = (1e-3, 3e-7)
SHARE, FACTOR = 0.75, 1.4


class Result(NamedTuple):
    """Rates in pairs of charges per second, seconds of an FMM, products of BLAS per second."""

    instructions: str
    float64: float
    float32: float
    fmm_1e_3: float
    fmm_3e_7: float
    blas: float


def variants() -> dict[str, dict[str, str]]:
    """Return the environment of each set of instructions that this machine has."""
    import llvmlite.binding

    has = llvmlite.binding.get_host_cpu_features()
    if not has.get("sse2"):
        return {"all": {}}
    narrow = ",".join(f"+{name}" for name, on in has.items() if on and "avx512" not in name)
    haswell = {"OPENBLAS_CORETYPE": "Haswell"}
    found: dict[str, dict[str, str]] = {}
    if has.get("avx512f"):
        found["AVX-512"] = {"OPENBLAS_CORETYPE": "SkylakeX"}
    if has.get("avx2"):
        found["AVX2"] = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": narrow, **haswell}
    least = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "Nehalem"}
    return found | {"SSE": least}


def measure(direct: int, fast: int, repeats: int) -> list[float]:
    """Return the numbers of a row, in this process."""
    import fmm
    import multipoles as mp

    mp.set_num_threads(1)
    rng, found = np.random.default_rng(0), []
    for dtype in (np.float64, np.float32):
        x = rng.random((direct, 3)).astype(dtype)
        q = rng.standard_normal((direct, 1)).astype(dtype)
        found.append(direct**2 / least(lambda x=x, q=q: mp.field(x, x, q, 1), repeats))
    x, q = rng.random((fast, 3)), rng.standard_normal((fast, 1))
    for tolerance in TOLERANCES:
        plan = fmm.FMM(x, tolerance=tolerance)
        found.append(least(lambda plan=plan: plan.field(q, 1), repeats))
    a = rng.standard_normal((1000, 1000))
    return [*found, 1e9 / least(lambda: a @ a, repeats)]


def least(function, repeats: int) -> float:
    """Return the least time of several calls."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def best(rows: list[list[float]]) -> list[float]:
    """Return the greatest rates and the least times."""
    columns = list(zip(*rows, strict=True))
    return [(min if 2 <= k < 4 else max)(column) for k, column in enumerate(columns)]


def verdicts(results: list[Result]) -> list[tuple[str, float, float, float, bool]]:
    """Return what is asked of AVX2 beside AVX-512.

    Name, what came, what is wanted, what BLAS would leave of that, and whether it is met.
    """
    by_name = {r.instructions: r for r in results}
    if not {"AVX-512", "AVX2"} <= set(by_name):
        return []
    wide, narrow = by_name["AVX-512"], by_name["AVX2"]
    ratio = min(narrow.blas / wide.blas, 1.0)
    out = []
    for name in ("float64", "float32"):
        share = getattr(narrow, name) / getattr(wide, name)
        out.append((f"rate, {name}", share, SHARE, SHARE * ratio, share >= SHARE))
    for name in ("fmm_1e_3", "fmm_3e_7"):
        factor = getattr(narrow, name) / getattr(wide, name)
        out.append((f"time, {name}", factor, FACTOR, FACTOR / ratio, factor <= FACTOR))
    return out


def show(results: list[Result]) -> None:
    print(
        f"{'':<9}{'float64':>9}{'float32':>9}{'FMM 1e-3':>10}{'FMM 3e-7':>10}{'BLAS':>8}\n"
        f"{'':<9}{'Gpairs/s':>9}{'Gpairs/s':>9}{'s':>10}{'s':>10}{'GFMA/s':>8}"
    )
    for r in results:
        print(
            f"{r.instructions:<9}{r.float64 / 1e9:>9.2f}{r.float32 / 1e9:>9.2f}{r.fmm_1e_3:>10.4f}"
            f"{r.fmm_3e_7:>10.4f}{r.blas / 1e9:>8.1f}"
        )


def plot(results: list[Result]) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), constrained_layout=True)
    labels, places = [r.instructions for r in results], np.arange(len(results))
    for k, name in enumerate(("float64", "float32")):
        rates = [getattr(r, name) / 1e9 for r in results]
        axes[0].bar(places + 0.35 * k, rates, 0.33, label=name)
    for k, (name, tolerance) in enumerate(zip(("fmm_1e_3", "fmm_3e_7"), TOLERANCES, strict=True)):
        times = [getattr(r, name) for r in results]
        axes[1].bar(places + 0.35 * k, times, 0.33, label=f"tolerance {tolerance:g}")
    axes[0].set(title="charges, all pairs", ylabel="$10^9$ pairs per second")
    axes[1].set(title="FMM", ylabel="seconds")
    for axis in axes:
        axis.set_xticks(places + 0.175, labels)
        axis.legend(frameon=False, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    print(f"written: {write_picture('instruction_sets', figure)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sums, one turn")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return 0
    sizes, turns = ((5000, 20000, 3), 1) if options.quick else ((20000, 100000, 5), 3)
    rows: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:  # what steps cost is kept by each for itself
        for _ in range(turns):
            for name, environment in variants().items():
                place = {"XDG_CACHE_HOME": f"{folder}/{name}", "MULTIPOLES_QUIET": "1"}
                row = run_alone(__file__, sizes, 1, NUMBA_NUM_THREADS="1", **environment, **place)
                rows.setdefault(name, []).append(row)
    results = [Result(name, *best(found)) for name, found in rows.items()]
    show(results)
    met = True
    for name, came, wanted, left, good in verdicts(results):
        sign, met = ("≥" if name.startswith("rate") else "≤"), met and good
        verdict = "met" if good else "MISSED"
        print(
            f"AVX2 by AVX-512, {name:<14} {came:.2f} {sign} {wanted:.2f}  {verdict} "
            f"(by the ratio of BLAS: {left:.2f})"
        )
    print(f"written: {write_table('instruction_sets', Result._fields, results)}")
    plot(results)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
