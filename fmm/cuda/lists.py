"""The lists of `fmm.tree.lists`, made on the GPU for a tree there: same pairs, same order.

A thread follows one box, first to count the pairs it has as a target, then to write them. A leaf
finds colleagues and smaller boxes as on the CPU; larger leaves it finds, as all boxes do, among the
colleagues of the boxes that hold it, from the root down: that is the order of the CPU. The host
reads how many pairs there are, all counts at once.
"""

from dataclasses import dataclass

import numpy as np

from fmm.cuda.build import DeviceTree
from fmm.cuda.curve import GEOMETRY, DeviceArray
from fmm.cuda.tally import Tally, tally
from fmm.cuda.tiles import N_KINDS, Leaves, Ranges, chunks_of_boxes, kinds_of, leaves_of
from fmm.cuda.transfers import (
    CLOSE,
    LEAVES,
    M2P,
    N_NUMBERS,
    NEAR,
    P2L,
    SINGLE,
    Counts,
    Transfers,
)
from fmm.tree.curve import MAX_LEVELS, upper
from fmm.tree.lists import (
    POINTS,
    STACK,
    Boxes,
    Lists,
    emit,
    merge_row,
    neighbours_of,
    touches,
)
from multipoles.compiled.cuda_kernels import cuda, device, kernels, substitute
from multipoles.cuda.blocks import THREADS as BLOCK
from multipoles.cuda.blocks import add_up, scanned, summed
from multipoles.cuda.device import Space

_LEVELS = MAX_LEVELS + 1
_COLLEAGUES = 27


@dataclass(frozen=True)
class DeviceLists(Lists):
    """Interaction lists; all arrays on the device.

    Attributes
    ----------
    leaves : Leaves
        Those that hold points, and the sources near to each.
    tally : Tally
        What there is to compute, on the host.
    """

    leaves: Leaves
    tally: Tally


def build_lists(space: Space, tree: DeviceTree, m2p_least: int, p2l_least: int) -> DeviceLists:
    """Return the interaction lists of a tree on the device, see `fmm.tree.lists.build_lists`.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    tree : DeviceTree
        On the device.
    m2p_least, p2l_least : int
        Fewer sources (or targets) than this in the smaller box are summed directly.
    """
    counts = Counts(space, len(tree.level_starts) - 1)
    transfers = Transfers(space, tree, counts)
    meetings = _Meetings(space, tree, transfers.colleagues, (m2p_least, p2l_least), counts)
    numbers, weights = counts.read()
    m2l_starts, m2l_targets, m2l_sources = transfers.pairs(numbers)
    found, ranges = meetings.pairs(numbers)
    near_starts, near, m2p_targets, m2p_sources, p2l_targets, p2l_sources = found
    leaves = leaves_of(space, tree, near_starts, ranges)
    return DeviceLists(
        near_starts, near, leaves.range_starts, leaves.ranges, m2l_starts, m2l_targets, m2l_sources,
        m2p_targets, m2p_sources, p2l_targets, p2l_sources, leaves, tally(numbers, weights),
    )  # fmt: skip


class _Meetings:
    """Near, multipole-to-particle and particle-to-local pairs of all targets.

    Parameters
    ----------
    space, tree, counts
        As those of `Transfers`.
    colleagues : device array of int32, shape (n_boxes, 27)
    least : tuple of int
        See `build_lists`.
    """

    def __init__(
        self,
        space: Space,
        tree: DeviceTree,
        colleagues: DeviceArray,
        least: tuple[int, int],
        counts: Counts,
    ) -> None:
        self.space, self.tree = space, tree
        n = tree.parent.shape[0]
        blocks, chunk = chunks_of_boxes(n)
        self._grid = space.stream, GEOMETRY, blocks, BLOCK
        self._per_box = space.empty((3, n), np.int32)
        self._per_chunk = space.empty((3, max(blocks, 1)), np.int64)
        self._given = (
            chunk, tree.starts, tree.anchor, tree.parent, tree.first_child, tree.n_children,
            tree.n_targets, tree.n_sources, colleagues, *least, self._per_box, self._per_chunk,
        )  # fmt: skip
        _count()(*self._grid, *self._given, counts.numbers, counts.weights)

    def pairs(self, numbers: np.ndarray) -> tuple[list[DeviceArray], Ranges]:
        """Return pairs, and near boxes as ranges of sources.

        Pairs are starts of the near ones of each box, these, targets and sources of the two mixed
        kinds.
        """
        space, n = self.space, self.tree.parent.shape[0]
        near, m2p, p2l = (int(numbers[kind]) for kind in (NEAR, M2P, P2L))
        starts = space.zeros((n + 1,), np.int64)
        arrays = [space.empty((k,), np.int32) for k in (near, m2p, m2p, p2l, p2l)]
        ranges = Ranges(
            space.empty((near, 2), np.int64), space.empty((n,), np.int32),
            space.empty((N_KINDS, self._per_chunk.shape[1]), np.int64),
            space.zeros((N_KINDS,), np.int64),
        )  # fmt: skip
        _write()(*self._grid, *self._given, self.tree.source_range, starts, *arrays, *ranges)
        return [starts, *arrays], ranges


