"""Direct sums over arrays of the CPU, without checks: the loop, its tables and its threads."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from multipoles import direct_cpu, indexing, layout, two_sided_cpu
from multipoles.compiled.jit import run_chunks
from multipoles.compiled.simd import BYTES
from multipoles.emitted.field import MAX_EMITTED, field_of_pairs, field_of_tiles
from multipoles.neighbours import Neighbours, PairList, Slots
from multipoles.radial import Coulomb, Kernel

# sums of at least this cost, in pairs of charges, have loops written for their orders: the loop for
# any order would take about 20 ms, or 5 for listed pairs, where sums are made often for one list
_EMIT_FROM, _EMIT_LISTED_FROM = 6e7, 2e6
# charges under 1/r have a loop of their own, which is nearly as fast
_EMIT_CHARGES_FROM = 4e8
# targets for which a block of sources is copied once
_TILE = 128
# writes the results of a range of targets
_Task = Callable[[int, int], None]
# the loop over unordered pairs takes quadrupoles as symmetric matrices, of which a packed
# off-diagonal component holds two
_HALVES = np.array([1, 1, 1, 1, 1, 0.5, 0.5, 1, 0.5, 1])


@lru_cache(maxsize=256)
def _tables(source_order: int, order: int, dtype: np.dtype) -> tuple[Any, ...]:
    """Return the tables the loops read, offsets counted in numbers of a scratch array."""
    lanes = BYTES // dtype.itemsize
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
    if _pays_to_emit(moments, order, kernel, neighbours):
        _emitted_field(targets, sources, moments, order, kernel, neighbours, out)
        return out
    if isinstance(neighbours, PairList):
        task = _task_of_rows(targets, sources, moments, order, kernel, neighbours, flat)
    else:
        task = _task_of_slots(targets, sources, moments, order, kernel, neighbours, flat)
    run_chunks(task, n, neighbours.n_pairs * _cost(moments, order, kernel))
    return out


def _pays_to_emit(moments: np.ndarray, order: int, kernel: Kernel, neighbours: Neighbours) -> bool:
    """Return whether a loop of its own, which takes a second to compile once, is worth it."""
    total = indexing.order_of(moments.shape[2]) + order
    if total > MAX_EMITTED:
        return False
    # the cheapest of sums over lists are no faster
    listed = isinstance(neighbours, PairList) and total > 0
    least = _EMIT_LISTED_FROM if listed else _EMIT_FROM
    if _is_charge_field(moments, order, kernel):
        least = _EMIT_CHARGES_FROM
    return neighbours.n_pairs * _cost(moments, order, kernel) >= least


def _emitted_field(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    neighbours: Neighbours,
    out: np.ndarray,
) -> None:
    # beyond the reach of a damped kernel its chain is that of 1/r to the last digit
    links = indexing.order_of(moments.shape[2]) + order
    reach = kernel.coulomb_beyond(float(np.finfo(targets.dtype).eps) / 8, links)
    given = targets, sources, moments, order
    if isinstance(neighbours, PairList):
        field_of_pairs(*given, neighbours.rows, out, kernel, reach)
    else:
        field_of_tiles(*given, neighbours.tiles(_TILE), out, kernel=kernel, reach=reach)


def _is_charge_field(moments: np.ndarray, order: int, kernel: Kernel) -> bool:
    return moments.shape[1:] == (1, 1) and order <= 1 and kernel.code == Coulomb.code


def _cost(moments: np.ndarray, order: int, kernel: Kernel) -> float:
    """Return the cost of one pair, one being that of two charges."""
    if _is_charge_field(moments, order, kernel):
        return 1.0
    top = order + indexing.order_of(moments.shape[2])
    rows = _rows(top)
    return 2 + 0.7 * rows + 0.3 * moments.shape[1] * moments.shape[2] * indexing.n_components(order)


@lru_cache
def _rows(top: int) -> int:
    return sum(indexing.n_components(n) for n in range(top + 1))


def _task_of_rows(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    pairs: PairList,
    out: np.ndarray,
) -> _Task:
    source_order = indexing.order_of(moments.shape[2])
    signs = _signs(source_order, targets.dtype)
    tables = _tables(source_order, order, targets.dtype)

    def task(first: int, last: int) -> None:
        scratch = direct_cpu.scratch(tables[0], out.shape[1], targets.dtype)
        lanes = BYTES // targets.itemsize
        block = layout.aligned((3 + moments[0].size) * lanes, targets.dtype)
        direct_cpu.field_of_rows(
            first, last, targets, sources, moments, signs, pairs.rows, kernel.code,
            kernel.parameter_array, tables, scratch, block, out,
        )  # fmt: skip

    return task


def _task_of_slots(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    neighbours: Slots,
    out: np.ndarray,
) -> _Task:
    dtype = targets.dtype
    source_order, channels = indexing.order_of(moments.shape[2]), moments.shape[1]
    slots, ranges = neighbours.layout(BYTES // dtype.itemsize)
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
    # without pairs to leave out, the loop that is written for dipoles does both sides sooner
    one_sided = scaled is None and order == 1 and _pays_to_emit(moments, 2, kernel, neighbours)
    if one_sided or not is_two_sided(moments):
        phi = site_field(positions, moments, 1, kernel, neighbours, scaled)
        gradients = np.ascontiguousarray(phi[..., : moments.shape[2]])
        return half_product(moments, gradients), forces_of(moments, phi, order), gradients
    forces, gradients = _two_sided(positions, moments, kernel, neighbours, scaled)
    if scaled is not None:
        phi = field_arrays(positions, positions, moments, order + 1, kernel, scaled)
        forces += forces_of(moments, phi, order)
        gradients += phi[..., : moments.shape[2]]
    return half_product(moments, gradients), forces, gradients


def is_two_sided(moments: np.ndarray) -> bool:
    """Dipoles and quadrupoles have a loop over unordered pairs; charges are faster one-sided."""
    return moments.shape[1] == 1 and moments.shape[2] in (4, 10)


def site_field(
    x: np.ndarray,
    moments: np.ndarray,
    extra: int,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None,
) -> np.ndarray:
    """Return the field of all sites at all, of `extra` orders more than the moments'."""
    order = indexing.order_of(moments.shape[2]) + extra
    if scaled is None:
        return field_arrays(x, x, moments, order, kernel, neighbours)
    # scaled pairs are in the sum of all and leave it by subtraction: they may be close, so the
    # difference is taken in float64
    points, wide = x.astype(np.float64), moments.astype(np.float64)
    phi = field_arrays(points, points, wide, order, kernel, neighbours)
    phi += field_arrays(points, points, wide, order, kernel, scaled.less_one())
    return phi.astype(x.dtype)


