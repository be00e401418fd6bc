"""The adaptive tree: cubic boxes, halved where they hold many points. Geometry only.

Points are sorted along a Morton curve; every box is a range of them. Level 0 of each system is a
grid of up to `root_grid` cubes along an axis that covers its points.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmm.morton import encode
from multipoles._jit import bare, bare_inline, jit

MAX_BITS = 20
_MARGIN = 0.006


class SortedPoints(NamedTuple):
    """Targets and sources along the Morton curve of each system's root cells.

    Keys count, from the highest bits down: system, root cell, and `bits` times three bits of
    x, y, z. If targets and sources are the same points, so are their arrays.
    """

    target_order: np.ndarray
    source_order: np.ndarray
    target_keys: np.ndarray
    source_keys: np.ndarray
    bits: int
    root_grid: int
    origin: np.ndarray
    edge: np.ndarray

    def transposed(self) -> "SortedPoints":
        """Return the points with targets and sources exchanged."""
        return self._replace(
            target_order=self.source_order, source_order=self.target_order,
            target_keys=self.source_keys, source_keys=self.target_keys,
        )  # fmt: skip


def sort_points(
    targets: np.ndarray,
    sources: np.ndarray,
    target_batch: np.ndarray | None = None,
    source_batch: np.ndarray | None = None,
    root_grid: int = 1,
) -> SortedPoints:
    """Return the points along a Morton curve.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        float64, contiguous; the same object if they are the same points.
    target_batch, source_batch : ndarray of int64, optional
        Sorted system index of each point; indices may have gaps.
    root_grid : int
        Most root cells along an axis.
    """
    target_system, source_system, n_systems = _systems(target_batch, source_batch)
    # points of one place may still be of different systems
    same = targets is sources and np.array_equal(target_system, source_system)
    low, high = np.full((n_systems, 3), np.inf), np.full((n_systems, 3), -np.inf)
    _bounds(targets, target_system, low, high)
    if not same:
        _bounds(sources, source_system, low, high)
    origin, edge = roots(low, high, root_grid)
    bits = bits_of(n_systems, root_grid)
    keys = encode(targets, target_system, origin, edge, root_grid, bits)
    order = np.argsort(keys)
    found = order, keys[order]
    other = found
    if not same:
        keys = encode(sources, source_system, origin, edge, root_grid, bits)
        order = np.argsort(keys)
        other = order, keys[order]
    return SortedPoints(found[0], other[0], found[1], other[1], bits, root_grid, origin, edge)


def _systems(
    target_batch: np.ndarray | None, source_batch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the systems of targets and sources, numbered without gaps, and how many there are."""
    if target_batch is None or source_batch is None:
        return np.empty(0, np.int64), np.empty(0, np.int64), 1
    targets, sources = np.empty_like(target_batch), np.empty_like(source_batch)
    return targets, sources, _number(target_batch, source_batch, targets, sources)


@bare
def _number(target_batch, source_batch, targets, sources):
    n_targets, n_sources = len(target_batch), len(source_batch)
    t = s = count = 0
    while t < n_targets or s < n_sources:
        if s == n_sources or (t < n_targets and target_batch[t] <= source_batch[s]):
            system = target_batch[t]
        else:
            system = source_batch[s]
        while t < n_targets and target_batch[t] == system:
            targets[t] = count
            t += 1
        while s < n_sources and source_batch[s] == system:
            sources[s] = count
            s += 1
        count += 1
    return count


@jit
def _bounds(points, batch, low, high):
    for i in range(len(points)):
        system = batch[i] if len(batch) else 0
        for axis in range(3):
            low[system, axis] = min(low[system, axis], points[i, axis])
            high[system, axis] = max(high[system, axis], points[i, axis])


