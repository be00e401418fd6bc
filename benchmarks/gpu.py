"""The GPU's figures: direct sums, fast multipole method, model, each checked against the CPU.

    python benchmarks/gpu.py [--only NAME ...]    on a machine with a GPU
    python benchmarks/gpu.py --check              whether there is one that works, and versions
    python benchmarks/gpu.py --smoke              anywhere: tiny sizes in the simulator, no times

Prints a table and writes results/gpu.csv with the device's name and the date, anew after every
row; rows of cases that are not asked for stay. Ends with status 1 if there is no GPU that works, if
something failed or is wrong. Times are the least
of several after warm-up, between two events on the stream; what is computed is compared with a sum
in float64 on the CPU at a sample. The limit of a direct sum is what the device could do if it did
nothing but the arithmetic of the pairs: the slower of their multiply-adds and of their reciprocal
square roots, at the rates that small kernels reach in the same run.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
from _gpu_place import prepared, versions
from _output import read_table, write_table

# of a charge's potential and gradient at a target: 3 differences, 3 for r², 1 for q/r, 1 for 1/r²,
# 1 for their product, 1 for the potential, 3 for the gradient
INSTRUCTIONS, ROOTS = 13, 1
COLUMNS = (
    "group", "case", "n", "dtype", "seconds", "target", "met", "rate", "unit", "limit", "error",
    "bound", "right", "remark", "device", "date",
)  # fmt: skip


def direct(place: Any) -> Iterator[Any]:
    """Charges to potential and gradient, against the device's limit and other libraries."""
    from _gpu import Row, ceilings

    import multipoles as mp

    rng = np.random.default_rng(0)
    multiply_adds, roots = ceilings(place)
    limit = 1 / max(INSTRUCTIONS / multiply_adds, ROOTS / roots)
    if not place.smoke:
        print(f"ceilings: {multiply_adds:.3g} multiply-adds/s, {roots:.3g} reciprocal roots/s,")
        print(f"  so at most {limit:.3g} pairs/s of potential and gradient in float32\n")
    for dtype, bound in ((np.float32, 1e-4), (np.float64, 1e-12)):
        n = 40 if place.smoke else 200_000
        x = rng.random((n, 3)).astype(dtype)
        q = rng.standard_normal((n, 1)).astype(dtype)
        there, charges = place.put(x), place.put(q)

        def task(there=there, charges=charges) -> Any:
            return mp.field(there, there, charges, 1)

        error = sampled_error(place, task(), x, x, q, 1)
        seconds = place.seconds(task)
        rate = n * n / seconds
        single = dtype == np.float32
        yield Row(
            "direct sum, charges: potential, gradient", n, np.dtype(dtype).name, seconds,
            n * n / (0.5 * limit) if single else None, rate, "pairs",
            rate / limit if single else None, error, bound,
        )  # fmt: skip
    yield from others(place, Row)


def others(place: Any, row: Callable) -> Iterator[Any]:
    """Sum the same by torch's broadcasting, and by KeOps where it is installed."""
    import torch

    rng = np.random.default_rng(0)
    n = 50 if place.smoke else 20_000
    x, q = rng.random((n, 3)).astype(np.float32), rng.standard_normal((n, 1)).astype(np.float32)
    there, charges = place.tensor(x), place.tensor(q)

    def broadcasting() -> Any:
        parts = []
        for targets in there.split(2000):
            d = targets[:, None] - there[None]
            r2 = d.square().sum(-1)
            inverse = torch.where(r2 > 0, r2.rsqrt(), 0)
            part = charges[:, 0] * inverse
            gradient = -((part * inverse.square())[..., None] * d).sum(1)
            parts.append(torch.cat([part.sum(1, keepdim=True), gradient], 1))
        return torch.cat(parts)

    def keops() -> Any:
        from pykeops.torch import LazyTensor

        d = LazyTensor(there[:, None]) - LazyTensor(there[None])
        r2 = d.sqnorm2()
        inverse = r2.sign() * (r2 + (1 - r2.sign())).rsqrt()  # zero at zero
        part = LazyTensor(charges[None]) * inverse
        gradient = -((part * inverse.square()) * d).sum(1)
        return torch.cat([part.sum(1), gradient], 1)

    for name, task in (("torch, broadcasting", broadcasting), ("KeOps", keops)):
        try:
            error = sampled_error(place, task(), x, x, q, 1)
        except ImportError:
            print("no comparison with KeOps: pykeops is not installed")
            continue
        seconds = place.seconds(task)
        yield row(
            f"direct sum, the same by {name}", n, "float32", seconds, None, n * n / seconds,
            "pairs", None, error, 1e-3,
        )  # fmt: skip


def batches(place: Any) -> Iterator[Any]:
    """Thousands of small molecules, each in charges of its own, in one launch."""
    from _gpu import Row

    import multipoles as mp

    systems, atoms, particles = (3, 4, 9) if place.smoke else (4096, 20, 300)
    rng = np.random.default_rng(0)
    x = rng.random((systems * atoms, 3)).astype(np.float32)
    s = rng.random((systems * particles, 3)).astype(np.float32)
    q = rng.standard_normal((len(s), 1)).astype(np.float32)
    index = [np.repeat(np.arange(systems), count) for count in (atoms, particles)]
    there = [place.put(array) for array in (x, s, q)]
    ends = dict(zip(("target_batch", "source_batch"), map(place.put, index), strict=True))

    def task() -> Any:
        return mp.field(*there, 2, **ends)

    last = (systems - 1) * atoms, (systems - 1) * particles
    got = place.take(task())[last[0] :]
    expected = mp.reference.field(x[last[0] :], s[last[1] :], q[last[1] :], 2)
    seconds = place.seconds(task)
    yield Row(
        f"batch of {atoms} atoms in {particles} charges: field to order 2", systems, "float32",
        seconds, None, systems * atoms * particles / seconds, "pairs", None,
        worst_order(got, expected, 2), 1e-4,
    )  # fmt: skip


