"""Loops over a few atoms and all charges near them: the field of the charges, and its adjoint.

Derivatives of f(r), where g_n = (1/r d/dr)^n f:

    ∂_i f = r_i g_1    ∂_ij f = r_i r_j g_2 + δ_ij g_1
    ∂_ijk f = r_i r_j r_k g_3 + (δ_ij r_k + δ_ik r_j + δ_jk r_i) g_2

f is 1/r, or what `multipoles.radial.remainder.Remainder` is of it. A vector of charges meets one
atom after the other; their numbers stand in blocks of x, y, z and charge.
"""

import numpy as np

from multipoles.compiled.jit import bare, bare_inline, jit
from multipoles.compiled.simd import BYTES, lane_sum, load, rsqrt, splat, store, within

LANES = BYTES // 8
#: Links of the chain: the field is wanted with three derivatives.
LINKS = 4
#: Numbers of a block.
WIDTH = 4 * LANES


@jit
def pack(points, charges):
    """Return blocks of points (k, 3) and their charges (k,); what is left over has none."""
    n_blocks = (len(points) + LANES - 1) // LANES
    packed = np.empty(n_blocks * WIDTH)
    for k in range(n_blocks * LANES):
        place, own = k // LANES * WIDTH + k % LANES, min(k, len(points) - 1)
        for axis in range(3):
            packed[place + axis * LANES] = points[own, axis]
        packed[place + 3 * LANES] = charges[k] if k < len(points) else 0.0
    return packed


@bare_inline
def _chain(r2, cutoff, table):
    """Return g_0 … g_3 of a vector of squared distances; table (terms, 4) is empty for 1/r."""
    inverse = rsqrt(r2)
    down = inverse * inverse
    a, b = inverse, -(inverse * down)
    c = b * down * -3.0
    d = c * down * -5.0
    if table.shape[0] > 0:
        square = cutoff * cutoff
        u = r2 * (2.0 / square) - 1.0
        zero = inverse - inverse
        p, q, r, s = zero, zero, zero, zero
        for k in range(table.shape[0]):
            p, q = p * u + table[k, 0], q * u + table[k, 1]
            r, s = r * u + table[k, 2], s * u + table[k, 3]
        a, b = within(r2, square, a - p, zero), within(r2, square, b - q, zero)
        c, d = within(r2, square, c - r, zero), within(r2, square, d - s, zero)
    return a, b, c, d


@bare
def field_at_atoms(first, last, atoms, packed, cutoff, table, out):
    """Write the field (n, 20) of packed charges at atoms first ... last - 1 of (n, 3)."""
    zero = splat(packed, 0.0)
    for i in range(first, last):
        f, gx, gy, gz, g1, hx, hy, hz = zero, zero, zero, zero, zero, zero, zero, zero
        xx, xy, xz, yy, yz, zz = zero, zero, zero, zero, zero, zero
        xxx, xxy, xxz, xyy, xyz, xzz = zero, zero, zero, zero, zero, zero
        yyy, yyz, yzz, zzz = zero, zero, zero, zero
        for at in range(0, packed.shape[0], WIDTH):
            x = atoms[i, 0] - load(packed, at)
            y = atoms[i, 1] - load(packed, at + LANES)
            z = atoms[i, 2] - load(packed, at + 2 * LANES)
            charge = load(packed, at + 3 * LANES)
            a, b, c, d = _chain(x * x + y * y + z * z, cutoff, table)
            b, c, d = charge * b, charge * c, charge * d
            f, g1 = f + charge * a, g1 + b
            gx, gy, gz = gx + b * x, gy + b * y, gz + b * z
            hx, hy, hz = hx + c * x, hy + c * y, hz + c * z
            cx, cy, cz = c * x, c * y, c * z
            xx, xy, xz = xx + cx * x, xy + cx * y, xz + cx * z
            yy, yz, zz = yy + cy * y, yz + cy * z, zz + cz * z
            dxx, dxy, dyy, dzz = d * x * x, d * x * y, d * y * y, d * z * z
            xxx, xxy, xxz = xxx + dxx * x, xxy + dxx * y, xxz + dxx * z
            xyy, xyz, xzz = xyy + dxy * y, xyz + dxy * z, xzz + dzz * x
            yyy, yyz = yyy + dyy * y, yyz + dyy * z
            yzz, zzz = yzz + dzz * y, zzz + dzz * z
        out[i, 0] = lane_sum(f)
        out[i, 1], out[i, 2], out[i, 3] = lane_sum(gx), lane_sum(gy), lane_sum(gz)
        out[i, 4], out[i, 5], out[i, 6] = lane_sum(xx + g1), lane_sum(xy), lane_sum(xz)
        out[i, 7], out[i, 8], out[i, 9] = lane_sum(yy + g1), lane_sum(yz), lane_sum(zz + g1)
        out[i, 10], out[i, 11] = lane_sum(xxx + hx * 3.0), lane_sum(xxy + hy)
        out[i, 12], out[i, 13] = lane_sum(xxz + hz), lane_sum(xyy + hx)
        out[i, 14], out[i, 15] = lane_sum(xyz), lane_sum(xzz + hx)
        out[i, 16], out[i, 17] = lane_sum(yyy + hy * 3.0), lane_sum(yyz + hz)
        out[i, 18], out[i, 19] = lane_sum(yzz + hy), lane_sum(zzz + hz * 3.0)


