"""Points to try plans on, and random moments."""

from collections.abc import Callable

import numpy as np

from multipoles.indexing import n_components

# targets (None: the sources themselves) and sources
Cloud = tuple[np.ndarray | None, np.ndarray]

_CUT = 50.0


def cloud(name: str, n: int, rng: np.random.Generator) -> Cloud:
    """Return targets, or None where they are the sources, and sources, each of shape (n, 3).

    Parameters
    ----------
    name : str
        One of `DISTRIBUTIONS`; ``two_clusters`` is understood as ``two-clusters``.
    n : int
        Number of points of each kind, at least 1.
    rng : numpy.random.Generator
        Where chance comes from.

    Raises
    ------
    ValueError
        If there is no such distribution or `n` is less than one.
    """
    key = name.strip().replace("_", "-")
    if key not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution: expected one of {', '.join(DISTRIBUTIONS)}; got {name.strip()!r}"
        )
    if n < 1:
        raise ValueError(f"n: expected at least one point, got {n}")
    return DISTRIBUTIONS[key](n, rng)


def random_moments(n: int, order: int, rng: np.random.Generator, channels: int = 1) -> np.ndarray:
    """Return normal random moments of mixed sign, shape (n, channels, n_components(order))."""
    return rng.standard_normal((n, channels, n_components(order)))


def directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return points spread evenly on the unit sphere, shape (n, 3)."""
    x: np.ndarray = rng.standard_normal((n, 3))
    x /= np.linalg.norm(x, axis=1)[:, None]
    return x


def uniform(n: int, rng: np.random.Generator) -> Cloud:
    """Return points spread evenly in a cube."""
    return None, rng.random((n, 3))


def sphere(n: int, rng: np.random.Generator) -> Cloud:
    """Return points spread evenly on the surface of a sphere."""
    return None, directions(n, rng)


def plummer(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cluster whose density falls as (1 + r^2)^(-5/2), cut at fifty core radii."""
    # mass within r is (1 + 1/r^2)^(-3/2)
    mass = (1 + _CUT**-2) ** -1.5 * (1 - rng.random(n))
    radius = 1 / np.sqrt(mass ** (-2 / 3) - 1)
    return None, radius[:, None] * directions(n, rng)


def line(n: int, rng: np.random.Generator) -> Cloud:
    """Return points on a straight line, oblique to the axes."""
    return None, rng.random((n, 1)) * np.array([[1.0, 2.0, -0.5]])


def two_clusters(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cube of points and a hundred times smaller one thirty edges away."""
    x = rng.random((n, 3))
    x[n // 2 :] = 0.01 * x[n // 2 :] + 30
    return None, x


def lattice(n: int, rng: np.random.Generator) -> Cloud:
    """Return the first points of a cubic lattice: many equal coordinates and distances."""
    edge = 1
    while edge**3 < n:
        edge += 1
    return None, np.stack(np.unravel_index(np.arange(n), (edge,) * 3), axis=1).astype(np.float64)


def far_apart(n: int, rng: np.random.Generator) -> Cloud:
    """Return a cube of targets and one of sources, forty edges apart."""
    return rng.random((n, 3)) + 40, rng.random((n, 3))


def nested(n: int, rng: np.random.Generator) -> Cloud:
    """Return targets in a small cube, a tenth of the edge of that of the sources around it."""
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
