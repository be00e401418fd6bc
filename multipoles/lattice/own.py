"""The field that the smooth part of a kernel has at a source's own place, which is not wanted."""

import numpy as np

from multipoles import indexing


def even_tensor(slopes: np.ndarray, order: int) -> np.ndarray:
    """Return the derivatives at zero of an even function of r, (n_components(order),).

    Parameters
    ----------
    slopes : ndarray, shape (order // 2 + 1,)
        Its derivatives by r² at zero: k! times the coefficients of r^(2k).
    order : int
        Highest derivative.
    """
    powers = indexing.multi_indices(order)
    half = powers // 2
    # (2a)! (2b)! (2c)! / (a! b! c!)
    table = np.cumprod(np.concatenate([[1.0], np.arange(1.0, order // 2 + 1)]))
    ways = indexing.factorials(order) / table[half].prod(axis=1)
    even: np.ndarray = np.where((powers % 2 == 0).all(axis=1), slopes[half.sum(axis=1)] * ways, 0.0)
    return even


def own_matrix(tensor: np.ndarray, source_order: int, order: int) -> np.ndarray:
    """Return the matrix from moments to the field of order `order` that a tensor at zero makes."""
    signs = indexing.signs(source_order)[:, None]
    matrix: np.ndarray = tensor[indexing.sum_index(source_order, order)] * signs
    return matrix
