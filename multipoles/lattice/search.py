"""Images of sources near a cell, and the pairs of targets and images within a radius."""

from typing import NamedTuple

import numpy as np

from multipoles.compiled.jit import inline, jit, run_chunks
from multipoles.lattice.cell import Cell

# bins along a radius
_PER_RADIUS = 2
# up to so many distances are looked at without bins
_FEW_PAIRS = 400_000
# no more bins than so many per source
_BINS = 4


class Images(NamedTuple):
    """Images of sources: positions (m, 3), the source of each, and by how many vectors it moved."""

    points: np.ndarray
    origin: np.ndarray
    steps: np.ndarray


class Pairs(NamedTuple):
    """Pairs by target: starts of rows (n + 1,), images; and pairs that coincide (k, 2)."""

    starts: np.ndarray
    images: np.ndarray
    coincident: np.ndarray


def images_within(points: np.ndarray, cell: Cell, radius: float) -> Images:
    """Return the images of sources that lie within a radius of the cell.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        Wrapped into the cell.
    cell : Cell
        What repeats.
    radius : float
        Greatest distance from the cell.
    """
    d = cell.n_periodic
    # a little more, for targets that rounding puts outside of the cell
    beyond = np.full(3, -1.0)
    beyond[:d] = radius / cell.heights + 1e-9
    u = np.zeros((len(points), 3))
    u[:, :d] = points @ cell.inverse[:, :d]
    origin, steps = _images(u, beyond)
    moved: np.ndarray = points[origin] + steps @ cell.vectors
    return Images(moved, origin, steps)


def n_images(n: int, cell: Cell, radius: float) -> float:
    """Return about how many images there will be."""
    return float(n * np.prod(1 + 2 * radius / cell.heights))


def pairs_within(
    targets: np.ndarray, sources: np.ndarray, radius: float, coincidence: float
) -> Pairs:
    """Return all pairs of targets and sources no farther than a radius apart.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Points, float64.
    radius : float
        Greatest distance.
    coincidence : float
        Pairs no farther apart than this are listed apart.
    """
    if not len(targets) or not len(sources):
        empty = np.zeros(0, np.int64)
        return Pairs(np.zeros(len(targets) + 1, np.int64), empty, empty.reshape(0, 2))
    if len(targets) * len(sources) <= _FEW_PAIRS:
        return Pairs(*_every_pair(targets, sources, radius * radius, coincidence * coincidence))
    low = sources.min(axis=0)
    spread = sources.max(axis=0) - low
    edge = radius / _PER_RADIUS
    while np.prod(np.floor(spread / edge) + 1) > _BINS * len(sources) + 64:
        edge *= 1.3
    bins = (np.floor(spread / edge) + 1).astype(np.int64)
    place = np.minimum(((sources - low) / edge).astype(np.int64), bins - 1)
    key = (place[:, 0] * bins[1] + place[:, 1]) * bins[2] + place[:, 2]
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], np.arange(int(np.prod(bins)) + 1))
    grid = low, edge, bins, first, order, np.ascontiguousarray(sources[order])
    reach = int(np.ceil(radius / edge))
    limits = radius * radius, coincidence * coincidence
    counts, same = np.zeros(len(targets), np.int64), np.zeros(len(targets), np.int64)
    nothing = np.empty(0, np.int64), np.empty((0, 2), np.int64)
    given, work = (targets, grid, reach, limits), 30.0 * len(targets)

    def count(start: int, stop: int) -> None:
        _near_pairs(start, stop, *given, False, counts, same, *nothing)

    run_chunks(count, len(targets), work)
    starts, doubles = _sums(counts), _sums(same)
    images = np.empty(starts[-1], np.int64)
    coincident = np.empty((doubles[-1], 2), np.int64)

    def fill(start: int, stop: int) -> None:
        _near_pairs(start, stop, *given, True, starts, doubles, images, coincident)

    run_chunks(fill, len(targets), work)
    return Pairs(starts, images, coincident)


