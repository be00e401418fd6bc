"""Cells: which directions repeat, and the shortest vectors of their lattice.

A lattice has many cells. All sums use the one of shortest vectors, so that their answer and their
cost do not depend on which was given. Directions that do not repeat are completed by unit vectors
at right angles; whatever the caller wrote in their rows has no meaning.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from multipoles import checks
from multipoles.lattice.rows import by_system

# volumes less than this times the product of the vectors' lengths are taken for none
_FLAT = 1e-10


@dataclass(frozen=True)
class Cell:
    """The reduced cell of a lattice, or those of many, of which the same directions repeat.

    Parameters
    ----------
    vectors : ndarray, shape (3, 3), or (n_systems, 3, 3)
        First the shortest vectors of the directions that repeat, then unit vectors at right angles
        to these and to each other.
    n_periodic : int
        How many directions repeat, 1 … 3.
    choice : ndarray of int64, shape (n_periodic, 3), or (n_systems, n_periodic, 3)
        The reduced vectors in terms of the rows that were given.
    """

    vectors: np.ndarray
    n_periodic: int
    choice: np.ndarray

    @cached_property
    def inverse(self) -> np.ndarray:
        """Matrix that takes Cartesian to fractional coordinates: u = x @ inverse."""
        return np.linalg.inv(self.vectors)

    @cached_property
    def volume(self) -> Any:
        """Volume, area or length of what repeats; of many, (n_systems,)."""
        return np.abs(np.linalg.det(self.vectors))

    @cached_property
    def heights(self) -> np.ndarray:
        """Distances between the planes of the lattice, of each direction that repeats."""
        heights: np.ndarray = 1 / np.linalg.norm(self.inverse[..., : self.n_periodic], axis=-2)
        return heights

    @cached_property
    def shortest(self) -> Any:
        """Length of the shortest vector of the lattice; of many, (n_systems,)."""
        return np.linalg.norm(self.vectors[..., : self.n_periodic, :], axis=-1).min(axis=-1)

    def __len__(self) -> int:
        """Return the number of systems."""
        return 1 if self.vectors.ndim == 2 else len(self.vectors)

    def batch(self) -> "Cell":
        """Return one cell as those of a batch of one system."""
        if self.vectors.ndim == 3:
            return self
        return Cell(self.vectors[None], self.n_periodic, self.choice[None])

    def __getitem__(self, which: Any) -> "Cell":
        """Return the cell of one system of many, or those of some."""
        return Cell(self.vectors[which], self.n_periodic, self.choice[which])

    def images(self, points: np.ndarray, ends: np.ndarray | None = None) -> np.ndarray:
        """Return, for each point, the whole numbers that bring it into the cell, (n, 3) float64.

        ``points + images(points) @ vectors`` has fractional coordinates from 0 to 1 along what
        repeats; along the rest the numbers are zero. ends: first point of each of many systems.
        """
        found, d = np.zeros_like(points), self.n_periodic
        ends = np.array([0, len(points)]) if ends is None else ends
        found[:, :d] = -np.floor(by_system(points, self.batch().inverse, ends)[:, :d])
        return found

    def wrapped(self, points: np.ndarray, ends: np.ndarray | None = None) -> np.ndarray:
        """Return points moved into the cell along what repeats."""
        ends = np.array([0, len(points)]) if ends is None else ends
        steps = self.images(points, ends)
        moved: np.ndarray = points + by_system(steps, self.batch().vectors, ends)
        return moved

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Return the whole numbers of the lattice vectors nearest to some vectors, (n, 3).

        Of many cells, each is that of one vector.
        """
        cells, d = self.batch(), self.n_periodic
        about = np.zeros_like(vectors)
        about[:, :d] = np.rint((vectors[:, None] @ cells.inverse)[:, 0, :d])
        choices = np.array(list(product(*((-1, 0, 1) if i < d else (0,) for i in range(3)))))
        rest = vectors - (about[:, None] @ cells.vectors)[:, 0]
        lengths = ((rest[:, None] - choices @ cells.vectors) ** 2).sum(axis=2)
        found: np.ndarray = about + choices[np.argmin(lengths, axis=1)]
        return found

    def extents(self, *points: np.ndarray) -> np.ndarray:
        """Return how far all points together reach along each free direction."""
        along = [p @ self.vectors[self.n_periodic :].T for p in points if len(p)]
        if not along or self.n_periodic == 3:
            return np.zeros(3 - self.n_periodic)
        every = np.concatenate(along)
        spread: np.ndarray = every.max(axis=0) - every.min(axis=0)
        return spread


def cell_of(cell: Any, periodic: Any = True, name: str = "cell") -> Cell:
    """Return the reduced cell of the rows of `cell` that repeat.

    Parameters
    ----------
    cell : array_like, shape (3, 3)
        Rows are lattice vectors; those of directions that do not repeat have no meaning.
    periodic : bool or sequence of three bools
        Which directions repeat; at least one.

    Raises
    ------
    TypeError, ValueError
        If shapes or types are wrong, a number is not finite, or the vectors that repeat do not
        span a volume (an area, a length).
    """
    array = checks.real(cell, name)
    if array.shape != (3, 3):
        raise ValueError(
            f"{name}: expected shape (3, 3), rows are lattice vectors, got {array.shape}"
        )
    return cells_of(array[None], directions(periodic), lambda _: name)[0]