@bare
def field_at_charges(first, last, atoms, moments, packed, cutoff, table, out):
    """Write potential and gradient of moments (n, 10) of atoms at blocks first ... last - 1.

    out: blocks like those of the charges, of potentials and gradients.
    """
    zero = splat(packed, 0.0)
    for at in range(first * WIDTH, last * WIDTH, WIDTH):
        f, gx, gy, gz = zero, zero, zero, zero
        for i in range(atoms.shape[0]):
            x = load(packed, at) - atoms[i, 0]
            y = load(packed, at + LANES) - atoms[i, 1]
            z = load(packed, at + 2 * LANES) - atoms[i, 2]
            a, b, c, d = _chain(x * x + y * y + z * z, cutoff, table)
            m0, mx, my, mz = moments[i, 0], moments[i, 1], moments[i, 2], moments[i, 3]
            xx, xy, xz = moments[i, 4], moments[i, 5], moments[i, 6]
            yy, yz, zz = moments[i, 7], moments[i, 8], moments[i, 9]
            trace = xx + yy + zz
            # of the dipole along r, and the gradient of the quadrupole's r^α
            along = x * mx + y * my + z * mz
            vx = x * (2.0 * xx) + y * xy + z * xz
            vy = x * xy + y * (2.0 * yy) + z * yz
            vz = x * xz + y * yz + z * (2.0 * zz)
            twice = (vx * x + vy * y + vz * z) * 0.5
            f = f + a * m0 + (trace - along) * b + twice * c
            steep = b * m0 + (trace - along) * c + twice * d
            gx = gx + x * steep + vx * c - b * mx
            gy = gy + y * steep + vy * c - b * my
            gz = gz + z * steep + vz * c - b * mz
        store(out, at, f)
        store(out, at + LANES, gx)
        store(out, at + 2 * LANES, gy)
        store(out, at + 3 * LANES, gz)


@jit
def unpack(packed, fields, forces, potentials):
    """Write forces (k, 3) on packed charges, and potentials (k,) at them."""
    for k in range(len(potentials)):
        place = k // LANES * WIDTH + k % LANES
        potentials[k] = fields[place]
        for axis in range(3):
            forces[k, axis] = -packed[place + 3 * LANES] * fields[place + (1 + axis) * LANES]


@jit
def add_rows(rows, places, out):
    """Add rows (k, 3) to those of `out` (m, 3) at some places (k,)."""
    for k in range(len(places)):
        for axis in range(3):
            out[places[k], axis] += rows[k, axis]
