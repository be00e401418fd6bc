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
from multipoles.emitted import sizes, traceless, traces
from multipoles.emitted.gather import gather
from multipoles.emitted.loops import add_sources
from multipoles.emitted.parts import split_targets, store_parts
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
) -> int:
    """Write the field of ranges of sources at ranges of targets.

    Moments in float32 of points in float64, under 1/r, are summed in float32 from coordinates in
    two parts, relative to the tile: with the digits of float32, however close the points.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Contiguous, of one dtype: float32 or float64.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        Packed moments of the same dtype, or in float32; K + order at most `MAX_EMITTED`.
    order : int
        Highest derivative.
    tiles : tuple of ndarray
        See `multipoles.layout.Tiles`.
    out : ndarray, shape (n_targets, channels, n_components(order))
        Of the dtype of the moments. Overwritten at the targets of tiles first ... last - 1; zeros
        where these meet nothing.
    first, last : int
        Tiles to work on; default all.
    kernel : Kernel
        Radial kernel.
    reach : float
        Distance from which on it may be taken for 1/r.

    Returns
    -------
    int
        Pairs that were taken for one point, and contributed nothing, where coordinates were in two
        parts: coincident ones, and such as are closer than 1e-14 of their tile. Else 0.
    """
    last = len(tiles[0]) if last is None else last
    channels = moments.shape[1]
    if first >= last or channels == 0:
        return 0
    split = targets.dtype != moments.dtype
    source_order = indexing.order_of(moments.shape[2])
    form = _Form(source_order, order, channels, moments.dtype, kernel, split)
    places, folded = source_rows(sources, moments, order, form.damped)
    n_rows = sizes.n_places(split) + len(folded)
    loop = _loop_of_tiles(*form.key)
    largest = int((tiles[0][first:last, 1] - tiles[0][first:last, 0]).max())
    bounds, n_pairs = _shares(tiles, first, last)
    coincident = np.zeros(len(bounds), np.int64)

    def task(begin: int, end: int) -> None:
        scratch = form.scratch(n_rows, largest)
        for part in range(begin, end):
            loop(
                bounds[part], bounds[part + 1], targets, places, folded, *tiles,
                form.unfold, form.chunk(n_rows), scratch, kernel.parameter_array, reach, out,
                coincident[part : part + 1],
            )  # fmt: skip

    run_chunks(task, len(bounds) - 1, n_pairs * form.pair_cost())
    return int(coincident.sum())


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
    rows = np.concatenate(source_rows(sources, moments, order, form.damped))
    # a source's numbers lie together, in whole vectors
    lanes, n_rows = BYTES // targets.itemsize, len(rows)
    sites = np.zeros((len(sources), -(-n_rows // lanes) * lanes), targets.dtype)
    sites[:, :n_rows] = rows.T[: len(sources)]
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
    split: bool = False

    @property
    def damped(self) -> bool:
        return self.kernel.code != _COULOMB.code

    @property
    def key(self) -> tuple[int, int, bool, int, int, bool]:
        single, size = self.channels == 1, self.dtype.itemsize
        return self.source_order, self.order, single, size, self.kernel.code, self.split

    @property
    def unfold(self) -> Any:
        return unfolding(self.source_order, self.order, self.damped, self.dtype)

    def chunk(self, n_rows: int) -> int:
        return sizes.chunk(n_rows, self.dtype.itemsize)

    def pair_cost(self) -> float:
        return pair_cost(self.source_order, self.order, self.channels, self.damped)

    def scratch(self, n_rows: int, n_targets: int) -> tuple[np.ndarray, ...]:
        """Return a block of sources, vectors of sums, a chain, and sums and places of targets."""
        orders, size, damped = (self.source_order, self.order), self.dtype.itemsize, self.damped
        lengths = (
            n_rows * sizes.width(*orders, size, damped, self.split),
            sizes.n_scratch(*orders, self.channels, size, damped),
            sizes.n_links(sum(orders), size, damped),
            n_targets * self.channels * sizes.padded_sums(self.order, size, damped),
            n_targets * sizes.n_places(self.split) if self.split else 0,
        )
        return tuple(aligned(n, self.dtype) for n in lengths)


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
def _loop_of_tiles(
    source_order: int, order: int, single: bool, itemsize: int, code: int, split: bool
) -> Any:
    """Return the loop over tiles first ... last - 1 for these orders and numbers."""
    if split:
        return _loop_of_split_tiles(source_order, order, single)
    damped = code != _COULOMB.code
    step = sizes.step(source_order, order, single, BYTES // itemsize, damped)
    width = sizes.width(source_order, order, itemsize, damped)
    row = sizes.padded_sums(order, itemsize, damped)

    @bare
    def of_tiles(
        first, last, targets, places, moments, tile_targets, range_starts, ranges, unfold,
        chunk, scratch, parameters, reach, out, coincident,
    ):  # fmt: skip
        block, vectors, chain, sums, _ = scratch
        channels = out.shape[1]
        for tile in range(first, last):
            begin, end = tile_targets[tile, 0], tile_targets[tile, 1]
            sums[: (end - begin) * channels * row] = 0.0
            at, inside, stop = range_starts[tile], 0, range_starts[tile + 1]
            while at < stop:
                at, inside, n = _fill(
                    places, moments, ranges, at, inside, stop, chunk, width, step, block
                )
                add_sources(
                    source_order, order, single, code, False, targets, begin, end, block, n,
                    channels, vectors, sums, parameters, chain, reach, coincident,
                )  # fmt: skip
            _write(sums, row, unfold, begin, end, out)

    return of_tiles


def _loop_of_split_tiles(source_order: int, order: int, single: bool) -> Any:
    """Return the same loop in float32, for coordinates in two parts, under 1/r."""
    step = sizes.step(source_order, order, single, BYTES // 4)
    width = sizes.width(source_order, order, 4, split=True)
    row = sizes.padded_sums(order, 4)

    @bare
    def of_split_tiles(
        first, last, targets, places, moments, tile_targets, range_starts, ranges, unfold,
        chunk, scratch, parameters, reach, out, coincident,
    ):  # fmt: skip
        block, vectors, chain, sums, near = scratch
        channels = out.shape[1]
        for tile in range(first, last):
            begin, end = tile_targets[tile, 0], tile_targets[tile, 1]
            sums[: (end - begin) * channels * row] = 0.0
            at, inside, stop = range_starts[tile], 0, range_starts[tile + 1]
            split_targets(targets, begin, end, near)
            while at < stop:
                at, inside, n = _fill_split(
                    places, moments, ranges, at, inside, stop, chunk, width, step, block,
                    targets[begin],
                )  # fmt: skip
                add_sources(
                    source_order, order, single, 0, True, near, 0, end - begin, block, n,
                    channels, vectors, sums, parameters, chain, reach, coincident,
                )  # fmt: skip
            _write(sums, row, unfold, begin, end, out)

    return of_split_tiles


@lru_cache
def _loop_of_pairs(
    source_order: int, order: int, single: bool, itemsize: int, code: int, split: bool
) -> Any:
    """Return the loop over targets first ... last - 1 and their listed sources."""
    damped = code != _COULOMB.code
    step = sizes.step(source_order, order, single, BYTES // itemsize, damped)
    width = sizes.width(source_order, order, itemsize, damped)
    row = sizes.padded_sums(order, itemsize, damped)

    @bare
    def of_pairs(
        first, last, targets, sites, n_rows, starts, sources, weights, unfold, chunk, scratch,
        parameters, reach, out,
    ):  # fmt: skip
        block, vectors, chain, sums, _ = scratch
        channels = out.shape[1]
        for i in range(first, last):
            sums[: channels * row] = 0.0
            for k in range(starts[i], starts[i + 1], chunk):
                n = min(chunk, starts[i + 1] - k)
                n = gather(sites, sources, weights, k, n, width, step, n_rows, block)
                add_sources(
                    source_order, order, single, code, split, targets, i, i + 1, block, n,
                    channels, vectors, sums, parameters, chain, reach, starts,
                )  # fmt: skip
            _write(sums, row, unfold, i, i + 1, out)

    return of_pairs


@bare_inline
def _fill(places, moments, ranges, at, inside, stop, chunk, width, step, block):
    """Copy sources into the block until it or the ranges end; return where to go on, and n.

    Sources are added up to a multiple of `step`: the last position again, moments of zero.
    """
    lanes = BYTES // block.itemsize
    n = 0
    while at < stop and n < chunk:
        start = ranges[at, 0] + inside
        count = min(ranges[at, 1] - start, chunk - n)
        _copy(places, start, count, lanes, 0, n, width, block)
        _copy(moments, start, count, lanes, 3, n, width, block)
        n += count
        inside += count
        if start + count >= ranges[at, 1]:
            at += 1
            inside = 0
    full = (n + step - 1) // step * step
    for row in range(3):
        for j in range(n, full):
            block[row * width + j] = block[row * width + n - 1]
    _clear(moments.shape[0], 3, n, full, width, block)
    return at, inside, full


@bare_inline
def _fill_split(places, moments, ranges, at, inside, stop, chunk, width, step, block, origin):
    """Do the same with coordinates in two parts, relative to an origin.

    The position that is added is not that of a source, since pairs that coincide are counted.
    """
    lanes = BYTES // block.itemsize
    n = 0
    while at < stop and n < chunk:
        start = ranges[at, 0] + inside
        count = min(ranges[at, 1] - start, chunk - n)
        for axis in range(3):
            for j in range(0, count, lanes):
                store_parts(
                    places, axis * places.shape[1] + start + j, origin[axis], block,
                    axis * width + n + j, (3 + axis) * width + n + j,
                )  # fmt: skip
        _copy(moments, start, count, lanes, 6, n, width, block)
        n += count
        inside += count
        if start + count >= ranges[at, 1]:
            at += 1
            inside = 0
    full = (n + step - 1) // step * step
    for row in range(6):
        for j in range(n, full):
            block[row * width + j] = block[row * width + n - 1] + (1.0 if row < 3 else 0.0)
    _clear(moments.shape[0], 6, n, full, width, block)
    return at, inside, full


@bare_inline
def _copy(rows, start, count, lanes, first, n, width, block):
    """Copy columns of rows into the block, in whole vectors."""
    flat = rows.reshape(-1)
    for row in range(rows.shape[0]):
        source, target = row * rows.shape[1] + start, (first + row) * width + n
        for j in range(0, count, lanes):
            store(block, target + j, load(flat, source + j))


@bare_inline
def _clear(n_rows, first, n, full, width, block):
    """Write moments of zero."""
    for row in range(first, first + n_rows):
        for j in range(n, full):
            block[row * width + j] = 0.0


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
    names = sizes.arithmetic(damped).row_names(source_order, order)
    loads = 0.0 if single else 0.7 * len(names)
    return (_DISTANCE + once + channels * (each + loads)) / 20.0
