"""What near pairs and translations of the FMM cost, one thread.

    python benchmarks/fmm_parts.py

- Near pairs in float64, in float32 with coordinates in two parts (what plans take where the
  tolerance allows it), and in float32 throughout: leaves of 60 charges or multipoles that meet
  1620 sources.
- Multipole-to-local translations in three steps, boxes anywhere in memory, beside a product with a
  dense matrix by BLAS, boxes side by side: 4096 boxes, float32 and float64.

Least of some repeats, taken in turns. Prints two tables; writes results/fmm_near.csv and
results/fmm_translations.csv beside this file.
"""

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import time
from collections.abc import Callable

import numpy as np
from _output import write_table

from fmm.far import harmonics, rotations, translations
from multipoles import indexing
from multipoles.compiled.jit import serial
from multipoles.emitted.field import field_of_tiles

LEAF, NEAR, N_LEAVES = 60, 27 * 60, 200
ORDERS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 3))
SHIFT, BOXES = (2, 1, 0), 4096
DEGREES = {"float32": (4, 6, 8, 10), "float64": (6, 10, 14, 20, 27, 40)}


def least(runs: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Return the least seconds of each run, taken in turns."""
    for run in runs.values():
        run()
    seconds = dict.fromkeys(runs, np.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def near_rows() -> list[tuple[str, ...]]:
    """Time near pairs of several orders."""
    rng, n = np.random.default_rng(0), LEAF * N_LEAVES
    x = rng.random((n, 3))
    first = LEAF * np.arange(N_LEAVES)
    sources = np.minimum(first, n - NEAR)
    tiles = (
        np.stack([first, first + LEAF], axis=1), np.arange(N_LEAVES + 1),
        np.stack([sources, sources + NEAR], axis=1),
    )  # fmt: skip
    rows = []
    for source_order, order in ORDERS:
        moments = rng.standard_normal((n, 1, indexing.n_components(source_order)))
        kinds = {"double": (x, moments), "parts": (x, moments.astype(np.float32))}
        kinds["single"] = tuple(a.astype(np.float32) for a in kinds["double"])
        runs = {}
        for name, (points, strengths) in kinds.items():
            out = np.empty((n, 1, indexing.n_components(order)), strengths.dtype)
            given = points, points, strengths, order, tiles, out
            runs[name] = lambda given=given: field_of_tiles(*given)
        seconds = least(runs)
        rate = {name: n * NEAR / value / 1e9 for name, value in seconds.items()}
        gain = seconds["double"] / seconds["parts"]
        rows.append((source_order, order, *(f"{rate[k]:.2f}" for k in kinds), f"{gain:.2f}"))
        print(*(f"{cell!s:>8s}" for cell in rows[-1]), flush=True)
    return rows


def translation_rows() -> list[tuple[str, ...]]:
    """Time translations of several degrees."""
    rng, rows = np.random.default_rng(0), []
    for name, degrees in DEGREES.items():
        dtype = np.dtype(name)
        for degree in degrees:
            size = harmonics.n_harmonics(degree)
            length = translations.row_length(size, dtype)
            x = np.zeros((BOXES + 1, length), dtype)
            x[:-1, :size] = rng.standard_normal((BOXES, size))
            y = np.zeros_like(x)
            senders, receivers = (rng.permutation(BOXES).astype(np.int32) for _ in range(2))
            operators = rotations.operators_of(
                [SHIFT], {SHIFT: degree}, {SHIFT: np.array([0])}, dtype
            )
            given = (
                0, BOXES, operators, 0, translations.reflection(0, degree, dtype), senders,
                receivers, 1, x.ravel(), length, y.ravel(), length,
                *rotations.scratch(degree, dtype),
            )  # fmt: skip
            matrix = translations.transfer_matrix(SHIFT, degree).T.astype(dtype)
            side, out = np.ascontiguousarray(x[:-1, :size]), np.empty((BOXES, size), dtype)
            seconds = least({
                "steps": lambda given=given: rotations.translate(*given),
                "dense": lambda a=side, b=matrix, c=out: np.matmul(a, b, out=c),
            })  # fmt: skip
            made = [rotations.tiles_of(degree).lengths, size**2]
            each = {key: 1e9 * value / BOXES for key, value in seconds.items()}
            gain = each["dense"] / each["steps"]
            memory = made[1] / sum(made[0])
            rows.append(
                (name, degree, f"{each['steps']:.0f}", f"{each['dense']:.0f}", f"{gain:.2f}",
                 f"{memory:.1f}")
            )  # fmt: skip
            print(*(f"{cell!s:>8s}" for cell in rows[-1]), flush=True)
    return rows


def main() -> None:
    """Measure, print and write."""
    with serial():
        print("near pairs, 10⁹/s: orders of sources and field, float64, two parts, float32, gain")
        columns = ("source_order", "order", "double", "parts", "single", "gain")
        write_table("fmm_near", columns, near_rows())
        print("ns a translation: type, degree, three steps, dense by BLAS, gain, of memory")
        columns = ("dtype", "degree", "steps", "dense", "gain", "memory")
        write_table("fmm_translations", columns, translation_rows())


if __name__ == "__main__":
    main()
