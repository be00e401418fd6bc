"""Near pairs of Ewald's sum in a cube by lists of neighbours, for programs that sum waves only.

Written as a user of such a program would write it: half a list from cells, in whose order the
points are kept, and no exponentials: erf(eta r) / r and its derivatives are smooth functions of
r^2, cubics in a table. Needs nothing but NumPy, SciPy and Numba.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import hyp1f1

_BINS = 4096


class Neighbours(NamedTuple):
    """Points in the order of cells, their former places, and each one's partners after it."""

    points: np.ndarray
    order: np.ndarray
    first: np.ndarray
    partners: np.ndarray


def neighbours(points: np.ndarray, edge: float, radius: float) -> Neighbours:
    """Return half the list of neighbours of points in a periodic cube."""
    side = int(edge / radius)
    if side < 3:
        raise ValueError(f"expected an edge of three radii at least, got {edge} and {radius}")
    wrapped = points - edge * np.floor(points / edge)
    boxes = np.minimum((wrapped * (side / edge)).astype(np.int64), side - 1)
    box = (boxes[:, 0] * side + boxes[:, 1]) * side + boxes[:, 2]
    order = np.argsort(box, kind="stable")
    starts = np.searchsorted(box[order], np.arange(side**3 + 1))
    x = wrapped[order]
    # a guess of how many there are, with a margin for points that crowd
    room = int(2.5 * radius**3 * len(x) ** 2 / edge**3) + 1000
    while True:
        first, partners = _listed(x, starts, side, edge, radius, room)
        if first[-1] <= room:
            return Neighbours(x, order, first, partners[: first[-1]])
        room = first[-1]


@njit(cache=True, fastmath=True)
def _listed(x, starts, side, edge, radius, room):
    first = np.zeros(len(x) + 1, np.int64)
    partners = np.empty(room, np.int32)
    count, reach = 0, radius * radius
    others, shifts = np.empty(14, np.int64), np.empty((14, 3))
    for own in range(side**3):
        a, b, c = own // side**2, own // side % side, own % side
        for k in range(14):  # its own box, and half of those around it
            number = 13 + k
            d, e, f = a + number // 9 - 1, b + number // 3 % 3 - 1, c + number % 3 - 1
            others[k] = ((d % side) * side + e % side) * side + f % side
            # images, where a box lies beyond the edge
            shifts[k] = d // side, e // side, f // side
        for i in range(starts[own], starts[own + 1]):
            for k in range(14):
                sx = edge * shifts[k, 0] - x[i, 0]
                sy = edge * shifts[k, 1] - x[i, 1]
                sz = edge * shifts[k, 2] - x[i, 2]
                for j in range(starts[others[k]] if k else i + 1, starts[others[k] + 1]):
                    dx, dy, dz = x[j, 0] + sx, x[j, 1] + sy, x[j, 2] + sz
                    if dx * dx + dy * dy + dz * dz < reach:
                        if count < room:
                            partners[count] = j
                        count += 1
            first[i + 1] = count
    return first, partners


def smooth_table(eta: float, radius: float, links: int) -> np.ndarray:
    """Return cubics (bins, links + 1, 4) of (-1/r d/dr)^n erf(eta r)/r, by r^2 within a bin."""
    nodes = 0.5 + 0.5 * np.cos(np.pi * (np.arange(4) + 0.5) / 4)
    t = (eta * radius) ** 2 / _BINS * (np.arange(_BINS)[:, None] + nodes)
    from_nodes = np.linalg.inv(np.vander(nodes, increasing=True)).T
    values = [smooth_link(eta, n) * hyp1f1(n + 0.5, n + 1.5, -t) for n in range(links + 1)]
    return np.stack([value @ from_nodes for value in values], axis=1)


def smooth_link(eta: float, n: int) -> float:
    """Return (-1/r d/dr)^n erf(eta r)/r at r = 0."""
    return 2 * eta / np.sqrt(np.pi) * (2 * eta**2) ** n / (2 * n + 1)


