"""Loops over pairs of an atom's multipoles and a charge near it in a reaction field, in float64.

With v from atom to charge, a pair's energy is q (m b_0 + D.v b_1 + Q:vv b_2). `consistent` takes
b_k = (-1/r d/dr)^k of the potential b_0; otherwise, as published, b_1 = b_0 / r², b_2 = 3 b_0 / r⁴.
"""

import numpy as np

from gnn.published._polarisation_loops import separation
from multipoles.compiled.jit import bare, bare_inline


@bare_inline
def radial(r2, field, consistent):
    """Return b_0, b_1, b_2, and -1/r d/dr of each.

    `field` holds the parameters of a `ReactionField` of powers 4 and 6.
    """
    k, four, six, shift = field[1], field[2], field[4], field[6]
    inverse2 = 1.0 / r2
    inverse = np.sqrt(inverse2)
    cube = inverse * inverse2
    b0 = inverse + r2 * (k + r2 * (four + r2 * six)) - shift
    b1 = cube - 2.0 * k - r2 * (4.0 * four + r2 * 6.0 * six)
    if consistent:
        b2 = 3.0 * cube * inverse2 + 8.0 * four + r2 * 24.0 * six
        b3 = 15.0 * cube * inverse2 * inverse2 - 48.0 * six
        return b0, b1, b2, b1, b2, b3
    scaled = b0 * inverse2
    return (
        b0, scaled, 3.0 * scaled * inverse2, b1, (b1 + 2.0 * scaled) * inverse2,
        (3.0 * b1 + 12.0 * scaled) * inverse2 * inverse2,
    )  # fmt: skip


@bare_inline
def contracted(moments, i, x, y, z):
    """Return D.v, Q:vv and Q v of packed moments."""
    half = 0.5
    ux = moments[i, 4] * x + half * (moments[i, 5] * y + moments[i, 6] * z)
    uy = moments[i, 7] * y + half * (moments[i, 5] * x + moments[i, 8] * z)
    uz = moments[i, 9] * z + half * (moments[i, 6] * x + moments[i, 8] * y)
    along = moments[i, 1] * x + moments[i, 2] * y + moments[i, 3] * z
    return along, ux * x + uy * y + uz * z, ux, uy, uz


@bare
def energies(
    begin, end, atoms, particles, moments, charges, pairs, shift, field, consistent, found
):  # fmt: skip
    """Add the energies of pairs [begin, end) over Coulomb's constant to `found` (N,)."""
    first, second = pairs
    reach2 = field[0] * field[0]
    for pair in range(begin, end):
        i, j = first[pair], second[pair]
        x, y, z, r2 = separation(atoms, particles, shift, pair, i, j)
        if r2 >= reach2:
            continue
        b0, b1, b2, _, _, _ = radial(r2, field, consistent)
        along, twice, _, _, _ = contracted(moments, i, x, y, z)
        found[i] += charges[j] * (moments[i, 0] * b0 + along * b1 + twice * b2)


@bare
def gradients(
    begin, end, atoms, particles, moments, charges, pairs, shift, field, consistent, weights,
    by_atoms, by_moments, by_particles,
):  # fmt: skip
    """Add the gradient of sum weights (N,) times energies, of the pairs [begin, end).

    By atoms (N, 3), moments (N, 10), and places and charges of particles (M, 4).
    """
    first, second = pairs
    reach2 = field[0] * field[0]
    for pair in range(begin, end):
        i, j = first[pair], second[pair]
        x, y, z, r2 = separation(atoms, particles, shift, pair, i, j)
        if r2 >= reach2:
            continue
        b0, b1, b2, c0, c1, c2 = radial(r2, field, consistent)
        along, twice, ux, uy, uz = contracted(moments, i, x, y, z)
        potential = moments[i, 0] * b0 + along * b1 + twice * b2
        by_particles[j, 3] += weights[i] * potential
        q = weights[i] * np.float64(charges[j])
        slope = -(moments[i, 0] * c0 + along * c1 + twice * c2)
        fx = q * (slope * x + b1 * moments[i, 1] + 2.0 * b2 * ux)
        fy = q * (slope * y + b1 * moments[i, 2] + 2.0 * b2 * uy)
        fz = q * (slope * z + b1 * moments[i, 3] + 2.0 * b2 * uz)
        by_particles[j, 0] += fx
        by_particles[j, 1] += fy
        by_particles[j, 2] += fz
        by_atoms[i, 0] -= fx
        by_atoms[i, 1] -= fy
        by_atoms[i, 2] -= fz
        b0, b1, b2 = q * b0, q * b1, q * b2
        by_moments[i, 0] += b0
        by_moments[i, 1] += b1 * x
        by_moments[i, 2] += b1 * y
        by_moments[i, 3] += b1 * z
        by_moments[i, 4] += b2 * x * x
        by_moments[i, 5] += b2 * x * y
        by_moments[i, 6] += b2 * x * z
        by_moments[i, 7] += b2 * y * y
        by_moments[i, 8] += b2 * y * z
        by_moments[i, 9] += b2 * z * z
