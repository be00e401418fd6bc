"""Loops over pairs of an atom and a charge near it, for what the charge induces, in float64.

A charge q at the distance R along u adds t_l Y_l(u) to the atom's sums of order l = 1, 2, with
t_l = factor q env(R) / R² beta_l(R) and beta a network of one hidden layer of Bessel functions.
"""

import math

import numpy as np

from multipoles.compiled.jit import bare, bare_inline


@bare_inline
def radial(p, r, cutoff, frequencies, network, kept):
    """Write the functions of a pair's distance, and in the last column their slopes, to row p.

    `kept` holds arrays of the basis (P, n, 2), of the hidden layer (P, H, 3) with the slope by its
    input last, of beta (P, 2, 2) and of the envelope (P, 2).
    """
    inner, bias, outer = network
    basis, hidden, beta, envelope = kept
    x = r / cutoff
    x4 = x * x * x * x
    fade = 1.0 / x + x4 * x * (-28.0 + x * (48.0 - 21.0 * x))
    fall = (-1.0 / (x * x) + x4 * (-140.0 + x * (288.0 - 147.0 * x))) / cutoff
    envelope[p, 0], envelope[p, 1] = fade, fall
    for n in range(len(frequencies)):
        rate = frequencies[n] / cutoff
        sine, cosine = math.sin(rate * r), math.cos(rate * r)
        basis[p, n, 0] = fade * sine
        basis[p, n, 1] = fall * sine + fade * rate * cosine
    beta[p, 0, 0], beta[p, 1, 0], beta[p, 0, 1], beta[p, 1, 1] = 0.0, 0.0, 0.0, 0.0
    for k in range(len(bias)):
        value = np.float64(bias[k])
        slope = 0.0
        for n in range(len(frequencies)):
            value += inner[k, n] * basis[p, n, 0]
            slope += inner[k, n] * basis[p, n, 1]
        gate = 1.0 / (1.0 + math.exp(-value))
        by_input = gate * (1.0 + value * (1.0 - gate))
        hidden[p, k, 0] = value * gate
        hidden[p, k, 1] = by_input * slope
        hidden[p, k, 2] = by_input
        for order in range(2):
            beta[p, order, 0] += outer[order, k] * hidden[p, k, 0]
            beta[p, order, 1] += outer[order, k] * hidden[p, k, 1]


@bare_inline
def offset(atoms, particles, shift, pair, i, j, axis):
    """Return a component of the vector from atom to particle."""
    difference = np.float64(particles[j, axis]) - atoms[i, axis]
    return difference + shift[pair, axis] if len(shift) else difference


@bare_inline
def separation(atoms, particles, shift, pair, i, j):
    """Return the vector from atom to particle, and its square."""
    x = offset(atoms, particles, shift, pair, i, j, 0)
    y = offset(atoms, particles, shift, pair, i, j, 1)
    z = offset(atoms, particles, shift, pair, i, j, 2)
    return x, y, z, x * x + y * y + z * z


@bare_inline
def add_multipoles(found, i, x, y, z, r2, one, two):
    """Add a dipole along a vector, and a traceless quadrupole, times two factors."""
    third = r2 / 3.0
    found[i, 1] += one * x
    found[i, 2] += one * y
    found[i, 3] += one * z
    found[i, 4] += two * (x * x - third)
    found[i, 5] += two * 2.0 * x * y
    found[i, 6] += two * 2.0 * x * z
    found[i, 7] += two * (y * y - third)
    found[i, 8] += two * 2.0 * y * z
    found[i, 9] += two * (z * z - third)


@bare_inline
def add_forces(by_atoms, by_particles, i, j, fx, fy, fz):
    """Add the gradient by a particle's place, and take it off that by the atom's."""
    by_particles[j, 0] += fx
    by_particles[j, 1] += fy
    by_particles[j, 2] += fz
    by_atoms[i, 0] -= fx
    by_atoms[i, 1] -= fy
    by_atoms[i, 2] -= fz


@bare
def sums(begin, end, atoms, particles, charges, pairs, shift, constants, network, kept, found):
    """Add what the pairs [begin, end) induce to `found` (N, 10)."""
    cutoff, factor, frequencies = constants
    _, _, beta, envelope = kept
    first, second = pairs
    for pair in range(begin, end):
        i, j = first[pair], second[pair]
        x, y, z, r2 = separation(atoms, particles, shift, pair, i, j)
        r = math.sqrt(r2)
        if r >= cutoff:
            continue
        radial(pair, r, cutoff, frequencies, network, kept)
        scale = factor * charges[j] * envelope[pair, 0] / r2
        one, two = scale * beta[pair, 0, 0] / r, scale * beta[pair, 1, 0] / r2
        add_multipoles(found, i, x, y, z, r2, one, two)


@bare
def gradients(
    begin, end, atoms, particles, charges, pairs, shift, constants, network, kept, weights,
    by_atoms, by_particles, slopes,
):  # fmt: skip
    """Add the gradient of sum weights (N, 10) times sums, of the pairs [begin, end).

    By atoms (N, 3), by places and charges of particles (M, 4), and to `slopes` by the network.
    `kept` is what `sums` has written.
    """
    cutoff, factor, frequencies = constants
    basis, hidden, beta, envelope = kept
    first, second = pairs
    by_inner, by_bias, by_outer = slopes
    outer = network[2]
    for pair in range(begin, end):
        i, j = first[pair], second[pair]
        x, y, z, r2 = separation(atoms, particles, shift, pair, i, j)
        r = math.sqrt(r2)
        if r >= cutoff:
            continue
        fade, fall = envelope[pair, 0], envelope[pair, 1]
        x, y, z = x / r, y / r, z / r
        unit = factor * fade / r2
        scale = unit * charges[j]
        rise = factor * charges[j] * (fall - 2.0 * fade / r) / r2
        gx, gy, gz = weights[i, 1], weights[i, 2], weights[i, 3]
        hx = weights[i, 4] * x + weights[i, 5] * y + weights[i, 6] * z
        hy = weights[i, 5] * x + weights[i, 7] * y + weights[i, 8] * z
        hz = weights[i, 6] * x + weights[i, 8] * y + weights[i, 9] * z
        dipole = gx * x + gy * y + gz * z
        form = hx * x + hy * y + hz * z
        quadrupole = form - (weights[i, 4] + weights[i, 7] + weights[i, 9]) / 3.0
        by_particles[j, 3] += unit * (beta[pair, 0, 0] * dipole + beta[pair, 1, 0] * quadrupole)
        one, two = scale * beta[pair, 0, 0] / r, 2.0 * scale * beta[pair, 1, 0] / r
        along = (rise * beta[pair, 0, 0] + scale * beta[pair, 0, 1]) * dipole
        along += (rise * beta[pair, 1, 0] + scale * beta[pair, 1, 1]) * quadrupole
        along -= one * dipole + two * form
        fx = along * x + one * gx + two * hx
        fy = along * y + one * gy + two * hy
        fz = along * z + one * gz + two * hz
        add_forces(by_atoms, by_particles, i, j, fx, fy, fz)
        for k in range(len(by_bias)):
            by_outer[0, k] += scale * dipole * hidden[pair, k, 0]
            by_outer[1, k] += scale * quadrupole * hidden[pair, k, 0]
            by_hidden = (
                scale * (dipole * outer[0, k] + quadrupole * outer[1, k]) * hidden[pair, k, 2]
            )
            by_bias[k] += by_hidden
            for n in range(len(frequencies)):
                by_inner[k, n] += by_hidden * basis[pair, n, 0]
