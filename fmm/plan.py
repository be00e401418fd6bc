"""Plans: fields of multipoles at many points, to a tolerance, in linear time."""

import warnings
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from fmm import accuracy, harmonics, sampling
from fmm.cost import SINGLE, Work, expected_work
from fmm.driver_cpu import FarField
from fmm.geometry import Geometry, arrange
from fmm.near import near_field
from fmm.report import Report
from multipoles import checks, indexing
from multipoles.interactions import MAX_TOTAL_ORDER, check_total_order
from multipoles.radial import Coulomb, Kernel, kernel_object

_LEAST = 1e-14
# of the tolerance: what the error at a few targets may be without asking more of them, and what
# it may be there
_SURE = 0.5
_ENOUGH = 0.75
# of the tolerance: by how much a kernel taken for 1/r may differ from it
_NEGLIGIBLE = 0.05
_COULOMB = Coulomb()
_Batches = tuple[np.ndarray | None, np.ndarray | None]


class FMM:
    """Fields of multipoles at many points to a named accuracy: plan once, apply often.

    Parameters
    ----------
    sources : array_like, shape (n_sources, 3)
        Where moments will be.
    targets : array_like, shape (n_targets, 3), optional
        Where the field is wanted; default the sources, each without its own contribution. Sources
        that coincide with a target contribute nothing.
    tolerance : float
        Largest relative L2 error of the field at every output order: the root mean square error
        over all targets against the root mean square of the field.
    source_order, order : int
        Order of the moments and of the field that the plan is laid out for; `field` takes others
        as well.
    source_batch, target_batch : array_like of int, optional
        Sorted index of the system each point belongs to; only pairs of one system are summed.
    channels : int
        Number of channels that the plan is laid out for; `field` takes any number.
    leaf_size : int, optional
        Most points that a box of the tree may hold without being divided. Chosen by default.
    kernel : Kernel
        Radial kernel: 1/r, or one that is 1/r from some distance on (`Softened`, `Erf`). Boxes of
        the tree are not smaller than this distance: within it all pairs are summed directly.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np, fmm, multipoles as mp
    >>> positions = np.random.default_rng(0).random((20000, 3))
    >>> plan = fmm.FMM(positions, tolerance=1e-4)
    >>> plan.field(mp.pack(charges=np.ones(20000))).shape
    (20000, 4)
    """

    def __init__(
        self,
        sources: Any,
        targets: Any = None,
        tolerance: float = 1e-6,
        source_order: int = 0,
        order: int = 1,
        *,
        source_batch: Any = None,
        target_batch: Any = None,
        channels: int = 1,
        leaf_size: int | None = None,
        kernel: Kernel = _COULOMB,
    ) -> None:
        self.tolerance = _tolerance(tolerance)
        self.source_order = checks.order(source_order, "source_order", maximum=MAX_TOTAL_ORDER)
        self.order = checks.order(order, maximum=MAX_TOTAL_ORDER)
        check_total_order(self.source_order, self.order)
        channels = _count(channels, "channels")
        leaf_size = None if leaf_size is None else _count(leaf_size, "leaf_size")
        self.kernel = kernel_object(kernel)
        s = checks.points(sources, "sources")
        x = s if targets is None or targets is sources else checks.points(targets, "targets")
        if x is s and target_batch is None:
            target_batch = source_batch
        batches = checks.batches(target_batch, source_batch, len(x), len(s))
        self.dtype = checks.common_dtype(x, s)
        start = perf_counter()
        # gradients ask for an order more, and theirs for another
        reach = self._reach(self.source_order + self.order + 2)
        work = expected_work(
            len(s), self.tolerance, self.source_order, self.order, channels,
            self.kernel.code != _COULOMB.code, _in_distances(reach, s),
        )  # fmt: skip
        self._geometry = arrange(x, s, batches, work, leaf_size, reach)
        self._choice: tuple[_Batches, Work, int | None] = batches, work, leaf_size
        self._expected_degree = work.degree
        # whether leaves stay as they are whatever moments come
        self._settled = leaf_size is not None
        self._degrees: dict[tuple[int, int], tuple[int, ...]] = {}
        self._far: dict[tuple, FarField] = {}
        self._transposed: FMM | None = None
        report = Report.of(self._geometry, self.tolerance, 0.0)
        self._report = replace(report, plan_seconds=perf_counter() - start)

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return len(self._geometry.sources)

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self._geometry.targets)

    def transpose(self) -> "FMM":
        """Return the plan with targets and sources exchanged: the adjoint map, on the same tree."""
        if self._transposed is None:
            other = object.__new__(FMM)
            other.__dict__ |= self.__dict__
            other._geometry = self._geometry.transposed
            (x_batch, s_batch), work, leaf_size = self._choice
            other._choice = (s_batch, x_batch), work, leaf_size
            other.source_order, other.order = self.order, self.source_order
            other._degrees, other._far = {}, {}
            other._transposed = self
            other._report = Report.of(other._geometry, self.tolerance, 0.0)
            self._transposed = other
        return self._transposed

    def field(self, moments: Any, order: int | None = None) -> np.ndarray:
        """Return the field of multipoles: Φ_β = Σ_i Σ_α (-1)^|α| M_α ∂^(α+β) f at every target.

        Parameters
        ----------
        moments : array_like, shape (n_sources, [channels,] n_components(K))
            Packed moments of any order K, see `multipoles.pack`.
        order : int, optional
            Highest derivative; default that of the plan.

        Returns
        -------
        ndarray, shape (n_targets, [channels,] n_components(order))
            The same as ``multipoles.field(targets, sources, moments, order, kernel)`` within the
            plan's tolerance at every output order. float32 if points and moments are.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or range, or holds NaN or infinity.
        """
        order = self.order if order is None else checks.order(order, maximum=MAX_TOTAL_ORDER)
        packed, source_order, had_channels = checks.moments(moments, self.n_sources)
        check_total_order(source_order, order)
        dtype = np.result_type(self.dtype, packed.dtype)
        out = self._field(packed, source_order, order, dtype)
        return out if had_channels else out[:, 0, :]

    def report(self) -> Report:
        """Return what was chosen, and cost and error of the last evaluation; print it to read."""
        return self._report

    # --- evaluation -------------------------------------------------------------------------------

    def _field(self, moments, source_order, order, dtype) -> np.ndarray:
        reach = self._reach(source_order + order)
        if reach > self._geometry.smallest:
            batches, work, leaf_size = self._choice
            points = self._geometry.unsorted()
            self._lay_out(arrange(*points, batches, work, leaf_size, reach))
        geometry, tree = self._geometry, self._geometry.tree
        channels = moments.shape[1]
        report = replace(
            self._report, source_order=source_order, order=order, channels=channels, degrees=(),
            precision="", seconds={}, errors=np.zeros(order + 1),
        )  # fmt: skip
        working = dtype if self.tolerance >= SINGLE else np.dtype(np.float64)
        with report.timed("order"):
            ordered = moments[tree.source_order].astype(working, copy=False)
        out = np.empty((self.n_targets, channels, indexing.n_components(order)), working)
        with report.timed("near field"):
            targets, sources = geometry.points(working)
            near_field(
                targets, sources, ordered, order, *geometry.near, out, kernel=self.kernel,
                reach=reach,
            )  # fmt: skip
        if geometry.has_far_field and not self._add_far(ordered, source_order, order, out, report):
            return self._field(moments, source_order, order, dtype)
        with report.timed("order"):
            result = np.empty(out.shape, dtype)
            result[tree.target_order] = out
        self._report = report
        return result

    def _add_far(self, moments, source_order, order, out, report) -> bool:
        """Add the far field, of a degree that keeps the tolerance at sampled targets.

        Return False if larger leaves were made instead and nothing was added.
        """
        with report.timed("sample"):
            reach = self._reach(source_order + order)
            probe = sampling.Probe(self._geometry, moments, out, order, self.kernel, reach)
            norms = probe.norms()
        with report.timed("order"):
            wide = moments.astype(np.float64, copy=False)
            harmonic = np.ascontiguousarray(wide @ harmonics.cartesian_map(source_order).T)
        key = source_order, order
        if key not in self._degrees:
            with report.timed("sample"):
                damped = self.kernel.code != _COULOMB.code
                work = Work(0, source_order, order, moments.shape[1], self._single, damped)
                powers = _powers(wide, source_order)
                if self._enlarge_leaves(powers, norms, work):
                    return False
                degrees = self._geometry.least_degrees(powers, norms, self.tolerance, work)
                self._degrees[key] = degrees
        to_cartesian, last, in_vain = harmonics.cartesian_map(order), np.inf, 0
        while any(self._degrees[key]):
            degrees = self._degrees[key]
            local = self._far_field(degrees, source_order, order)(harmonic, report.seconds)
            with report.timed("sample"):
                errors = probe.errors(local[probe.places] @ to_cartesian) / norms
                if np.max(errors) > _SURE * self.tolerance and not probe.enlarged:
                    probe.enlarge()
                    errors = probe.errors(local[probe.places] @ to_cartesian) / norms
            report.degrees, report.errors = degrees, errors
            worst = float(np.max(errors)) / self.tolerance
            # rounding, not truncation, when a higher degree does not help; distant boxes, whose
            # degree is a fraction of it, may not notice the first time
            in_vain += worst > 0.8 * last
            if worst <= _ENOUGH or max(degrees) >= accuracy.MAX_DEGREE or in_vain > 1:
                break
            more = 1 + int(2 * np.log2(worst / _ENOUGH)) if worst <= 0.8 * last else 6
            last, more = worst, min(more, accuracy.MAX_DEGREE - max(degrees))
            self._degrees[key] = tuple(d + more if d else 0 for d in degrees)
        highest = max(report.degrees, default=0)
        if highest >= accuracy.MAX_DEGREE and worst > 1 and self._can_grow():
            # no degree is enough for these boxes: sum more of it directly
            self._lay_out(self._geometry.with_leaves(8 * self._geometry.leaf_size))
            return False
        if report.degrees:
            report.precision = self._far_dtype.name
            with report.timed("evaluate locals"):
                out += local @ to_cartesian
            self._warn_if_missed(worst)
        return True

    def _enlarge_leaves(self, powers: np.ndarray, norms: np.ndarray, work: Work) -> bool:
        """Make larger leaves if the degree turns out much higher than the plan expected.

        High orders on points that keep apart, such as a lattice, need it: there the far field is
        a small part of the whole only if the near field reaches far enough.
        """
        best, tolerance = self._geometry, self.tolerance
        degrees = best.least_degrees(powers, norms, tolerance, work)
        if self._settled or max(degrees) <= self._expected_degree + 4:
            return False
        self._settled = True
        shortest = best.seconds(work, degrees)
        while best.has_far_field:
            least = work._replace(degree=max(degrees)).least_for_expansion()
            trial = best.with_leaves(int(2.5 * best.leaf_size), least)
            degrees = trial.least_degrees(powers, norms, tolerance, work)
            seconds = trial.seconds(work, degrees)
            if seconds > 0.9 * shortest:
                break
            best, shortest = trial, seconds
        if best is self._geometry:
            return False
        self._lay_out(best)
        return True

    def _can_grow(self) -> bool:
        """Whether larger leaves would leave less to expansions: root boxes stay as they are."""
        geometry = self._geometry
        below = geometry.translations[1:].any()
        return bool(below) and geometry.leaf_size < max(self.n_sources, self.n_targets)

    def _lay_out(self, geometry: Geometry) -> None:
        """Go over to other leaves."""
        self._geometry, self._degrees, self._far, self._transposed = geometry, {}, {}, None
        self._report = Report.of(geometry, self.tolerance, self._report.plan_seconds)

    def _far_field(self, degrees: tuple[int, ...], source_order: int, order: int) -> FarField:
        key = degrees, source_order, order
        if key not in self._far:
            self._far[key] = FarField(self._geometry, degrees, source_order, order, self._far_dtype)
        return self._far[key]

    def _reach(self, links: int) -> float:
        """Return the distance from which on the kernel is 1/r, within the tolerance."""
        found = self.kernel.coulomb_beyond(_NEGLIGIBLE * self.tolerance, links)
        if not found < inf:
            raise ValueError(
                "kernel: expected one that is 1/r beyond some distance, Coulomb(), Softened(...) "
                f"or Erf(...), got {self.kernel}"
            )
        return found

    @property
    def _single(self) -> bool:
        """Whether the far field is computed in single precision."""
        return self.tolerance >= SINGLE

    @property
    def _far_dtype(self) -> np.dtype:
        return np.dtype(np.float32 if self._single else np.float64)

    def _warn_if_missed(self, worst: float) -> None:
        if worst > 1.5:
            warnings.warn(
                f"the tolerance {self.tolerance:g} was missed: the relative error at sampled "
                f"targets is {worst * self.tolerance:.1e}; rounding may not allow more",
                RuntimeWarning,
                stacklevel=4,
            )


