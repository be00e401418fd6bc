"""Loops over groups of charges near a zone: whole groups, their weights, and forces back.

One call for each of the two ways, so that a step of dynamics costs no dozens of small arrays.
"""

import math

import numpy as np

from multipoles.compiled.jit import inline, jit


@inline
def _to_origin(x, y, z, box, turns):
    """Return a vector moved by whole rows of a reduced box to near the origin.

    turns: turns per length along each axis, zero where there is no box.
    """
    n = np.rint(z * turns[2])
    x, y, z = x - n * box[2, 0], y - n * box[2, 1], z - n * box[2, 2]
    n = np.rint(y * turns[1])
    x, y = x - n * box[1, 0], y - n * box[1, 1]
    return x - np.rint(x * turns[0]) * box[0, 0], y, z


@jit
def switched(distance, start, end):
    """Return the polynomial of fifth degree that falls from 1 to 0, and its derivative.

    Both are continuous, the second derivative too.
    """
    x = min(max((distance - start) / (end - start), 0.0), 1.0)
    value = 1.0 + x * x * x * (-10.0 + x * (15.0 - 6.0 * x))
    return value, -30.0 * (x * (1.0 - x)) ** 2 / (end - start)


@jit
def are_whole(positions, bonds, box):
    """Return whether particles that are bonded (b, 2) are in one image, to a millionth."""
    turns = 1.0 / box[0, 0], 1.0 / box[1, 1], 1.0 / box[2, 2]
    for k in range(len(bonds)):
        i, j = bonds[k]
        x, y = positions[j, 0] - positions[i, 0], positions[j, 1] - positions[i, 1]
        z = positions[j, 2] - positions[i, 2]
        a, b, c = _to_origin(x, y, z, box, turns)
        if max(abs(a - x), abs(b - y), abs(c - z)) > 1e-6:
            return False
    return True


@jit
def whole_groups(sites, first, shares, box, turns, inside, centres):
    """Write sites (m, 3), groups whole and near the origin, and their centres (g, 3).

    first (g + 1,): first site of each group; shares (m,): of each site in its group's centre.
    """
    for g in range(len(first) - 1):
        i = first[g]
        a = b = c = 0.0
        for j in range(first[g], first[g + 1]):
            x, y, z = _to_origin(
                sites[j, 0] - sites[i, 0], sites[j, 1] - sites[i, 1], sites[j, 2] - sites[i, 2],
                box, turns,
            )  # fmt: skip
            inside[j, 0], inside[j, 1], inside[j, 2] = x, y, z
            a, b, c = a + shares[j] * x, b + shares[j] * y, c + shares[j] * z
        x, y, z = _to_origin(sites[i, 0] + a, sites[i, 1] + b, sites[i, 2] + c, box, turns)
        centres[g, 0], centres[g, 1], centres[g, 2] = x, y, z
        for j in range(first[g], first[g + 1]):
            inside[j, 0] += x - a
            inside[j, 1] += y - b
            inside[j, 2] += z - c


@inline
def _bounds(points):
    """Return the least and the greatest coordinate along each axis, (2, 3)."""
    found = np.empty((2, 3))
    for axis in range(3):
        found[0, axis] = found[1, axis] = points[0, axis]
        for i in range(len(points)):
            found[0, axis] = min(found[0, axis], points[i, axis])
            found[1, axis] = max(found[1, axis], points[i, axis])
    return found


@inline
def _beside(place, bounds, axis):
    return max(bounds[0, axis] - place, place - bounds[1, axis], 0.0)


@inline
def _look(x, y, z, atoms, bounds, start, cutoff):
    """Return the least squared distance to the atoms, and how many are within the cutoff.

    Both end at an atom within `start`: what is nearer changes nothing.
    """
    a, b, c = _beside(x, bounds, 0), _beside(y, bounds, 1), _beside(z, bounds, 2)
    least, count = np.inf, 0
    if a * a + b * b + c * c < cutoff * cutoff:
        for i in range(len(atoms)):
            dx, dy, dz = x - atoms[i, 0], y - atoms[i, 1], z - atoms[i, 2]
            square = dx * dx + dy * dy + dz * dz
            least = min(least, square)
            count += int(square < cutoff * cutoff)
            if square <= start * start:
                break
    return least, count


