"""Loops over waves and points: structure factors and syntheses of all systems of a batch.

Waves of a system are sums and differences of products cos or sin(2πa u) · cos or sin(2πb v) ·
cos or sin(2πc w), which are real and a quarter as many numbers. These stand in a *box* of
(2A + 1)(2B + 1)(2C + 1) numbers, along each axis 1, cos 2πu, sin 2πu, cos 4πu, … Points are taken a
block at a time, their phases and derivatives of these standing in a table. Where no wave of some
(a, b) has a greater c, the box is left out.

    box of sources      R_abc = Σ_j Σ_γ M_jγ ∂^γa T_a(u_j) ∂^γb T_b(v_j) ∂^γc T_c(w_j)
    field of a box      Φ_γ(j) = Σ_abc C_abc ∂^γa T_a(u_j) ∂^γb T_b(v_j) ∂^γc T_c(w_j)
"""

import math

import numpy as np

from multipoles.compiled.jit import bare, bare_inline, inline, jit
from multipoles.compiled.simd import BYTES, lane_sum, load, splat, store
from multipoles.compiled.simd_math import fit, nearest, polynomial

LANES = BYTES // 8
#: Vectors of points of a block: of a synthesis, whose sums are held in registers, and at most.
BLOCK, MOST = 4, 16
# phases are computed anew so often; those between are products
_ANEW = 16
_PI = np.longdouble("3.14159265358979323846264338327950288")


def _half_turns(function):
    """Return a function of the square of turns, of up to half a one, as a polynomial."""
    return polynomial(lambda lanes: fit(lambda v: function((1 + v) / 8), 10, 0.125))


# sin(πu)/u and cos(πu), in u² - 1/8
_sine_over = _half_turns(lambda t: np.sin(_PI * np.sqrt(t)) / np.sqrt(t))
_cosine = _half_turns(lambda t: np.cos(_PI * np.sqrt(t)))


@bare_inline
def _phase(place):
    """Return cosines and sines of 2πu of a vector of places u."""
    # whole turns are taken off first: what is left has all digits
    place = place - nearest(place)
    square = place * place - 0.125
    sine, cosine = place * _sine_over(square), _cosine(square)
    return 1.0 - sine * sine * 2.0, sine * cosine * 2.0


@bare_inline
def _fill_phases(u, first, last, axis, limit, order, width, start, table):
    """Write T and its derivatives up to an order at points first ... last - 1, and at zero."""
    rows = 2 * limit + 1
    for j in range(width):
        table[start + j] = u[first + j, axis] if first + j < last else 0.0
    for j in range(0, width, LANES):
        place = load(table, start + j)
        x, y = _phase(place)
        a, b = x, y
        store(table, start + j, splat(table, 1.0))
        for m in range(1, limit + 1):
            if m % _ANEW == 0:
                a, b = _phase(place * m)
            elif m > 1:
                a, b = a * x - b * y, a * y + b * x
            store(table, start + (2 * m - 1) * width + j, a)
            store(table, start + 2 * m * width + j, b)
    for n in range(1, order + 1):
        here, before = start + n * rows * width, start + (n - 1) * rows * width
        for j in range(width):
            table[here + j] = 0.0
        for m in range(1, limit + 1):
            turn = 2 * math.pi * m
            for j in range(width):
                cosine, sine = (2 * m - 1) * width + j, 2 * m * width + j
                table[here + cosine] = -turn * table[before + sine]
                table[here + sine] = turn * table[before + cosine]


@inline
def rows_of(limits):
    """Return how many numbers a box has along each axis."""
    return 2 * limits[0] + 1, 2 * limits[1] + 1, 2 * limits[2] + 1


