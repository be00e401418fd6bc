"""Slow, obvious twin of `multipoles.field`, `energy` and `energy_forces`, in float64 NumPy.

It shares no formula with the fast loops. A kernel is expanded as a Taylor series in s = r^2 by
power-series arithmetic, and derivatives by x, y, z follow from the closed sum over the ways to
reach d^gamma from (2 R.t + t.t)^k: no chain B_n, no recursion over multi-indices.
"""

from collections.abc import Callable, Iterator
from math import factorial, prod
from typing import Any

import numpy as np
from scipy import special

from multipoles import checks
from multipoles.indexing import component_index, multi_indices, n_components, orders
from multipoles.radial import Coulomb

_CHUNK = 20_000


def field(
    targets: Any,
    sources: Any,
    M: Any,
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
    M : array_like, shape (n_sources, [channels,] n_components(source order))
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
    x, s = checks.points(targets, "targets"), checks.points(sources, "sources")
    moments, _, had_channels = checks.moments(M, len(s))
    order = checks.order(order)
    batch = checks.batches(target_batch, source_batch, len(x), len(s))
    listed = checks.pair_list(pairs, len(x), len(s))
    out = np.zeros((len(x), moments.shape[1], n_components(order)))
    for i, j in _pair_chunks(len(x), len(s), listed, batch):
        out += _scatter(i, len(x), _pair_field(x[i] - s[j], moments[j], order, kernel))
    return out if had_channels else out[:, 0]


def energy(
    positions: Any, M: Any, kernel: Any = None, pair_scale: Any = None, batch: Any = None
) -> float:
    """Return half the double sum of M_i . Phi(i), self excluded, channels summed.

    Parameters
    ----------
    positions : array_like, shape (n, 3)
        Sites.
    M : array_like, shape (n, [channels,] n_components(order))
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
    x, moments, phi = _site_fields(positions, M, kernel, pair_scale, batch, extra=0)
    return 0.5 * float((moments * phi).sum()) if len(x) else 0.0


def energy_forces(
    positions: Any, M: Any, kernel: Any = None, pair_scale: Any = None, batch: Any = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the energy, the forces at fixed moments, and the energy's gradient by the moments.

    Parameters
    ----------
    positions, M, kernel, pair_scale, batch
        As in `energy`.

    Returns
    -------
    energy : float
    forces : ndarray, shape (n, 3)
        -dE/dx at fixed moments.
    moment_gradients : ndarray, shape of `M`
        dE/dM, which is the field at the site.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.checks`.
    """
    x, moments, phi = _site_fields(positions, M, kernel, pair_scale, batch, extra=1)
    kept = moments.shape[-1]
    alphas = multi_indices(int(orders_of(kept)))
    forces = np.zeros((len(x), 3))
    for axis, step in enumerate(np.eye(3, dtype=np.int64)):
        raised = [component_index(*(alpha + step)) for alpha in alphas]
        forces[:, axis] = -(moments * phi[..., raised]).sum(axis=(1, 2))
    gradients = phi[..., :kept]
    total = 0.5 * float((moments * gradients).sum())
    return total, forces, gradients.reshape(np.shape(M))
