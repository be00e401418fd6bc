"""The adaptive tree: cubic boxes, halved where they hold many points. Geometry only.

Every box is a range of points along the curve. Centres are exact: children lie a quarter of an
edge from the middle of their parent to the last bit. Boxes are not divided where float64 could not
represent the centres of their children.
"""

from dataclasses import dataclass

import numpy as np

from fmm.tree.curve import SortedPoints, last_digit, parting, upper
from fmm.tree.morton import WORD
from multipoles.compiled.jit import bare, bare_inline, jit

# a box while the tree grows: key in the word of its level, parent, children, ranges, anchor
KEY, PARENT, FIRST, CHILDREN, TARGETS, SOURCES, SYSTEM, ANCHOR, ROW = 0, 1, 2, 3, 4, 6, 8, 9, 12
# half a unit in the last place, relative to the number
_ROUNDING = 2.0**-53
# exponent of the smallest last digit of a centre
_LEAST_DIGIT = -1060
#: Range of the first words of all keys, see `build_tree`.
EVERYWHERE = (0, 1 << 62)


@dataclass(frozen=True)
class Tree:
    """Boxes level by level, each level along the Morton curve; children of a box lie together.

    Attributes
    ----------
    target_permutation, source_permutation : ndarray, int64
        Sorted points are ``points[permutation]``.
    level_starts : ndarray, int64, shape (n_levels + 1,)
        Boxes of each level.
    anchor : ndarray, int64, shape (n_boxes, 3)
        Place in the grid of the box's level and system.
    parent, first_child, n_children, system : ndarray, int32, shape (n_boxes,)
        A leaf has no children; boxes of level 0 have parent -1. Systems are numbered without gaps.
    target_range, source_range : ndarray, int64, shape (n_boxes, 2)
        Sorted points inside.
    centre : ndarray, shape (n_boxes, 3)
    edge : ndarray, shape (n_boxes,)
        Exact, both of them.
    """

    target_permutation: np.ndarray
    source_permutation: np.ndarray
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


def build_tree(
    points: SortedPoints,
    leaf_size: int,
    smallest: float = 0.0,
    domain: tuple[int, int] = EVERYWHERE,
) -> Tree:
    """Return the tree whose leaves hold at most `leaf_size` targets and sources.

    Points that no level of the tree can tell apart stay together in larger leaves, and so do those
    of boxes whose halves would have an edge below `smallest`, or centres that are no numbers.

    Boxes that reach beyond `domain`, a range of first words of keys, hold points that are not here:
    they are divided however few are.
    """
    level_starts, boxes, centre = _divide(
        points.target_keys, points.source_keys, points.bits, leaf_size,
        most_halvings(points, smallest), last_digit(points.edge), word_of_level(points),
        points.root_grid, points.origin, points.edge, *domain,
    )  # fmt: skip
    parent, first_child, n_children, system = (
        boxes[:, column].astype(np.int32) for column in (PARENT, FIRST, CHILDREN, SYSTEM)
    )
    targets, sources = (boxes[:, c : c + 2].copy() for c in (TARGETS, SOURCES))
    level = np.repeat(np.arange(len(level_starts) - 1), np.diff(level_starts))
    same = points.target_keys is points.source_keys
    return Tree(
        points.target_permutation, points.source_permutation, level_starts,
        boxes[:, ANCHOR:].copy(), parent, first_child, n_children, system, targets,
        targets if same else sources, centre, np.ldexp(points.edge[system], -level),
    )  # fmt: skip


def most_halvings(points: SortedPoints, smallest: float) -> np.ndarray:
    """Return how often the boxes of each system may be halved."""
    halvings: np.ndarray = np.full(len(points.edge), points.n_levels)
    # centres have their last digit one digit below that of the edge
    halvings = np.minimum(halvings, np.frexp(last_digit(points.edge))[1] - 2 - _LEAST_DIGIT)
    if smallest > 0:
        possible = np.floor(np.log2(np.maximum(points.edge / smallest, 1.0)))
        halvings = np.minimum(halvings, possible.astype(np.int64))
    return halvings