@bare_inline
def _fill_table(u, first, last, limits, order, width, table):
    """Write the phases along all axes; return where those of the second and third start."""
    n_a, n_b, _ = rows_of(limits)
    second = (order + 1) * n_a * width
    third = second + (order + 1) * n_b * width
    _fill_phases(u, first, last, 0, limits[0], order, width, 0, table)
    _fill_phases(u, first, last, 1, limits[1], order, width, second, table)
    _fill_phases(u, first, last, 2, limits[2], order, width, third, table)
    return second, third


@bare_inline
def _add_scaled(rows, row, table, factor, width, out, to):
    """Add a row times a row of phases to a row of `out`."""
    for j in range(0, width, LANES):
        store(out, to + j, load(out, to + j) + load(rows, row + j) * load(table, factor + j))


@bare_inline
def _clear(rows, n):
    for j in range(n):
        rows[j] = 0.0


# --- sources to boxes -----------------------------------------------------------------------------


@bare
def boxes_of_sources(
    begin, end, items, u, moments, ends, limits, depth, starts, powers, scratch, width, boxes
):  # fmt: skip
    """Add what sources make of the boxes of items begin ... end - 1.

    items (n, 3): a system, its first number along the first axis and one after the last; ends:
    first source of each system; depth: greatest c of each |a|, |b|; starts (n_systems + 1, 2): of
    each system in `depth` and of its boxes, one for each channel; powers (components, 3).
    """
    for item in range(begin, end):
        system, low, high = items[item]
        for first in range(ends[system], ends[system + 1], width):
            last = min(first + width, ends[system + 1])
            # no more vectors than the points need
            wide = (last - first + LANES - 1) // LANES * LANES
            _box_of_block(
                u, moments, first, last, wide, limits[system], depth, starts[system, 0], low, high,
                powers, scratch, boxes, starts[system, 1],
            )  # fmt: skip


