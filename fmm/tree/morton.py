"""Morton keys: numbers along a curve on which the points of every box of an octree lie together.

A key is made of words. The first counts the boxes of the coarser levels, each of the others those
of `WORD` levels more, from the fraction that the words before it left over. All of them follow from
one product, the coordinate over the size of a box, so that points near zero keep all their digits.
"""

import numpy as np

from multipoles.compiled.jit import bare_inline, inline, jit, run_chunks

WORD = 20
"""Most levels that a word tells apart, and how many those after the first do."""
N_DEEP = 2
"""Words after the first, where they are needed."""
_MASK = (1 << WORD) - 1
_KEY = 10.0  # what a key costs, in pairs


def cells(origin: np.ndarray, edge: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid of the first word's boxes: the origin in boxes, int64, and boxes per length.

    Parameters
    ----------
    origin, edge : ndarray, shape (n_systems, 3) and (n_systems,)
        Corner and edge of the root cells; the origin is a multiple of ``edge / 2**bits``.
    bits : int
        Levels of the first word.
    """
    size = np.ldexp(edge, -bits)
    return (origin / size[:, None]).astype(np.int64), 1.0 / size


def encode(
    points: np.ndarray,
    batch: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    root_grid: int,
    bits: int,
    deep: bool = False,
) -> np.ndarray:
    """Return words of the key of every point.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
    batch : ndarray of int64, shape (n,) or (0,)
        System of each point; none for a single system.
    grid : pair of ndarray
        See `cells`.
    root_grid : int
        Most root cells along an axis.
    bits : int
        Levels of the first word.
    deep : bool
        Whether the words after the first are wanted, or the first.

    Returns
    -------
    ndarray of int64, shape (1, n) or (N_DEEP, n)
        The first: system, root cell and interleaved bits of x, y, z inside. Others: bits only.
    """
    keys = np.empty((N_DEEP if deep else 1, len(points)), np.int64)

    def task(first: int, last: int) -> None:
        if deep:
            _encode_deep(first, last, points, batch, *grid, keys)
        else:
            _encode(first, last, points, batch, *grid, root_grid, bits, keys)

    run_chunks(task, len(points), _KEY * len(points))
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
def _digit(coordinate, inverse, word):
    """Return a digit of a coordinate in boxes: whole ones, then fractions to base 2^WORD.

    The digits of a negative number are the complements of those of its magnitude, for which no
    step rounds: a point on the face of two boxes is in the lower one then.
    """
    t = coordinate * inverse
    rest = abs(t)
    digit = np.int64(rest)
    for _ in range(word):
        rest = (rest - digit) * 1048576.0
        digit = np.int64(rest)
    return ~digit if t < 0 else digit


@bare_inline
def key_of(points, i, system, corner, inverse, root_grid, bits):
    """Return the first word of the key of one point."""
    fine = np.int64(1) << bits
    last = root_grid * fine - 1
    cell = np.int64(system)
    inside = np.int64(0)
    for axis in range(3):
        index = _digit(points[i, axis], inverse[system], 0) - corner[system, axis]
        index = max(np.int64(0), min(index, last))
        cell = cell * root_grid + (index >> bits)
        inside |= _spread(index & (fine - 1)) << (2 - axis)
    return cell << (3 * bits) | inside


@bare_inline
def deep_key_of(points, i, system, inverse, word):
    """Return a word after the first of the key of one point."""
    key = np.int64(0)
    for axis in range(3):
        key |= _spread(_digit(points[i, axis], inverse[system], word) & _MASK) << (2 - axis)
    return key


@jit
def _encode(first, last, points, batch, corner, inverse, root_grid, bits, keys):
    for i in range(first, last):
        system = batch[i] if len(batch) else 0
        keys[0, i] = key_of(points, i, system, corner, inverse, root_grid, bits)


@jit
def _encode_deep(first, last, points, batch, corner, inverse, keys):
    for i in range(first, last):
        system = batch[i] if len(batch) else 0
        for word in range(keys.shape[0]):
            keys[word, i] = deep_key_of(points, i, system, inverse, word + 1)
