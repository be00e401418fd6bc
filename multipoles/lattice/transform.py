"""The Fourier transform of 1/r in a box that repeats in three, two or one directions.

Along directions that do not repeat, the potential of what does is cut off at a radius R that no
two points exceed, so that the box around them may repeat without a trace: within R, the sum over
waves is that of the lattice alone, not of a padded box. With p the length of the wave vector along
what repeats, and q across:

* three directions: 4π/k², without k = 0.
* two: ∫ dz exp(-iqz) 2π/p exp(-p|z|), and -2π|z| for p = 0, from -R to R.
* one: ∫ 2πρ dρ J₀(qρ) 2K₀(pρ), and -2 ln ρ for p = 0, from 0 to R.

Cutting off after Vico, Greengard & Ferrando, J. Comput. Phys. 323, 191 (2016).
"""

import numpy as np

from multipoles.lattice.cell import Cell


def transform(vectors: np.ndarray, cell: Cell, radius: float, unit: float = 1.0) -> np.ndarray:
    """Return the transform of the lattice's Coulomb potential.

    Parameters
    ----------
    vectors : ndarray, shape (..., 3)
        Wave vectors.
    cell : Cell
        What repeats; along three directions, it may be any.
    radius : float
        Where the potential is cut off along what does not repeat.
    unit : float
        The length whose logarithm is zero, with one periodic direction.

    Returns
    -------
    ndarray, shape (...)
    """
    if cell.n_periodic == 3:
        return _over(4 * np.pi, np.einsum("...a,...a->...", vectors, vectors))
    p, q = lengths(vectors, cell)
    if cell.n_periodic == 2:
        return _of_planes(p, q, radius)
    return _of_lines(p, q, radius, unit)


def slope(vectors: np.ndarray, cell: Cell, radius: float) -> np.ndarray:
    """Return the derivative of `transform` by p, over p; zero where p is."""
    if cell.n_periodic == 3:
        return -_over(8 * np.pi, np.einsum("...a,...a->...", vectors, vectors) ** 2)
    p, q = lengths(vectors, cell)
    square = p * p + q * q
    if cell.n_periodic == 2:
        angle = q * radius
        decay = np.exp(-p * radius)
        waves = decay * (_over(q, p) * np.sin(angle) - np.cos(angle))
        change = -radius * waves - decay * _over(q, p * p) * np.sin(angle)
    else:
        from scipy import special

        angle, depth = q * radius, np.where(p > 0, p * radius, 1.0)
        (j0, j1), (k0, k1) = (
            (special.j0(angle), special.j1(angle)),
            (
                special.k0(depth),
                special.k1(depth),
            ),
        )
        waves = angle * j1 * k0 - depth * j0 * k1
        change = radius**2 * (p * j0 * k0 - q * j1 * k1)
    whole = _over(change, square) - _over(2 * p * (1 + waves), square * square)
    return 4 * np.pi * _over(whole, p)


def lengths(vectors: np.ndarray, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of wave vectors along what repeats, and across."""
    free = cell.vectors[cell.n_periodic :]
    across = vectors @ free.T
    along = vectors - across @ free
    p, q = np.linalg.norm(along, axis=-1), np.linalg.norm(across, axis=-1)
    # what rounding leaves of zero
    longest = np.linalg.norm(cell.vectors[: cell.n_periodic], axis=1).max()
    p[p < 1e-6 / longest] = 0.0
    return p, q


def _over(numerator: np.ndarray | float, denominator: np.ndarray) -> np.ndarray:
    """Return a fraction, zero where its denominator is."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, 0.0)


def _of_planes(p: np.ndarray, q: np.ndarray, radius: float) -> np.ndarray:
    angle = q * radius
    waves = np.exp(-p * radius) * (_over(q, p) * np.sin(angle) - np.cos(angle))
    at_zero = np.where(
        q > 0, _over(1 - np.cos(angle) - angle * np.sin(angle), q * q), -0.5 * radius**2
    )
    return 4 * np.pi * np.where(p > 0, _over(1 + waves, p * p + q * q), at_zero)


def _of_lines(p: np.ndarray, q: np.ndarray, radius: float, unit: float) -> np.ndarray:
    from scipy import special  # slow to import

    angle, log = q * radius, np.log(radius / unit)
    depth = np.where(p > 0, p * radius, 1.0)
    j0, j1 = special.j0(angle), special.j1(angle)
    waves = angle * j1 * special.k0(depth) - depth * j0 * special.k1(depth)
    at_zero = np.where(
        q > 0, _over(1 - j0 - angle * log * j1, q * q), radius**2 * (0.25 - 0.5 * log)
    )
    return 4 * np.pi * np.where(p > 0, _over(1 + waves, p * p + q * q), at_zero)
