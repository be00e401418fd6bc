"""The GPU's figures: sums, fast multipole method, model, first calls, other libraries.

    python benchmarks/gpu.py [--only NAME ...]    on a machine with a GPU
    python benchmarks/gpu.py --check              whether there is one that works, and versions
    python benchmarks/gpu.py --smoke              anywhere: tiny sizes in the simulator, no times

Prints a table and writes results/gpu.csv with the device's name and the date, anew after every
row; rows of cases that are not asked for stay. Ends with status 1 if there is no GPU that works, if
something failed or is wrong. Times are the least of several after warm-up, between two events on
the stream; what is computed is compared with a sum in float64 on the CPU at a sample. `predicted`
is what was foreseen for an H100, in seconds too. The limit of a direct sum is what the device could
do if it did nothing but the arithmetic of the pairs: the slower of their multiply-adds and of their
reciprocal square roots, at the rates that small kernels reach in the same run.
"""

import argparse
import sys
import traceback
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
from _gpu_place import prepared, versions
from _output import read_table, write_table

# milliseconds predicted for an H100 before anything was measured, by row and size
PREDICTED: dict[tuple[str, int], float] = {
    # 17 instructions a pair, 9 of 10 slots used
    ("direct sum, charges: potential, gradient", 200_000): 26.0,
    # near pairs 1.5, translations 1.0, all else 0.4
    ("FMM, charges to gradients: evaluation, first", 10**6): 3.2,
    ("FMM, charges to gradients: evaluation", 10**6): 3.0,
    # the host's 5 until errors are measured, 4 of sums in float64 at samples, the evaluation
    ("FMM, charges to gradients: plan and evaluation", 10**6): 14.0,
    ("FMM, charges to gradients: rebuilt and evaluated", 10**6): 5.0,
    ("FMM, charges to gradients: evaluation", 10**7): 28.0,
    ("FMM, charges to gradients: plan and evaluation", 10**7): 75.0,
    ("FMM, clustered, charges to gradients: evaluation", 10**6): 6.0,
    ("FMM, quadrupoles to third derivatives: evaluation", 10**6): 30.0,
    ("batch, molecules in many charges: field to order 2", 256): 0.1,
    ("batch, molecule in many charges: field to order 2", 1): 0.02,
    # launches of 2 microseconds each, and the heavy ones
    ("model, 60 atoms in 3000 charges: recorded", 1): 1.3,
    ("model, 60 atoms in 3000 charges: kernel by kernel", 1): 4.5,
    ("model, 60 atoms in 3000 charges: recorded", 256): 20.0,
    ("AMP-BMS, 875 atoms in 12960 charges: recorded", 1): 3.3,
    ("AMP-BMS, 875 atoms in 12960 charges: kernel by kernel", 1): 5.5,
    # 5 microseconds of the host for each of 11,500 and some 2000 launches
    ("training step, 20 atoms in 300 charges, plain torch", 64): 57.0,
    ("training step, 20 atoms in 300 charges", 64): 12.0,
    ("first call of a second process", 10**6): 700.0,
}
COLUMNS = (
    "group", "case", "n", "dtype", "seconds", "predicted", "target", "met", "rate", "unit", "limit",
    "error", "bound", "right", "remark", "device", "date",
)  # fmt: skip


def direct(place: Any) -> Iterator[Any]:
    """Charges to potential and gradient, all pairs, against the device's limit."""
    from _gpu_sums import direct

    return direct(place)


def batches(place: Any) -> Iterator[Any]:
    """Molecules in charges, in batches and by lists of pairs."""
    from _gpu_sums import batches

    return batches(place)


def multipole_method(place: Any) -> Iterator[Any]:
    """Fast multipole method at a million and ten million points."""
    from _gpu_fmm import multipole_method

    return multipole_method(place)


def first(place: Any) -> Iterator[Any]:
    """First call of a process, and of a second one."""
    from _gpu_first import first

    return first(place)


def model(place: Any) -> Iterator[Any]:
    """Energy and forces of the model, alone and in a batch."""
    from _gpu_model import evaluation

    return evaluation(place)


def training(place: Any) -> Iterator[Any]:
    """Training steps, beside plain torch."""
    from _gpu_model import training

    return training(place)


def peers(place: Any) -> Iterator[Any]:
    """Other libraries on the same points, as far as they are installed."""
    from _gpu_peers import peers

    return peers(place)


CASES = {
    "fmm": multipole_method, "direct": direct, "model": model, "batches": batches,
    "training": training, "first": first, "peers": peers,
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
    if entries["predicted"]:
        words.append(f"predicted {entries['predicted'] * 1e3:.3g} ms")
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
                foreseen = PREDICTED.get((found.case, found.n))
                entries["predicted"] = foreseen and 1e-3 * foreseen
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
