"""Fields, energies, forces and torques like those of `multipoles`, in linear time.

Each of these functions makes a plan for one use; where points stay or only move, make the plan
(`fmm.FMM`) yourself and use it again.
"""

import warnings
from typing import Any

import numpy as np

from fmm import energies
from fmm.exclusions import EPSILON, Exclusions, norms, rounding
from fmm.plan import FMM
from multipoles import checks, indexing
from multipoles.interactions import check_total_order
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()
# the least tolerance that a plan takes, and how many plans a tolerance may need
_LEAST = 1e-14
_TRIES = 3
# of the tolerance: what the error that a plan measured, at few targets, may be
_ENOUGH = 0.5
_TINY = float(np.finfo(np.float64).tiny)


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
        Radial kernel: `Coulomb`, or `Softened` or `Erf`, which are 1/r from some distance on.
    target_batch, source_batch : array_like of int, optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.
        One is enough if the targets are the sources.
    pair_scale : tuple (pairs, factors), optional
        Pairs (P, 2) whose interaction is multiplied by a factor (P,), each given once: unordered
        pairs of sites if `targets` and `sources` are one array, else (target, source). They are
        taken off the sum of all in float64; a RuntimeWarning tells if that costs more digits than
        the tolerance allows. Not on a GPU.

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
    batches = target_batch, source_batch
    made = targets, sources, tolerance, source_order, order, batches, channels, kernel
    if pair_scale is not None:
        return _ScaledPlan(*made, pair_scale).field(moments)
    return _plan(*made).field(moments)


def energy(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
    *,
    tolerance: float = 1e-6,
) -> float:
    """Return the energy of multipoles like `multipoles.energy`, in linear time.

    Parameters
    ----------
    positions : array_like, shape (n, 3)
        Where the moments are.
    moments : array_like, shape (n, [channels,] n_components(K))
        Packed moments. Channels do not see each other; their energies are added.
    kernel : Kernel
        Radial kernel: `Coulomb`, or `Softened` or `Erf`, which are 1/r from some distance on.
    pair_scale : tuple (pairs, factors), optional
        Unordered pairs (P, 2) whose interaction is multiplied by a factor (P,), see `field`.
    batch : array_like of int, shape (n,), optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.
    tolerance : float
        Largest relative L2 error of the field at the sites at every order, see `field`.

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
    return energies.energy_of(
        _site_plan(positions, moments, kernel, pair_scale, batch, tolerance, extra=0), moments
    )


def energy_forces(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
    *,
    tolerance: float = 1e-6,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return energy, forces at fixed moments, and the gradient by the moments.

    All three come from one field, of the order of the moments and one more.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch, tolerance
        See `energy`.

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
    return energies.energy_forces_of(
        _site_plan(positions, moments, kernel, pair_scale, batch, tolerance, extra=1), moments
    )


def torques(
    positions: Any,
    moments: Any,
    kernel: Kernel = _COULOMB,
    pair_scale: Any = None,
    batch: Any = None,
    *,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """Return the torque on each site: minus the derivative of the energy by its rotation angle.

    `multipoles.torques` of the moments and their field; if you have `energy_forces`, give its
    moment gradients to that function instead.

    Parameters
    ----------
    positions, moments, kernel, pair_scale, batch, tolerance
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
    return energies.torques_of(
        _site_plan(positions, moments, kernel, pair_scale, batch, tolerance, extra=0), moments
    )


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


def _plan(targets, sources, tolerance, source_order, order, batches, channels, kernel) -> FMM:
    return FMM(
        sources, None if targets is sources else targets, tolerance, source_order, order,
        target_batch=batches[0], source_batch=batches[1], channels=max(channels, 1), kernel=kernel,
    )  # fmt: skip


