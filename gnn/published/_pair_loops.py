"""The loop over pairs of atoms: charges, dispersion and repulsion, with derivatives.

All arithmetic is in float64: repulsion and dispersion nearly cancel other large energies.
"""

import math

import numpy as np

from multipoles.compiled.jit import bare, bare_inline


@bare_inline
def charges(r, reach, contact, field, out):
    """Write energy over product of charges, and its slope, to out[0:2].

    `field` holds the parameters of a `ReactionField` of powers 4 and 6.
    """
    out[0] = 0.0
    out[1] = 0.0
    if r >= reach:
        return
    k, a_four, a_six, shift = field[1], field[2], field[4], field[6]
    r2 = r * r
    four, six = a_four * r2 * r2, a_six * r2 * r2 * r2
    value = 1.0 / r + k * r2 + four + six - shift
    slope = (-1.0 / r + 2.0 * k * r2 + 4.0 * four + 6.0 * six) / r
    if r < contact:
        x = r / contact
        switch = x * x * x * (10.0 + x * (6.0 * x - 15.0))
        rise = 30.0 * x * x * (1.0 - x) * (1.0 - x) / contact
        slope = slope * switch + value * rise
        value = value * switch
    out[0] = value
    out[1] = slope


@bare_inline
def dispersion(r, s, constants, out):
    """Write energy over C6, and its slope, to out[2:4], in Hartree and Bohr; r in Å."""
    s8, a1, a2, bohr = constants[0], constants[1], constants[2], constants[3]
    r0 = a1 * s + a2
    r = r / bohr
    r2, q2 = r * r, r0 * r0
    r6, q6 = r2 * r2 * r2, q2 * q2 * q2
    six, eight = 1.0 / (r6 + q6), 1.0 / (r6 * r2 + q6 * q2)
    weight = s8 * s * s
    out[2] = -(six + weight * eight)
    out[3] = (6.0 * six * six + weight * 8.0 * r2 * eight * eight) * r2 * r2 * r / bohr


@bare_inline
def repulsion(r, rate, zbl, out):
    """Write screening over r times the fade, and its slope, to out[4:6]."""
    inner, outer = zbl[8], zbl[9]
    out[4] = 0.0
    out[5] = 0.0
    if r >= outer:
        return
    value = 0.0
    slope = 0.0
    for i in range(4):
        term = zbl[i] * math.exp(-zbl[4 + i] * rate * r)
        value += term
        slope -= zbl[4 + i] * rate * term
    value = value / r
    slope = (slope - value) / r
    if r > inner:
        width = outer - inner
        t = (r - inner) / width
        fade = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
        fall = -30.0 * t * t * (1.0 - t) * (1.0 - t) / width
        slope = slope * fade + value * fall
        value = value * fade
    out[4] = value
    out[5] = slope


@bare_inline
def image(x, edge):
    """Return a component of the vector to the nearest image; an edge of zero is none."""
    return x - edge * math.floor(x / edge + 0.5) if edge > 0.0 else x


@bare_inline
def separation(x, i, j, box):
    """Return the vector from atom i to the nearest image of atom j, and its length."""
    dx = image(np.float64(x[j, 0]) - x[i, 0], box[0])
    dy = image(np.float64(x[j, 1]) - x[i, 1], box[1])
    dz = image(np.float64(x[j, 2]) - x[i, 2], box[2])
    return dx, dy, dz, math.sqrt(dx * dx + dy * dy + dz * dz)


@bare_inline
def functions(r, i, j, atoms, constants, out):
    """Write all three functions of the distance of two atoms, with their slopes, to `out`."""
    contact, field, damping, zbl = constants
    charges(r, field[0], contact, field, out)
    dispersion(r, atoms[i, 2] * atoms[j, 2], damping, out)
    repulsion(r, atoms[i, 4] + atoms[j, 4], zbl, out)


@bare
def energies(x, atoms, ends, box, constants, out, sums):
    """Add the energies of all pairs of each system to its row of `sums` (B, 3).

    Parameters
    ----------
    x : (N, 3) positions.
    atoms : (N, 5) charge, root of C6, radius s, nuclear charge, its power 0.23 over the length.
    ends : (B + 1,) first atom of each system, and the end.
    box : (3,) edges or zeros.
    constants : contact distance, and arrays of the three functions above.
    out : (6,) scratch.
    """
    reach = constants[1][0]
    for b in range(len(ends) - 1):
        for i in range(ends[b], ends[b + 1]):
            for j in range(i + 1, ends[b + 1]):
                _, _, _, r = separation(x, i, j, box)
                if r > reach:
                    continue
                functions(r, i, j, atoms, constants, out)
                sums[b, 0] += atoms[i, 0] * atoms[j, 0] * out[0]
                sums[b, 1] += atoms[i, 1] * atoms[j, 1] * out[2]
                sums[b, 2] += atoms[i, 3] * atoms[j, 3] * out[4]


@bare
def gradients(x, atoms, ends, box, constants, out, weights, by_atoms):
    """Add the gradient of sum_b,k weights[b, k] sums[b, k] to `by_atoms` (N, 5).

    By position (3), charge and root of C6; the other arguments are those of `energies`.
    """
    reach = constants[1][0]
    for b in range(len(ends) - 1):
        for i in range(ends[b], ends[b + 1]):
            for j in range(i + 1, ends[b + 1]):
                dx, dy, dz, r = separation(x, i, j, box)
                if r > reach:
                    continue
                functions(r, i, j, atoms, constants, out)
                slope = weights[b, 0] * atoms[i, 0] * atoms[j, 0] * out[1]
                slope += weights[b, 1] * atoms[i, 1] * atoms[j, 1] * out[3]
                slope += weights[b, 2] * atoms[i, 3] * atoms[j, 3] * out[5]
                slope /= r
                by_atoms[j, 0] += slope * dx
                by_atoms[j, 1] += slope * dy
                by_atoms[j, 2] += slope * dz
                by_atoms[i, 0] -= slope * dx
                by_atoms[i, 1] -= slope * dy
                by_atoms[i, 2] -= slope * dz
                by_atoms[i, 3] += weights[b, 0] * atoms[j, 0] * out[0]
                by_atoms[j, 3] += weights[b, 0] * atoms[i, 0] * out[0]
                by_atoms[i, 4] += weights[b, 1] * atoms[j, 1] * out[2]
                by_atoms[j, 4] += weights[b, 1] * atoms[i, 1] * out[2]
