"""A loop over charges of a periodic box: which images of them are near a zone."""

import numpy as np

from multipoles.compiled.jit import inline, jit


@inline
def _beyond(place, low, high):
    """Return how far a coordinate is from an interval."""
    return max(low - place, place - high, 0.0)


@inline
def _room(atoms, radius, inverse):
    """Return bounds of atoms, (4, 3), and fractional ones of what is within a radius of these."""
    room = np.empty((4, 3))
    for axis in range(3):
        room[0, axis] = room[1, axis] = atoms[0, axis]
        for i in range(len(atoms)):
            room[0, axis] = min(room[0, axis], atoms[i, axis])
            room[1, axis] = max(room[1, axis], atoms[i, axis])
    for axis in range(3):
        middle = half = 0.0
        for k in range(3):
            middle += 0.5 * (room[0, k] + room[1, k]) * inverse[k, axis]
            half += (0.5 * (room[1, k] - room[0, k]) + radius) * abs(inverse[k, axis])
        # a little more, for rounding
        room[2, axis], room[3, axis] = middle - half - 1e-9, middle + half + 1e-9
    return room


@jit
def images_near(atoms, sites, vectors, inverse, radius, moved_only):
    """Return images (k, 3) of sites within a radius of the box around atoms, and whose each is.

    moved_only: leave out the sites themselves.
    """
    room, square = _room(atoms, radius, inverse), radius * radius
    points, origin = np.empty((2 * len(sites) + 64, 3)), np.empty(2 * len(sites) + 64, np.int64)
    n = 0
    for j in range(len(sites)):
        low, count = _steps(sites, j, room, inverse)
        if n + count[0] * count[1] * count[2] > len(origin):
            points, origin = _longer(points, origin, n + count[0] * count[1] * count[2])
        for a in range(low[0], low[0] + count[0]):
            x0 = sites[j, 0] + a * vectors[0, 0]
            y0 = sites[j, 1] + a * vectors[0, 1]
            z0 = sites[j, 2] + a * vectors[0, 2]
            for b in range(low[1], low[1] + count[1]):
                x1, y1 = x0 + b * vectors[1, 0], y0 + b * vectors[1, 1]
                z1 = z0 + b * vectors[1, 2]
                for c in range(low[2], low[2] + count[2]):
                    x, y = x1 + c * vectors[2, 0], y1 + c * vectors[2, 1]
                    z = z1 + c * vectors[2, 2]
                    dx = _beyond(x, room[0, 0], room[1, 0])
                    dy = _beyond(y, room[0, 1], room[1, 1])
                    dz = _beyond(z, room[0, 2], room[1, 2])
                    own = moved_only and a == 0 and b == 0 and c == 0
                    # without branches, which nothing could foresee
                    points[n, 0], points[n, 1], points[n, 2], origin[n] = x, y, z, j
                    n += int(dx * dx + dy * dy + dz * dz < square) & int(not own)
    return points[:n], origin[:n]


@inline
def _steps(sites, j, room, inverse):
    """Return first numbers, and how many, of lattice vectors by which a site comes into a room."""
    x, y, z = sites[j, 0], sites[j, 1], sites[j, 2]
    u = x * inverse[0, 0] + y * inverse[1, 0] + z * inverse[2, 0]
    v = x * inverse[0, 1] + y * inverse[1, 1] + z * inverse[2, 1]
    w = x * inverse[0, 2] + y * inverse[1, 2] + z * inverse[2, 2]
    a, b, c = np.ceil(room[2, 0] - u), np.ceil(room[2, 1] - v), np.ceil(room[2, 2] - w)
    first = int(a), int(b), int(c)
    counts = (
        int(max(np.floor(room[3, 0] - u) - a + 1.0, 0.0)),
        int(max(np.floor(room[3, 1] - v) - b + 1.0, 0.0)),
        int(max(np.floor(room[3, 2] - w) - c + 1.0, 0.0)),
    )
    return first, counts


@jit
def _longer(points, origin, least):
    more_points, more_origin = np.empty((2 * least, 3)), np.empty(2 * least, np.int64)
    for k in range(len(origin)):
        more_origin[k] = origin[k]
        for axis in range(3):
            more_points[k, axis] = points[k, axis]
    return more_points, more_origin
