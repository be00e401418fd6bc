"""The tree built on the GPU: the boxes of `fmm.tree`, from points that stay on the device.

Box by box the arithmetic is that of the CPU. Levels follow one another: a thread looks at one
octant of a box, running sums give every box its place, and the host reads one number per level, how
many boxes follow. Positions are taken as float64, whatever type they come in: boxes are few.
"""

from math import inf
from typing import Any

import numpy as np

from fmm.morton import key_of
from fmm.tree import (
    SortedPoints,
    Tree,
    bits_of,
    crowding,
    divides,
    most_halvings,
    place_box,
    roots,
    upper,
)
from multipoles._cuda import SIMULATED, cuda, kernels
from multipoles._device import Space
from multipoles._sorting_cuda import argsort, blocks_for, marked, running_sum, taken, total

THREADS = 8 if SIMULATED else 128
GEOMETRY = np.dtype(np.float64)
"""Type of the numbers of kernels that make boxes and lists."""
# blocks that share the points of a system when looking for its corners
_PARTS = 4 if SIMULATED else 256
_GRAIN = 32 if SIMULATED else 4096


def launch(space: Space, kernel: Any, n: int, *args: Any) -> None:
    """Run a kernel of the geometry with a thread for each of n items."""
    kernel(space.stream, GEOMETRY, blocks_for(n, THREADS), THREADS, *args)


# --- points along the curve -----------------------------------------------------------------------


def sort_points(
    space: Space,
    targets: Any,
    sources: Any,
    target_batch: Any = None,
    source_batch: Any = None,
    root_grid: int = 1,
) -> SortedPoints:
    """Return the points along a Morton curve; orders and keys lie on the device.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    targets, sources : device array, shape (n, 3)
        float32 or float64; the same object if they are the same points.
    target_batch, source_batch : device array of integers, optional
        Sorted system index of each point; indices may have gaps.
    root_grid : int
        Most root cells along an axis.

    Raises
    ------
    ValueError
        If a batch index is not sorted.
    """
    same = targets is sources and target_batch is source_batch
    kinds = [(sources, source_batch, "source_batch")]
    if not same:
        kinds.append((targets, target_batch, "target_batch"))
    names = [_names(space, batch, label) for _, batch, label in kinds if batch is not None]
    systems = np.unique(np.concatenate(names)) if names else np.zeros(1, np.int64)
    starts = [_starts(space, x, batch, systems) for x, batch, _ in kinds]
    n_systems = max(len(systems), 1)
    low, high = np.full((n_systems, 3), inf), np.full((n_systems, 3), -inf)
    for (x, _, _), first in zip(kinds, starts, strict=True):
        _bounds(space, x, first, low, high)
    origin, edge = roots(low, high, root_grid)
    bits = bits_of(n_systems, root_grid)
    width = 3 * bits + (n_systems * root_grid**3 - 1).bit_length()
    place = space.upload(origin), space.upload(edge)
    found = []
    for (x, _, _), first in zip(kinds, starts, strict=True):
        keys = space.empty((x.shape[0],), np.int64)
        launch(space, _encode(), x.shape[0], x, first, *place, root_grid, bits, keys)
        found.append(argsort(space, keys, width))
    (source_order, source_keys), (target_order, target_keys) = found[0], found[-1]
    return SortedPoints(
        target_order, source_order, target_keys, source_keys, bits, root_grid, origin, edge
    )


def _names(space: Space, batch: Any, label: str) -> np.ndarray:
    """Return the systems that points belong to, one number each, on the host."""
    n = batch.shape[0]
    begins = space.empty((n,), np.int64)
    launch(space, mark_begins(), n, batch, begins)
    names = space.download(taken(space, batch, marked(space, begins), np.int64))
    if np.any(np.diff(names) <= 0):
        raise ValueError(f"{label}: expected sorted system indices, got {names} in this order")
    return names


def _starts(space: Space, points: Any, batch: Any, systems: np.ndarray) -> Any:
    """Return where the points of every system start, and where the last ones end."""
    n = points.shape[0]
    if batch is None:
        return space.upload(np.array([0, n]))
    out = space.empty((len(systems) + 1,), np.int64)
    launch(space, _find_starts(), len(systems) + 1, batch, space.upload(systems), out)
    return out


