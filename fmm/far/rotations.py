"""Translations of expansions: turn the shift to the z axis, shift along it, turn back.

Multipole-to-multipole, multipole-to-local and local-to-local translations depend on the shift in
units of the box alone, so that one operator serves all boxes of all levels that are shifted alike.
A rotation mixes harmonics of one degree n only, a shift along z those of one order m: instead of
the (p + 1)^4 entries of a dense matrix (`fmm.far.translations`) these are 2 blocks of (2 n + 1)^2
for every degree, and 2 of (p + 1 - m)^2 for every order (White & Head-Gordon, J. Chem. Phys. 105,
5061 (1996)). Blocks are cut into tiles of a few rows, which `fmm.far.mix` applies to many boxes at
a time.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from fmm.far import harmonics
from fmm.far.kept import kept
from fmm.far.mix import HEIGHT, VECTORS, gather, mix, scatter
from fmm.far.translations import row_length
from fmm.tree.lists import shifts
from multipoles.compiled.jit import bare
from multipoles.compiled.simd import BYTES
from multipoles.layout import aligned

Shift = tuple[int, int, int]
#: Vectors of boxes in units of their edge, as rows; None of cubes.
Shape = tuple[tuple[float, float, float], ...]
#: From distances (s,), degree and order m to matrices (s, p + 1 - m, p + 1 - m).
Axial = Callable[[np.ndarray, int, int], np.ndarray]

# so many times as many directions as a rotation has rows, from which it is found
_DIRECTIONS = 1.6


class Tiles(NamedTuple):
    """How the blocks of a degree are cut, for three steps: turn, shift, turn back.

    Attributes
    ----------
    table : ndarray, shape (n, 5)
        Of each tile: its first row, number of rows, where its columns start in `columns`, how many
        there are, where it starts in the operator of its step.
    ends : tuple of int
        Where the tiles of each step end.
    columns : ndarray
        Coefficients of the input that are multiplied.
    lengths : tuple of int
        Of the operators of the steps.
    """

    table: np.ndarray
    ends: tuple[int, int, int]
    columns: np.ndarray
    lengths: tuple[int, int, int]


class _Block(NamedTuple):
    """Where a block of a step takes its input, and where its output goes."""

    row: int
    columns: np.ndarray
    same: bool = False
    """Whether its matrix is that of the block before."""


@lru_cache(maxsize=128)
def tiles_of(degree: int) -> Tiles:
    """Return how the blocks of a degree are cut."""
    rows: list[tuple[int, ...]] = []
    ends, lengths, columns, count = [], [], [], 0
    for blocks in _blocks(degree):
        start = before = 0
        for block in blocks:
            size = len(block.columns)
            at = before if block.same else start
            before = at
            for first, height in _heights(size):
                rows.append((block.row + first, height, count, size, at))
                at += height * size
            start = max(start, at)
            columns.append(block.columns)
            count += size
        ends.append(len(rows))
        lengths.append(start)
    return Tiles(
        np.array(rows), (ends[0], ends[1], ends[2]), np.concatenate(columns),
        (lengths[0], lengths[1], lengths[2]),
    )  # fmt: skip


def _heights(size: int) -> list[tuple[int, int]]:
    """Return first rows and heights of the tiles of a block, all of about one height."""
    n = -(-size // HEIGHT)
    bounds = [size * k // n for k in range(n + 1)]
    return [(a, b - a) for a, b in pairwise(bounds)]


def _blocks(degree: int) -> tuple[list[_Block], list[_Block], list[_Block]]:
    """Return the blocks of the three steps; between shift and turning back order follows order."""
    of_degree = [np.arange(n * n, (n + 1) ** 2) for n in range(degree + 1)]
    shift, position, row = [], np.empty(harmonics.n_harmonics(degree), np.int64), 0
    for m in range(degree + 1):
        for sine in range(2 if m else 1):
            n = np.arange(m, degree + 1)
            inputs = n * n + max(2 * m - 1, 0) + sine
            shift.append(_Block(row, inputs, same=bool(sine)))
            position[inputs] = row + np.arange(len(n))
            row += len(n)
    turn = [_Block(int(index[0]), index) for index in of_degree]
    back = [_Block(int(index[0]), position[index]) for index in of_degree]
    return turn, shift, back


# --- matrices -------------------------------------------------------------------------------------


class Operators(NamedTuple):
    """Operators in three steps of some codes, those of reflected shifts stored once.

    Attributes
    ----------
    turns, shifts, backs : ndarray
        One operator of each step after the other.
    table : ndarray, shape (n, 6)
        Of each code: its number, octant of the reflection, row of `degrees`, and where its
        operators start.
    degrees : ndarray, shape (n_degrees, 6)
        Of each degree: where its tiles start, `Tiles.ends`, where its columns start, and number of
        coefficients.
    tiles, columns : ndarray
        `Tiles.table` and `Tiles.columns` of one degree after the other.
    """

    turns: np.ndarray
    shifts: np.ndarray
    backs: np.ndarray
    table: np.ndarray
    degrees: np.ndarray
    tiles: np.ndarray
    columns: np.ndarray


@kept
def upward(degree: int, dtype: np.dtype, shape: Shape | None = None) -> Operators:
    """Return the multipole-to-multipole operators of octants, row by row of their table.

    Octant 4 ix + 2 iy + iz is where the child lies in its parent. Where reflections take boxes to
    themselves there is one operator, that of octant 0: those of the others are its reflections.
    """
    return _of_families(_raised, degree, dtype, shape)


@kept
def downward(degree: int, dtype: np.dtype, shape: Shape | None = None) -> Operators:
    """Return the local-to-local operators of octants."""
    return _of_families(_lowered, degree, dtype, shape)


def _of_families(
    axial: Axial, degree: int, dtype: np.dtype, shape: Shape | None = None
) -> Operators:
    """Return the operators between a parent and its children."""
    octants = 1 if reflects(shape) else 8
    cut, vectors = tiles_of(degree), []
    for octant in range(octants):
        corner = np.array([octant >> 2 & 1, octant >> 1 & 1, octant & 1])
        vectors.append(0.5 * (corner - 0.5))
    steps = _steps(in_space(np.array(vectors), shape), axial, degree, dtype)
    degrees = np.array([[0, *cut.ends, 0, harmonics.n_harmonics(degree)]])
    table = np.zeros((octants, 6), np.int64)
    table[:, 3:] = np.arange(octants)[:, None] * cut.lengths
    turn, along, back = (step.ravel() for step in steps)
    return Operators(turn, along, back, table, degrees, cut.table, cut.columns)


def in_space(shifts: np.ndarray, shape: Shape | None) -> np.ndarray:
    """Return shifts between boxes as vectors, in units of their edge."""
    return shifts if shape is None else shifts @ np.array(shape)


def reflects(shape: Shape | None) -> bool:
    """Tell whether boxes are the same when an axis is reflected."""
    return shape is None or not (np.array(shape) - np.diag(np.diag(shape))).any()


def octant_of(code: int) -> int:
    """Return which axes are reflected in a code's shift: 4 for x, 2 for y, 1 for z."""
    return int((shifts()[code] < 0) @ (4, 2, 1))