@jit
def images_of_groups(centres, moves, atoms, start, cutoff):
    """Return the images of groups whose centres are within the cutoff of an atom.

    Groups (e,), moves (e, 3), and pairs that each has with atoms as it fades (e,), none where its
    centre is within `start`.
    """
    bounds = _bounds(atoms)
    most = len(moves) * len(centres)
    groups, fading, moved = np.empty(most, np.int64), np.empty(most, np.int64), np.empty((most, 3))
    n = 0
    for k in range(len(moves)):
        for g in range(len(centres)):
            x, y = centres[g, 0] + moves[k, 0], centres[g, 1] + moves[k, 1]
            z = centres[g, 2] + moves[k, 2]
            least, count = _look(x, y, z, atoms, bounds, start, cutoff)
            if least < cutoff * cutoff:
                groups[n], fading[n] = g, count if least > start * start else 0
                for axis in range(3):
                    moved[n, axis] = moves[k, axis]
                n += 1
    return groups[:n], moved[:n], fading[:n]


@jit
def weights_of_images(groups, moved, fading, centres, atoms, start, cutoff):
    """Return weights of images (e,), and their slopes: ends (p, 2) and vectors (p, 3)."""
    total = p = 0
    for e in range(len(groups)):
        total += fading[e]
    weights, ends, slopes = (
        np.empty(len(groups)),
        np.empty((total, 2), np.int64),
        np.empty((total, 3)),
    )
    for e in range(len(groups)):
        weights[e] = 1.0
        if fading[e] == 0:
            continue
        begin, product = p, 1.0
        for i in range(len(atoms)):
            x = centres[groups[e], 0] + moved[e, 0] - atoms[i, 0]
            y = centres[groups[e], 1] + moved[e, 1] - atoms[i, 1]
            z = centres[groups[e], 2] + moved[e, 2] - atoms[i, 2]
            square = x * x + y * y + z * z
            if square >= cutoff * cutoff:
                continue
            r = math.sqrt(square)
            value, slope = switched(r, start, cutoff)
            absent = max(1.0 - value, 1e-300)
            product *= absent
            scale = slope / (absent * r)
            ends[p, 0], ends[p, 1] = e, i
            slopes[p, 0], slopes[p, 1], slopes[p, 2] = scale * x, scale * y, scale * z
            p += 1
        for q in range(begin, p):
            for axis in range(3):
                slopes[q, axis] *= product
        weights[e] = 1.0 - product
    return weights, ends, slopes


@jit
def charges_of_images(groups, moved, weights, first, charges, inside):
    """Return charges that are seen: sites (k,), points (k, 3), weights (k,) and images (k,)."""
    most = 0
    for e in range(len(groups)):
        most += first[groups[e] + 1] - first[groups[e]]
    sites, entries = np.empty(most, np.int64), np.empty(most, np.int64)
    points, kept = np.empty((most, 3)), np.empty(most)
    n = 0
    for e in range(len(groups)):
        if weights[e] <= 0.0:
            continue
        for j in range(first[groups[e]], first[groups[e] + 1]):
            if charges[j] != 0.0:
                sites[n], entries[n], kept[n] = j, e, weights[e]
                for axis in range(3):
                    points[n, axis] = inside[j, axis] + moved[e, axis]
                n += 1
    return sites[:n], points[:n], kept[:n], entries[:n]


@jit
def near_charges(atoms, sites, moves, box, periodic, first, shares, charges, start, cutoff):
    """Return what `gnn.engines.embedding.groups.Near` holds, all in one call."""
    inside, centres = np.empty(sites.shape), np.empty((len(first) - 1, 3))
    turns = 0.0, 0.0, 0.0
    if periodic:
        turns = 1.0 / box[0, 0], 1.0 / box[1, 1], 1.0 / box[2, 2]
    whole_groups(sites, first, shares, box, turns, inside, centres)
    groups, moved, fading = images_of_groups(centres, moves, atoms, start, cutoff)
    weights, ends, slopes = weights_of_images(groups, moved, fading, centres, atoms, start, cutoff)
    seen = charges_of_images(groups, moved, weights, first, charges, inside)
    return seen, groups, (ends, slopes)


@jit
def forces_back(near, on_points, on_weights, first, shares, on_atoms, on_sites):
    """Add forces on points (k, 3), and by derivatives of weights (k,), to atoms and sites.

    near: sites, images of the points, groups of the images, and the slopes of their weights.
    """
    sites, entries, groups, ends, slopes = near
    work = np.zeros(len(groups))
    for k in range(len(sites)):
        work[entries[k]] += on_weights[k]
        for axis in range(3):
            on_sites[sites[k], axis] += on_points[k, axis]
    on_image = np.zeros((len(groups), 3))
    for p in range(len(ends)):
        for axis in range(3):
            pull = work[ends[p, 0]] * slopes[p, axis]
            on_atoms[ends[p, 1], axis] += pull
            on_image[ends[p, 0], axis] -= pull
    for e in range(len(groups)):
        for j in range(first[groups[e]], first[groups[e] + 1]):
            for axis in range(3):
                on_sites[j, axis] += shares[j] * on_image[e, axis]
