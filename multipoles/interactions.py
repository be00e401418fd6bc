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
    *,
    cell: Any = None,
    periodic: Any = True,
    tolerance: float | None = None,
    background: bool = True,
    surface: str = "conductor",
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
    cell : array_like, shape (3, 3) or (n_systems, 3, 3), optional
        Lattice vectors as rows: the sum is over all images of the sources, see Notes. With
        batches, one cell for all systems or one for each.
    periodic : bool or three bools
        Along which rows of `cell` the system repeats; the other rows have no meaning.
    tolerance : float, optional
        With a cell: relative error that is aimed at, 1e-14 … 0.1. Default: 1e-13, or 1e-6 if all
        inputs are float32.
    background : bool
        Whether a charged cell gets a uniform background; False refuses it.
    surface : {"conductor", "vacuum"}
        What a crystal that repeats in three directions ends in.

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

    **In a cell.** Φ is the sum over all images s + n·cell. A source that coincides with a target,
    or an image of it, contributes nothing from there, but its other images do. Under 1/r the sum
    does not converge by itself, and means: along three directions, the potential of which the mean
    over the cell is zero, that of a crystal in a conductor ("tin foil"), with a uniform background
    if the cell is charged; ``surface="vacuum"`` adds -2π r²/(3V) to the kernel, that of a sphere of
    crystal in vacuum. Along two (a slab), the potential whose mean over planes is -2π|z| times the
    charge per area, along one (a wire), -2 ln ρ times the charge per length. Nothing is padded.
    Kernels that are 1/r from some distance on (`Erf`, `Thole`, `Softened`) differ from it in the
    sum over images of the difference, kernels that decay (`Erfc`, `Yukawa`, `ReactionField`) are
    summed as they are; others are refused. The result does not depend on which cell of the lattice
    is given, nor on which image of a point.
    """
    kernel = kernel_object(kernel)
    order = checks.order(order, maximum=MAX_TOTAL_ORDER)
    if any(checks.on_device(array) for array in (targets, sources, moments)):
        _refuse_cell(cell)
        from multipoles.cuda import interactions as interactions_cuda

        return interactions_cuda.field(
            targets, sources, moments, order, kernel, pairs, target_batch, source_batch
        )
    x = checks.points(targets, "targets", squares=False)
    s = x if sources is targets else checks.points(sources, "sources", squares=False)
    packed, source_order, had_channels = checks.moments(moments, len(s))
    checks.check_total_order(source_order, order)
    dtype = checks.common_dtype(x, s, packed)
    lattice = _lattice(cell, periodic, tolerance, background, surface, target_batch)
    if lattice is not None:
        if pairs is not None:
            raise ValueError("give pairs or a cell, not both: a cell says which images are summed")
        batches = checks.batches(target_batch, source_batch, len(x), len(s))
        same, x = s is x, x.astype(dtype, copy=False)
        s = x if same else s.astype(dtype, copy=False)
        values = packed.astype(dtype, copy=False)
        found = _periodic().field(x, s, values, order, kernel, lattice, batches)
        return found if had_channels else found[:, 0, :]
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
    *,
    cell: Any = None,
    periodic: Any = True,
    tolerance: float | None = None,
    background: bool = True,
    surface: str = "conductor",
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
    cell, periodic, tolerance, background, surface
        See `field`. The energy is that of one cell, half the sum of M_i Φ(x_i) over its sites. Of
        a scaled pair, the two nearest images are meant.

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
        _refuse_cell(cell)
        return energy_forces(positions, moments, kernel, pair_scale, batch)[0]
    lattice = _lattice(cell, periodic, tolerance, background, surface, batch)
    if lattice is not None:
        return _sites_in_cell(positions, moments, kernel, pair_scale, batch, lattice, 0)[0]
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
    *,
    cell: Any = None,
    periodic: Any = True,
    tolerance: float | None = None,
    background: bool = True,
    surface: str = "conductor",
    virial: bool = False,
) -> tuple[Any, ...]:
    """Return energy, forces at fixed moments, and the gradient by the moments.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch
        See `energy`.
    cell, periodic, tolerance, background, surface
        See `field` and `energy`.
    virial : bool
        Whether to return the virial, too; needs a cell.

    Returns
    -------
    energy : float
    forces : ndarray, shape (n, 3)
        -∂E/∂x at fixed moments. If moments turn with a molecule, add what the torques
        (`torques`) do to it.
    moment_gradients : ndarray, shape of `moments`
        ∂E/∂M, the field at each site.
    virial : ndarray, shape (3, 3), or (n_systems, 3, 3) with a batch
        If it is asked for: ∂E/∂ε_ab, where points and lattice vectors are strained, x_a ->
        x_a + ε_ab x_b, and moments stay as they are. The stress is this over the volume. For
        charges its trace is minus the energy.

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
        _refuse_cell(cell)
        from multipoles.cuda import interactions as interactions_cuda

        return interactions_cuda.energy_forces(
            positions, moments, kernel_object(kernel), pair_scale, batch
        )
    lattice = _lattice(cell, periodic, tolerance, background, surface, batch)
    if lattice is not None:
        given = positions, moments, kernel, pair_scale, batch, lattice
        total, phi, packed, strain = _sites_in_cell(*given, 1, virial)
        order = indexing.order_of(packed.shape[2])
        gradients = np.ascontiguousarray(phi[..., : packed.shape[2]])
        found = total, sums.forces_of(packed, phi, order), gradients.reshape(np.shape(moments))
        return (*found, strain) if virial else found
    if virial:
        raise ValueError("virial: expected a cell, whose strain it is the derivative by")
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
    x, packed, kernel, scale, index = _checked_sites(
        positions, moments, kernel, pair_scale, batch, extra
    )
    scaled = None
    if scale is not None and len(scale[0]):
        pairs, factors = scale
        if index is not None:
            inside = index[pairs[:, 0]] == index[pairs[:, 1]]
            pairs, factors = pairs[inside], factors[inside]
        both = np.concatenate([pairs, pairs[:, ::-1]])
        scaled = PairList(both, len(x), len(x), np.tile(factors, 2))
    return x, packed, kernel, Slots(len(x), len(x), index, index), scaled