# --- what a target meets --------------------------------------------------------------------------


def _emit_own(into, row, source):
    """Take a pair of a leaf's own: near, or with a multipole expansion; not what it sends."""
    leaf, n, next_, lists, held = into
    near, m2p_targets, m2p_sources, _, _ = lists
    n_targets, n_sources, level_starts, weights, counting = held
    if row == leaf:
        if counting:
            next_[CLOSE] += n_sources[source]
        else:
            near[next_[NEAR]] = source
        next_[NEAR] += 1
    elif row == n + leaf:
        if counting:
            next_[SINGLE] += n_targets[leaf]
            level = upper(level_starts, 0, level_starts.shape[0], source) - 1
            cuda.atomic.add(weights, level, np.int64(n_targets[leaf]) * n_sources[source])
        else:
            m2p_targets[next_[M2P]] = leaf
            m2p_sources[next_[M2P]] = source
        next_[M2P] += 1


substitute(emit, device(_emit_own))


@device
def _from_larger(boxes, box, colleagues, least, path, into):
    """Find the pairs of a target with leaves larger than itself.

    `path` has room for the boxes that hold it.
    """
    _, _, next_, lists, held = into
    _, _, _, p2l_targets, p2l_sources = lists
    n_targets, n_sources, level_starts, weights, counting = held
    level = upper(level_starts, 0, level_starts.shape[0], box) - 1
    path[level] = box
    for above in range(level - 1, -1, -1):
        path[above] = boxes.parent[path[above + 1]]
    for above in range(level):
        for i in range(_COLLEAGUES):
            leaf = colleagues[path[above], i]
            if leaf < 0:
                break
            if boxes.n_children[leaf] > 0 or n_sources[leaf] == 0:
                continue
            # the first box on the way down that does not touch the leaf
            apart = above + 1
            while apart <= level and touches(boxes.anchor, leaf, path[apart], apart - above):
                apart += 1
            if apart > level or n_targets[path[apart]] < least[1]:
                if boxes.n_children[box] == 0:
                    emit(into, box, leaf)
            elif apart == level:
                if counting:
                    next_[SINGLE] += n_sources[leaf]
                    held_ = np.int64(n_targets[box]) * n_sources[leaf]
                    cuda.atomic.add(weights, level, held_)
                else:
                    p2l_targets[next_[P2L]] = box
                    p2l_sources[next_[P2L]] = leaf
                next_[P2L] += 1


@device
def _meet(boxes, box, colleagues, least, stack, path, into):
    """Find the pairs that a box has as a target."""
    if boxes.n_targets[box] > 0:
        _from_larger(boxes, box, colleagues, least, path, into)
        neighbours_of(boxes, box, colleagues, least, stack, into)


