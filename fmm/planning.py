"""The cheapest plan that keeps a tolerance: in free space, or in a cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fmm.cell.grid import NoGrid
from fmm.contract import Plan
from fmm.ewald import Ewald
from fmm.mesh.choice import ToleranceNotKept
from fmm.mesh.mesh import Mesh
from fmm.method import FMM
from multipoles.radial import Coulomb, Kernel

_COULOMB = Coulomb()
_KINDS: dict[str, Any] = {"fmm": FMM, "mesh": Mesh, "ewald": Ewald}
#: How sums may be made.
METHODS = ("auto", *_KINDS)
# `benchmarks/periodic_map.py`: fewer targets and sources are not summed sooner on a mesh, more are
# by the fast multipole method, as are points of this crowding if they are not too few
_FEW, _MANY, _FEWEST_UNEVEN, _UNEVEN = 500, 6000, 1000, 3.0


def plan(
    sources: Any,
    targets: Any = None,
    tolerance: float = 1e-6,
    source_order: int = 0,
    order: int = 1,
    *,
    cell: Any = None,
    periodic: Any = True,
    background: bool = True,
    surface: str = "conductor",
    kernel: Kernel = _COULOMB,
    method: str = "auto",
    pair_scale: Any = None,
) -> Plan:
    """Return a plan for fields of multipoles at many points, of the cheapest kind that will do.

    Parameters
    ----------
    sources, targets, tolerance, source_order, order, kernel
        See `FMM`.
    cell, periodic, background, surface
        See `multipoles.field`; without a cell the sum is that of free space.
    method : {"auto", "fmm", "mesh", "ewald"}
        The fast multipole method; in a cell also a mesh or an Ewald sum; or the cheapest of those
        that keep the tolerance.
    pair_scale
        See `FMM`, which alone takes it.

    Returns
    -------
    FMM, Mesh or Ewald
        All have `field`, `energy`, `energy_forces`, `torques`, `transpose`, `rebuild` and `report`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, holds NaN or infinity, or the method
        cannot do what is asked.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    given = sources, targets, tolerance, source_order, order
    if cell is None:
        if method not in ("auto", "fmm"):
            raise ValueError(f"method: expected 'auto' or 'fmm' without a cell, got {method!r}")
        return FMM(*given, kernel=kernel, pair_scale=pair_scale)
    options: dict[str, Any] = {
        "cell": cell, "periodic": periodic, "background": background, "surface": surface,
        "kernel": kernel,
    }  # fmt: skip
    if pair_scale is not None:
        if method not in ("auto", "fmm"):
            raise ValueError(f"pair_scale: expected method 'auto' or 'fmm', got {method!r}")
        return FMM(*given, **options, pair_scale=pair_scale)
    if method != "auto":
        chosen: Plan = _KINDS[method](*given, **options)
        return chosen
    ewald = Ewald(*given, **options)
    n = ewald.n_sources + ewald.n_targets
    if n < _FEW or not np.isfinite(ewald.kernel.coulomb_beyond(tolerance, source_order + order)):
        return ewald
    uneven = n > _FEWEST_UNEVEN and ewald.crowding > _UNEVEN
    kinds = ("fmm", "mesh") if uneven or n > _MANY else ("mesh", "fmm")
    return _first(kinds, given, options) or ewald


def _first(kinds: Sequence[str], given: tuple[Any, ...], options: dict[str, Any]) -> Plan | None:
    """Return a plan of the first kind that can do what is asked, None if none can."""
    for kind in kinds:
        try:
            plan_: Plan = _KINDS[kind](*given, **options)
            return plan_
        except (ToleranceNotKept, NoGrid):
            continue
    return None
