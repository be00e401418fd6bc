"""The lists of `fmm.tree.lists`, made on the GPU for a tree there: same pairs, same order.

A thread follows one box, first to count its pairs, then to write them behind those of the boxes
before it; a stable sort puts them in order of translation codes or of targets. The host reads how
many pairs of a kind there are, nothing else.
"""

from dataclasses import dataclass

import numpy as np

from fmm.cuda.curve import DeviceArray, launch
from fmm.tree.build import Tree
from fmm.tree.curve import upper
from fmm.tree.lists import (
    N_CODES,
    STACK,
    STRIDES,
    Boxes,
    Lists,
    merge_row,
    neighbours_of,
    transfers_of,
)
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import argsort, row_starts, running_sum, taken, total

_X, _Y, _Z = map(int, STRIDES)
_CODE_BITS = (N_CODES - 1).bit_length()


@dataclass(frozen=True)
class DeviceLists(Lists):
    """Interaction lists; all arrays on the device.

    Attributes
    ----------
    m2l_codes : device array of int64
        Translation code of every pair.
    """

    m2l_codes: DeviceArray


def build_lists(space: Space, tree: Tree, m2p_least: int, p2l_least: int) -> DeviceLists:
    """Return the interaction lists of a tree on the device, see `fmm.tree.lists.build_lists`.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    tree : Tree
        On the device.
    m2p_least, p2l_least : int
        Fewer sources (or targets) than this in the smaller box are summed directly.
    """
    n = tree.parent.shape[0]
    boxes = _boxes(space, tree)
    colleagues = space.empty((n, 27), np.int32)
    targets, sources, codes, m2l_starts = _transfers(space, tree, boxes, colleagues)
    starts, senders, rows = _neighbours(space, boxes, colleagues, (m2p_least, p2l_least))
    near_end, m2p_end = (int(i) for i in space.download(_picked(space, starts, n)))
    near = senders[:near_end]
    range_starts, ranges = _ranges(space, starts, near, n, tree.source_range)
    return DeviceLists(
        starts[: n + 1], near, range_starts, ranges, m2l_starts, targets, sources,
        rows[near_end:m2p_end], senders[near_end:m2p_end], rows[m2p_end:], senders[m2p_end:], codes,
    )  # fmt: skip


# --- what the loops read --------------------------------------------------------------------------


def _boxes(space: Space, tree: Tree) -> tuple[DeviceArray, ...]:
    """Return the arrays of `Boxes`."""
    n, n_roots = tree.parent.shape[0], int(tree.level_starts[1])
    cell = space.empty((n,), np.int64)
    n_targets, n_sources = (space.empty((n,), np.int32) for _ in range(2))
    roots = space.empty((n_roots, 2), np.int64)
    launch(
        space, _describe(), n, tree.anchor, tree.system, tree.target_range, tree.source_range,
        cell, n_targets, n_sources, roots,
    )  # fmt: skip
    level_starts = space.upload(tree.level_starts)
    return (
        level_starts, tree.anchor, cell, tree.parent, tree.first_child, tree.n_children, roots,
        n_targets, n_sources,
    )  # fmt: skip


@kernels
def _describe():
    def loop(anchor, system, target_range, source_range, cell, n_targets, n_sources, roots):
        box = cuda.grid(1)
        if box >= cell.shape[0]:
            return
        cell[box] = anchor[box, 0] * _X + anchor[box, 1] * _Y + anchor[box, 2] * _Z
        n_targets[box] = target_range[box, 1] - target_range[box, 0]
        n_sources[box] = source_range[box, 1] - source_range[box, 0]
        if box < roots.shape[0]:
            last = roots.shape[0]
            roots[box, 0] = upper(system, 0, last, system[box] - 1)
            roots[box, 1] = upper(system, 0, last, system[box])

    return loop


# --- multipole to local ---------------------------------------------------------------------------


def _transfers(
    space: Space, tree: Tree, boxes: tuple[DeviceArray, ...], colleagues: DeviceArray
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray]:
    """Fill `colleagues`; return multipole-to-local pairs, their codes, and where codes start."""
    n = colleagues.shape[0]
    counts, nothing = space.empty((n,), np.int64), space.empty((0,), np.int32)
    none = space.empty((0,), np.int64)
    for first, last in zip(tree.level_starts[:-1], tree.level_starts[1:], strict=True):
        launch(
            space, _transfer(), int(last - first), *boxes, int(first), int(last), colleagues,
            counts, counts, nothing, nothing, none,
        )  # fmt: skip
    offsets = running_sum(space, counts)
    n_pairs = total(space, offsets)
    check_pairs(n_pairs)
    targets, sources = (space.empty((n_pairs,), np.int32) for _ in range(2))
    codes = space.empty((n_pairs,), np.int64)
    launch(
        space, _transfer(), n, *boxes, 0, n, colleagues, offsets, counts, targets, sources, codes
    )  # fmt: skip
    permutation, codes = argsort(space, codes, _CODE_BITS)
    starts = row_starts(space, codes, N_CODES)
    return taken(space, targets, permutation), taken(space, sources, permutation), codes, starts


