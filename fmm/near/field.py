"""The near field: the sum over sources close to each leaf of the tree, pair by pair.

Sources become rows (x, y, z, then folded moments) once a call; each leaf copies the ranges near it
into a block that stays in cache, and runs over its targets with vectors of sources. Moments and
derivatives are without trace (`traceless`), which is exact under 1/r.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from fmm.near import loops, traceless, traces
from fmm.near.loops import add_sources
from multipoles import indexing
from multipoles.compiled.jit import bare, bare_inline, run_chunks
from multipoles.compiled.simd import BYTES, load, store
from multipoles.direct_cpu import aligned
from multipoles.neighbours import Slots
from multipoles.radial import Coulomb, Kernel
from multipoles.sums import field_arrays

_COULOMB = Coulomb()
# ranges of targets of leaves, starts of the ranges of sources near to each, and these
Leaves = tuple[np.ndarray, np.ndarray, np.ndarray]
# above this total order, straight-line code would take more than a second to compile
MAX_EMITTED = 12
# what every pair costs, r, 1/r and the loop, in products of numbers
_DISTANCE = 13.0
# how much slower the loop for any order is
_GENERIC = 20.0


def near_field(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    leaf_targets: np.ndarray,
    range_starts: np.ndarray,
    ranges: np.ndarray,
    out: np.ndarray,
    first: int = 0,
    last: int | None = None,
    kernel: Kernel = _COULOMB,
    reach: float = 0.0,
) -> None:
    """Write the field of the sources near each leaf at the leaf's targets.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Contiguous, of one dtype: float32 or float64.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        Packed moments of the same dtype.
    order : int
        Highest derivative.
    leaf_targets : ndarray, int64, shape (n_leaves, 2)
        Range of targets of each leaf.
    range_starts : ndarray, int64, shape (n_leaves + 1,)
        Leaf l is near the sources in ``ranges[range_starts[l] : range_starts[l + 1]]``.
    ranges : ndarray, int64, shape (n_ranges, 2)
        Ranges of sources.
    out : ndarray, shape (n_targets, channels, n_components(order))
        Overwritten at the targets of leaves first ... last - 1; zeros where nothing is near.
    first, last : int
        Leaves to work on; default all.
    kernel : Kernel
        Radial kernel.
    reach : float
        Distance from which on it may be taken for 1/r.
    """
    last = len(leaf_targets) if last is None else last
    channels = moments.shape[1]
    if first >= last or channels == 0:
        return
    source_order = indexing.order_of(moments.shape[2])
    leaves = leaf_targets, range_starts, ranges
    if source_order + order > MAX_EMITTED:
        _generic(targets, sources, moments, order, leaves, out, first, last, kernel)
        return
    dtype, damped = targets.dtype, kernel.code != _COULOMB.code
    rows, n_rows = source_rows(sources, moments, order, damped)
    loop = _loop(source_order, order, channels == 1, dtype.itemsize, kernel.code)
    unfold = _terms(_unfold, source_order, order, damped, dtype)
    chunk = loops.chunk(n_rows, dtype.itemsize)
    width = loops.width(source_order, order, dtype.itemsize, damped)
    row = loops.padded_sums(order, dtype.itemsize, damped)
    n_scratch = loops.n_scratch(source_order, order, channels, dtype.itemsize, damped)
    largest = int((leaf_targets[first:last, 1] - leaf_targets[first:last, 0]).max())

    def task(begin: int, end: int) -> None:
        block = aligned(n_rows * width, dtype)
        vectors = aligned(n_scratch, dtype)
        chain = aligned((source_order + order + 1) * BYTES // dtype.itemsize, dtype)
        sums = aligned(largest * channels * row, dtype)
        for part in range(begin, end):
            loop(
                bounds[part], bounds[part + 1], targets, rows, n_rows, *leaves, unfold, chunk,
                block, vectors, sums, kernel.parameter_array, chain, reach, out,
            )  # fmt: skip

    bounds, n_pairs = _shares(leaves, first, last)
    run_chunks(task, len(bounds) - 1, n_pairs * pair_cost(source_order, order, channels, damped))


def source_rows(
    sources: np.ndarray, moments: np.ndarray, order: int, damped: bool = False
) -> tuple[np.ndarray, int]:
    """Return coordinates and folded moments as rows, one after another, and their number.

    Rows are longer than `sources` by a vector, so that whole vectors can be copied.
    """
    n, channels, packed = moments.shape
    dtype = sources.dtype
    terms = _terms(_fold, indexing.order_of(packed), order, damped, dtype)
    n_rows = 3 + channels * (len(terms[0]) - 1)
    rows = np.empty((n_rows, n + BYTES // dtype.itemsize), dtype)
    rows[:, n:] = 0

    def task(first: int, last: int) -> None:
        _fold_sources(first, last, sources, moments, terms, rows)

    # a row's number costs about as much as a pair of charges
    run_chunks(task, n, n * n_rows)
    return rows.reshape(-1), n_rows


def _shares(leaves: Leaves, first: int, last: int) -> tuple[np.ndarray, int]:
    """Return bounds of runs of leaves with about the same number of pairs, and that of all."""
    leaf_targets, starts, ranges = leaves
    ends = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
    n_sources = np.diff(ends[starts[first : last + 1]])
    n_targets = leaf_targets[first:last, 1] - leaf_targets[first:last, 0]
    # a target costs something even where nothing is near
    total = np.cumsum(n_targets * (n_sources + 16))
    wanted = np.arange(1, 64) * (total[-1] / 64)
    inner = np.unique(np.searchsorted(total, wanted)) + first
    inner = inner[(inner > first) & (inner < last)]
    return np.concatenate([[first], inner, [last]]), int(total[-1])


def _generic(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    leaves: Leaves,
    out: np.ndarray,
    first: int,
    last: int,
    kernel: Kernel,
) -> None:
    """Do the same by the loop for any order, leaf by leaf."""
    leaf_targets, starts, ranges = leaves
    for leaf in range(first, last):
        begin, end = leaf_targets[leaf].tolist()
        near = [np.arange(a, b) for a, b in ranges[starts[leaf] : starts[leaf + 1]]]
        index = np.concatenate([np.empty(0, np.int64), *near])
        out[begin:end] = field_arrays(
            targets[begin:end], sources[index], np.ascontiguousarray(moments[index]), order,
            kernel, Slots(end - begin, len(index)),
        )  # fmt: skip


# --- kernels --------------------------------------------------------------------------------------


@lru_cache
def _loop(source_order: int, order: int, single: bool, itemsize: int, code: int) -> Any:
    """Return the loop over leaves first ... last - 1 for these orders and numbers."""
    damped = code != _COULOMB.code
    step = loops.step(source_order, order, single, BYTES // itemsize, damped)
    width = loops.width(source_order, order, itemsize, damped)
    row = loops.padded_sums(order, itemsize, damped)

    @bare
    def near(
        first, last, targets, rows, n_rows, leaf_targets, range_starts, ranges, unfold, chunk,
        block, vectors, sums, parameters, chain, reach, out,
    ):  # fmt: skip
        channels = out.shape[1]
        for leaf in range(first, last):
            begin, end = leaf_targets[leaf, 0], leaf_targets[leaf, 1]
            sums[: (end - begin) * channels * row] = 0.0
            at, inside, stop = range_starts[leaf], 0, range_starts[leaf + 1]
            while at < stop:
                at, inside, n = _fill(
                    rows, n_rows, ranges, at, inside, stop, chunk, width, step, block
                )
                add_sources(
                    source_order, order, single, code, targets, begin, end, block, n, channels,
                    vectors, sums, parameters, chain, reach,
                )  # fmt: skip
            _write(sums, row, unfold, begin, end, out)

    return near


@bare_inline
def _fill(rows, n_rows, ranges, at, inside, stop, chunk, width, step, block):
    """Copy sources into the block until it or the ranges end; return where to go on, and n.

    Sources are added up to a multiple of `step`: the last position again, moments of zero.
    """
    length = rows.shape[0] // n_rows
    lanes = BYTES // block.itemsize
    n = 0
    while at < stop and n < chunk:
        start = ranges[at, 0] + inside
        count = min(ranges[at, 1] - start, chunk - n)
        for row in range(n_rows):
            source, target = row * length + start, row * width + n
            for j in range(0, count, lanes):
                store(block, target + j, load(rows, source + j))
        n += count
        inside += count
        if start + count >= ranges[at, 1]:
            at += 1
            inside = 0
    full = (n + step - 1) // step * step
    for row in range(n_rows):
        for j in range(n, full):
            block[row * width + j] = block[row * width + n - 1] if row < 3 else 0.0
    return at, inside, full


@bare_inline
def _write(sums, row, unfold, begin, end, out):
    """Write the packed derivatives that follow from the sums."""
    starts, columns, factors = unfold
    for i in range(begin, end):
        for channel in range(out.shape[1]):
            offset = ((i - begin) * out.shape[1] + channel) * row
            for beta in range(out.shape[2]):
                total = sums[offset + columns[starts[beta]]] * factors[starts[beta]]
                for k in range(starts[beta] + 1, starts[beta + 1]):
                    total += sums[offset + columns[k]] * factors[k]
                out[i, channel, beta] = total


@bare
def _fold_sources(first, last, sources, moments, terms, rows):
    """Write columns first ... last - 1 of the rows of `source_rows`."""
    starts, columns, factors = terms
    n_folded = starts.shape[0] - 1
    for begin in range(first, last, 64):
        end = min(begin + 64, last)
        for axis in range(3):
            for j in range(begin, end):
                rows[axis, j] = sources[j, axis]
        for channel in range(moments.shape[1]):
            for k in range(n_folded):
                row = 3 + channel * n_folded + k
                for j in range(begin, end):
                    rows[row, j] = moments[j, channel, columns[starts[k]]] * factors[starts[k]]
                for term in range(starts[k] + 1, starts[k + 1]):
                    for j in range(begin, end):
                        rows[row, j] += moments[j, channel, columns[term]] * factors[term]


# --- tables ---------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _terms(
    matrix: Callable[[int, int, bool], np.ndarray],
    source_order: int,
    order: int,
    damped: bool,
    dtype: np.dtype,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the entries of a matrix row by row: starts of rows, columns, factors."""
    entries = matrix(source_order, order, damped)
    # products of small fractions: what should vanish may leave its rounding error
    kept = np.abs(entries) > 1e-12
    starts = np.append(0, np.cumsum(kept.sum(axis=1)))
    return starts, np.ascontiguousarray(np.nonzero(kept)[1]), entries[kept].astype(dtype)