def _checked_sites(
    positions: Any, moments: Any, kernel: Kernel, pair_scale: Any, batch: Any, extra: int
) -> tuple[np.ndarray, np.ndarray, Kernel, Any, np.ndarray | None]:
    """Return points and moments of one dtype, kernel, scaled pairs with factors, and systems."""
    kernel = kernel_object(kernel)
    x = checks.points(positions, "positions", squares=False)
    packed, order, _ = checks.moments(moments, len(x))
    checks.check_total_order(order, order + extra)
    scale = checks.pair_scale(pair_scale, len(x))
    index = checks.batch_index(batch, len(x), "batch")
    dtype = checks.common_dtype(x, packed)
    return x.astype(dtype, copy=False), packed.astype(dtype, copy=False), kernel, scale, index


# --- in a cell ------------------------------------------------------------------------------------


def _periodic() -> Any:
    """Import what sums over images when it is asked for."""
    from multipoles.lattice import periodic

    return periodic


def _lattice(
    cell: Any, periodic: Any, tolerance: Any, background: Any, surface: Any, batch: Any
) -> Any:
    """Return the checked arguments of a cell, or None without one."""
    if cell is None:
        plain = tolerance is None and periodic is True and background is True
        if plain and surface == "conductor":
            return None
        raise ValueError(
            "cell: expected one with tolerance, periodic, background or surface, which say how the "
            "sum over its images is meant"
        )
    given = cell, periodic, tolerance, background, surface
    from multipoles.lattice.options import lattice_of

    return lattice_of(*given, batched=batch is not None)


def _refuse_cell(cell: Any) -> None:
    if cell is not None:
        raise TypeError("cell: expected arrays on the CPU, got some on a GPU")


def _sites_in_cell(
    positions: Any,
    moments: Any,
    kernel: Kernel,
    pair_scale: Any,
    batch: Any,
    lattice: Any,
    extra: int,
    virial: bool = False,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return energy, field, moments with channels, and virial of sites in cells."""
    x, packed, kernel, scale, index = _checked_sites(
        positions, moments, kernel, pair_scale, batch, extra
    )
    given = x, packed, kernel, lattice, index, scale, extra, virial
    total, phi, strain = _periodic().site_sums(*given)
    return total, phi, packed, strain
