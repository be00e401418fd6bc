"""Plans of periodic sums on a mesh: what users call, which checks, measures and reports."""

import warnings
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from fmm import arguments, energies
from fmm.error.in_cell import InCell
from fmm.error.verdict import LAST, ROUNDED, Verdict, zeros
from fmm.mesh.checking import Known, judged
from fmm.mesh.choice import Setting, ToleranceNotKept, reach_of, setting_of
from fmm.mesh.plan import MeshSum, timed
from fmm.report import Measured
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
# how often a tolerance that is missed is aimed at anew: by a share of what is missed, and by how
# much at once at most
_TRIES, _AIM, _FARTHEST = 3, 0.5, 1e-3
# of the aim: how exact the sums are by which it is judged, and are where it seems to be missed
_EXACT, _MORE_EXACT = 1.0, 1e-3
# an error that is less than this share of what is allowed asks for another aim, at most so many
# times what is allowed, after so many evaluations on the same points
_IDLE, _LOOSEST, _OFTEN = 0.15, 30.0, 2


@dataclass
class MeshReport(Measured):
    """Choices of a mesh, costs and errors of its last evaluation; `str` of it is a table.

    Attributes
    ----------
    n_targets, n_sources : int
        Points.
    tolerance, aim : float
        What was asked, and what grid and radius are made for: less, where it was missed, more,
        where errors were measured to be far below it.
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
    errors, bounds, each, sampled, warning
        See `fmm.report.Measured`.
    """

    n_targets: int = 0
    n_sources: int = 0
    tolerance: float = 0.0
    aim: float = 0.0
    shape: tuple[int, int, int] = (0, 0, 0)
    points: int = 0
    radius: float = 0.0
    band: float = 0.0
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
        if self.aim != self.tolerance:
            need = "needed" if self.aim < self.tolerance else "enough"
            lines.insert(1, f"grid and radius for {self.aim:.1e}, which was measured to be {need}")
        lines += [f"  {step:<24}{1e3 * s:9.1f} ms" for step, s in self.seconds.items()]
        if self.seconds:
            lines.append(self.accuracy())
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
        Largest relative L2 error of the field at every order: the root mean square error over all
        targets against the root mean square of the field. It is measured in every evaluation, at
        targets drawn where errors are expected, against sums that have no grid; where it is missed,
        grid and radius are chosen anew, and if that does not help a RuntimeWarning tells the error.
        Fields in float32 are not closer than 1.2e-7.
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
        # what earlier evaluations showed, by orders of moments and field
        self._aim, self._known = tolerance, dict[tuple[int, int], Known]()
        self._exact = _EXACT
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
        self._points, self._uses = (x, s), 0
        reduced = cell_of(np.ldexp(self._lattice.cells, length), self._lattice.periodic)
        unit = float(np.ldexp(1.0, length))
        self._scaled_kernel = self.kernel.scaled(unit)
        self._reduced, self._unit = reduced, unit
        self._lay_out()

    def _lay_out(self) -> None:
        """Choose how to sum, for an aim, and lay it out."""
        (x, s), reduced = self._points, self._reduced
        if not len(s) or not len(x):
            # a sum of nothing is laid out like that of one point
            x = s = np.zeros((1, 3))
        setting = self._setting_of(reduced, x, s)
        self._sum = MeshSum(x, s, reduced, setting, self._scaled_kernel, self._unit)
        self._choose_judge()
        self._report = MeshReport(
            n_targets=self.n_targets, n_sources=self.n_sources, tolerance=self.tolerance,
            aim=self._aim, shape=self._sum.shape, points=setting.points,
            radius=float(np.ldexp(setting.radius, -self._length)), band=setting.band,
            near_pairs=self._sum.n_near_pairs,
        )  # fmt: skip

    def _choose_judge(self) -> None:
        """Make sums at a few targets as exact as is needed; keep those of before if they are."""
        tolerance = self._exact * min(self._aim, self.tolerance)
        judge = InCell(self._reduced, self._scaled_kernel, tolerance, self._unit)
        before: InCell = self.__dict__.get("_judge", judge)
        self._judge = before if before.is_like(judge) else judge

    def _setting_of(self, cell: Cell, x: np.ndarray, s: np.ndarray) -> Setting:
        """Return the cheapest setting: that of before, if nothing has changed that matters."""
        spread = cell.extents(x, s)
        key = cell.vectors.tobytes(), spread.tobytes(), len(x), len(s), self._aim
        if self._chosen is None or self._chosen[0] != key:
            given = x, s, cell, self._scaled_kernel, self._aim
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

        Warns
        -----
        RuntimeWarning
            If the tolerance is not kept; it tells the error.
        """
        scaled, exponent, had_channels, dtype, order = self._scaled_moments(moments, order)
        if not self.n_sources or not self.n_targets:
            out = np.zeros((self.n_targets, scaled.shape[1], indexing.n_components(order)), dtype)
            return out if had_channels else out[:, 0]
        phi = self._measured_field(scaled, order, dtype == np.float32)
        out = scaling.unscale_field(phi, self._length, exponent).astype(dtype)
        if self._report.warning:
            warnings.warn(self._report.warning, RuntimeWarning, stacklevel=2)
        return out if had_channels else out[:, 0]

    def _measured_field(self, moments: np.ndarray, order: int, single: bool) -> np.ndarray:
        """Return a field that keeps the tolerance, or is as good as a mesh can make it."""
        # no result in float32 is more accurate than its rounding
        tolerance, last = max(self.tolerance, ROUNDED * single), LAST * single
        if not moments.any():
            self._report.seconds.clear()
            self._report.measured(zeros(tolerance, order), 0)
            return np.zeros((self.n_targets, moments.shape[1], indexing.n_components(order)))
        orders = indexing.order_of(moments.shape[2]), order
        self._uses += 1
        if self._uses > _OFTEN and (share := self._spare()) > 1:
            self._aim_at(share)
        before, shares = (self._aim, self._sum, self._report), list[float]()
        while True:
            phi = self._whole_field(moments, order)
            verdict, sampled, known = self._judged(moments, phi, tolerance, last)
            if not verdict.kept and self._exact > _MORE_EXACT:
                # perhaps it is what is compared that is not exact enough
                self._exact = _MORE_EXACT
                self._choose_judge()
                verdict, sampled, known = self._judged(moments, phi, tolerance, last)
            self._report.measured(verdict, sampled)
            shares.append(verdict.worst)
            if verdict.kept or known.in_vain:
                break
            # farther each time
            if len(shares) > _TRIES or not self._aim_at((_AIM / verdict.worst) ** len(shares)):
                known = known._replace(in_vain=True)
                break
        vanishes = bool((known.lost * self._aim > 1.0).any())
        if known.in_vain and (vanishes or not shares[-1] < _AIM * shares[0]):
            # what costs more than before has not helped, or of what is lost all is noise
            self._aim, self._sum, report = before
            report.measured(verdict, sampled)
            report.seconds, self._report = self._report.seconds, report
        self._known[orders] = known
        return phi

    def _judged(
        self, moments: np.ndarray, phi: np.ndarray, tolerance: float, last: float
    ) -> tuple[Verdict, int, Known]:
        """Return what is known of the error of a field, see `checking.judged`."""
        order = indexing.order_of(phi.shape[2])
        known = self._known.get((indexing.order_of(moments.shape[2]), order))
        with timed(self._report.seconds, "sample"):
            exact = partial(self._exact_field, moments, order)
            return judged(self._sum, moments, phi, exact, tolerance, last, known)

    def _spare(self) -> float:
        """Return how many times the aim would do: errors of models are those of lattices."""
        share = max((known.share for known in self._known.values()), default=1.0)
        if share >= _IDLE:
            return 1.0
        loosest = min(_LOOSEST * self.tolerance, 0.1) / self._aim
        return max(min(_AIM / max(share, _FARTHEST), loosest), 1.0)

    def _aim_at(self, share: float) -> bool:
        """Lay out the sum anew, for a share of what was aimed at; False if that cannot be kept."""
        before, seconds = self._aim, self._report.plan_seconds
        self._aim *= max(share, _FARTHEST)
        try:
            self._lay_out()
        except ToleranceNotKept:
            self._aim = before
            return False
        self._report.plan_seconds = seconds
        return True

    def _whole_field(self, moments: np.ndarray, order: int) -> np.ndarray:
        phi = self._sum.field(moments, order, self._report.seconds)
        if self._lattice.surface == "vacuum":
            phi += of_surface.field_of_one(*self._points, moments, order, self._sum.cell.volume)
        return phi

    def _exact_field(self, moments: np.ndarray, order: int, samples: np.ndarray) -> np.ndarray:
        """Return the exact field at some targets, from points as they were given."""
        few, s = self._points[0][samples], self._points[1]
        phi = self._judge.field(few, s, moments, order)
        if self._lattice.surface == "vacuum":
            phi += of_surface.field_of_one(few, s, moments, order, self._sum.cell.volume)
        return phi

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
        other = Mesh(
            x, s if self._has_targets else None, self.tolerance, self.order, self.source_order,
            cell=self._cell, periodic=periodic, background=background, surface=surface,
            kernel=self.kernel,
        )  # fmt: skip
        if self._aim < self.tolerance:
            other._aim_at(self._aim / self.tolerance)
        return other

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
        self._aim *= self._spare()
        self._take(sources, targets, self._cell if cell is None else cell)
        self._sum.keep_influence(before)
        self._report.plan_seconds = perf_counter() - start

    def report(self) -> MeshReport:
        """Return what was chosen, and the cost of the last evaluation; print it to read."""
        return self._report