@njit(cache=True, fastmath=True, inline="always")
def _nearest(x, i, j, edge):
    dx, dy, dz = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
    dx -= edge * np.rint(dx / edge)
    dy -= edge * np.rint(dy / edge)
    dz -= edge * np.rint(dz / edge)
    return dx, dy, dz


@njit(cache=True, fastmath=True)
def charge_sums(x, first, partners, charges, edge, radius, table):
    """Return the energy of near pairs, and their forces in the order of cells."""
    energy, forces = 0.0, np.zeros_like(x)
    per_bin = len(table) / (radius * radius)
    for i in range(len(x)):
        fx = fy = fz = 0.0
        for place in range(first[i], first[i + 1]):
            j = partners[place]
            dx, dy, dz = _nearest(x, i, j, edge)
            r2 = dx * dx + dy * dy + dz * dz
            row = min(int(r2 * per_bin), len(table) - 1)
            u = r2 * per_bin - row
            inverse = 1 / np.sqrt(r2)
            a, b = table[row, 0], table[row, 1]
            q = charges[i] * charges[j]
            energy += q * (inverse - (a[0] + u * (a[1] + u * (a[2] + u * a[3]))))
            b1 = inverse * inverse * inverse - (b[0] + u * (b[1] + u * (b[2] + u * b[3])))
            fx += q * b1 * dx
            fy += q * b1 * dy
            fz += q * b1 * dz
            forces[j, 0] -= q * b1 * dx
            forces[j, 1] -= q * b1 * dy
            forces[j, 2] -= q * b1 * dz
        forces[i, 0] += fx
        forces[i, 1] += fy
        forces[i, 2] += fz
    return energy, forces


@njit(cache=True, fastmath=True, inline="always")
def _times(S, i, v):
    x, y, z = v
    return (
        S[i, 0] * x + S[i, 1] * y + S[i, 2] * z,
        S[i, 1] * x + S[i, 3] * y + S[i, 4] * z,
        S[i, 2] * x + S[i, 4] * y + S[i, 5] * z,
    )


@njit(cache=True, fastmath=True, inline="always")
def _gradients(out, i, q, dr, srr, trace, d, s, S, j, x, y, z, D):
    """Add the derivatives of the energy by dipole and quadrupole of i, due to j at -(x, y, z).

    What is proportional to the unit matrix exerts no torque and is left out.
    """
    along = q * D[1] - dr * D[2] + srr * D[3] + trace * D[2]
    half = 0.5 * (q * D[2] - dr * D[3] + srr * D[4] + trace * D[3])
    u = half * x - d[j, 0] * D[2] + 2 * s[0] * D[3]
    v = half * y - d[j, 1] * D[2] + 2 * s[1] * D[3]
    w = half * z - d[j, 2] * D[2] + 2 * s[2] * D[3]
    out[i, 0] += along * x - d[j, 0] * D[1] + 2 * s[0] * D[2]
    out[i, 1] += along * y - d[j, 1] * D[1] + 2 * s[1] * D[2]
    out[i, 2] += along * z - d[j, 2] * D[1] + 2 * s[2] * D[2]
    out[i, 3] += 2 * (u * x + S[j, 0] * D[2])
    out[i, 4] += u * y + v * x + 2 * S[j, 1] * D[2]
    out[i, 5] += u * z + w * x + 2 * S[j, 2] * D[2]
    out[i, 6] += 2 * (v * y + S[j, 3] * D[2])
    out[i, 7] += v * z + w * y + 2 * S[j, 4] * D[2]
    out[i, 8] += 2 * (w * z + S[j, 5] * D[2])


