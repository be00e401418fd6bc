"""The surface of a large sphere of crystal in vacuum: the kernel -2π r²/(3V) beside the sum.

De Leeuw, Perram & Smith, Proc. R. Soc. A 373, 27 (1980). Coordinates count as they are given: a
molecule that is cut by a face of the cell has another dipole.
"""

import numpy as np

from multipoles import indexing


def field(
    targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int, volume: float
) -> np.ndarray:
    """Return the field of the surface (n_targets, channels, n_components(order))."""
    charge, dipole, second = _totals(sources, moments)
    out = np.zeros((len(targets), moments.shape[1], indexing.n_components(order)))
    factor = -2 * np.pi / (3 * volume)
    x2 = (targets**2).sum(axis=1)[:, None]
    out[:, :, 0] = factor * (x2 * charge - 2 * targets @ dipole.T + second)
    if order >= 1:
        out[:, :, 1:4] = 2 * factor * (targets[:, None] * charge[:, None] - dipole)
    if order >= 2:
        out[:, :, [4, 7, 9]] = 2 * factor * charge[:, None]
    return out


def strain(points: np.ndarray, moments: np.ndarray, volume: float) -> np.ndarray:
    """Return the derivative of the energy by a strain, (3, 3), see `strain.virial`."""
    charge, dipole, second = _totals(points, moments)
    factor = -2 * np.pi / (3 * volume)
    energy = factor * float(charge @ second - (dipole**2).sum())
    charges, dipoles = moments[:, :, 0], moments[:, :, 1:4]
    out = np.zeros((3, 3))
    for c in range(moments.shape[1]):
        moved = charges[:, c, None] * points
        both = 2 * moved.T @ points
        if dipoles.shape[2]:
            both = both + 2 * dipoles[:, c].T @ points
        out += factor * (charge[c] * both - 2 * np.outer(dipole[c], moved.sum(axis=0)))
    return out - energy * np.eye(3)


def _totals(points: np.ndarray, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Σ q, Σ q s + μ, and Σ q s² + 2 μ·s + 2 tr Q of each channel."""
    charges = moments[:, :, 0]
    dipole = charges.T @ points
    second = charges.T @ (points**2).sum(axis=1)
    if moments.shape[2] >= 4:
        dipole = dipole + moments[:, :, 1:4].sum(axis=0)
        second = second + 2 * np.einsum("ica,ia->c", moments[:, :, 1:4], points)
    if moments.shape[2] >= 10:
        second = second + 2 * moments[:, :, [4, 7, 9]].sum(axis=(0, 2))
    return charges.sum(axis=0), dipole, second
