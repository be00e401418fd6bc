"""Between points and expansions: particle-to-multipole, local-to-particle, and their kin.

A point with moments of order K is an expansion of degree K about itself, a field of order D at a
point a local expansion of degree D: so all four steps are translations between a box and points.
Their matrices are linear in harmonics of the distance (`harmonics.Terms`), which splits them into a
sum over points that knows only harmonics, and a sparse step once per box:

    forming:     S[column, k] = sum_points moments[column] h_k;   out[i] = sum_terms f S[column, k]
    evaluating:  Q[column, k] = sum_terms f in[i];   field[column] = sum_k Q[column, k] h_k

with regular harmonics for particle-to-multipole and local-to-particle, irregular ones for
particle-to-local and multipole-to-particle.
"""

import numpy as np

from fmm.far import harmonics
from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, lane_of, lane_sum, load, rsqrt, splat, store
from multipoles.direct_cpu import clear
from multipoles.layout import aligned

VECTORS = 4  # vectors of points whose harmonics are made at once


def workspace(degree: int, columns: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return scratch: coordinates and moments of a block, its harmonics, and sums per column."""
    width = VECTORS * BYTES // dtype.itemsize
    size = harmonics.n_harmonics(degree)
    block = aligned((3 + columns) * width, dtype)
    sums = np.zeros(columns * size, dtype)
    return block, aligned(size * width, dtype), sums, np.ones(columns)


def factors(degree: int, dtype: np.dtype) -> np.ndarray:
    """Return the recursion's factors as one array (3, degree + 1, degree + 1)."""
    return np.stack(harmonics.recursion(degree)).astype(dtype)


@bare_inline
def write_harmonics(factor, x, y, z, s, start, zero, offset, step, out):
    """Write harmonics of one point or vector of points, consecutive ones a step apart."""
    degree = factor.shape[1] - 1
    real, imaginary = start, zero
    for m in range(degree + 1):
        if m > 0:
            diagonal = factor[0, m, m]
            a = x * real - y * imaginary
            b = y * real + x * imaginary
            real, imaginary = a * diagonal, b * diagonal
        c1, s1 = real, imaginary
        c2, s2 = zero, zero
        for n in range(m, degree + 1):
            if n > m:
                up = z * factor[1, n, m]
                down = s * factor[2, n, m]
                c0, s0 = up * c1 - down * c2, up * s1 - down * s2
                c2, s2, c1, s1 = c1, s1, c0, s0
            index = offset + (n * n + 2 * m) * step
            if m > 0:
                store(out, index - step, c1)
                store(out, index, s1)
            else:
                store(out, index, c1)


@bare_inline
def _all_harmonics(count, irregular, factor, block, out):
    """Write the harmonics of a block of `count` points at coordinates in the block's rows 0-2."""
    lanes = BYTES // out.itemsize
    step = VECTORS * lanes
    zero = splat(out, 0.0)
    one = splat(out, 1.0)
    for v in range(0, count, lanes):
        x, y, z = load(block, v), load(block, step + v), load(block, 2 * step + v)
        s = x * x + y * y + z * z
        start = one
        if irregular:
            start = rsqrt(s)
            s = start * start
            x, y, z = x * s, y * s, z * s
        write_harmonics(factor, x, y, z, s, start, zero, v, step, out)


@bare_inline
def _place_points(first, last, points, centre, scale, block):
    """Write (point - centre) * scale of points first ... last - 1 to the block; return the count.

    The last vector is filled up with copies of the last point.
    """
    lanes = BYTES // block.itemsize
    step = VECTORS * lanes
    count = (last - first + lanes - 1) // lanes * lanes
    for i in range(count):
        point = min(first + i, last - 1)
        for axis in range(3):
            block[axis * step + i] = (points[point, axis] - centre[axis]) * scale
    return count


@bare
def form(
    first, last, boxes, ranges, box_of_range, centres, edges, points, moments, moment_degrees,
    irregular, factor, terms, work, out, length,
):  # fmt: skip
    """Add expansions of points to boxes: entries first ... last - 1 of the list.

    Parameters
    ----------
    boxes, box_of_range
        The box that receives, and the one whose points (`ranges`) send.
    points, moments
        (n, 3) float64 and harmonic moments (n, channels, columns), in tree order.
    moment_degrees
        Degree of each column.
    irregular
        False: to multipoles; True: to local expansions.
    terms
        (row, column, harmonic, factor) of the sparse step.
    out
        Flat (n_boxes + 1, channels, length).
    """
    block, h, sums, powers = work
    channels, columns = moments.shape[1], moments.shape[2]
    size = factor.shape[1] ** 2
    lanes = BYTES // h.itemsize
    width = VECTORS * lanes
    sign = -1.0 if irregular else 1.0
    for entry in range(first, last):
        box = boxes[entry]
        begin, end = ranges[box_of_range[entry], 0], ranges[box_of_range[entry], 1]
        for column in range(columns):
            powers[column] = edges[box] ** -moment_degrees[column]
        clear(sums)
        for start in range(begin, end, width):
            stop = min(start + width, end)
            count = _place_points(start, stop, points, centres[box], sign / edges[box], block)
            for channel in range(channels):
                for column in range(columns):
                    index = (3 + channel * columns + column) * width
                    for i in range(count):
                        value = 0.0
                        if start + i < stop:
                            value = moments[start + i, channel, column] * powers[column]
                        block[index + i] = value
            _all_harmonics(count, irregular, factor, block, h)
            for column in range(channels * columns):
                _sum_column(count, size, (3 + column) * width, block, h, column * size, sums)
        _to_rows(terms, channels, columns, size, sums, box * channels * length, length, out)


@bare_inline
def _sum_column(count, size, index, block, h, offset, sums):
    lanes = BYTES // h.itemsize
    step = VECTORS * lanes
    for k in range(size):
        total = load(h, k * step) * load(block, index)
        for v in range(lanes, count, lanes):
            total = total + load(h, k * step + v) * load(block, index + v)
        sums[offset + k] += lane_sum(total)


@bare_inline
def _to_rows(terms, channels, columns, size, sums, start, length, out):
    row, column, harmonic, factor = terms
    for channel in range(channels):
        offset = channel * columns * size
        index = start + channel * length
        if columns == 1 and len(row) == 0:
            for k in range(size):
                out[index + k] += sums[offset + k]
        for i in range(len(row)):
            out[index + row[i]] += factor[i] * sums[offset + column[i] * size + harmonic[i]]


@bare
def evaluate(
    first, last, boxes, ranges, box_of_range, centres, edges, points, irregular, factor, terms,
    column_degrees, work, coefficients, length, field,
):  # fmt: skip
    """Add the field of boxes' expansions at points: entries first ... last - 1 of the list.

    Parameters
    ----------
    boxes, box_of_range
        The box that sends, and the one whose points (`ranges`) receive.
    irregular
        False: local expansions; True: multipoles.
    terms
        (row, column, harmonic, factor) of the sparse step.
    column_degrees
        Degree of each column of the field.
    coefficients
        Flat (n_boxes + 1, channels, length).
    field
        (n, channels, columns): local expansions about the points.
    """
    block, h, sums, powers = work
    channels, columns = field.shape[1], field.shape[2]
    size = factor.shape[1] ** 2
    lanes = BYTES // h.itemsize
    width = VECTORS * lanes
    for entry in range(first, last):
        box = boxes[entry]
        begin, end = ranges[box_of_range[entry], 0], ranges[box_of_range[entry], 1]
        for column in range(columns):
            powers[column] = edges[box] ** -(column_degrees[column] + 1)
        offset = box * channels * length
        _from_rows(terms, channels, columns, size, coefficients, offset, length, sums)
        for start in range(begin, end, width):
            stop = min(start + width, end)
            count = _place_points(start, stop, points, centres[box], 1.0 / edges[box], block)
            _all_harmonics(count, irregular, factor, block, h)
            for channel in range(channels):
                _add_columns(start, stop, channel, powers, size, h, sums, field)


@bare_inline
def _from_rows(terms, channels, columns, size, coefficients, start, length, sums):
    row, column, harmonic, factor = terms
    clear(sums)
    for channel in range(channels):
        offset = channel * columns * size
        index = start + channel * length
        if columns == 1 and len(row) == 0:
            for k in range(size):
                sums[offset + k] = coefficients[index + k]
        for i in range(len(row)):
            value = factor[i] * coefficients[index + row[i]]
            sums[offset + column[i] * size + harmonic[i]] += value


@bare_inline
def _add_columns(start, stop, channel, powers, size, h, sums, field):
    """Add sum_k Q[column, k] h_k to the points' field, four columns at a time."""
    lanes = BYTES // h.itemsize
    step = VECTORS * lanes
    columns = field.shape[2]
    zero = splat(h, 0.0)
    for first in range(0, columns, 4):
        base = (channel * columns + first) * size
        n = min(4, columns - first)
        # columns that are not there are computed from the first, and not written
        one = base + size if n > 1 else base
        two = base + 2 * size if n > 2 else base
        three = base + 3 * size if n > 3 else base
        for v in range(0, stop - start, lanes):
            a, b, c, d = zero, zero, zero, zero
            for k in range(size):
                value = load(h, k * step + v)
                a = a + value * sums[base + k]
                b = b + value * sums[one + k]
                c = c + value * sums[two + k]
                d = d + value * sums[three + k]
            for lane in range(min(lanes, stop - start - v)):
                point = start + v + lane
                values = (lane_of(a, lane), lane_of(b, lane), lane_of(c, lane), lane_of(d, lane))
                for i in range(n):
                    field[point, channel, first + i] += values[i] * powers[first + i]
