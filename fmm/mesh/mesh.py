"""Plans of periodic sums on a mesh: what users call, which checks and reports."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from fmm import arguments, energies
from fmm.mesh.choice import Setting, reach_of, setting_of
from fmm.mesh.plan import MeshSum
from multipoles import checks, indexing, scaling
from multipoles.checks import check_total_order
from multipoles.emitted.field import MAX_EMITTED
from multipoles.lattice import surface as of_surface
from multipoles.lattice.cell import Cell, cell_of
from multipoles.lattice.groups import length_exponents, moment_exponents
from multipoles.lattice.options import Lattice, check_neutral, lattice_of
from multipoles.lattice.strain import virial
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()


@dataclass
class MeshReport:
    """What a mesh chose, and what its steps cost in the last evaluation; `str` of it is a table.

    Attributes
    ----------
    n_targets, n_sources : int
        Points.
    tolerance : float
        What was asked.
    shape : tuple of int
        Grid points along each vector of the box.
    points : int
        Of the window, along each axis.
    radius, band : float
        Of the near part, in the caller's units; of the splitting.
    near_pairs : int
        Pairs that were looked at.
    plan_seconds : float
        Time to make the plan.
    seconds : dict of str to float
        Time of each step of the last evaluation.
    """

    n_targets: int
    n_sources: int
    tolerance: float
    shape: tuple[int, int, int]
    points: int
    radius: float
    band: float
    near_pairs: int = 0
    plan_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        grid = " x ".join(map(str, self.shape))
        lines = [
            f"{self.n_sources} sources, {self.n_targets} targets, tolerance {self.tolerance:g}",
            f"grid {grid}, windows of {self.points} points; near pairs within {self.radius:.3g}, "
            f"{self.near_pairs:.3g} looked at",
            f"plan {1e3 * self.plan_seconds:.1f} ms",
        ]
        lines += [f"  {step:<24}{1e3 * s:9.1f} ms" for step, s in self.seconds.items()]
        return "\n".join(lines)


class Mesh:
    """Fields of multipoles in a cell to a tolerance: near pairs one by one, the rest on a grid.

    Made for many points that fill a cell evenly, as in liquids and crystals. Moments of any order
    and their fields of any order up to a total of 12; energies, forces and virials; one, two or
    three directions that repeat, what is free is not padded.

    Parameters
    ----------
    sources : array_like, shape (n_sources, 3)
        Where moments will be.
    targets : array_like, shape (n_targets, 3), optional
        Where the field is wanted; default the sources.
    tolerance : float
        Relative L2 error of the field at every order that is aimed at. It is what the choice of
        grid and radius is made for, tested on crystals, liquids and random points; unlike that of
        `FMM` it is not measured in every evaluation.
    source_order, order : int
        Order of the moments and of the field that the plan is laid out for: greatest ones.
    cell : array_like, shape (3, 3)
        Lattice vectors as rows.
    periodic, background, surface
        What repeats, and what is meant by it, see `multipoles.field`.
    kernel : Kernel
        Radial kernel: 1/r, or one that is 1/r from some distance on.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinity; or if a mesh
        cannot keep the tolerance.

    Examples
    --------
    >>> import numpy as np, fmm, multipoles as mp
    >>> positions = 20 * np.random.default_rng(0).random((8000, 3))
    >>> plan = fmm.Mesh(positions, tolerance=1e-4, cell=20 * np.eye(3))
    >>> plan.field(mp.pack(charges=np.tile([1.0, -1.0], 4000))).shape
    (8000, 4)
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
        tolerance = arguments.tolerance(tolerance)
        self.tolerance = tolerance
        self.source_order = checks.order(source_order, "source_order", maximum=MAX_EMITTED)
        self.order = checks.order(order, maximum=MAX_EMITTED)
        if self.source_order + self.order > MAX_EMITTED:
            raise ValueError(
                f"expected orders of moments and field of at most {MAX_EMITTED} together, got "
                f"{source_order} and {order}; use multipoles.field"
            )
        self.kernel = kernel_object(kernel)
        reach_of(self.kernel, tolerance, self.source_order + self.order)  # refuses others
        self._options = periodic, background, surface
        self._has_targets = targets is not None and targets is not sources
        self._chosen: tuple[Any, Setting] | None = None
        start = perf_counter()
        self._take(sources, targets, cell)
        self._report.plan_seconds = perf_counter() - start

    def _take(self, sources: Any, targets: Any, cell: Any) -> None:
        """Lay out the sum for points and cell."""
        periodic, background, surface = self._options
        s = checks.points(sources, "sources", squares=False)
        x = checks.points(targets, "targets", squares=False) if self._has_targets else s
        self._lattice: Lattice = lattice_of(cell, periodic, None, background, surface, False)
        self._cell = cell
        self.dtype = checks.common_dtype(x, s)
        of_cell = self._lattice.cells[None], self._lattice.periodic, np.array([len(s)])
        length = int(length_exponents(*of_cell)[0])
        self._length = length
        s = scaling.scale_points(s.astype(np.float64), length)
        x = scaling.scale_points(x.astype(np.float64), length) if self._has_targets else s
        self._points = x, s
        reduced = cell_of(np.ldexp(self._lattice.cells, length), self._lattice.periodic)
        unit = float(np.ldexp(1.0, length))
        self._scaled_kernel = self.kernel.scaled(unit)
        if not len(s) or not len(x):
            # a sum of nothing is laid out like that of one point
            x = s = np.zeros((1, 3))
        setting = self._setting_of(reduced, x, s)
        self._sum = MeshSum(x, s, reduced, setting, self._scaled_kernel, unit)
        self._report = MeshReport(
            self.n_targets, self.n_sources, self.tolerance, self._sum.shape, setting.points,
            float(np.ldexp(setting.radius, -length)), setting.band, self._sum.n_near_pairs,
        )  # fmt: skip

    def _setting_of(self, cell: Cell, x: np.ndarray, s: np.ndarray) -> Setting:
        """Return the cheapest setting: that of before, if nothing has changed that matters."""
        spread = cell.extents(x, s)
        key = cell.vectors.tobytes(), spread.tobytes(), len(x), len(s)
        if self._chosen is None or self._chosen[0] != key:
            given = x, s, cell, self._scaled_kernel, self.tolerance
            self._chosen = key, setting_of(*given, (self.source_order, self.order))
        return self._chosen[1]

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return len(self._points[1])

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self._points[0])

    def field(self, moments: Any, order: int | None = None) -> np.ndarray:
        """Return the field of moments at every target.

        Parameters
        ----------
        moments : array_like, shape (n_sources, [channels,] n_components(K))
            Packed moments, K at most that of the plan.
        order : int, optional
            Highest derivative, at most that of the plan, which is the default.

        Returns
        -------
        ndarray, shape (n_targets, [channels,] n_components(order))

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or range, or holds NaN or infinity.
        """
        scaled, exponent, had_channels, dtype, order = self._scaled_moments(moments, order)
        if not self.n_sources or not self.n_targets:
            out = np.zeros((self.n_targets, scaled.shape[1], indexing.n_components(order)), dtype)
            return out if had_channels else out[:, 0]
        phi = self._sum.field(scaled, order, self._report.seconds)
        if self._lattice.surface == "vacuum":
            volume, ends = self._sum.cell.volume, [np.array([0, len(p)]) for p in self._points]
            phi += of_surface.field(*self._points, scaled, order, volume[None], (ends[0], ends[1]))
        out = scaling.unscale_field(phi, self._length, exponent).astype(dtype)
        return out if had_channels else out[:, 0]

    def _scaled_moments(
        self, moments: Any, order: int | None
    ) -> tuple[np.ndarray, int, bool, np.dtype, int]:
        order = self.order if order is None else checks.order(order)
        packed, source_order, had_channels = checks.moments(moments, self.n_sources)
        check_total_order(source_order, order)
        if source_order > self.source_order or order > self.order:
            raise ValueError(
                f"expected moments of order {self.source_order} and fields of order {self.order} "
                f"at most, for which this plan was made, got {source_order} and {order}"
            )
        dtype = np.result_type(self.dtype, checks.common_dtype(packed))
        wide = packed.astype(np.float64)
        check_neutral(wide, self._lattice, self.kernel)
        exponent = int(moment_exponents(wide, self._length, np.array([0, len(wide)]))[0])
        scaled = scaling.scale_moments(wide, self._length, exponent)
        return scaled, exponent, had_channels, dtype, order

    def energy(self, moments: Any) -> float:
        """Return the energy of the moments of sites, targets being sources."""
        self._check_sites(0)
        return energies.energy_of(self, moments)

    def energy_forces(self, moments: Any, *, virial: bool = False) -> tuple[Any, ...]:
        """Return energy, forces, the gradient by the moments, and the virial if it is asked for.

        Parameters
        ----------
        moments : array_like
            See `field`; the plan's order must be one more than theirs.
        virial : bool
            Whether to return the virial, see `multipoles.energy_forces`.
        """
        self._check_sites(1)
        found = energies.energy_forces_of(self, moments)
        return (*found, self._virial(moments)) if virial else found

    def torques(self, moments: Any) -> np.ndarray:
        """Return the torque on each site, see `fmm.torques`."""
        self._check_sites(0)
        return energies.torques_of(self, moments)

    def _virial(self, moments: Any) -> np.ndarray:
        scaled, exponent, _, _, _ = self._scaled_moments(moments, None)
        source_order = indexing.order_of(scaled.shape[2])

        def whole_field() -> np.ndarray:
            return self._sum.field(scaled, source_order + 1, {})

        along = self._sum.strain(scaled)
        found = virial(self._sum.cell, self._sum.targets, scaled, whole_field, along)
        if self._lattice.surface == "vacuum":
            volume, ends = self._sum.cell.volume, np.array([0, len(scaled)])
            found = found + of_surface.strain(self._points[1], scaled, volume[None], ends)[0]
        return np.ldexp(found, self._length - 2 * exponent)

    def _check_sites(self, extra: int) -> None:
        arguments.sites_only(self._has_targets)
        if self.order < self.source_order + extra:
            raise ValueError(
                f"expected a plan of order {self.source_order + extra} or more for moments of "
                f"order {self.source_order}, got one of order {self.order}"
            )

    def transpose(self) -> "Mesh":
        """Return the plan with targets and sources exchanged: the adjoint map."""
        x, s = (np.ldexp(points, -self._length) for points in self._points)
        periodic, background, surface = self._options
        return Mesh(
            x, s if self._has_targets else None, self.tolerance, self.order, self.source_order,
            cell=self._cell, periodic=periodic, background=background, surface=surface,
            kernel=self.kernel,
        )  # fmt: skip

    def rebuild(self, sources: Any, targets: Any = None, cell: Any = None) -> None:
        """Go over to new positions, and a new cell if it is given.

        Parameters
        ----------
        sources : array_like, shape (n_sources, 3)
            Where moments will be.
        targets : array_like, shape (n_targets, 3), optional
            Given if, and only if, they were when the plan was made.
        cell : array_like, shape (3, 3), optional
            Default: that of before.
        """
        arguments.targets_as_before(sources, targets, self._has_targets)
        start, before = perf_counter(), self._sum
        self._take(sources, targets, self._cell if cell is None else cell)
        self._sum.keep_influence(before)
        self._report.plan_seconds = perf_counter() - start

    def report(self) -> MeshReport:
        """Return what was chosen, and the cost of the last evaluation; print it to read."""
        return self._report