def _site_plan(
    positions, moments, kernel, pair_scale, batch, tolerance, extra
) -> energies.SitePlan:
    """Return a plan for sites, made from the checked arguments of `energy`."""
    if checks.on_device(positions) or checks.on_device(moments):
        if pair_scale is not None:
            raise TypeError("pair_scale: expected none with arrays on a GPU; use multipoles.energy")
        order, channels = _layout(moments, positions)
        layout = order, order + extra, (batch, batch), channels, kernel
        return _plan(positions, positions, tolerance, *layout)
    x = checks.points(positions, "positions")
    packed, order, _ = checks.moments(moments, len(x))
    check_total_order(order, order + extra)
    index = checks.batch_index(batch, len(x), "batch")
    made = x, x, tolerance, order, order + extra, (index, index), packed.shape[1], kernel
    return _plan(*made) if pair_scale is None else _ScaledPlan(*made, pair_scale)


class _ScaledPlan:
    """A plan in which listed pairs count by their factors.

    A plan keeps its tolerance against the field of all pairs. That may be larger than what
    remains: the plan behind is then made anew, with a tolerance as much smaller.
    """

    def __init__(
        self, targets, sources, tolerance, source_order, order, batches, channels, kernel,
        pair_scale,
    ) -> None:  # fmt: skip
        s = checks.points(sources, "sources")
        x = s if targets is sources else checks.points(targets, "targets")
        if x is s and batches[0] is None:
            batches = batches[1], batches[1]
        batches = checks.batches(batches[0], batches[1], len(x), len(s))
        self._exclusions = Exclusions.made(pair_scale, x, s, batches)
        self._dtype = checks.common_dtype(x, s)
        # pairs leave the sum by subtraction: it is taken in float64
        s64 = s.astype(np.float64, copy=False)
        x64 = s64 if x is s else x.astype(np.float64, copy=False)
        self._points, self._kernel = (x64, s64), kernel_object(kernel)
        self._order = order
        self._laid_out = source_order, order, batches, channels, self._kernel
        self._plan = _plan(*self._points, tolerance, *self._laid_out)
        self._tolerance = self._plan.tolerance

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return self._plan.n_sources

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return self._plan.n_targets

    def field(self, moments: Any, order: int | None = None) -> np.ndarray:
        """Return the field like `FMM.field`."""
        order = self._order if order is None else order
        packed, _, had_channels = checks.moments(moments, self.n_sources)
        wide = packed.astype(np.float64, copy=False)
        if self._exclusions is None:
            result = self._plan.field(wide, order)
        else:
            correction = self._exclusions.field(*self._points, wide, order, self._kernel)
            result = self._corrected(wide, order, correction)
        result = result.astype(np.result_type(self._dtype, packed.dtype), copy=False)
        return result if had_channels else result[:, 0, :]

    def _corrected(self, moments: np.ndarray, order: int, correction: np.ndarray) -> np.ndarray:
        """Return the field of all pairs and the correction, to the tolerance against their sum."""
        for _ in range(_TRIES):
            found = self._plan.field(moments, order)
            result = found + correction
            lost = rounding(correction, result)
            # the error against all is this much larger against what remains
            before = norms(found)
            excess = before / np.maximum(norms(result), EPSILON * before + _TINY)
            missed = excess * self._plan.report().errors
            # nothing makes good what is lost in rounding
            enough = np.maximum(_ENOUGH * self._tolerance, lost)
            closer = max(float(np.min(enough / np.maximum(excess, 1))), _LEAST)
            again = np.any((excess > 1) & (missed > enough))
            if not again or closer >= self._plan.tolerance:
                break
            self._plan = _plan(*self._points, closer, *self._laid_out)
        self._warn_if_missed(np.fmax(lost, missed), excess)
        return result

    def _warn_if_missed(self, errors: np.ndarray, excess: np.ndarray) -> None:
        worst = int(np.argmax(errors))
        if errors[worst] > self._tolerance:
            warnings.warn(
                f"the tolerance {self._tolerance:g} was missed at order {worst} of the field: "
                f"without scaled pairs it is {excess[worst]:.1e} times what remains, which has a "
                f"relative error of about {errors[worst]:.1e}",
                RuntimeWarning,
                stacklevel=5,
            )
