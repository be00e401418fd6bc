"""Loops of atoms with surrounding charges: fields of sharp and of wider Gaussians at once.

Charges are packed by `multipoles.direct_cpu.pack_sources`: slots in blocks of as many as a vector
has lanes, of which x, y, z and charge are a vector each. Field 0 is that of sharp Gaussians, erf(a
r)/r; field f that of wider ones less the sharp one, which is short-ranged. `alphas` (F, 1) has the
inverse widths of all. The loops work on atoms [begin, end), and charges of `ranges`.
"""

from multipoles.compiled.jit import bare, bare_inline
from multipoles.compiled.simd import BYTES, lane_sum, load, rsqrt, splat, store
from multipoles.compiled.simd_math import any_below
from multipoles.pairwise import square
from multipoles.radial.erf import erf_acts, erf_lanes


@bare_inline
def _approach(packed, slot, x, y, z):
    """Return the vectors from a point to a vector of charges, the charges, and r²."""
    lanes = BYTES // packed.itemsize
    at = 4 * slot
    dx, dy = load(packed, at) - x, load(packed, at + lanes) - y
    dz, q = load(packed, at + 2 * lanes) - z, load(packed, at + 3 * lanes)
    return dx, dy, dz, q, square(dx, dy, dz)


@bare_inline
def _write_chain(alphas, f, r2, last, chain):
    """Write (1/r d/dr)^n of the f-th kernel, n = 0 … last, as vectors."""
    lanes = BYTES // chain.itemsize
    if erf_acts(alphas[f], r2, last, lanes):
        store(chain, 0, r2)
        erf_lanes(2, alphas[f], last, chain)
        return
    inverse = rsqrt(r2)
    inverse2 = inverse * inverse
    for n in range(last + 1):
        store(chain, n * lanes, inverse)
        inverse = inverse * inverse2 * -(2.0 * n + 1.0)


@bare_inline
def _subtract_sharp(sharp, last, chain):
    lanes = BYTES // chain.itemsize
    for n in range(last + 1):
        store(chain, n * lanes, load(chain, n * lanes) - load(sharp, n * lanes))


@bare_inline
def _field_terms(chain, dx, dy, dz, q):
    """Return potential, gradient and second derivatives of charges at the atom, from d to it."""
    lanes = BYTES // chain.itemsize
    b0, b1, b2 = load(chain, 0) * q, load(chain, lanes) * q, load(chain, 2 * lanes) * q
    tx, ty, tz = b2 * dx, b2 * dy, b2 * dz
    return (
        b0, -(b1 * dx), -(b1 * dy), -(b1 * dz), tx * dx + b1, tx * dy, tx * dz, ty * dy + b1,
        ty * dz, tz * dz + b1,
    )  # fmt: skip


@bare_inline
def _add_terms(sums, terms, at):
    lanes = BYTES // sums.itemsize
    for k in range(10):
        place = (at + k) * lanes
        store(sums, place, load(sums, place) + terms[k])


@bare
def fields(begin, end, atoms, packed, ranges, alphas, reach2, walls2, scratch, found):
    """Write the fields (n, F, 10); return whether a charge is within an atom's wall.

    Beyond the square `reach2` of a distance all kernels are one. `walls2` (n,) are squares, too.
    `scratch` has two chains, and sums of all fields.
    """
    sharp, chain, sums = scratch
    lanes = BYTES // packed.itemsize
    close = False
    for a in range(begin, end):
        x, y, z = atoms[a, 0], atoms[a, 1], atoms[a, 2]
        zero = splat(packed, 0.0)
        for k in range(10 * len(alphas)):
            store(sums, k * lanes, zero)
        s0, sx, sy, sz = zero, zero, zero, zero
        sxx, sxy, sxz, syy, syz, szz = zero, zero, zero, zero, zero, zero
        for slot in range(ranges[a, 0], ranges[a, 1], lanes):
            dx, dy, dz, q, r2 = _approach(packed, slot, x, y, z)
            _write_chain(alphas, 0, r2, 2, sharp)
            t = _field_terms(sharp, dx, dy, dz, q)
            s0, sx, sy, sz = s0 + t[0], sx + t[1], sy + t[2], sz + t[3]
            sxx, sxy, sxz = sxx + t[4], sxy + t[5], sxz + t[6]
            syy, syz, szz = syy + t[7], syz + t[8], szz + t[9]
            if any_below(r2, reach2):
                close = close or any_below(r2, walls2[a])
                for f in range(1, len(alphas)):
                    _write_chain(alphas, f, r2, 2, chain)
                    _subtract_sharp(sharp, 2, chain)
                    _add_terms(sums, _field_terms(chain, dx, dy, dz, q), 10 * f)
        _add_terms(sums, (s0, sx, sy, sz, sxx, sxy, sxz, syy, syz, szz), 0)
        for f in range(len(alphas)):
            for k in range(10):
                found[a, f, k] = lane_sum(load(sums, (10 * f + k) * lanes))
    return close


@bare_inline
def _change_terms(chain, dx, dy, dz, vx, vy, vz, q):
    """Return how `_field_terms` change when d changes by v."""
    lanes = BYTES // chain.itemsize
    b1, b2 = load(chain, lanes) * q, load(chain, 2 * lanes) * q
    along = dx * vx + dy * vy + dz * vz
    c1, c2 = b2 * along, load(chain, 3 * lanes) * q * along
    tx, ty, tz = c2 * dx + b2 * vx, c2 * dy + b2 * vy, c2 * dz + b2 * vz
    ux, uy, uz = b2 * dx, b2 * dy, b2 * dz
    return (
        b1 * along, -(c1 * dx + b1 * vx), -(c1 * dy + b1 * vy), -(c1 * dz + b1 * vz),
        tx * dx + ux * vx + c1, tx * dy + ux * vy, tx * dz + ux * vz, ty * dy + uy * vy + c1,
        ty * dz + uy * vz, tz * dz + uz * vz + c1,
    )  # fmt: skip


