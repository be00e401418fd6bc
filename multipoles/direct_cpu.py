"""Loops over pairs on the CPU: arrays in, arrays out, no checks.

Targets are taken one by one, sources a vector at a time. One loop serves every order and kernel:
orders, tables and the kernel are runtime arguments, so it is compiled once per dtype.

Sources are packed by component: row 0-2 the coordinates, then row ``3 + channel * n_moments +
component`` the moments, already multiplied by (-1)^|alpha|. Scratch arrays hold vectors one after
the other: vector n starts at ``n * lanes``.
"""

import numpy as np

from multipoles import _chains
from multipoles._jit import inline, jit
from multipoles._simd import lane_sum, load, rsqrt, splat, store
from multipoles.pairwise import charge_field, quadrupole_pair, square

BYTES = 64


@inline
def _radial_chain(code, parameters, r2, last, chain):
    """Write g_0 ... g_last, g_n = (-1)^n B_n, as vectors; zeros where r2 is zero."""
    lanes = BYTES // chain.itemsize
    if code == _chains.COULOMB:
        inverse = rsqrt(r2)
        square_inverse = inverse * inverse
        g = inverse
        store(chain, 0, g)
        for n in range(last):
            g = g * square_inverse * -(2 * n + 1)
            store(chain, (n + 1) * lanes, g)
        return
    store(chain, 0, r2)
    for lane in range(lanes):
        _chains.chain_of_one(code, np.float64(chain[lane]), parameters, last, chain, lane, lanes)
    for n in range(1, last + 1, 2):
        store(chain, n * lanes, -load(chain, n * lanes))


@inline
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


@inline
def _contract(source, offset, stride, places, channels, tensor, sums):
    """Add the sum over alpha of M_alpha T_{alpha + beta} to every channel's sum of beta."""
    lanes = BYTES // tensor.itemsize
    n_out, n_in = places.shape
    for channel in range(channels):
        first = (3 + channel * n_in) * stride + offset
        for beta in range(n_out):
            place = (channel * n_out + beta) * lanes
            total = load(sums, place)
            for alpha in range(n_in):
                total = total + load(source, first + alpha * stride) * load(
                    tensor, places[beta, alpha]
                )
            store(sums, place, total)


@inline
def _add_block(
    source, offset, stride, point, code, parameters, tables, channels, shift, chain, tensor, sums
):
    """Add the field of one vector of sources at `point`."""
    top, recursion, weights, levels, places = tables
    lanes = BYTES // chain.itemsize
    x = point[0] - load(source, offset)
    y = point[1] - load(source, offset + stride)
    z = point[2] - load(source, offset + 2 * stride)
    store(shift, 0, x)
    store(shift, lanes, y)
    store(shift, 2 * lanes, z)
    _radial_chain(code, parameters, square(x, y, z), top, chain)
    _derivatives(top, chain, shift, recursion, weights, levels, tensor)
    _contract(source, offset, stride, places, channels, tensor, sums)


@inline
def _scratch(source, top, levels, size):
    """Return the vectors that a loop works on: shift, chain, derivatives and sums."""
    lanes = BYTES // source.itemsize
    shift = np.empty(3 * lanes, source.dtype)
    chain = np.empty((top + 1) * lanes, source.dtype)
    tensor = np.empty(levels[top] * lanes, source.dtype)
    return shift, chain, tensor, np.empty(size * lanes, source.dtype)


@inline
def _reduce(sums, row):
    """Write the sum over the lanes of each vector to `row`."""
    lanes = BYTES // sums.itemsize
    for k in range(row.shape[0]):
        row[k] = lane_sum(load(sums, k * lanes))


@jit
def pack_sources(positions, moments, signs, slots):
    """Return the sources packed by component in the order of `slots`, as a flat array."""
    n_slots = len(slots)
    channels, n_in = moments.shape[1], moments.shape[2]
    packed = np.empty((3 + channels * n_in) * n_slots, positions.dtype)
    for slot in range(n_slots):
        source = slots[slot] if slots[slot] >= 0 else -1 - slots[slot]
        for axis in range(3):
            packed[axis * n_slots + slot] = positions[source, axis]
    for channel in range(channels):
        for alpha in range(n_in):
            row = (3 + channel * n_in + alpha) * n_slots
            for slot in range(n_slots):
                source = slots[slot]
                value = moments[source, channel, alpha] * signs[alpha] if source >= 0 else 0.0
                packed[row + slot] = value
    return packed


@jit
def field_of_slots(
    first, last, targets, packed, ranges, channels, code, parameters, tables, out
):
    """Write the field at targets first ... last - 1 of all sources in their ranges of slots.

    out has shape (n_targets, channels * n_out).
    """
    stride = packed.shape[0] // (3 + channels * tables[4].shape[1])
    lanes = BYTES // packed.itemsize
    shift, chain, tensor, sums = _scratch(packed, tables[0], tables[3], out.shape[1])
    for i in range(first, last):
        sums[:] = 0.0
        for offset in range(ranges[i, 0], ranges[i, 1], lanes):
            _add_block(
                packed, offset, stride, targets[i], code, parameters, tables, channels,
                shift, chain, tensor, sums,
            )  # fmt: skip
        _reduce(sums, out[i])


@inline
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


