"""A loop over charges of a periodic box: which images of them are near a zone."""

import math

import numpy as np

from multipoles.compiled.jit import inline, jit

#: Atoms up to which every image is held against each of them.
FEW = 32


@inline
def _is_near(x, y, z, atoms, square):
    """Return whether a point is within reach of an atom; for many atoms, as if it were."""
    if len(atoms) > FEW:
        return True
    for i in range(len(atoms)):
        dx, dy, dz = x - atoms[i, 0], y - atoms[i, 1], z - atoms[i, 2]
        if dx * dx + dy * dy + dz * dz < square:
            return True
    return False


@jit
def _room(atoms, radius, inverse):
    """Return bounds of what is near atoms, (4, 3): by coordinates, and fractional ones."""
    room = np.empty((4, 3))
    room[0], room[1] = np.inf, -np.inf
    for i in range(len(atoms)):
        for axis in range(3):
            room[0, axis] = min(room[0, axis], atoms[i, axis] - radius)
            room[1, axis] = max(room[1, axis], atoms[i, axis] + radius)
    for axis in range(3):
        middle = half = 0.0
        for k in range(3):
            middle += 0.5 * (room[0, k] + room[1, k]) * inverse[k, axis]
            half += 0.5 * (room[1, k] - room[0, k]) * abs(inverse[k, axis])
        # a little more, for rounding
        room[2, axis], room[3, axis] = middle - half - 1e-9, middle + half + 1e-9
    return room


@jit
def images_near(atoms, sites, vectors, inverse, radius, moved_only):
    """Return images (k, 3) of sites within a radius of atoms, and whose each is (k,).

    Images that are a little farther may be among them. moved_only: leave out the sites themselves.
    """
    room, square = _room(atoms, radius, inverse), radius * radius
    points, origin = np.empty((2 * len(sites) + 16, 3)), np.empty(2 * len(sites) + 16, np.int64)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    n = 0
    for j in range(len(sites)):
        for axis in range(3):
            u = 0.0
            for k in range(3):
                u += sites[j, k] * inverse[k, axis]
            low[axis] = math.ceil(room[2, axis] - u)
            high[axis] = math.floor(room[3, axis] - u)
        for a in range(low[0], high[0] + 1):
            for b in range(low[1], high[1] + 1):
                for c in range(low[2], high[2] + 1):
                    if moved_only and a == 0 and b == 0 and c == 0:
                        continue
                    x = sites[j, 0] + a * vectors[0, 0] + b * vectors[1, 0] + c * vectors[2, 0]
                    y = sites[j, 1] + a * vectors[0, 1] + b * vectors[1, 1] + c * vectors[2, 1]
                    z = sites[j, 2] + a * vectors[0, 2] + b * vectors[1, 2] + c * vectors[2, 2]
                    beside = x < room[0, 0] or x > room[1, 0] or y < room[0, 1] or y > room[1, 1]
                    if beside or z < room[0, 2] or z > room[1, 2]:
                        continue
                    if _is_near(x, y, z, atoms, square):
                        if n == len(origin):
                            points, origin = _longer(points, origin)
                        points[n, 0], points[n, 1], points[n, 2], origin[n] = x, y, z, j
                        n += 1
    return points[:n].copy(), origin[:n].copy()


@jit
def _longer(points, origin):
    more_points, more_origin = np.empty((2 * len(points), 3)), np.empty(2 * len(origin), np.int64)
    more_points[: len(points)], more_origin[: len(origin)] = points, origin
    return more_points, more_origin
