"""Images of sources near a cell, and the pairs of targets and images within a radius."""

import math
from typing import Any, NamedTuple

import numpy as np

from multipoles.compiled.jit import inline, jit, run_chunks
from multipoles.lattice.cell import Cell

# bins along a radius
_PER_RADIUS = 1.5
# no more bins than so many per source
_BINS = 4


class Images(NamedTuple):
    """Images of sources: positions (m, 3), the source of each, and by how many vectors it moved.

    ends: first image of each system, (n_systems + 1,).
    """

    points: np.ndarray
    origin: np.ndarray
    steps: np.ndarray
    ends: np.ndarray


class Pairs(NamedTuple):
    """Pairs by target: starts of rows (n + 1,), images; and pairs that coincide (k, 2)."""

    starts: np.ndarray
    images: np.ndarray
    coincident: np.ndarray


def images_within(
    points: np.ndarray, cell: Cell, radius: float, ends: np.ndarray | None = None
) -> Images:
    """Return the images of sources that lie within a radius of the cell.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        Wrapped into the cell.
    cell : Cell
        What repeats.
    radius : float
        Greatest distance from the cell.
    ends : ndarray of int, shape (n_systems + 1,), optional
        First point of each system, where the cells of many are given.
    """
    ends = np.array([0, len(points)]) if ends is None else ends
    cells, d = cell.batch(), cell.n_periodic
    beyond = np.full((len(cells), 3), -1.0)
    # a little more, for targets that rounding puts outside of the cell
    beyond[:, :d] = radius / cells.heights + 1e-9
    return Images(*_images(points, cells.vectors, cells.inverse, ends, beyond))


def n_images(n: Any, cell: Cell, radii: np.ndarray) -> np.ndarray:
    """Return about how many images of n points, of each system, lie within each of some radii."""
    inside = 1 + 2 * radii[:, None, None] / cell.batch().heights
    found: np.ndarray = (n * np.prod(inside, axis=2)).sum(axis=1)
    return found