def _sums(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


@jit
def _images(u, beyond):
    """Return origins and steps of images with coordinates from -beyond to 1 + beyond."""
    first, last = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for axis in range(3):
        if beyond[axis] >= 0.0:
            last[axis] = int(beyond[axis]) + 1
            first[axis] = -last[axis]
    origin, steps = np.empty(0, np.int64), np.empty((0, 3), np.int64)
    for fill in range(2):
        count = 0
        for a in range(first[0], last[0] + 1):
            for b in range(first[1], last[1] + 1):
                for c in range(first[2], last[2] + 1):
                    for i in range(u.shape[0]):
                        if not (
                            _is_near(u[i, 0] + a, beyond[0])
                            and _is_near(u[i, 1] + b, beyond[1])
                            and _is_near(u[i, 2] + c, beyond[2])
                        ):
                            continue
                        if fill == 1:
                            origin[count] = i
                            steps[count, 0], steps[count, 1], steps[count, 2] = a, b, c
                        count += 1
        if fill == 0:
            origin = np.empty(count, np.int64)
            steps = np.empty((count, 3), np.int64)
    return origin, steps


@inline
def _is_near(place, beyond):
    return beyond < 0.0 or (place >= -beyond and place <= 1.0 + beyond)


@jit
def _every_pair(targets, sources, square, coincident):
    """Return starts of rows, sources, and coincident pairs, by looking at all."""
    n, m = targets.shape[0], sources.shape[0]
    starts = np.zeros(n + 1, np.int64)
    found, same = np.empty(n * m, np.int64), np.empty(n * m, np.int64)
    place, double = 0, 0
    for i in range(n):
        x, y, z = targets[i, 0], targets[i, 1], targets[i, 2]
        for j in range(m):
            dx, dy, dz = x - sources[j, 0], y - sources[j, 1], z - sources[j, 2]
            apart = dx * dx + dy * dy + dz * dz
            if apart <= square:
                if apart <= coincident:
                    same[double] = i * m + j
                    double += 1
                else:
                    found[place] = j
                    place += 1
        starts[i + 1] = place
    doubles = np.empty((double, 2), np.int64)
    for k in range(double):
        doubles[k, 0], doubles[k, 1] = same[k] // m, same[k] % m
    return starts, found[:place].copy(), doubles


@jit
def _bounds(point, low, edge, bins, reach, ends):
    """Write the first and last bin of each axis within reach of a point."""
    for axis in range(3):
        here = int(np.floor((point[axis] - low[axis]) / edge))
        ends[axis, 0] = max(here - reach, 0)
        ends[axis, 1] = min(here + reach, bins[axis] - 1)


@jit
def _near_pairs(start, stop, targets, grid, reach, limits, fills, near, same, images, coincident):
    """Write how many pairs each target has, or, from these places on, which.

    `near` and `same` are numbers of pairs, and where it fills, the starts of rows.
    """
    low, edge, bins, first, order, sources = grid
    ends = np.empty((3, 2), np.int64)
    for i in range(start, stop):
        x, y, z = targets[i]
        _bounds(targets[i], low, edge, bins, reach, ends)
        place, double = (near[i], same[i]) if fills else (0, 0)
        for a in range(ends[0, 0], ends[0, 1] + 1):
            for b in range(ends[1, 0], ends[1, 1] + 1):
                row = (a * bins[1] + b) * bins[2]
                if ends[2, 1] < ends[2, 0]:
                    continue
                for j in range(first[row + ends[2, 0]], first[row + ends[2, 1] + 1]):
                    dx, dy, dz = x - sources[j, 0], y - sources[j, 1], z - sources[j, 2]
                    square = dx * dx + dy * dy + dz * dz
                    if square > limits[0]:
                        continue
                    if square > limits[1]:
                        if fills:
                            images[place] = order[j]
                        place += 1
                    else:
                        if fills:
                            coincident[double, 0], coincident[double, 1] = i, order[j]
                        double += 1
        if not fills:
            near[i], same[i] = place, double
