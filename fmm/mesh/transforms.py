"""Fourier transforms between a grid and the few waves of it that are summed.

Waves up to greatest numbers (A, B, C) along the axes are kept, those that a window passes: a small
part of all that a grid has. Each axis is transformed for the waves that the others keep only, and
some planes at a time, so that nothing as large as the grid is made beside it.
"""

import numpy as np

from multipoles.compiled.jit import get_num_threads

Limits = tuple[int, int, int]
# bytes of the planes of a grid that are transformed together
_PLANES = 16e6


def numbers(limits: Limits) -> list[np.ndarray]:
    """Return the whole numbers of the waves along each axis; those of c < 0 are the conjugates."""
    a, b, c = limits
    return [
        *(np.concatenate([np.arange(n + 1), np.arange(-n, 0)]) for n in (a, b)),
        np.arange(c + 1),
    ]


def to_waves(values: np.ndarray, limits: Limits) -> np.ndarray:
    """Return the waves of real values on a grid.

    Parameters
    ----------
    values : ndarray, shape (channels, n, n, n)
        On the grid.
    limits : tuple of int
        Greatest numbers of waves, less than half of the grid's.

    Returns
    -------
    ndarray, complex128, shape (channels, 2A + 1, 2B + 1, C + 1)
        In the order of `numbers`.
    """
    from scipy import fft  # slow to import

    first, second, third = numbers(limits)
    workers = get_num_threads()
    found = np.empty((*values.shape[:2], len(second), len(third)), np.complex128)
    for planes in _blocks(values.shape):
        part = fft.rfft(values[:, planes], axis=3, workers=workers)[..., : len(third)]
        found[:, planes] = fft.fft(part, axis=2, workers=workers)[:, :, second]
    whole = fft.fft(found, axis=1, overwrite_x=True, workers=workers)
    kept: np.ndarray = whole[:, first]
    return kept


def from_waves(
    waves: np.ndarray, shape: tuple[int, int, int], limits: Limits, padding: int
) -> np.ndarray:
    """Return the values on a grid of waves, as the inverse transform has them.

    Parameters
    ----------
    waves : ndarray, shape (channels, 2A + 1, 2B + 1, C + 1)
        See `to_waves`.
    shape : tuple of int
        Numbers of grid points.
    limits : tuple of int
        Greatest numbers of waves.
    padding : int
        Columns along the third axis that repeat the first ones.

    Returns
    -------
    ndarray, shape (channels, n, n, n + padding)
    """
    from scipy import fft  # slow to import

    first, second, third = numbers(limits)
    workers = get_num_threads()
    given = np.zeros((len(waves), shape[0], *waves.shape[2:]), np.complex128)
    given[:, first] = waves
    given = fft.ifft(given, axis=1, overwrite_x=True, workers=workers)
    values = np.empty((len(waves), *shape[:2], shape[2] + padding))
    for planes in _blocks((len(waves), *shape)):
        part = np.zeros(
            (len(waves), planes.stop - planes.start, shape[1], len(third)), np.complex128
        )
        part[:, :, second] = given[:, planes]
        part = fft.ifft(part, axis=2, overwrite_x=True, workers=workers)
        values[:, planes, :, : shape[2]] = fft.irfft(part, shape[2], axis=3, workers=workers)
    values[..., shape[2] :] = values[..., :padding]
    return values


def _blocks(shape: tuple[int, ...]) -> list[slice]:
    """Return parts of the planes of a grid."""
    channels, n = shape[:2]
    size = max(int(_PLANES / (8 * channels * shape[2] * shape[3])), 1)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
