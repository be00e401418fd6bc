"""Ewald sums as plans: for few points, any kernel that has a sum over images, tight tolerances."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from fmm import arguments, energies
from fmm.mesh.choice import ToleranceNotKept
from fmm.mesh.mesh import Mesh
from multipoles import checks, interactions
from multipoles.indexing import MAX_TOTAL_ORDER
from multipoles.lattice.cell import cell_of
from multipoles.lattice.options import lattice_of
from multipoles.lattice.split import check_kernel
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()
# points in a box by which crowding is judged
_IN_A_BOX = 8


@dataclass
class EwaldReport:
    """What an Ewald sum was asked for, and what its last evaluation took."""

    n_targets: int
    n_sources: int
    tolerance: float
    seconds: float = field(default=0.0)

    def __str__(self) -> str:
        return (
            f"{self.n_sources} sources, {self.n_targets} targets, tolerance {self.tolerance:g}\n"
            f"Ewald sum {1e3 * self.seconds:.1f} ms"
        )


class Ewald:
    """The sums of `multipoles.field` in a cell, as a plan: for few points, or tight tolerances.

    Parameters
    ----------
    sources, targets, tolerance, source_order, order, cell, periodic, background, surface, kernel
        See `Mesh`. All kernels that `multipoles.field` takes in a cell.

    Raises
    ------
    TypeError, ValueError
        See `multipoles.field`.
    """

    def __init__(
        self,
        sources: Any,
        targets: Any = None,
        tolerance: float = 1e-6,
        source_order: int = 0,
        order: int = 1,
        *,
        cell: Any,
        periodic: Any = True,
        background: bool = True,
        surface: str = "conductor",
        kernel: Kernel = _COULOMB,
    ) -> None:
        self.tolerance = arguments.tolerance(tolerance)
        self.source_order = checks.order(source_order, "source_order", maximum=MAX_TOTAL_ORDER)
        self.order = checks.order(order, maximum=MAX_TOTAL_ORDER)
        self.kernel = kernel_object(kernel)
        self._cell = cell
        self._options: dict[str, Any] = {
            "periodic": periodic, "background": background, "surface": surface,
            "tolerance": tolerance,
        }  # fmt: skip
        self._has_targets = targets is not None and targets is not sources
        self._take(sources, targets)
        # refuses what it cannot do
        lattice_of(cell, periodic, self.tolerance, background, surface, False)
        cell_of(cell, periodic)
        check_kernel(self.kernel, surface)

    def _take(self, sources: Any, targets: Any) -> None:
        self._sources = checks.points(sources, "sources", squares=False)
        self._targets = self._sources
        if self._has_targets:
            self._targets = checks.points(targets, "targets", squares=False)
        self._report = EwaldReport(len(self._targets), len(self._sources), self.tolerance)

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return len(self._sources)

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self._targets)

    @property
    def crowding(self) -> float:
        """Mean number of points in the box of a point, over that of all boxes: about 1 if even."""
        cell = cell_of(self._cell, self._options["periodic"])
        u = self._sources.astype(np.float64) @ cell.inverse
        d = cell.n_periodic
        u[:, :d] %= 1.0
        low, high = u[:, d:].min(axis=0, initial=np.inf), u[:, d:].max(axis=0, initial=-np.inf)
        u[:, d:] = (u[:, d:] - low) / np.maximum(high - low, np.finfo(float).tiny)
        across = max(round((len(u) / _IN_A_BOX) ** (1 / 3)), 1)
        places = np.minimum((u * across).astype(np.int64), across - 1)
        counts = np.bincount(places @ (across**2, across, 1)).astype(np.float64)
        return float((counts**2).sum() * across**3 / max(len(u), 1) ** 2)

    def field(self, moments: Any, order: int | None = None) -> np.ndarray:
        """Return the field of moments at every target, see `Mesh.field`."""
        start = perf_counter()
        order = self.order if order is None else order
        given = self._targets, self._sources, moments, order, self.kernel
        found = interactions.field(*given, cell=self._cell, **self._options)
        self._report.seconds = perf_counter() - start
        return found

    def energy(self, moments: Any) -> float:
        """Return the energy of the moments of sites, targets being sources."""
        arguments.sites_only(self._has_targets)
        return energies.energy_of(self, moments)

    def energy_forces(self, moments: Any, *, virial: bool = False) -> tuple[Any, ...]:
        """Return energy, forces, the gradient by the moments, and the virial if it is asked for."""
        arguments.sites_only(self._has_targets)
        given = self._sources, moments, self.kernel
        return interactions.energy_forces(*given, cell=self._cell, virial=virial, **self._options)

    def torques(self, moments: Any) -> np.ndarray:
        """Return the torque on each site, see `fmm.torques`."""
        arguments.sites_only(self._has_targets)
        return energies.torques_of(self, moments)

    def transpose(self) -> "Ewald":
        """Return the plan with targets and sources exchanged: the adjoint map."""
        targets = self._sources if self._has_targets else None
        options = {name: value for name, value in self._options.items() if name != "tolerance"}
        return Ewald(
            self._targets, targets, self.tolerance, self.order, self.source_order,
            cell=self._cell, kernel=self.kernel, **options,
        )  # fmt: skip

    def rebuild(self, sources: Any, targets: Any = None, cell: Any = None) -> None:
        """Go over to new positions, and a new cell if it is given."""
        arguments.targets_as_before(sources, targets, self._has_targets)
        self._take(sources, targets)
        self._cell = self._cell if cell is None else cell

    def report(self) -> EwaldReport:
        """Return what was asked, and the cost of the last evaluation; print it to read."""
        return self._report


def with_virial(
    sources: Any, tolerance: float, source_order: int, options: dict[str, Any]
) -> Mesh | Ewald:
    """Return a plan in a cell that has a virial of its own: a mesh, if one keeps the tolerance."""
    given = sources, None, tolerance, source_order, source_order + 1
    try:
        return Mesh(*given, **options)
    except ToleranceNotKept:
        return Ewald(*given, **options)
