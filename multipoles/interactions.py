"""Fields, energies and forces of multipoles: the checked functions, and the choice of a loop.

`field_arrays` is the same sum without checks, for callers that know what they pass.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from multipoles import _chains, checks, direct_cpu, indexing
from multipoles._jit import run_chunks
from multipoles.neighbours import Neighbours, PairList, Slots
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()
# the radial chain has as many links
MAX_TOTAL_ORDER = _chains.LONGEST


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
        Packed moments of any order K, see `pack`.
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
        If an argument has the wrong type, shape or range, or holds NaN or infinity.
    """
    kernel = kernel_object(kernel)
    order = checks.order(order, maximum=MAX_TOTAL_ORDER)
    x = checks.points(targets, "targets")
    s = x if sources is targets else checks.points(sources, "sources")
    packed, source_order, had_channels = checks.moments(moments, len(s))
    _check_total_order(source_order, order)
    dtype = checks.common_dtype(x, s, packed)
    neighbours = _neighbours(len(x), len(s), pairs, target_batch, source_batch)
    out = field_arrays(
        x.astype(dtype, copy=False), s.astype(dtype, copy=False),
        packed.astype(dtype, copy=False), order, kernel, neighbours,
    )  # fmt: skip
    return out if had_channels else out[:, 0, :]


def _check_total_order(source_order: int, order: int) -> None:
    if source_order + order > MAX_TOTAL_ORDER:
        raise ValueError(
            f"moments of order {source_order} and output of order {order}: their sum may be at "
            f"most {MAX_TOTAL_ORDER}"
        )


def _neighbours(n_targets, n_sources, pairs, target_batch, source_batch) -> Neighbours:
    targets, sources = checks.batches(target_batch, source_batch, n_targets, n_sources)
    if pairs is None:
        return Slots(n_targets, n_sources, targets, sources)
    if targets is not None:
        raise ValueError("give pairs or batches, not both: a pair list needs no system index")
    return PairList(checks.pair_list(pairs, n_targets, n_sources), n_targets, n_sources)


@lru_cache(maxsize=256)
def _tables(source_order: int, order: int, dtype: np.dtype) -> tuple:
    """Return the tables the loops read, offsets counted in numbers of a scratch array."""
    lanes = direct_cpu.BYTES // dtype.itemsize
    top = source_order + order
    table = indexing.recursion_table(top)
    grandparent = np.where(table.weight > 0, table.grandparent * lanes, -1)
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
        Highest derivative.
    kernel : Kernel
        Radial kernel.
    neighbours : Slots or PairList
        Which pairs; made once for many calls. Its `transposed` serves the adjoint.

    Returns
    -------
    ndarray, shape (n_targets, channels, n_components(order))
    """
    n, channels = len(targets), moments.shape[1]
    dtype = targets.dtype
    source_order = indexing.order_of(moments.shape[2])
    n_out = indexing.n_components(order)
    if n == 0 or len(sources) == 0 or channels == 0:
        return np.zeros((n, channels, n_out), dtype)
    out = np.empty((n, channels, n_out), dtype)
    flat = out.reshape(n, channels * n_out)
    signs = _signs(source_order, dtype)
    code, parameters = kernel.code, kernel.parameter_array
    tables = _tables(source_order, order, dtype)
    # a pair of charges costs one; a generic one about a tenth per row and product
    work = neighbours.n_pairs * (1 + 0.3 * len(tables[1]) + 0.1 * tables[4].size * channels)
    if isinstance(neighbours, PairList):
        rows = neighbours.rows

        def task(first: int, last: int) -> None:
            direct_cpu.field_of_rows(
                first, last, targets, sources, moments, signs, rows, code, parameters, tables, flat
            )

        run_chunks(task, n, work)
        return out
    slots, ranges = neighbours.layout(direct_cpu.BYTES // dtype.itemsize)
    packed = direct_cpu.pack_sources(sources, moments, signs, slots)
    if code == _chains.COULOMB and channels == 1 and source_order == 0 and order <= 1:

        def task(first: int, last: int) -> None:
            direct_cpu.charges_of_slots(first, last, targets, packed, ranges, order, flat)

        run_chunks(task, n, neighbours.n_pairs)
        return out

    def task(first: int, last: int) -> None:
        direct_cpu.field_of_slots(
            first, last, targets, packed, ranges, channels, code, parameters, tables, flat
        )

    run_chunks(task, n, work)
    return out
