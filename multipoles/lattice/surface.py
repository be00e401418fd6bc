"""The surface of a large sphere of crystal in vacuum: the kernel -2π r²/(3V) beside the sum.

De Leeuw, Perram & Smith, Proc. R. Soc. A 373, 27 (1980). Coordinates count as they are given: a
molecule that is cut by a face of the cell has another dipole.
"""

import numpy as np

from multipoles import indexing


def field(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    volumes: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the field of the surface (n_targets, channels, n_components(order)).

    Parameters
    ----------
    targets, sources, moments
        System after system.
    order : int
        Highest derivative.
    volumes : ndarray, shape (n_systems,)
        Of the cells.
    ends : tuple of two ndarrays of int, shape (n_systems + 1,)
        First target and first source of each system.
    """
    counts = np.diff(ends[0])
    charge, dipole, second = (
        np.repeat(total, counts, axis=0) for total in _weighted(sources, moments, volumes, ends[1])
    )
    return _of_totals(targets, charge, dipole, second, order)


def field_of_one(
    targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int, volume: float
) -> np.ndarray:
    """Return the same of one system in a cell of some volume."""
    given = sources, moments, np.array([volume]), np.array([0, len(sources)])
    charge, dipole, second = (total[0] for total in _weighted(*given))
    return _of_totals(targets, charge, dipole, second, order)


def totals_of_one(points: np.ndarray, moments: np.ndarray, volume: float) -> np.ndarray:
    """Return what the field of one system is made of, to be added up where its points are parted.

    Returns
    -------
    ndarray, shape (channels, 5)
    """
    if not len(points):
        return np.zeros((moments.shape[1], 5))
    given = points, moments, np.array([volume]), np.array([0, len(points)])
    charge, dipole, second = (total[0] for total in _weighted(*given))
    return np.concatenate([charge[:, None], dipole, second[:, None]], axis=1)


def field_of_totals(targets: np.ndarray, totals: np.ndarray, order: int) -> np.ndarray:
    """Return the field of one system from the sum of its parts, see `totals_of_one`."""
    return _of_totals(targets, totals[:, 0], totals[:, 1:4], totals[:, 4], order)


def _of_totals(
    targets: np.ndarray, charge: np.ndarray, dipole: np.ndarray, second: np.ndarray, order: int
) -> np.ndarray:
    """Return the field of weighted totals: those of one system, or of each target's own."""
    x = targets[:, None]
    out = np.zeros((len(x), charge.shape[-1], indexing.n_components(order)))
    square = np.einsum("ia,ia->i", targets, targets)[:, None]
    along = np.einsum("ia,ca->ic" if dipole.ndim == 2 else "ia,ica->ic", targets, dipole)
    out[:, :, 0] = square * charge - 2 * along + second
    if order >= 1:
        np.multiply(x, 2 * charge[..., None], out=out[:, :, 1:4])
        out[:, :, 1:4] -= 2 * dipole
    if order >= 2:
        out[:, :, [4, 7, 9]] = 2 * charge[..., None]
    return out


def strain(
    points: np.ndarray, moments: np.ndarray, volumes: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Return the derivatives of the energies by a strain, (n_systems, 3, 3), see `virial`."""
    charge, dipole, second = _totals(points, moments, ends)
    factor = -2 * np.pi / (3 * volumes)
    energy = factor * ((charge * second).sum(axis=1) - (dipole**2).sum(axis=(1, 2)))
    charges, dipoles = moments[:, :, 0], moments[:, :, 1:4]
    moved = charges[:, :, None] * points[:, None]
    both = 2 * moved[..., None] * points[:, None, None]
    if dipoles.shape[2]:
        both = both + 2 * dipoles[..., None] * points[:, None, None]
    sums = np.einsum("sc,scab->sab", charge, np.add.reduceat(both, ends[:-1], axis=0))
    total = np.add.reduceat(moved, ends[:-1], axis=0)
    sums -= 2 * np.einsum("sca,scb->sab", dipole, total)
    found: np.ndarray = factor[:, None, None] * sums - energy[:, None, None] * np.eye(3)
    return found


def _weighted(
    points: np.ndarray, moments: np.ndarray, volumes: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `_totals` times -2π/3V of each system."""
    factor = -2 * np.pi / (3 * volumes)[:, None]
    charge, dipole, second = _totals(points, moments, ends)
    return factor * charge, factor[..., None] * dipole, factor * second


def _totals(
    points: np.ndarray, moments: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Σ q, Σ q s + μ, and Σ q s² + 2 μ·s + 2 tr Q of each system and channel."""
    charges = moments[:, :, 0]
    dipole = charges[..., None] * points[:, None]
    second = charges * (points**2).sum(axis=1)[:, None]
    if moments.shape[2] >= 4:
        dipole = dipole + moments[:, :, 1:4]
        second = second + 2 * np.einsum("ica,ia->ic", moments[:, :, 1:4], points)
    if moments.shape[2] >= 10:
        second = second + 2 * moments[:, :, [4, 7, 9]].sum(axis=2)
    charge, dipole, second = (
        np.add.reduceat(each, ends[:-1], axis=0) for each in (charges, dipole, second)
    )
    return charge, dipole, second