def multipole_method(place: Any) -> Iterator[Any]:
    """Fast multipole method at a million and ten million uniform points."""
    sizes = ((150, None, None),) if place.smoke else ((10**6, 50e-3, 20e-3), (10**7, 0.5, None))
    for n, planned, evaluated in sizes:
        yield from planned_sum(place, n, 0, 1, planned, evaluated)
    n, order = (100, 2) if place.smoke else (10**6, 3)
    yield from planned_sum(place, n, 2, order, None, None if place.smoke else 150e-3)


def planned_sum(
    place: Any, n: int, source_order: int, order: int, planned: Any, evaluated: Any
) -> Iterator[Any]:
    """Return plan with evaluation, evaluation alone, and a plan rebuilt as in dynamics."""
    from _gpu import Row

    import fmm
    import multipoles as mp

    tolerance = 1e-3 if place.smoke else 1e-4
    rng = np.random.default_rng(0)
    x = rng.random((n, 3)).astype(np.float32)
    m = rng.standard_normal((n, mp.n_components(source_order))).astype(np.float32)
    there, moments = place.put(x), place.put(m)
    moved = place.put(x + rng.normal(0, 1e-4, x.shape).astype(np.float32))
    options = {"tolerance": tolerance, "source_order": source_order, "order": order}
    plan = fmm.FMM(there, **options)

    def whole() -> Any:
        return fmm.FMM(there, **options).field(moments, order)

    def again() -> Any:
        return plan.field(moments, order)

    def rebuilt() -> Any:
        plan.rebuild(moved)
        return plan.field(moments, order)

    error = sampled_error(place, again(), x, x, m, order)
    name = f"FMM, order {source_order} to {order}, {tolerance:g}"
    for part, task, target in (
        ("evaluation", again, evaluated),
        ("plan and evaluation", whole, planned),
        ("rebuilt and evaluated", rebuilt, None),
    ):
        seconds = place.seconds(task, repeats=5)
        yield Row(
            f"{name}: {part}", n, "float32", seconds, target, n / seconds, "points", None, error,
            tolerance,
        )  # fmt: skip


def model(place: Any) -> Iterator[Any]:
    """Energy and forces of the model, alone and in a batch."""
    from _gpu_model import evaluation

    return evaluation(place)


def training(place: Any) -> Iterator[Any]:
    """Training steps, beside plain torch."""
    from _gpu_model import training

    return training(place)


def sampled_error(place: Any, got: Any, x: Any, s: Any, m: Any, order: int) -> float:
    """Return the relative error at some targets, of the order that has the largest."""
    import multipoles as mp

    chosen = np.random.default_rng(1).choice(len(x), min(len(x), 100), replace=False)
    wide = [np.asarray(array, np.float64) for array in (x[chosen], s, m)]
    return worst_order(place.take(got)[chosen], mp.field(*wide, order), order)


def worst_order(got: np.ndarray, expected: np.ndarray, order: int) -> float:
    from _gpu import relative

    import multipoles as mp

    starts = [0, *(mp.n_components(k) for k in range(order + 1))]
    return max(relative(got[:, a:b], expected[:, a:b]) for a, b in pairwise(starts))


CASES = {
    "direct": direct, "batches": batches, "fmm": multipole_method, "model": model,
    "training": training,
}  # fmt: skip


def show(entries: dict) -> None:
    """Print a row."""
    words = [f"{entries['case']:<58}", f"{entries['n']:>9}", f"{entries['dtype']:>8}"]
    if not np.isnan(entries["seconds"]):
        words += timing(entries)
    if entries["error"] is not None:
        words.append(f"error {entries['error']:.1e}" + ("" if entries["right"] else " TOO LARGE"))
    print("  ".join(words), flush=True)


def timing(entries: dict) -> list[str]:
    rate = f"{entries['rate']:.3g} {entries['unit']}/s" if entries["rate"] else ""
    words = [f"{entries['seconds'] * 1e3:>10.3f} ms", f"{rate:>18}"]
    if entries["limit"]:
        words.append(f"{entries['limit']:.0%} of the limit")
    if entries["target"]:
        words.append(f"target {entries['target'] * 1e3:.3g} ms")
        words.append("met" if entries["met"] else "MISSED")
    return [*words, entries["remark"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--check", action="store_true", help="nothing but whether a GPU works")
    parser.add_argument("--smoke", action="store_true", help="tiny, in the simulator, no times")
    options = parser.parse_args()
    device = prepared(options.smoke)
    if options.check:
        print(versions())
    if device is None:
        return 1
    print(f"{device}, {date.today()}\n", flush=True)
    return 0 if options.check else int(not measured(options.only, options.smoke, device))


def measured(names: list[str], smoke: bool, device: str) -> bool:
    """Measure cases, print their rows and write them; return whether all is right."""
    from _gpu import Place

    place, right = Place(smoke), True
    rows = [row for row in read_table("gpu") if row.get("group") not in names]
    for name in names:
        try:
            for found in CASES[name](place):
                entries = {"group": name, "device": device, "date": str(date.today())}
                entries |= found.entries()
                right &= entries["right"] is not False
                show(entries)
                if not smoke:  # what comes after it may crash
                    rows.append(entries)
                    write_table("gpu", COLUMNS, rows)
        except Exception:  # the other cases are measured all the same
            right = False
            print(f"{name}: FAILED", flush=True)
            traceback.print_exc()
    return right


if __name__ == "__main__":
    sys.exit(main())
