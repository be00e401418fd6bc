"""The tree built on the GPU: the boxes of `fmm.tree.build`, from points that stay on the device.

Box by box the arithmetic is that of the CPU. Every box begins with one of the points in the order
of the curve, targets and sources together: a thread looks at each of them, walks down from the root
and finds the levels on which a box begins there. All levels are made at once, and the host reads
how many boxes each of them has.
"""

from dataclasses import dataclass

import numpy as np

from fmm.cuda.curve import GEOMETRY, DeviceArray, end_of_box, launch
from fmm.tree.build import (
    ANCHOR,
    KEY,
    ROW,
    SYSTEM,
    Tree,
    are_numbers,
    most_halvings,
    place_child,
    place_root,
)
from fmm.tree.curve import MAX_LEVELS, SortedPoints, last_digit, parting
from fmm.tree.lists import STRIDES
from fmm.tree.morton import WORD
from multipoles.compiled.cuda_kernels import cuda, device, kernels
from multipoles.cuda.blocks import THREADS as BLOCK
from multipoles.cuda.blocks import chunks_of, scanned, summed
from multipoles.cuda.device import Space

_MOST = MAX_LEVELS + 1
_X, _Y, _Z = map(int, STRIDES)
# levels that are summed over together, each in so many bits of a number
_TOGETHER, _FIELD = 6, 10
_FIELD_MASK = (1 << _FIELD) - 1
# what is known of each system, beside the origin: rows of an array
_EDGE, _DIGIT, _HALVINGS = 0, 1, 2


@dataclass(frozen=True)
class DeviceTree(Tree):
    """A tree on the device but for `level_starts`, and what lists are made from.

    Attributes
    ----------
    starts : device array of int64, shape (n_levels + 1,)
        `level_starts`.
    octants : device array of int32, shape (n_boxes,)
        A bit for each child.
    cell : device array of int64, shape (n_boxes,)
        See `fmm.tree.lists.Boxes`.
    n_targets, n_sources : device array of int32, shape (n_boxes,)
        How many points there are in each box.
    """

    starts: DeviceArray
    octants: DeviceArray
    cell: DeviceArray
    n_targets: DeviceArray
    n_sources: DeviceArray


