"""Whether anything is beyond the trained extent: quick checks, since hardly anything ever is."""

import math

from multipoles.compiled.jit import jit


@jit
def crowded(
    lengths, senders, receivers, numbers, pairs, valence, radii, spare, contact, cutoff, decay
):  # fmt: skip
    """Return whether two atoms are too close, or the bonds of one too many.

    Edges are sorted by receiver; `pairs` (Z, Z), `valence` (Z,) and `radii` (Z,) are by element.
    `spare` may be added to the largest sums of orders in training, `valence`.
    The envelope of the edges, by which orders of bonds are smaller, is left out.
    """
    total, before = 0.0, -1
    for e in range(len(lengths)):
        first, second = numbers[receivers[e]], numbers[senders[e]]
        bond = radii[first] + radii[second]
        if lengths[e] < min(pairs[first, second], bond + contact, cutoff):
            return True
        if receivers[e] != before:
            total, before = 0.0, receivers[e]
        total += math.exp((bond - lengths[e]) / decay)
        if total > valence[first] + spare:
            return True
    return False


@jit
def too_strong(fields, numbers, gradients, curvatures, gradient, curvature):
    """Return whether a field (N, F, 10) is stronger than the largest (Z,) of its element.

    Where that is zero, `gradient` and `curvature` take its place.
    """
    for i in range(len(fields)):
        own, z = fields[i, 0], numbers[i]
        first = gradients[z] if gradients[z] > 0 else gradient
        second = curvatures[z] if curvatures[z] > 0 else curvature
        square = own[1] ** 2 + own[2] ** 2 + own[3] ** 2
        if square > first * first:
            return True
        square = own[4] ** 2 + own[7] ** 2 + own[9] ** 2
        if square + 2 * (own[5] ** 2 + own[6] ** 2 + own[8] ** 2) > second * second:
            return True
    return False


@jit
def exceeding(rows, numbers, largest):
    """Return whether a row (N, F) is longer than `largest` (Z,) of its element."""
    for i in range(len(rows)):
        total = 0.0
        for k in range(rows.shape[1]):
            total += rows[i, k] * rows[i, k]
        if total > largest[numbers[i]] * largest[numbers[i]]:
            return True
    return False


@jit
def any_exceeding(arrays, numbers, largest, places):
    """Return whether `exceeding` holds for any of some arrays, with rows `places` of `largest`."""
    found = False
    for k in range(len(arrays)):
        found = found or exceeding(arrays[k], numbers[k], largest[places[k]])
    return found
