"""Energy, forces and torques of the sites of a plan whose targets are its sources."""

from typing import Any

import numpy as np

from fmm.contract import Sum
from multipoles import checks, indexing
from multipoles import moments as of_moments


def energy_of(plan: Sum, moments: Any) -> float:
    """Return the energy of the moments of a plan's sites, see `fmm.energy`.

    Parameters
    ----------
    plan : Sum
        Its targets are its sources.
    moments : array_like, shape (n, [channels,] n_components(K))
        Packed moments of any order K.
    """
    if checks.on_device(moments):
        return energy_forces_of(plan, moments)[0]
    packed, phi = _site_field(plan, moments, 0)
    return _half_product(packed, phi)


def energy_forces_of(plan: Sum, moments: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """Return energy, forces at fixed moments, and the gradient by the moments.

    Parameters
    ----------
    plan, moments
        See `energy_of`.

    Returns
    -------
    energy : float
    forces : ndarray, shape (n, 3)
    moment_gradients : ndarray, shape of `moments`
        See `fmm.energy_forces`.
    """
    if checks.on_device(moments):
        from multipoles.cuda import interactions as interactions_cuda

        shape = tuple(moments.shape)
        order = indexing.order_of(shape[-1]) if len(shape) > 1 else 0
        return interactions_cuda.energy_forces_of_field(moments, plan.field(moments, order + 1))
    packed, phi = _site_field(plan, moments, 1)
    width = packed.shape[2]
    # F = -Σ_β M_β Φ_{β+e} for the three unit steps e
    raised = indexing.sum_index(indexing.order_of(width), 1)[:, 1:]
    forces = -np.einsum("nck,ncka->na", packed, phi[..., raised])
    gradients = np.ascontiguousarray(phi[..., :width])
    return _half_product(packed, gradients), forces, gradients.reshape(np.shape(moments))


def torques_of(plan: Sum, moments: Any) -> np.ndarray:
    """Return the torque on each site, see `fmm.torques`.

    Parameters
    ----------
    plan, moments
        See `energy_of`.

    Returns
    -------
    ndarray, shape (n, 3)
    """
    return of_moments.torques(*_site_field(plan, moments, 0))


def _site_field(plan: Sum, moments: Any, extra: int) -> tuple[np.ndarray, np.ndarray]:
    """Return moments with channels, and their field of `extra` orders more, of one dtype."""
    packed, order, _ = checks.moments(moments, plan.n_sources)
    phi = plan.field(packed, order + extra)
    return packed.astype(phi.dtype, copy=False), phi


def _half_product(moments: np.ndarray, phi: np.ndarray) -> float:
    return 0.5 * float(np.einsum("nck,nck->", moments, phi, dtype=np.float64))