def pairs_within(
    targets: np.ndarray,
    sources: np.ndarray,
    radius: float,
    coincidence: Any,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> Pairs:
    """Return all pairs of targets and sources of one system no farther than a radius apart.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Points, float64.
    radius : float
        Greatest distance.
    coincidence : float or ndarray, shape (n_systems,)
        Pairs no farther apart than this are listed apart.
    ends : tuple of two ndarrays of int, shape (n_systems + 1,), optional
        First target and first source of each of many systems.
    """
    if ends is None:
        ends = np.array([0, len(targets)]), np.array([0, len(sources)])
    grid = _bins(sources, ends[1], radius / _PER_RADIUS)
    system = np.repeat(np.arange(len(ends[0]) - 1), np.diff(ends[0]))
    limits = np.broadcast_to(np.square(coincidence), len(ends[0]) - 1).astype(np.float64)

    def task(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray, np.ndarray]
        found = _near_pairs(start, stop, targets, system, grid, radius, limits)
        return found

    parts = run_chunks(task, len(targets), 30.0 * len(targets))
    (near, doubles), images, same = (
        part[0] if len(part) == 1 else np.concatenate(part, axis=-1)
        for part in zip(*parts, strict=True)
    )
    starts = np.zeros(len(targets) + 1, np.int64)
    np.cumsum(near, out=starts[1:])
    coincident = np.stack([np.repeat(np.arange(len(targets)), doubles), same], axis=1)
    return Pairs(starts, images, coincident)


@jit
def _images(points, vectors, inverses, ends, beyond):
    """Return images with fractional coordinates from -beyond to 1 + beyond, origins and steps."""
    moved, origin = np.empty((0, 3)), np.empty(0, np.int64)
    steps, limits = np.empty((0, 3), np.int64), np.zeros(len(ends), np.int64)
    low, high = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for fill in range(2):
        count = 0
        for system in range(len(ends) - 1):
            h, inverse = vectors[system], inverses[system]
            for i in range(ends[system], ends[system + 1]):
                for axis in range(3):
                    reach = beyond[system, axis]
                    if reach >= 0.0:
                        place = 0.0
                        for k in range(3):
                            place += points[i, k] * inverse[k, axis]
                        low[axis] = math.ceil(-reach - place)
                        high[axis] = math.floor(1.0 + reach - place)
                if fill == 0:
                    inside = 1
                    for axis in range(3):
                        inside *= max(high[axis] - low[axis] + 1, 0)
                    count += inside
                    continue
                for a in range(low[0], high[0] + 1):
                    for b in range(low[1], high[1] + 1):
                        for c in range(low[2], high[2] + 1):
                            for k in range(3):
                                move = a * h[0, k] + b * h[1, k] + c * h[2, k]
                                moved[count, k] = points[i, k] + move
                            origin[count] = i
                            steps[count, 0], steps[count, 1], steps[count, 2] = a, b, c
                            count += 1
            limits[system + 1] = count
        if fill == 0:
            moved, origin = np.empty((count, 3)), np.empty(count, np.int64)
            steps = np.empty((count, 3), np.int64)
    return moved, origin, steps, limits


@jit
def _bins(points, ends, edge):
    """Sort the points of each system into bins.

    Returns corners and edges of the grids, (n_systems, 4), numbers of bins along each axis and
    the first bin, (n_systems, 4), first point of each bin, the order of the points, and these.
    """
    n_systems = len(ends) - 1
    corners, counts = np.zeros((n_systems, 4)), np.ones((n_systems, 4), np.int64)
    total = 0
    for system in range(n_systems):
        first, last = ends[system], ends[system + 1]
        spread = np.zeros(3)
        for axis in range(3 if last > first else 0):
            low = high = points[first, axis]
            for i in range(first, last):
                low, high = min(low, points[i, axis]), max(high, points[i, axis])
            corners[system, axis], spread[axis] = low, high - low
        width = max(edge, 1e-300)
        while True:
            size = 1.0
            for axis in range(3):
                size *= math.floor(spread[axis] / width) + 1.0
            if size <= _BINS * (last - first) + 64:
                break
            width *= 1.3
        corners[system, 3] = width
        for axis in range(3):
            counts[system, axis] = int(spread[axis] / width) + 1
        counts[system, 3] = total
        total += counts[system, 0] * counts[system, 1] * counts[system, 2]
    starts, keys = np.zeros(total + 2, np.int64), np.empty(len(points), np.int64)
    for system in range(n_systems):
        for i in range(ends[system], ends[system + 1]):
            key = 0
            for axis in range(3):
                place = int((points[i, axis] - corners[system, axis]) / corners[system, 3])
                key = key * counts[system, axis] + min(place, counts[system, axis] - 1)
            keys[i] = key + counts[system, 3]
            starts[keys[i] + 2] += 1
    for k in range(total):
        starts[k + 2] += starts[k + 1]
    order, moved = np.empty(len(points), np.int64), np.empty(points.shape)
    for i in range(len(points)):
        place = starts[keys[i] + 1]
        starts[keys[i] + 1] += 1
        order[place] = i
        for axis in range(3):
            moved[place, axis] = points[i, axis]
    return corners, counts, starts, order, moved


@inline
def _gap(place, low, edge):
    """Return how far a place is from an interval."""
    return max(max(low - place, place - low - edge), 0.0)


@jit
def _rows(target, corner, counts, radius, rows):
    """Write the first bin and the one after the last of rows within reach; return how many."""
    n, edge, square = 0, corner[3], radius * radius
    # rounding may have put points into the next bin
    slack = 1e-9 * edge
    first = math.floor((target[0] - radius - corner[0]) / edge)
    last = math.floor((target[0] + radius - corner[0]) / edge)
    low = math.floor((target[1] - radius - corner[1]) / edge)
    high = math.floor((target[1] + radius - corner[1]) / edge)
    for a in range(max(first, 0), min(last, counts[0] - 1) + 1):
        aside = _gap(target[0], corner[0] + a * edge, edge) - slack
        for b in range(max(low, 0), min(high, counts[1] - 1) + 1):
            beside = _gap(target[1], corner[1] + b * edge, edge) - slack
            rest = square - max(aside, 0.0) ** 2 - max(beside, 0.0) ** 2
            if rest < 0.0:
                continue
            height, middle = math.sqrt(rest) + slack, target[2] - corner[2]
            start = max(math.floor((middle - height) / edge), 0)
            stop = min(math.floor((middle + height) / edge), counts[2] - 1) + 1
            if stop > start:
                base = counts[3] + (a * counts[1] + b) * counts[2]
                rows[n, 0], rows[n, 1] = base + start, base + stop
                n += 1
    return n


@jit
def _with_room(array, used, more):
    """Return an array that begins with what is used of another, and has room for more."""
    if used + more <= len(array):
        return array
    longer = np.empty(2 * len(array) + more, np.int64)
    longer[:used] = array[:used]
    return longer


@inline
def _look(target, rows, starts, sources, order, square, coincident, images, place, same, double):
    """Write the sources of some rows that are near a target; return the ends of both lists."""
    x, y, z = target[0], target[1], target[2]
    for row in range(rows.shape[0]):
        for j in range(starts[rows[row, 0]], starts[rows[row, 1]]):
            dx, dy, dz = x - sources[j, 0], y - sources[j, 1], z - sources[j, 2]
            apart = dx * dx + dy * dy + dz * dz
            # without branches, which nothing could foresee
            images[place], same[double] = order[j], order[j]
            one = int(apart <= coincident)
            place += int(apart <= square) - one
            double += one
    return place, double


@jit
def _near_pairs(start, stop, targets, system, grid, radius, coincident):
    """Return how many pairs each target has, and how many coincide, and the sources of both."""
    corners, bins, starts, order, sources = grid
    most = 1
    for k in range(len(corners)):
        across = int(2 * radius / corners[k, 3]) + 2
        most = max(most, min(bins[k, 0], across) * min(bins[k, 1], across))
    rows = np.empty((most, 2), np.int64)
    counts = np.empty((2, stop - start), np.int64)
    images, same = np.empty(64 * (stop - start), np.int64), np.empty(2 * (stop - start), np.int64)
    place = double = 0
    for i in range(start, stop):
        n = _rows(targets[i], corners[system[i]], bins[system[i]], radius, rows)
        room = 1
        for row in range(n):
            room += starts[rows[row, 1]] - starts[rows[row, 0]]
        images, same = _with_room(images, place, room), _with_room(same, double, room)
        before = place, double
        place, double = _look(
            targets[i], rows[:n], starts, sources, order, radius * radius, coincident[system[i]],
            images, place, same, double,
        )  # fmt: skip
        counts[0, i - start], counts[1, i - start] = place - before[0], double - before[1]
    return counts, images[:place], same[:double]
