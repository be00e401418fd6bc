"""Slow, obvious twin of `multipoles.field`, `energy` and `energy_forces`, in float64 NumPy.

It shares no formula with the fast loops. A kernel is expanded as a Taylor series in s = r^2 by
power-series arithmetic, and derivatives by x, y, z follow from the closed sum over the ways to
reach d^gamma from (2 R.t + t.t)^k: no chain B_n, no recursion over multi-indices.
"""

from collections.abc import Callable, Iterator
from math import factorial
from typing import Any

import numpy as np
from scipy import special

from multipoles import checks
from multipoles.indexing import component_index, multi_indices, n_components, order_of
from multipoles.radial import Kernel
from multipoles.radial.checking import python_chain

_CHUNK = 20_000


def field(
    targets: Any,
    sources: Any,
    moments: Any,
    order: int = 1,
    kernel: Any = None,
    pairs: Any = None,
    target_batch: Any = None,
    source_batch: Any = None,
) -> np.ndarray:
    """Return the field Phi_beta = sum_alpha (-1)^|alpha| M_alpha d^(alpha + beta) f(x - s).

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
    kernel : Kernel, optional
        Radial kernel; Coulomb by default.
    pairs : array_like of int, shape (n_pairs, 2), optional
        Columns target, source; all pairs by default.
    target_batch, source_batch : array_like of int, optional
        Sorted system indices; only pairs within one system act.

    Returns
    -------
    ndarray, shape (n_targets, [channels,] n_components(order))
        Always float64. Coincident points contribute nothing.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks`.
    """
    x = checks.points(targets, "targets").astype(np.float64)
    s = checks.points(sources, "sources").astype(np.float64)
    packed, _, had_channels = checks.moments(moments, len(s))
    order = checks.order(order)
    batch = checks.batches(target_batch, source_batch, len(x), len(s))
    listed = checks.pair_list(pairs, len(x), len(s))
    if listed is not None and batch[0] is not None:
        raise ValueError("give pairs or batches, not both: a pair list needs no system index")
    out = np.zeros((len(x), packed.shape[1], n_components(order)))
    for i, j in _pair_chunks(len(x), len(s), listed, batch):
        np.add.at(out, i, _pair_field(x[i] - s[j], packed[j], order, kernel))
    return out if had_channels else out[:, 0]


def energy(
    positions: Any, moments: Any, kernel: Any = None, pair_scale: Any = None, batch: Any = None
) -> float:
    """Return half the double sum of M_i . Phi(i), self excluded, channels summed.

    Parameters
    ----------
    positions : array_like, shape (n, 3)
        Sites.
    moments : array_like, shape (n, [channels,] n_components(order))
        Packed moments.
    kernel : Kernel, optional
        Radial kernel; Coulomb by default.
    pair_scale : tuple (pairs (P, 2), factors (P,)), optional
        Factors of some unordered pairs; all others count once.
    batch : array_like of int, shape (n,), optional
        Sorted system index; only pairs within one system act.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks`.
    """
    packed, _, phi = _site_fields(positions, moments, kernel, pair_scale, batch, extra=0)
    return 0.5 * float((packed * phi).sum())