@njit(cache=True, fastmath=True)
def quadrupole_sums(x, first, partners, q, d, S, edge, radius, table):
    """Return energy, forces, and gradients (n, 9) by dipoles and quadrupoles, in cells' order.

    Quadrupoles S are (n, 6): the symmetric matrices of sum_ab S_ab d_a d_b.
    """
    energy, forces, out = 0.0, np.zeros_like(x), np.zeros((len(x), 9))
    per_bin, D = len(table) / (radius * radius), np.empty(6)
    for i in range(len(x)):
        for place in range(first[i], first[i + 1]):
            j = partners[place]
            x_, y_, z_ = r = _nearest(x, i, j, edge)
            r2 = x_ * x_ + y_ * y_ + z_ * z_
            row = min(int(r2 * per_bin), len(table) - 1)
            u = r2 * per_bin - row
            link, sign = 1 / np.sqrt(r2), 1.0
            for n in range(6):
                c = table[row, n]
                D[n] = sign * (link - (c[0] + u * (c[1] + u * (c[2] + u * c[3]))))
                link, sign = link * (2 * n + 1) / r2, -sign
            di = d[i, 0] * x_ + d[i, 1] * y_ + d[i, 2] * z_
            dj = d[j, 0] * x_ + d[j, 1] * y_ + d[j, 2] * z_
            dd = d[i, 0] * d[j, 0] + d[i, 1] * d[j, 1] + d[i, 2] * d[j, 2]
            si, sj = _times(S, i, r), _times(S, j, r)
            sisj, sjsi = _times(S, i, sj), _times(S, j, si)
            sidj, sjdi = _times(S, i, d[j]), _times(S, j, d[i])
            sii = si[0] * x_ + si[1] * y_ + si[2] * z_
            sjj = sj[0] * x_ + sj[1] * y_ + sj[2] * z_
            ti, tj = S[i, 0] + S[i, 3] + S[i, 5], S[j, 0] + S[j, 3] + S[j, 5]
            ss = sum_of_products(S, i, j)
            dsj = sidj[0] * x_ + sidj[1] * y_ + sidj[2] * z_
            dsi = sjdi[0] * x_ + sjdi[1] * y_ + sjdi[2] * z_
            siisj = si[0] * sj[0] + si[1] * sj[1] + si[2] * sj[2]
            g1 = q[j] * di - q[i] * dj - dd + q[j] * ti + q[i] * tj
            g2 = q[j] * sii + q[i] * sjj - di * dj - ti * dj - 2 * dsj + tj * di + 2 * dsi
            g2 += ti * tj + 2 * ss
            g3 = di * sjj - dj * sii + ti * sjj + tj * sii + 4 * siisj
            g4 = sii * sjj
            energy += q[i] * q[j] * D[0] + g1 * D[1] + g2 * D[2] + g3 * D[3] + g4 * D[4]
            along = q[i] * q[j] * D[1] + g1 * D[2] + g2 * D[3] + g3 * D[4] + g4 * D[5]
            # factors of d_i, d_j, S_i r and S_j r in the derivative of the g
            by_di = q[j] * D[1] + (tj - dj) * D[2] + sjj * D[3]
            by_dj = -q[i] * D[1] - (ti + di) * D[2] - sii * D[3]
            by_si = 2 * (q[j] * D[2] + (tj - dj) * D[3] + sjj * D[4])
            by_sj = 2 * (q[i] * D[2] + (ti + di) * D[3] + sii * D[4])
            for a in range(3):
                f = along * r[a] + by_di * d[i, a] + by_dj * d[j, a]
                f += by_si * si[a] + by_sj * sj[a] + 2 * (sjdi[a] - sidj[a]) * D[2]
                f += 4 * (sisj[a] + sjsi[a]) * D[3]
                forces[i, a] -= f
                forces[j, a] += f
            _gradients(out, i, q[j], dj, sjj, tj, d, sj, S, j, x_, y_, z_, D)
            back = (-si[0], -si[1], -si[2])
            _gradients(out, j, q[i], -di, sii, ti, d, back, S, i, -x_, -y_, -z_, D)
    return energy, forces, out


@njit(cache=True, fastmath=True, inline="always")
def sum_of_products(S, i, j):
    """Return S_i : S_j of packed symmetric matrices."""
    diagonal = S[i, 0] * S[j, 0] + S[i, 3] * S[j, 3] + S[i, 5] * S[j, 5]
    return diagonal + 2 * (S[i, 1] * S[j, 1] + S[i, 2] * S[j, 2] + S[i, 4] * S[j, 4])
