"""Moments as the rows that emitted loops read, and their sums as packed derivatives.

Moments and derivatives are without trace (`traceless`) where that does no work, and have levels of
traces (`traces`) where it does.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import bare, run_chunks
from multipoles.compiled.simd import BYTES
from multipoles.emitted import sizes, traceless, traces

# a matrix row by row: starts of rows, columns, factors
Terms = tuple[np.ndarray, np.ndarray, np.ndarray]


def source_rows(
    sources: np.ndarray, moments: np.ndarray, order: int, damped: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates and folded moments as rows, (3, n + l) and (m, n + l).

    Rows are longer than `sources` by a vector of l numbers, so that whole vectors can be copied.
    Where both have one dtype, they are parts of one array, one after another.
    """
    n, channels, packed = moments.shape
    dtype = moments.dtype
    terms = _terms(_fold, indexing.order_of(packed), order, damped, dtype)
    n_rows, length = channels * (len(terms[0]) - 1), n + BYTES // dtype.itemsize
    if sources.dtype == dtype:
        rows = np.empty((3 + n_rows, length), dtype)
        places, folded = rows[:3], rows[3:]
    else:
        places, folded = np.empty((3, length), sources.dtype), np.empty((n_rows, length), dtype)
    places[:, n:] = folded[:, n:] = 0

    def task(first: int, last: int) -> None:
        _fold_sources(first, last, sources, moments, terms, places, folded)

    # a row's number costs about as much as a pair of charges
    run_chunks(task, n, n * (3 + n_rows))
    return places, folded


@bare
def _fold_sources(first, last, sources, moments, terms, places, rows):
    """Write columns first ... last - 1 of the rows of `source_rows`."""
    starts, columns, factors = terms
    n_folded = starts.shape[0] - 1
    for begin in range(first, last, 64):
        end = min(begin + 64, last)
        for axis in range(3):
            for j in range(begin, end):
                places[axis, j] = sources[j, axis]
        for channel in range(moments.shape[1]):
            for k in range(n_folded):
                row = channel * n_folded + k
                for j in range(begin, end):
                    rows[row, j] = moments[j, channel, columns[starts[k]]] * factors[starts[k]]
                for term in range(starts[k] + 1, starts[k + 1]):
                    for j in range(begin, end):
                        rows[row, j] += moments[j, channel, columns[term]] * factors[term]


def unfolding(source_order: int, order: int, damped: bool, dtype: np.dtype) -> Terms:
    """Return the matrix from the loop's sums to packed derivatives."""
    return _terms(_unfold, source_order, order, damped, dtype)


# --- tables ---------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _terms(
    matrix: Callable[[int, int, bool], np.ndarray],
    source_order: int,
    order: int,
    damped: bool,
    dtype: np.dtype,
) -> Terms:
    """Return the entries of a matrix row by row."""
    entries = matrix(source_order, order, damped)
    # products of small fractions: what should vanish may leave its rounding error
    kept = np.abs(entries) > 1e-12
    starts = np.append(0, np.cumsum(kept.sum(axis=1)))
    return starts, np.ascontiguousarray(np.nonzero(kept)[1]), entries[kept].astype(dtype)


def _fold(source_order: int, order: int, damped: bool = False) -> np.ndarray:
    """Return the matrix from packed moments to the rows of moments that the loop reads."""
    names = sizes.arithmetic(damped).row_names(source_order, order)
    out = np.zeros((len(names), indexing.n_components(source_order)))
    mixed = damped or traceless.has_products(source_order, order)
    for row, name in enumerate(names):
        level, rank, gamma, is_folded = name if damped else (0, *name)
        plain = _of_level(rank, level) * ((-1) ** rank if mixed else _leading(rank))
        chosen = _fold_matrix(rank) @ plain if is_folded else plain
        columns = indexing.order_slice(rank + 2 * level)
        out[row, columns] = chosen[traceless.components(rank).index(gamma)]
    return out


def _unfold(source_order: int, order: int, damped: bool = False) -> np.ndarray:
    """Return the matrix from the loop's sums to packed derivatives."""
    n_sums = len(sizes.arithmetic(damped).sum_names(order))
    out = np.zeros((indexing.n_components(order), n_sums))
    mixed = damped or traceless.has_products(source_order, order)
    first = 0
    for level in range(order // 2 + 1 if damped else 1):
        for rank in range(order - 2 * level + 1):
            block = _expansion(rank) @ np.linalg.inv(_fold_matrix(rank))
            if not mixed:
                block = block * ((-1) ** rank * _leading(rank))
            rows = indexing.order_slice(rank + 2 * level)
            columns = slice(first + rank**2, first + (rank + 1) ** 2)
            out[rows, columns] = traces.derivatives_of_level(rank, level) @ block
        first += (order - 2 * level + 1) ** 2
    return out


def _expansion(rank: int) -> np.ndarray:
    """Return the matrix from the components of a traceless tensor to all."""
    to = traceless.components(rank)
    rows = ([traceless.reduced(gamma).get(index, 0.0) for index in to] for gamma in _indices(rank))
    return np.array(list(rows))


def _indices(rank: int) -> list[tuple[int, int, int]]:
    rows = indexing.multi_indices(rank)[indexing.order_slice(rank)]
    return [tuple(row) for row in rows.tolist()]


def _leading(rank: int) -> float:
    """Return (2l - 1)!! / l!, the leading coefficient of a Legendre polynomial."""
    return float(np.prod([(2 * n - 1) / n for n in range(1, rank + 1)]))


def _of_level(rank: int, level: int) -> np.ndarray:
    """Return the matrix from packed moments of one order to gamma! H_gamma of a level."""
    start = indexing.order_slice(rank).start
    factorials = indexing.factorials(rank)
    matrix: np.ndarray = traces.moments_of_level(rank, level) * factorials[start:, None]
    rows = [indexing.component_index(*gamma) - start for gamma in traceless.components(rank)]
    chosen: np.ndarray = matrix[rows]
    return chosen


def _fold_matrix(rank: int) -> np.ndarray:
    """Return `traceless.fold_terms` as a matrix."""
    at = {gamma: i for i, gamma in enumerate(traceless.components(rank))}
    out = np.zeros((len(at), len(at)))
    for to, terms in traceless.fold_terms(rank).items():
        for source, factor in terms.items():
            out[at[to], at[source]] = factor
    return out
