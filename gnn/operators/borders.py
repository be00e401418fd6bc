"""Whether anything is beyond the trained extent: quick checks, since hardly anything ever is."""

import math

from multipoles.compiled.jit import jit


@jit
def crowded(lengths, senders, receivers, numbers, pairs, valence, radii, contact, cutoff, decay):
    """Return whether two atoms are too close, or the bonds of one too many.

    Edges are sorted by receiver; `pairs` (Z, Z), `valence` (Z,) and `radii` (Z,) are by element.
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
        if total > valence[first]:
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
