"""Pairs of atoms within a cutoff."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

_DENSE_ATOMS = 200  # up to here a full distance matrix is faster than a k-d tree


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
        If the cutoff is not a positive finite number.
    """
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff: expected a positive number of Å, got {cutoff}")
    if len(positions) <= _DENSE_ATOMS:
        squared = ((positions[:, None, :] - positions[None, :, :]) ** 2).sum(-1)
        receivers, senders = np.nonzero((squared > 0) & (squared < cutoff * cutoff))
        return senders.astype(np.int64), receivers.astype(np.int64)
    pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray")
    squared = ((positions[pairs[:, 0]] - positions[pairs[:, 1]]) ** 2).sum(-1)
    pairs = pairs[(squared > 0) & (squared < cutoff * cutoff)]  # the tree includes the cutoff
    senders, receivers = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort((senders, receivers))
    return senders[order].astype(np.int64), receivers[order].astype(np.int64)
