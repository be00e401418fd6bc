"""Pairs of atoms within a cutoff."""

import numpy as np
from numpy.typing import NDArray

from gnn.data.images import image_pairs
from multipoles.compiled.jit import jit
from multipoles.lattice.cell import Cell
from multipoles.lattice.search import pairs_within

_DENSE_ATOMS = 32  # up to here all distances are faster than bins


def neighbour_pairs(
    positions: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all ordered pairs of points with 0 < distance < cutoff.

    Parameters
    ----------
    positions
        Points in Å, shape (n, 3).
    cutoff
        Largest distance in Å (excluded), > 0.

    Returns
    -------
    senders, receivers
        Indices, shape (pairs,), sorted by receiver and then by sender.

    Raises
    ------
    ValueError
        If the cutoff is not a positive finite number, or positions of many points are not finite.
    """
    _check_cutoff(cutoff)
    if len(positions) <= _DENSE_ATOMS:
        dense = np.array(positions, dtype=np.float64, order="C")
        senders, receivers = _dense_pairs(dense, cutoff * cutoff)
        return senders, receivers
    if not np.isfinite(positions).all():
        raise ValueError("the positions hold NaN or infinity")
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    found = pairs_within(positions, positions, float(np.nextafter(cutoff, 0)), 0.0)
    receivers = np.repeat(np.arange(len(positions)), np.diff(found.starts))
    receivers, senders = np.divmod(
        np.sort(receivers * len(positions) + found.images), len(positions)
    )
    return senders, receivers


@jit
def _dense_pairs(positions, square):
    """Return senders and receivers of all pairs whose squared distance is below `square`."""
    n, count = len(positions), 0
    senders, receivers = np.empty(n * n, np.int64), np.empty(n * n, np.int64)
    for i in range(n):
        for j in range(n):
            apart = 0.0
            for axis in range(3):
                apart += (positions[i, axis] - positions[j, axis]) ** 2
            if 0.0 < apart < square:
                receivers[count], senders[count] = i, j
                count += 1
    return senders[:count], receivers[:count]


def neighbours_in_cell(
    positions: NDArray[np.float64], cutoff: float, lattice: Cell
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all ordered pairs of points and images of points with 0 < distance < cutoff.

    Parameters
    ----------
    positions
        Points in Å, shape (n, 3), anywhere.
    cutoff
        Largest distance in Å (excluded), > 0. It may be larger than the cell: a pair of points is
        then there with several images, and a point with its own.
    lattice
        What repeats.

    Returns
    -------
    senders, receivers
        Indices, shape (pairs,), sorted by receiver and then by sender.
    shifts
        Whole numbers (pairs, 3): the vector is x[receiver] - x[sender] - shift @ cell, for the
        cell that the lattice is of.

    Raises
    ------
    ValueError
        If the cutoff is not a positive finite number.
    """
    _check_cutoff(cutoff)
    pairs = image_pairs(positions, positions, lattice, float(np.nextafter(cutoff, 0)))
    shifts = pairs.steps[:, : lattice.n_periodic] @ lattice.choice
    return pairs.sources, pairs.targets, shifts


def _check_cutoff(cutoff: float) -> None:
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff: expected a positive number of Å, got {cutoff}")
