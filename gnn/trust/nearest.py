"""What makes atoms novel, in compiled loops over arrays: neighbours, charges, fields, features."""

import numpy as np

from multipoles.compiled import jit

#: Largest novelty that is given, also in place of what is not a number: files take no infinity.
MOST = 1e9
_TINY = 1e-24  # Å², the least squared distance
# odd numbers and a shift that mix bits
_OWN, _OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(29)


@jit.jit
def _raised(novelty, i, value):
    novelty[i] = max(novelty[i], value if value < MOST else MOST)


@jit.jit
def raise_by_atoms(novelty, numbers, vectors, senders, receivers, limits):
    """Raise novelties (N,) to (limit over distance)⁶ where the nearest atom makes them so large.

    `vectors` (E, 3) are those of the edges in Å, `limits` of pairs of elements, (Z, Z).
    """
    for e in range(len(receivers)):
        i, j = receivers[e], senders[e]
        x, y, z = vectors[e, 0], vectors[e, 1], vectors[e, 2]
        limit = limits[numbers[i], numbers[j]]
        ratio = limit * limit / max(x * x + y * y + z * z, _TINY)
        _raised(novelty, i, ratio * ratio * ratio)


@jit.jit
def raise_by_bonds(novelty, numbers, vectors, senders, receivers, radii, marks, known, least):
    """Raise novelties (N,) to `least` of atoms that are bonded as no atom in training.

    Parameters
    ----------
    vectors : ndarray
        Of the edges in Å, (E, 3).
    radii : ndarray
        Of elements, (Z,), such that two atoms nearer than the sum of theirs are bonded.
    marks : ndarray, uint64
        Numbers (2, Z) of an element, as the atom and as a neighbour; see `code_of`.
    known : ndarray, uint64
        Codes of atoms in training, sorted.
    """
    first = np.empty(len(numbers), np.uint64)
    for i in range(len(numbers)):
        first[i] = marks[0, numbers[i]]
    bonded = np.zeros(len(receivers), np.bool_)
    for e in range(len(receivers)):
        i, j = receivers[e], senders[e]
        reach = radii[numbers[i]] + radii[numbers[j]]
        square = 0.0
        for axis in range(3):
            square += vectors[e, axis] ** 2
        if square < reach * reach:
            bonded[e] = True
            first[i] += marks[1, numbers[j]]
    codes = first * _OWN
    for e in range(len(receivers)):
        if bonded[e]:
            there = first[senders[e]]
            codes[receivers[e]] += (there ^ (there >> _SHIFT)) * _OTHER
    for i in range(len(numbers)):
        place = np.searchsorted(known, codes[i])
        if place == len(known) or known[place] != codes[i]:
            _raised(novelty, i, least)


def code_of(shell, neighbours, marks):
    """Return what `raise_by_bonds` computes of an atom, as an integer.

    Parameters
    ----------
    shell : sequence of int
        Atomic number of the atom, and those that it is bonded to.
    neighbours : sequence of sequences of int
        The same of each atom that it is bonded to.
    marks : ndarray, uint64
        Of the elements, (2, Z).
    """

    def first(own):
        return (int(marks[0, own[0]]) + sum(int(marks[1, z]) for z in own[1:])) % 2**64

    others = map(first, neighbours)
    return (
        first(shell) * int(_OWN) + sum((c ^ c >> int(_SHIFT)) * int(_OTHER) for c in others)
    ) % 2**64


@jit.jit
def raise_by_charges(novelty, numbers, positions, system, particles, charges, ends, limits):
    """Raise novelties (N,) to (limit over distance)⁶ where the nearest charge makes them so large.

    Parameters
    ----------
    system : ndarray
        System of each atom, (N,).
    charges : ndarray
        Of the particles, (M,); those that are zero do not count.
    ends : ndarray
        Particles of system b are ``ends[b]`` to ``ends[b + 1]``.
    limits : ndarray
        Limits in Å of the elements, (Z,); zero where there is none.
    """
    for i in range(len(numbers)):
        limit = limits[numbers[i]]
        if limit == 0:
            continue
        nearest = np.inf
        for j in range(ends[system[i]], ends[system[i] + 1]):
            x = positions[i, 0] - particles[j, 0]
            y = positions[i, 1] - particles[j, 1]
            z = positions[i, 2] - particles[j, 2]
            square = x * x + y * y + z * z
            if square < nearest and charges[j] != 0:
                nearest = square
        ratio = limit * limit / max(nearest, _TINY)
        _raised(novelty, i, ratio * ratio * ratio)


@jit.jit
def raise_by_field(novelty, numbers, gradient, limits):
    """Raise novelties (N,) to the length of a gradient (N, 3) over the limit of the element.

    `limits` (Z,) are zero where there is none.
    """
    for i in range(len(numbers)):
        limit = limits[numbers[i]]
        if limit > 0:
            x, y, z = gradient[i, 0], gradient[i, 1], gradient[i, 2]
            _raised(novelty, i, np.sqrt(x * x + y * y + z * z) / limit)


@jit.jit
def nearest_points(features, mean, axes, scales, points):
    """Return the distance of each row of features (n, F) to the nearest of some points, (n,).

    Features are whitened as in `gnn.trust.density.Density`; the points are, (K + 1, M). Infinity
    where features are not finite.
    """
    n_features, n_axes = axes.shape
    centred, along = np.empty(n_features), np.empty(n_axes)
    squares = np.empty(points.shape[1])
    found = np.empty(len(features))
    for row in range(len(features)):
        along[:] = 0
        for i in range(n_features):
            centred[i] = features[row, i] - mean[i]
            for k in range(n_axes):
                along[k] += centred[i] * axes[i, k]
        rest = 0.0
        for i in range(n_features):
            left = centred[i]
            for k in range(n_axes):
                left -= along[k] * axes[i, k]
            rest += left * left
        squares[:] = 0
        for k in range(n_axes + 1):
            value = (along[k] if k < n_axes else np.sqrt(rest)) / scales[k]
            for m in range(len(squares)):
                squares[m] += (value - points[k, m]) ** 2
        nearest = np.inf
        for m in range(len(squares)):
            if squares[m] < nearest:
                nearest = squares[m]
        found[row] = np.sqrt(nearest)
    return found