def check_pairs(n_pairs: int) -> None:
    """Refuse more translations than are counted in 32 bits, see `fmm.cuda.driver`."""
    if n_pairs >= 2**31:
        raise ValueError(
            f"expected a tree of fewer than 2^31 multipole-to-local translations, got {n_pairs}: "
            "give a larger leaf_size"
        )


@kernels
def _transfer():
    def loop(
        level_starts, anchor, cell, parent, first_child, n_children, roots, n_targets, n_sources,
        first, last, colleagues, offsets, counts, targets, sources, codes,
    ):  # fmt: skip
        """Count the pairs of every target, or write them from its offset on."""
        box = first + cuda.grid(1)
        if box >= last:
            return
        boxes = Boxes(
            level_starts, anchor, cell, parent, first_child, n_children, roots, n_targets,
            n_sources, n_targets, n_sources,
        )  # fmt: skip
        next_ = cuda.local.array(1, np.int64)
        counting = targets.shape[0] == 0
        next_[0] = 0 if counting else offsets[box]
        transfers_of(boxes, box, colleagues, next_, 0, targets, sources, codes)
        if counting:
            counts[box] = next_[0]

    return loop


# --- leaves and their neighbours ------------------------------------------------------------------


def _neighbours(
    space: Space, boxes: tuple[DeviceArray, ...], colleagues: DeviceArray, least: tuple[int, int]
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Return near, m2p and p2l pairs, one kind after the other, by targets.

    Where the rows, three times as many as boxes, start; the sources; and the targets.
    """
    n = colleagues.shape[0]
    counts, nothing = space.empty((n,), np.int64), space.empty((0,), np.int32)
    none = space.empty((0,), np.int64)
    launch(space, _meet(), n, *boxes, colleagues, *least, counts, counts, nothing, none)
    offsets = running_sum(space, counts)
    n_pairs = total(space, offsets)
    senders, rows = space.empty((n_pairs,), np.int32), space.empty((n_pairs,), np.int64)
    launch(space, _meet(), n, *boxes, colleagues, *least, offsets, counts, senders, rows)
    permutation, rows = argsort(space, rows, (3 * n).bit_length())
    starts, targets = row_starts(space, rows, 3 * n), space.empty((n_pairs,), np.int32)
    launch(space, _name_targets(), n_pairs, rows, n, targets)
    return starts, taken(space, senders, permutation), targets


@kernels
def _meet():
    def loop(
        level_starts, anchor, cell, parent, first_child, n_children, roots, n_targets, n_sources,
        colleagues, m2p_least, p2l_least, offsets, counts, senders, rows,
    ):  # fmt: skip
        """Count the pairs that every leaf finds, or write them from its offset on."""
        leaf = cuda.grid(1)
        if leaf >= parent.shape[0]:
            return
        boxes = Boxes(
            level_starts, anchor, cell, parent, first_child, n_children, roots, n_targets,
            n_sources, n_targets, n_sources,
        )  # fmt: skip
        next_ = cuda.local.array(1, np.int64)
        stack = cuda.local.array((2, STACK), np.int32)
        counting = senders.shape[0] == 0
        next_[0] = 0 if counting else offsets[leaf]
        least = m2p_least, p2l_least
        neighbours_of(boxes, leaf, colleagues, least, stack, (next_, 0, senders, rows))
        if counting:
            counts[leaf] = next_[0]

    return loop


@kernels
def _name_targets():
    def loop(rows, n, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = rows[i] % n

    return loop


def _picked(space: Space, starts: DeviceArray, n: int) -> DeviceArray:
    """Return where m2p and p2l pairs start."""
    out = space.empty((2,), np.int64)
    launch(space, _pick(), 2, starts, n, out)
    return out


@kernels
def _pick():
    def loop(starts, n, out):
        i = cuda.grid(1)
        if i < 2:
            out[i] = starts[(i + 1) * n]

    return loop


# --- near boxes as ranges -------------------------------------------------------------------------


def _ranges(
    space: Space, starts: DeviceArray, near: DeviceArray, n: int, source_range: DeviceArray
) -> tuple[DeviceArray, DeviceArray]:
    """Return where the ranges of sources of every box start, and these."""
    loose, counts = space.empty((near.shape[0], 2), np.int64), space.empty((n,), np.int64)
    launch(space, _merge(), n, starts, near, source_range, loose, counts)
    range_starts = running_sum(space, counts)
    ranges = space.empty((total(space, range_starts), 2), np.int64)
    launch(space, _pack(), n, starts, loose, range_starts, ranges)
    return range_starts, ranges


@kernels
def _merge():
    def loop(starts, near, source_range, loose, counts):
        box = cuda.grid(1)
        if box < counts.shape[0]:
            first = starts[box]
            last = merge_row(near, first, starts[box + 1], source_range, loose, first)
            counts[box] = last - first

    return loop


@kernels
def _pack():
    def loop(starts, loose, range_starts, ranges):
        box = cuda.grid(1)
        if box < range_starts.shape[0] - 1:
            for i in range(range_starts[box], range_starts[box + 1]):
                row = starts[box] + i - range_starts[box]
                ranges[i, 0] = loose[row, 0]
                ranges[i, 1] = loose[row, 1]

    return loop
