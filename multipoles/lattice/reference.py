"""Slow, obvious twin of `multipoles.field` with a cell, in float64 NumPy.

One integral, 1/r = 2/sqrt(pi) int_0^inf exp(-r^2 t^2) dt, is split at t = eta. Above, the sum over
images is taken as it stands: it is one of erfc(eta r)/r, or, for another kernel than Coulomb's, of
its difference from erf(eta r)/r. Below, Poisson's summation over the directions that repeat makes
it a sum over waves k,

    2/sqrt(pi) int_0^eta dt (pi/t^2)^(d/2)/|cell| sum_k exp(-k^2/4t^2 + i k.r) exp(-rho^2 t^2),

rho being the part of r along the 3 - d directions that are free, and the integral is left to
Gauss's quadrature. Only the wave k = 0 depends on d: it says what is meant by a sum that does not
converge. Nothing here knows of reduced cells, structure factors or closed forms of a slab's waves.
"""

from collections.abc import Iterator
from itertools import product
from math import factorial, pi, sqrt
from typing import Any

import numpy as np
from scipy import special

from multipoles import checks
from multipoles.indexing import factorials, multi_indices, n_components, signs, sum_index
from multipoles.moments import rotate
from multipoles.radial import Coulomb, Erf, Erfc, Kernel, ReactionField, Softened, Thole, Yukawa
from multipoles.reference import derivatives

# both sums end where exp(-_DECAY^2) times any power that occurs is below rounding
_DECAY = 7.5
_NODES = 24
_CHUNK = 20_000


def field(
    targets: Any,
    sources: Any,
    moments: Any,
    order: int,
    cell: Any,
    periodic: Any = (True, True, True),
    kernel: Kernel | None = None,
    eta: float | None = None,
) -> np.ndarray:
    """Return the field Phi_beta = sum_alpha (-1)^|alpha| M_alpha d^(alpha + beta) G(x - s).

    Parameters
    ----------
    targets : array_like, shape (n_targets, 3)
        Where the field is wanted.
    sources : array_like, shape (n_sources, 3)
        Where the moments are.
    moments : array_like, shape (n_sources, [channels,] n_components(source order))
        Packed moments.
    order : int
        Highest derivative of the field.
    cell : array_like, shape (3, 3)
        Rows are lattice vectors.
    periodic : sequence of three bools
        Which rows repeat; the others are not looked at.
    kernel : Kernel, optional
        Radial kernel; Coulomb by default.
    eta : float, optional
        Where the integral is split, an inverse length. The field does not depend on it.

    Returns
    -------
    ndarray, shape (n_targets, [channels,] n_components(order))
        Always float64. An image at distance zero contributes nothing.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks`; TypeError also for a kernel that has no sum over a lattice.
    """
    x = checks.points(targets, "targets").astype(np.float64)
    s = checks.points(sources, "sources").astype(np.float64)
    packed, source_order, had_channels = checks.moments(moments, len(s))
    rows = np.asarray(cell, dtype=np.float64)[np.flatnonzero(periodic)]
    R = (x[:, None] - s[None]).reshape(-1, 3)
    T = greens_tensor(R, source_order + order, rows, kernel, eta)
    T = T.reshape(len(x), len(s), -1)[..., sum_index(order, source_order)]
    out = np.einsum("sca,tsba->tcb", packed * signs(source_order), T)
    return out if had_channels else out[:, 0]


def greens_tensor(
    R: np.ndarray, order: int, rows: np.ndarray, kernel: Any = None, eta: float | None = None
) -> np.ndarray:
    """Return d^gamma G at vectors R, G being the sum of a kernel over a lattice.

    Parameters
    ----------
    R : ndarray, shape (m, 3)
        Vectors; at one of the lattice the image at distance zero is left out.
    order : int
        Highest order.
    rows : ndarray, shape (d, 3)
        The vectors of the lattice.
    kernel, eta
        As in `field`.

    Returns
    -------
    ndarray, shape (m, n_components(order))

    Raises
    ------
    TypeError
        If the kernel has no sum over a lattice.
    """
    kernel = Coulomb() if kernel is None else kernel
    out = np.zeros((len(R), n_components(order)))
    if isinstance(kernel, Erfc | Yukawa | ReactionField):
        for i, vectors in _images(R, rows, _range(kernel)):
            np.add.at(out, i, derivatives(vectors, order, kernel))
        return out
    if not isinstance(kernel, Coulomb | Erf | Thole | Softened):
        raise TypeError(f"kernel: {kernel!r} has no sum over a lattice")
    d, volume = len(rows), float(sqrt(np.linalg.det(rows @ rows.T)))
    eta = sqrt(pi) / volume ** (1 / d) if eta is None else eta
    for i, vectors in _images(R, rows, max(_DECAY / eta, _range(kernel))):
        np.add.at(out, i, _near(vectors, order, kernel, eta))
        zero = i[(vectors == 0).all(axis=1)]
        out[zero] -= _erf_at_zero(order, eta)
    # in a frame whose first axes span the lattice
    frame = np.linalg.qr(rows.T, mode="complete")[0]
    for start in range(0, len(R), 64):
        part = slice(start, start + 64)
        waves = _waves(R[part] @ frame, order, rows @ frame[:, :d], eta)
        # derivatives turn as products of coordinates do
        out[part] += rotate(waves / factorials(order), frame) * factorials(order)
    out[:, 0] += _rest_of_zero_wave(d, volume, eta)
    return out


def _near(vectors: np.ndarray, order: int, kernel: Kernel, eta: float) -> np.ndarray:
    """Return d^gamma of a kernel less erf(eta r)/r, which the waves hold."""
    if isinstance(kernel, Coulomb):
        return derivatives(vectors, order, Erfc(eta))
    return derivatives(vectors, order, kernel) - derivatives(vectors, order, Erf(eta))


