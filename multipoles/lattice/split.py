"""Where an Ewald sum is split, and how far both its parts go: for a tolerance, at least cost.

The field of order n of a pair is about n!/r^(n+1). What is left out of it beyond a radius R is the
fraction Q(n + 1/2, (eta R)^2) of the incomplete Gamma function; what is left out of the waves
beyond 2 eta t is (2 eta)^(n+1) Γ((n+1)/2, t^2)/π. Both are held against the field of the nearest
neighbours, at about the cube root of the volume of each point.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from multipoles import indexing
from multipoles.lattice import search
from multipoles.lattice.cell import Cell
from multipoles.radial import Coulomb, Erf, Kernel

# of the tolerance, for each of the two parts: sums over many pairs have larger errors than one
_SHARE = 0.1
# ns: a pair, for a unit of its cost and beside; an image; a point and a wave; a wave
_PAIR, _PAIR_FOUND, _IMAGE, _WAVE, _OF_WAVE = 0.8, 12.0, 40.0, 0.15, 50.0
_TRIALS, _STEP = 42, 2.0 ** (-1 / 6)


class Split(NamedTuple):
    """How the sums of all systems of a batch are split.

    eta (inverse length, 0 where there are no waves); radius of the near part; the longest wave, and
    greatest numbers of waves of each system, (n_systems, 3); lengths of the box of the waves along
    what is free, and where potentials are cut there.
    """

    eta: float
    radius: float
    longest: float = 0.0
    limits: np.ndarray = np.empty((0, 3), np.int64)
    lengths: np.ndarray = np.empty(0)
    cut: float = 0.0


class _Costed(NamedTuple):
    """A split, what it costs in ns, and its numbers of waves, images and pairs."""

    cost: float
    sizes: tuple[float, float, float]
    split: Split


def split_for(
    counts: tuple[np.ndarray, np.ndarray],
    spread: np.ndarray,
    cell: Cell,
    kernel: Kernel,
    tolerance: float,
    source_order: int,
    order: int,
) -> Split:
    """Return the cheapest split of the systems of a batch.

    Parameters
    ----------
    counts : tuple of two ndarrays of int, shape (n_systems,)
        Targets and sources of each system.
    spread : ndarray, shape (3 - n_periodic,)
        How far all points reach along each free direction, of which only one system may have any.
    cell : Cell
        Of all.
    kernel, tolerance, source_order, order
        See `Ewald`.

    Raises
    ------
    ValueError
        If what is to be summed does not fit into memory.
    """
    top = source_order + order
    # where neighbours are far apart, what is left out is more of their field
    apart = float(spacing(counts[1], cell, spread).max())
    share = _SHARE * tolerance
    own = kernel.negligible_beyond(share, top)
    if np.isfinite(own):
        within = np.array([own])
        check_memory(0.0, *_sizes(counts, cell, spread, within)[:, 0])
        return Split(0.0, own)
    reach = kernel.coulomb_beyond(share, top)
    if isinstance(kernel, Coulomb):
        reach = 0.0
    given = counts, spread, cell, (source_order, order), share, apart
    found = [_cheapest(*given, reach)]
    if isinstance(kernel, Erf):  # Gaussian charges that are wide are waves and nothing else
        found.append(_cheapest(*given, 0.0, kernel.alpha))
    best = min(found, key=lambda one: one.cost)
    check_memory(*best.sizes)
    return best.split


def decays(kernel: Kernel) -> bool:
    """Tell whether a kernel is summed over images as it is."""
    return bool(np.isfinite(kernel.negligible_beyond(1e-3, 0)))


def check_kernel(kernel: Kernel, surface: str = "conductor") -> None:
    """Refuse a kernel that neither decays nor is Coulomb's from some distance on.

    Raises
    ------
    ValueError
        If it is one; or if it decays, and a surface is asked for, which acts on 1/r only.
    """
    if decays(kernel):
        if surface != "conductor":
            raise ValueError(
                f"surface: expected 'conductor' with a kernel that decays, got {surface!r}: far "
                f"away nothing acts under {kernel!r}"
            )
        return
    if not np.isfinite(kernel.coulomb_beyond(1e-3, 0)):
        raise ValueError(
            "kernel: expected one that decays, or is 1/r from some distance on, for a sum over all "
            f"images, got {kernel!r}"
        )


def _cheapest(
    counts: tuple[np.ndarray, np.ndarray],
    spread: np.ndarray,
    cell: Cell,
    orders: tuple[int, int],
    share: float,
    apart: float,
    reach: float,
    eta: float | None = None,
) -> _Costed:
    """Return the cheapest split, of those of one eta without near part if it is given."""
    top = sum(orders)
    etas = 6.0 / apart * _STEP ** np.arange(_TRIALS) if eta is None else np.array([eta])
    depth = _near_depth(top, share, apart, etas)
    longest = 2 * etas * wave_depth(top, share, apart, etas)
    # waves alone leave nothing near but what coincides
    radii = np.maximum(depth / etas, reach) if eta is None else np.array([1e-3 * apart])
    # where the potential is cut nothing makes up for what is lost
    tails = np.zeros_like(etas)
    if cell.n_periodic < 3:
        tails = _near_depth(top, share, np.inf, etas) / etas
    cuts = float(np.linalg.norm(spread)) + tails
    free = spread[None] + (cuts + tails)[:, None]
    edges = np.linalg.norm(cell.batch().vectors, axis=2) * np.ones((len(etas), 1, 1))
    edges[:, :, cell.n_periodic :] *= free[:, None]
    numbers = longest[:, None, None] / (2 * np.pi) * edges
    limits = np.floor(numbers).astype(np.int64) + 1
    # an ellipsoid, one of k and -k
    n_waves = np.pi / 12 * np.prod(2 * numbers + 1, axis=2)
    points = counts[1] * (orders[0] + 1) + counts[0] * (orders[1] + 1)
    work = ((_WAVE * points + _OF_WAVE) * n_waves).sum(axis=1)
    images, pairs = _sizes(counts, cell, spread, radii)
    components = sum(indexing.n_components(k) for k in range(top + 1))
    near = pairs * (_PAIR_FOUND + _PAIR * (2 + components)) + images * _IMAGE
    best = int(np.argmin(work + near))
    split = Split(
        float(etas[best]), float(radii[best]), float(longest[best]), limits[best], free[best],
        float(cuts[best]),
    )  # fmt: skip
    sizes = float(n_waves[best].sum()), float(images[best]), float(pairs[best])
    return _Costed(float((work + near)[best]), sizes, split)


def spacing(n: Any, cell: Cell, spread: np.ndarray) -> np.ndarray:
    """Return about how far neighbours are apart in each system: what is left of each one's volume.

    Parameters
    ----------
    n : int or ndarray of int
        Points of each system.
    cell : Cell
        Of one system, or of all.
    spread : ndarray
        How far points reach along each free direction.
    """
    per_point = cell.volume / np.maximum(n, 1)
    # images of a point itself may be nearer than others, but much of their field cancels
    nearest = 3 * cell.shortest
    if cell.n_periodic == 3:
        return np.minimum(per_point ** (1 / 3), nearest)
    # points of a thin layer have neighbours in it only
    flat = per_point ** (1 / cell.n_periodic)
    thick = (per_point * float(np.prod(spread))) ** (1 / 3)
    return np.minimum(np.maximum(flat, thick), nearest)


def _near_depth(top: int, share: float, apart: float, etas: np.ndarray) -> np.ndarray:
    """Return eta times the radius of the near part: what the most demanding order needs."""
    from scipy import special  # slow to import

    orders = np.arange(top + 1)[:, None]
    depth = special.gammainccinv(orders + 0.5, share) ** 0.5 * np.ones(len(etas))
    for _ in range(3 if apart < np.inf else 0):
        gain = np.maximum(depth / etas / apart, 1.0) ** (orders + 1)
        depth = special.gammainccinv(orders + 0.5, np.minimum(share * gain, 1e-2)) ** 0.5
    return np.asarray(depth.max(axis=0))


def wave_depth(top: int, share: float, apart: float, etas: np.ndarray) -> np.ndarray:
    """Return the longest wave vector over 2 eta: what the most demanding order needs."""
    from scipy import special  # slow to import

    orders = np.arange(top + 1)[:, None]
    half = (orders + 1) / 2
    allowed = share * np.pi * special.gamma(orders + 1.0) / special.gamma(half)
    allowed = allowed / (2 * etas * apart) ** (orders + 1)
    depth = special.gammainccinv(half, np.clip(allowed, 1e-290, 1e-2)) ** 0.5
    return np.asarray(depth.max(axis=0))


def _sizes(
    counts: tuple[np.ndarray, np.ndarray], cell: Cell, spread: np.ndarray, radii: np.ndarray
) -> np.ndarray:
    """Return about how many images and pairs all systems have within each of some radii."""
    images = search.n_images(counts[1], cell, radii)
    products = counts[0] * counts[1] / cell.volume
    return np.stack([images, _room(radii, cell, spread) * float(np.sum(products))])


def neighbours(radii: np.ndarray, cell: Cell, spread: np.ndarray) -> np.ndarray:
    """Return how many images of one source lie within the radii of a target, about."""
    found: np.ndarray = _room(radii, cell, spread) / cell.volume
    return found


def _room(radii: np.ndarray, cell: Cell, spread: np.ndarray) -> np.ndarray:
    """Return about which volume of what repeats lies within radii, in an area or length of it."""
    if cell.n_periodic == 3:
        return np.asarray(4 / 3 * np.pi * radii**3)
    if cell.n_periodic == 2:
        flat = np.minimum(1.0, 1.33 * radii / max(spread[0], 1e-300))
        return np.asarray(np.pi * radii**2 * flat)
    thin = np.minimum(1.0, 2 * radii / max(spread.max(), 1e-300))
    return np.asarray(2 * radii * thin)


def check_memory(n_waves: float, n_images: float, n_pairs: float) -> None:
    """Refuse a sum that does not fit into memory.

    Raises
    ------
    ValueError
        If it needs more than there is.
    """
    needed = 150.0 * n_waves + 150.0 * n_images + 40.0 * n_pairs
    memory = _free_memory()
    if needed > memory:
        raise ValueError(
            f"a sum over all images with {n_waves:.3g} waves, {n_images:.3g} images near by and "
            f"{n_pairs:.3g} pairs needs about {needed / 1e9:.3g} GB, of which {memory / 1e9:.3g} "
            "are free: expected fewer points, less space between them along what does not repeat, "
            "a looser tolerance, or a kernel that decays sooner"
        )


def _free_memory() -> float:
    """Return the bytes that are free; infinity where a system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows, macOS
        return float("inf")