def energy_forces(
    positions: Any, moments: Any, kernel: Any = None, pair_scale: Any = None, batch: Any = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the energy, the forces at fixed moments, and the energy's gradient by the moments.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch
        As in `energy`.

    Returns
    -------
    energy : float
    forces : ndarray, shape (n, 3)
        -dE/dx at fixed moments.
    moment_gradients : ndarray, shape of `moments`
        dE/dM, which is the field at the site.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks`.
    """
    packed, order, phi = _site_fields(positions, moments, kernel, pair_scale, batch, extra=1)
    forces = np.zeros((len(packed), 3))
    for axis, step in enumerate(np.eye(3, dtype=np.int64)):
        raised = [component_index(*(alpha + step)) for alpha in multi_indices(order)]
        forces[:, axis] = -(packed * phi[..., raised]).sum(axis=(1, 2))
    gradients = phi[..., : n_components(order)]
    total = 0.5 * float((packed * gradients).sum())
    return total, forces, gradients.reshape(np.shape(moments))


def derivatives(R: Any, order: int, kernel: Any = None) -> np.ndarray:
    """Return d^gamma f(|R|) by closed sums over a Taylor series in s = r^2.

    f(|R + t|) = F(s + u) with u = sum_i (2 R_i t_i + t_i^2), so that d^gamma f = sum_j gamma! /
    ((gamma - 2j)! j!) (2R)^(gamma - 2j) F^(|gamma| - |j|)(s) over multi-indices 2j <= gamma.

    Parameters
    ----------
    R : array_like, shape (m, 3)
        Vectors.
    order : int
        Highest order.
    kernel : Kernel, optional
        Radial kernel; Coulomb by default.

    Returns
    -------
    ndarray, shape (m, n_components(order))
        float64; zeros where R is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.
    """
    vectors = checks.points(R, "R").astype(np.float64)
    order = checks.order(order)
    s = (vectors**2).sum(axis=1)
    apart = s > 0
    slopes = np.zeros((order + 1, len(s)))
    slopes[:, apart] = kernel_series(kernel, s[apart], order)
    slopes *= np.array([float(factorial(k)) for k in range(order + 1)])[:, None]
    powers = [(2 * vectors) ** k for k in range(order + 1)]
    out = np.zeros((len(s), n_components(order)))
    for column, (a, b, c) in enumerate(multi_indices(order).tolist()):
        for i in range(a // 2 + 1):
            for j in range(b // 2 + 1):
                for k in range(c // 2 + 1):
                    left = (a - 2 * i, b - 2 * j, c - 2 * k)
                    ways = _multi_factorial(a, b, c) / (
                        _multi_factorial(*left) * _multi_factorial(i, j, k)
                    )
                    shape = powers[left[0]][:, 0] * powers[left[1]][:, 1] * powers[left[2]][:, 2]
                    out[:, column] += ways * shape * slopes[a + b + c - i - j - k]
    return out


def _multi_factorial(a: int, b: int, c: int) -> int:
    return factorial(a) * factorial(b) * factorial(c)


def _pair_field(R: np.ndarray, M: np.ndarray, order: int, kernel: Any) -> np.ndarray:
    """Return the field (pairs, channels, components) of one source each at R = x - s."""
    alphas = multi_indices(order_of(M.shape[-1]))
    tensor = derivatives(R, int(alphas[-1].sum()) + order, kernel)
    phi = np.zeros((*M.shape[:2], n_components(order)))
    for row, beta in enumerate(multi_indices(order)):
        for column, alpha in enumerate(alphas):
            sign = (-1.0) ** int(alpha.sum())
            place = component_index(*(alpha + beta))
            phi[..., row] += sign * M[..., column] * tensor[:, place, None]
    return phi


def _site_fields(
    positions: Any, M: Any, kernel: Any, pair_scale: Any, batch: Any, extra: int
) -> tuple[np.ndarray, int, np.ndarray]:
    """Return moments (n, channels, components), their order, and the scaled field at the sites."""
    x = checks.points(positions, "positions").astype(np.float64)
    moments, order, _ = checks.moments(M, len(x))
    scale = checks.pair_scale(pair_scale, len(x))
    index = checks.batch_index(batch, len(x), "batch")
    factors = np.ones((len(x), len(x)))
    if scale is not None:
        i, j = scale[0].T
        factors[i, j] = factors[j, i] = scale[1]
    phi = np.zeros((*moments.shape[:2], n_components(order + extra)))
    both = None if index is None else (index, index)
    for i, j in _pair_chunks(len(x), len(x), None, both):
        weighted = moments[j] * factors[i, j][:, None, None]
        np.add.at(phi, i, _pair_field(x[i] - x[j], weighted, order + extra, kernel))
    return moments.astype(np.float64), order, phi


def _pair_chunks(
    n_targets: int,
    n_sources: int,
    pairs: np.ndarray | None,
    batch: tuple[np.ndarray, np.ndarray] | tuple[None, None] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (target indices, source indices) of the pairs that act, some thousands at a time."""
    total = n_targets * n_sources if pairs is None else len(pairs)
    for start in range(0, total, _CHUNK):
        places = np.arange(start, min(start + _CHUNK, total))
        i, j = divmod(places, n_sources) if pairs is None else pairs[places].T
        if batch is not None and batch[0] is not None:
            same = batch[0][i] == batch[1][j]
            i, j = i[same], j[same]
        yield i, j


def kernel_series(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    """Return the Taylor coefficients of f as a function of s = r^2 > 0, shape (order + 1, m).

    Raises
    ------
    TypeError
        If the kernel is neither one of those of `multipoles.radial` nor of a class of the user's.
    """
    if isinstance(kernel, Kernel) and kernel.is_custom:
        return _custom(kernel, np.asarray(s, dtype=np.float64), order)
    name = "Coulomb" if kernel is None else type(kernel).__name__
    if name not in _SERIES:
        raise TypeError(f"kernel: expected one of {', '.join(_SERIES)}, got {kernel!r}")
    return _SERIES[name](kernel, np.asarray(s, dtype=np.float64), order)


def _power(s: np.ndarray, p: float, order: int) -> np.ndarray:
    """Return the series of s^p: binomial(p, k) s^(p - k)."""
    out = np.empty((order + 1, len(s)))
    out[0] = s**p
    for k in range(1, order + 1):
        out[k] = out[k - 1] * (p - k + 1) / (k * s)
    return out


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product of two truncated series."""
    return np.stack([(a[: k + 1] * b[k::-1]).sum(axis=0) for k in range(len(a))])


def _exp(a: np.ndarray) -> np.ndarray:
    """Return the series of exp(a), from e' = a' e."""
    out = np.empty_like(a)
    out[0] = np.exp(a[0])
    for k in range(1, len(a)):
        out[k] = sum(j * a[j] * out[k - j] for j in range(1, k + 1)) / k
    return out


def _integral(value: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return the series with the given value and the given series of its derivative."""
    places = np.arange(1, len(slope))[:, None]
    return np.concatenate([value[None], slope[:-1] / places])


def _coulomb(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    return _power(s, -0.5, order)


def _inverse_power(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    return _power(s, -0.5 * kernel.p, order)


def _yukawa(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    return _times(_exp(-kernel.kappa * _power(s, 0.5, order)), _power(s, -0.5, order))


def _erfc(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    # both factors are completely monotone: their product is free of cancellation
    alpha = kernel.alpha
    line = np.zeros((order + 1, len(s)))
    line[0] = -(alpha**2) * s
    line[1:2] = -(alpha**2)
    slope = -alpha / np.sqrt(np.pi) * _times(_exp(line), _power(s, -0.5, order))
    return _times(_integral(special.erfc(alpha * np.sqrt(s)), slope), _power(s, -0.5, order))


def _erf(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    # f = 2 alpha/sqrt(pi) F_0(alpha^2 s), and the Boys functions have F_k' = -F_(k+1)
    x = kernel.alpha**2 * s
    out = np.empty((order + 1, len(s)))
    for k in range(order + 1):
        scale = 2 * kernel.alpha / np.sqrt(np.pi) * (-(kernel.alpha**2)) ** k / factorial(k)
        out[k] = scale * _boys(k, x)
    return out


def _boys(k: int, x: np.ndarray) -> np.ndarray:
    """Return the integral of t^(2k) exp(-x t^2) over t from 0 to 1."""
    small = x < 0.5
    terms = np.arange(20)
    weights = (-1.0) ** terms / (special.factorial(terms) * (2 * k + 2 * terms + 1))
    near = (np.where(small, x, 0.0)[:, None] ** terms) @ weights
    y = np.where(small, 1.0, x)
    far = special.gamma(k + 0.5) * special.gammainc(k + 0.5, y) / (2 * y ** (k + 0.5))
    return np.where(small, near, far)


def _thole(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    a = kernel.a
    y = a * s**1.5
    value = -np.expm1(-y) / np.sqrt(s)
    value += a ** (1 / 3) * special.gamma(2 / 3) * special.gammaincc(2 / 3, y)
    # df/ds = -B_1/2 = -(1 - exp(-y))/(2 r^3); near zero the two terms cancel, its series in y not
    small = y < 1
    slope = np.zeros((order + 1, len(s)))
    for k in range(25):
        slope[:, small] += (-a) ** k / factorial(k + 1) * _power(s[small], 1.5 * k, order)
    slope[:, small] *= -0.5 * a
    far = s[~small]
    gap = -_exp(-a * _power(far, 1.5, order))
    gap[0] = -np.expm1(-y[~small])
    slope[:, ~small] = -0.5 * _times(gap, _power(far, -1.5, order))
    return _integral(value, slope)


def _reaction_field(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    c, eps, m, n = kernel.cutoff, kernel.eps, kernel.m, kernel.n
    dense = 1 + 2 * eps
    a_m = 3 / (m * (n - m)) * (2 * eps + n - 1) / dense * c ** -(m + 1)
    a_n = 3 / (n * (m - n)) * (2 * eps + m - 1) / dense * c ** -(n + 1)
    out = _power(s, -0.5, order) + (eps - 1) / (dense * c**3) * _power(s, 1.0, order)
    out += a_m * _power(s, 0.5 * m, order) + a_n * _power(s, 0.5 * n, order)
    out[0] -= 3 * eps / (dense * c) + a_m * c**m + a_n * c**n
    return np.where(s < c**2, out, 0.0)


def _softened(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    c = kernel.cutoff
    # the polynomial of the series itself, moved from 1 to s/c^2 by differentiation
    poly = np.polynomial.Polynomial([special.binom(-0.5, j) for j in range(kernel.terms)])
    inside = np.empty((order + 1, len(s)))
    for k in range(order + 1):
        slope = poly.deriv(k) if k else poly
        inside[k] = slope(s / c**2 - 1) / (factorial(k) * c ** (2 * k + 1))
    return np.where(s < c**2, inside, _power(s, -0.5, order))


def _custom(kernel: Any, s: np.ndarray, order: int) -> np.ndarray:
    # the user's own chain, run in Python, is all that is known: d^k f/ds^k = (-1/2)^k B_k
    k = np.arange(order + 1)
    return (python_chain(kernel, s, order) * (-0.5) ** k / special.factorial(k)).T


_SERIES: dict[str, Callable[[Any, np.ndarray, int], np.ndarray]] = {
    "Coulomb": _coulomb,
    "Yukawa": _yukawa,
    "Erf": _erf,
    "Erfc": _erfc,
    "Thole": _thole,
    "ReactionField": _reaction_field,
    "InversePower": _inverse_power,
    "Softened": _softened,
}
