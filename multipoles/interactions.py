"""Fields, energies and forces of multipoles: the checked functions, and the choice of a loop.

`field_arrays` and `energy_forces_arrays` are the same sums without checks, for callers that know
what they pass. Arrays on a GPU go to `multipoles.cuda.interactions`.
"""

from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np

from multipoles import chains, checks, direct_cpu, indexing, scaling, two_sided_cpu
from multipoles.compiled.jit import run_chunks
from multipoles.neighbours import Neighbours, PairList, Slots
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()
_HALVES = np.array([1, 1, 1, 1, 1, 0.5, 0.5, 1, 0.5, 1])
# the radial chain has as many links
MAX_TOTAL_ORDER = chains.LONGEST


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
    check_total_order(source_order, order)
    dtype = checks.common_dtype(x, s, packed)
    neighbours = neighbours_of(len(x), len(s), pairs, target_batch, source_batch)
    x, s, packed = (array.astype(dtype, copy=False) for array in (x, s, packed))
    given = (x, s, packed, order, kernel, neighbours)
    out = None
    if scaling.fits(x, s, packed, source_order + order, kernel.power):
        out = field_arrays(*given)
    if out is None or not np.isfinite(out).all():
        from multipoles import extremes

        out = extremes.field(*given, found=out)
    return out if had_channels else out[:, 0, :]


def check_total_order(source_order: int, order: int) -> None:
    """Raise a ValueError if a source and an output order are together too high for the tables."""
    if source_order + order > MAX_TOTAL_ORDER:
        raise ValueError(
            f"moments of order {source_order} and output of order {order}: their sum may be at "
            f"most {MAX_TOTAL_ORDER}"
        )


def neighbours_of(
    n_targets: int, n_sources: int, pairs: Any, target_batch: Any, source_batch: Any
) -> Neighbours:
    """Return who meets whom, from the checked arguments of `field`."""
    targets, sources = checks.batches(target_batch, source_batch, n_targets, n_sources)
    listed = checks.pair_list(pairs, n_targets, n_sources)
    if listed is None:
        return Slots(n_targets, n_sources, targets, sources)
    if targets is not None:
        raise ValueError("give pairs or batches, not both: a pair list needs no system index")
    return PairList(listed, n_targets, n_sources)


@lru_cache(maxsize=256)
def _tables(source_order: int, order: int, dtype: np.dtype) -> tuple:
    """Return the tables the loops read, offsets counted in numbers of a scratch array."""
    lanes = direct_cpu.BYTES // dtype.itemsize
    top = source_order + order
    table = indexing.recursion_table(top)
    grandparent = table.grandparent * lanes
    recursion = np.stack([table.axis * lanes, table.parent * lanes, grandparent], axis=1)
    levels = np.array([indexing.n_components(n) for n in range(top + 1)])
    places = np.ascontiguousarray(indexing.sum_index(source_order, order).T * lanes)
    return top, recursion, table.weight.astype(dtype), levels, places


@lru_cache(maxsize=64)
def _signs(order: int, dtype: np.dtype) -> np.ndarray:
    return indexing.signs(order).astype(dtype)


def field_arrays(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    neighbours: Neighbours,
) -> np.ndarray:
    """Return the field like `field`, without checks.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        Contiguous, of one dtype: float32 or float64.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        Contiguous, of the same dtype.
    order : int
        Highest derivative; K + order at most `MAX_TOTAL_ORDER`.
    kernel : Kernel
        Radial kernel.
    neighbours : Slots or PairList
        Which pairs; made once for many calls. Its `transposed` serves the adjoint.

    Returns
    -------
    ndarray, shape (n_targets, channels, n_components(order))
    """
    n, channels = len(targets), moments.shape[1]
    n_out = indexing.n_components(order)
    if n == 0 or len(sources) == 0 or channels == 0:
        return np.zeros((n, channels, n_out), targets.dtype)
    out = np.empty((n, channels, n_out), targets.dtype)
    flat = out.reshape(n, channels * n_out)
    if isinstance(neighbours, PairList):
        task = _task_of_rows(targets, sources, moments, order, kernel, neighbours, flat)
    else:
        task = _task_of_slots(targets, sources, moments, order, kernel, neighbours, flat)
    run_chunks(task, n, neighbours.n_pairs * _cost(moments, order, kernel))
    return out


