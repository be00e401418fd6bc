"""The near field: the sum over sources close to each leaf of the tree, pair by pair.

Sources become rows (x, y, z, then folded moments) once a call; each leaf copies the ranges near it
into a block that stays in cache, and runs over its targets with vectors of sources. Moments and
derivatives are without trace (`_near_math`), which is exact under 1/r.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from fmm import _near_emit, _near_math
from fmm._near_emit import CHUNK, WIDTH, add_sources
from multipoles import indexing
from multipoles._jit import bare, bare_inline, run_chunks
from multipoles.direct_cpu import BYTES, aligned
from multipoles.interactions import field_arrays
from multipoles.neighbours import Slots
from multipoles.polynomials import detrace_matrix
from multipoles.radial import Coulomb

# beyond, straight-line code compiles too slowly
MAX_EMITTED = 9


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
) -> None:
    """Write the field of the sources near each leaf, under 1/r, at the leaf's targets.

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
    """
    last = len(leaf_targets) if last is None else last
    channels = moments.shape[1]
    if first >= last or channels == 0:
        return
    source_order = indexing.order_of(moments.shape[2])
    leaves = leaf_targets, range_starts, ranges
    if source_order + order > MAX_EMITTED:
        _generic(targets, sources, moments, order, leaves, out, first, last)
        return
    dtype = targets.dtype
    rows = source_rows(sources, moments, order)
    kernel = _kernel(source_order, order, channels == 1)
    unfold = _unfold(source_order, order).astype(dtype)
    largest = int((leaf_targets[first:last, 1] - leaf_targets[first:last, 0]).max())
    lanes, n_sums = BYTES // dtype.itemsize, len(unfold)

    def task(begin: int, end: int) -> None:
        block = aligned(len(rows) * WIDTH, dtype)
        vectors = aligned(channels * n_sums * lanes, dtype)
        sums = np.empty((largest * channels, n_sums), dtype)
        for part in range(begin, end):
            kernel(
                bounds[part], bounds[part + 1], targets, rows, *leaves, unfold, block, vectors,
                sums, out,
            )  # fmt: skip

    bounds, n_pairs = _shares(leaves, first, last)
    run_chunks(task, len(bounds) - 1, n_pairs * pair_cost(source_order, order, channels))


def source_rows(sources: np.ndarray, moments: np.ndarray, order: int) -> np.ndarray:
    """Return coordinates and folded moments as rows, shape (3 + channels * rows, n_sources)."""
    channels = moments.shape[1]
    matrix = _fold(indexing.order_of(moments.shape[2]), order).astype(sources.dtype)
    rows = np.empty((3 + channels * len(matrix), len(sources)), sources.dtype)
    rows[:3] = sources.T
    for channel in range(channels):
        start = 3 + channel * len(matrix)
        np.matmul(matrix, moments[:, channel].T, out=rows[start : start + len(matrix)])
    return rows


def _shares(leaves: tuple, first: int, last: int) -> tuple[np.ndarray, int]:
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


def _generic(targets, sources, moments, order, leaves, out, first, last) -> None:
    """Do the same by the loop for any order, leaf by leaf."""
    leaf_targets, starts, ranges = leaves
    for leaf in range(first, last):
        begin, end = leaf_targets[leaf]
        near = [np.arange(a, b) for a, b in ranges[starts[leaf] : starts[leaf + 1]]]
        index = np.concatenate([np.empty(0, np.int64), *near])
        out[begin:end] = field_arrays(
            targets[begin:end], sources[index], np.ascontiguousarray(moments[index]), order,
            Coulomb(), Slots(end - begin, len(index)),
        )  # fmt: skip


# --- kernels --------------------------------------------------------------------------------------


@lru_cache
def _kernel(source_order: int, order: int, single: bool) -> Any:
    """Return the loop over leaves first ... last - 1 for these orders."""
    step_64 = _near_emit.step(source_order, order, single, 8)

    @bare
    def near(
        first, last, targets, rows, leaf_targets, range_starts, ranges, unfold, block, vectors,
        sums, out,
    ):  # fmt: skip
        step = step_64 * 8 // block.itemsize
        channels = out.shape[1]
        flat = sums.reshape(sums.size)
        for leaf in range(first, last):
            begin, end = leaf_targets[leaf, 0], leaf_targets[leaf, 1]
            _clear(flat, (end - begin) * channels * unfold.shape[0])
            near_range, inside, stop = range_starts[leaf], 0, range_starts[leaf + 1]
            while near_range < stop:
                near_range, inside, n = _fill(rows, ranges, near_range, inside, stop, block)
                n = _pad(block, rows.shape[0], n, step)
                add_sources(
                    source_order, order, single, targets, begin, end, block, n, channels, vectors,
                    flat,
                )  # fmt: skip
            _write(sums, unfold, begin, end, out)

    return near


@bare_inline
def _clear(values, n):
    for i in range(n):
        values[i] = 0.0


@bare_inline
def _fill(rows, ranges, k, inside, stop, block):
    """Copy sources into the block until it or the ranges end; return where to go on, and n."""
    n = 0
    while k < stop and n < CHUNK:
        start = ranges[k, 0] + inside
        count = min(ranges[k, 1] - start, CHUNK - n)
        for row in range(rows.shape[0]):
            for j in range(count):
                block[row * WIDTH + n + j] = rows[row, start + j]
        n += count
        inside += count
        if start + count >= ranges[k, 1]:
            k += 1
            inside = 0
    return k, inside, n


@bare_inline
def _pad(block, n_rows, n, step):
    """Fill the block up to a multiple of `step`: the last position again, moments of zero."""
    full = (n + step - 1) // step * step
    for row in range(n_rows):
        value = block[row * WIDTH + n - 1] if row < 3 else 0.0
        for j in range(n, full):
            block[row * WIDTH + j] = value
    return full


@bare_inline
def _write(sums, unfold, begin, end, out):
    """Write the packed derivatives that follow from the sums."""
    channels = out.shape[1]
    for i in range(begin, end):
        for channel in range(channels):
            row = (i - begin) * channels + channel
            for beta in range(out.shape[2]):
                out[i, channel, beta] = 0.0
            for k in range(unfold.shape[0]):
                for beta in range(out.shape[2]):
                    out[i, channel, beta] += sums[row, k] * unfold[k, beta]


# --- tables ---------------------------------------------------------------------------------------


@lru_cache
def _fold(source_order: int, order: int) -> np.ndarray:
    """Return the matrix from packed moments to the rows of moments that the loop reads."""
    names = _near_math.row_names(source_order, order)
    out = np.zeros((len(names), indexing.n_components(source_order)))
    for rank in range(source_order + 1):
        place = indexing.order_slice(rank)
        plain = _traceless(rank)
        if _near_math.has_products(source_order, order):
            plain = plain * (-1) ** rank
        else:
            plain = plain * _leading(rank)
        folded = _fold_matrix(rank) @ plain
        at = {gamma: i for i, gamma in enumerate(_near_math.components(rank))}
        for row, (degree, gamma, is_folded) in enumerate(names):
            if degree == rank:
                out[row, place] = (folded if is_folded else plain)[at[gamma]]
    return out


@lru_cache
def _unfold(source_order: int, order: int) -> np.ndarray:
    """Return the matrix from the loop's sums to packed derivatives, shape (sums, packed)."""
    out = np.zeros(((order + 1) ** 2, indexing.n_components(order)))
    for rank in range(order + 1):
        expand = np.array(
            [
                [_near_math.reduced(tuple(gamma)).get(index, 0.0) for gamma in _indices(rank)]
                for index in _near_math.components(rank)
            ]
        )
        block = np.linalg.inv(_fold_matrix(rank)).T @ expand
        if not _near_math.has_products(source_order, order):
            block = block * ((-1) ** rank * _leading(rank))
        out[rank**2 : (rank + 1) ** 2, indexing.order_slice(rank)] = block
    return out


