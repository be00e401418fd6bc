"""Loops over edges: direction, envelope and Bessel functions of the distance, in float64."""

import math

from gnn.operators._waves import offset, waves
from multipoles.compiled.jit import bare


@bare
def values(
    begin, end, x, senders, receivers, cutoff, rate, shifts, scratch, directions, fade, basis
):  # fmt: skip
    """Write (E, 3) directions, (E, 1) envelopes and (E, n) functions of the edges [begin, end).

    The functions are sin((k rate + shift) r), k = 1 … n, times the envelope. `scratch` is (2, n).
    """
    sines, cosines = scratch
    for e in range(begin, end):
        i, j = senders[e], receivers[e]
        dx, dy, dz = offset(x, i, j, 0), offset(x, i, j, 1), offset(x, i, j, 2)
        r = math.sqrt(dx * dx + dy * dy + dz * dz)
        directions[e, 0], directions[e, 1], directions[e, 2] = dx / r, dy / r, dz / r
        t = r / cutoff
        t2 = t * t
        t6 = t2 * t2 * t2
        envelope = (1.0 + t6 * (-28.0 + t * (48.0 - 21.0 * t))) / t if t < 1.0 else 0.0
        fade[e, 0] = envelope
        waves(r, rate, shifts, sines, cosines)
        for k in range(len(shifts)):
            basis[e, k] = envelope * sines[k]


@bare
def gradients(
    begin, end, x, senders, receivers, cutoff, rate, shifts, scratch,
    by_directions, by_fade, by_basis, by_x,
):  # fmt: skip
    """Add the gradient by the points of sums of weights times what `values` writes."""
    sines, cosines = scratch
    for e in range(begin, end):
        i, j = senders[e], receivers[e]
        dx, dy, dz = offset(x, i, j, 0), offset(x, i, j, 1), offset(x, i, j, 2)
        r = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / r, dy / r, dz / r
        gx, gy, gz = by_directions[e, 0], by_directions[e, 1], by_directions[e, 2]
        along = gx * dx + gy * dy + gz * dz
        t = r / cutoff
        slope = 0.0
        if t < 1.0:
            t4 = t * t * t * t
            envelope = 1.0 / t + t4 * t * (-28.0 + t * (48.0 - 21.0 * t))
            fall = (-1.0 / (t * t) + t4 * (-140.0 + t * (288.0 - 147.0 * t))) / cutoff
            slope = fall * by_fade[e, 0]
            waves(r, rate, shifts, sines, cosines)
            for k in range(len(shifts)):
                rise = envelope * ((k + 1) * rate + shifts[k])
                slope += by_basis[e, k] * (fall * sines[k] + rise * cosines[k])
        fx = (gx - along * dx) / r + slope * dx
        fy = (gy - along * dy) / r + slope * dy
        fz = (gz - along * dz) / r + slope * dz
        by_x[j, 0] += fx
        by_x[j, 1] += fy
        by_x[j, 2] += fz
        by_x[i, 0] -= fx
        by_x[i, 1] -= fy
        by_x[i, 2] -= fz