def _is_charge_field(moments: np.ndarray, order: int, kernel: Kernel) -> bool:
    return moments.shape[1:] == (1, 1) and order <= 1 and kernel.code == chains.COULOMB


def _cost(moments: np.ndarray, order: int, kernel: Kernel) -> float:
    """Return the cost of one pair, one being that of two charges."""
    if _is_charge_field(moments, order, kernel):
        return 1.0
    top = order + indexing.order_of(moments.shape[2])
    rows = sum(indexing.n_components(n) for n in range(top + 1))
    return 2 + 0.7 * rows + 0.3 * moments[0].size * indexing.n_components(order)


def _task_of_rows(targets, sources, moments, order, kernel, pairs, out):
    source_order = indexing.order_of(moments.shape[2])
    signs = _signs(source_order, targets.dtype)
    tables = _tables(source_order, order, targets.dtype)

    def task(first: int, last: int) -> None:
        scratch = direct_cpu.scratch(tables[0], out.shape[1], targets.dtype)
        lanes = direct_cpu.BYTES // targets.itemsize
        block = direct_cpu.aligned((3 + moments[0].size) * lanes, targets.dtype)
        direct_cpu.field_of_rows(
            first, last, targets, sources, moments, signs, pairs.rows, kernel.code,
            kernel.parameter_array, tables, scratch, block, out,
        )  # fmt: skip

    return task