def half_product(moments: np.ndarray, phi: np.ndarray) -> float:
    """Return the energy of moments in their field."""
    return 0.5 * float(np.einsum("nck,nck->", moments, phi, dtype=np.float64))


def forces_of(moments: np.ndarray, phi: np.ndarray, order: int) -> np.ndarray:
    """Return -Σ_β M_β Φ_{β+e} for the three unit steps e."""
    raised = indexing.sum_index(order, 1)[:, 1:]
    return -np.einsum("nck,ncka->na", moments, phi[..., raised])


def _two_sided(
    x: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    neighbours: Slots,
    scaled: PairList | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return forces and moment gradients by the loop over unordered pairs, but the scaled ones."""
    n, width, dtype = len(x), moments.shape[2], x.dtype
    if n == 0:
        return np.zeros((0, 3), dtype), np.zeros_like(moments)
    if width < 10:
        moments = np.pad(moments, ((0, 0), (0, 0), (0, 10 - width)))
    slots, ranges = neighbours.layout(BYTES // dtype.itemsize)
    packed = direct_cpu.pack_sources(x, moments, _HALVES.astype(dtype), slots)
    starts, partners = np.zeros(n + 1, np.int64), np.empty(0, np.int64)
    if scaled is not None:
        place_of = np.flatnonzero(slots >= 0)[np.argsort(slots[slots >= 0])]
        starts, partners = scaled.rows[0], place_of[scaled.rows[1]]

    def task(first: int, last: int) -> np.ndarray:
        sums = layout.aligned(len(packed), dtype)
        sums[:] = 0
        two_sided_cpu.two_sided(
            first, last, packed, slots, ranges, (starts, partners), kernel.code,
            kernel.parameter_array, two_sided_cpu.scratch(dtype, len(slots)), sums,
        )  # fmt: skip
        return sums

    # every chunk has sums of its own, added in order: only their number changes the last digits
    parts = run_chunks(task, len(slots), 8.0 * neighbours.n_pairs)
    blocks = sum(parts[1:], start=parts[0]).reshape(-1, 13, BYTES // dtype.itemsize)
    rows = blocks.transpose(0, 2, 1).reshape(-1, 13)[slots >= 0]
    return -rows[:, :3], np.ascontiguousarray(rows[:, None, 3 : 3 + width])
