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
def functions(r, i, j, atoms, constants, out):
    """Write all three functions of the distance of two atoms, with their slopes, to `out`."""
    contact, field, damping, zbl = constants
    charges(r, field[0], contact, field, out)
    dispersion(r, atoms[i, 2] * atoms[j, 2], damping, out)
    repulsion(r, atoms[i, 4] + atoms[j, 4], zbl, out)


@bare
def fill_atoms(numbers, free, radii, powers, charges, factors, least, atoms):
    """Write rows of `atoms` as `energies` takes them, from tables by atomic number.

    Factors on free C6 coefficients up to `least` count as zero.
    """
    for i in range(len(numbers)):
        z, factor = numbers[i], np.float64(factors[i])
        atoms[i, 0] = charges[i]
        atoms[i, 1] = math.sqrt(free[z] * factor) if factor > least else 0.0
        atoms[i, 2], atoms[i, 3], atoms[i, 4] = radii[z], z, powers[z]


@bare
def gradients(weights, systems, atoms, factors, slopes, by_positions, by_charges, by_factors):
    """Write the gradients of the sum of weights (B, 3) times sums, from what `energies` derived."""
    for i in range(len(systems)):
        b = systems[i]
        for axis in range(3):
            total = 0.0
            for k in range(3):
                total += weights[b, k] * slopes[i, 3 * k + axis]
            by_positions[i, axis] = total
        by_charges[i] = weights[b, 0] * slopes[i, 9]
        # the slope of sqrt(C6) by the factor is sqrt(C6) / (2 factor), and zero where C6 is
        root = atoms[i, 1]
        by_factors[i] = 0.5 * weights[b, 1] * slopes[i, 10] * root / factors[i] if root > 0 else 0


@bare
def energies(begin, end, x, atoms, systems, ends, box, constants, out, sums, slopes):
    """Add the energies of pairs whose first atom is in [begin, end) to rows of `sums` (B, 3).

    Parameters
    ----------
    x : (N, 3) positions.
    atoms : (N, 5) charge, root of C6, radius s, nuclear charge, its power 0.23 over the length.
    systems : (N,) system of each atom.
    ends : (B + 1,) first atom of each system, and the end.
    box : (3,) edges or zeros.
    constants : contact distance, and arrays of the three functions above.
    out : (6,) scratch.
    slopes : (N, 11), to which derivatives are added: of each of the three sums by position, of
        the first by charge, and of the second by the root of C6. (0, 11): they are not wanted.
    """
    square = constants[1][0] * constants[1][0]
    derived = len(slopes) > 0
    for i in range(begin, end):
        b = systems[i]
        for j in range(i + 1, ends[b + 1]):
            dx = image(np.float64(x[j, 0]) - x[i, 0], box[0])
            dy = image(np.float64(x[j, 1]) - x[i, 1], box[1])
            dz = image(np.float64(x[j, 2]) - x[i, 2], box[2])
            r2 = dx * dx + dy * dy + dz * dz
            if r2 > square:
                continue
            r = math.sqrt(r2)
            functions(r, i, j, atoms, constants, out)
            charged, dispersed = atoms[i, 0] * atoms[j, 0], atoms[i, 1] * atoms[j, 1]
            repelled = atoms[i, 3] * atoms[j, 3]
            sums[b, 0] += charged * out[0]
            sums[b, 1] += dispersed * out[2]
            sums[b, 2] += repelled * out[4]
            if not derived:
                continue
            add_force(slopes, i, j, 0, charged * out[1] / r, dx, dy, dz)
            add_force(slopes, i, j, 3, dispersed * out[3] / r, dx, dy, dz)
            if out[4] != 0.0:
                add_force(slopes, i, j, 6, repelled * out[5] / r, dx, dy, dz)
            slopes[i, 9] += atoms[j, 0] * out[0]
            slopes[j, 9] += atoms[i, 0] * out[0]
            slopes[i, 10] += atoms[j, 1] * out[2]
            slopes[j, 10] += atoms[i, 1] * out[2]


@bare_inline
def add_force(slopes, i, j, column, slope, dx, dy, dz):
    """Add the derivatives of a function of a distance by the places of both atoms."""
    slopes[j, column] += slope * dx
    slopes[j, column + 1] += slope * dy
    slopes[j, column + 2] += slope * dz
    slopes[i, column] -= slope * dx
    slopes[i, column + 1] -= slope * dy
    slopes[i, column + 2] -= slope * dz
