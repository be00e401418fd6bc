"""The adaptive tree: cubic boxes, halved where they hold many points. Geometry only.

Points are sorted along a Morton curve; every box is a range of them. Level 0 of each system is a
grid of up to `root_grid` cubes along an axis that covers its points.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmm.morton import encode
from multipoles._jit import jit

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
        Sorted system index of each point.
    root_grid : int
        Most root cells along an axis.
    """
    same = targets is sources
    n_systems = 1
    if target_batch is not None and source_batch is not None:
        n_systems = 1 + int(max(target_batch.max(initial=-1), source_batch.max(initial=-1)))
    low, high = np.full((n_systems, 3), np.inf), np.full((n_systems, 3), -np.inf)
    none = np.empty(0, np.int64)
    target_batch = none if target_batch is None else target_batch
    source_batch = none if source_batch is None else source_batch
    _bounds(targets, target_batch, low, high)
    if not same:
        _bounds(sources, source_batch, low, high)
    origin, edge = _roots(low, high, root_grid)
    cells = root_grid**3
    # one bit stays free, for the key that follows the last
    bits = min(MAX_BITS, (62 - (n_systems * cells - 1).bit_length()) // 3)
    keys = encode(targets, target_batch, origin, edge, root_grid, bits)
    order = np.argsort(keys)
    found = order, keys[order]
    other = found
    if not same:
        keys = encode(sources, source_batch, origin, edge, root_grid, bits)
        order = np.argsort(keys)
        other = order, keys[order]
    return SortedPoints(found[0], other[0], found[1], other[1], bits, root_grid, origin, edge)


@jit
def _bounds(points, batch, low, high):
    for i in range(len(points)):
        system = batch[i] if len(batch) else 0
        for axis in range(3):
            low[system, axis] = min(low[system, axis], points[i, axis])
            high[system, axis] = max(high[system, axis], points[i, axis])


def _roots(low: np.ndarray, high: np.ndarray, root_grid: int) -> tuple[np.ndarray, np.ndarray]:
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
    n = max(len(points.source_keys), 1)
    return boxes, squares * boxes / n**2


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
        A leaf has no children; boxes of level 0 have parent -1.
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


def build_tree(points: SortedPoints, leaf_size: int) -> Tree:
    """Return the tree whose leaves hold at most `leaf_size` targets and sources.

    Points that no level of the tree can tell apart stay together in larger leaves.
    """
    level_starts, keys, parent, children, targets, sources = _divide(
        points.target_keys, points.source_keys, points.bits, leaf_size
    )
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


@jit
def _upper(keys, first, last, bound):
    """Return the first place of the sorted keys[first:last] above `bound`."""
    while first < last:
        middle = (first + last) // 2
        if keys[middle] <= bound:
            first = middle + 1
        else:
            last = middle
    return first


@jit
def _grown(array, needed):
    """Return a copy with room for `needed` rows and as many again."""
    larger = np.empty((2 * needed, array.shape[1]), array.dtype)
    larger[: len(array)] = array
    return larger


@jit
def _divide(target_keys, source_keys, bits, leaf_size):
    """Return level starts, keys, parents, children and ranges of all boxes.

    A box's row is key, parent, first child, number of children, targets' and sources' range.
    """
    n_targets, n_sources = len(target_keys), len(source_keys)
    boxes = np.empty((64 + 4 * max(n_targets, n_sources) // leaf_size, 8), np.int64)
    starts = [0]
    count = t = s = 0
    shift = 3 * bits
    while t < n_targets or s < n_sources:
        key = np.int64(2**62)
        if t < n_targets:
            key = min(key, target_keys[t] >> shift)
        if s < n_sources:
            key = min(key, source_keys[s] >> shift)
        bound = ((key + 1) << shift) - 1
        t_end = _upper(target_keys, t, n_targets, bound)
        s_end = _upper(source_keys, s, n_sources, bound)
        if count == len(boxes):
            boxes = _grown(boxes, count)
        boxes[count] = (key, -1, 0, 0, t, t_end, s, s_end)
        count += 1
        t, s = t_end, s_end
    starts.append(count)
    for level in range(bits):
        shift = 3 * (bits - level - 1)
        for box in range(starts[level], starts[level + 1]):
            key, t, t_last, s, s_last = (
                boxes[box, 0],
                boxes[box, 4],
                boxes[box, 5],
                boxes[box, 6],
                boxes[box, 7],
            )
            if max(t_last - t, s_last - s) <= leaf_size:
                continue
            # points of one key stay together at every level
            low, high = np.int64(2**62), np.int64(-1)
            if t < t_last:
                low, high = target_keys[t], target_keys[t_last - 1]
            if s < s_last:
                low, high = min(low, source_keys[s]), max(high, source_keys[s_last - 1])
            if low == high:
                continue
            boxes[box, 2] = count
            for octant in range(8):
                child = 8 * key + octant
                bound = ((child + 1) << shift) - 1
                t_end = _upper(target_keys, t, t_last, bound)
                s_end = _upper(source_keys, s, s_last, bound)
                if t_end > t or s_end > s:
                    if count == len(boxes):
                        boxes = _grown(boxes, count)
                    boxes[count] = (child, box, 0, 0, t, t_end, s, s_end)
                    count += 1
                t, s = t_end, s_end
            boxes[box, 3] = count - boxes[box, 2]
        if count == starts[level + 1]:
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
    cells = root_grid**3
    for level in range(len(level_starts) - 1):
        for box in range(level_starts[level], level_starts[level + 1]):
            root = keys[box] >> (3 * level)
            owner, cell = root // cells, root % cells
            system[box] = owner
            place = (cell // root_grid**2, cell // root_grid % root_grid, cell % root_grid)
            size = edges[owner] / 2**level
            edge[box] = size
            for axis in range(3):
                a = place[axis]
                for bit in range(level - 1, -1, -1):
                    a = 2 * a + (keys[box] >> (3 * bit + 2 - axis) & 1)
                anchor[box, axis] = a
                centre[box, axis] = origin[owner, axis] + (a + 0.5) * size
