"""Who meets whom in a tree: near pairs, multipole-to-local pairs, and the two mixed kinds.

The lists of the adaptive method (Cheng, Greengard & Rokhlin 1999, lists 1-4). Every pair of points
of a system is in exactly one of: near (leaf and box), multipole-to-local (boxes of one size, not
adjacent, with adjacent parents), multipole-to-particle and particle-to-local (a leaf and a smaller
box, not adjacent to it, whose parent is).

The loops run twice: first with empty arrays to count, then to write.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fmm.tree.build import Tree
from fmm.tree.curve import MAX_LEVELS, upper
from multipoles.compiled.jit import bare, bare_inline, run_chunks

REACH = 4
"""Translation codes count shifts of -4 ... 4 along each axis."""
N_CODES = (2 * REACH + 1) ** 3

STACK = 8 * MAX_LEVELS
"""Boxes that a leaf may have to look into at once."""

STRIDES = np.array([(2 * REACH + 1) ** 2, 2 * REACH + 1, 1], np.int64)
POINTS = REACH * int(STRIDES.sum())
"""Code of no shift. No pair of boxes has it: it stands for single points that meet an expansion."""
_BOX = 1000.0  # what finding the transfers of a box costs, in pairs
IS_ADJACENT = (np.abs(np.indices((2 * REACH + 1,) * 3) - REACH).max(axis=0) <= 1).ravel()


@lru_cache
def shifts() -> np.ndarray:
    """Return target minus source anchor of every code, int, shape (N_CODES, 3)."""
    axes = np.arange(-REACH, REACH + 1)
    return np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)


@dataclass(frozen=True)
class Lists:
    """Interaction lists.

    Attributes
    ----------
    near_starts, near_boxes : ndarray
        Of every box that is a leaf with targets, the boxes (not always leaves) whose sources it
        sums directly: ``near_boxes[near_starts[b] : near_starts[b + 1]]``.
    near_range_starts, near_ranges : ndarray
        The same as ranges of sources, ascending, adjacent ones merged.
    m2l_starts : ndarray, int64, shape (N_CODES + 1,)
        Pairs of each translation code: 81 (dx + 4) + 9 (dy + 4) + dz + 4 with target minus source
        anchor.
    m2l_targets, m2l_sources : ndarray, int32
        Sorted by code, then target.
    m2p_targets, m2p_sources : ndarray, int32
        Leaf that evaluates, box whose multipoles it evaluates; sorted by target.
    p2l_targets, p2l_sources : ndarray, int32
        Box that receives, leaf whose points send; sorted by target.
    """

    near_starts: np.ndarray
    near_boxes: np.ndarray
    near_range_starts: np.ndarray
    near_ranges: np.ndarray
    m2l_starts: np.ndarray
    m2l_targets: np.ndarray
    m2l_sources: np.ndarray
    m2p_targets: np.ndarray
    m2p_sources: np.ndarray
    p2l_targets: np.ndarray
    p2l_sources: np.ndarray


class Boxes(NamedTuple):
    """What the loops read of a tree.

    `cell` is the anchor as one number, modulo 2^64. In differences of it, as in the codes made of
    them, shifts of up to REACH along each axis are told apart.
    """

    level_starts: np.ndarray
    anchor: np.ndarray
    cell: np.ndarray
    parent: np.ndarray
    first_child: np.ndarray
    n_children: np.ndarray
    roots: np.ndarray
    receives: np.ndarray
    sends: np.ndarray
    n_targets: np.ndarray
    n_sources: np.ndarray


class Transfers(NamedTuple):
    """What depends on boxes alone, not on what they hold."""

    boxes: Boxes
    colleagues: np.ndarray
    """int32, shape (n_boxes, 27): adjacent boxes of one size, ascending, then -1."""
    starts: np.ndarray
    """As `Lists.m2l_starts`, and the following two as the other two."""
    targets: np.ndarray
    sources: np.ndarray

    def serve(self, boxes: Boxes) -> bool:
        """Tell whether other boxes lie as these, and the same of them send and receive."""
        kept = (name for name in Boxes._fields if name not in ("n_targets", "n_sources"))
        return all(np.array_equal(getattr(self.boxes, f), getattr(boxes, f)) for f in kept)


def transfers(
    tree: Tree, before: Transfers | None = None, of_roots: np.ndarray | None = None
) -> Transfers:
    """Return the transfers of a tree, those of another one if boxes are the same.

    Parameters
    ----------
    tree : Tree
        Boxes.
    before : Transfers, optional
        Those of another tree.
    of_roots : ndarray, optional
        Rows of `Transfers.colleagues` of level 0, whose boxes then have no pairs. Default: boxes of
        one system are colleagues or pairs.
    """
    boxes = _boxes(tree)
    if before is not None and before.serve(boxes):
        return before._replace(boxes=boxes)
    return Transfers(boxes, *_transfer_lists(boxes, of_roots))


def build_lists(
    tree: Tree, m2p_least: int, p2l_least: int, known: Transfers | None = None
) -> Lists:
    """Return the interaction lists of a tree.

    Parameters
    ----------
    tree : Tree
        Targets and sources.
    m2p_least, p2l_least : int
        Fewer sources (or targets) than this in the smaller box are summed directly rather than by
        its expansion.
    known : Transfers, optional
        Those of the tree.
    """
    boxes, colleagues, m2l_starts, targets, sources = known or transfers(tree)
    n, nothing = len(tree.parent), np.empty(0, np.int32)
    tallies = np.zeros(3 * n + 1, np.int64)
    stack, least = np.empty((2, STACK), np.int32), (m2p_least, p2l_least)
    _neighbours(boxes, colleagues, least, stack, tallies[1:], nothing)
    starts = np.cumsum(tallies)
    senders = np.empty(starts[-1], np.int32)
    _neighbours(boxes, colleagues, least, stack, starts[:-1].copy(), senders)
    near, m2p, p2l = (senders[starts[k * n] : starts[(k + 1) * n]] for k in range(3))
    near_starts, m2p_starts, p2l_starts = (starts[k * n : (k + 1) * n + 1] for k in range(3))
    return Lists(
        near_starts.copy(), near, *ranges_of(near_starts, near, tree.source_range), m2l_starts,
        targets, sources, _repeated(m2p_starts), m2p, _repeated(p2l_starts), p2l,
    )  # fmt: skip


def ranges_of(
    near_starts: np.ndarray, near: np.ndarray, source_range: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return `Lists.near_range_starts` and `Lists.near_ranges` of near boxes."""
    ranges, starts = np.empty((len(near), 2), np.int64), np.zeros(len(near_starts), np.int64)
    _merge(near_starts, near, source_range, starts, ranges)
    return starts, ranges[: starts[-1]].copy()


