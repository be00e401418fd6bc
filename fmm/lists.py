"""Who meets whom in a tree: near pairs, multipole-to-local pairs, and the two mixed kinds.

The lists of the adaptive method (Cheng, Greengard & Rokhlin 1999, lists 1-4). Every pair of points
of a system is in exactly one of: near (leaf and box), multipole-to-local (boxes of one size, not
adjacent, with adjacent parents), multipole-to-particle and particle-to-local (a leaf and a smaller
box, not adjacent to it, whose parent is).

The loops run twice: first with empty arrays to count, then to write.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmm.tree import MAX_BITS, Tree
from multipoles._jit import bare, bare_inline

REACH = 4
"""Translation codes count shifts of -4 ... 4 along each axis."""
N_CODES = (2 * REACH + 1) ** 3

_STRIDES = np.array([(2 * REACH + 1) ** 2, 2 * REACH + 1, 1], np.int32)
_ZERO_SHIFT = REACH * int(_STRIDES.sum())
_ADJACENT = (np.abs(np.indices((2 * REACH + 1,) * 3) - REACH).max(axis=0) <= 1).ravel()


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


class _Boxes(NamedTuple):
    """What the loops read of a tree.

    `place` is the anchor as one number. In it, as in the codes made of it, shifts of up to REACH
    along each axis are told apart.
    """

    level_starts: np.ndarray
    anchor: np.ndarray
    place: np.ndarray
    parent: np.ndarray
    first_child: np.ndarray
    n_children: np.ndarray
    roots: np.ndarray
    receives: np.ndarray
    sends: np.ndarray
    n_targets: np.ndarray
    n_sources: np.ndarray


def build_lists(tree: Tree, m2p_least: int, p2l_least: int) -> Lists:
    """Return the interaction lists of a tree.

    Parameters
    ----------
    tree : Tree
        Targets and sources.
    m2p_least, p2l_least : int
        Fewer sources (or targets) than this in the smaller box are summed directly rather than by
        its expansion.
    """
    boxes, n = _boxes(tree), len(tree.parent)
    nothing = np.empty(0, np.int32)
    colleagues = np.empty((n, 27), np.int32)
    counts = np.zeros(N_CODES + 1, np.int64)
    _transfers(boxes, colleagues, counts[1:], nothing, nothing)
    m2l_starts = np.cumsum(counts)
    targets, sources = np.empty((2, m2l_starts[-1]), np.int32)
    _transfers(boxes, colleagues, m2l_starts[:-1].copy(), targets, sources)
    tallies = np.zeros((3, n + 1), np.int64)
    stack, least = np.empty((2, 8 * MAX_BITS), np.int32), (m2p_least, p2l_least)
    _neighbours(boxes, colleagues, least, stack, tallies[:, 1:], nothing, nothing, nothing)
    starts = np.cumsum(tallies, axis=1)
    near, m2p, p2l = (np.empty(end, np.int32) for end in starts[:, -1])
    _neighbours(boxes, colleagues, least, stack, starts[:, :-1].copy(), near, m2p, p2l)
    ranges, range_starts = np.empty((len(near), 2), np.int64), np.zeros(n + 1, np.int64)
    _merge(starts[0], near, tree.source_range, range_starts, ranges)
    return Lists(
        starts[0], near, range_starts, ranges[: range_starts[-1]].copy(), m2l_starts, targets,
        sources, _repeated(starts[1]), m2p, _repeated(starts[2]), p2l,
    )  # fmt: skip


def _boxes(tree: Tree) -> _Boxes:
    n_targets = tree.target_range[:, 1] - tree.target_range[:, 0]
    n_sources = tree.source_range[:, 1] - tree.source_range[:, 0]
    systems = tree.system[: tree.level_starts[1]]
    roots = [np.searchsorted(systems, systems, side) for side in ("left", "right")]
    return _Boxes(
        tree.level_starts, tree.anchor, tree.anchor @ _STRIDES, tree.parent, tree.first_child,
        tree.n_children, np.stack(roots, axis=1), n_targets > 0, n_sources > 0, n_targets,
        n_sources,
    )  # fmt: skip


def _repeated(starts: np.ndarray) -> np.ndarray:
    """Return the row of each entry of compressed rows."""
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))


@bare
def _transfers(boxes, colleagues, places, targets, sources):
    """Find adjacent boxes of one size, and multipole-to-local pairs.

    Row b of `colleagues` gets the neighbours of box b, itself among them, ascending, then -1.
    `places` counts the pairs of each code, or says where the next one goes.
    """
    for box in range(boxes.level_starts[1]):
        first, last = boxes.roots[box, 0], boxes.roots[box, 1]
        found = _sort_out(boxes, box, first, last, 0, colleagues, places, targets, sources)
        colleagues[box, found:] = -1
    for box in range(boxes.level_starts[1], len(boxes.parent)):
        parent = boxes.parent[box]
        found = 0
        for i in range(27):
            near = colleagues[parent, i]
            if near < 0:
                break
            first = boxes.first_child[near]
            last = first + boxes.n_children[near]
            found = _sort_out(boxes, box, first, last, found, colleagues, places, targets, sources)
        colleagues[box, found:] = -1


@bare_inline
def _sort_out(boxes, box, first, last, found, colleagues, places, targets, sources):
    """Take boxes first ... last of one size as colleagues or pairs; return the colleagues found."""
    here, receives = boxes.place[box] + _ZERO_SHIFT, boxes.receives[box]
    for other in range(first, last):
        code = here - boxes.place[other]
        if _ADJACENT[code]:
            colleagues[box, found] = other
            found += 1
        elif receives and boxes.sends[other]:
            if len(targets) > 0:
                targets[places[code]] = box
                sources[places[code]] = other
            places[code] += 1
    return found


@bare
def _neighbours(boxes, colleagues, least, stack, places, near, m2p, p2l):
    """Find near, multipole-to-particle and particle-to-local pairs of every leaf.

    The rows of `places` count near, m2p and p2l pairs of each target, or say where the next goes.
    """
    for leaf in range(len(boxes.parent)):
        if boxes.n_children[leaf] > 0:
            continue
        for i in range(27):
            colleague = colleagues[leaf, i]
            if colleague < 0:
                break
            if boxes.n_children[colleague] > 0:
                _descend(boxes, leaf, colleague, least, stack, places, near, m2p, p2l)
            elif boxes.receives[leaf] and boxes.sends[colleague]:
                _emit(places[0], leaf, colleague, near)


@bare_inline
def _emit(places, target, source, found):
    if len(found) > 0:
        found[places[target]] = source
    places[target] += 1


@bare_inline
def _descend(boxes, leaf, colleague, least, stack, places, near, m2p, p2l):
    """Find the pairs, both ways, of a leaf and the smaller boxes inside a colleague."""
    stack[0, 0], stack[1, 0] = colleague, 0
    top = 1
    while top > 0:
        top -= 1
        box, shift = stack[0, top], stack[1, top] + 1
        first = boxes.first_child[box]
        for other in range(first, first + boxes.n_children[box]):
            if not _touches(boxes.anchor, leaf, other, shift):
                _separate(boxes, leaf, other, least, stack, top, places, near, m2p, p2l)
            elif boxes.n_children[other] > 0:
                stack[0, top], stack[1, top] = other, shift
                top += 1
            else:
                if boxes.receives[leaf] and boxes.sends[other]:
                    _emit(places[0], leaf, other, near)
                if boxes.receives[other] and boxes.sends[leaf]:
                    _emit(places[0], other, leaf, near)


@bare_inline
def _touches(anchor, leaf, other, shift):
    """Return whether a box that is 2^shift times smaller touches the leaf."""
    for axis in range(3):
        low = anchor[leaf, axis] << shift
        high = low + (1 << shift)
        if anchor[other, axis] < low - 1 or anchor[other, axis] > high:
            return False
    return True


@bare_inline
def _separate(boxes, leaf, other, least, stack, top, places, near, m2p, p2l):
    """Join a leaf and a smaller box apart from it: by expansions of a box that holds enough.

    `other` may not be on the stack, which is used from `top` on and left as it was below.
    """
    if boxes.receives[leaf] and boxes.sends[other]:
        if boxes.n_sources[other] >= least[0]:
            _emit(places[1], leaf, other, m2p)
        else:
            _emit(places[0], leaf, other, near)
    if not (boxes.receives[other] and boxes.sends[leaf]):
        return
    if boxes.n_targets[other] >= least[1]:
        _emit(places[2], other, leaf, p2l)
        return
    # near lists are those of leaves
    bottom = top
    stack[0, top] = other
    top += 1
    while top > bottom:
        top -= 1
        box = stack[0, top]
        if boxes.n_children[box] == 0:
            if boxes.receives[box]:
                _emit(places[0], box, leaf, near)
            continue
        for child in range(boxes.first_child[box], boxes.first_child[box] + boxes.n_children[box]):
            stack[0, top] = child
            top += 1


@bare
def _merge(starts, near, sources, range_starts, ranges):
    """Write the ranges of sources of near boxes, ascending, adjacent ones merged."""
    count = 0
    for box in range(len(starts) - 1):
        first = count
        for i in range(starts[box], starts[box + 1]):
            begin, end = sources[near[i], 0], sources[near[i], 1]
            place = count
            while place > first and ranges[place - 1, 0] > begin:
                ranges[place, 0], ranges[place, 1] = ranges[place - 1, 0], ranges[place - 1, 1]
                place -= 1
            ranges[place, 0], ranges[place, 1] = begin, end
            count += 1
        kept = first
        for i in range(first + 1, count):
            if ranges[i, 0] == ranges[kept, 1]:
                ranges[kept, 1] = ranges[i, 1]
            else:
                kept += 1
                ranges[kept, 0], ranges[kept, 1] = ranges[i, 0], ranges[i, 1]
        count = min(count, kept + 1)
        range_starts[box + 1] = count
