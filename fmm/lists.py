"""Who meets whom in a tree: near pairs, multipole-to-local pairs, and the two mixed kinds.

The lists of the adaptive method (Cheng, Greengard & Rokhlin 1999, lists 1-4). Every pair of points
of a system is in exactly one of: near (leaf and box), multipole-to-local (boxes of one size, not
adjacent, with adjacent parents), multipole-to-particle and particle-to-local (a leaf and a smaller
box, not adjacent to it, whose parent is).
"""

from dataclasses import dataclass

import numpy as np

from fmm.tree import Tree
from multipoles._jit import inline, jit

REACH = 4
"""Translation codes count shifts of -4 ... 4 along each axis."""
N_CODES = (2 * REACH + 1) ** 3


@dataclass(frozen=True)
class Lists:
    """Interaction lists.

    Attributes
    ----------
    near_starts, near_boxes : ndarray
        Of every box that is a leaf with targets, the boxes (not always leaves) whose sources it
        sums directly: ``near_boxes[near_starts[b] : near_starts[b + 1]]``.
    near_range_starts, near_ranges : ndarray
        The same as ranges of sources, adjacent ones merged.
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
    arrays = (
        tree.level_starts, tree.anchor, tree.parent, tree.first_child, tree.n_children,
        tree.system, tree.target_range, tree.source_range,
    )  # fmt: skip
    counts = np.zeros(N_CODES + 1, np.int64)
    colleagues = np.full((len(tree.parent), 27), -1, np.int32)
    _colleagues(*arrays, colleagues, counts)
    starts = np.cumsum(counts)
    m2l = np.empty((2, starts[-1]), np.int32)
    _transfers(*arrays, colleagues, starts.copy(), m2l)
    tallies = np.zeros((3, len(tree.parent) + 1), np.int64)
    nothing = np.empty(0, np.int32)
    least = (m2p_least, p2l_least)
    _mixed(*arrays, colleagues, least, tallies, nothing, nothing, nothing)
    ends = np.cumsum(tallies, axis=1)
    found = [np.empty(end, np.int32) for end in ends[:, -1]]
    _mixed(*arrays, colleagues, least, ends[:, :-1].copy(), *found)
    range_starts, ranges = _merge(ends[0], found[0], tree.source_range)
    return Lists(
        ends[0], found[0], range_starts, ranges, starts, m2l[0], m2l[1],
        _repeated(ends[1]), found[1], _repeated(ends[2]), found[2],
    )  # fmt: skip


def _repeated(ends: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(ends) - 1, dtype=np.int32), np.diff(ends))


@inline
def _slot(anchor, target, source):
    """Return the place of a box among 27 neighbours, or -1 if it is not adjacent."""
    slot = 0
    for axis in range(3):
        d = anchor[target, axis] - anchor[source, axis]
        if d < -1 or d > 1:
            return -1
        slot = 3 * slot + d + 1
    return slot


@inline
def _code(anchor, target, source):
    code = 0
    for axis in range(3):
        code = (2 * REACH + 1) * code + anchor[target, axis] - anchor[source, axis] + REACH
    return code


@inline
def _occupied(ranges, box):
    return ranges[box, 1] > ranges[box, 0]


@jit
def _roots(box, level_starts, system):
    """Return first and last root of a root's system."""
    first = box
    while first > 0 and system[first - 1] == system[box]:
        first -= 1
    last = box + 1
    while last < level_starts[1] and system[last] == system[box]:
        last += 1
    return first, last


@jit
def _colleagues(
    level_starts, anchor, parent, first_child, n_children, system, targets, sources, colleagues,
    counts,
):  # fmt: skip
    """Write adjacent boxes of one size, and count pairs per code (one place later)."""
    for box in range(level_starts[1]):
        first, last = _roots(box, level_starts, system)
        for other in range(first, last):
            slot = _slot(anchor, box, other)
            if slot >= 0:
                colleagues[box, slot] = other
            elif _occupied(targets, box) and _occupied(sources, other):
                counts[_code(anchor, box, other) + 1] += 1
    for level in range(1, len(level_starts) - 1):
        for box in range(level_starts[level], level_starts[level + 1]):
            receives = _occupied(targets, box)
            for near in colleagues[parent[box]]:
                if near < 0:
                    continue
                for other in range(first_child[near], first_child[near] + n_children[near]):
                    slot = _slot(anchor, box, other)
                    if slot >= 0:
                        colleagues[box, slot] = other
                    elif receives and _occupied(sources, other):
                        counts[_code(anchor, box, other) + 1] += 1