@jit
def field_of_rows(
    first, last, targets, positions, moments, signs, rows, code, parameters, tables, out
):
    """Write the field at targets first ... last - 1 of the sources in their rows of a pair list.

    rows = (starts, sources, weights); out has shape (n_targets, channels * n_out).
    """
    starts, sources, weights = rows
    channels, n_in = moments.shape[1], moments.shape[2]
    lanes = BYTES // positions.itemsize
    block = np.empty((3 + channels * n_in) * lanes, positions.dtype)
    shift, chain, tensor, sums = _scratch(positions, tables[0], tables[3], out.shape[1])
    for i in range(first, last):
        sums[:] = 0.0
        for k in range(starts[i], starts[i + 1], lanes):
            _gather(positions, moments, signs, sources, weights, k, starts[i + 1], block)
            _add_block(
                block, 0, lanes, targets[i], code, parameters, tables, channels,
                shift, chain, tensor, sums,
            )  # fmt: skip
        _reduce(sums, out[i])


@jit
def charges_of_slots(first, last, targets, packed, ranges, order, out):
    """Write potential (order 0) or potential and gradient (1) of charges under 1/r."""
    stride = packed.shape[0] // 4
    lanes = BYTES // packed.itemsize
    zero = splat(packed, 0.0)
    for i in range(first, last):
        tx, ty, tz = targets[i, 0], targets[i, 1], targets[i, 2]
        p, gx, gy, gz = zero, zero, zero, zero
        if order == 0:
            for j in range(ranges[i, 0], ranges[i, 1], lanes):
                x = tx - load(packed, j)
                y = ty - load(packed, j + stride)
                z = tz - load(packed, j + 2 * stride)
                p = p + rsqrt(square(x, y, z)) * load(packed, j + 3 * stride)
            out[i, 0] = lane_sum(p)
            continue
        for j in range(ranges[i, 0], ranges[i, 1], lanes):
            x = tx - load(packed, j)
            y = ty - load(packed, j + stride)
            z = tz - load(packed, j + 2 * stride)
            charge = load(packed, j + 3 * stride)
            a, b, c, d = charge_field(x, y, z, rsqrt(square(x, y, z)), charge)
            p, gx, gy, gz = p + a, gx + b, gy + c, gz + d
        out[i, 0], out[i, 1] = lane_sum(p), lane_sum(gx)
        out[i, 2], out[i, 3] = lane_sum(gy), lane_sum(gz)


@inline
def _site(packed, offset, stride):
    """Return charge, dipole and quadrupole of a vector of sites."""
    return (
        load(packed, offset + 3 * stride),
        (
            load(packed, offset + 4 * stride),
            load(packed, offset + 5 * stride),
            load(packed, offset + 6 * stride),
        ),
        (
            load(packed, offset + 7 * stride),
            load(packed, offset + 8 * stride),
            load(packed, offset + 9 * stride),
            load(packed, offset + 10 * stride),
            load(packed, offset + 11 * stride),
            load(packed, offset + 12 * stride),
        ),
    )


@inline
def _one_site(packed, slot, stride):
    """Return charge, dipole and quadrupole of one site, as plain numbers."""
    return (
        packed[slot + 3 * stride],
        (packed[slot + 4 * stride], packed[slot + 5 * stride], packed[slot + 6 * stride]),
        (
            packed[slot + 7 * stride],
            packed[slot + 8 * stride],
            packed[slot + 9 * stride],
            packed[slot + 10 * stride],
            packed[slot + 11 * stride],
            packed[slot + 12 * stride],
        ),
    )


@inline
def _accumulate(sums, offset, stride, values):
    """Add vectors to consecutive rows of `sums`."""
    for k in range(len(values)):
        place = offset + k * stride
        store(sums, place, load(sums, place) + values[k])


@inline
def _accumulate_sites(sums, slot, stride, own):
    """Add the sums over the lanes of the vectors in `own` to one slot."""
    lanes = BYTES // sums.itemsize
    for k in range(13):
        sums[slot + k * stride] += lane_sum(load(own, k * lanes))


@jit
def two_sided(first, last, packed, slots, ranges, code, parameters, out):
    """Add gradients and fields of all unordered pairs whose first site has a slot in the range.

    Charges, dipoles and quadrupoles (rows 3-12, off-diagonals halved, no signs). Rows of `out`,
    flat like `packed`: gradient of the energy by position, then by the ten components.
    """
    stride = len(slots)
    lanes = BYTES // packed.itemsize
    # zero before, one after: from its own slot on, a site meets the later ones
    later = np.zeros(2 * lanes, packed.dtype)
    later[lanes:] = 1.0
    chain = np.empty(6 * lanes, packed.dtype)
    own = np.empty(13 * lanes, packed.dtype)
    for i in range(first, last):
        if slots[i] < 0:
            continue
        c1, d1, q1 = _one_site(packed, i, stride)
        own[:] = 0.0
        begin = i // lanes * lanes
        for j in range(begin, ranges[slots[i], 1], lanes):
            x = packed[i] - load(packed, j)
            y = packed[i + stride] - load(packed, j + stride)
            z = packed[i + 2 * stride] - load(packed, j + 2 * stride)
            c2, d2, q2 = _site(packed, j, stride)
            # a masked pair is as one of coincident points
            r2 = square(x, y, z) * load(later, min(j - i + lanes - 1, lanes))
            _radial_chain(code, parameters, r2, 5, chain)
            g = (
                load(chain, 0),
                load(chain, lanes),
                load(chain, 2 * lanes),
                load(chain, 3 * lanes),
                load(chain, 4 * lanes),
                load(chain, 5 * lanes),
            )
            gradient, field1, field2 = quadrupole_pair((x, y, z), g, c1, d1, q1, c2, d2, q2)
            _accumulate(own, 0, lanes, gradient)
            _accumulate(own, 3 * lanes, lanes, field1)
            _accumulate(out, j, stride, (-gradient[0], -gradient[1], -gradient[2]))
            _accumulate(out, j + 3 * stride, stride, field2)
        _accumulate_sites(out, i, stride, own)
