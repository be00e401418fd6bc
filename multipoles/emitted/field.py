"""Sums over pairs by loops that are written for their orders, kernel and type of numbers.

Sources become rows (x, y, z, then folded moments) once a call (`multipoles.emitted.rows`). Sources
that meet the same targets are copied into a block that stays in cache, and `add_sources`
(`multipoles.emitted.loops`) runs over targets and vectors of sources of the block. A loop takes a
third of a second to compile, or more with high orders; machine code is kept on disk.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import bare, bare_inline, run_chunks
from multipoles.compiled.simd import BYTES, load, store
from multipoles.emitted import loops, traceless, traces
from multipoles.emitted.gather import gather
from multipoles.emitted.loops import add_sources
from multipoles.emitted.rows import source_rows, unfolding
from multipoles.layout import Tiles, aligned
from multipoles.radial import Coulomb, Kernel

_COULOMB = Coulomb()
# above this total order, straight-line code would take more than a second to compile
MAX_EMITTED = 12
# what every pair costs, r, 1/r and the loop, in products of numbers
_DISTANCE = 13.0


def field_of_tiles(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    tiles: Tiles,
    out: np.ndarray,
    first: int = 0,
    last: int | None = None,
    kernel: Kernel = _COULOMB,
    reach: float = 0.0,
) -> None:
    """Write the field of ranges of sources at ranges of targets.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Contiguous, of one dtype: float32 or float64.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        Packed moments of the same dtype; K + order at most `MAX_EMITTED`.
    order : int
        Highest derivative.
    tiles : tuple of ndarray
        See `multipoles.layout.Tiles`.
    out : ndarray, shape (n_targets, channels, n_components(order))
        Overwritten at the targets of tiles first ... last - 1; zeros where these meet nothing.
    first, last : int
        Tiles to work on; default all.
    kernel : Kernel
        Radial kernel.
    reach : float
        Distance from which on it may be taken for 1/r.
    """
    last = len(tiles[0]) if last is None else last
    channels = moments.shape[1]
    if first >= last or channels == 0:
        return
    form = _Form(indexing.order_of(moments.shape[2]), order, channels, targets.dtype, kernel)
    rows, n_rows = source_rows(sources, moments, order, form.damped)
    loop = _loop_of_tiles(*form.key)
    largest = int((tiles[0][first:last, 1] - tiles[0][first:last, 0]).max())

    def task(begin: int, end: int) -> None:
        scratch = form.scratch(n_rows, largest)
        for part in range(begin, end):
            loop(
                bounds[part], bounds[part + 1], targets, rows, n_rows, *tiles, form.unfold,
                form.chunk(n_rows), scratch, kernel.parameter_array, reach, out,
            )  # fmt: skip

    bounds, n_pairs = _shares(tiles, first, last)
    run_chunks(task, len(bounds) - 1, n_pairs * form.pair_cost())


def field_of_pairs(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    out: np.ndarray,
    kernel: Kernel = _COULOMB,
    reach: float = 0.0,
) -> None:
    """Write the field of listed sources at each target.

    Parameters
    ----------
    targets, sources, moments, order, out, kernel, reach
        See `field_of_tiles`.
    pairs : tuple of ndarray
        Start of each target's row, the sources row by row, and their weights (or none).
    """
    channels = moments.shape[1]
    form = _Form(indexing.order_of(moments.shape[2]), order, channels, targets.dtype, kernel)
    rows, n_rows = source_rows(sources, moments, order, form.damped)
    # a source's numbers lie together, in whole vectors
    lanes = BYTES // targets.itemsize
    sites = np.zeros((len(sources), -(-n_rows // lanes) * lanes), targets.dtype)
    sites[:, :n_rows] = rows.reshape(n_rows, -1).T[: len(sources)]
    loop = _loop_of_pairs(*form.key)

    def task(first: int, last: int) -> None:
        loop(
            first, last, targets, sites, n_rows, *pairs, form.unfold, form.chunk(n_rows),
            form.scratch(sites.shape[1], 1), kernel.parameter_array, reach, out,
        )  # fmt: skip

    run_chunks(task, len(targets), 2 * len(pairs[1]) * form.pair_cost())


@dataclass(frozen=True)
class _Form:
    """What a loop is written for, and the sizes that follow."""

    source_order: int
    order: int
    channels: int
    dtype: np.dtype
    kernel: Kernel

    @property
    def damped(self) -> bool:
        return self.kernel.code != _COULOMB.code

    @property
    def key(self) -> tuple[int, int, bool, int, int]:
        single = self.channels == 1
        return self.source_order, self.order, single, self.dtype.itemsize, self.kernel.code

    @property
    def unfold(self) -> Any:
        return unfolding(self.source_order, self.order, self.damped, self.dtype)

    def chunk(self, n_rows: int) -> int:
        return loops.chunk(n_rows, self.dtype.itemsize)

    def pair_cost(self) -> float:
        return pair_cost(self.source_order, self.order, self.channels, self.damped)

    def scratch(self, n_rows: int, n_targets: int) -> tuple[np.ndarray, ...]:
        """Return a block of sources, vectors of sums, a chain, and the sums of some targets."""
        orders, size, damped = (self.source_order, self.order), self.dtype.itemsize, self.damped
        sizes = (
            n_rows * loops.width(*orders, size, damped),
            loops.n_scratch(*orders, self.channels, size, damped),
            (sum(orders) + 1) * BYTES // size,
            n_targets * self.channels * loops.padded_sums(self.order, size, damped),
        )
        return tuple(aligned(n, self.dtype) for n in sizes)


def _shares(tiles: Tiles, first: int, last: int) -> tuple[np.ndarray, int]:
    """Return bounds of runs of tiles with about the same number of pairs, and that of all."""
    tile_targets, starts, ranges = tiles
    ends = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
    n_sources = np.diff(ends[starts[first : last + 1]])
    n_targets = tile_targets[first:last, 1] - tile_targets[first:last, 0]
    # a target costs something even where nothing is near
    total = np.cumsum(n_targets * (n_sources + 16))
    wanted = np.arange(1, 64) * (total[-1] / 64)
    inner = np.unique(np.searchsorted(total, wanted)) + first
    inner = inner[(inner > first) & (inner < last)]
    return np.concatenate([[first], inner, [last]]), int(total[-1])


# --- loops ----------------------------------------------------------------------------------------


@lru_cache
def _loop_of_tiles(source_order: int, order: int, single: bool, itemsize: int, code: int) -> Any:
    """Return the loop over tiles first ... last - 1 for these orders and numbers."""
    damped = code != _COULOMB.code
    step = loops.step(source_order, order, single, BYTES // itemsize, damped)
    width = loops.width(source_order, order, itemsize, damped)
    row = loops.padded_sums(order, itemsize, damped)

    @bare
    def of_tiles(
        first, last, targets, rows, n_rows, tile_targets, range_starts, ranges, unfold, chunk,
        scratch, parameters, reach, out,
    ):  # fmt: skip
        block, vectors, chain, sums = scratch
        channels = out.shape[1]
        for tile in range(first, last):
            begin, end = tile_targets[tile, 0], tile_targets[tile, 1]
            sums[: (end - begin) * channels * row] = 0.0
            at, inside, stop = range_starts[tile], 0, range_starts[tile + 1]
            while at < stop:
                at, inside, n = _fill(
                    rows, n_rows, ranges, at, inside, stop, chunk, width, step, block
                )
                add_sources(
                    source_order, order, single, code, targets, begin, end, block, n, channels,
                    vectors, sums, parameters, chain, reach,
                )  # fmt: skip
            _write(sums, row, unfold, begin, end, out)

    return of_tiles


@lru_cache
def _loop_of_pairs(source_order: int, order: int, single: bool, itemsize: int, code: int) -> Any:
    """Return the loop over targets first ... last - 1 and their listed sources."""
    damped = code != _COULOMB.code
    step = loops.step(source_order, order, single, BYTES // itemsize, damped)
    width = loops.width(source_order, order, itemsize, damped)
    row = loops.padded_sums(order, itemsize, damped)

    @bare
    def of_pairs(
        first, last, targets, sites, n_rows, starts, sources, weights, unfold, chunk, scratch,
        parameters, reach, out,
    ):  # fmt: skip
        block, vectors, chain, sums = scratch
        channels = out.shape[1]
        for i in range(first, last):
            sums[: channels * row] = 0.0
            for k in range(starts[i], starts[i + 1], chunk):
                n = min(chunk, starts[i + 1] - k)
                n = gather(sites, sources, weights, k, n, width, step, n_rows, block)
                add_sources(
                    source_order, order, single, code, targets, i, i + 1, block, n, channels,
                    vectors, sums, parameters, chain, reach,
                )  # fmt: skip
            _write(sums, row, unfold, i, i + 1, out)

    return of_pairs


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


# --- cost -----------------------------------------------------------------------------------------


@lru_cache
def pair_cost(source_order: int, order: int, channels: int = 1, damped: bool = False) -> float:
    """Return the cost of one pair, one being that of a charge's potential and gradient.

    It counts the products of the arithmetic, of which a processor starts two per cycle, and the
    rest of the loop, fitted to measured times for K to 3, D to 4 and up to 16 channels. Under a
    damped kernel it is that of a pair beyond the reach: the number of others does not depend on
    the size of tiles.
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
    return (_DISTANCE + once + channels * (each + loads)) / 20.0