def operators_of(
    chosen: list[Shift],
    asked: dict[Shift, int],
    codes: Mapping[Shift, np.ndarray],
    dtype: np.dtype,
    shape: Shape | None = None,
) -> Operators:
    """Return the operators of shifts, each of the degree that is asked.

    Parameters
    ----------
    chosen : list of tuple
        Shifts, sorted by degree; without signs, if boxes are the same when reflected.
    asked, codes : dict
        Degree and codes of each.
    dtype : dtype
        Of expansions.
    shape : tuple, optional
        Of boxes.
    """
    reflected = reflects(shape)
    steps: list[list[np.ndarray]] = [[np.empty(0, dtype)] for _ in range(3)]
    starts, table, degrees, tiles, columns = [0, 0, 0], [], [], [np.empty((0, 5), np.int64)], []
    columns.append(np.empty(0, np.int64))
    for own, (degree, group) in enumerate(groupby(chosen, key=asked.__getitem__)):
        same = list(group)
        cut = tiles_of(degree)
        counts = sum(map(len, tiles)), sum(map(len, columns))
        degrees.append((counts[0], *cut.ends, counts[1], harmonics.n_harmonics(degree)))
        tiles.append(cut.table)
        columns.append(cut.columns)
        made = _steps(in_space(np.array(same, float), shape), _transferred, degree, dtype)
        for step, one in zip(steps, made, strict=True):
            step.append(one.ravel())
        for shift in same:
            octant = octant_of if reflected else (lambda code: 0)
            table += [(code, octant(code), own, *starts) for code in codes[shift]]
            starts = [a + b for a, b in zip(starts, cut.lengths, strict=True)]
    turns, along, backs = map(np.concatenate, steps)
    return Operators(
        turns, along, backs, np.array(table, np.int64).reshape(-1, 6),
        np.array(degrees, np.int64).reshape(-1, 6), np.concatenate(tiles),
        np.concatenate(columns),
    )  # fmt: skip


