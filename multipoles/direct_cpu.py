"""Loops over pairs on the CPU: arrays in, arrays out, no checks.

Targets are taken one by one, sources a vector at a time. One loop serves every order and kernel:
orders, tables and the kernel are runtime arguments, so it is compiled once per dtype.

Sources are packed in blocks of as many as a vector has lanes. A block holds one vector per row:
row 0-2 the coordinates, then row ``3 + channel * n_moments + component`` the moments, already
multiplied by (-1)^|alpha|. Scratch arrays hold vectors in the same way: vector n starts at
``n * lanes``.
"""

from itertools import accumulate, pairwise

import numpy as np

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import (
    BYTES,
    lane_sum,
    load,
    rsqrt,
    splat,
    store,
)
from multipoles.indexing import n_components
from multipoles.layout import aligned
from multipoles.pairwise import charge_field, square
from multipoles.radial.dispatch import radial_chain


@bare_inline
def _derivatives(top, chain, shift, recursion, weights, levels, tensor):
    """Write all derivatives up to order `top` of f by the recursion of `recursion_table`.

    In place: level n holds the orders up to ``top - n`` of the n-th link; row by row from the last
    one, level n + 1 turns into level n. Offsets in `recursion` count numbers, not vectors.
    """
    lanes = BYTES // chain.itemsize
    store(tensor, 0, load(chain, top * lanes))
    for n in range(top - 1, -1, -1):
        for row in range(levels[top - n] - 1, 0, -1):
            value = load(shift, recursion[row, 0]) * load(tensor, recursion[row, 1])
            value = value + load(tensor, recursion[row, 2]) * weights[row]
            store(tensor, row * lanes, value)
        store(tensor, 0, load(chain, n * lanes))


@bare_inline
def _contract(source, offset, places, channels, tensor, sums):
    """Add the sum over alpha of M_alpha T_{alpha + beta} to every channel's sum of beta."""
    lanes = BYTES // tensor.itemsize
    n_out, n_in = places.shape
    fours = channels // 4 * 4
    for channel in range(0, fours, 4):
        _contract_four(source, offset, places, channel, tensor, sums)
    for channel in range(fours, channels):
        first = (3 + channel * n_in) * lanes + offset
        for beta in range(n_out):
            index = (channel * n_out + beta) * lanes
            total = load(sums, index)
            for alpha in range(n_in):
                total = total + load(source, first + alpha * lanes) * load(
                    tensor, places[beta, alpha]
                )
            store(sums, index, total)


@bare_inline
def _contract_four(source, offset, places, channel, tensor, sums):
    """Do the same for four channels at once, which share the load of T."""
    lanes = BYTES // tensor.itemsize
    n_out, n_in = places.shape
    step, gap = n_in * lanes, n_out * lanes
    first = (3 + channel * n_in) * lanes + offset
    for beta in range(n_out):
        index = (channel * n_out + beta) * lanes
        a, b = load(sums, index), load(sums, index + gap)
        c, d = load(sums, index + 2 * gap), load(sums, index + 3 * gap)
        row = first
        for alpha in range(n_in):
            t = load(tensor, places[beta, alpha])
            a = a + t * load(source, row)
            b = b + t * load(source, row + step)
            c = c + t * load(source, row + 2 * step)
            d = d + t * load(source, row + 3 * step)
            row += lanes
        store(sums, index, a)
        store(sums, index + gap, b)
        store(sums, index + 2 * gap, c)
        store(sums, index + 3 * gap, d)


@bare_inline
def _add_block(
    source, offset, x, y, z, code, parameters, tables, channels, shift, chain, tensor, sums
):
    """Add the field of one vector of sources at the point x, y, z."""
    top, recursion, weights, levels, places = tables
    lanes = BYTES // chain.itemsize
    x = x - load(source, offset)
    y = y - load(source, offset + lanes)
    z = z - load(source, offset + 2 * lanes)
    store(shift, 0, x)
    store(shift, lanes, y)
    store(shift, 2 * lanes, z)
    radial_chain(code, parameters, square(x, y, z), top, chain)
    _derivatives(top, chain, shift, recursion, weights, levels, tensor)
    _contract(source, offset, places, channels, tensor, sums)


