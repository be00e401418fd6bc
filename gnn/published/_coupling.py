"""Loops of point multipoles with point charges by 1/r: arrays in, arrays out.

Charges are packed: slots (`multipoles.neighbours`) in blocks of as many as a vector has lanes, of
which x, y, z and charge are a vector each. The loops work on atoms [begin, end).
"""

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, lane_sum, load, rsqrt, splat, store
from multipoles.pairwise import square


@bare
def pack(particles, charges, scale, slots, packed):
    """Write blocks of charges (M, 1) times a factor, in the order of slots; zero where repeated."""
    lanes = BYTES // packed.itemsize
    for slot in range(len(slots)):
        lane, source = slot % lanes, slots[slot]
        at = 4 * (slot - lane) + lane
        real = source >= 0
        source = source if real else -1 - source
        for axis in range(3):
            packed[at + axis * lanes] = particles[source, axis]
        packed[at + 3 * lanes] = charges[source, 0] * scale if real else 0


@bare
def unpack(packed, scale, slots, by_particles, by_charges):
    """Write gradients by particles (M, 3), and by charges (M, 1) times a factor, from blocks."""
    lanes = BYTES // packed.itemsize
    for slot in range(len(slots)):
        lane, source = slot % lanes, slots[slot]
        at = 4 * (slot - lane) + lane
        if source >= 0:
            for axis in range(3):
                by_particles[source, axis] = packed[at + axis * lanes]
            by_charges[source, 0] = packed[at + 3 * lanes] * scale


@bare_inline
def approach(packed, slot, x, y, z):
    """Return the vectors from a point to a vector of charges, the charges, and 1/r."""
    lanes = BYTES // packed.itemsize
    at = 4 * slot
    dx, dy = load(packed, at) - x, load(packed, at + lanes) - y
    dz, q = load(packed, at + 2 * lanes) - z, load(packed, at + 3 * lanes)
    return dx, dy, dz, q, rsqrt(square(dx, dy, dz))


@bare
def fields(begin, end, atoms, packed, ranges, found):
    """Write potential, gradient and second derivatives at the atoms to `found` (n, 10)."""
    lanes = BYTES // packed.itemsize
    for a in range(begin, end):
        x, y, z = atoms[a, 0], atoms[a, 1], atoms[a, 2]
        s0 = splat(packed, 0.0)
        sx, sy, sz = s0, s0, s0
        sxx, sxy, sxz, syy, syz, szz = s0, s0, s0, s0, s0, s0
        for slot in range(ranges[a, 0], ranges[a, 1], lanes):
            dx, dy, dz, q, inverse = approach(packed, slot, x, y, z)
            inverse2 = inverse * inverse
            b0 = q * inverse
            b1 = b0 * inverse2
            b2 = b1 * inverse2 * 3.0
            s0 = s0 + b0
            sx, sy, sz = sx + b1 * dx, sy + b1 * dy, sz + b1 * dz
            tx, ty, tz = b2 * dx, b2 * dy, b2 * dz
            sxx, sxy, sxz = sxx + (tx * dx - b1), sxy + tx * dy, sxz + tx * dz
            syy, syz, szz = syy + (ty * dy - b1), syz + ty * dz, szz + (tz * dz - b1)
        sums = (s0, sx, sy, sz, sxx, sxy, sxz, syy, syz, szz)
        for k in range(10):
            found[a, k] = lane_sum(sums[k])


@bare
def gradients(
    begin, end, atoms, moments, weights, packed, ranges, by_atoms, by_sources, charged
):  # fmt: skip
    """Write the gradient of sum_a weights_a E_a by the atoms, and add that by packed sources.

    `moments` (n, 10) are packed; `by_sources` holds x, y, z and charge of each block; the last of
    these is left alone unless `charged`.
    """
    lanes = BYTES // packed.itemsize
    for a in range(begin, end):
        x, y, z, w = atoms[a, 0], atoms[a, 1], atoms[a, 2], weights[a]
        m, px, py, pz = w * moments[a, 0], w * moments[a, 1], w * moments[a, 2], w * moments[a, 3]
        # half the packed off-diagonals are the tensor's
        half = w / 2
        qxx, qyy, qzz = w * moments[a, 4], w * moments[a, 7], w * moments[a, 9]
        qxy, qxz, qyz = half * moments[a, 5], half * moments[a, 6], half * moments[a, 8]
        trace = qxx + qyy + qzz
        sx = splat(packed, 0.0)
        sy, sz = sx, sx
        for slot in range(ranges[a, 0], ranges[a, 1], lanes):
            dx, dy, dz, q, inverse = approach(packed, slot, x, y, z)
            inverse2 = inverse * inverse
            b1 = inverse * inverse2
            b2 = b1 * inverse2 * 3.0
            b3 = b2 * inverse2 * 5.0
            ux = dx * qxx + dy * qxy + dz * qxz
            uy = dx * qxy + dy * qyy + dz * qyz
            uz = dx * qxz + dy * qyz + dz * qzz
            along = dx * px + dy * py + dz * pz - trace
            twice = ux * dx + uy * dy + uz * dz
            to = 4 * slot
            if charged:
                potential = inverse * m + b1 * along + b2 * twice
                store(by_sources, to + 3 * lanes, load(by_sources, to + 3 * lanes) + potential)
            # gradient by the charge's place
            radial = -(b2 * along + b1 * m + b3 * twice) * q
            b1 = b1 * q
            b2 = b2 * q * 2.0
            fx = radial * dx + b1 * px + b2 * ux
            fy = radial * dy + b1 * py + b2 * uy
            fz = radial * dz + b1 * pz + b2 * uz
            store(by_sources, to, load(by_sources, to) + fx)
            store(by_sources, to + lanes, load(by_sources, to + lanes) + fy)
            store(by_sources, to + 2 * lanes, load(by_sources, to + 2 * lanes) + fz)
            sx, sy, sz = sx + fx, sy + fy, sz + fz
        by_atoms[a, 0], by_atoms[a, 1] = -lane_sum(sx), -lane_sum(sy)
        by_atoms[a, 2] = -lane_sum(sz)