def _task_of_slots(targets, sources, moments, order, kernel, neighbours, out):
    dtype = targets.dtype
    source_order, channels = indexing.order_of(moments.shape[2]), moments.shape[1]
    slots, ranges = neighbours.layout(direct_cpu.BYTES // dtype.itemsize)
    packed = direct_cpu.pack_sources(sources, moments, _signs(source_order, dtype), slots)

    def task_charges(first: int, last: int) -> None:
        direct_cpu.charges_of_slots(first, last, targets, packed, ranges, order, out)

    def task(first: int, last: int) -> None:
        scratch = direct_cpu.scratch(source_order + order, out.shape[1], dtype)
        direct_cpu.field_of_slots(
            first, last, targets, packed, ranges, channels, kernel.code, kernel.parameter_array,
            _tables(source_order, order, dtype), scratch, out,
        )  # fmt: skip

    return task_charges if _is_charge_field(moments, order, kernel) else task


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
        if _is_two_sided(packed):
            phi = energy_forces_arrays(x, packed, kernel, neighbours, scaled)[2]
        else:
            phi = _site_field(x, packed, 0, kernel, neighbours, scaled)
        total = _half_product(packed, phi)
        if isfinite(total):
            return total
    from multipoles import extremes

    return extremes.energy(x, packed, kernel, neighbours, scaled)


def _fits(x: np.ndarray, moments: np.ndarray, kernel: Kernel, extra: int) -> bool:
    top = 2 * indexing.order_of(moments.shape[2]) + extra
    return scaling.fits(x, x, moments, top, kernel.power, products=_is_two_sided(moments))


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
    found = None
    if _fits(x, packed, kernel, extra=1):
        found = energy_forces_arrays(x, packed, kernel, neighbours, scaled)
    if found is None or not all(np.isfinite(part).all() for part in found):
        from multipoles import extremes

        found = extremes.energy_forces(x, packed, kernel, neighbours, scaled)
    total, forces, gradients = found
    return total, forces, gradients.reshape(np.shape(moments))


def energy_forces_arrays(
    positions: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return what `energy_forces` returns, without checks.

    Parameters
    ----------
    positions : ndarray, shape (n, 3)
        Contiguous, float32 or float64.
    moments : ndarray, shape (n, channels, n_components(K))
        Contiguous, of the same dtype.
    kernel : Kernel
        Radial kernel.
    neighbours : Slots
        With targets and sources the same points.
    scaled : PairList, optional
        Both directions of the scaled pairs; weights are the factors.

    Returns
    -------
    energy : float
    forces : ndarray, shape (n, 3)
    moment_gradients : ndarray, shape (n, channels, n_components(K))
    """
    order = indexing.order_of(moments.shape[2])
    if not _is_two_sided(moments):
        phi = _site_field(positions, moments, 1, kernel, neighbours, scaled)
        gradients = np.ascontiguousarray(phi[..., : moments.shape[2]])
        return _half_product(moments, gradients), _forces(moments, phi, order), gradients
    forces, gradients = _two_sided(positions, moments, kernel, neighbours, scaled)
    if scaled is not None:
        phi = field_arrays(positions, positions, moments, order + 1, kernel, scaled)
        forces += _forces(moments, phi, order)
        gradients += phi[..., : moments.shape[2]]
    return _half_product(moments, gradients), forces, gradients


def _sites(positions, moments, kernel, pair_scale, batch, extra):
    """Return the checked arguments of `energy`: points, moments, kernel, all and scaled pairs."""
    kernel = kernel_object(kernel)
    x = checks.points(positions, "positions", squares=False)
    packed, order, _ = checks.moments(moments, len(x))
    check_total_order(order, order + extra)
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


def _is_two_sided(moments: np.ndarray) -> bool:
    """Dipoles and quadrupoles have a loop over unordered pairs; charges are faster one-sided."""
    return moments.shape[1] == 1 and moments.shape[2] in (4, 10)


def _site_field(x, moments, extra, kernel, neighbours, scaled) -> np.ndarray:
    order = indexing.order_of(moments.shape[2]) + extra
    if scaled is None:
        return field_arrays(x, x, moments, order, kernel, neighbours)
    # scaled pairs are in the sum of all and leave it by subtraction: they may be close, so the
    # difference is taken in float64
    points, wide = x.astype(np.float64), moments.astype(np.float64)
    less = PairList(scaled.pairs, len(x), len(x), scaled.weights - 1.0)
    phi = field_arrays(points, points, wide, order, kernel, neighbours)
    phi += field_arrays(points, points, wide, order, kernel, less)
    return phi.astype(x.dtype)


def _half_product(moments: np.ndarray, phi: np.ndarray) -> float:
    return 0.5 * float(np.einsum("nck,nck->", moments, phi, dtype=np.float64))


def _forces(moments: np.ndarray, phi: np.ndarray, order: int) -> np.ndarray:
    """Return -Σ_β M_β Φ_{β+e} for the three unit steps e."""
    raised = indexing.sum_index(order, 1)[:, 1:]
    return -np.einsum("nck,ncka->na", moments, phi[..., raised])


def _two_sided(x, moments, kernel, neighbours, scaled) -> tuple[np.ndarray, np.ndarray]:
    """Return forces and moment gradients by the loop over unordered pairs, but the scaled ones."""
    n, width, dtype = len(x), moments.shape[2], x.dtype
    if n == 0:
        return np.zeros((0, 3), dtype), np.zeros_like(moments)
    if width < 10:
        moments = np.pad(moments, ((0, 0), (0, 0), (0, 10 - width)))
    slots, ranges = neighbours.layout(direct_cpu.BYTES // dtype.itemsize)
    packed = direct_cpu.pack_sources(x, moments, _HALVES.astype(dtype), slots)
    starts, partners = np.zeros(n + 1, np.int64), np.empty(0, np.int64)
    if scaled is not None:
        place_of = np.flatnonzero(slots >= 0)[np.argsort(slots[slots >= 0])]
        starts, partners = scaled.rows[0], place_of[scaled.rows[1]]

    def task(first: int, last: int) -> np.ndarray:
        sums = direct_cpu.aligned(len(packed), dtype)
        sums[:] = 0
        two_sided_cpu.two_sided(
            first, last, packed, slots, ranges, (starts, partners), kernel.code,
            kernel.parameter_array, two_sided_cpu.scratch(dtype, len(slots)), sums,
        )  # fmt: skip
        return sums

    # each chunk has its own sums, added in order: the result depends on their number only
    parts = run_chunks(task, len(slots), 8.0 * neighbours.n_pairs)
    blocks = sum(parts[1:], start=parts[0]).reshape(-1, 13, direct_cpu.BYTES // dtype.itemsize)
    rows = blocks.transpose(0, 2, 1).reshape(-1, 13)[slots >= 0]
    return -rows[:, :3], np.ascontiguousarray(rows[:, None, 3 : 3 + width])