@kernels
def _count():
    def loop(
        chunk, level_starts, anchor, parent, first_child, n_children, n_targets, n_sources,
        colleagues, m2p_least, p2l_least, per_box, per_chunk, numbers, weights,
    ):  # fmt: skip
        """Count the pairs of every target, and what they cost."""
        shared = cuda.shared.array(BLOCK, np.int64)
        points = cuda.shared.array(_LEVELS, np.int64)
        stack = cuda.local.array((2, STACK), np.int32)
        path = cuda.local.array(_LEVELS, np.int32)
        next_, wholes = cuda.local.array(N_NUMBERS, np.int64), cuda.local.array(N_NUMBERS, np.int64)
        thread, block, n = cuda.threadIdx.x, cuda.blockIdx.x, parent.shape[0]
        boxes = Boxes(
            level_starts, anchor, n_targets, parent, first_child, n_children, anchor, n_targets,
            n_sources, n_targets, n_sources,
        )  # fmt: skip
        nothing = n_targets[:0]
        for level in range(thread, _LEVELS, BLOCK):
            points[level] = 0
        for kind in range(N_NUMBERS):
            wholes[kind] = 0
        cuda.syncthreads()
        for box in range(block * chunk + thread, min((block + 1) * chunk, n), BLOCK):
            for kind in range(N_NUMBERS):
                next_[kind] = 0
            lists = nothing, nothing, nothing, nothing, nothing
            held = n_targets, n_sources, level_starts, points, True
            least = m2p_least, p2l_least
            into = box, n, next_, lists, held
            _meet(boxes, box, colleagues, least, stack, path, into)
            next_[CLOSE] *= n_targets[box]
            next_[LEAVES] = 1 if n_children[box] == 0 else 0
            for kind in range(3):
                per_box[kind, box] = next_[kind]
            for kind in range(N_NUMBERS):
                wholes[kind] += next_[kind]
        add_up(shared, wholes, per_chunk, numbers)
        for level in range(thread, weights.shape[0], BLOCK):
            if points[level] > 0:
                cuda.atomic.add(weights, (level, POINTS), points[level])

    return loop


@kernels
def _write():
    def loop(
        chunk, level_starts, anchor, parent, first_child, n_children, n_targets, n_sources,
        colleagues, m2p_least, p2l_least, per_box, per_chunk, source_range, starts, near,
        m2p_targets, m2p_sources, p2l_targets, p2l_sources, loose, lengths, kinds_per_chunk, totals,
    ):  # fmt: skip
        """Write the pairs of every target, and near boxes as ranges of sources."""
        shared = cuda.shared.array(BLOCK, np.int64)
        weights = cuda.shared.array(_LEVELS, np.int64)
        stack = cuda.local.array((2, STACK), np.int32)
        path = cuda.local.array(_LEVELS, np.int32)
        next_, before = cuda.local.array(N_NUMBERS, np.int64), cuda.local.array(3, np.int64)
        kinds, wholes = cuda.local.array(N_KINDS, np.int64), cuda.local.array(N_KINDS, np.int64)
        thread, block, n = cuda.threadIdx.x, cuda.blockIdx.x, parent.shape[0]
        boxes = Boxes(
            level_starts, anchor, n_targets, parent, first_child, n_children, anchor, n_targets,
            n_sources, n_targets, n_sources,
        )  # fmt: skip
        for kind in range(N_KINDS):
            wholes[kind] = 0
        for kind in range(3):
            before[kind] = summed(shared, per_chunk[kind], 0, block)
        last = min((block + 1) * chunk, n)
        for begin in range(block * chunk, last, BLOCK):
            box = begin + thread
            for kind in range(3):
                count = np.int64(per_box[kind, box]) if box < last else np.int64(0)
                inside, whole = scanned(shared, count)
                next_[kind] = before[kind] + inside
                before[kind] += whole
            if box >= last:
                continue
            first = next_[NEAR]
            lists = near, m2p_targets, m2p_sources, p2l_targets, p2l_sources
            held = n_targets, n_sources, level_starts, weights, False
            least = m2p_least, p2l_least
            into = box, n, next_, lists, held
            _meet(boxes, box, colleagues, least, stack, path, into)
            starts[box + 1] = next_[NEAR]
            end = merge_row(near, first, next_[NEAR], source_range, loose, first)
            lengths[box] = end - first
            kinds_of(n_children[box], n_targets[box], n_sources[box], end - first, kinds)
            for kind in range(N_KINDS):
                wholes[kind] += kinds[kind]
        add_up(shared, wholes, kinds_per_chunk, totals)

    return loop
