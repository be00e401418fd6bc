"""Fields, energies, forces and torques like those of `multipoles`, in linear time.

Each of these functions makes a plan for one use (`fmm.once`); where points stay or only move, make
the plan (`fmm.FMM`) yourself and use it again.
"""

from typing import Any

import numpy as np

from fmm import arguments, energies, once, planning
from fmm.ewald import with_virial
from multipoles import checks, indexing, interactions
from multipoles.checks import check_total_order
from multipoles.radial import Coulomb, Kernel

_COULOMB = Coulomb()


def field(
    targets: Any,
    sources: Any,
    moments: Any,
    order: int = 1,
    tolerance: float = 1e-6,
    kernel: Kernel = _COULOMB,
    target_batch: Any = None,
    source_batch: Any = None,
    pair_scale: Any = None,
    *,
    cell: Any = None,
    periodic: Any = True,
    background: bool = True,
    surface: str = "conductor",
) -> np.ndarray:
    """Return the field of multipoles at targets like `multipoles.field`, in linear time.

    Parameters
    ----------
    targets, sources : array_like, shape (n, 3)
        Points; a source that coincides with a target contributes nothing.
    moments : array_like, shape (n_sources, [channels,] n_components(K))
        Packed moments of any order K, see `multipoles.pack`.
    order : int
        Highest derivative: 0 potential, 1 and gradient, 2 and Hessian, ...
    tolerance : float
        Largest relative L2 error of the field at every output order: the root mean square error
        over all targets against the root mean square of the field, scaled pairs with their
        factors.
    kernel : Kernel
        Radial kernel: `Coulomb`, or `Softened`, `Erf` or `Thole`, which are 1/r from some
        distance on.
    target_batch, source_batch : array_like of int, optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.
        One is enough if the targets are the sources.
    pair_scale : tuple (pairs, factors), optional
        Pairs (P, 2) whose interaction is multiplied by a factor (P,), each given once: unordered
        pairs of sites if `targets` and `sources` are one array, else (target, source). They are
        taken off the sum of all in float64; a RuntimeWarning tells if that costs more digits than
        the tolerance allows. In a cell they mean the nearest images. Not on a GPU.
    cell, periodic, background, surface
        See `multipoles.field`: the sum is over all images, by the method that `fmm.plan` chooses.

    Returns
    -------
    ndarray, shape (n_targets, [channels,] n_components(order))
        float32 if points and moments are, else float64. Of the caller's library where arrays lie
        on a GPU, see `FMM`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinity.
    """
    if targets is None:
        raise TypeError("targets: expected points of shape (n, 3), got None")
    source_order, channels = _layout(moments, sources)
    if cell is not None or not arguments.is_plain(periodic, background, surface):
        options = _options(cell, periodic, background, surface, kernel)
        if target_batch is not None or source_batch is not None:
            if pair_scale is not None:
                raise ValueError("pair_scale: expected none with batches in a cell")
            return interactions.field(
                targets, sources, moments, order, target_batch=target_batch,
                source_batch=source_batch, tolerance=arguments.tolerance(tolerance), **options,
            )  # fmt: skip
        points = sources, None if targets is sources else targets
        return np.asarray(
            planning.plan(
                *points, tolerance, source_order, order, **options, pair_scale=pair_scale
            ).field(moments)
        )
    batches = {"target_batch": target_batch, "source_batch": source_batch}
    plan = once.plan(
        sources, None if targets is sources else targets, tolerance, source_order, order,
        max(channels, 1), kernel, pair_scale, batches,
    )  # fmt: skip
    found: np.ndarray = plan.field(moments)
    return found


def energy(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
    *,
    tolerance: float = 1e-6,
    cell: Any = None,
    periodic: Any = True,
    background: bool = True,
    surface: str = "conductor",
) -> float:
    """Return the energy of multipoles like `multipoles.energy`, in linear time.

    Parameters
    ----------
    positions : array_like, shape (n, 3)
        Where the moments are.
    moments : array_like, shape (n, [channels,] n_components(K))
        Packed moments. Channels do not see each other; their energies are added.
    kernel : Kernel
        Radial kernel: `Coulomb`, or `Softened`, `Erf` or `Thole`, which are 1/r from some
        distance on.
    pair_scale : tuple (pairs, factors), optional
        Unordered pairs (P, 2) whose interaction is multiplied by a factor (P,), see `field`.
    batch : array_like of int, shape (n,), optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.
    tolerance : float
        Largest relative L2 error of the field at the sites at every order, see `field`.
    cell, periodic, background, surface
        See `field`.

    Returns
    -------
    float
        In units of moments and lengths with k = 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinity.

    Notes
    -----
    Arrays on a GPU are summed there, as `FMM` does, without scaled pairs; the call waits for the
    energy. Torques are those of arrays on the CPU.

    The promise is that of the field. The energy is half the sum of all M Φ, so that its error is at
    most ½ `tolerance` Σ_k ‖M_k‖ ‖Φ_k‖, with the L2 norms over all sites of the moments and of the
    field of order k. Errors of many sites have all signs and mostly add up to far less. But no
    relative error of the energy itself is promised: where terms cancel, as with charges of random
    sign, it is larger than that of the field.
    """
    given = positions, moments, kernel, pair_scale, batch, tolerance
    plan = _site_plan(*given, 0, cell, periodic, background, surface)
    return energies.energy_of(plan, moments)


