"""Loops over pairs of an atom and a charge near it, by tables of functions of the distance.

A charge q at (x, y, z), the distance R away, adds q g_1(R) / R^4 (x, y, z) to the atom's dipole,
and the traceless tensor of q g_2(R) / R^5 (x, y, z)⊗(x, y, z) to its quadrupole. Tables hold
polynomials of each interval, whose variable is -1/2 … 1/2, in float64.
"""

import math

import numpy as np

from gnn.published._polarisation_loops import add_forces, add_multipoles, separation
from multipoles.compiled.jit import bare, bare_inline


@bare_inline
def look_up(row, t):
    """Return the value and the slope of a polynomial."""
    value, slope = row[len(row) - 1], 0.0
    for k in range(len(row) - 2, -1, -1):
        slope = slope * t + value
        value = value * t + row[k]
    return value, slope


@bare_inline
def functions(r, table, density):
    """Return g_1 and g_2, and their slopes."""
    place = r * density
    k = min(int(place), len(table) - 1)
    t = place - k - 0.5
    one, rise = look_up(table[k, 0], t)
    two, climb = look_up(table[k, 1], t)
    return one, two, rise * density, climb * density


@bare
def sums(begin, end, atoms, particles, charges, pairs, shift, table, cutoff, found):
    """Add what the pairs [begin, end) induce to `found` (N, 10)."""
    first, second = pairs
    density = len(table) / cutoff
    for pair in range(begin, end):
        i, j = first[pair], second[pair]
        x, y, z, r2 = separation(atoms, particles, shift, pair, i, j)
        r = math.sqrt(r2)
        if r >= cutoff:
            continue
        one, two, _, _ = functions(r, table, density)
        inverse = 1.0 / r
        scale = charges[j] * inverse * inverse * inverse * inverse
        one, two = scale * one, scale * two * inverse
        add_multipoles(found, i, x, y, z, r2, one, two)


@bare
def gradients(
    begin, end, atoms, particles, charges, pairs, shift, table, cutoff, weights, by_atoms,
    by_particles,
):  # fmt: skip
    """Add the gradient of sum weights (N, 10) times sums, of the pairs [begin, end).

    By atoms (N, 3), and by places and charges of particles (M, 4).
    """
    first, second = pairs
    density = len(table) / cutoff
    for pair in range(begin, end):
        i, j = first[pair], second[pair]
        x, y, z, r2 = separation(atoms, particles, shift, pair, i, j)
        r = math.sqrt(r2)
        if r >= cutoff:
            continue
        g, h, rise, climb = functions(r, table, density)
        inverse, q = 1.0 / r, np.float64(charges[j])
        inverse4 = inverse * inverse * inverse * inverse
        one, two = g * inverse4, h * inverse4 * inverse
        rise = rise * inverse4 - 4.0 * one * inverse
        climb = climb * inverse4 * inverse - 5.0 * two * inverse
        gx, gy, gz = weights[i, 1], weights[i, 2], weights[i, 3]
        third = (weights[i, 4] + weights[i, 7] + weights[i, 9]) / 3.0
        hx = (weights[i, 4] - third) * x + weights[i, 5] * y + weights[i, 6] * z
        hy = weights[i, 5] * x + (weights[i, 7] - third) * y + weights[i, 8] * z
        hz = weights[i, 6] * x + weights[i, 8] * y + (weights[i, 9] - third) * z
        dipole = gx * x + gy * y + gz * z
        quadrupole = hx * x + hy * y + hz * z
        by_particles[j, 3] += one * dipole + two * quadrupole
        along = q * (rise * dipole + climb * quadrupole) * inverse
        one, two = q * one, 2.0 * q * two
        fx = along * x + one * gx + two * hx
        fy = along * y + one * gy + two * hy
        fz = along * z + one * gz + two * hz
        add_forces(by_atoms, by_particles, i, j, fx, fy, fz)
