"""Images of the boxes of a cell's tree, as far as boxes of the cell meet them.

Box by box the tree of the cell is repeated around it: on every level the images that touch the
cell, and their children. An image is a box like others that sends, but never receives; its
expansion is that of its original. Lists (`fmm.tree.lists`) need not know of images.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product

import numpy as np

from fmm.cell.grid import CellGrid
from fmm.tree.build import Tree


@dataclass(frozen=True)
class Images:
    """The tree of a cell with its images, on each level after the boxes of the cell.

    Attributes
    ----------
    tree : Tree
        Centres and edges in the coordinates of the points.
    own_ends : ndarray, shape (n_levels,)
        Where on every level the boxes of the cell end, and images begin.
    original : ndarray of int32, shape (n_boxes,)
        The box that each is an image of; itself in the cell.
    steps : ndarray of int64, shape (n_boxes, 3)
        By which lattice vectors it is moved.
    """

    tree: Tree
    own_ends: np.ndarray
    original: np.ndarray
    steps: np.ndarray

    @cached_property
    def is_image(self) -> np.ndarray:
        """Of every box, whether it is an image."""
        return np.any(self.steps, axis=1)


def with_images(home: Tree, grid: CellGrid) -> Images:
    """Return the tree of a cell, in units of root boxes, with its images.

    Parameters
    ----------
    home : Tree
        Boxes of the cell: cubes of edge one, the first with its corner at zero.
    grid : CellGrid
        What they are in space.
    """
    original, steps, parents = _found(home, grid)
    starts = home.level_starts
    counts = np.array([len(boxes) for boxes in original])
    shift = np.append(0, np.cumsum(counts))
    # numbers of the cell's boxes, and of images, among all
    own = np.arange(starts[-1]) + np.repeat(shift[:-1], np.diff(starts))
    first_image = starts[1:] + shift[:-1]
    order = np.concatenate([
        np.concatenate([np.arange(first, last), boxes])
        for (first, last), boxes in zip(pairwise(starts.tolist()), original, strict=True)
    ]).astype(np.int64)  # fmt: skip
    moved = np.zeros((len(order), 3), np.int64)
    parent = np.where(home.parent >= 0, own[home.parent], -1)[order]
    first_child = own[np.minimum(home.first_child, starts[-1] - 1)][order]
    n_children = home.n_children[order]
    for level, (boxes, above) in enumerate(zip(original, parents, strict=True)):
        rows = slice(first_image[level], first_image[level] + len(boxes))
        moved[rows] = steps[level]
        n_children[rows] = 0
        if level:
            parent[rows] = first_image[level - 1] + above
            # children of one box follow each other
            having, begin, number = np.unique(above, return_index=True, return_counts=True)
            first_child[first_image[level - 1] + having] = first_image[level] + begin
            n_children[first_image[level - 1] + having] = number
    levels = np.repeat(np.arange(len(counts)), np.diff(starts) + counts)
    anchor = home.anchor[order] + (moved * grid.periods) * (1 << levels)[:, None]
    is_image = np.any(moved, axis=1)
    tree = replace(
        home,
        level_starts=starts + shift,
        anchor=anchor,
        parent=parent.astype(np.int32),
        first_child=first_child.astype(np.int32),
        n_children=n_children.astype(np.int32),
        system=home.system[order],
        target_range=np.where(is_image[:, None], 0, home.target_range[order]),
        source_range=home.source_range[order],
        centre=home.centre[order] @ grid.box + grid.origin + moved @ grid.lattice,
        edge=home.edge[order] * grid.edge,
    )
    return Images(tree, first_image, own[order].astype(np.int32), moved)


def _found(
    home: Tree, grid: CellGrid
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return originals, steps and parents of the images of each level.

    Parents are counted among the images of the level above; images of one parent follow each other.
    """
    around = [(-1, 0, 1) if period else (0,) for period in grid.periods]
    shifts = np.array([step for step in product(*around) if any(step)], np.int64).reshape(-1, 3)
    roots = np.arange(home.level_starts[1])
    boxes = np.tile(roots, len(shifts))
    steps = np.repeat(shifts, len(roots), axis=0)
    kept = _touching(home.anchor[boxes], steps, grid.periods)
    boxes, steps, above = boxes[kept], steps[kept], np.full(np.count_nonzero(kept), -1)
    found = [boxes], [steps], [above]
    for level in range(1, len(home.level_starts) - 1):
        periods = grid.periods << level - 1
        near = np.flatnonzero(_touching(home.anchor[boxes], steps, periods))
        counts = home.n_children[boxes[near]]
        above = np.repeat(near, counts)
        place = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts)
        boxes = home.first_child[boxes[above]] + place
        steps = steps[above]
        for kind, values in zip(found, (boxes, steps, above), strict=True):
            kind.append(values)
    return found


def _touching(anchor: np.ndarray, steps: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Tell which images of boxes touch the cell."""
    place = anchor + steps * periods
    apart = (periods > 0) & ((place < -1) | (place > periods))
    touching: np.ndarray = ~apart.any(axis=1)
    return touching


def root_colleagues(tree: Tree) -> np.ndarray:
    """Return which boxes of level 0 touch each, see `fmm.tree.lists.Transfers.colleagues`."""
    n = int(tree.level_starts[1])
    rows = np.full((n, 27), -1, np.int32)
    place = {tuple(anchor): box for box, anchor in enumerate(tree.anchor[:n].tolist())}
    around = list(product((-1, 0, 1), repeat=3))
    for box, (a, b, c) in enumerate(tree.anchor[:n].tolist()):
        near = sorted(
            place[a + i, b + j, c + k]
            for i, j, k in around
            if (a + i, b + j, c + k) in place
        )  # fmt: skip
        rows[box, : len(near)] = near
    return rows