def scratch(top: int, n_sums: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return the vectors that a loop works on: shift, chain, derivatives and sums."""
    lanes = BYTES // dtype.itemsize
    sizes = (3, top + 1, n_components(top), n_sums)
    room = aligned(sum(sizes) * lanes, dtype)
    ends = list(accumulate((size * lanes for size in sizes), initial=0))
    return tuple(room[start:end] for start, end in pairwise(ends))


@bare_inline
def clear(sums):
    """Set all to zero."""
    for k in range(sums.shape[0]):
        sums[k] = 0.0


@bare_inline
def _reduce(sums, out, row):
    """Write the sum over the lanes of each vector to a row of `out`."""
    lanes = BYTES // sums.itemsize
    for k in range(out.shape[1]):
        out[row, k] = lane_sum(load(sums, k * lanes))


def pack_sources(
    positions: np.ndarray, moments: np.ndarray, signs: np.ndarray, slots: np.ndarray
) -> np.ndarray:
    """Return the sources in blocks, in the order of `slots`, as a flat array."""
    packed = aligned((3 + moments[0].size) * len(slots), positions.dtype)
    fill_sources(positions, moments, signs, slots, packed)
    return packed


@bare
def fill_sources(positions, moments, signs, slots, packed):
    """Write blocks of sources, moments times `signs`, in the order of `slots`."""
    n_slots = len(slots)
    channels, n_in = moments.shape[1], moments.shape[2]
    lanes = BYTES // packed.itemsize
    rows = 3 + channels * n_in
    for slot in range(n_slots):
        real = slots[slot] >= 0
        source = slots[slot] if real else -1 - slots[slot]
        lane = slot % lanes
        index = (slot - lane) * rows + lane
        for axis in range(3):
            packed[index + axis * lanes] = positions[source, axis]
        index += 3 * lanes
        for channel in range(channels):
            for alpha in range(n_in):
                value = moments[source, channel, alpha] * signs[alpha]
                packed[index] = value if real else 0.0
                index += lanes


@bare
def field_of_slots(
    first, last, targets, packed, ranges, channels, code, parameters, tables, scratch, out
):
    """Write the field at targets first ... last - 1 of all sources in their ranges of slots.

    out has shape (n_targets, channels * n_out).
    """
    rows = 3 + channels * tables[4].shape[1]
    lanes = BYTES // packed.itemsize
    shift, chain, tensor, sums = scratch
    for i in range(first, last):
        clear(sums)
        for offset in range(ranges[i, 0] * rows, ranges[i, 1] * rows, lanes * rows):
            _add_block(
                packed, offset, targets[i, 0], targets[i, 1], targets[i, 2], code, parameters,
                tables, channels, shift, chain, tensor, sums,
            )  # fmt: skip
        _reduce(sums, out, i)


@bare_inline
def _gather(positions, moments, signs, sources, weights, first, last, block):
    """Copy sources first ... last - 1 of a row into one vector block; the rest gets no moments."""
    lanes = BYTES // block.itemsize
    channels, n_in = moments.shape[1], moments.shape[2]
    for lane in range(lanes):
        k = first + lane
        source = sources[min(k, last - 1)]
        for axis in range(3):
            block[axis * lanes + lane] = positions[source, axis]
        factor = 0.0
        if k < last:
            factor = weights[k] if weights.shape[0] > 0 else 1.0
        for channel in range(channels):
            for alpha in range(n_in):
                block[(3 + channel * n_in + alpha) * lanes + lane] = (
                    factor * signs[alpha] * moments[source, channel, alpha]
                )


@bare
def field_of_rows(
    first, last, targets, positions, moments, signs, rows, code, parameters, tables, scratch, block,
    out,
):  # fmt: skip
    """Write the field at targets first ... last - 1 of the sources in their rows of a pair list.

    rows = (starts, sources, weights); out has shape (n_targets, channels * n_out).
    """
    starts, sources, weights = rows
    channels = moments.shape[1]
    lanes = BYTES // positions.itemsize
    shift, chain, tensor, sums = scratch
    for i in range(first, last):
        clear(sums)
        for k in range(starts[i], starts[i + 1], lanes):
            _gather(positions, moments, signs, sources, weights, k, starts[i + 1], block)
            _add_block(
                block, 0, targets[i, 0], targets[i, 1], targets[i, 2], code, parameters,
                tables, channels, shift, chain, tensor, sums,
            )  # fmt: skip
        _reduce(sums, out, i)


@bare
def charges_of_slots(first, last, targets, packed, ranges, order, out):
    """Write potential (order 0) or potential and gradient (1) of charges under 1/r."""
    lanes = BYTES // packed.itemsize
    zero = splat(packed, 0.0)
    for i in range(first, last):
        tx, ty, tz = targets[i, 0], targets[i, 1], targets[i, 2]
        p, gx, gy, gz = zero, zero, zero, zero
        if order == 0:
            for j in range(4 * ranges[i, 0], 4 * ranges[i, 1], 4 * lanes):
                x = tx - load(packed, j)
                y = ty - load(packed, j + lanes)
                z = tz - load(packed, j + 2 * lanes)
                p = p + rsqrt(square(x, y, z)) * load(packed, j + 3 * lanes)
            out[i, 0] = lane_sum(p)
            continue
        for j in range(4 * ranges[i, 0], 4 * ranges[i, 1], 4 * lanes):
            x = tx - load(packed, j)
            y = ty - load(packed, j + lanes)
            z = tz - load(packed, j + 2 * lanes)
            charge = load(packed, j + 3 * lanes)
            a, b, c, d = charge_field(x, y, z, rsqrt(square(x, y, z)), charge)
            p, gx, gy, gz = p + a, gx + b, gy + c, gz + d
        out[i, 0], out[i, 1] = lane_sum(p), lane_sum(gx)
        out[i, 2], out[i, 3] = lane_sum(gy), lane_sum(gz)