@jit
def _transfers(
    level_starts, anchor, parent, first_child, n_children, system, targets, sources, colleagues,
    places, found,
):  # fmt: skip
    """Write multipole-to-local pairs; `places` says where the next of a code goes."""
    for box in range(level_starts[1]):
        first, last = _roots(box, level_starts, system)
        for other in range(first, last):
            if (
                _slot(anchor, box, other) < 0
                and _occupied(targets, box)
                and _occupied(sources, other)
            ):
                _put(places, _code(anchor, box, other), box, other, found)
    for level in range(1, len(level_starts) - 1):
        for box in range(level_starts[level], level_starts[level + 1]):
            if not _occupied(targets, box):
                continue
            for near in colleagues[parent[box]]:
                if near < 0:
                    continue
                for other in range(first_child[near], first_child[near] + n_children[near]):
                    if _slot(anchor, box, other) < 0 and _occupied(sources, other):
                        _put(places, _code(anchor, box, other), box, other, found)


@inline
def _put(places, code, target, source, found):
    place = places[code]
    found[0, place] = target
    found[1, place] = source
    places[code] += 1


@jit
def _mixed(
    level_starts, anchor, parent, first_child, n_children, system, targets, sources, colleagues,
    least, tallies, near, m2p, p2l,
):  # fmt: skip
    """Find near, multipole-to-particle and particle-to-local pairs of every leaf.

    With empty lists count them in `tallies` (one place later), else write them where these say.
    """
    stack = np.empty(4096, np.int32)
    shifts = np.empty(4096, np.int32)
    below = np.empty(4096, np.int32)
    for leaf in range(len(parent)):
        if n_children[leaf] > 0:
            continue
        for colleague in colleagues[leaf]:
            if colleague < 0:
                continue
            if n_children[colleague] == 0:
                if _occupied(targets, leaf) and _occupied(sources, colleague):
                    _emit(0, leaf, colleague, tallies, near)
                continue
            top = 1
            stack[0], shifts[0] = colleague, 0
            while top > 0:
                top -= 1
                box, shift = stack[top], shifts[top] + 1
                for other in range(first_child[box], first_child[box] + n_children[box]):
                    if not _touches(anchor, leaf, other, shift):
                        _separate(
                            leaf, other, targets, sources, first_child, n_children, least, below,
                            tallies, near, m2p, p2l,
                        )  # fmt: skip
                    elif n_children[other] > 0:
                        stack[top], shifts[top] = other, shift
                        top += 1
                    else:
                        if _occupied(targets, leaf) and _occupied(sources, other):
                            _emit(0, leaf, other, tallies, near)
                        if _occupied(targets, other) and _occupied(sources, leaf):
                            _emit(0, other, leaf, tallies, near)


@inline
def _touches(anchor, leaf, other, shift):
    """Return whether a box that is 2^shift times smaller touches the leaf."""
    for axis in range(3):
        low = anchor[leaf, axis] << shift
        high = low + (1 << shift)
        if anchor[other, axis] < low - 1 or anchor[other, axis] > high:
            return False
    return True


@inline
def _emit(kind, target, source, tallies, found):
    if len(found) == 0:
        tallies[kind, target + 1] += 1
    else:
        found[tallies[kind, target]] = source
        tallies[kind, target] += 1


@inline
def _separate(
    leaf, other, targets, sources, first_child, n_children, least, below, tallies, near, m2p, p2l
):
    """Join a leaf and a smaller box apart from it: by expansions of a box that holds enough."""
    if _occupied(targets, leaf) and _occupied(sources, other):
        if sources[other, 1] - sources[other, 0] >= least[0]:
            _emit(1, leaf, other, tallies, m2p)
        else:
            _emit(0, leaf, other, tallies, near)
    if _occupied(targets, other) and _occupied(sources, leaf):
        if targets[other, 1] - targets[other, 0] >= least[1]:
            _emit(2, other, leaf, tallies, p2l)
            return
        below[0] = other
        top = 1
        while top > 0:
            top -= 1
            box = below[top]
            if n_children[box] == 0:
                if _occupied(targets, box):
                    _emit(0, box, leaf, tallies, near)
                continue
            for child in range(first_child[box], first_child[box] + n_children[box]):
                below[top] = child
                top += 1


@jit
def _merge(starts, boxes, sources):
    """Return the ranges of sources of near boxes, adjacent ones merged."""
    ranges = np.empty((len(boxes), 2), np.int64)
    range_starts = np.zeros(len(starts), np.int64)
    count = 0
    for leaf in range(len(starts) - 1):
        first = count
        for i in range(starts[leaf], starts[leaf + 1]):
            begin, end = sources[boxes[i], 0], sources[boxes[i], 1]
            place = count
            while place > first and ranges[place - 1, 0] > begin:
                ranges[place] = ranges[place - 1]
                place -= 1
            ranges[place, 0], ranges[place, 1] = begin, end
            count += 1
        kept = first
        for i in range(first + 1, count):
            if ranges[i, 0] == ranges[kept, 1]:
                ranges[kept, 1] = ranges[i, 1]
            else:
                kept += 1
                ranges[kept] = ranges[i]
        if count > first:
            count = kept + 1
        range_starts[leaf + 1] = count
    return range_starts, ranges[:count].copy()
