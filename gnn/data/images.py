"""Cells of systems, and pairs of points and images within a radius."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multipoles.lattice.cell import Cell, cell_of, directions
from multipoles.lattice.search import images_within, pairs_within

#: What repeats of a system without a cell.
NOTHING = (False, False, False)
# part of the largest size that rounding may leave along a lattice vector
_ROUNDING = 1e-9


class ImagePairs(NamedTuple):
    """Pairs of points of two sets: the vector from source to target is x - s - step @ vectors.

    Attributes
    ----------
    targets, sources
        Indices, (pairs,), sorted by target, then by source.
    steps
        Whole numbers of the vectors of the lattice, (pairs, 3) int64; zero along what does not
        repeat.
    """

    targets: NDArray[np.int64]
    sources: NDArray[np.int64]
    steps: NDArray[np.int64]

    def lengths(
        self, targets: NDArray[np.float64], sources: NDArray[np.float64], lattice: Cell
    ) -> NDArray[np.float64]:
        """Return the distances in Å."""
        moved = self.steps.astype(np.float64) @ lattice.vectors
        found: NDArray[np.float64] = np.linalg.norm(
            targets[self.targets] - sources[self.sources] - moved, axis=1
        )
        return found


def checked_cell(
    cell: Any, periodic: Any
) -> tuple[NDArray[np.float64] | None, tuple[bool, bool, bool]]:
    """Return cell (3, 3) and what repeats, after a check; None and nothing without a cell.

    Parameters
    ----------
    cell
        Rows are lattice vectors in Å; None: free space.
    periodic
        Which directions repeat: a bool, or three; None: all, if there is a cell.

    Raises
    ------
    TypeError, ValueError
        If shapes or types are wrong, numbers are not finite, nothing repeats, or vectors that
        repeat span no volume (area, length).
    """
    if cell is None:
        if periodic is not None and periodic is not False and any(np.ravel(periodic)):
            raise ValueError(
                f"periodic: {periodic!r} says that something repeats, but there is no cell: give "
                "its lattice vectors, cell= of shape (3, 3) in Å"
            )
        return None, NOTHING
    if hasattr(cell, "detach"):
        cell = cell.detach().cpu().numpy()
    periodic = True if periodic is None else periodic
    cell_of(cell, periodic)
    return np.array(cell, dtype=np.float64), directions(periodic)


def lattice_of(cell: NDArray[np.float64] | None, periodic: tuple[bool, bool, bool]) -> Cell | None:
    """Return the reduced cell of a checked one; None in free space."""
    return None if cell is None else cell_of(cell, periodic)


def image_pairs(
    targets: NDArray[np.float64],
    sources: NDArray[np.float64],
    lattice: Cell,
    radius: float,
    *,
    coincident: bool = False,
) -> ImagePairs:
    """Return all pairs of targets and images of sources no farther than a radius apart.

    Parameters
    ----------
    targets, sources
        Points in Å, (n, 3) and (m, 3), anywhere; one array where they are the same.
    lattice
        What repeats.
    radius
        Greatest distance in Å.
    coincident
        Also pairs at distance zero, but no point with itself.
    """
    of_targets = lattice.images(targets)
    of_sources = of_targets if sources is targets else lattice.images(sources)
    inside = targets + of_targets @ lattice.vectors
    others = inside if sources is targets else sources + of_sources @ lattice.vectors
    images = images_within(others, lattice, radius)
    found = pairs_within(inside, images.points, radius, 0.0)
    first = np.repeat(np.arange(len(targets)), np.diff(found.starts))
    second = found.images
    if coincident:
        first = np.concatenate([first, found.coincident[:, 0]])
        second = np.concatenate([second, found.coincident[:, 1]])
    origin = images.origin[second]
    steps = images.steps[second] + (of_sources[origin] - of_targets[first]).astype(np.int64)
    if coincident and sources is targets:
        apart = (first != origin) | steps.any(axis=1)
        first, origin, steps = first[apart], origin[apart], steps[apart]
    order = np.lexsort((*steps.T[::-1], origin, first))
    return ImagePairs(first[order], origin[order], steps[order])


def surrounded(
    points: NDArray[np.float64], others: NDArray[np.float64], lattice: Cell | None, radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return points in the cell, all images of other points within a radius, and their origins.

    Without a cell both are returned as they are.
    """
    if lattice is None:
        return points, others, np.arange(len(others))
    images = images_within(lattice.wrapped(others), lattice, radius)
    return lattice.wrapped(points), images.points, images.origin


def farthest(lattice: Cell | None) -> float:
    """Return a radius in Å within which every point has images of every other, as far as it goes.

    Along what does not repeat, images are taken at any distance (`surrounded`).
    """
    if lattice is None:
        return 0.0
    lengths = np.linalg.norm(lattice.vectors[: lattice.n_periodic], axis=1)
    return float(lengths.sum())


def check_field(field: NDArray[np.float64], lattice: Cell | None) -> None:
    """Refuse a uniform field along what repeats.

    Raises
    ------
    ValueError
        If it has a part there: its potential would not repeat.
    """
    if lattice is None:
        return
    vectors = lattice.vectors[: lattice.n_periodic]
    along = vectors @ field / np.linalg.norm(vectors, axis=1)
    if (np.abs(along) > _ROUNDING * np.linalg.norm(field)).any():
        raise ValueError(
            f"uniform_field: {field.tolist()} V/Å has a part along a direction that repeats, "
            "where its potential would jump at every face of the cell: expected one at right "
            "angles to the lattice vectors that repeat, or none"
        )