@kernels
def mark_begins():
    """Mark where runs of equal values begin, and their end if there is room for it."""

    def loop(values, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = 1 if i == 0 or i == values.shape[0] or values[i] != values[i - 1] else 0

    return loop


@kernels
def _find_starts():
    def loop(batch, systems, out):
        i = cuda.grid(1)
        if i < systems.shape[0]:
            out[i] = upper(batch, 0, batch.shape[0], systems[i] - 1)
        elif i == systems.shape[0]:
            out[i] = batch.shape[0]

    return loop


def _bounds(space: Space, points: Any, starts: Any, low: np.ndarray, high: np.ndarray) -> None:
    """Widen the corners of every system to hold its points."""
    n, n_systems = points.shape[0], len(low)
    parts = max(1, min(_PARTS, n // (_GRAIN * n_systems)))
    out = space.empty((n_systems * parts, 6), np.float64)
    grid = n_systems * parts
    _corners()(space.stream, GEOMETRY, grid, THREADS, points, starts, parts, out)
    found = space.download(out).reshape(n_systems, parts, 2, 3)
    np.minimum(low, found[:, :, 0].min(axis=1), out=low)
    np.maximum(high, found[:, :, 1].max(axis=1), out=high)


def corners(space: Space, points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest coordinates of points, on the host."""
    low, high = np.full((1, 3), inf), np.full((1, 3), -inf)
    _bounds(space, points, space.upload(np.array([0, points.shape[0]])), low, high)
    return low[0], high[0]


@kernels
def _corners():
    def loop(points, starts, parts, out):
        """Find the corners of a part of a system's points: a block each."""
        shared = cuda.shared.array((6, THREADS), np.float64)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        system, part = block // parts, block % parts
        first, n = starts[system], starts[system + 1] - starts[system]
        for axis in range(3):
            shared[axis, thread] = inf
            shared[3 + axis, thread] = -inf
        for i in range(
            first + n * part // parts + thread, first + n * (part + 1) // parts, THREADS
        ):
            for axis in range(3):
                x = np.float64(points[i, axis])
                shared[axis, thread] = min(shared[axis, thread], x)
                shared[3 + axis, thread] = max(shared[3 + axis, thread], x)
        cuda.syncthreads()
        if thread < 6:
            found = shared[thread, 0]
            for other in range(1, THREADS):
                x = shared[thread, other]
                found = min(found, x) if thread < 3 else max(found, x)
            out[block, thread] = found

    return loop


@kernels
def _encode():
    def loop(points, starts, origin, edge, root_grid, bits, keys):
        i = cuda.grid(1)
        if i < points.shape[0]:
            system = upper(starts, 0, starts.shape[0], i) - 1
            keys[i] = key_of(points, i, system, origin, edge, root_grid, bits)

    return loop


def gather(space: Space, points: Any, order: Any, dtype: Any = np.float64) -> Any:
    """Return points in an order."""
    out = space.empty((order.shape[0], 3), dtype)
    launch(space, _gather(), order.shape[0], points, order, out)
    return out


def scatter(space: Space, points: Any, order: Any) -> Any:
    """Return points that lie in an order as they were before."""
    out = space.empty((order.shape[0], 3), np.float64)
    launch(space, _scatter(), order.shape[0], points, order, out)
    return out


@kernels
def _gather():
    def loop(points, order, out):
        i = cuda.grid(1)
        if i < order.shape[0]:
            for axis in range(3):
                out[i, axis] = points[order[i], axis]

    return loop


@kernels
def _scatter():
    def loop(points, order, out):
        i = cuda.grid(1)
        if i < order.shape[0]:
            for axis in range(3):
                out[order[i], axis] = points[i, axis]

    return loop


# --- crowding -------------------------------------------------------------------------------------


def occupancy(space: Space, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
    """Return, per level of a tree divided evenly, the boxes with sources and crowding.

    See `fmm.tree.occupancy`; the result is on the host.
    """
    keys, n = points.source_keys, points.source_keys.shape[0]
    out = space.upload(np.zeros((2, points.bits + 1), np.int64))
    launch(space, _count_first_levels(), n, keys, points.bits, out[0])
    boxes = np.cumsum(space.download(out[0]))
    crowded = np.flatnonzero(2 * boxes > n)
    n_levels = int(crowded[0]) + 1 if len(crowded) else points.bits + 1
    grid = blocks_for(n, THREADS), n_levels
    _square()(space.stream, GEOMETRY, grid, THREADS, keys, points.bits, out[1])
    return crowding(boxes[:n_levels], space.download(out[1])[:n_levels], n)


@kernels
def _count_first_levels():
    def loop(keys, bits, out):
        """Count the points by the first level at which they lie in another box than the last."""
        i = cuda.grid(1)
        if i < keys.shape[0]:
            level = 0
            if i > 0:
                different = keys[i] ^ keys[i - 1]
                while level <= bits and different >> 3 * (bits - level) == 0:
                    level += 1
            if level <= bits:
                cuda.atomic.add(out, level, 1)

    return loop


@kernels
def _square():
    def loop(keys, bits, out):
        """Add the squares of what boxes hold: the first point of a box, at each level."""
        shared = cuda.shared.array(1, np.int64)
        if cuda.threadIdx.x == 0:
            shared[0] = 0
        cuda.syncthreads()
        i, level, n = cuda.grid(1), cuda.blockIdx.y, keys.shape[0]
        shift = 3 * (bits - level)
        if i < n:
            key = keys[i] >> shift
            if i == 0 or keys[i - 1] >> shift != key:
                bound = ((key + 1) << shift) - 1
                # the end is near where boxes are many
                step = 1
                while i + step < n and keys[i + step] <= bound:
                    step *= 2
                held = upper(keys, i + step // 2, min(i + step, n), bound) - i
                cuda.atomic.add(shared, 0, held * held)
        cuda.syncthreads()
        if cuda.threadIdx.x == 0 and shared[0] > 0:
            cuda.atomic.add(out, level, shared[0])

    return loop


# --- boxes ----------------------------------------------------------------------------------------

_KEY, _PARENT, _FIRST, _CHILDREN, _TARGETS, _SOURCES, _ROW = 0, 1, 2, 3, 4, 6, 8


def build_tree(space: Space, points: SortedPoints, leaf_size: int, smallest: float = 0.0) -> Tree:
    """Return the tree of `fmm.tree.build_tree`, its arrays on the device but for `level_starts`.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    points : SortedPoints
        On the device.
    leaf_size : int
        Most targets and sources in a leaf.
    smallest : float
        Least edge of boxes that are made by division.
    """
    halvings = space.upload(most_halvings(points, smallest))
    keys, cells = (points.target_keys, points.source_keys), points.root_grid**3
    n_cells = len(points.edge) * cells
    above = np.zeros((blocks_for(n_cells, 8), _ROW), np.int64)
    above[:, _KEY] = np.arange(len(above))
    above[:, _TARGETS + 1], above[:, _SOURCES + 1] = keys[0].shape[0], keys[1].shape[0]
    level = _level_below(
        space, space.upload(above), keys, -1, (points.bits, leaf_size, halvings, cells), 0, 0
    )
    levels, starts = [level], [0, level.shape[0]]
    for number in range(points.bits):
        level = _level_below(
            space, level, keys, number, (points.bits, leaf_size, halvings, cells), *starts[-2:]
        )
        if level.shape[0] == 0:
            break
        levels.append(level)
        starts.append(starts[-1] + level.shape[0])
    return _finish(space, points, levels, np.array(starts))


def _level_below(
    space: Space, boxes: Any, keys: tuple, number: int, choice: tuple, first: int, next_: int
) -> Any:
    """Return the children of the boxes of a level; -1 is that of what root cells are parts of."""
    bits, leaf_size, halvings, cells = choice
    n, is_top = 8 * boxes.shape[0], int(number < 0)
    marks = space.empty((n,), np.int64)
    launch(
        space, _mark(is_top), n, boxes, *keys, number, bits, leaf_size, halvings, cells, marks
    )  # fmt: skip
    places = running_sum(space, marks)
    children = space.empty((total(space, places), _ROW), np.int64)
    shift = 3 * (bits - number - 1)
    launch(space, _make(is_top), n, boxes, *keys, shift, first, next_, places, children)
    return children


@kernels
def _mark(is_top):
    def loop(
        boxes, target_keys, source_keys, level, bits, leaf_size, halvings, cells_of_system, marks
    ):
        """Mark the octants of boxes that become boxes: those that hold points."""
        i = cuda.grid(1)
        if i >= marks.shape[0]:
            return
        box = boxes[i // 8]
        ranges = box[_TARGETS], box[_TARGETS + 1], box[_SOURCES], box[_SOURCES + 1]
        if not is_top:
            most = halvings[(box[_KEY] >> 3 * level) // cells_of_system]
            if not divides(target_keys, source_keys, ranges, leaf_size, level, most):
                marks[i] = 0
                return
        shift = 3 * (bits - level - 1)
        key = 8 * box[_KEY] + i % 8
        low = (key << shift) - 1
        high = low + (1 << shift)
        first = upper(target_keys, ranges[0], ranges[1], low)
        found = first < ranges[1] and target_keys[first] <= high
        if not found:
            first = upper(source_keys, ranges[2], ranges[3], low)
            found = first < ranges[3] and source_keys[first] <= high
        marks[i] = 1 if found else 0

    return loop


@kernels
def _make(is_top):
    def loop(boxes, target_keys, source_keys, shift, first, next_, places, children):
        """Write the boxes that octants become, and tell their parents."""
        i = cuda.grid(1)
        if i >= places.shape[0] - 1:
            return
        box = boxes[i // 8]
        if i % 8 == 0:
            box[_CHILDREN] = places[i + 8] - places[i]
            box[_FIRST] = next_ + places[i] if box[_CHILDREN] > 0 else 0
        if places[i] == places[i + 1]:
            return
        child = children[places[i]]
        key = 8 * box[_KEY] + i % 8
        low = (key << shift) - 1
        high = low + (1 << shift)
        child[_KEY] = key
        child[_PARENT] = -1 if is_top else first + i // 8
        child[_FIRST] = 0
        child[_CHILDREN] = 0
        begin = upper(target_keys, box[_TARGETS], box[_TARGETS + 1], low)
        child[_TARGETS] = begin
        child[_TARGETS + 1] = upper(target_keys, begin, box[_TARGETS + 1], high)
        begin = upper(source_keys, box[_SOURCES], box[_SOURCES + 1], low)
        child[_SOURCES] = begin
        child[_SOURCES + 1] = upper(source_keys, begin, box[_SOURCES + 1], high)

    return loop


def _finish(space: Space, points: SortedPoints, levels: list, level_starts: np.ndarray) -> Tree:
    """Return the tree of the rows of all levels."""
    n = int(level_starts[-1])
    parent, first_child, n_children, system = (space.empty((n,), np.int32) for _ in range(4))
    anchor, centre = space.empty((n, 3), np.int32), space.empty((n, 3), np.float64)
    targets, sources = (space.empty((n, 2), np.int64) for _ in range(2))
    edge = space.empty((n,), np.float64)
    roots_at = space.upload(points.origin), space.upload(points.edge)
    for level, boxes in enumerate(levels):
        launch(
            space, _spread(), boxes.shape[0], boxes, int(level_starts[level]), level,
            points.root_grid, *roots_at, parent, first_child, n_children, targets, sources,
            anchor, system, centre, edge,
        )  # fmt: skip
    return Tree(
        points.target_order, points.source_order, level_starts, anchor, parent, first_child,
        n_children, system, targets, targets if points.target_keys is points.source_keys else
        sources, centre, edge,
    )  # fmt: skip


@kernels
def _spread():
    def loop(
        boxes, first, level, root_grid, origin, edges, parent, first_child, n_children,
        target_range, source_range, anchor, system, centre, edge,
    ):  # fmt: skip
        """Write the boxes of a level to arrays of their own."""
        i = cuda.grid(1)
        if i >= boxes.shape[0]:
            return
        row, box = boxes[i], first + i
        parent[box] = row[_PARENT]
        first_child[box] = row[_FIRST]
        n_children[box] = row[_CHILDREN]
        for end in range(2):
            target_range[box, end] = row[_TARGETS + end]
            source_range[box, end] = row[_SOURCES + end]
        place_box(box, row[_KEY], level, root_grid, origin, edges, anchor, system, centre, edge)

    return loop
