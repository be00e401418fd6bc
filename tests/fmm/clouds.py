"""Points of many shapes, and errors per output order."""

import numpy as np

from multipoles.indexing import order_slice


def _sphere(n, rng):
    x = rng.standard_normal((n, 3))
    return x / np.linalg.norm(x, axis=1)[:, None]


def _plummer(n, rng):
    radius = 1 / np.sqrt(rng.uniform(0.001, 1, n) ** (-2 / 3) - 1)
    return np.minimum(radius, 50)[:, None] * _sphere(n, rng)


def _line(n, rng):
    return rng.random((n, 1)) * np.array([[1.0, 2.0, -0.5]])


def _two_clusters(n, rng):
    x = rng.random((n, 3))
    x[n // 2 :] = 0.01 * x[n // 2 :] + 30
    return x


def _lattice(n, rng):
    m = max(1, round(n ** (1 / 3)))
    return np.stack(np.meshgrid(*[np.arange(m, dtype=float)] * 3), -1).reshape(-1, 3)


SHAPES = {
    "uniform": lambda n, rng: rng.random((n, 3)),
    "sphere": _sphere,
    "plummer": _plummer,
    "line": _line,
    "two clusters": _two_clusters,
    "lattice": _lattice,
}


def apart(kind, n, rng):
    """Return targets and sources that are not the same points."""
    sources, targets = rng.random((n, 3)), rng.random((n // 2, 3))
    if kind == "far apart":
        return targets + 40.0, sources
    if kind == "nested":
        return 0.1 * targets + 0.4, sources
    if kind == "touching":
        return targets + np.array([1.0, 0.0, 0.0]), sources
    raise ValueError(kind)


def errors(found, exact, order):
    """Return the relative L2 error per output order."""
    parts = [order_slice(k) for k in range(order + 1)]
    return np.array(
        [np.linalg.norm((found - exact)[..., p]) / np.linalg.norm(exact[..., p]) for p in parts]
    )