def bits_of(n_systems: int, root_grid: int) -> int:
    """Return the bits of each coordinate in keys."""
    # one bit stays free, for the key that follows the last
    return min(MAX_BITS, (62 - (n_systems * root_grid**3 - 1).bit_length()) // 3)


def roots(low: np.ndarray, high: np.ndarray, root_grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return origin and edge of the root cells of every system."""
    empty = np.any(low > high, axis=1)
    low, high = np.where(empty[:, None], 0.0, low), np.where(empty[:, None], 0.0, high)
    extent = high - low
    largest = extent.max(axis=1)
    # a little wider and off the middle, so that no point falls outside and the boxes are out of
    # step with lattices: points in the corners of boxes make the error of expansions largest
    edge = np.where(largest > 0, largest * (1 + 2 * _MARGIN) / root_grid, 1.0)
    room = np.spacing(np.abs(low).max(axis=1) + np.abs(high).max(axis=1))
    edge = np.maximum(edge, 64 * room)
    counts = np.clip(np.ceil(extent / edge[:, None]), 1, root_grid)
    slack = counts * edge[:, None] - extent
    return low - 0.37 * slack, edge


def occupancy(points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
    """Return, per level of a tree divided evenly, the boxes with sources and crowding.

    Crowding is the mean number of sources in the box of a source over that of a box: 1 for even
    spreading. The last level is the first whose boxes hold less than two sources on average.
    """
    counts = np.zeros((points.bits + 1, 2), np.int64)
    n_levels = _occupancy(points.source_keys, points.bits, counts)
    boxes, squares = counts[:n_levels].T
    return crowding(boxes, squares, len(points.source_keys))


def crowding(boxes: np.ndarray, squares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and crowding, from boxes and the sum of the squares of what they hold."""
    return boxes, squares * boxes / max(n, 1) ** 2


@jit
def _occupancy(keys, bits, counts):
    for level in range(bits + 1):
        shift = 3 * (bits - level)
        start = 0
        for i in range(1, len(keys) + 1):
            if i == len(keys) or keys[i] >> shift != keys[start] >> shift:
                counts[level, 0] += 1
                counts[level, 1] += (i - start) ** 2
                start = i
        if 2 * counts[level, 0] > len(keys):
            return level + 1
    return bits + 1


@dataclass(frozen=True)
class Tree:
    """Boxes level by level, each level along the Morton curve; children of a box lie together.

    Attributes
    ----------
    target_order, source_order : ndarray, int64
        Sorted points are ``points[order]``.
    level_starts : ndarray, int64, shape (n_levels + 1,)
        Boxes of each level.
    anchor : ndarray, int32, shape (n_boxes, 3)
        Place in the grid of the box's level and system.
    parent, first_child, n_children, system : ndarray, int32, shape (n_boxes,)
        A leaf has no children; boxes of level 0 have parent -1. Systems are numbered without gaps.
    target_range, source_range : ndarray, int64, shape (n_boxes, 2)
        Sorted points inside.
    centre : ndarray, shape (n_boxes, 3)
    edge : ndarray, shape (n_boxes,)
    """

    target_order: np.ndarray
    source_order: np.ndarray
    level_starts: np.ndarray
    anchor: np.ndarray
    parent: np.ndarray
    first_child: np.ndarray
    n_children: np.ndarray
    system: np.ndarray
    target_range: np.ndarray
    source_range: np.ndarray
    centre: np.ndarray
    edge: np.ndarray


def build_tree(points: SortedPoints, leaf_size: int, smallest: float = 0.0) -> Tree:
    """Return the tree whose leaves hold at most `leaf_size` targets and sources.

    Points that no level of the tree can tell apart stay together in larger leaves, and so do those
    of boxes whose halves would have an edge below `smallest`.
    """
    level_starts, keys, parent, children, targets, sources = _divide(
        points.target_keys, points.source_keys, points.bits, leaf_size,
        most_halvings(points, smallest), points.root_grid**3,
    )  # fmt: skip
    n = len(parent)
    anchor, centre = np.empty((n, 3), np.int32), np.empty((n, 3))
    system, edge = np.empty(n, np.int32), np.empty(n)
    _place(
        level_starts, keys, points.root_grid, points.origin, points.edge, anchor, system, centre,
        edge,
    )  # fmt: skip
    return Tree(
        points.target_order, points.source_order, level_starts, anchor, parent,
        np.ascontiguousarray(children[:, 0]), np.ascontiguousarray(children[:, 1]), system,
        targets, targets if points.target_keys is points.source_keys else sources, centre, edge,
    )  # fmt: skip


def most_halvings(points: SortedPoints, smallest: float) -> np.ndarray:
    """Return how often the boxes of each system may be halved."""
    halvings = np.full(len(points.edge), points.bits)
    if smallest > 0:
        possible = np.floor(np.log2(np.maximum(points.edge / smallest, 1.0)))
        halvings = np.minimum(halvings, possible.astype(np.int64))
    return halvings


@bare_inline
def upper(keys, first, last, bound):
    """Return the first place of the sorted keys[first:last] above `bound`."""
    while first < last:
        middle = (first + last) // 2
        if keys[middle] <= bound:
            first = middle + 1
        else:
            last = middle
    return first


@bare
def _cut(target_keys, source_keys, ranges, shift, parent, boxes, count):
    """Append the boxes of one size that hold the points of the ranges; return the new count.

    A box's row is key, parent, first child, number of children, targets' and sources' range.
    """
    t, t_last, s, s_last = ranges
    while t < t_last or s < s_last:
        if s == s_last or (t < t_last and target_keys[t] <= source_keys[s]):
            key = target_keys[t] >> shift
        else:
            key = source_keys[s] >> shift
        bound = ((key + 1) << shift) - 1
        row = boxes[count]
        row[0], row[1], row[2], row[3], row[4], row[6] = key, parent, 0, 0, t, s
        t = upper(target_keys, t, t_last, bound)
        s = upper(source_keys, s, s_last, bound)
        row[5], row[7] = t, s
        count += 1
    return count


@bare_inline
def _is_one_key(target_keys, source_keys, ranges):
    """Return whether all points of the ranges have one key: no level tells them apart."""
    t, t_last, s, s_last = ranges
    if t == t_last:
        return source_keys[s] == source_keys[s_last - 1]
    if s == s_last:
        return target_keys[t] == target_keys[t_last - 1]
    low, high = min(target_keys[t], source_keys[s]), target_keys[t_last - 1]
    return low == max(high, source_keys[s_last - 1])


@bare_inline
def divides(target_keys, source_keys, ranges, leaf_size, level, most):
    """Return whether a box is divided: it holds many points and a level below tells them apart."""
    if max(ranges[1] - ranges[0], ranges[3] - ranges[2]) <= leaf_size or level >= most:
        return False
    return not _is_one_key(target_keys, source_keys, ranges)


@jit
def _divide(target_keys, source_keys, bits, leaf_size, halvings, cells_of_system):
    """Return level starts, keys, parents, children and ranges of all boxes.

    The boxes of a system are divided into at most as many levels as `halvings` says.
    """
    ranges = 0, len(target_keys), 0, len(source_keys)
    cells = 1 + (max(target_keys[-1:].sum(), source_keys[-1:].sum()) >> 3 * bits)
    n_roots = min(cells, ranges[1] + ranges[3])
    boxes = np.empty((n_roots + 64 + 4 * max(ranges[1], ranges[3]) // leaf_size, 8), np.int64)
    count = _cut(target_keys, source_keys, ranges, 3 * bits, -1, boxes, 0)
    starts = [0, count]
    for level in range(bits):
        for box in range(starts[level], starts[level + 1]):
            ranges = boxes[box, 4], boxes[box, 5], boxes[box, 6], boxes[box, 7]
            most = halvings[(boxes[box, 0] >> 3 * level) // cells_of_system]
            if not divides(target_keys, source_keys, ranges, leaf_size, level, most):
                continue
            if count + 8 > len(boxes):
                boxes = np.concatenate((boxes, np.empty_like(boxes)))
            first, shift = count, 3 * (bits - level - 1)
            count = _cut(target_keys, source_keys, ranges, shift, box, boxes, count)
            boxes[box, 2], boxes[box, 3] = first, count - first
        if count == starts[-1]:
            break
        starts.append(count)
    boxes = boxes[:count]
    return (
        np.array(starts),
        boxes[:, 0].copy(),
        boxes[:, 1].astype(np.int32),
        boxes[:, 2:4].astype(np.int32),
        boxes[:, 4:6].copy(),
        boxes[:, 6:8].copy(),
    )


@jit
def _place(level_starts, keys, root_grid, origin, edges, anchor, system, centre, edge):
    """Write where boxes are, from their keys."""
    for level in range(len(level_starts) - 1):
        for box in range(level_starts[level], level_starts[level + 1]):
            place_box(box, keys[box], level, root_grid, origin, edges, anchor, system, centre, edge)


@bare_inline
def place_box(box, key, level, root_grid, origin, edges, anchor, system, centre, edge):
    """Write where one box is, from its key."""
    root = key >> (3 * level)
    owner, cell = root // root_grid**3, root % root_grid**3
    system[box] = owner
    place = (cell // root_grid**2, cell // root_grid % root_grid, cell % root_grid)
    size = edges[owner] / (1 << level)
    edge[box] = size
    for axis in range(3):
        a = place[axis]
        for bit in range(level - 1, -1, -1):
            a = 2 * a + (key >> (3 * bit + 2 - axis) & 1)
        anchor[box, axis] = a
        centre[box, axis] = origin[owner, axis] + (a + 0.5) * size
