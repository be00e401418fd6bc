"""Fields, energies and forces of multipoles: the public functions, which check and dispatch.

Arrays of the CPU go to `multipoles.sums`, in units of their own (`multipoles.extremes`) where their
powers leave the range of numbers; arrays on a GPU go to `multipoles.cuda.interactions`.
"""

from math import isfinite
from typing import Any

import numpy as np

from multipoles import checks, extremes, indexing, scaling, sums
from multipoles.indexing import MAX_TOTAL_ORDER
from multipoles.neighbours import PairList, Slots, neighbours_of
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()


def field(
    targets: Any,
    sources: Any,
    moments: Any,
    order: int = 1,
    kernel: Kernel = _COULOMB,
    pairs: Any = None,
    target_batch: Any = None,
    source_batch: Any = None,
) -> np.ndarray:
    """Return the derivatives of the potential of multipoles at the targets.

    Φ_β(x) = Σ_s Σ_α (-1)^|α| M_α ∂^{α+β} f(x - s), for all |β| up to `order`. Targets may be
    the sources: points at distance zero contribute nothing to each other.

    Parameters
    ----------
    targets : array_like, shape (n_targets, 3)
        Where the field is wanted.
    sources : array_like, shape (n_sources, 3)
        Where the moments are.
    moments : array_like, shape (n_sources, [channels,] n_components(K))
        Packed moments of any order K, see `pack`; charges alone may have shape (n_sources,).
    order : int
        Highest derivative: 0 potential, 1 and gradient, 2 and Hessian, ...
    kernel : Kernel
        Radial kernel f.
    pairs : array_like of int, shape (n_pairs, 2), optional
        (target, source) of the pairs to sum over; default all.
    target_batch, source_batch : array_like of int, optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.

    Returns
    -------
    ndarray, shape (n_targets, [channels,] n_components(order))
        float32 if all inputs are, else float64. In units of moments and lengths with k = 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinity; or if the
        points are so far from the kernel's length that its parameters, in their units, are beyond
        float64.

    Warns
    -----
    RuntimeWarning
        If values of the result are beyond the greatest number of its dtype.

    Notes
    -----
    Arrays on a GPU (Numba, CuPy, torch, JAX, or anything with ``__cuda_array_interface__`` or
    DLPack) are taken without a copy, all of one library, device and dtype; the result is an array
    of that library, computed on its current stream without waiting. Their numbers and indices are
    not checked. Every run gives the same bits.

    An order n of K + `order` needs 1/r^(2n+1). Where that, or a square of a distance, leaves the
    range of the dtype (in float32 at r = 1e-3 or 500 for n = 6), the sum is taken in float64, and
    in units of length and of moments in which it does not: slower, and right wherever the result
    is a number of the dtype; where it is not, a RuntimeWarning says so. On a GPU such sums end as
    infinity, NaN or zero.
    """
    kernel = kernel_object(kernel)
    order = checks.order(order, maximum=MAX_TOTAL_ORDER)
    if any(checks.on_device(array) for array in (targets, sources, moments)):
        from multipoles.cuda import interactions as interactions_cuda

        return interactions_cuda.field(
            targets, sources, moments, order, kernel, pairs, target_batch, source_batch
        )
    x = checks.points(targets, "targets", squares=False)
    s = x if sources is targets else checks.points(sources, "sources", squares=False)
    packed, source_order, had_channels = checks.moments(moments, len(s))
    checks.check_total_order(source_order, order)
    dtype = checks.common_dtype(x, s, packed)
    neighbours = neighbours_of(len(x), len(s), pairs, target_batch, source_batch)
    x, s, packed = (array.astype(dtype, copy=False) for array in (x, s, packed))
    given = (x, s, packed, order, kernel, neighbours)
    out = None
    if scaling.fits(x, s, packed, source_order + order, kernel.power):
        out = sums.field_arrays(*given)
    if out is None or not np.isfinite(out).all():
        out = extremes.field(*given, direct=out)
    return out if had_channels else out[:, 0, :]


