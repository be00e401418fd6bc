"""Multi-indices of Cartesian tensors, their packed order, and the tables that the kernels read.

A multi-index is alpha = (a, b, c) with order |alpha| = a + b + c. Packed arrays hold the
components by order, then lexicographically with x slowest::

    0 | x y z | xx xy xz yy yz zz | xxx xxy xxz xyy xyz xzz yyy yyz yzz zzz | ...
"""

from functools import lru_cache
from math import factorial
from typing import NamedTuple

import numpy as np

MAX_TOTAL_ORDER = 32
"""Highest order of a derivative, that of moments and of their field together."""


def n_components(order: int) -> int:
    """Return the number of packed components of all orders up to `order`.

    Parameters
    ----------
    order : int
        Highest order, >= 0.

    Returns
    -------
    int
        (order + 1)(order + 2)(order + 3) / 6: 1, 4, 10, 20, 35, ...

    Raises
    ------
    TypeError
        If `order` is no integer.
    ValueError
        If it is negative.
    """
    if isinstance(order, bool) or not isinstance(order, int | np.integer):
        raise TypeError(f"order: expected an integer, got {order!r}")
    if order < 0:
        raise ValueError(f"order must be >= 0, got {order}")
    order = int(order)
    return (order + 1) * (order + 2) * (order + 3) // 6


def component_index(a: int, b: int, c: int) -> int:
    """Return the place of the multi-index (a, b, c) in a packed array."""
    order = a + b + c
    rest = b + c
    return order * (order + 1) * (order + 2) // 6 + rest * (rest + 1) // 2 + c


def order_of(components: int) -> int:
    """Return the order whose packed length is `components`.

    Raises
    ------
    ValueError
        If no order has that many components.
    """
    order, length = 0, 1
    while length < components:
        order += 1
        length += (order + 1) * (order + 2) // 2
    if length != components:
        raise ValueError(
            f"expected a packed length of 1, 4, 10, 20, 35, … components, got {components}"
        )
    return order


def order_slice(order: int) -> slice:
    """Return the slice of a packed array that holds the components of exactly `order`."""
    return slice(n_components(order) - (order + 1) * (order + 2) // 2, n_components(order))


@lru_cache
def multi_indices(order: int) -> np.ndarray:
    """Return all multi-indices up to `order` in packed order, shape (n_components(order), 3)."""
    rows = [
        (a, b, total - a - b)
        for total in range(order + 1)
        for a in range(total, -1, -1)
        for b in range(total - a, -1, -1)
    ]
    return _frozen(np.array(rows, dtype=np.int64))


@lru_cache
def orders(order: int) -> np.ndarray:
    """Return |alpha| of every packed component, shape (n_components(order),)."""
    return _frozen(multi_indices(order).sum(axis=1))


@lru_cache
def factorials(order: int) -> np.ndarray:
    """Return alpha! = a! b! c! of every packed component, float64."""
    table = np.array([factorial(i) for i in range(order + 1)], dtype=np.float64)
    return _frozen(table[multi_indices(order)].prod(axis=1))


@lru_cache
def signs(order: int) -> np.ndarray:
    """Return (-1)^|alpha| of every packed component, float64."""
    return _frozen(1.0 - 2.0 * (orders(order) % 2))


@lru_cache
def sum_index(order: int, other: int) -> np.ndarray:
    """Return the place of alpha + beta for all pairs of components.

    Returns
    -------
    ndarray
        int64, shape (n_components(order), n_components(other)); the places are those in an
        array packed to order ``order + other``.
    """
    total = multi_indices(order)[:, None, :] + multi_indices(other)[None, :, :]
    a, b, c = total[..., 0], total[..., 1], total[..., 2]
    full, rest = a + b + c, b + c
    return _frozen(full * (full + 1) * (full + 2) // 6 + rest * (rest + 1) // 2 + c)


class RecursionTable(NamedTuple):
    """One row per component gamma: how its derivative follows from lower ones.

    For gamma = parent + e_axis: T[gamma] = x[axis] T'[parent] + weight T'[grandparent], where
    grandparent = gamma - 2 e_axis and weight = gamma[axis] - 1 (McMurchie & Davidson 1978). T'
    belongs to the next link of the radial chain. A weight of zero comes with grandparent 0.
    """

    axis: np.ndarray
    parent: np.ndarray
    grandparent: np.ndarray
    weight: np.ndarray


@lru_cache
def recursion_table(order: int) -> RecursionTable:
    """Return the table of the derivative recursion up to `order`; row 0 is unused."""
    indices = multi_indices(order)
    n = len(indices)
    axis, parent, grandparent, weight = (np.zeros(n, dtype=np.int64) for _ in range(4))
    for row in range(1, n):
        gamma = indices[row]
        # the axis of least power needs no second term most often
        i = int(np.argmin(np.where(gamma > 0, gamma, order + 1)))
        step = np.eye(3, dtype=np.int64)[i]
        axis[row], weight[row] = i, gamma[i] - 1
        parent[row] = component_index(*(gamma - step))
        if gamma[i] > 1:
            grandparent[row] = component_index(*(gamma - 2 * step))
    return RecursionTable(*(_frozen(t) for t in (axis, parent, grandparent, weight)))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
