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


def _with(x, *others):
    return np.concatenate([x, *(np.reshape(other, (-1, 3)) for other in others)])


def _outlier(distance):
    return lambda n, rng: _with(rng.random((n, 3)), distance * np.array([1.0, 0.3, -0.7]))


def _cluster(size, middle):
    def points(n, rng):
        x = rng.random((n, 3))
        x[n // 2 :] = middle + size * (x[n // 2 :] - 0.5)
        return x

    return points


def _nested(middle):
    def points(n, rng):
        sizes = 0.01 ** np.repeat(np.arange(7), -(-n // 7))[:n]
        return middle + sizes[:, None] * rng.random((n, 3))

    return points


def _repeated(n, rng):
    few = rng.random((max(1, n // 10), 3))
    return _with(few, 0.3 + 1e-12 * few, np.repeat(few, 8, axis=0))[:n]


DEEP = {
    **{f"outlier at {d:g}": _outlier(d) for d in (1e2, 1e4, 1e8, 1e13, 1e17)},
    **{f"cluster of {size:g} at 0": _cluster(size, 0.0) for size in (1e-2, 1e-6, 1e-10, 1e-16)},
    **{f"cluster of {size:g} at 0.7": _cluster(size, 0.7) for size in (1e-6, 1e-10, 1e-13)},
    "nested at 0": _nested(0.0),
    "nested at -0.7": _nested(-0.7),
    "repeated": _repeated,
    "few numbers": lambda n, rng: 1e15 + 0.125 * np.round(8 * rng.random((n, 3))),
    "far away": lambda n, rng: -1e15 + 1e3 * rng.random((n, 3)),
    "tiny": lambda n, rng: 1e-300 * rng.random((n, 3)),
    "negative": lambda n, rng: -(rng.random((n, 3)) ** 40),
}
"""Points whose distances differ by many orders of magnitude, or at the end of what numbers tell."""


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
