"""Every kernel, order and kind of sum against the slow twin, as a table of errors."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from multipoles import indexing, interactions, radial, reference

KERNELS: tuple[radial.Kernel, ...] = (
    radial.Coulomb(),
    radial.Yukawa(0.8),
    radial.Erf(0.7),
    radial.Erfc(0.7),
    radial.Thole(0.39),
    radial.ReactionField(4.0),
    radial.Softened(2.0),
    radial.InversePower(2.5),
)
ORDERS = ((0, 1), (1, 2), (2, 3), (3, 3), (4, 6))
TOLERANCES: dict[np.dtype, float] = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-4}


class Row(NamedTuple):
    """One comparison; errors are relative in the L2 norm, the worst of all orders."""

    name: str
    source_order: int
    order: int
    dtype: str
    error: float
    tolerance: float
    ok: bool


def validate(log: Callable[[str], Any] | None = None) -> list[Row]:
    """Compare `field` and `energy_forces` with `reference`.

    Parameters
    ----------
    log : callable, optional
        Called with one line of text per comparison, and a header before them.

    Returns
    -------
    list of Row
        Name, source order, output order, dtype, error, tolerance, and whether it is within.
    """
    rows = []
    if log is not None:
        log(f"{'sum':<32}{'orders':>8}{'dtype':>9}{'error':>10}{'allowed':>10}")
    for row in _comparisons():
        rows.append(row)
        if log is not None:
            orders = f"{row.source_order} → {row.order}"
            mark = "" if row.ok else "  FAILED"
            log(
                f"{row.name:<32}{orders:>8}{row.dtype:>9}{row.error:>10.1e}"
                f"{row.tolerance:>10.0e}{mark}"
            )
    return rows


def _comparisons() -> Iterator[Row]:
    rng = np.random.default_rng(7)
    for dtype in TOLERANCES:
        # some targets are sources, all others keep a distance
        points = _lattice(rng, dtype)
        targets, sources = points[:22], points[12:]
        batches = np.arange(22) // 8, np.arange(len(sources)) // 9
        pairs = np.argwhere(rng.random((22, len(sources))) < 0.3)
        rng.shuffle(pairs)
        kinds: dict[str, dict[str, Any]] = {
            "all pairs": {},
            "batches": {"target_batch": batches[0], "source_batch": batches[1]},
            "pair list": {"pairs": pairs},
        }
        for kernel in KERNELS:
            for source_order, order in ORDERS:
                shape = (len(sources), indexing.n_components(source_order))
                moments = rng.standard_normal(shape).astype(dtype)
                for kind, options in kinds.items():
                    arguments = (targets, sources, moments, order, kernel)
                    error = _error(
                        interactions.field(*arguments, **options),
                        reference.field(*arguments, **options),
                    )
                    yield _row(f"{_name(kernel)}, {kind}", source_order, order, dtype, error)
            yield from _energies(rng, points[:24], kernel, dtype)


def _energies(
    rng: np.random.Generator, points: np.ndarray, kernel: radial.Kernel, dtype: np.dtype
) -> Iterator[Row]:
    pairs = np.argwhere(np.triu(rng.random((len(points), len(points))) < 0.1, 1))
    scale = (pairs, rng.random(len(pairs)))
    for order in (0, 1, 2, 3):
        moments = rng.standard_normal((len(points), indexing.n_components(order))).astype(dtype)
        got = interactions.energy_forces(points, moments, kernel, pair_scale=scale)
        expected = reference.energy_forces(points, moments, kernel, pair_scale=scale)
        # the energy is a sum of terms of both signs: its error is measured by their size
        size = np.linalg.norm(moments) * np.linalg.norm(expected[2])
        error = _worst(
            [
                abs(got[0] - expected[0]) / float(size),
                _relative(got[1], expected[1]),
                _relative(got[2], expected[2]),
            ]
        )
        yield _row(f"{_name(kernel)}, energy and forces", order, order, dtype, error)


def _row(name: str, source_order: int, order: int, dtype: np.dtype, error: float) -> Row:
    tolerance = TOLERANCES[dtype]
    ok = bool(error <= tolerance)  # false for NaN
    return Row(name, source_order, order, dtype.name, float(error), tolerance, ok)


def _name(kernel: radial.Kernel) -> str:
    return type(kernel).__name__


def _lattice(rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """Return 36 points, none closer than 0.6 to another."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = rng.permutation(len(grid))[:36]
    return (grid[chosen] + rng.uniform(-0.2, 0.2, (36, 3))).astype(dtype)


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the worst relative error of any order of derivative."""
    parts = [indexing.order_slice(n) for n in range(indexing.order_of(got.shape[-1]) + 1)]
    return _worst([_relative(got[..., part], expected[..., part]) for part in parts])


def _worst(errors: list[float]) -> float:
    """Return the greatest, or NaN if one is."""
    return float(np.max(errors))


def _relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def summary(rows: list[Row]) -> list[str]:
    """Return a table with a line per kernel and kind of sum: the worst error in each dtype."""
    lines = [f"{'':<34} {'orders':<14} {'float64':>9} {'float32':>9}"]
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        first, last = mine[0], max(mine, key=lambda row: (row.source_order, row.order))
        orders = f"{first.source_order}→{first.order} … {last.source_order}→{last.order}"
        cells = []
        for dtype in ("float64", "float32"):
            worst = _worst([row.error for row in mine if row.dtype == dtype])
            failed = any(not row.ok for row in mine if row.dtype == dtype)
            cells.append(f"{worst:9.1e}" + ("  FAILED" if failed else ""))
        lines.append(f"{name:<34} {orders:<14} " + " ".join(cells))
    return lines


def main(verbose: bool = False) -> int:
    """Print the errors against the slow twin; return 0 if all are within their tolerances.

    Parameters
    ----------
    verbose : bool
        Print every comparison as it is made, not the worst of each kernel and kind of sum.
    """
    start = time.perf_counter()
    print("Relative errors of compiled sums against direct summation in the slow twin")
    rows = validate(print if verbose else None)
    failed = sum(not row.ok for row in rows)
    if not verbose:
        print("\n".join(summary(rows)))
    bounds = ", ".join(
        f"{tolerance:.0e} in {dtype.name}" for dtype, tolerance in TOLERANCES.items()
    )
    print(
        f"{len(rows)} comparisons (source order → order of the output), {failed} failed "
        f"(allowed: {bounds}), {time.perf_counter() - start:.1f} s"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