def energy(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
) -> float:
    """Return the energy of multipoles: half the double sum of M_i Φ(x_i), self excluded.

    Parameters
    ----------
    positions : array_like, shape (n, 3)
        Where the moments are.
    moments : array_like, shape (n, [channels,] n_components(K))
        Packed moments, see `pack`; charges alone may have shape (n,). Channels do not see each
        other; their energies are added.
    kernel : Kernel
        Radial kernel f.
    pair_scale : tuple (pairs, factors), optional
        Unordered pairs (P, 2) whose interaction is multiplied by a factor (P,): exclusions and
        covalent scaling. Dipoles and quadrupoles leave scaled pairs out of the sum; with charges
        alone, higher orders or several channels, and on a GPU, they are subtracted from it in
        float64, which costs digits where such a pair is far closer than others.
    batch : array_like of int, shape (n,), optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.

    Returns
    -------
    float
        In units of moments and lengths with k = 1.

    Raises
    ------
    TypeError, ValueError
        See `field`.

    Warns
    -----
    RuntimeWarning
        If the energy, or a term of it, is beyond the greatest float64.
    """
    if checks.on_device(positions) or checks.on_device(moments):
        return energy_forces(positions, moments, kernel, pair_scale, batch)[0]
    x, packed, kernel, neighbours, scaled = _sites(
        positions, moments, kernel, pair_scale, batch, extra=0
    )
    if _fits(x, packed, kernel, extra=0):
        if sums.is_two_sided(packed):
            phi = sums.energy_forces_arrays(x, packed, kernel, neighbours, scaled)[2]
        else:
            phi = sums.site_field(x, packed, 0, kernel, neighbours, scaled)
        total = sums.half_product(packed, phi)
        if isfinite(total):
            return total
    return extremes.energy(x, packed, kernel, neighbours, scaled)


def _fits(x: np.ndarray, moments: np.ndarray, kernel: Kernel, extra: int) -> bool:
    top = 2 * indexing.order_of(moments.shape[2]) + extra
    return scaling.fits(x, x, moments, top, kernel.power, products=sums.is_two_sided(moments))


def energy_forces(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return energy, forces at fixed moments, and the gradient by the moments.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch
        See `energy`.

    Returns
    -------
    energy : float
    forces : ndarray, shape (n, 3)
        -∂E/∂x at fixed moments. If moments turn with a molecule, add what the torques
        (`torques`) do to it.
    moment_gradients : ndarray, shape of `moments`
        ∂E/∂M, the field at each site.

    Raises
    ------
    TypeError, ValueError
        See `field`.

    Warns
    -----
    RuntimeWarning
        If values of the result are beyond the greatest number of their dtype.
    """
    if checks.on_device(positions) or checks.on_device(moments):
        from multipoles.cuda import interactions as interactions_cuda

        return interactions_cuda.energy_forces(
            positions, moments, kernel_object(kernel), pair_scale, batch
        )
    x, packed, kernel, neighbours, scaled = _sites(
        positions, moments, kernel, pair_scale, batch, extra=1
    )
    result = None
    if _fits(x, packed, kernel, extra=1):
        result = sums.energy_forces_arrays(x, packed, kernel, neighbours, scaled)
    if result is None or not all(np.isfinite(part).all() for part in result):
        result = extremes.energy_forces(x, packed, kernel, neighbours, scaled)
    total, forces, gradients = result
    return total, forces, gradients.reshape(np.shape(moments))


def _sites(
    positions: Any, moments: Any, kernel: Kernel, pair_scale: Any, batch: Any, extra: int
) -> tuple[np.ndarray, np.ndarray, Kernel, Slots, PairList | None]:
    """Return the checked arguments of `energy`: points, moments, kernel, all and scaled pairs."""
    kernel = kernel_object(kernel)
    x = checks.points(positions, "positions", squares=False)
    packed, order, _ = checks.moments(moments, len(x))
    checks.check_total_order(order, order + extra)
    scale = checks.pair_scale(pair_scale, len(x))
    index = checks.batch_index(batch, len(x), "batch")
    dtype = checks.common_dtype(x, packed)
    scaled = None
    if scale is not None and len(scale[0]):
        pairs, factors = scale
        if index is not None:
            inside = index[pairs[:, 0]] == index[pairs[:, 1]]
            pairs, factors = pairs[inside], factors[inside]
        both = np.concatenate([pairs, pairs[:, ::-1]])
        scaled = PairList(both, len(x), len(x), np.tile(factors, 2))
    neighbours = Slots(len(x), len(x), index, index)
    return (
        x.astype(dtype, copy=False), packed.astype(dtype, copy=False), kernel, neighbours, scaled
    )  # fmt: skip
