"""Dense matrices of translations, and the signs of reflections.

Every translation is a matrix that depends on the shift in units of the box alone. With box edge h,
expansions are kept in its units: multipoles M_n / h^n, local coefficients L_n h^(n + 1). The CPU
translates in three steps (`fmm.far.rotations`); these matrices serve the GPU and tests.
"""

from functools import lru_cache

import numpy as np

from fmm.far import harmonics
from fmm.far.kept import kept
from multipoles.compiled.simd import BYTES


def row_length(n: int, dtype: np.dtype) -> int:
    """Return `n` rounded up to whole vectors: the length of a box's coefficients in memory."""
    lanes = BYTES // dtype.itemsize
    return -(-n // lanes) * lanes


@kept
def shift_matrix(octant: int, degree: int) -> np.ndarray:
    """Return A(d) with columns times 2^-j: from a child's units to its parent's."""
    corner = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
    size = harmonics.n_harmonics(degree)
    matrix = np.empty((size, size), order="F")
    h = harmonics.regular((corner - 0.5) / 2, degree)
    harmonics.dense(harmonics.shift_terms(degree, degree), h, matrix)
    return matrix * 0.5 ** harmonics.degrees(degree)


def transfer_matrix(vector: tuple[int, int, int], degree: int) -> np.ndarray:
    """Return the multipole-to-local matrix of a shift, target minus source anchor."""
    h = harmonics.irregular(np.array(vector, np.float64), 2 * degree)
    size = harmonics.n_harmonics(degree)
    matrix = np.empty((size, size), order="F")
    harmonics.dense(harmonics.transfer_terms(degree, degree), h, matrix)
    return matrix


@lru_cache(maxsize=512)
def reflection(octant: int, degree: int, dtype: np.dtype) -> np.ndarray:
    """Return the signs of harmonics under reflections: of x if octant & 4, y if & 2, z if & 1."""
    signs = np.ones(row_length(harmonics.n_harmonics(degree), dtype), dtype)
    for axis, bit in enumerate((4, 2, 1)):
        if octant & bit:
            signs[: harmonics.n_harmonics(degree)] *= harmonics.reflections(degree)[axis]
    return signs
