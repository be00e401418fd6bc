"""Pairs per second of the direct sums, beside plain Numba loops on the same machine.

    python benchmarks/direct_sum.py [--quick]

Prints tables; writes results/direct_sum.csv, results/direct_sum_orders.csv and
results/direct_sum.png beside this file. Times are the least of several repeats. Pairs are (target,
source) for fields, unordered for the energies of quadrupoles. The second table compares loops that
are written for their orders and kernel with the loop for any order, on one thread.
"""

import argparse
import time
from typing import Any, NamedTuple

import numba
import numpy as np
from _output import pyplot, write_picture, write_table

import multipoles as mp
from multipoles import indexing, reference, sums
from multipoles.neighbours import Slots
from multipoles.pairwise import quadrupole_pair

# least rates on one thread, pairs per second
TARGETS = {
    ("charges", "float64"): 1.5e9,
    ("charges", "float32"): 3e9,
    ("quadrupoles", "float64"): 9e7,
}


# orders of moments and derivatives, and kernels
ORDERS = [(0, 2), (0, 3), (1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (3, 4)]
DAMPED = [(1, 1), (2, 3)]
KERNELS = [
    mp.Coulomb(), mp.Erf(2.0), mp.Erfc(2.0), mp.Yukawa(0.5), mp.Thole(0.39), mp.Softened(0.5),
]  # fmt: skip


class OfOrders(NamedTuple):
    """One measurement of a field of moments of order K to derivatives of order D.

    Rates in pairs per second, of the loop for any order and of that which is written for these.
    """

    kernel: str
    dtype: str
    source_order: int
    order: int
    any_order: float
    written: float
    difference: float


class Result(NamedTuple):
    """One measurement; `rate` in pairs per second, `ratio` to plain Numba, `error` relative."""

    case: str
    dtype: str
    loop: str
    threads: int
    rate: float
    target: float | None
    ratio: float | None
    error: float


@numba.njit(fastmath=True, error_model="numpy")
def plain_charges(xs, ys, zs, charges, out):
    """Write potential and gradient: the plain loop, which LLVM makes vectors of as it can.

    The coordinates are three arrays, or three columns of one, where vectors are hard to fill.
    """
    n = xs.shape[0]
    zero, one = xs.dtype.type(0), xs.dtype.type(1)
    for i in range(n):
        potential, gx, gy, gz = zero, zero, zero, zero
        for j in range(n):
            x = xs[i] - xs[j]
            y = ys[i] - ys[j]
            z = zs[i] - zs[j]
            r2 = x * x + y * y + z * z
            inverse = one / np.sqrt(r2) if r2 > zero else zero
            part = charges[j] * inverse
            potential += part
            part *= inverse * inverse
            gx -= part * x
            gy -= part * y
            gz -= part * z
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = potential, gx, gy, gz


@numba.njit(fastmath=True, error_model="numpy")
def _site(moments, i):
    half = moments.dtype.type(0.5)
    m = moments[i]
    return m[0], (m[1], m[2], m[3]), (m[4], m[5] * half, m[6] * half, m[7], m[8] * half, m[9])


@numba.njit(fastmath=True, error_model="numpy")
def plain_quadrupoles(positions, moments, out):
    """Add gradients and fields of all unordered pairs, by the formulas of our own loop."""
    for i in range(positions.shape[0]):
        c1, d1, q1 = _site(moments, i)
        for j in range(i + 1, positions.shape[0]):
            c2, d2, q2 = _site(moments, j)
            r = (
                positions[i, 0] - positions[j, 0],
                positions[i, 1] - positions[j, 1],
                positions[i, 2] - positions[j, 2],
            )
            u = 1 / (r[0] * r[0] + r[1] * r[1] + r[2] * r[2])
            g0 = np.sqrt(u)
            g1 = -g0 * u
            g2 = -3 * g1 * u
            g3 = -5 * g2 * u
            g4 = -7 * g3 * u
            chain = (g0, g1, g2, g3, g4, -9 * g4 * u)
            gradient, field1, field2 = quadrupole_pair(r, chain, c1, d1, q1, c2, d2, q2)
            for k in range(3):
                out[i, k] += gradient[k]
                out[j, k] -= gradient[k]
            for k in range(10):
                out[i, 3 + k] += field1[k]
                out[j, 3 + k] += field2[k]


def least_time(function, repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def charges(n: int, dtype: Any, threads: list[int], repeats: int) -> list[Result]:
    rng = np.random.default_rng(0)
    x = rng.random((n, 3)).astype(dtype)
    q = rng.standard_normal((n, 1)).astype(dtype)
    sample = rng.choice(n, 20, replace=False)
    expected = reference.field(x[sample], x, q, 1)
    out = np.zeros((n, 4), dtype)
    results: list[Result] = []
    base = None
    for loop, layout in (("plain Numba", x.T.copy()), ("plain, (n, 3)", x.T)):
        xs, ys, zs = layout

        def plain(xs=xs, ys=ys, zs=zs) -> None:
            plain_charges(xs, ys, zs, q[:, 0], out)

        rate = n * n / least_time(plain, repeats)
        error = relative(out[sample], expected)
        results.append(_result("charges", dtype, loop, 1, rate, base, error))
        base = base or rate
    for count in threads:
        mp.set_num_threads(count)
        seconds = least_time(lambda: mp.field(x, x, q, 1), repeats)
        error = relative(mp.field(x, x, q, 1)[sample], expected)
        results.append(_result("charges", dtype, "multipoles", count, n * n / seconds, base, error))
    return results


def quadrupoles(n: int, dtype: Any, threads: list[int], repeats: int) -> list[Result]:
    rng = np.random.default_rng(0)
    x, m = rng.random((n, 3)).astype(dtype), rng.standard_normal((n, 10)).astype(dtype)
    sample = rng.choice(n, 20, replace=False)
    phi = reference.field(x[sample], x, m, 2)
    pairs = n * (n - 1) / 2

    def plain() -> np.ndarray:
        out = np.zeros((n, 13), dtype)
        plain_quadrupoles(x, m, out)
        return out

    base = pairs / least_time(plain, repeats)
    error = relative(plain()[sample, 3:], phi)
    results = [_result("quadrupoles", dtype, "plain Numba", 1, base, None, error)]

    def ours() -> np.ndarray:
        _, _, gradients = mp.energy_forces(x, m)
        mp.torques(m, gradients)
        return gradients

    for count in threads:
        mp.set_num_threads(count)
        rate = pairs / least_time(ours, repeats)
        error = relative(ours()[sample], phi)
        results.append(_result("quadrupoles", dtype, "multipoles", count, rate, base, error))
    return results


def of_orders(n: int, repeats: int) -> list[OfOrders]:
    rng, found = np.random.default_rng(0), []
    mp.set_num_threads(1)
    everybody, least = Slots(n, n), sums._EMIT_FROM
    for kernel in KERNELS:
        for dtype in (np.float64, np.float32):
            x = rng.random((n, 3)).astype(dtype)
            for source_order, order in ORDERS if kernel == mp.Coulomb() else DAMPED:
                shape = n, 1, indexing.n_components(source_order)
                m = rng.standard_normal(shape).astype(dtype)
                rates, fields = [], []
                for sums._EMIT_FROM in (np.inf, 0.0):
                    given = x, x, m, order, kernel, everybody
                    seconds = least_time(lambda given=given: sums.field_arrays(*given), repeats)
                    rates.append(n * n / seconds)
                    fields.append(sums.field_arrays(*given))
                name, number = type(kernel).__name__, np.dtype(dtype).name
                orders = source_order, order
                found.append(OfOrders(name, number, *orders, *rates, relative(*fields[::-1])))
    sums._EMIT_FROM = least
    return found


def show_orders(found: list[OfOrders]) -> None:
    print(
        f"\n{'kernel':<10}{'dtype':<9}{'K':>3}{'D':>3}{'any order':>12}{'written':>10}{'gain':>7}"
    )
    for r in found:
        print(
            f"{r.kernel:<10}{r.dtype:<9}{r.source_order:>3}{r.order:>3}{r.any_order / 1e6:>12.1f}"
            f"{r.written / 1e6:>10.1f}{r.written / r.any_order:>7.1f}"
        )


def _result(case, dtype, loop, threads, rate, base, error) -> Result:
    name = np.dtype(dtype).name
    target = TARGETS.get((case, name)) if loop == "multipoles" and threads == 1 else None
    ratio = rate / base if base is not None else None
    return Result(case, name, loop, threads, rate, target, ratio, error)


def show(results: list[Result]) -> None:
    print(
        f"{'sum':<13}{'dtype':<9}{'loop':<15}{'threads':>7}{'Mpairs/s':>11}{'target':>9}"
        f"{'× plain':>9}{'error':>10}"
    )
    for r in results:
        target = f"{r.target / 1e6:.0f}" if r.target else "–"
        ratio = f"{r.ratio:.1f}" if r.ratio else "–"
        verdict = "" if not r.target else ("  met" if r.rate >= r.target else "  MISSED")
        print(
            f"{r.case:<13}{r.dtype:<9}{r.loop:<15}{r.threads:>7}{r.rate / 1e6:>11.1f}{target:>9}"
            f"{ratio:>9}{r.error:>10.1e}{verdict}"
        )


def plot(results: list[Result]) -> None:
    if (plt := pyplot()) is None:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for axis, case in zip(axes, ("charges", "quadrupoles"), strict=True):
        rows = [r for r in results if r.case == case]
        labels = [f"{r.loop}, {r.dtype}, {r.threads} thr." for r in rows]
        colours = ["0.6" if r.loop.startswith("plain") else "C0" for r in rows]
        axis.barh(labels, [r.rate / 1e6 for r in rows], color=colours)
        for place, row in enumerate(rows):
            if row.target:
                axis.plot([row.target / 1e6] * 2, [place - 0.4, place + 0.4], "k:", label="target")
        axis.invert_yaxis()
        axis.set(title=case, xlabel="million pairs per second")
    print(f"written: {write_picture('direct_sum', figure)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sums, fewer repeats")
    quick = parser.parse_args().quick
    threads = sorted({1, mp.get_num_threads()})
    repeats = 3 if quick else 7
    results = []
    print(f"charges: potential and gradient of {20000 if not quick else 5000} at their places")
    print(
        f"quadrupoles: charge + dipole + quadrupole, {5000 if not quick else 2000} sites, energy,"
    )
    print("  forces, moment gradients and torques\n")
    for dtype in (np.float64, np.float32):
        results += charges(5000 if quick else 20000, dtype, threads, repeats)
    for dtype in (np.float64, np.float32):
        results += quadrupoles(2000 if quick else 5000, dtype, threads, repeats)
    show(results)
    print(f"written: {write_table('direct_sum', Result._fields, results)}")
    found = of_orders(1000 if quick else 3000, repeats)
    show_orders(found)
    print(f"written: {write_table('direct_sum_orders', OfOrders._fields, found)}")
    plot(results)


if __name__ == "__main__":
    main()