def _steps(
    vectors: np.ndarray, axial: Axial, degree: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the operators of three steps for shifts (s, 3), each of shape (s, length)."""
    turns = rotations(vectors, degree)
    distances = np.sqrt((vectors**2).sum(axis=1))
    along = [axial(distances, degree, m) for m in range(degree + 1)]
    backs = [np.swapaxes(turn, 1, 2) for turn in turns]
    return _cut(turns, dtype), _cut(along, dtype), _cut(backs, dtype)


def _cut(blocks: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Return blocks (s, rows, columns) as tiles, (s, length), column by column."""
    tiles = [
        np.swapaxes(block[:, first : first + height], 1, 2).reshape(len(block), -1)
        for block in blocks
        for first, height in _heights(block.shape[1])
    ]
    return np.concatenate(tiles, axis=1).astype(dtype, copy=False)


def rotations(vectors: np.ndarray, degree: int) -> list[np.ndarray]:
    """Return for each degree the matrices (s, 2 n + 1, 2 n + 1) that turn vectors to the z axis.

    Harmonics of a degree, at enough directions, determine what turned directions make of them.
    """
    axes = _frames(vectors)
    count = int(_DIRECTIONS * (2 * degree + 1)) + 4
    points = _spread(count)
    here = harmonics.regular(points, degree)
    turned = harmonics.regular(np.einsum("sij,pj->spi", axes, points), degree)
    out = []
    for n in range(degree + 1):
        own = slice(n * n, (n + 1) ** 2)
        out.append(np.swapaxes(np.linalg.pinv(here[:, own]) @ turned[..., own], 1, 2))
    return out


def _frames(vectors: np.ndarray) -> np.ndarray:
    """Return rotations (s, 3, 3) that turn vectors to the z axis."""
    z = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    other = np.where(np.abs(z[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    x = other - (other * z).sum(axis=1)[:, None] * z
    x /= np.linalg.norm(x, axis=1)[:, None]
    return np.stack([x, np.cross(z, x), z], axis=1)


def _spread(count: int) -> np.ndarray:
    """Return unit vectors along a spiral, (count, 3)."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def _transferred(distances: np.ndarray, degree: int, m: int) -> np.ndarray:
    """Return the matrices (s, p + 1 - m, p + 1 - m) of order m, from multipoles to locals."""
    k, j, roots = _indices(degree, m)
    factor = (1.0 - 2.0 * ((k + m) % 2)) * roots[k + j, j + m] * roots[k + j, j - m]
    matrices: np.ndarray = factor / distances[:, None, None] ** (k + j + 1)
    return matrices


def _raised(distances: np.ndarray, degree: int, m: int) -> np.ndarray:
    """Return the same from multipoles of a child to those of its parent, in their units."""
    n, j, roots = _indices(degree, m)
    below = np.where(j <= n, n - j, 0)
    factor = np.where(j <= n, roots[n + m, j + m] * roots[n - m, j - m] * 0.5**j, 0.0)
    matrices: np.ndarray = factor * distances[:, None, None] ** below
    return matrices


def _lowered(distances: np.ndarray, degree: int, m: int) -> np.ndarray:
    """Return the same from locals of a parent to those of its child: half the adjoint."""
    return 0.5 * np.swapaxes(_raised(distances, degree, m), 1, 2)


def _indices(degree: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return degrees of rows and columns, and square roots of binomial coefficients."""
    n = np.arange(m, degree + 1)
    rows, columns = np.meshgrid(n, n, indexing="ij")
    return rows, columns, harmonics.root_binomials(2 * degree + 1)


# --- loops ----------------------------------------------------------------------------------------


def scratch(degree: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return what `translate` works on."""
    boxes = VECTORS * BYTES // np.dtype(dtype).itemsize
    length = row_length(harmonics.n_harmonics(degree), np.dtype(dtype))
    return aligned(2 * length * boxes, dtype), np.empty((2, boxes), np.int64)


@bare
def translate(
    first, last, operators, row, signs, sources, targets, channels, x, x_length, y, y_length,
    rows, starts,
):  # fmt: skip
    """Add the translated expansions of boxes ``sources[first:last]`` to those of `targets`.

    Parameters
    ----------
    operators, row
        The operator is that of a row of `Operators.table`.
    signs
        Of harmonics, under the reflection that makes the shift that of the operator.
    x, y
        Flat (n_boxes + 1, channels, length): the last box of x is zero, that of y takes what is
        added to fill groups of boxes.
    rows, starts
        See `scratch`.
    """
    if last <= first:
        return
    own, turn_start, shift_start, back_start = operators.table[row, 2:]
    tile, turn_end, shift_end, back_end, column, size = operators.degrees[own]
    turn = operators.turns[turn_start:]
    shift = operators.shifts[shift_start:]
    back = operators.backs[back_start:]
    table, columns = operators.tiles[tile : tile + back_end], operators.columns[column:]
    lanes = BYTES // rows.itemsize
    boxes, n_squares = VECTORS * lanes, (size + lanes - 1) // lanes
    half = len(rows) // 2
    near, along = rows[:half], rows[half:]
    along[size * boxes : n_squares * lanes * boxes] = 0.0
    blank_x, blank_y = len(x) - channels * x_length, len(y) - channels * y_length
    x_starts, y_starts = starts[0], starts[1]
    n = (last - first) * channels
    for start in range(0, n, boxes):
        for box in range(boxes):
            i, channel = first + (start + box) // channels, (start + box) % channels
            x_starts[box], y_starts[box] = blank_x, blank_y
            if start + box < n:
                x_starts[box] = (sources[i] * channels + channel) * x_length
                y_starts[box] = (targets[i] * channels + channel) * y_length
        for square in range(n_squares):
            for v in range(VECTORS):
                place = square * lanes * boxes + v * lanes
                gather(x, x_starts, v * lanes, square * lanes, signs, near, place)
        _apply(turn, table, 0, turn_end, columns, near, along)
        _apply(shift, table, turn_end, shift_end, columns, along, near)
        _apply(back, table, shift_end, back_end, columns, near, along)
        for square in range(n_squares):
            for v in range(VECTORS):
                place = square * lanes * boxes + v * lanes
                scatter(y, y_starts, v * lanes, square * lanes, signs, along, place)


@bare
def _apply(matrix, table, first, last, columns, x, y):
    """Write the rows of y that tiles first ... last - 1 make of those of x."""
    for t in range(first, last):
        row, height, column, count, start = table[t]
        if height == 8:
            mix(matrix, start, x, columns, column, count, y, row, 8)
        elif height == 7:
            mix(matrix, start, x, columns, column, count, y, row, 7)
        elif height == 6:
            mix(matrix, start, x, columns, column, count, y, row, 6)
        elif height == 5:
            mix(matrix, start, x, columns, column, count, y, row, 5)
        elif height == 4:
            mix(matrix, start, x, columns, column, count, y, row, 4)
        elif height == 3:
            mix(matrix, start, x, columns, column, count, y, row, 3)
        elif height == 2:
            mix(matrix, start, x, columns, column, count, y, row, 2)
        else:
            mix(matrix, start, x, columns, column, count, y, row, 1)