def _transfer_lists(boxes: Boxes, of_roots: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Return the colleagues of every box, and starts, targets and sources of its pairs."""
    nothing = np.empty(0, np.int32)
    colleagues = np.empty((len(boxes.parent), 27), np.int32)
    parts: list[tuple[int, int, np.ndarray]] = []
    levels = list(pairwise(boxes.level_starts.tolist()))
    if of_roots is not None:
        colleagues[: len(of_roots)] = of_roots
        levels = levels[1:]
    for start, end in levels:  # colleagues are those of parents

        def count(first: int, last: int, start: int = start) -> tuple[int, int, np.ndarray]:
            counts = np.zeros(N_CODES, np.int64)
            _transfers(start + first, start + last, boxes, colleagues, counts, nothing, nothing)
            return start + first, start + last, counts

        parts += run_chunks(count, end - start, _BOX * (end - start))
    # pairs of one code follow each other, and among these those of one part
    counts = np.array([part[2] for part in parts], np.int64).reshape(-1, N_CODES).T
    ends = np.cumsum(counts).reshape(counts.shape)
    targets, sources = np.empty((2, counts.sum()), np.int32)

    def write(begin: int, end: int) -> None:
        for k in range(begin, end):
            offsets = ends[:, k] - counts[:, k]
            _transfers(*parts[k][:2], boxes, colleagues, offsets, targets, sources)

    run_chunks(write, len(parts), _BOX * len(boxes.parent))
    return colleagues, np.append(0, counts.sum(axis=1).cumsum()), targets, sources


def transfers_of_levels(lists: Lists, level_starts: np.ndarray) -> np.ndarray:
    """Return the number of multipole-to-local pairs of each level."""
    counts = np.zeros(len(level_starts) - 1, np.int64)
    _count_transfers(lists.m2l_starts, lists.m2l_targets, level_starts, counts)
    return counts


def _boxes(tree: Tree) -> Boxes:
    n_targets = tree.target_range[:, 1] - tree.target_range[:, 0]
    n_sources = tree.source_range[:, 1] - tree.source_range[:, 0]
    systems = tree.system[: tree.level_starts[1]]
    roots = [np.searchsorted(systems, systems, side) for side in ("left", "right")]
    return Boxes(
        tree.level_starts, tree.anchor, tree.anchor @ STRIDES, tree.parent, tree.first_child,
        tree.n_children, np.stack(roots, axis=1), n_targets > 0, n_sources > 0, n_targets,
        n_sources,
    )  # fmt: skip


def _repeated(starts: np.ndarray) -> np.ndarray:
    """Return the row of each entry of compressed rows."""
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))


@bare
def _count_transfers(starts, targets, level_starts, counts):
    """Count pairs by the level of their targets, which are sorted within each code."""
    for code in range(starts.shape[0] - 1):
        first, end = starts[code], starts[code + 1]
        for level in range(counts.shape[0]):
            last = upper(targets, first, end, level_starts[level + 1] - 1)
            counts[level] += last - first
            first = last


@bare
def _transfers(first, last, boxes, colleagues, offsets, targets, sources):
    """Find boxes adjacent to boxes first ... last - 1 of one size, and multipole-to-local pairs.

    Row b of `colleagues` gets the neighbours of box b, itself among them, ascending, then -1.
    `offsets` counts the pairs of each code, or says where the next one goes.
    """
    for box in range(first, last):
        transfers_of(boxes, box, colleagues, offsets, 1, targets, sources, sources[:0])


@bare_inline
def transfers_of(boxes, box, colleagues, offsets, stride, targets, sources, codes):
    """Find the colleagues and pairs of one box, from the colleagues of its parent.

    Pairs of one code follow each other if `stride` is 1, all pairs if it is 0.
    """
    into = offsets, stride, targets, sources, codes
    n_colleagues = 0
    if box < boxes.level_starts[1]:
        first, last = boxes.roots[box, 0], boxes.roots[box, 1]
        n_colleagues = _sort_out(boxes, box, first, last, 0, colleagues, into)
    else:
        parent = boxes.parent[box]
        for i in range(27):
            near = colleagues[parent, i]
            if near < 0:
                break
            first = boxes.first_child[near]
            last = first + boxes.n_children[near]
            n_colleagues = _sort_out(boxes, box, first, last, n_colleagues, colleagues, into)
    for i in range(n_colleagues, 27):
        colleagues[box, i] = -1


@bare_inline
def _sort_out(boxes, box, first, last, n_colleagues, colleagues, into):
    """Take boxes first ... last of one size as colleagues or pairs; return how many are known."""
    offsets, stride, targets, sources, codes = into
    here, receives = boxes.cell[box] + POINTS, boxes.receives[box]
    for other in range(first, last):
        code = here - boxes.cell[other]
        if IS_ADJACENT[code]:
            colleagues[box, n_colleagues] = other
            n_colleagues += 1
        elif receives and boxes.sends[other]:
            offset = offsets[code * stride]
            if len(targets) > 0:
                targets[offset] = box
                sources[offset] = other
            if len(codes) > 0:
                codes[offset] = code
            offsets[code * stride] = offset + 1
    return n_colleagues


@bare
def _neighbours(boxes, colleagues, least, stack, offsets, senders):
    """Find near, multipole-to-particle and particle-to-local pairs of every leaf.

    `offsets` counts near, then m2p, then p2l pairs of each target, or says where the next goes.
    """
    for leaf in range(len(boxes.parent)):
        neighbours_of(boxes, leaf, colleagues, least, stack, (offsets, 1, senders, senders[:0]))


@bare_inline
def neighbours_of(boxes, leaf, colleagues, least, stack, into):
    """Find the pairs of one leaf with its colleagues and the smaller boxes inside these.

    `into` holds the offsets, the sources, and the rows of pairs: near, m2p and p2l pairs of
    each target. Pairs of one row follow each other if the second item is 1, all pairs if it is 0.
    """
    if boxes.n_children[leaf] > 0:
        return
    for i in range(27):
        colleague = colleagues[leaf, i]
        if colleague < 0:
            break
        if boxes.n_children[colleague] > 0:
            _descend(boxes, leaf, colleague, least, stack, into)
        elif boxes.receives[leaf] and boxes.sends[colleague]:
            emit(into, leaf, colleague)


@bare_inline
def emit(into, row, source):
    """Take a pair, see `neighbours_of`; kernels for GPUs have another of their own."""
    offsets, stride, senders, rows = into
    offset = offsets[row * stride]
    if len(senders) > 0:
        senders[offset] = source
    if len(rows) > 0:
        rows[offset] = row
    offsets[row * stride] = offset + 1


@bare_inline
def _descend(boxes, leaf, colleague, least, stack, into):
    """Find the pairs, both ways, of a leaf and the smaller boxes inside a colleague."""
    stack[0, 0], stack[1, 0] = colleague, 0
    top = 1
    while top > 0:
        top -= 1
        box, shift = stack[0, top], stack[1, top] + 1
        first = boxes.first_child[box]
        for other in range(first, first + boxes.n_children[box]):
            if not touches(boxes.anchor, leaf, other, shift):
                _separate(boxes, leaf, other, least, stack, top, into)
            elif boxes.n_children[other] > 0:
                stack[0, top], stack[1, top] = other, shift
                top += 1
            else:
                if boxes.receives[leaf] and boxes.sends[other]:
                    emit(into, leaf, other)
                if boxes.receives[other] and boxes.sends[leaf]:
                    emit(into, other, leaf)


@bare_inline
def touches(anchor, leaf, other, shift):
    """Return whether a box that is 2^shift times smaller touches the leaf."""
    for axis in range(3):
        low = anchor[leaf, axis] << shift
        high = low + (1 << shift)
        if anchor[other, axis] < low - 1 or anchor[other, axis] > high:
            return False
    return True


@bare_inline
def _separate(boxes, leaf, other, least, stack, top, into):
    """Join a leaf and a smaller box apart from it: by expansions of a box that holds enough.

    `other` may not be on the stack, which is used from `top` on and left as it was below.
    """
    n = len(boxes.parent)
    if boxes.receives[leaf] and boxes.sends[other]:
        emit(into, (n if boxes.n_sources[other] >= least[0] else 0) + leaf, other)
    if not (boxes.receives[other] and boxes.sends[leaf]):
        return
    if boxes.n_targets[other] >= least[1]:
        emit(into, 2 * n + other, leaf)
        return
    # only leaves have near lists
    bottom = top
    stack[0, top] = other
    top += 1
    while top > bottom:
        top -= 1
        box = stack[0, top]
        if boxes.n_children[box] == 0:
            if boxes.receives[box]:
                emit(into, box, leaf)
            continue
        for child in range(boxes.first_child[box], boxes.first_child[box] + boxes.n_children[box]):
            stack[0, top] = child
            top += 1


@bare
def _merge(starts, near, sources, range_starts, ranges):
    """Write the ranges of sources of near boxes, ascending, adjacent ones merged."""
    count = 0
    for box in range(len(starts) - 1):
        count = merge_row(near, starts[box], starts[box + 1], sources, ranges, count)
        range_starts[box + 1] = count


@bare_inline
def merge_row(near, begin, end, sources, ranges, first):
    """Write the ranges of some near boxes from row `first` on; return where they end."""
    count = first
    for i in range(begin, end):
        start, stop = sources[near[i], 0], sources[near[i], 1]
        offset = count
        while offset > first and ranges[offset - 1, 0] > start:
            ranges[offset, 0], ranges[offset, 1] = ranges[offset - 1, 0], ranges[offset - 1, 1]
            offset -= 1
        ranges[offset, 0], ranges[offset, 1] = start, stop
        count += 1
    kept = first
    for i in range(first + 1, count):
        if ranges[i, 0] == ranges[kept, 1]:
            ranges[kept, 1] = ranges[i, 1]
        else:
            kept += 1
            ranges[kept, 0], ranges[kept, 1] = ranges[i, 0], ranges[i, 1]
    return min(count, kept + 1)
