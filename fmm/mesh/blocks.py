"""Tiles of near pairs: short columns of targets, and the runs of images within a radius of each.

Points are sorted into columns, and by height within each, so that what lies near a few targets of a
column is one run of every column around.
"""

from typing import NamedTuple

import numpy as np

from multipoles.compiled.jit import jit, run_chunks
from multipoles.layout import Tiles

# targets of a tile
_TARGETS = 8


class Columns(NamedTuple):
    """Points sorted into columns: order, places in that order, and where each column starts."""

    order: np.ndarray
    points: np.ndarray
    starts: np.ndarray


class Raster(NamedTuple):
    """Where columns stand: a corner, their edge, and numbers along two axes."""

    low: np.ndarray
    edge: float
    counts: tuple[int, int]


def raster_of(points: np.ndarray, radius: float) -> Raster:
    """Return columns of which a tile of targets is about a cube."""
    low, high = corners(points)
    density = len(points) / float(np.prod(np.maximum(high - low, 0.1 * radius)))
    edge = max((_TARGETS / density) ** (1 / 3), 0.1 * radius)
    # points far apart along what does not repeat: no more columns than there are points
    edge = max(edge, float(np.prod(high[:2] - low[:2])) ** 0.5 / max(len(points), 1) ** 0.5)
    edge = max(edge, float((high[:2] - low[:2]).max()) / max(len(points), 1))
    counts = [int((high[axis] - low[axis]) / edge) + 1 for axis in (0, 1)]
    return Raster(low, edge, (counts[0], counts[1]))


def columns_of(points: np.ndarray, raster: Raster) -> Columns:
    """Return points sorted into columns and by height."""
    low, high = corners(points)
    span = high[2] - low[2]
    keys, starts = _keys(points, raster.low, raster.edge, *raster.counts, low[2], span)
    order = np.argsort(keys)
    return Columns(order, np.ascontiguousarray(points[order]), starts)


def unsorted(points: np.ndarray) -> Columns:
    """Return points as they are, in one column."""
    return Columns(np.arange(len(points)), points, np.array([0, len(points)]))


def tiles_within(targets: Columns, sources: Columns, raster: Raster, radius: float) -> Tiles:
    """Return tiles of the sorted targets, with the runs of sorted sources near to them."""
    counts = np.diff(targets.starts)
    of_columns = -(-counts // _TARGETS)
    n_tiles = int(of_columns.sum())
    first = np.zeros(len(of_columns) + 1, np.int64)
    np.cumsum(of_columns, out=first[1:])
    reach = int(np.ceil(radius / raster.edge))
    # columns that are near to some place in a column
    gaps = np.maximum(np.abs(np.arange(-reach - 1, reach + 2)) - 1.0, 0.0) * raster.edge
    most = int((gaps[:, None] ** 2 + gaps**2 <= (1 + 1e-9) * radius**2).sum())
    spans = np.empty((n_tiles, 2), np.int64)
    runs = np.empty((n_tiles, most, 2), np.int64)
    used = np.empty(n_tiles, np.int64)

    def task(start: int, stop: int) -> None:
        _fill_tiles(
            start, stop, targets.points, targets.starts, sources.points[:, 2], sources.starts,
            first, raster.low, raster.edge, *raster.counts, reach, radius, spans, runs, used,
        )  # fmt: skip

    run_chunks(task, len(of_columns), 20.0 * n_tiles * most)
    starts = np.zeros(n_tiles + 1, np.int64)
    np.cumsum(used, out=starts[1:])
    kept = np.arange(most)[None] < used[:, None]
    return spans, starts, runs[kept]


@jit
def corners(points):
    """Return the least and the greatest coordinates; zeros where there are no points."""
    low, high = np.zeros(3), np.zeros(3)
    for axis in range(3 if points.shape[0] > 0 else 0):
        low[axis] = high[axis] = points[0, axis]
    for i in range(points.shape[0]):
        for axis in range(3):
            low[axis] = min(low[axis], points[i, axis])
            high[axis] = max(high[axis], points[i, axis])
    return low, high


@jit
def _keys(points, low, edge, n_x, n_y, bottom, span):
    """Return column and height of each point as one number, and where columns start."""
    keys = np.empty(points.shape[0])
    scale = 0.999999 / span if span > 0.0 else 0.0
    starts = np.zeros(n_x * n_y + 1, np.int64)
    for i in range(points.shape[0]):
        x = min(max(int((points[i, 0] - low[0]) / edge), 0), n_x - 1)
        y = min(max(int((points[i, 1] - low[1]) / edge), 0), n_y - 1)
        column = x * n_y + y
        keys[i] = column + scale * (points[i, 2] - bottom)
        starts[column + 1] += 1
    for k in range(n_x * n_y):
        starts[k + 1] += starts[k]
    return keys, starts


@jit
def _first_above(heights, start, stop, value):
    """Return the first place from `start` on whose height is not below a value."""
    while start < stop:
        middle = (start + stop) // 2
        if heights[middle] < value:
            start = middle + 1
        else:
            stop = middle
    return start


@jit
def _fill_tiles(
    begin, end, points, starts, heights, of_sources, first, low, edge, n_x, n_y, reach, radius,
    spans, runs, used,
):  # fmt: skip
    square = radius * radius
    for column in range(begin, end):
        cx, cy = column // n_y, column % n_y
        for tile in range(first[column], first[column + 1]):
            a = starts[column] + (tile - first[column]) * _TARGETS
            b = min(a + _TARGETS, starts[column + 1])
            spans[tile, 0], spans[tile, 1] = a, b
            x0, x1, y0, y1 = points[a, 0], points[a, 0], points[a, 1], points[a, 1]
            for i in range(a, b):
                x0, x1 = min(x0, points[i, 0]), max(x1, points[i, 0])
                y0, y1 = min(y0, points[i, 1]), max(y1, points[i, 1])
            low_z, high_z = points[a, 2], points[b - 1, 2]
            count = 0
            for dx in range(-reach - 1, reach + 2):
                x = cx + dx
                if x < 0 or x >= n_x:
                    continue
                left = low[0] + x * edge
                gap_x = max(max(left - x1, x0 - left - edge), 0.0)
                if gap_x >= radius:
                    continue
                for dy in range(-reach - 1, reach + 2):
                    y = cy + dy
                    if y < 0 or y >= n_y:
                        continue
                    left = low[1] + y * edge
                    gap_y = max(max(left - y1, y0 - left - edge), 0.0)
                    rest = square - gap_x * gap_x - gap_y * gap_y
                    if rest <= 0.0:
                        continue
                    height = np.sqrt(rest)
                    other = x * n_y + y
                    start, stop = of_sources[other], of_sources[other + 1]
                    start = _first_above(heights, start, stop, low_z - height)
                    last = _first_above(heights, start, stop, high_z + height)
                    if last > start:
                        runs[tile, count, 0], runs[tile, count, 1] = start, last
                        count += 1
            used[tile] = count