@bare_inline
def _box_of_block(
    u, moments, first, last, width, limits, depth, start, low, high, powers, scratch, boxes, box
):  # fmt: skip
    table, given, partly, wanted = scratch
    n_a, n_b, n_c = rows_of(limits)
    order = powers[-1, 2]  # the last component is that of z alone
    second, third = _fill_table(u, first, last, limits, order, width, table)
    square = (order + 1) * width
    for channel in range(moments.shape[1]):
        for k in range(powers.shape[0]):
            for j in range(width):
                inside = first + j < last
                given[k * width + j] = moments[first + j, channel, k] if inside else 0.0
        for a in range(low, high):
            _clear(partly, (order + 1) * square)
            for k in range(powers.shape[0]):
                factor = (powers[k, 0] * n_a + a) * width
                to = powers[k, 1] * square + powers[k, 2] * width
                _add_scaled(given, k * width, table, factor, width, partly, to)
            for b in range(n_b):
                deep = 2 * depth[start + (a + 1) // 2 * (limits[1] + 1) + (b + 1) // 2] + 1
                if deep < 0:
                    continue
                _clear(wanted, square)
                for y in range(order + 1):
                    factor = second + (y * n_b + b) * width
                    for z in range(order + 1 - y):
                        row = y * square + z * width
                        _add_scaled(partly, row, table, factor, width, wanted, z * width)
                # behind every box is one number more
                to = box + channel * (n_a * n_b * n_c + 1) + (a * n_b + b) * n_c
                _add_products(wanted, table, third, n_c, deep, order, width, boxes, to)


@bare_inline
def _add_products(rows, table, start, n_c, deep, order, width, out, to):
    """Add Σ_j Σ_z rows_z(j) ∂^z T_c(j) for all c below `deep`."""
    for c in range(0, deep, 4):
        s0, s1, s2, s3 = splat(rows, 0.0), splat(rows, 0.0), splat(rows, 0.0), splat(rows, 0.0)
        # at the end the last one is taken again
        last = deep - 1
        second, third, fourth = min(c + 1, last), min(c + 2, last), min(c + 3, last)
        for z in range(order + 1):
            base, row = start + z * n_c * width, z * width
            for j in range(0, width, LANES):
                value = load(rows, row + j)
                s0 = s0 + value * load(table, base + c * width + j)
                s1 = s1 + value * load(table, base + second * width + j)
                s2 = s2 + value * load(table, base + third * width + j)
                s3 = s3 + value * load(table, base + fourth * width + j)
        out[to + c] += lane_sum(s0)
        if c + 1 < deep:
            out[to + c + 1] += lane_sum(s1)
        if c + 2 < deep:
            out[to + c + 2] += lane_sum(s2)
        if c + 3 < deep:
            out[to + c + 3] += lane_sum(s3)


# --- boxes to fields ------------------------------------------------------------------------------


@bare
def fields_of_boxes(
    begin, end, items, u, boxes, limits, depth, starts, powers, scratch, out
):  # fmt: skip
    """Write the field at targets of items begin ... end - 1.

    items (n, 3): a system, first target and one after the last, no more than `BLOCK` vectors.
    """
    for item in range(begin, end):
        system, first, last = items[item]
        _field_of_block(
            u, boxes, first, last, limits[system], depth, starts[system, 0], starts[system, 1],
            powers, scratch, out,
        )  # fmt: skip


@bare_inline
def _field_of_block(u, boxes, first, last, limits, depth, start, box, powers, scratch, out):
    table, sums, partly, found = scratch
    width = BLOCK * LANES
    n_a, n_b, n_c = rows_of(limits)
    order = powers[-1, 2]
    second, third = _fill_table(u, first, last, limits, order, width, table)
    square = (order + 1) * width
    for channel in range(out.shape[1]):
        _clear(sums, powers.shape[0] * width)
        for a in range(n_a):
            _clear(partly, (order + 1) * square)
            for b in range(n_b):
                deep = 2 * depth[start + (a + 1) // 2 * (limits[1] + 1) + (b + 1) // 2] + 1
                if deep < 0:
                    continue
                at = box + channel * (n_a * n_b * n_c + 1) + (a * n_b + b) * n_c
                for z in range(order + 1):
                    _sum_box(boxes, at, deep, table, third + z * n_c * width, found)
                    for y in range(order + 1 - z):
                        factor = second + (y * n_b + b) * width
                        to = y * square + z * width
                        _add_scaled(found, 0, table, factor, width, partly, to)
            for k in range(powers.shape[0]):
                row = powers[k, 1] * square + powers[k, 2] * width
                factor = (powers[k, 0] * n_a + a) * width
                _add_scaled(partly, row, table, factor, width, sums, k * width)
        for k in range(powers.shape[0]):
            for j in range(last - first):
                out[first + j, channel, k] = sums[k * width + j]


@bare_inline
def _sum_box(boxes, at, deep, table, start, found):
    """Write Σ_c C_c T_c(j) for `BLOCK` vectors of points."""
    s0, s1, s2, s3 = splat(found, 0.0), splat(found, 0.0), splat(found, 0.0), splat(found, 0.0)
    for c in range(deep):
        value, row = splat(found, boxes[at + c]), start + c * 4 * LANES
        s0 = s0 + value * load(table, row)
        s1 = s1 + value * load(table, row + LANES)
        s2 = s2 + value * load(table, row + 2 * LANES)
        s3 = s3 + value * load(table, row + 3 * LANES)
    store(found, 0, s0)
    store(found, LANES, s1)
    store(found, 2 * LANES, s2)
    store(found, 3 * LANES, s3)


# --- boxes and waves ------------------------------------------------------------------------------


@inline
def _write_places(a, b, c, limits, places):
    """Write where the products of a wave stand in a box: cosines of the third axis, then sines.

    Of the first two axes: both cosines, sine and cosine, cosine and sine, both sines. What is not
    there stands behind the box.
    """
    n_a, n_b, n_c = rows_of(limits)
    for k in range(8):
        sine_a, sine_b, sine_c = k % 4 in (1, 3), k % 4 in (2, 3), k >= 4
        missing = (sine_a and a == 0) or (sine_b and b == 0) or (sine_c and c == 0)
        row = max(2 * abs(a) - 1, 0) + sine_a, max(2 * abs(b) - 1, 0) + sine_b
        place = (row[0] * n_b + row[1]) * n_c + max(2 * c - 1, 0) + sine_c
        places[k] = n_a * n_b * n_c if missing else place


@inline
def _sign(number):
    return 1.0 if number > 0 else -1.0


@jit
def waves_of_boxes(boxes, starts, numbers, places, ends, sizes, out):
    """Write structure factors (channels, waves) from the boxes of sources, sizes of a box each."""
    for system in range(len(sizes)):
        for channel in range(out.shape[0]):
            box = boxes[starts[system, 1] + channel * sizes[system] :]
            for w in range(ends[system], ends[system + 1]):
                p, q, at = _sign(numbers[w, 0]), _sign(numbers[w, 1]), places[w]
                # (X - iY)(cos - i sin) of the third axis
                x, y = box[at[0]] - p * q * box[at[3]], p * box[at[1]] + q * box[at[2]]
                u, v = box[at[4]] - p * q * box[at[7]], p * box[at[5]] + q * box[at[6]]
                out[channel, w] = complex(x - v, -(u + y))


@jit
def boxes_of_waves(coefficients, starts, numbers, places, ends, sizes, boxes):
    """Add the real parts of waves to boxes: the adjoint of `waves_of_boxes`."""
    for system in range(len(sizes)):
        for channel in range(coefficients.shape[0]):
            box = boxes[starts[system, 1] + channel * sizes[system] :]
            for w in range(ends[system], ends[system + 1]):
                p, q, at = _sign(numbers[w, 0]), _sign(numbers[w, 1]), places[w]
                real, imaginary = coefficients[channel, w].real, coefficients[channel, w].imag
                box[at[0]] += real
                box[at[1]] -= p * imaginary
                box[at[2]] -= q * imaginary
                box[at[3]] -= p * q * real
                box[at[4]] -= imaginary
                box[at[5]] -= p * real
                box[at[6]] -= q * real
                box[at[7]] += p * q * imaginary


@jit
def list_waves(limits, inverses, longest, depth, starts):
    """Return the waves of every system no longer than `longest`, one of each m and -m.

    And their places in boxes, and first waves. depth: written with the greatest c of each |a|, |b|,
    system after system from `starts` on.
    """
    n_systems = limits.shape[0]
    ends = np.zeros(n_systems + 1, np.int64)
    numbers, places = np.empty((0, 3), np.int64), np.empty((0, 8), np.int32)
    square = (longest / (2 * math.pi)) ** 2
    for fill in range(2):
        count = 0
        for system in range(n_systems):
            h = inverses[system]
            last_a, last_b, last_c = limits[system]
            for a in range(-last_a, last_a + 1):
                for b in range(-last_b, last_b + 1):
                    least = 0 if b > 0 or (b == 0 and a >= 0) else 1
                    for c in range(least, last_c + 1):
                        x = h[0, 0] * a + h[0, 1] * b + h[0, 2] * c
                        y = h[1, 0] * a + h[1, 1] * b + h[1, 2] * c
                        z = h[2, 0] * a + h[2, 1] * b + h[2, 2] * c
                        if x * x + y * y + z * z > square:
                            continue
                        if fill == 1:
                            numbers[count, 0], numbers[count, 1], numbers[count, 2] = a, b, c
                            _write_places(a, b, c, limits[system], places[count])
                            at = starts[system, 0] + abs(a) * (last_b + 1) + abs(b)
                            depth[at] = max(depth[at], c)
                        count += 1
            ends[system + 1] = count
        if fill == 0:
            numbers, places = np.empty((count, 3), np.int64), np.empty((count, 8), np.int32)
    return numbers, places, ends