@bare
def changes(begin, end, atoms, along, packed, moving, ranges, alphas, reach2, scratch, found):
    """Write how the fields (n, F, 10) change.

    Atoms move along `along` (n, 3), sources along `moving`, which is packed as they are.
    """
    sharp, chain, sums = scratch
    lanes = BYTES // packed.itemsize
    for a in range(begin, end):
        x, y, z = atoms[a, 0], atoms[a, 1], atoms[a, 2]
        for k in range(10 * len(alphas)):
            store(sums, k * lanes, splat(packed, 0.0))
        for slot in range(ranges[a, 0], ranges[a, 1], lanes):
            dx, dy, dz, q, r2 = _approach(packed, slot, x, y, z)
            vx, vy, vz, _, _ = _approach(moving, slot, along[a, 0], along[a, 1], along[a, 2])
            _write_chain(alphas, 0, r2, 3, sharp)
            _add_terms(sums, _change_terms(sharp, dx, dy, dz, vx, vy, vz, q), 0)
            if any_below(r2, reach2):
                for f in range(1, len(alphas)):
                    _write_chain(alphas, f, r2, 3, chain)
                    _subtract_sharp(sharp, 3, chain)
                    _add_terms(sums, _change_terms(chain, dx, dy, dz, vx, vy, vz, q), 10 * f)
        for f in range(len(alphas)):
            for k in range(10):
                found[a, f, k] = lane_sum(load(sums, (10 * f + k) * lanes))


@bare_inline
def _gradient_terms(chain, weights, a, f, dx, dy, dz, q):
    """Return the energy by a unit charge, and the gradient by the charge's place.

    Of sum_beta w_beta Phi_beta, where half the packed off-diagonals are the tensor's.
    """
    lanes = BYTES // chain.itemsize
    m, px, py, pz = weights[a, f, 0], weights[a, f, 1], weights[a, f, 2], weights[a, f, 3]
    qxx, qyy, qzz = weights[a, f, 4], weights[a, f, 7], weights[a, f, 9]
    qxy, qxz, qyz = weights[a, f, 5] / 2, weights[a, f, 6] / 2, weights[a, f, 8] / 2
    b0, b1 = load(chain, 0), load(chain, lanes)
    b2, b3 = load(chain, 2 * lanes), load(chain, 3 * lanes)
    ux = dx * qxx + dy * qxy + dz * qxz
    uy = dx * qxy + dy * qyy + dz * qyz
    uz = dx * qxz + dy * qyz + dz * qzz
    along = (qxx + qyy + qzz) - (dx * px + dy * py + dz * pz)
    twice = ux * dx + uy * dy + uz * dz
    potential = b0 * m + b1 * along + b2 * twice
    radial = (b1 * m + b2 * along + b3 * twice) * q
    b1, b2 = b1 * q, b2 * q * 2.0
    gradient = (
        radial * dx - b1 * px + b2 * ux,
        radial * dy - b1 * py + b2 * uy,
        (radial * dz - b1 * pz + b2 * uz),
    )
    return potential, gradient


@bare_inline
def _add_to(array, at, value):
    store(array, at, load(array, at) + value)


@bare
def gradients(begin, end, atoms, weights, packed, ranges, alphas, reach2, scratch, by_atoms,
              by_sources):  # fmt: skip
    """Write the gradient of sum weights (n, F, 10) times fields by the atoms.

    That by packed sources, x, y, z and charge of each block, is added to `by_sources`.
    """
    sharp, chain, _ = scratch
    lanes = BYTES // packed.itemsize
    for a in range(begin, end):
        x, y, z = atoms[a, 0], atoms[a, 1], atoms[a, 2]
        sx = splat(packed, 0.0)
        sy, sz = sx, sx
        for slot in range(ranges[a, 0], ranges[a, 1], lanes):
            dx, dy, dz, q, r2 = _approach(packed, slot, x, y, z)
            _write_chain(alphas, 0, r2, 3, sharp)
            potential, (fx, fy, fz) = _gradient_terms(sharp, weights, a, 0, dx, dy, dz, q)
            if any_below(r2, reach2):
                for f in range(1, len(alphas)):
                    _write_chain(alphas, f, r2, 3, chain)
                    _subtract_sharp(sharp, 3, chain)
                    more, by = _gradient_terms(chain, weights, a, f, dx, dy, dz, q)
                    potential = potential + more
                    fx, fy, fz = fx + by[0], fy + by[1], fz + by[2]
            to = 4 * slot
            _add_to(by_sources, to, fx)
            _add_to(by_sources, to + lanes, fy)
            _add_to(by_sources, to + 2 * lanes, fz)
            _add_to(by_sources, to + 3 * lanes, potential)
            sx, sy, sz = sx + fx, sy + fy, sz + fz
        by_atoms[a, 0], by_atoms[a, 1] = -lane_sum(sx), -lane_sum(sy)
        by_atoms[a, 2] = -lane_sum(sz)


@bare
def unpack(packed, slots, found):
    """Write rows (m, 4) of sources from blocks."""
    lanes = BYTES // packed.itemsize
    for slot in range(len(slots)):
        if slots[slot] >= 0:
            lane = slot % lanes
            at = (slot - lane) * 4 + lane
            for k in range(4):
                found[slots[slot], k] = packed[at + k * lanes]
