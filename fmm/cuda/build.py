"""The tree built on the GPU: the boxes of `fmm.tree.build`, from points that stay on the device.

Box by box the arithmetic is that of the CPU. Levels follow one another: a thread looks at one
octant of a box, running sums number the boxes, and the host reads one number per level, how many
boxes follow.
"""

from typing import NamedTuple

import numpy as np

from fmm.cuda.curve import DeviceArray, launch
from fmm.tree.build import (
    ANCHOR,
    CHILDREN,
    FIRST,
    KEY,
    PARENT,
    ROW,
    SOURCES,
    SYSTEM,
    TARGETS,
    Tree,
    divides,
    most_halvings,
    place_child,
    place_root,
    word_of_level,
)
from fmm.tree.curve import SortedPoints, last_digit, upper
from fmm.tree.morton import WORD
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import blocks_for, running_sum, total


def build_tree(space: Space, points: SortedPoints, leaf_size: int, smallest: float = 0.0) -> Tree:
    """Return the tree of `fmm.tree.build`, its arrays on the device but for `level_starts`.

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
    grow = _Growth(space, points, leaf_size, smallest)
    levels = [grow.roots()]
    starts = [0, levels[0].shape[0]]
    for number in range(points.n_levels):
        below = grow.below(levels[-1], number, *starts[-2:])
        if below.shape[0] == 0:
            break
        levels.append(below)
        starts.append(starts[-1] + below.shape[0])
    return _finish(space, points, levels, np.array(starts))


class _Level(NamedTuple):
    """Boxes of a level: rows as those of `fmm.tree.build`, and centres."""

    rows: DeviceArray
    centre: DeviceArray

    @property
    def shape(self) -> tuple[int, int]:
        """Of the rows."""
        return self.rows.shape[0], ROW


class _Growth:
    """What the levels of a tree are made of."""

    def __init__(self, space: Space, points: SortedPoints, leaf_size: int, smallest: float) -> None:
        self.space, self.points, self.leaf_size = space, points, leaf_size
        self.keys = points.target_keys, points.source_keys
        self.words = word_of_level(points).tolist()
        # of each system: how often its boxes may be halved, edge of the root and its last digit
        self.systems = [
            space.upload(array)
            for array in (most_halvings(points, smallest), points.edge, last_digit(points.edge))
        ]

    def roots(self) -> _Level:
        """Return the root cells that hold points."""
        space, points = self.space, self.points
        n_cells = len(points.edge) * points.root_grid**3
        above = np.zeros((blocks_for(n_cells, 8), ROW), np.int64)
        above[:, KEY] = np.arange(len(above))
        above[:, TARGETS + 1], above[:, SOURCES + 1] = (keys.shape[1] for keys in self.keys)
        whole = _Level(space.upload(above), space.empty((len(above), 3), np.float64))
        roots = self._children(whole, -1, 0, 0)
        launch(
            space, _place_roots(), roots.shape[0], *roots, points.root_grid,
            space.upload(points.origin), self.systems[1],
        )  # fmt: skip
        return roots

    def below(self, level: _Level, number: int, first: int, next_: int) -> _Level:
        """Return the children of the boxes of a level, which start at `first`, they at `next_`."""
        children = self._children(level, number, first, next_)
        launch(
            self.space, _place_children(), children.shape[0], *children, *level, first, number,
            self.systems[1],
        )  # fmt: skip
        return children

    def _children(self, level: _Level, number: int, first: int, next_: int) -> _Level:
        space, is_top = self.space, int(number < 0)
        n = 8 * level.shape[0]
        marks = space.empty((n,), np.int64)
        word, shift = self.words[number + 1]
        # on the first level of a word, keys start anew: they count the eight octants alone
        fresh = int(word > 0 and shift == 3 * (WORD - 1))
        own = [keys[word] for keys in self.keys]
        launch(
            space, _mark(is_top), n, *level, *self.keys, *own, number, self.points.bits, shift,
            fresh, self.leaf_size, *self.systems, marks,
        )  # fmt: skip
        offsets = running_sum(space, marks)
        n_children = total(space, offsets)
        children = space.empty((n_children, ROW), np.int64)
        launch(
            space, _make(is_top), n, level.rows, *own, shift, fresh, first, next_, offsets, children
        )  # fmt: skip
        return _Level(children, space.empty((n_children, 3), np.float64))


@kernels
def _mark(is_top):
    def loop(
        boxes, centre, target_keys, source_keys, target_word, source_word, level, bits, shift,
        fresh, leaf_size, halvings, edges, digits, marks,
    ):  # fmt: skip
        """Mark the octants of boxes that become boxes: those that hold points."""
        i = cuda.grid(1)
        if i >= marks.shape[0]:
            return
        row = i // 8
        box = boxes[row]
        if not is_top:
            system = box[SYSTEM]
            if not divides(
                target_keys, source_keys, bits, boxes, centre, row, level, leaf_size,
                halvings[system], edges[system], digits[system],
            ):  # fmt: skip
                marks[i] = 0
                return
        key = (0 if fresh else 8 * box[KEY]) + i % 8
        low = (key << shift) - 1
        high = low + (1 << shift)
        first = upper(target_word, box[TARGETS], box[TARGETS + 1], low)
        occupied = first < box[TARGETS + 1] and target_word[first] <= high
        if not occupied:
            first = upper(source_word, box[SOURCES], box[SOURCES + 1], low)
            occupied = first < box[SOURCES + 1] and source_word[first] <= high
        marks[i] = 1 if occupied else 0

    return loop


@kernels
def _make(is_top):
    def loop(boxes, target_keys, source_keys, shift, fresh, first, next_, offsets, children):
        """Write the boxes that octants become, and tell their parents."""
        i = cuda.grid(1)
        if i >= offsets.shape[0] - 1:
            return
        box = boxes[i // 8]
        if i % 8 == 0:
            box[CHILDREN] = offsets[i + 8] - offsets[i]
            box[FIRST] = next_ + offsets[i] if box[CHILDREN] > 0 else 0
        if offsets[i] == offsets[i + 1]:
            return
        child = children[offsets[i]]
        key = (0 if fresh else 8 * box[KEY]) + i % 8
        low = (key << shift) - 1
        high = low + (1 << shift)
        child[KEY] = key
        child[PARENT] = -1 if is_top else first + i // 8
        child[FIRST] = 0
        child[CHILDREN] = 0
        begin = upper(target_keys, box[TARGETS], box[TARGETS + 1], low)
        child[TARGETS] = begin
        child[TARGETS + 1] = upper(target_keys, begin, box[TARGETS + 1], high)
        begin = upper(source_keys, box[SOURCES], box[SOURCES + 1], low)
        child[SOURCES] = begin
        child[SOURCES + 1] = upper(source_keys, begin, box[SOURCES + 1], high)

    return loop


@kernels
def _place_roots():
    def loop(boxes, centre, root_grid, origin, edges):
        i = cuda.grid(1)
        if i < boxes.shape[0]:
            place_root(boxes, centre, i, root_grid, origin, edges)

    return loop


@kernels
def _place_children():
    def loop(boxes, centre, above, centre_above, first, level, edges):
        i = cuda.grid(1)
        if i < boxes.shape[0]:
            parent = boxes[i, PARENT] - first
            edge = edges[above[parent, SYSTEM]] / (np.int64(1) << level)
            place_child(boxes, centre, i, above, centre_above, parent, edge)

    return loop


def _finish(
    space: Space, points: SortedPoints, levels: list[_Level], level_starts: np.ndarray
) -> Tree:
    """Return the tree of the rows of all levels."""
    n = int(level_starts[-1])
    parent, first_child, n_children, system = (space.empty((n,), np.int32) for _ in range(4))
    anchor, centre = space.empty((n, 3), np.int64), space.empty((n, 3), np.float64)
    targets, sources = (space.empty((n, 2), np.int64) for _ in range(2))
    edge, edges = space.empty((n,), np.float64), space.upload(points.edge)
    for number, level in enumerate(levels):
        launch(
            space, _spread(), level.shape[0], *level, int(level_starts[number]), number, edges,
            parent, first_child, n_children, targets, sources, anchor, system, centre, edge,
        )  # fmt: skip
    same = points.target_keys is points.source_keys
    return Tree(
        points.target_permutation, points.source_permutation, level_starts, anchor, parent,
        first_child, n_children, system, targets, targets if same else sources, centre, edge,
    )  # fmt: skip


@kernels
def _spread():
    def loop(
        boxes, centres, first, level, edges, parent, first_child, n_children, target_range,
        source_range, anchor, system, centre, edge,
    ):  # fmt: skip
        """Write the boxes of a level to arrays of their own."""
        i = cuda.grid(1)
        if i >= boxes.shape[0]:
            return
        row, box = boxes[i], first + i
        parent[box] = row[PARENT]
        first_child[box] = row[FIRST]
        n_children[box] = row[CHILDREN]
        system[box] = row[SYSTEM]
        edge[box] = edges[row[SYSTEM]] / (np.int64(1) << level)
        for end in range(2):
            target_range[box, end] = row[TARGETS + end]
            source_range[box, end] = row[SOURCES + end]
        for axis in range(3):
            anchor[box, axis] = row[ANCHOR + axis]
            centre[box, axis] = centres[i, axis]

    return loop