def energy_forces(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
    *,
    tolerance: float = 1e-6,
    cell: Any = None,
    periodic: Any = True,
    background: bool = True,
    surface: str = "conductor",
    virial: bool = False,
) -> tuple[Any, ...]:
    """Return energy, forces at fixed moments, and the gradient by the moments.

    All three come from one field, of the order of the moments and one more.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch, tolerance, cell, periodic, background, surface
        See `energy`.
    virial : bool
        Whether to return the virial, too, see `multipoles.energy_forces`; needs a cell.

    Returns
    -------
    energy : float
        With the error that `energy` tells of.
    forces : ndarray, shape (n, 3)
        -∂E/∂x at fixed moments, -Σ_β M_β Φ_{β+e}: the relative L2 error is the tolerance for
        charges of one size; sites with larger moments than others weigh more than in the field,
        and orders may cancel. If moments turn with a molecule, add what the `torques` do to it.
    moment_gradients : ndarray, shape of `moments`
        ∂E/∂M, the field at each site, within the tolerance at every order.

    Raises
    ------
    TypeError, ValueError
        See `energy`.
    """
    given = positions, moments, kernel, pair_scale, batch, tolerance
    plan = _site_plan(*given, 1, cell, periodic, background, surface, virial)
    if virial:
        if cell is None:
            raise ValueError("virial: expected a cell, whose strain it is the derivative by")
        found: tuple[Any, ...] = plan.energy_forces(moments, virial=True)
        return found
    return energies.energy_forces_of(plan, moments)


def torques(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
    *,
    tolerance: float = 1e-6,
    cell: Any = None,
    periodic: Any = True,
    background: bool = True,
    surface: str = "conductor",
) -> np.ndarray:
    """Return the torque on each site: minus the derivative of the energy by its rotation angle.

    `multipoles.torques` of the moments and their field; if you have `energy_forces`, give its
    moment gradients to that function instead.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch, tolerance, cell, periodic, background, surface
        See `energy`.

    Returns
    -------
    ndarray, shape (n, 3)
        float32 if positions and moments are, else float64. Units of the energy.

    Raises
    ------
    TypeError, ValueError
        See `energy`.
    """
    given = positions, moments, kernel, pair_scale, batch, tolerance
    plan = _site_plan(*given, 0, cell, periodic, background, surface)
    return energies.torques_of(plan, moments)


# --- plans for one use ----------------------------------------------------------------------------


def _layout(moments: Any, sources: Any) -> tuple[int, int]:
    """Return order and number of channels of moments."""
    if checks.on_device(moments):
        shape = tuple(moments.shape)
        if len(shape) < 2:
            return 0, 1
        return indexing.order_of(shape[-1]), shape[1] if len(shape) == 3 else 1
    n = len(np.atleast_1d(checks.real(sources, "sources")))
    packed, order, _ = checks.moments(moments, n)
    return order, packed.shape[1]


def _site_plan(
    positions: Any,
    moments: Any,
    kernel: Kernel,
    pair_scale: Any,
    batch: Any,
    tolerance: float,
    extra: int,
    cell: Any,
    periodic: Any,
    background: bool,
    surface: str,
    virial: bool = False,
) -> Any:
    """Return a plan for sites, made from the arguments of `energy`."""
    if cell is not None or not arguments.is_plain(periodic, background, surface):
        options = _options(cell, periodic, background, surface, kernel)
        if batch is not None:
            raise ValueError("batch: expected none in a cell; use multipoles.energy_forces")
        order, _ = _layout(moments, positions)
        if virial and pair_scale is None:
            return with_virial(positions, tolerance, order, options)
        given = positions, None, tolerance, order, order + extra
        return planning.plan(*given, **options, pair_scale=pair_scale)
    if not (checks.on_device(positions) or checks.on_device(moments)):
        positions = checks.points(positions, "positions", squares=False)
        batch = checks.batch_index(batch, len(positions), "batch")
    elif pair_scale is not None:
        raise TypeError("pair_scale: expected none with arrays on a GPU; use multipoles.energy")
    order, channels = _layout(moments, positions)
    check_total_order(order, order + extra)
    return once.plan(
        positions, None, tolerance, order, order + extra, max(channels, 1), kernel, pair_scale,
        {"source_batch": batch},
    )  # fmt: skip


def _options(
    cell: Any, periodic: Any, background: bool, surface: str, kernel: Kernel
) -> dict[str, Any]:
    """Return the arguments of a plan in a cell."""
    if cell is None:
        raise ValueError(
            "cell: expected one with periodic, background or surface, which say how the sum over "
            "its images is meant"
        )
    return {
        "cell": cell, "periodic": periodic, "background": background, "surface": surface,
        "kernel": kernel,
    }  # fmt: skip
