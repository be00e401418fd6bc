"""Points to try a plan on, and random moments."""

from collections.abc import Callable

import numpy as np

from multipoles.indexing import n_components

Cloud = tuple[np.ndarray | None, np.ndarray]


def directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return points spread evenly on the unit sphere, shape (n, 3)."""
    x = rng.standard_normal((n, 3))
    return x / np.linalg.norm(x, axis=1)[:, None]


def uniform(n: int, rng: np.random.Generator) -> Cloud:
    """Return points spread evenly in a cube."""
    return None, rng.random((n, 3))


def sphere(n: int, rng: np.random.Generator) -> Cloud:
    """Return points on the surface of a sphere."""
    return None, directions(n, rng)


def plummer(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cluster whose density falls as (1 + r^2)^(-5/2), cut at fifty core radii."""
    radius = 1 / np.sqrt(rng.uniform(1e-9, 1, n) ** (-2 / 3) - 1)
    return None, np.minimum(radius, 50)[:, None] * directions(n, rng)


def line(n: int, rng: np.random.Generator) -> Cloud:
    """Return points on a straight line."""
    return None, rng.random((n, 1)) * np.array([[1.0, 2.0, -0.5]])


def two_clusters(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cube of points and a hundred times smaller one thirty edges away."""
    x = rng.random((n, 3))
    x[n // 2 :] = 0.01 * x[n // 2 :] + 30
    return None, x


def lattice(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cubic lattice: about `n` points with many equal coordinates."""
    edge = max(1, round(n ** (1 / 3)))
    axes = [np.arange(edge, dtype=np.float64)] * 3
    return None, np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)


def far_apart(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cube of targets and one of sources, forty edges apart."""
    return rng.random((n, 3)) + 40, rng.random((n, 3))


def nested(n: int, rng: np.random.Generator) -> Cloud:
    """Return targets in a tenth of the sources' cube."""
    return 0.1 * rng.random((n, 3)) + 0.4, rng.random((n, 3))


def touching(n: int, rng: np.random.Generator) -> Cloud:
    """Return targets and sources in two cubes with a common face."""
    return rng.random((n, 3)) + np.array([1.0, 0.0, 0.0]), rng.random((n, 3))


DISTRIBUTIONS: dict[str, Callable[[int, np.random.Generator], Cloud]] = {
    "uniform": uniform,
    "sphere": sphere,
    "plummer": plummer,
    "line": line,
    "two-clusters": two_clusters,
    "lattice": lattice,
    "far-apart": far_apart,
    "nested": nested,
    "touching": touching,
}


def random_moments(n: int, order: int, rng: np.random.Generator, channels: int = 1) -> np.ndarray:
    """Return normal random moments of mixed sign, shape (n, channels, n_components(order))."""
    return rng.standard_normal((n, channels, n_components(order)))
