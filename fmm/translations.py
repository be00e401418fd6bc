"""Translations of expansions: multipole-to-multipole, multipole-to-local and local-to-local.

Every translation is a matrix that depends on the shift in units of the box alone, so that one
matrix serves all boxes of all levels that are shifted alike; `translate` applies it to lists of
boxes. With box edge h, expansions are kept in its units: multipoles M_n / h^n, local coefficients
L_n h^(n + 1).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fmm import harmonics
from fmm._tile import BOXES, ROWS, tile
from multipoles._jit import bare, bare_inline, jit
from multipoles._simd import BYTES
from multipoles.direct_cpu import aligned

GROUP = 64  # boxes whose coefficients stay in cache while a matrix passes by


class Operator(NamedTuple):
    """A translation matrix in tiles.

    Tiles of up to `ROWS` vectors of rows; in a tile column follows column.
    """

    tiles: np.ndarray
    n_columns: int
    n_vectors: int


def row_length(n: int, dtype: np.dtype) -> int:
    """Return `n` rounded up to whole vectors: the length of a box's coefficients in memory."""
    lanes = BYTES // dtype.itemsize
    return -(-n // lanes) * lanes


def operator(matrix: np.ndarray, dtype: np.dtype) -> Operator:
    """Return a matrix (rows, columns) cut into tiles."""
    rows, columns = matrix.shape
    lanes = BYTES // dtype.itemsize
    n_vectors = -(-rows // lanes)
    tiles = aligned(n_vectors * lanes * columns, dtype)
    _cut(matrix, lanes, tiles)
    return Operator(tiles, columns, n_vectors)


@jit
def _cut(matrix, lanes, tiles):
    rows, columns = matrix.shape
    place = 0
    for first in range(0, rows, ROWS * lanes):
        height = min(ROWS * lanes, (rows - first + lanes - 1) // lanes * lanes)
        for column in range(columns):
            for row in range(first, first + height):
                tiles[place] = matrix[row, column] if row < rows else 0.0
                place += 1


@lru_cache(maxsize=16)
def upward(degree: int, dtype: np.dtype) -> tuple[Operator, ...]:
    """Return the multipole-to-multipole operators of the eight octants.

    Octant 4 ix + 2 iy + iz is where the child lies in its parent.
    """
    return tuple(operator(_shift(octant, degree), dtype) for octant in range(8))


@lru_cache(maxsize=16)
def downward(degree: int, dtype: np.dtype) -> tuple[Operator, ...]:
    """Return the local-to-local operators of the eight octants."""
    return tuple(operator(0.5 * _shift(octant, degree).T, dtype) for octant in range(8))


@lru_cache(maxsize=32)
def _shift(octant: int, degree: int) -> np.ndarray:
    """Return A(d) with columns times 2^-j: from a child's units to its parent's."""
    corner = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
    size = harmonics.n_harmonics(degree)
    matrix = np.empty((size, size))
    h = harmonics.regular((corner - 0.5) / 2, degree)
    harmonics.dense(harmonics.shift_terms(degree, degree), h, matrix)
    return matrix * 0.5 ** harmonics.degrees(degree)


def transfer(vector: tuple[int, int, int], degree: int, dtype: np.dtype) -> Operator:
    """Return the multipole-to-local operator of target minus source anchor, components >= 0."""
    size = harmonics.n_harmonics(degree)
    matrix = np.empty((size, size))
    h = harmonics.irregular(np.array(vector, np.float64), 2 * degree)
    harmonics.dense(harmonics.transfer_terms(degree, degree), h, matrix)
    return operator(matrix, dtype)


@lru_cache(maxsize=512)
def reflection(octant: int, degree: int, dtype: np.dtype) -> np.ndarray:
    """Return the signs of harmonics under reflections: of x if octant & 4, y if & 2, z if & 1."""
    signs = np.ones(row_length(harmonics.n_harmonics(degree), dtype), dtype)
    for axis, bit in enumerate((4, 2, 1)):
        if octant & bit:
            signs[: harmonics.n_harmonics(degree)] *= harmonics.reflections(degree)[axis]
    return signs


@bare
def reflect(tiles, n_columns, n_vectors, signs, out):
    """Write an operator between reflected boxes: rows and columns times `signs`."""
    lanes = BYTES // tiles.itemsize
    place = 0
    row = 0
    while row < n_vectors:
        height = min(ROWS, n_vectors - row) * lanes
        for column in range(n_columns):
            sign = signs[column]
            for i in range(height):
                out[place + i] = tiles[place + i] * (sign * signs[row * lanes + i])
            place += height
        row += ROWS


@bare
def translate(
    first, last, tiles, n_columns, n_vectors, sources, targets, channels, x, x_length, y, y_length,
    places,
):  # fmt: skip
    """Add the translated expansions of boxes ``sources[first:last]`` to those of `targets`.

    x and y are flat, (n_boxes + 1, channels, length): the last box of x is zero, that of y takes
    what is added to fill groups of eight. places is integer scratch, (2, GROUP * channels).
    """
    lanes = BYTES // tiles.itemsize
    blank_x = len(x) - channels * x_length
    blank_y = len(y) - channels * y_length
    x_places, y_places = places[0], places[1]
    for start in range(first, last, GROUP):
        count = 0
        for i in range(start, min(start + GROUP, last)):
            for channel in range(channels):
                x_places[count] = (sources[i] * channels + channel) * x_length
                y_places[count] = (targets[i] * channels + channel) * y_length
                count += 1
        while count % BOXES:
            x_places[count] = blank_x
            y_places[count] = blank_y
            count += 1
        row = 0
        while row < n_vectors:
            offset = row * lanes * n_columns
            _row_of_tiles(
                tiles, offset, n_vectors - row, x, x_places, y, y_places, count, row * lanes,
                n_columns,
            )  # fmt: skip
            row += ROWS


@bare_inline
def _row_of_tiles(matrix, start, height, x, x_places, y, y_places, count, row, n_columns):
    for box in range(0, count, BOXES):
        if height >= 3:
            tile(matrix, start, x, x_places, y, y_places, box, row, n_columns, 3)
        elif height == 2:
            tile(matrix, start, x, x_places, y, y_places, box, row, n_columns, 2)
        else:
            tile(matrix, start, x, x_places, y, y_places, box, row, n_columns, 1)
