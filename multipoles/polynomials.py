"""Packed Cartesian monomials and polynomials: the tables behind moments and their conversions.

A polynomial of one degree is a vector over the multi-indices of that order, in packed order.
"""

from functools import lru_cache
from itertools import product

import numpy as np

from multipoles.indexing import (
    component_index,
    factorials,
    multi_indices,
    n_components,
    order_slice,
    orders,
    sum_index,
)


@lru_cache
def full_index(rank: int) -> np.ndarray:
    """Return the packed place of every entry of a full tensor of order `rank`, flattened."""
    return np.array(
        [
            component_index(*(axes.count(i) for i in range(3)))
            for axes in product(range(3), repeat=rank)
        ]
    )


@lru_cache
def multiplicity(order: int) -> np.ndarray:
    """Return |alpha|! / alpha!: how many entries of the full tensor share a component."""
    table = np.array([float(np.prod(np.arange(1.0, rank + 1))) for rank in range(order + 1)])
    counts = table[orders(order)] / factorials(order)
    counts.flags.writeable = False
    return counts


def powers(d: np.ndarray, order: int) -> np.ndarray:
    """Return d^alpha / alpha! of vectors (..., 3), shape (..., n_components(order))."""
    out = np.ones((*d.shape[:-1], n_components(order)), d.dtype)
    for row, alpha in enumerate(multi_indices(order)[1:], start=1):
        i = int(np.argmax(alpha > 0))
        parent = component_index(*(alpha - np.eye(3, dtype=np.int64)[i]))
        out[..., row] = out[..., parent] * d[..., i] / d.dtype.type(alpha[i])
    return out


def monomial_matrices(R: np.ndarray, order: int) -> list[np.ndarray]:
    """Return, per order, the matrix D with (R d)^alpha = sum_beta D[alpha, beta] d^beta."""
    lead = R.shape[:-2]
    blocks = [np.ones((*lead, 1, 1), R.dtype)]
    unit = np.eye(3, dtype=np.int64)
    for rank in range(1, order + 1):
        lower, start = order_slice(rank - 1), order_slice(rank).start
        size = order_slice(rank).stop - start
        block = np.zeros((*lead, size, size), R.dtype)
        for row, alpha in enumerate(multi_indices(rank)[start:]):
            i = int(np.argmax(alpha > 0))
            parent = component_index(*(alpha - unit[i])) - lower.start
            for j in range(3):
                columns = sum_index(rank, 1)[lower, 1 + j] - start
                block[..., row, columns] += R[..., i, j, None] * blocks[-1][..., parent, :]
        blocks.append(block)
    return blocks


@lru_cache
def times_r2(rank: int) -> np.ndarray:
    """Return the matrix that multiplies packed polynomials of degree `rank` by r^2."""
    source, target = order_slice(rank), order_slice(rank + 2)
    matrix = np.zeros((target.stop - target.start, source.stop - source.start))
    for column, alpha in enumerate(multi_indices(rank)[source]):
        for step in 2 * np.eye(3, dtype=np.int64):
            matrix[component_index(*(alpha + step)) - target.start, column] += 1.0
    return matrix


@lru_cache
def laplacian(rank: int) -> np.ndarray:
    """Return the matrix of the Laplacian on packed polynomials of degree `rank`."""
    source, target = order_slice(rank), order_slice(rank - 2)
    matrix = np.zeros((target.stop - target.start, source.stop - source.start))
    for column, alpha in enumerate(multi_indices(rank)[source]):
        for i, step in enumerate(2 * np.eye(3, dtype=np.int64)):
            if alpha[i] >= 2:
                row = component_index(*(alpha - step)) - target.start
                matrix[row, column] += alpha[i] * (alpha[i] - 1)
    return matrix


@lru_cache
def turns(order: int) -> tuple[tuple[int, int, int, float], ...]:
    """Return (axis, alpha, beta, factor) of dM_alpha/dtheta_axis = sum factor M_beta."""
    terms = []
    unit = np.eye(3, dtype=np.int64)
    for row, alpha in enumerate(multi_indices(order)):
        for axis in range(3):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            # e_axis x d moves d_i by -d_j and d_j by +d_i
            for to, source, sign in ((i, j, -1.0), (j, i, 1.0)):
                if alpha[to] > 0:
                    beta = component_index(*(alpha - unit[to] + unit[source]))
                    terms.append((axis, row, beta, sign * float(alpha[source] + 1)))
    return tuple(terms)


@lru_cache
def detrace_matrix(rank: int) -> np.ndarray:
    """Return the projection of packed moments of order `rank` onto traceless ones, float64.

    Read M as the polynomial sum_alpha M_alpha x^alpha. Its harmonic part is
    sum_k c_k r^(2k) Laplacian^k, c_k = -c_(k-1) / (2k (2l - 2k + 1)) (Stone, The Theory of
    Intermolecular Forces, appendix B; Applequist, J. Phys. A 22, 4303 (1989)).
    """
    start = order_slice(rank).start
    alphas = multi_indices(rank)[start:]
    projection = lowered = np.eye(len(alphas))
    c = 1.0
    for k in range(1, rank // 2 + 1):
        lowered = laplacian(rank - 2 * k + 2) @ lowered
        raised = lowered
        for degree in range(rank - 2 * k, rank, 2):
            raised = times_r2(degree) @ raised
        c /= -(2 * k * (2 * rank - 2 * k + 1))
        projection = projection + c * raised
    projection.flags.writeable = False
    return projection