def _fold(source_order: int, order: int, damped: bool = False) -> np.ndarray:
    """Return the matrix from packed moments to the rows of moments that the loop reads."""
    names = loops.arithmetic(damped).row_names(source_order, order)
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
    n_sums = len(loops.arithmetic(damped).sum_names(order))
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


# --- cost -----------------------------------------------------------------------------------------


@lru_cache
def pair_cost(source_order: int, order: int, channels: int = 1, damped: bool = False) -> float:
    """Return the cost of one pair, one being that of a charge's potential and gradient.

    It counts the products of the arithmetic, of which a processor starts two per cycle, and the
    rest of the loop, fitted to measured times for K to 3, D to 4 and up to 16 channels. Under a
    damped kernel it is that of a pair beyond the reach: the number of others does not depend on
    the size of leaves.
    """
    single = channels == 1
    if damped:
        once, each = traces.n_products(source_order, order)
    else:
        scaled = not single and not traceless.has_products(source_order, order)
        once, each = traceless.n_products(source_order, order, scaled)
    # moments of many channels come from the second-level cache
    names = loops.arithmetic(damped).row_names(source_order, order)
    loads = 0.0 if single else 0.7 * len(names)
    cost = (_DISTANCE + once + channels * (each + loads)) / 20.0
    return cost if source_order + order <= MAX_EMITTED else _GENERIC * cost
