"""Lattice sums: the field that all far images of a root box have in another one.

Images that touch the box are left to the tree; all others enter one matrix, that of a
multipole-to-local translation (`fmm.far.translations`) whose irregular harmonics are summed over
the lattice. What the sums of low degree mean, which converge conditionally or not at all, is said
in `multipoles.lattice`: Ewald's splitting gives them, and those of all degrees at once where three
directions repeat, since for solid harmonics of degree n

    iota_n(r) = iota_n(r) Q(n + 1/2, eta² r²) + iota_n(r) P(n + 1/2, eta² r²)

with incomplete gamma functions, the first part decays, and the second is (-1)^n rho_n(∇) erf(eta r)
/ r (2n - 1)!!, a sum over waves. In a cell there is also the field of a uniform background, which
is not harmonic: about the place of a box it is a harmonic field, which is here, and 2 pi y² / 3V of
the displacement y from that place, see `CellSteps.not_harmonic`.
"""

from functools import lru_cache
from itertools import product

import numpy as np

from fmm.cell.grid import CellGrid
from fmm.far import harmonics
from fmm.far.kept import kept
from multipoles import indexing, interactions

# terms of a sum below this share of it are left out
_NEGLIGIBLE = 1e-17
# degrees up to this are taken from an Ewald sum where one or two directions repeat; the sums of
# higher ones converge fast enough
_BY_EWALD = 12
_RADIUS = 30.0  # root boxes, within which images are summed for these
_WIDE = np.dtype(np.float64)


Shape = tuple[tuple[float, ...], ...]
Place = tuple[int, int, int]


def matrix_of(grid: CellGrid, apart: Place, degree: int, dtype: np.dtype) -> np.ndarray:
    """Return the matrix from the multipoles of a root box to what its far images add to locals.

    Parameters
    ----------
    grid : CellGrid
        Root boxes.
    apart : tuple of int
        Place of the receiving box less that of the sending one.
    degree, dtype
        Of expansions.
    """
    shape, periods = tuple(map(tuple, grid.shape.tolist())), tuple(grid.periods.tolist())
    return lattice_matrix(shape, periods, grid.counts, grid.edge, apart, degree, dtype)


@kept
def lattice_matrix(
    shape: Shape,
    periods: Place,
    counts: Place,
    edge: float,
    apart: Place,
    degree: int,
    dtype: np.dtype = _WIDE,
) -> np.ndarray:
    """Return the matrix of `matrix_of`.

    Parameters
    ----------
    shape : tuple
        Vectors of a root box as rows, in units of its edge, in which all else is counted.
    periods : tuple of int
        Boxes after which each direction repeats; zero along what is free.
    counts : tuple of int
        Boxes along each direction.
    edge : float
        Of boxes, in units in which the logarithm of one is zero: along a wire potentials have it.
    apart, degree, dtype
        See `matrix_of`.
    """
    table = lattice_sums(shape, periods, counts, 2 * degree)
    index = [a % n if p else a + n - 1 for a, n, p in zip(apart, counts, periods, strict=True)]
    h = table[tuple(index)]
    if np.count_nonzero(periods) == 1:
        length = float(np.linalg.norm(np.array(periods) @ np.array(shape)))
        h = h.copy()
        h[0] -= 2 * np.log(edge) / length
    size = harmonics.n_harmonics(degree)
    matrix = np.empty((size, size), order="F")
    harmonics.dense(harmonics.transfer_terms(degree, degree), h, matrix)
    return matrix.astype(dtype, copy=False)


@kept
def lattice_sums(shape: Shape, periods: Place, counts: Place, degree: int) -> np.ndarray:
    """Return irregular harmonics summed over all images of a root box but those that touch another.

    Returns
    -------
    ndarray, shape (n_a, n_b, n_c, (degree + 1)^2)
        For the differences 0 … n - 1 of places along what repeats, 1 - n … n - 1 along what is
        free.
    """
    box, step = np.array(shape), np.array(periods)
    spans = [range(n) if p else range(1 - n, n) for n, p in zip(counts, periods, strict=True)]
    places = np.array(list(product(*spans)))
    summed = _sums_of_cell if step.all() else _sums_free
    found: np.ndarray = summed(box, step, places, degree)
    return found.reshape(*map(len, spans), -1)


def _sums_of_cell(
    box: np.ndarray, periods: np.ndarray, places: np.ndarray, degree: int
) -> np.ndarray:
    """Return the sums for some differences of places, where three directions repeat."""
    lattice = box * periods[:, None]
    volume = abs(float(np.linalg.det(lattice)))
    eta = np.pi**0.5 / volume ** (1 / 3)
    reach = _cutoff(eta, degree)
    out = np.stack([_near_part(box, periods, place, eta, reach, degree) for place in places])
    inverse = 2 * np.pi * np.linalg.inv(lattice).T
    k = _points(inverse, 2 * eta * np.sqrt(-np.log(_NEGLIGIBLE) + degree))
    k = k[(k**2).sum(axis=1) > 0]
    k2 = (k**2).sum(axis=1)
    weight = 4 * np.pi / volume * np.exp(-k2 / (4 * eta**2)) / k2
    wave = weight * np.exp(1j * (places @ box @ k.T))
    turned = (-1j) ** np.arange(degree + 1) / _double_factorials(degree)
    out += ((wave @ harmonics.regular(k, degree)) * turned[harmonics.degrees(degree)]).real
    out[:, 0] -= np.pi / (eta**2 * volume)
    return out