def build_tree(
    space: Space, points: SortedPoints, leaf_size: int, smallest: float = 0.0
) -> DeviceTree:
    """Return the tree of `fmm.tree.build`; waits for the number of boxes.

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
    same = points.target_keys is points.source_keys
    keys, before = (points.source_keys,) * 2 if same else _merged(space, points)
    n = keys.shape[1]
    blocks, chunk = chunks_of(n, 4 * BLOCK, 4)
    systems = space.upload(
        np.stack([points.edge, last_digit(points.edge), most_halvings(points, smallest)])
    )
    given = (
        keys, before, points.bits, points.n_levels, points.root_grid, space.upload(points.origin),
        systems, chunk,
    )  # fmt: skip
    made, counts = space.empty((n,), np.int32), space.empty((_MOST, max(blocks, 1)), np.int64)
    totals = space.zeros((_MOST,), np.int64)
    grid = space.stream, GEOMETRY, blocks, BLOCK
    _find(int(same))(*grid, *given, leaf_size, made, counts, totals)
    found = space.download(totals)
    n_levels = max(int(np.count_nonzero(found)), 1)
    level_starts = np.append(0, np.cumsum(found[:n_levels]))
    starts = space.upload(level_starts)
    arrays = _empty(space, int(level_starts[-1]), same)
    _write(int(same))(*grid, *given, starts, made, counts, *arrays.values())
    return DeviceTree(
        target_permutation=points.target_permutation,
        source_permutation=points.source_permutation,
        level_starts=level_starts, starts=starts, **arrays,
    )  # fmt: skip


def _empty(space: Space, n: int, same: bool) -> dict[str, DeviceArray]:
    """Return the arrays of n boxes; sources have the ranges of targets if they are the same."""
    zeros = space.zeros((3, n), np.int32)
    parent, system, n_targets, n_sources = (space.empty((n,), np.int32) for _ in range(4))
    targets = space.empty((n, 2), np.int64)
    return {
        "first_child": zeros[0], "n_children": zeros[1], "octants": zeros[2], "parent": parent,
        "system": system, "anchor": space.empty((n, 3), np.int64),
        "cell": space.empty((n,), np.int64), "target_range": targets,
        "source_range": targets if same else space.empty((n, 2), np.int64),
        "n_targets": n_targets, "n_sources": n_targets if same else n_sources,
        "centre": space.empty((n, 3), np.float64), "edge": space.empty((n,), np.float64),
    }  # fmt: skip


# --- targets and sources in one order -------------------------------------------------------------


def _merged(space: Space, points: SortedPoints) -> tuple[DeviceArray, DeviceArray]:
    """Return keys of targets and sources in one order, and how many targets are before each."""
    targets, sources = points.target_keys, points.source_keys
    n = targets.shape[1] + sources.shape[1]
    keys = space.empty((sources.shape[0], n), np.int64)
    before = space.empty((1, n + 1), np.int64)
    launch(space, _merge(), n + 1, targets, sources, keys, before)
    return keys, before


@kernels
def _merge():
    def loop(targets, sources, keys, before):
        """Move each key behind those of the other kind that are lower; targets come first."""
        i, n = cuda.grid(1), targets.shape[1]
        if i == keys.shape[1]:
            before[0, i] = n
        if i >= keys.shape[1]:
            return
        is_source = i >= n
        own, others = (sources, targets) if is_source else (targets, sources)
        mine = i - n if is_source else i
        first, last = 0, others.shape[1]
        while first < last:
            middle = (first + last) // 2
            if _precedes(others, middle, own, mine, is_source):
                first = middle + 1
            else:
                last = middle
        before[0, mine + first] = first if is_source else mine
        for word in range(keys.shape[0]):
            keys[word, mine + first] = own[word, mine]

    return loop


@device
def _precedes(keys, i, others, j, ties):
    """Return whether a key comes before another, or is the same and `ties` is true."""
    for word in range(keys.shape[0]):
        if keys[word, i] != others[word, j]:
            return keys[word, i] < others[word, j]
    return ties


# --- boxes ----------------------------------------------------------------------------------------


@device
def _begin_walk(keys, i, bits, root_grid, origin, systems, box, centre):
    """Write the root box of a point as row 0 of two arrays; return its system."""
    box[0, KEY] = keys[0, i] >> (3 * bits)
    place_root(box, centre, 0, root_grid, origin, systems[_EDGE])
    return box[0, SYSTEM]


@device
def _walk(keys, i, bits, level, edge, box, centre):
    """Go from a box of the level above to its child that holds a point; `edge` is that of roots."""
    if level <= bits:
        box[0, KEY] = keys[0, i] >> (3 * (bits - level))
    else:
        below = level - bits - 1
        box[0, KEY] = keys[1 + below // WORD, i] >> (3 * (WORD - 1 - below % WORD))
    place_child(box, centre, 0, box, centre, 0, edge / (np.int64(1) << (level - 1)))


@device
def _begin_of_box(keys, i, level, bits):
    """Return the first point of the box of a level that holds a point."""
    step = 1
    while i - step >= 0 and parting(keys, i - step, keys, i, bits) > level:
        step *= 2
    first, last = max(i - step + 1, 0), i - step // 2
    while first < last:
        middle = (first + last) // 2
        if parting(keys, middle, keys, i, bits) > level:
            last = middle
        else:
            first = middle + 1
    return first


@device
def _held(before, first, last, is_same):
    """Return how many targets and sources there are in a range of both."""
    if is_same:
        return last - first, last - first
    n_targets = before[0, last] - before[0, first]
    return n_targets, last - first - n_targets


@device
def _last_level(
    keys, before, i, begins, bits, n_levels, root_grid, origin, systems, leaf_size, is_same, box,
    centre,
):  # fmt: skip
    """Return the last level on which a box holds a point, looking from `begins` - 1 on.

    That is `begins` - 1 if the last box that begins before the point is not divided. Few points ask
    for more than the number of points around them.
    """
    level, begin = begins, i
    if begins > 0:
        level, begin = begins - 1, _begin_of_box(keys, i, begins - 1, bits)
    reached = np.int64(-1)
    edge, digit, most = 0.0, 0.0, np.int64(0)
    while True:
        end = end_of_box(keys, i, level, bits)
        n_targets, n_sources = _held(before, begin, end, is_same)
        if max(n_targets, n_sources) <= leaf_size:
            return level
        if reached < 0:
            reached = np.int64(0)
            system = _begin_walk(keys, i, bits, root_grid, origin, systems, box, centre)
            edge, digit = systems[_EDGE, system], systems[_DIGIT, system]
            most = min(n_levels, np.int64(systems[_HALVINGS, system]))
        if level >= most or parting(keys, begin, keys, end - 1, bits) > n_levels:
            return level
        # of all boxes that hold the point, as each of them must be divided
        while reached <= level:
            own = edge / (np.int64(1) << reached)
            if not are_numbers(centre, 0, own, digit, reached):
                return level
            reached += 1
            _walk(keys, i, bits, reached, edge, box, centre)
        level += 1
        begin = i


@kernels
def _find(is_same):
    def loop(
        keys, before, bits, n_levels, root_grid, origin, systems, chunk, leaf_size, made, counts,
        totals,
    ):  # fmt: skip
        """Find the boxes that begin with each point: levels that follow one another."""
        shared = cuda.shared.array(_MOST, np.int32)
        box = cuda.local.array((1, ROW), np.int64)
        centre = cuda.local.array((1, 3), np.float64)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        for level in range(thread, _MOST, BLOCK):
            shared[level] = 0
        cuda.syncthreads()
        first = block * chunk
        for i in range(first + thread, min(first + chunk, keys.shape[1]), BLOCK):
            begins = parting(keys, i - 1, keys, i, bits) if i > 0 else 0
            end = begins
            if begins <= n_levels:
                end = _last_level(
                    keys, before, i, begins, bits, n_levels, root_grid, origin, systems, leaf_size,
                    is_same, box, centre,
                ) + 1  # fmt: skip
            made[i] = begins * 64 + max(end - begins, 0)
            for other in range(begins, end):
                cuda.atomic.add(shared, other, 1)
        cuda.syncthreads()
        for level in range(thread, _MOST, BLOCK):
            counts[level, block] = shared[level]
            if shared[level] > 0:
                cuda.atomic.add(totals, level, shared[level])

    return loop


@device
def _put(number, above, level, edge, box, centre, places, arrays):
    """Write a box; `places` is where its targets and sources begin, and how many they are."""
    (
        parent,
        system,
        anchor,
        cell,
        target_range,
        source_range,
        n_targets,
        n_sources,
        centres,
        edges,
    ) = arrays
    target, source, held = places
    parent[number] = above
    system[number] = box[0, SYSTEM]
    edges[number] = edge / (np.int64(1) << level)
    cell[number] = box[0, ANCHOR] * _X + box[0, ANCHOR + 1] * _Y + box[0, ANCHOR + 2] * _Z
    for axis in range(3):
        anchor[number, axis] = box[0, ANCHOR + axis]
        centres[number, axis] = centre[0, axis]
    n_targets[number], n_sources[number] = held
    target_range[number, 0], source_range[number, 0] = target, source
    target_range[number, 1], source_range[number, 1] = target + held[0], source + held[1]


@kernels
def _write(is_same):
    def loop(
        keys, before, bits, n_levels, root_grid, origin, systems, chunk, starts, made, counts,
        first_child, n_children, octants, parent, system, anchor, cell, target_range, source_range,
        n_targets, n_sources, centres, edges,
    ):  # fmt: skip
        """Write the boxes that begin with the points of a chunk, and tell their parents."""
        shared = cuda.shared.array(BLOCK, np.int64)
        next_ = cuda.shared.array(_MOST, np.int64)
        box = cuda.local.array((1, ROW), np.int64)
        centre = cuda.local.array((1, 3), np.float64)
        thread, block, n_made = cuda.threadIdx.x, cuda.blockIdx.x, starts.shape[0] - 1
        arrays = (
            parent, system, anchor, cell, target_range, source_range, n_targets, n_sources, centres,
            edges,
        )  # fmt: skip
        for level in range(n_made):
            begun = summed(shared, counts[level], 0, block)
            if thread == 0:
                next_[level] = starts[level] + begun
        last = min((block + 1) * chunk, keys.shape[1])
        for tile in range(block * chunk, last, BLOCK):
            i = tile + thread
            begins = made[i] // 64 if i < last else 0
            end = begins + made[i] % 64 if i < last else 0
            if cuda.syncthreads_or(np.int32(end > begins)) == 0:
                continue
            edge, above = 0.0, np.int64(-1)
            if end > begins:
                own = _begin_walk(keys, i, bits, root_grid, origin, systems, box, centre)
                edge = systems[_EDGE, own]
            for low in range(0, n_made, _TOGETHER):
                high = min(low + _TOGETHER, n_made)
                marks = np.int64(0)
                for level in range(max(low, begins), min(high, end)):
                    marks |= np.int64(1) << _FIELD * (level - low)
                ranks, wholes = scanned(shared, marks)
                for level in range(low, min(high, end) if end > begins else low):
                    number = next_[level] + (ranks >> _FIELD * (level - low) & _FIELD_MASK)
                    if level > 0:
                        _walk(keys, i, bits, level, edge, box, centre)
                    if level < begins:
                        # of the boxes that begin before on this level, the last holds the point
                        above = number - 1
                        continue
                    if above >= 0:
                        cuda.atomic.add(n_children, above, 1)
                        cuda.atomic.or_(octants, above, np.int32(1 << (box[0, KEY] & 7)))
                        if level > begins:
                            first_child[above] = number
                    held = _held(before, i, end_of_box(keys, i, level, bits), is_same)
                    target = i if is_same else before[0, i]
                    source = i if is_same else i - before[0, i]
                    places = target, source, held
                    _put(number, above, level, edge, box, centre, places, arrays)
                    above = number
                cuda.syncthreads()
                for level in range(low + thread, high, BLOCK):
                    next_[level] += wholes >> _FIELD * (level - low) & _FIELD_MASK
                cuda.syncthreads()

    return loop