def field(
    targets: Any,
    sources: Any,
    moments: Any,
    order: int = 0,
    tolerance: float = 1e-6,
    kernel: Kernel = _COULOMB,
) -> np.ndarray:
    """Return the field of multipoles at targets like `multipoles.field`, in linear time.

    Parameters
    ----------
    targets, sources : array_like, shape (n, 3)
        Points; a source that coincides with a target contributes nothing.
    moments : array_like, shape (n_sources, [channels,] n_components(K))
        Packed moments.
    order : int
        Highest derivative.
    tolerance : float
        Largest relative L2 error of the field at every output order.
    kernel : Kernel
        Radial kernel: `Coulomb`, or `Softened` or `Erf`, which are 1/r from some distance on.

    Returns
    -------
    ndarray, shape (n_targets, [channels,] n_components(order))

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinity.
    """
    packed, source_order, _ = checks.moments(moments, None)
    plan = FMM(
        sources, targets, tolerance, source_order, order, channels=packed.shape[1], kernel=kernel
    )
    return plan.field(moments)


def _in_distances(reach: float, points: np.ndarray) -> float:
    """Return a length in units of the mean distance of points, rounded; zero if it is zero."""
    if reach == 0 or len(points) == 0:
        return 0.0
    extent = np.maximum(np.ptp(points, axis=0).astype(np.float64), reach)
    distance = np.exp(np.mean(np.log(extent))) / len(points) ** (1 / 3)
    return float(2.0 ** (0.5 * round(2 * np.log2(reach / distance))))


def _powers(moments: np.ndarray, source_order: int) -> np.ndarray:
    """Return the mean square of the moments of each order."""
    squares = np.einsum("nck,nck->k", moments, moments) / max(len(moments), 1)
    starts = [indexing.order_slice(j).start for j in range(source_order + 1)]
    return np.add.reduceat(squares, starts)


def _count(value: Any, name: str) -> int:
    """Return a whole number of at least one, or raise."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def _tolerance(value: Any) -> float:
    """Return the tolerance as a float, or raise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"tolerance: expected a number, got {value!r}") from None
    if not _LEAST <= number < 1:
        raise ValueError(f"tolerance: expected a number from {_LEAST:g} to below 1, got {value!r}")
    return number
