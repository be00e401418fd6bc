"""Derivatives of a multipole's potential under a damped kernel, as plain arithmetic.

`traceless` leaves out traces, which do no work under 1/r. Under another radial kernel they do. A
moment of order n is a polynomial of degree n in the derivatives, and so a sum of harmonic ones
times powers of their square, the Laplacian L (*levels* m = 0, 1, ...):

    M(grad) f = sum_m H_m(grad) L^m f,   H_m traceless of order n - 2m.

L^m f is a radial kernel like any other: from the chain g of f, that of L f is

    h_n = (2n + 3) g_(n+1) + r^2 g_(n+2),

zero for 1/r. So each level is what `traceless` has, with its own chain. The same holds for the
derivatives of the result: traceless ones of order n - 2j, of L^j phi. Level m of moments gives
level j of derivatives by the chain of L^(m+j) f.

The functions have the names and arguments of those of `traceless`, which the loop uses as well.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from multipoles import indexing
from multipoles.emitted import traceless
from multipoles.emitted.traceless import Index, Triple
from multipoles.polynomials import detrace_matrix, laplacian, times_r2


def row_names(source_order: int, order: int) -> list[tuple[int, int, Index, bool]]:
    """Return level, order, component and whether folded, of each row that `add_field` reads."""
    return [
        (m, *name)
        for m in range(source_order // 2 + 1)
        for name in traceless.row_names(source_order - 2 * m, order)
    ]


def sum_names(order: int) -> list[tuple[int, Index]]:
    """Return level and component of each sum of `add_field`."""
    return [
        (j, gamma) for j in range(order // 2 + 1) for gamma in traceless.sum_names(order - 2 * j)
    ]


def geometry(source_order: int, order: int, r: Triple, square: Any, chain: list[Any]) -> Any:
    """Return what `add_field` needs of a pair: r^2 and the chain g_0 ... g_(K + D)."""
    chains = [chain]
    for _ in range(source_order // 2 + order // 2):
        last = chains[-1]
        chains.append(
            [
                last[n + 1] * float(2 * n + 3) + square * last[n + 2]
                for n in range(len(last) - 2)
            ]
        )  # fmt: skip
    return traceless.fractions(r, max(source_order, order)), chains


def undamped(source_order: int, order: int, r: Triple, inverse: Any) -> Any:
    """Return the same for 1/r, where levels beyond the first do nothing."""
    chain = traceless.coulomb_chain(inverse, source_order + order)
    return traceless.fractions(r, max(source_order, order)), [chain]


def add_field(
    source_order: int, order: int, shared: Any, rows: list[Any], sums: list[Any]
) -> list[Any]:
    """Return the sums with one source added: moments by `row_names`, sums by `sum_names`."""
    r, chains = shared
    first, levels = 0, []
    for m in range(min(source_order // 2 + 1, len(chains))):
        last = first + len(traceless.row_names(source_order - 2 * m, order))
        levels.append(traceless.polynomials(source_order - 2 * m, order, r, rows[first:last]))
        first = last
    out, place = [], 0
    for j in range(order // 2 + 1):
        count = len(traceless.sum_names(order - 2 * j))
        part = sums[place : place + count]
        terms = list(zip(levels, chains[j:], strict=False))
        out += traceless.add_products(order - 2 * j, r, terms, part) if terms else part
        place += count
    return out


# --- moments and derivatives by level -------------------------------------------------------------


@lru_cache
def moments_of_level(rank: int, level: int) -> np.ndarray:
    """Return the matrix from packed moments of order `rank` + 2 `level` to H_level."""
    matrix = np.eye(len(range(*_span(rank + 2 * level))))
    for n in range(rank + 2 * level, rank, -2):
        matrix = laplacian(n) @ matrix
    return detrace_matrix(rank) @ matrix / _norm(rank, level)


@lru_cache
def derivatives_of_level(rank: int, level: int) -> np.ndarray:
    """Return the matrix from derivatives of L^level phi, traceless, to those of order + 2 level."""
    matrix = np.diag(1 / _factorials(rank))
    for n in range(rank, rank + 2 * level, 2):
        matrix = times_r2(n) @ matrix
    return _factorials(rank + 2 * level)[:, None] * matrix / _norm(rank, level)


def _norm(rank: int, level: int) -> float:
    """Return L^level (r^(2 level) H) / H for a harmonic polynomial H of degree `rank`."""
    return float(np.prod([2.0 * i * (2 * rank + 2 * i + 1) for i in range(1, level + 1)]))


def _span(rank: int) -> tuple[int, int]:
    part = indexing.order_slice(rank)
    return part.start, part.stop


def _factorials(rank: int) -> np.ndarray:
    return indexing.factorials(rank)[indexing.order_slice(rank)]


# --- cost -----------------------------------------------------------------------------------------


def n_products(source_order: int, order: int) -> tuple[int, int]:
    """Return the number of products beyond the range, for a pair and for each channel."""

    def run(number: Any) -> Iterator[None]:
        shared = undamped(source_order, order, (number,) * 3, number)
        yield
        rows = [number] * len(row_names(source_order, order))
        add_field(source_order, order, shared, rows, [number] * len(sum_names(order)))

    return traceless.count_products(run)