def _near_part(
    box: np.ndarray,
    periods: np.ndarray,
    place: np.ndarray,
    eta: float,
    reach: float,
    degree: int,
) -> np.ndarray:
    """Return the part that decays, less what waves have of images that touch."""
    from scipy import special  # slow to import

    places, touching = _images(box, periods, place, reach)
    r = places @ box
    square = (eta * np.linalg.norm(r, axis=1)[:, None]) ** 2
    half = np.arange(degree + 1)[None] + 0.5
    out = _weighted(r[~touching], special.gammaincc(half, square[~touching]), degree)
    here = touching & (square[:, 0] > 0)
    out -= _weighted(r[here], special.gammainc(half, square[here]), degree)
    out[0] -= 2 * eta / np.pi**0.5 * np.count_nonzero(square[:, 0] == 0)
    return out


def _sums_free(box: np.ndarray, periods: np.ndarray, places: np.ndarray, degree: int) -> np.ndarray:
    """Return the same where one or two directions repeat."""
    top = min(degree, _BY_EWALD)
    whole = _by_ewald(box, periods, places, top)
    out = np.empty((len(places), harmonics.n_harmonics(degree)))
    for row, place in enumerate(places):
        images, touching = _images(box, periods, place, _RADIUS)
        out[row] = harmonics.irregular(images[~touching] @ box, degree).sum(axis=0)
        near = images[touching] @ box
        near = near[np.linalg.norm(near, axis=1) > 0]
        less = harmonics.irregular(near, top).sum(axis=0)
        out[row, : whole.shape[1]] = whole[row] - less
    return out


def _by_ewald(box: np.ndarray, periods: np.ndarray, places: np.ndarray, top: int) -> np.ndarray:
    """Return irregular harmonics up to degree `top` summed over all images."""
    rows = np.where(periods[:, None] > 0, box * periods[:, None], 0.0)
    phi = interactions.field(
        places @ box, np.zeros((1, 3)), np.ones(1), top, cell=rows,
        periodic=tuple((periods > 0).tolist()), tolerance=1e-14,
    )  # fmt: skip
    # c_alpha of rho = sum c_alpha d^alpha
    polynomial = harmonics.cartesian_map(top) / indexing.factorials(top)
    n = harmonics.degrees(top)
    found: np.ndarray = (phi @ polynomial.T) * ((-1.0) ** n / _double_factorials(top)[n])
    return found


def _weighted(r: np.ndarray, weights: np.ndarray, degree: int) -> np.ndarray:
    """Return the sum of irregular harmonics times weights of each degree."""
    n = harmonics.degrees(degree)
    found: np.ndarray = (harmonics.irregular(r, degree) * weights[:, n]).sum(axis=0)
    return found


def _images(
    box: np.ndarray, periods: np.ndarray, apart: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of all images within a distance, in boxes, and which of them touch."""
    repeats = periods > 0
    lattice = (box * periods[:, None])[repeats]
    # from the image that is nearest in boxes, along each direction
    first = np.where(repeats, np.rint(-apart / np.maximum(periods, 1)), 0).astype(np.int64)
    near = (apart + first * periods) @ box
    most = np.zeros(3, np.int64)
    heights = 1 / np.linalg.norm(np.linalg.pinv(lattice), axis=0)
    most[repeats] = np.ceil((reach + np.linalg.norm(near)) / heights)
    spans = np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij")
    steps = first + np.stack(spans, axis=-1).reshape(-1, 3)
    places = apart + steps * periods
    touching = np.abs(places).max(axis=1) <= 1
    within = touching | (np.linalg.norm(places @ box, axis=1) <= reach)
    return places[within].astype(np.float64), touching[within]


def _points(lattice: np.ndarray, reach: float) -> np.ndarray:
    """Return the points of a lattice within a distance of zero."""
    most = np.ceil(reach * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int)
    spans = np.meshgrid(*(np.arange(-m, m + 1.0) for m in most), indexing="ij")
    points = np.stack(spans, axis=-1).reshape(-1, 3) @ lattice
    inside: np.ndarray = points[np.linalg.norm(points, axis=1) <= reach]
    return inside


@lru_cache
def _cutoff(eta: float, degree: int) -> float:
    """Return the distance beyond which the near part of no degree counts."""
    from scipy import special

    r = np.linspace(2.0, 40.0, 400)[:, None]
    n = np.arange(degree + 1)[None]
    share = special.gammaincc(n + 0.5, (eta * r) ** 2) * (2.0 / r) ** (n + 1)
    return float(r[np.flatnonzero((share > _NEGLIGIBLE).any(axis=1)).max() + 1, 0])


def _double_factorials(degree: int) -> np.ndarray:
    """Return (2n - 1)!! of all degrees."""
    n = np.arange(degree + 1)
    return np.cumprod(np.where(n > 0, 2.0 * n - 1, 1.0))
