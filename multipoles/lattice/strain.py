"""The derivative of the energy by a homogeneous strain of points and cell: the virial.

    W_ab = ∂E/∂ε_ab,  x_a -> x_a + ε_ab x_b  for points and lattice vectors, moments as they are

Along directions that repeat, near pairs add force times vector, and waves change their length; the
moments' part of the waves follows from their field, since a strain changes k^α like moments that
are strained the other way. Along directions that are free, W_ab = Σ x_b ∂E/∂x_a, all said. What is
left, lattice vectors tilted out of what they span, follows from the energy's being the same when
everything is rotated.
"""

import numpy as np

from multipoles import indexing
from multipoles.lattice.ewald import Ewald
from multipoles.lattice.transform import slope


def virial(
    plan: Ewald,
    moments: np.ndarray,
    factors: np.ndarray | None,
    field: np.ndarray,
    extra: np.ndarray,
) -> np.ndarray:
    """Return W (3, 3) of the energy of moments at a plan's points.

    Parameters
    ----------
    plan : Ewald
        With targets and sources the same points.
    moments : ndarray, shape (n, channels, n_components(K))
        The moments.
    factors : ndarray or None
        Their structure factors.
    field : ndarray, shape (n, channels, n_components(K + 1))
        The whole field at the points.
    extra : ndarray, shape (3, 3)
        The derivative of what is in `field` beside the periodic sum: scaled pairs.
    """
    cell = plan.cell
    along = 0.5 * plan.near_strain(moments, moments) + extra
    if factors is not None:
        along = along + _of_waves(plan, moments, factors)
    if cell.n_periodic == 3:
        return along
    frame = _frame(cell.vectors, cell.n_periodic)
    whole = frame @ along @ frame.T
    turned = frame @ strained(moments, field) @ frame.T
    points = plan.targets - plan.targets.mean(axis=0) if len(plan.targets) else plan.targets
    gradient = _gradient(moments, field)
    free = frame @ (gradient.T @ points) @ frame.T
    d = cell.n_periodic
    whole[:, d:] = free[:, d:]
    whole[d:, :d] = (whole[:d, d:] + turned[:d, d:]).T - turned[d:, :d]
    turned_back: np.ndarray = frame.T @ whole @ frame
    return turned_back


def strained(moments: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return Σ Φ_(α - e_b + e_a) α_b M_α: the energy's change if the moments are strained."""
    order = indexing.order_of(moments.shape[2])
    alphas = indexing.multi_indices(order)
    out = np.zeros((3, 3))
    unit = np.eye(3, dtype=np.int64)
    for b in range(3):
        chosen = np.flatnonzero(alphas[:, b])
        for a in range(3):
            places = [indexing.component_index(*row) for row in alphas[chosen] - unit[b] + unit[a]]
            given = moments[:, :, chosen] * alphas[chosen, b]
            out[a, b] = np.einsum("ick,ick->", given, field[:, :, places])
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


def _of_waves(plan: Ewald, moments: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return what the smooth part adds, right along what repeats."""
    cell, split, k = plan.cell, plan.split, plan.wave_vectors
    # waves of -m are not stored, but for c = 0
    twice = np.where(np.arange(factors.shape[-1]) > 0, 1.0, 0.5)
    power = (np.abs(factors) ** 2).sum(axis=0) * twice
    energy = float((power * plan.weights).sum())
    background = 0.5 * float(moments[:, :, 0].sum(axis=0) @ plan.background(moments))
    volume = cell.volume * float(np.prod(split.lengths))
    decay = np.exp(-(k**2).sum(axis=-1) / (4 * split.eta**2)) / volume
    # k_b changes by -ε_ab k_a, so that p²/2 does by -ε_ab k_a k_b
    change = slope(k, cell, split.cut) * decay - plan.weights / (2 * split.eta**2)
    of_length = -np.einsum("xyz,xyza,xyzb->ab", power * change, k, k)
    smooth = plan.far_field(factors, indexing.order_of(moments.shape[2]))
    whole: np.ndarray = of_length - strained(moments, smooth)
    return whole - (energy + background) * np.eye(3)
