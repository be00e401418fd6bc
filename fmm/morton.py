"""Morton keys: places along a curve on which the points of every box of an octree lie together."""

import numpy as np

from multipoles._jit import bare_inline, inline, jit


def encode(
    points: np.ndarray,
    batch: np.ndarray,
    origin: np.ndarray,
    edge: np.ndarray,
    root_grid: int,
    bits: int,
) -> np.ndarray:
    """Return the key of every point: system, root cell and interleaved bits of x, y, z inside.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
    batch : ndarray of int64, shape (n,) or (0,)
        System of each point; none for a single system.
    origin, edge : ndarray, shape (n_systems, 3) and (n_systems,)
        Corner and edge of the root cells.
    root_grid : int
        Most root cells along an axis.
    bits : int
        Bits per axis inside a root cell.
    """
    keys = np.empty(len(points), np.int64)
    _encode(points, batch, origin, edge, root_grid, bits, keys)
    return keys


@inline
def _spread(i):
    """Put two zero bits behind each of 20 bits."""
    i = (i | i << 32) & 0x1F00000000FFFF
    i = (i | i << 16) & 0x1F0000FF0000FF
    i = (i | i << 8) & 0x100F00F00F00F00F
    i = (i | i << 4) & 0x10C30C30C30C30C3
    return (i | i << 2) & 0x1249249249249249


@bare_inline
def key_of(points, i, system, origin, edge, root_grid, bits):
    """Return the key of one point."""
    fine = np.int64(1) << bits
    last = root_grid * fine - 1
    scale = fine / edge[system]
    cell = np.int64(system)
    inside = np.int64(0)
    for axis in range(3):
        place = np.int64((points[i, axis] - origin[system, axis]) * scale)
        place = max(np.int64(0), min(place, last))
        cell = cell * root_grid + (place >> bits)
        inside |= _spread(place & (fine - 1)) << (2 - axis)
    return cell << (3 * bits) | inside


@jit
def _encode(points, batch, origin, edge, root_grid, bits, keys):
    for i in range(len(points)):
        system = batch[i] if len(batch) else 0
        keys[i] = key_of(points, i, system, origin, edge, root_grid, bits)
