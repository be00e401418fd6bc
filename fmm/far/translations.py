"""Translations of expansions: multipole-to-multipole, multipole-to-local and local-to-local.

Every translation is a matrix that depends on the shift in units of the box alone, so that one
matrix serves all boxes of all levels that are shifted alike; `translate` applies it to lists of
boxes. With box edge h, expansions are kept in its units: multipoles M_n / h^n, local coefficients
L_n h^(n + 1).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fmm.far import harmonics
from fmm.far.kept import kept
from fmm.far.tile import BOXES, ROWS, tile
from multipoles.compiled.jit import bare, bare_inline, jit
from multipoles.compiled.simd import BYTES
from multipoles.layout import aligned

GROUP = 192  # boxes whose coefficients stay in cache while a matrix passes by


class Operator(NamedTuple):
    """A translation matrix in tiles.

    Tiles of up to `ROWS` vectors of rows; in a tile column follows column.
    """

    tiles: np.ndarray
    n_columns: int


def row_length(n: int, dtype: np.dtype) -> int:
    """Return `n` rounded up to whole vectors: the length of a box's coefficients in memory."""
    lanes = BYTES // dtype.itemsize
    return -(-n // lanes) * lanes


def operator(matrix: np.ndarray, dtype: np.dtype) -> Operator:
    """Return a matrix (rows, columns) cut into tiles; soonest if columns are contiguous."""
    rows, columns = matrix.shape
    tiles = aligned(row_length(rows, dtype) * columns, dtype)
    _cut(np.ascontiguousarray(matrix.T), BYTES // dtype.itemsize, tiles)
    return Operator(tiles, columns)


@jit
def _cut(transposed, lanes, tiles):
    columns, rows = transposed.shape
    entry = 0
    for first in range(0, rows, ROWS * lanes):
        height = min(ROWS * lanes, (rows - first + lanes - 1) // lanes * lanes)
        for column in range(columns):
            for row in range(first, first + height):
                tiles[entry] = transposed[column, row] if row < rows else 0.0
                entry += 1


@kept
def upward(degree: int, dtype: np.dtype) -> Operator:
    """Return the multipole-to-multipole operator of octant 0.

    Octant 4 ix + 2 iy + iz is where the child lies in its parent. Those of the others are its
    reflections.
    """
    return operator(shift_matrix(0, degree), dtype)


@kept
def downward(degree: int, dtype: np.dtype) -> Operator:
    """Return the local-to-local operator of octant 0."""
    return operator(0.5 * shift_matrix(0, degree).T, dtype)


@kept
def shift_matrix(octant: int, degree: int) -> np.ndarray:
    """Return A(d) with columns times 2^-j: from a child's units to its parent's."""
    corner = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
    size = harmonics.n_harmonics(degree)
    matrix = np.empty((size, size), order="F")
    h = harmonics.regular((corner - 0.5) / 2, degree)
    harmonics.dense(harmonics.shift_terms(degree, degree), h, matrix)
    return matrix * 0.5 ** harmonics.degrees(degree)


def transfer(h: np.ndarray, degree: int, tiles: np.ndarray) -> None:
    """Write the multipole-to-local operator of a shift, target minus source anchor, to `tiles`.

    `h` are its irregular harmonics, at least up to twice the degree. The length of `tiles` is
    `transfer_length`.
    """
    _cut(_transfer_matrix(h, degree).T, BYTES // tiles.itemsize, tiles)


def transfer_length(degree: int, dtype: np.dtype) -> int:
    """Return how many numbers a multipole-to-local operator takes in tiles."""
    size = harmonics.n_harmonics(degree)
    return row_length(size, dtype) * size


def transfer_matrix(vector: tuple[int, int, int], degree: int) -> np.ndarray:
    """Return the matrix of `transfer` for a shift."""
    return _transfer_matrix(harmonics.irregular(np.array(vector, np.float64), 2 * degree), degree)


def _transfer_matrix(h: np.ndarray, degree: int) -> np.ndarray:
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


def signs_of(octant: int, degree: int, dtype: np.dtype) -> np.ndarray:
    """Return `reflection`, empty for octant 0: it changes nothing."""
    return reflection(octant, degree, dtype) if octant else np.empty(0, dtype)


def scratch(degree: int, channels: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return what `translate` works on, and the indices of all columns."""
    lanes, size = BYTES // np.dtype(dtype).itemsize, harmonics.n_harmonics(degree)
    tiles = aligned(ROWS * lanes * size, np.dtype(dtype))
    return tiles, np.empty((2, GROUP * channels + BOXES), np.int64), np.arange(size)


@bare
def translate(
    first, last, tiles, n_columns, signs, sources, targets, channels, x, x_length, y,
    y_length, scratch, starts, every,
):  # fmt: skip
    """Add the translated expansions of boxes ``sources[first:last]`` to those of `targets`.

    Parameters
    ----------
    tiles, n_columns
        The operator.
    signs
        Of harmonics, for an operator between reflected boxes; empty for the operator itself.
    x, y
        Flat (n_boxes + 1, channels, length): the last box of x is zero, that of y takes what is
        added to fill groups of eight.
    scratch
        Room for a row of tiles.
    starts
        Room for integers, (2, GROUP * channels + 8).
    every
        0, 1, 2, ...: all columns.
    """
    lanes = BYTES // tiles.itemsize
    blank_x = len(x) - channels * x_length
    blank_y = len(y) - channels * y_length
    x_starts, y_starts = starts[0], starts[1]
    n_vectors = len(tiles) // (n_columns * lanes)
    for start in range(first, last, GROUP):
        count = 0
        for i in range(start, min(start + GROUP, last)):
            for channel in range(channels):
                x_starts[count] = (sources[i] * channels + channel) * x_length
                y_starts[count] = (targets[i] * channels + channel) * y_length
                count += 1
        while count % BOXES:
            x_starts[count] = blank_x
            y_starts[count] = blank_y
            count += 1
        for row in range(0, n_vectors, ROWS):
            height = min(ROWS, n_vectors - row)
            offset = row * lanes * n_columns
            if len(signs) > 0:
                _reflect(tiles, offset, n_columns, height * lanes, row * lanes, signs, scratch)
                _row_of_tiles(
                    scratch, 0, height, x, x_starts, y, y_starts, count, row * lanes, every,
                    n_columns,
                )  # fmt: skip
            else:
                _row_of_tiles(
                    tiles, offset, height, x, x_starts, y, y_starts, count, row * lanes, every,
                    n_columns,
                )  # fmt: skip


@bare_inline
def _reflect(tiles, start, n_columns, height, row, signs, out):
    """Write a row of tiles between reflected boxes: rows and columns times `signs`."""
    for column in range(n_columns):
        sign = signs[column]
        for i in range(height):
            out[column * height + i] = tiles[start + column * height + i] * (sign * signs[row + i])


@bare_inline
def _row_of_tiles(matrix, start, height, x, x_starts, y, y_starts, count, row, every, n_columns):
    for box in range(0, count, BOXES):
        if height >= 3:
            tile(matrix, start, x, x_starts, y, y_starts, box, row, every, 0, n_columns, 3)
        elif height == 2:
            tile(matrix, start, x, x_starts, y, y_starts, box, row, every, 0, n_columns, 2)
        else:
            tile(matrix, start, x, x_starts, y, y_starts, box, row, every, 0, n_columns, 1)