def cells_of(
    cells: np.ndarray, repeats: tuple[bool, bool, bool], name_of: Callable[[int], str]
) -> Cell:
    """Return the reduced cells (n_systems, 3, 3) of many, whose names are made for errors."""
    rows = cells[:, list(repeats)].astype(np.float64)
    lengths = np.linalg.norm(rows, axis=2)
    if not lengths.all():
        system = int(np.argmin(lengths.all(axis=1)))
        which = int(np.flatnonzero(repeats)[np.argmin(lengths[system])])
        raise ValueError(
            f"{name_of(system)}[{which}] has length zero, but periodic says that this direction "
            "repeats"
        )
    singular = np.linalg.svd(rows / lengths[:, :, None], compute_uv=False)
    volumes = np.prod(singular, axis=1)
    if (volumes < _FLAT).any():
        system = int(np.argmin(volumes))
        raise ValueError(
            f"{name_of(system)}: expected lattice vectors that span a "
            f"{('length', 'area', 'volume')[rows.shape[1] - 1]}, got ones that are (almost) "
            f"linearly dependent: their unit vectors span {volumes[system]:.1e}"
        )
    vectors = np.zeros((len(cells), 3, 3))
    d = rows.shape[1]
    choice = np.zeros((len(cells), d, 3), np.int64)
    choice[:, np.arange(d), np.flatnonzero(repeats)] = 1
    vectors[:, :d] = rows
    for k in np.flatnonzero(~_are_reduced(rows)):
        vectors[k, :d], chosen = _reduced(rows[k])
        choice[k][:, np.flatnonzero(repeats)] = chosen
    if d < 3:
        vectors[:, d:] = [complement(spanning) for spanning in vectors[:, :d]]
    return Cell(vectors, d, choice)


def directions(periodic: Any) -> tuple[bool, bool, bool]:
    """Return which of three directions repeat.

    Raises
    ------
    TypeError, ValueError
        If `periodic` is neither a bool nor three of them, or none of them is true.
    """
    if isinstance(periodic, bool | np.bool_):
        periodic = (periodic,) * 3
    values = list(periodic) if isinstance(periodic, list | tuple | np.ndarray) else None
    if values is None or not all(isinstance(value, bool | np.bool_) for value in values):
        raise TypeError(f"periodic: expected a bool or three bools, got {periodic!r}")
    if len(values) != 3:
        raise ValueError(f"periodic: expected one bool for each of 3 directions, got {len(values)}")
    if not any(values):
        raise ValueError(
            "periodic: expected at least one direction that repeats, got none; leave out cell and "
            "periodic for a sum in free space"
        )
    first, second, third = map(bool, values)
    return first, second, third


def complement(vectors: np.ndarray) -> np.ndarray:
    """Return unit vectors at right angles to the given rows and to each other."""
    if len(vectors) == 3:
        return np.empty((0, 3))
    if len(vectors) == 2:
        normal = np.cross(vectors[0], vectors[1])
        return (normal / np.linalg.norm(normal))[None]
    along = vectors[0] / np.linalg.norm(vectors[0])
    aside = np.eye(3)[np.argmin(np.abs(along))]
    aside = aside - (aside @ along) * along
    aside /= np.linalg.norm(aside)
    return np.stack([aside, np.cross(along, aside)])


def _reduced(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shortest vectors of a lattice and the whole numbers that make them of `rows`.

    Semaev's algorithm (in Cryptography and Lattices, LNCS 2146, 181 (2001)): the longest vector is
    made as short as the lattice of the others allows, until it stays the longest.
    """
    choice = np.eye(len(rows), dtype=np.int64)
    while True:
        # from the numbers that were given: what rounding adds does not pile up
        vectors = choice.astype(np.float64) @ rows
        order = np.argsort((vectors**2).sum(axis=1), kind="stable")
        vectors, choice = vectors[order], choice[order]
        changed = False
        for last in range(1, len(rows)):
            step = _nearest(vectors[:last], vectors[last])
            if step.any():
                moved = choice[last] - step @ choice[:last]
                shorter = moved.astype(np.float64) @ rows
                if shorter @ shorter < (1 - 1e-12) * (vectors[last] @ vectors[last]):
                    choice[last] = moved
                    changed = True
                    break
        if not changed:
            return vectors, choice


def _are_reduced(rows: np.ndarray) -> np.ndarray:
    """Tell which of many rows of vectors at about right angles are the shortest, as is seen."""
    products = rows @ rows.transpose(0, 2, 1)
    squares = np.diagonal(products, axis1=1, axis2=2)
    beside = np.abs(products).sum(axis=2) - squares
    # adding lattice vectors to one makes it longer, if products with all others are this small
    found: np.ndarray = (beside <= 0.499 * squares.min(axis=1)[:, None]).all(axis=1)
    return found


def _nearest(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the whole numbers of the lattice vector nearest to `vector`, basis being reduced."""
    about = np.rint(np.linalg.lstsq(basis.T, vector, rcond=None)[0])
    steps = np.array(list(product((-1, 0, 1), repeat=len(basis))), dtype=np.float64) + about
    distances = ((vector - steps @ basis) ** 2).sum(axis=1)
    best: np.ndarray = steps[int(np.argmin(distances))].astype(np.int64)
    return best
