"""Rows of numbers, one for each point: sums of them, and other orders."""

import math
from functools import lru_cache

import numpy as np

from fmm.far import harmonics
from multipoles.compiled.jit import bare, run_chunks

# what the memory of a row costs, in pairs, and of each of its numbers
_ROW, _NUMBER = 10.0, 2.0


def with_derivatives(near: np.ndarray, local: np.ndarray, order: int) -> np.ndarray:
    """Return a field in float64 plus the derivatives of local expansions at the points themselves.

    Parameters
    ----------
    near : ndarray, shape (n, channels, n_components(order))
        float32 or float64.
    local : ndarray, shape (n, channels, (order + 1)^2)
        By harmonics.
    order : int
        Highest derivative.
    """
    out = np.empty(near.shape)
    terms = _derivatives(order)

    def task(first: int, last: int) -> None:
        _add_derivatives(first, last, near, local, *terms, out)

    run_chunks(task, len(out), len(out) * (_ROW + _NUMBER * near[:1].size))
    return out


def scattered(rows: np.ndarray, index: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an array whose row ``index[i]`` is row i; the index is a permutation."""
    out = np.empty(rows.shape, dtype)
    shape = len(rows), math.prod(rows.shape[1:])
    flat, into = rows.reshape(shape), out.reshape(shape)

    def task(first: int, last: int) -> None:
        _scatter(first, last, flat, index, into)

    run_chunks(task, len(out), len(out) * (_ROW + _NUMBER * flat.shape[1]))
    return out


@lru_cache
def _derivatives(order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrix from harmonics to packed derivatives, row by row."""
    matrix = harmonics.cartesian_map(order).T
    starts = np.append(0, np.cumsum(np.count_nonzero(matrix, axis=1)))
    return starts, np.nonzero(matrix)[1], matrix[matrix != 0]


@bare
def _add_derivatives(first, last, near, local, starts, columns, factors, out):
    """Write rows first ... last - 1 of `with_derivatives`."""
    for i in range(first, last):
        for channel in range(near.shape[1]):
            for beta in range(near.shape[2]):
                total = np.float64(near[i, channel, beta])
                for k in range(starts[beta], starts[beta + 1]):
                    total += local[i, channel, columns[k]] * factors[k]
                out[i, channel, beta] = total


@bare
def _scatter(first, last, rows, index, out):
    """Write rows first ... last - 1 to where they belong."""
    for i in range(first, last):
        at = index[i]
        for k in range(rows.shape[1]):
            out[at, k] = rows[i, k]
