"""Plans: fields of multipoles at many points, to a tolerance, in linear time."""

import warnings
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from fmm import accuracy
from fmm.cost import SINGLE, Work, expected_work
from fmm.geometry import Batches, Geometry
from fmm.report import Report
from fmm.steps_cpu import HostSteps, precision
from multipoles import checks
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
# logarithm of edges that count as the same
_SAME_EDGE = 0.1


class FMM:
    """Fields of multipoles at many points to a named accuracy: plan once, apply often.

    Points on a GPU (arrays that offer ``__cuda_array_interface__`` or DLPack: Numba, CuPy, torch,
    JAX) are planned and evaluated there; batches and moments must lie beside them, of one dtype,
    and fields come back as arrays of the same library. Values are not checked there. The host
    waits for the device while it plans, and in the first evaluation of each pair of orders, which
    chooses degrees; later ones only launch. Every sum is gathered in a fixed order: every run gives
    the same bits.

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
        self._steps = _steps(sources, targets)
        x, s, batches = self._steps.points(sources, targets, source_batch, target_batch)
        self.dtype = checks.common_dtype(x, s)
        start = perf_counter()
        # gradients ask for an order more, and theirs for another
        reach = self._reach(self.source_order + self.order + 2)
        distances = _in_distances(reach, self._steps.extent(s), s.shape[0]) if reach > 0 else 0.0
        work = expected_work(
            s.shape[0], self.tolerance, self.source_order, self.order, channels,
            self.kernel.code != _COULOMB.code, distances,
        )._replace(processor=self._steps.processor(self.dtype))  # fmt: skip
        self._geometry = self._steps.arrange(x, s, batches, work, leaf_size, reach)
        self._choice: tuple[Batches, Work, int | None] = batches, work, leaf_size
        self._expected_degree = work.degree
        # whether leaves stay as they are whatever moments come
        self._settled = leaf_size is not None
        self._degrees: dict[tuple[int, int], tuple[int, ...]] = {}
        self._sure: set[tuple[int, int]] = set()
        self._far: dict[tuple, Any] = {}
        self._transposed: FMM | None = None
        self._geometry.lists  # noqa: B018 - worked out here
        seconds = perf_counter() - start
        self._report = Report(tolerance=self.tolerance, plan_seconds=seconds)

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return int(self._geometry.sources.shape[0])

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return int(self._geometry.targets.shape[0])

    def transpose(self) -> "FMM":
        """Return the plan with targets and sources exchanged: the adjoint map, on the same tree.

        It keeps its positions when this plan is rebuilt, which then makes another.
        """
        if self._transposed is None:
            other = object.__new__(FMM)
            other.__dict__ |= self.__dict__
            other._geometry = self._geometry.transposed
            (x_batch, s_batch), work, leaf_size = self._choice
            other._choice = (s_batch, x_batch), work, leaf_size
            other.source_order, other.order = self.order, self.source_order
            other._degrees, other._sure, other._far = {}, set(), {}
            other._transposed = self
            other._report = Report(tolerance=self.tolerance)
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
        packed, source_order, had_channels, dtype = self._steps.moments(
            moments, self.n_sources, self.dtype
        )
        check_total_order(source_order, order)
        out = self._field(packed, source_order, order, dtype)
        return self._steps.give(out, had_channels)

    def rebuild(self, sources: Any, targets: Any = None, *, check: bool | None = None) -> None:
        """Go over to new positions of the same points, as in a step of dynamics.

        Root grid, size of leaves and degrees stay; tree and lists are made anew. On a GPU nothing
        but numbers of boxes and pairs, and the corners of the systems, come to the host.

        Parameters
        ----------
        sources : array_like, shape (n_sources, 3)
            As many as before, in the same systems.
        targets : array_like, shape (n_targets, 3), optional
            Must be given if, and only if, they were when the plan was made.
        check : bool, optional
            Whether the next evaluation of each pair of orders measures errors again and mends
            degrees. Default: if the edge of boxes is another by more than a tenth. On the CPU
            every evaluation does.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or lies elsewhere than the plan's points.
        """
        before, (batches, _, _) = self._geometry, self._choice
        if (targets is None or targets is sources) != (before.targets is before.sources):
            raise ValueError(
                "targets: expected "
                + ("none: the plan has none" if targets is not None else "those of the plan too")
            )
        _same_place(self._steps, sources, targets)
        x, s, _ = self._steps.points(sources, targets, None, None)
        if (x.shape, s.shape) != (before.targets.shape, before.sources.shape):
            raise ValueError(
                f"expected as many points as before, {self.n_targets} targets and "
                f"{self.n_sources} sources, got {x.shape[0]} and {s.shape[0]}"
            )
        if checks.common_dtype(x, s) != self.dtype:
            raise TypeError(f"expected points of {self.dtype} as before, got {s.dtype}")
        start = perf_counter()
        after = before.moved(x, s, batches)
        kept, sure = self._degrees, self._sure
        self._lay_out(after)
        edges = before.sorted_points.edge, after.sorted_points.edge
        if check is None:
            check = bool(np.any(np.abs(np.log(edges[1] / edges[0])) > _SAME_EDGE))
        n_levels = len(after.tree.level_starts) - 1
        for key, degrees in kept.items():
            if any(degrees):
                self._degrees[key] = _for_levels(degrees, n_levels)
        self._sure = set() if check else sure & self._degrees.keys()
        self._report = replace(self._report, plan_seconds=perf_counter() - start)

    def report(self) -> Report:
        """Return what was chosen, and cost and error of the last evaluation; print it to read."""
        return self._report.of(self._geometry)

    # --- evaluation -------------------------------------------------------------------------------

    def _field(self, moments, source_order, order, dtype) -> Any:
        reach = self._reach(source_order + order)
        if reach > self._geometry.smallest:
            batches, work, leaf_size = self._choice
            points = self._geometry.unsorted()
            self._lay_out(self._steps.arrange(*points, batches, work, leaf_size, reach))
        geometry, steps = self._geometry, self._steps
        report = replace(
            self._report, source_order=source_order, order=order, channels=moments.shape[1],
            degrees=(), precision="", seconds={}, errors=np.zeros(order + 1),
        )  # fmt: skip
        with report.timed("order"):
            ordered = steps.order(geometry, moments, precision(self.tolerance, dtype))
        with report.timed("near field"):
            out = steps.near(geometry, ordered, order, self.kernel, reach)
        if geometry.has_far_field and not self._add_far(ordered, source_order, order, out, report):
            return self._field(moments, source_order, order, dtype)
        with report.timed("order"):
            result = steps.unorder(geometry, out, dtype)
        self._report = report
        return result

    def _add_far(self, moments, source_order, order, out, report) -> bool:
        """Add the far field, of a degree that keeps the tolerance at sampled targets.

        Return False if larger leaves were made instead and nothing was added.
        """
        key, steps = (source_order, order), self._steps
        if steps.device and key in self._sure:
            self._add_known(moments, key, out, report)
            return True
        with report.timed("sample"):
            reach = self._reach(source_order + order)
            probe = steps.probe(self._geometry, moments, out, order, self.kernel, reach)
            norms = probe.norms()
        with report.timed("order"):
            harmonic = steps.harmonic(moments, source_order)
        if key not in self._degrees:
            with report.timed("sample"):
                damped = self.kernel.code != _COULOMB.code
                work = Work(
                    0, source_order, order, moments.shape[1], self._single, damped,
                    self._choice[1].processor,
                )  # fmt: skip
                powers = steps.powers(moments, source_order)
                if self._enlarge_leaves(powers, norms, work):
                    return False
                degrees = self._geometry.least_degrees(powers, norms, self.tolerance, work)
                self._degrees[key] = degrees
        last, in_vain = np.inf, 0
        while any(self._degrees[key]):
            degrees = self._degrees[key]
            local = self._far_field(degrees, source_order, order)(harmonic, report.seconds)
            with report.timed("sample"):
                errors = probe.errors(steps.sampled(local, probe.places, order)) / norms
                if np.max(errors) > _SURE * self.tolerance and not probe.enlarged:
                    probe.enlarge()
                    errors = probe.errors(steps.sampled(local, probe.places, order)) / norms
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
                steps.add(out, local, order)
            self._warn_if_missed(worst)
        self._sure.add(key)
        return True

    def _add_known(self, moments, key: tuple[int, int], out, report) -> None:
        """Add the far field of degrees that were found before."""
        report.degrees = self._degrees[key]
        if not any(report.degrees):
            return
        report.precision, report.errors = self._far_dtype.name, self._report.errors
        harmonic = self._steps.harmonic(moments, key[0])
        local = self._far_field(report.degrees, *key)(harmonic, report.seconds)
        self._steps.add(out, local, key[1])

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
        self._sure = set()
        self._report = Report(tolerance=self.tolerance, plan_seconds=self._report.plan_seconds)

    def _far_field(self, degrees: tuple[int, ...], source_order: int, order: int) -> Any:
        key = degrees, source_order, order
        if key not in self._far:
            self._far[key] = self._steps.far(self._geometry, *key, self._far_dtype)
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
    packed, source_order, *_ = _steps(sources, targets).moments(moments, None, None)
    plan = FMM(
        sources, targets, tolerance, source_order, order, channels=packed.shape[1], kernel=kernel
    )
    return plan.field(moments)


def _steps(sources: Any, targets: Any) -> Any:
    """Return the steps of the place where the points lie."""
    for array in (sources, targets):
        if array is not None and checks.on_device(array):
            from fmm.steps_cuda import DeviceSteps

            return DeviceSteps(array)
    return HostSteps()


def _same_place(steps: Any, *arrays: Any) -> None:
    """Raise a TypeError if an array lies elsewhere than a plan's points."""
    for array in arrays:
        if array is not None and checks.on_device(array) != steps.device:
            places = {True: "a GPU", False: "the CPU"}
            raise TypeError(
                f"expected points on {places[steps.device]}, where those of the plan lie, got a "
                f"{type(array).__name__} on {places[not steps.device]}"
            )


def _for_levels(degrees: tuple[int, ...], n_levels: int) -> tuple[int, ...]:
    """Return degrees for another number of levels; levels that had none get the highest."""
    most = max(degrees)
    found = [d or most for d in degrees[:n_levels]]
    return (*found, *[most] * (n_levels - len(found)))


def _in_distances(reach: float, extent: np.ndarray, n: int) -> float:
    """Return a length in units of the mean distance of n points, rounded."""
    if n == 0:
        return 0.0
    distance = np.exp(np.mean(np.log(np.maximum(extent, reach)))) / n ** (1 / 3)
    return float(2.0 ** (0.5 * round(2 * np.log2(reach / distance))))


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