def word_of_level(points: SortedPoints) -> np.ndarray:
    """Return for every level the word of keys that tells its boxes apart, and its bits below."""
    first = [(0, 3 * (points.bits - level)) for level in range(points.bits + 1)]
    below = range(points.n_levels - points.bits)
    return np.array(first + [(1 + k // WORD, 3 * (WORD - 1 - k % WORD)) for k in below])


@bare
def _cut(target_keys, source_keys, ranges, shift, parent, boxes, count):
    """Append the boxes of one size that hold the points of the ranges; return the new count."""
    t, t_last, s, s_last = ranges
    while t < t_last or s < s_last:
        if s == s_last or (t < t_last and target_keys[t] <= source_keys[s]):
            key = target_keys[t] >> shift
        else:
            key = source_keys[s] >> shift
        bound = ((key + 1) << shift) - 1
        row = boxes[count]
        row[KEY], row[PARENT], row[FIRST], row[CHILDREN] = key, parent, 0, 0
        row[TARGETS], row[SOURCES] = t, s
        t = upper(target_keys, t, t_last, bound)
        s = upper(source_keys, s, s_last, bound)
        row[TARGETS + 1], row[SOURCES + 1] = t, s
        count += 1
    return count


@bare_inline
def place_root(boxes, centre, box, root_grid, origin, edge):
    """Write where a box of level 0 is, from its key."""
    system, cell = boxes[box, KEY] // root_grid**3, boxes[box, KEY] % root_grid**3
    anchor = (cell // root_grid**2, cell // root_grid % root_grid, cell % root_grid)
    boxes[box, SYSTEM] = system
    for axis in range(3):
        boxes[box, ANCHOR + axis] = anchor[axis]
        centre[box, axis] = origin[system, axis] + (anchor[axis] + 0.5) * edge[system]


@bare_inline
def place_child(boxes, centre, box, above, centre_above, parent, edge_above):
    """Write where the child of a box is: a quarter of the edge from its middle along each axis."""
    boxes[box, SYSTEM] = above[parent, SYSTEM]
    for axis in range(3):
        high = boxes[box, KEY] >> (2 - axis) & 1
        boxes[box, ANCHOR + axis] = 2 * above[parent, ANCHOR + axis] + high
        quarter = 0.25 * edge_above
        centre[box, axis] = centre_above[parent, axis] + (quarter if high else -quarter)


@bare_inline
def are_numbers(centre, box, edge, digit, level):
    """Return whether the centres of a box's children are numbers: multiples of their last digit.

    That is a quarter of the last digit of the box's edge.
    """
    last = 0.25 * digit / (np.int64(1) << level)
    largest = max(abs(centre[box, 0]), abs(centre[box, 1]), abs(centre[box, 2]))
    return (largest + 0.25 * edge) * _ROUNDING <= last


@bare_inline
def divides(
    target_keys, source_keys, bits, boxes, centre, box, level, leaf_size, most, edge, digit
):
    """Return whether a box is divided: it holds many points, and keys tell them apart.

    `most` says how many levels there may be, `edge` and `digit` are those of the box's root.
    """
    t, t_last, s, s_last = (
        boxes[box, TARGETS], boxes[box, TARGETS + 1], boxes[box, SOURCES], boxes[box, SOURCES + 1]
    )  # fmt: skip
    if max(t_last - t, s_last - s) <= leaf_size or level >= most:
        return False
    if not are_numbers(centre, box, edge / (np.int64(1) << level), digit, level):
        return False
    # any level of the keys counts, even one that is not made: smaller boxes are better separated
    last, one = bits + WORD * (target_keys.shape[0] - 1), True
    if t < t_last:
        one = parting(target_keys, t, target_keys, t_last - 1, bits) > last
    if s < s_last:
        one = one and parting(source_keys, s, source_keys, s_last - 1, bits) > last
    if t < t_last and s < s_last:
        one = one and parting(target_keys, t, source_keys, s, bits) > last
    return not one


@bare_inline
def _is_within(key, shift, low, high):
    """Return whether all keys of a box lie in low ... high - 1."""
    return key << shift >= low and (key + 1) << shift <= high


@bare_inline
def _last(keys):
    """Return the last of some sorted keys, zero if there are none."""
    return keys[len(keys) - 1] if len(keys) > 0 else np.int64(0)


@bare_inline
def _copy(rows, out):
    """Copy rows to the beginning of an array."""
    for i in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            out[i, k] = rows[i, k]


@jit
def _divide(
    target_keys, source_keys, bits, leaf_size, halvings, digits, words, root_grid, origin, edges,
    low, high,
):  # fmt: skip
    """Return level starts, rows and centres of all boxes.

    The boxes of a system are divided into at most as many levels as `halvings` says, and those
    that reach beyond the keys low ... high - 1 however few points they hold.
    """
    n_targets, n_sources = target_keys.shape[1], source_keys.shape[1]
    ranges = 0, n_targets, 0, n_sources
    cells = 1 + (max(_last(target_keys[0]), _last(source_keys[0])) >> 3 * bits)
    n_roots = min(cells, n_targets + n_sources)
    boxes = np.empty((n_roots + 64 + 4 * max(n_targets, n_sources) // leaf_size, ROW), np.int64)
    centre = np.empty((len(boxes), 3))
    count = _cut(target_keys[0], source_keys[0], ranges, 3 * bits, -1, boxes, 0)
    for box in range(count):
        place_root(boxes, centre, box, root_grid, origin, edges)
    starts = np.empty(len(words) + 1, np.int64)
    starts[0], starts[1], n_levels = 0, count, 1
    for level in range(len(words) - 1):
        word, shift = words[level + 1]
        for box in range(starts[level], starts[level + 1]):
            system = boxes[box, SYSTEM]
            within = level > bits or _is_within(boxes[box, KEY], 3 * (bits - level), low, high)
            if within and not divides(
                target_keys, source_keys, bits, boxes, centre, box, level, leaf_size,
                halvings[system], edges[system], digits[system],
            ):  # fmt: skip
                continue
            if count + 8 > len(boxes):
                more_boxes = np.empty((2 * len(boxes), ROW), np.int64)
                more_centre = np.empty((2 * len(boxes), 3))
                _copy(boxes, more_boxes)
                _copy(centre, more_centre)
                boxes, centre = more_boxes, more_centre
            first = count
            ranges = boxes[box, 4], boxes[box, 5], boxes[box, 6], boxes[box, 7]
            count = _cut(target_keys[word], source_keys[word], ranges, shift, box, boxes, count)
            boxes[box, FIRST], boxes[box, CHILDREN] = first, count - first
            edge = edges[system] / (np.int64(1) << level)
            for child in range(first, count):
                place_child(boxes, centre, child, boxes, centre, box, edge)
        if count == starts[n_levels]:
            break
        n_levels += 1
        starts[n_levels] = count
    return starts[: n_levels + 1].copy(), boxes[:count], centre[:count].copy()