def _indices(rank: int) -> list[tuple[int, int, int]]:
    rows = indexing.multi_indices(rank)[indexing.order_slice(rank)]
    return [tuple(row) for row in rows.tolist()]


def _leading(rank: int) -> float:
    """Return (2l - 1)!! / l!, the leading coefficient of a Legendre polynomial."""
    return float(np.prod([(2 * n - 1) / n for n in range(1, rank + 1)]))


def _traceless(rank: int) -> np.ndarray:
    """Return the matrix from packed moments of one order to gamma! M_gamma without trace."""
    start = indexing.order_slice(rank).start
    factorials = indexing.factorials(rank)
    all_rows = detrace_matrix(rank) * factorials[start:, None]
    places = [indexing.component_index(*gamma) - start for gamma in _near_math.components(rank)]
    return all_rows[places]


def _fold_matrix(rank: int) -> np.ndarray:
    """Return `_near_math.fold_terms` as a matrix."""
    at = {gamma: i for i, gamma in enumerate(_near_math.components(rank))}
    out = np.zeros((len(at), len(at)))
    for to, terms in _near_math.fold_terms(rank).items():
        for source, factor in terms.items():
            out[at[to], at[source]] = factor
    return out


# --- cost -----------------------------------------------------------------------------------------


def pair_cost(source_order: int, order: int, channels: int = 1) -> float:
    """Return the cost of one pair, one being that of a charge's potential and gradient."""
    return 1.0 + 0.3 * (channels * (source_order + 1) ** 2 * (order + 1) ** 2 - 4)
