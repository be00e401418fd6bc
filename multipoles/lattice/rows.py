"""Rows of points of many systems, one system after another: products and sums for each."""

from math import prod

import numpy as np

from multipoles.compiled.jit import jit


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Return where each of some systems starts, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def sums_of_systems(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the sums over the rows of each system, none of which is empty."""
    found: np.ndarray = np.add.reduceat(values, ends[:-1], axis=0)
    return found


def by_system(
    points: np.ndarray, matrices: np.ndarray, ends: np.ndarray, transposed: bool = False
) -> np.ndarray:
    """Return rows times a matrix of their system, or its transpose.

    Parameters
    ----------
    points : ndarray, shape (n, ..., k)
        System after system.
    matrices : ndarray, shape (n_systems, k, k)
        One for each system.
    ends : ndarray of int, shape (n_systems + 1,)
        First row of each system.
    transposed : bool
        Whether rows are multiplied by the transpose.
    """
    out = np.empty(points.shape)
    k = points.shape[-1]
    rows = np.ascontiguousarray(points).reshape(len(points), prod(points.shape[1:-1]), k)
    if transposed:
        matrices = matrices.transpose(0, 2, 1)
    _multiply(rows, np.ascontiguousarray(matrices), ends, out.reshape(rows.shape))
    return out


@jit
def _multiply(rows, matrices, ends, out):
    k = rows.shape[2]
    for system in range(matrices.shape[0]):
        for i in range(ends[system], ends[system + 1]):
            for channel in range(rows.shape[1]):
                for b in range(k):
                    total = 0.0
                    for a in range(k):
                        total += rows[i, channel, a] * matrices[system, a, b]
                    out[i, channel, b] = total
