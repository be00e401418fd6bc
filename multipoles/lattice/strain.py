"""The derivative of the energy by a homogeneous strain of points and cell: the virial.

    W_ab = ∂E/∂ε_ab,  x_a -> x_a + ε_ab x_b  for points and lattice vectors, moments as they are

Along directions that repeat, near pairs add force times vector, and waves change their length; the
moments' part of the waves follows from their field, since a strain changes k^α like moments that
are strained the other way. Along directions that are free, W_ab = Σ x_b ∂E/∂x_a, all said. What is
left, lattice vectors tilted out of what they span, follows from the energy's being the same when
everything is rotated.
"""

from collections.abc import Callable

import numpy as np

from multipoles import indexing
from multipoles.lattice.cell import Cell


def virial(
    cell: Cell,
    points: np.ndarray,
    moments: np.ndarray,
    field_of: Callable[[], np.ndarray],
    along: np.ndarray,
) -> np.ndarray:
    """Return W (3, 3) of the energy of moments at points.

    Parameters
    ----------
    cell : Cell
        What repeats.
    points : ndarray, shape (n, 3)
        Wrapped into the cell.
    moments : ndarray, shape (n, channels, n_components(K))
        The moments.
    field_of : callable
        Returns the whole field at the points, (n, channels, n_components(K + 1)): needed where
        directions are free.
    along : ndarray, shape (3, 3)
        What near pairs and waves add, right along what repeats.
    """
    if cell.n_periodic == 3:
        return along
    field = field_of()
    frame = _frame(cell.vectors, cell.n_periodic)
    whole = frame @ along @ frame.T
    turned = frame @ strained(moments, field).sum(axis=0) @ frame.T
    centred = points - points.mean(axis=0) if len(points) else points
    free = frame @ (_gradient(moments, field).T @ centred) @ frame.T
    d = cell.n_periodic
    whole[:, d:] = free[:, d:]
    whole[d:, :d] = (whole[:d, d:] + turned[:d, d:]).T - turned[d:, :d]
    turned_back: np.ndarray = frame.T @ whole @ frame
    return turned_back


def strained(moments: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return Σ Φ_(α - e_b + e_a) α_b M_α: the energy's change if the moments are strained.

    For each site, (n, 3, 3).
    """
    order = indexing.order_of(moments.shape[2])
    alphas = indexing.multi_indices(order)
    out = np.zeros((len(moments), 3, 3))
    unit = np.eye(3, dtype=np.int64)
    for b in range(3 if order else 0):
        chosen = np.flatnonzero(alphas[:, b])
        for a in range(3):
            places = [indexing.component_index(*row) for row in alphas[chosen] - unit[b] + unit[a]]
            given = moments[:, :, chosen] * alphas[chosen, b]
            out[:, a, b] = np.einsum("ick,ick->i", given, field[:, :, places])
    return out


def _gradient(moments: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return ∂E/∂x (n, 3)."""
    raised = indexing.sum_index(indexing.order_of(moments.shape[2]), 1)[:, 1:]
    gradient: np.ndarray = np.einsum("ick,icka->ia", moments, field[..., raised])
    return gradient


def _frame(vectors: np.ndarray, n_periodic: int) -> np.ndarray:
    """Return orthonormal rows: first what spans the directions that repeat, then the free ones."""
    q, _ = np.linalg.qr(vectors[:n_periodic].T)
    return np.concatenate([q.T, vectors[n_periodic:]])


def of_waves(
    vectors: np.ndarray, power: np.ndarray, weights: np.ndarray, change: np.ndarray
) -> np.ndarray:
    """Return the derivative of half the sum of `weights` times `power`, but that of the power.

    Parameters
    ----------
    vectors : ndarray, shape (..., 3)
        Wave vectors, one of k and -k.
    power : ndarray, shape (...)
        Squares of structure factors; half of those of waves that are there beside their negative.
    weights, change : ndarray, shape (...)
        What they are multiplied by, and its derivative by the length of a wave along what repeats,
        over that length.
    """
    energy = float((power * weights).sum())
    # k_b changes by -ε_ab k_a, so that p²/2 does by -ε_ab k_a k_b
    k = vectors.reshape(-1, 3)
    of_length: np.ndarray = -(k * (power * change).reshape(-1, 1)).T @ k
    return of_length - energy * np.eye(3)
