"""Images in a periodic box: nearest ones, whole molecules, and all that are within reach."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from gnn.engines.embedding._group_loops import are_whole

Array = NDArray[Any]


def nearest_image(vectors: Array, box: Array | None) -> Array:
    """Return vectors (…, 3) moved by whole boxes to near the origin.

    Parameters
    ----------
    vectors
        In Å.
    box
        Box vectors as rows, (3, 3) in Å, in reduced form as OpenMM has them. None: no box.
    """
    if box is None:
        return vectors
    for axis in (2, 1, 0):
        vectors = vectors - box[axis] * np.rint(vectors[..., axis : axis + 1] / box[axis, axis])
    return vectors


class Tree:
    """Bonds of particles as a tree, along which molecules that a box has cut are made whole.

    Parameters
    ----------
    bonds
        Pairs of particles, (b, 2).
    n
        Number of particles.
    """

    def __init__(self, bonds: Array | Sequence[Any], n: int):
        self.bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
        self.order, self.parents = np.zeros(0, dtype=int), np.zeros(n, dtype=int)
        if not len(self.bonds):
            return
        graph = coo_array((np.ones(len(self.bonds)), self.bonds.T), shape=(n, n))
        _, molecule = connected_components(graph, directed=False)
        _, first = np.unique(molecule, return_index=True)
        rows = np.concatenate([self.bonds[:, 0], np.full(len(first), n)])  # one root above all
        columns = np.concatenate([self.bonds[:, 1], first])
        tree = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n + 1, n + 1)).tocsr()
        order, self.parents = breadth_first_order(tree, n, directed=False)
        below = order[1:]
        self.order = below[self.parents[below] < n]

    def whole(self, positions: Array, box: Array | None) -> Array:
        """Return positions (n, 3) in Å, with particles that are bonded in one image."""
        if box is None or not len(self.bonds):
            return positions
        if are_whole(positions, self.bonds, np.asarray(box)):
            return positions
        moved = positions.copy()
        for i in self.order:
            parent = moved[self.parents[i]]
            moved[i] = parent + nearest_image(moved[i] - parent, box)
        return moved


def moves_up_to(length: float, box: Array) -> Array:
    """Return all moves (k, 3) in Å by whole box vectors up to a length in Å, the shortest first.

    Parameters
    ----------
    length
        In Å.
    box
        Box vectors as rows in Å, (3, 3).
    """
    most = np.floor(length * np.linalg.norm(np.linalg.inv(box), axis=0) + 1e-9).astype(int)
    numbers = np.array(list(product(*(range(-n, n + 1) for n in most))))
    moves = numbers @ box
    lengths = np.linalg.norm(moves, axis=1)
    order = np.argsort(lengths, kind="stable")
    found: Array = moves[order[lengths[order] <= length]]
    return found


@lru_cache(maxsize=16)
def _shortest(box: bytes) -> float:
    """Return the length in Å of the shortest vector of a lattice; steps in one box ask again."""
    rows = np.frombuffer(box).reshape(3, 3)
    most = (1 + 1e-9) * float(np.linalg.norm(rows, axis=1).min())
    return float(np.linalg.norm(moves_up_to(most, rows)[1]))


def steps_within(reach: float, box: Array | None) -> Array:
    """Return moves (k, 3) in Å by box vectors after which nearest images may be within reach.

    Parameters
    ----------
    reach
        Largest distance in Å from the origin; it may be longer than the box.
    box
        Box vectors as rows in Å, reduced. None: there is one move, by nothing.
    """
    if box is None:
        return np.zeros((1, 3))
    edges = np.diag(box)
    if 2 * reach <= edges.min():  # half of the box: what is within reach is the nearest image
        return np.zeros((1, 3))
    return moves_up_to(reach + 0.5 * float(np.linalg.norm(edges)), box)


def gap_between_images(points: Array, box: Array, reach: float) -> float:
    """Return the smallest distance in Å of a point to an image of any; at least `reach` if far.

    Parameters
    ----------
    points
        (n, 3) in Å, whole.
    box
        Box vectors as rows in Å, reduced.
    reach
        Distances beyond this need not be found.
    """
    about = points - points.mean(axis=0)
    radius = float(np.sqrt((about * about).sum(axis=1).max()))
    if 2 * radius + reach < _shortest(np.ascontiguousarray(box, dtype=np.float64).tobytes()):
        return reach
    moves = moves_up_to(2 * radius + reach, box)[1:]
    # a move and its opposite find the same pairs
    ahead = (np.sign(moves.round(9)) * [9, 3, 1]).sum(axis=1) > 0
    lower, upper = points.min(axis=0) - reach, points.max(axis=0) + reach
    images = (points + moves[ahead, None]).reshape(-1, 3)
    images = images[((images > lower) & (images < upper)).all(axis=1)]
    if not len(images):
        return reach
    distances, _ = cKDTree(points).query(images, distance_upper_bound=reach)
    return float(min(reach, distances.min()))