def _range(kernel: Any) -> float:
    """Return the distance from which on a kernel, or its difference from 1/r, is zero."""
    if isinstance(kernel, Coulomb | Yukawa):
        return 0.0 if isinstance(kernel, Coulomb) else 45 / kernel.kappa
    if isinstance(kernel, Thole):
        return float((60 / kernel.a) ** (1 / 3))
    return _DECAY / kernel.alpha if isinstance(kernel, Erf | Erfc) else float(kernel.cutoff)


def _images(
    R: np.ndarray, rows: np.ndarray, reach: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (indices, vectors) of all images of R nearer than `reach`, some thousands at a time.

    A vector that is zero but for rounding is exactly zero.
    """
    inverse = np.linalg.pinv(rows)
    near = R - np.rint(R @ inverse) @ rows
    counts = np.ceil(reach * np.linalg.norm(inverse, axis=0) + 0.5).astype(int)
    shifts = np.array(list(product(*(range(-n, n + 1) for n in counts)))) @ rows
    zero = 1e-10 * np.linalg.norm(rows, axis=1).min()
    step = max(1, _CHUNK // max(len(R), 1))
    for start in range(0, len(shifts), step):
        vectors = near[:, None] + shifts[None, start : start + step]
        lengths = np.linalg.norm(vectors, axis=-1)
        vectors[lengths < zero] = 0.0
        i, j = np.nonzero(lengths < reach)
        yield i, vectors[i, j]


def _erf_at_zero(order: int, eta: float) -> np.ndarray:
    """Return d^gamma erf(eta r)/r at r = 0, from the series in x^2, y^2 and z^2."""
    out = np.zeros(n_components(order))
    for column, gamma in enumerate(multi_indices(order).tolist()):
        if not any(g % 2 for g in gamma):
            k = sum(gamma) // 2
            ways = np.prod([factorial(g) / factorial(g // 2) for g in gamma])
            out[column] = 2 / sqrt(pi) * (-1) ** k * eta ** (2 * k + 1) / (2 * k + 1) * ways
    return out


def _rest_of_zero_wave(d: int, volume: float, eta: float) -> float:
    """Return what the wave k = 0 has from t > eta, beyond the images.

    Three directions: the mean of all erfc(eta r)/r, so that G has none. Two and one: the integral
    of what `_zero_wave` subtracts, so that all of t gives -2 pi |z|/A and -2 ln(rho)/L.
    """
    if d == 3:
        return -pi / (volume * eta**2)
    return -2 * sqrt(pi) / (eta * volume) if d == 2 else -float(special.exp1(eta**2)) / volume


def _waves(R: np.ndarray, order: int, rows: np.ndarray, eta: float) -> np.ndarray:
    """Return d^gamma of the integral over t < eta, in the frame whose last axes are free."""
    d = len(rows)
    volume = float(abs(np.linalg.det(rows)))
    k = _wave_vectors(rows, 2 * _DECAY * eta)
    along, free = R[:, :d], R[:, d:]
    # the last piece must hold no more than the beginning of any of the functions
    smallest = np.linalg.norm(k, axis=1)[1:].min(initial=2 * eta)
    least = min(smallest / 16, 1 / (1 + np.abs(free).max(initial=0.0)))
    t, weights = _quadrature(eta, least)
    weights = weights * 2 / sqrt(pi) * (pi / t**2) ** (d / 2) / volume
    decay = np.exp(-((k**2).sum(axis=1)[:, None] / (4 * t**2)))
    decay[0] = d < 3  # three directions: k = 0 is left out
    phases = np.exp(1j * along @ k.T)
    out = np.zeros((len(R), n_components(order)))
    for column, gamma in enumerate(multi_indices(order).tolist()):
        slopes = np.prod((1j * k) ** np.array(gamma[:d]), axis=1)
        profile = np.ones((len(R), len(t)))
        for axis, g in enumerate(gamma[d:]):
            z = free[:, axis, None] * t
            profile *= (-t) ** g * special.eval_hermite(g, z) * np.exp(-(z**2))
        integrals = profile @ (weights * decay).T
        if column == 0 and d < 3:
            integrals[:, 0] = _zero_wave(free, t) @ weights
        out[:, column] = (phases * integrals * slopes).sum(axis=1).real
    return out


def _zero_wave(free: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the profile of k = 0 with its divergence at t = 0, a constant of R, taken away."""
    exponent = -((free**2).sum(axis=1)[:, None] * t**2)
    return np.expm1(exponent) - (np.expm1(-(t**2)) if free.shape[1] == 2 else 0.0)


def _wave_vectors(rows: np.ndarray, cutoff: float) -> np.ndarray:
    """Return wave vectors up to a cutoff, that of zero first."""
    reciprocal = 2 * pi * np.linalg.inv(rows).T
    counts = np.floor(cutoff * np.linalg.norm(rows, axis=1) / (2 * pi)).astype(int)
    k = np.array(list(product(*(range(-n, n + 1) for n in counts)))) @ reciprocal
    lengths = np.linalg.norm(k, axis=1)
    order = np.argsort(lengths, kind="stable")
    return k[order[lengths[order] <= cutoff]]


def _quadrature(eta: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights for 0 … eta: pieces of half the length each, the last one to 0."""
    ends = [eta]
    while ends[-1] > least:
        ends.append(ends[-1] / 2)
    x, w = np.polynomial.legendre.leggauss(_NODES)
    pieces = list(zip([*ends[1:], 0.0], ends, strict=True))
    t = np.concatenate([a + (b - a) * (1 + x) / 2 for a, b in pieces])
    return t, np.concatenate([(b - a) * w / 2 for a, b in pieces])
