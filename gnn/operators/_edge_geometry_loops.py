"""Loops over edges: direction, envelope and Bessel functions of the distance, in float64.

With the envelope f of r / cutoff, the functions are ``scale f / r sin((k rate + shift) r)``, k from
1 on; the edges' fade is f, or where it is `divided` ``scale f / r``, too. `scratch` is (2, n).
"""

import math

from gnn.operators._waves import offset, waves
from multipoles.compiled.jit import bare, bare_inline


@bare_inline
def _envelope(t):
    """Return the envelope at t = r / cutoff, and its slope by t."""
    if t >= 1.0:
        return 0.0, 0.0
    t2 = t * t
    t5 = t2 * t2 * t
    value = 1.0 + t5 * t * (-28.0 + t * (48.0 - 21.0 * t))
    return value, t5 * (-168.0 + t * (336.0 - 168.0 * t))


@bare_inline
def _edge(x, i, j):
    """Return the length of an edge, and its direction from i to j."""
    dx, dy, dz = offset(x, i, j, 0), offset(x, i, j, 1), offset(x, i, j, 2)
    r = math.sqrt(dx * dx + dy * dy + dz * dz)
    return r, dx / r, dy / r, dz / r


@bare_inline
def _heights(r, radial):
    """Return the envelope and its slope, and those of the functions' height."""
    cutoff, scale, _, _ = radial
    envelope, fall = _envelope(r / cutoff)
    fall /= cutoff
    return envelope, fall, scale * envelope / r, scale * (fall - envelope / r) / r


@bare
def values(begin, end, x, ends, radial, shifts, scratch, lengths, directions, fade, basis):
    """Write lengths (E,), directions (E, 3), envelopes (E, 1) and basis (E, n) of edges.

    `radial` are cutoff, scale, rate and whether the fade is divided.
    """
    sines, cosines = scratch
    senders, receivers = ends
    _, _, rate, divided = radial
    for e in range(begin, end):
        r, dx, dy, dz = _edge(x, senders[e], receivers[e])
        lengths[e] = r
        directions[e, 0], directions[e, 1], directions[e, 2] = dx, dy, dz
        envelope, _, height, _ = _heights(r, radial)
        fade[e, 0] = height if divided else envelope
        waves(r, rate, shifts, sines, cosines)
        for k in range(len(shifts)):
            basis[e, k] = height * sines[k]


@bare
def changes(begin, end, x, along, ends, radial, shifts, scratch, directions, fade, basis):
    """Write how directions, envelopes and basis change when the points move along `along`."""
    sines, cosines = scratch
    senders, receivers = ends
    _, _, rate, divided = radial
    for e in range(begin, end):
        i, j = senders[e], receivers[e]
        vx, vy, vz = offset(along, i, j, 0), offset(along, i, j, 1), offset(along, i, j, 2)
        r, dx, dy, dz = _edge(x, i, j)
        stretch = vx * dx + vy * dy + vz * dz
        directions[e, 0] = (vx - stretch * dx) / r
        directions[e, 1] = (vy - stretch * dy) / r
        directions[e, 2] = (vz - stretch * dz) / r
        _, fall, height, change = _heights(r, radial)
        fade[e, 0] = (change if divided else fall) * stretch
        waves(r, rate, shifts, sines, cosines)
        for k in range(len(shifts)):
            rise = height * ((k + 1) * rate + shifts[k])
            basis[e, k] = (change * sines[k] + rise * cosines[k]) * stretch


@bare
def gradients(
    begin, end, x, ends, radial, shifts, scratch, by_directions, by_fade, by_basis, by_x
):  # fmt: skip
    """Add the gradient by the points of sums of weights times what `values` writes."""
    sines, cosines = scratch
    senders, receivers = ends
    _, _, rate, divided = radial
    for e in range(begin, end):
        i, j = senders[e], receivers[e]
        r, dx, dy, dz = _edge(x, i, j)
        gx, gy, gz = by_directions[e, 0], by_directions[e, 1], by_directions[e, 2]
        along = gx * dx + gy * dy + gz * dz
        _, fall, height, change = _heights(r, radial)
        slope = (change if divided else fall) * by_fade[e, 0]
        waves(r, rate, shifts, sines, cosines)
        for k in range(len(shifts)):
            rise = height * ((k + 1) * rate + shifts[k])
            slope += by_basis[e, k] * (change * sines[k] + rise * cosines[k])
        fx = (gx - along * dx) / r + slope * dx
        fy = (gy - along * dy) / r + slope * dy
        fz = (gz - along * dz) / r + slope * dz
        by_x[j, 0] += fx
        by_x[j, 1] += fy
        by_x[j, 2] += fz
        by_x[i, 0] -= fx
        by_x[i, 1] -= fy
        by_x[i, 2] -= fz
