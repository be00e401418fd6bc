"""From moments to a grid and from a grid to fields: loops over the points of a window.

Grids have rows of n + width numbers along the third axis, so that a window never wraps there; the
columns beyond n are those of the beginning, added or copied.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import bare, bare_inline, run_chunks
from multipoles.compiled.simd import BYTES, load, store
from multipoles.layout import aligned

LANES = BYTES // 8
# windows of one point and derivative, in pairs of charges: the choice of threads
_WORK = 0.05


def spread(
    places: np.ndarray, moments: np.ndarray, shape: tuple[int, int, int], table: np.ndarray
) -> np.ndarray:
    """Return the grids of moments, (channels, n, n, n + width).

    Parameters
    ----------
    places : ndarray, shape (n_points, 3)
        In grid units, from 0 to n.
    moments : ndarray, shape (n_points, channels, n_components(K))
        In grid units.
    shape : tuple of int
        Numbers of grid points.
    table : ndarray
        Window, see `polynomials`; K + 1 derivatives at least.
    """
    order = indexing.order_of(moments.shape[2])
    width = table.shape[2]
    grid = np.zeros((moments.shape[1], shape[0], shape[1], shape[2] + width))
    loop, numbers = _spreading(order, width), np.array(shape)
    points = _points(table)
    windows, index, _ = _scratch(order, width, points)
    given = places, moments, _cube_index(order), points, numbers, table
    loop(*given, windows, index, grid)
    grid[..., :width] += grid[..., shape[2] :]
    return grid[..., : shape[2]]


def interpolate(
    places: np.ndarray, grid: np.ndarray, order: int, table: np.ndarray, out: np.ndarray
) -> None:
    """Write the field at some places.

    Parameters
    ----------
    places : ndarray, shape (n_points, 3)
        In grid units, from 0 to n.
    grid : ndarray, shape (channels, n, n, n + width)
        Values on the grid; columns beyond n repeat the first.
    order : int
        Highest derivative.
    table : ndarray
        Window, see `polynomials`.
    out : ndarray, shape (n_points, channels, n_components(order))
        Derivatives by grid units.
    """
    width = table.shape[2]
    loop = _interpolation(order, width)
    numbers = np.array([*grid.shape[1:3], grid.shape[3] - width])
    index, points = _cube_index(order), _points(table)

    def task(first: int, last: int) -> None:
        scratch = _scratch(order, width, points)
        loop(first, last, places, grid, index, points, numbers, table, *scratch, out)

    work = _WORK * len(places) * grid.shape[0] * width**3 * (order + 1)
    run_chunks(task, len(places), work)


def _scratch(order: int, width: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return room for the windows of a point, the grid points they cover, and sums over them."""
    float64 = np.dtype(np.float64)
    windows = aligned(3 * (order + 1) * width, float64)
    sums = aligned((order + 1) ** 2 * width, float64)
    return windows, np.empty((3, points), np.int64), sums


def _points(table: np.ndarray) -> int:
    """Return how many points a window has: those that fill vectors have zeros only."""
    return int(np.flatnonzero(np.abs(table[0]).max(axis=0)).max()) + 1


@lru_cache
def _cube_index(order: int) -> np.ndarray:
    """Return the place of component (a, b, c), (order + 1,) * 3; -1 where there is none."""
    index = np.full((order + 1,) * 3, -1, dtype=np.int64)
    for place, (a, b, c) in enumerate(indexing.multi_indices(order)):
        index[a, b, c] = place
    return index


@bare_inline
def _windows_of(places, i, numbers, points, table, windows, index):
    """Write the window and its derivatives along each axis, and which grid points it covers."""
    levels, terms, width = table.shape
    flat = table.reshape(-1)
    for axis in range(3):
        here = np.floor(places[i, axis])
        z = 2.0 * (places[i, axis] - here) - 1.0
        n = numbers[axis]
        at = int(here) - points // 2 + 1
        while at < 0:
            at += n
        while at >= n:
            at -= n
        for j in range(points):
            index[axis, j] = at
            at += 1
            if at == n:
                at = 0
        for level in range(levels):
            for j in range(0, width, LANES):
                start = level * terms * width + j
                value = load(flat, start)
                for k in range(1, terms):
                    value = value * z + load(flat, start + k * width)
                store(windows, (axis * levels + level) * width + j, value)


@lru_cache
def _spreading(order: int, width: int) -> Any:
    levels = order + 1

    @bare
    def spreading(places, moments, component, points, numbers, table, windows, index, grid):
        n_y, row = grid.shape[2], grid.shape[3]
        flat = grid.reshape(-1)
        wy, wz = levels * width, 2 * levels * width
        for i in range(places.shape[0]):
            _windows_of(places, i, numbers, points, table, windows, index)
            for channel in range(moments.shape[1]):
                for a in range(points):
                    plane = (channel * grid.shape[1] + index[0, a]) * n_y
                    for b in range(points):
                        start = (plane + index[1, b]) * row + index[2, 0]
                        for j in range(0, width, LANES):
                            total = load(flat, start + j)
                            # what multiplies the third axis' window, by its derivative
                            for c in range(levels):
                                weight = 0.0
                                for p in range(levels - c):
                                    inner = 0.0
                                    for q in range(levels - c - p):
                                        moment = moments[i, channel, component[p, q, c]]
                                        inner += moment * windows[wy + q * width + b]
                                    weight += inner * windows[p * width + a]
                                total = total + load(windows, wz + c * width + j) * weight
                            store(flat, start + j, total)

    return spreading


@lru_cache
def _interpolation(order: int, width: int) -> Any:
    levels = order + 1

    @bare
    def interpolation(
        first, last, places, grid, component, points, numbers, table, windows, index, sums, out
    ):  # fmt: skip
        n_y, row = grid.shape[2], grid.shape[3]
        flat = grid.reshape(-1)
        wy, wz = levels * width, 2 * levels * width
        for i in range(first, last):
            _windows_of(places, i, numbers, points, table, windows, index)
            for channel in range(grid.shape[0]):
                # sums over two axes, by derivatives along both: numbers along the third
                for k in range(levels * levels * width):
                    sums[k] = 0.0
                for a in range(points):
                    plane = (channel * grid.shape[1] + index[0, a]) * n_y
                    for j in range(0, width, LANES):
                        for q in range(levels):
                            line = load(flat, (plane + index[1, 0]) * row + index[2, 0] + j)
                            line = line * windows[wy + q * width]
                            for b in range(1, points):
                                start = (plane + index[1, b]) * row + index[2, 0] + j
                                line = line + load(flat, start) * windows[wy + q * width + b]
                            for p in range(levels - q):
                                at = (p * levels + q) * width + j
                                store(sums, at, load(sums, at) + line * windows[p * width + a])
                for p in range(levels):
                    for q in range(levels - p):
                        at = (p * levels + q) * width
                        for c in range(levels - p - q):
                            total = 0.0
                            for j in range(width):
                                total += sums[at + j] * windows[wz + c * width + j]
                            out[i, channel, component[p, q, c]] = total

    return interpolation
