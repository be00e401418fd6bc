"""Plans: fields of multipoles at many points, to a tolerance, in linear time."""

import copy
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from fmm import arguments, energies
from fmm.cell.steps import CellSteps
from fmm.evaluation import Evaluation
from fmm.ewald import with_virial
from fmm.exclusions import Exclusions
from fmm.layout import Layout, Request, lay_out
from fmm.report import PERMUTATION, Report
from fmm.setting import carried
from fmm.steps import Array, Steps
from fmm.tree.geometry import Batches, Geometry
from multipoles import checks
from multipoles.checks import check_total_order
from multipoles.indexing import MAX_TOTAL_ORDER
from multipoles.lattice.options import Lattice
from multipoles.radial import Coulomb, Kernel, kernel_object

_COULOMB = Coulomb()


class FMM:
    """Fields of multipoles at many points to a named accuracy: plan once, apply often.

    Points on a GPU (arrays that offer ``__cuda_array_interface__`` or DLPack: Numba, CuPy, torch,
    JAX) are planned and evaluated there; batches and moments must lie beside them, of one dtype,
    and fields come back as arrays of the same library. Values are not checked there. The host
    waits for the device while it plans, and in the first evaluation of each pair of orders, which
    chooses degrees and measures errors; later ones only launch, and their errors are not known: for
    moments of another kind (charges of one sign, then of both), call ``rebuild(..., check=True)``
    first. Every sum is gathered in a fixed order: every run gives the same bits.

    Parameters
    ----------
    sources : array_like, shape (n_sources, 3)
        Where moments will be.
    targets : array_like, shape (n_targets, 3), optional
        Where the field is wanted; default the sources, each without its own contribution. Sources
        that coincide with a target contribute nothing.
    tolerance : float
        Largest relative L2 error of the field at every output order: the root mean square error
        over all targets against the root mean square of the field. It is measured in every
        evaluation (on a GPU in the first), at targets drawn where errors are expected; where it
        cannot be kept, a RuntimeWarning tells the error. Fields in float32 are not closer than
        1.2e-7.
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
        Radial kernel: 1/r, or one that is 1/r from some distance on (`Softened`, `Erf`, `Thole`).
        Boxes of the tree are not smaller than this distance: within it all pairs are summed
        directly.
    each : str or collection of str
        ``"system"``, ``"channel"`` or both: the tolerance holds for every system, or channel, by
        itself. Default: for all targets and channels together. Not on a GPU.
    pair_scale : tuple (pairs, factors), optional
        Pairs (P, 2) whose interaction is multiplied by a factor (P,), each given once: unordered
        pairs of sites if the targets are the sources, else (target, source). They are taken off
        the sum of all in float64, and the tolerance is that of what remains. Not on a GPU. In a
        cell a pair means the two nearest images.
    cell : array_like, shape (3, 3), optional
        Lattice vectors as rows: the sum is over all images. Boxes of the tree then have the shape
        of the cell (or of a larger cell of the same lattice, where that is nearer to right
        angles), and what touching images of the coarsest boxes do not hold enters by lattice sums.
        Of evaluations for moments of one kind the first two are measured, then every eighth. Not
        on a GPU, nor with batches.
    periodic, background, surface
        What repeats, and what is meant by it, see `multipoles.field`.

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

    _transposed: "FMM | None" = None

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
        each: str | Collection[str] = (),
        pair_scale: Any = None,
        cell: Any = None,
        periodic: Any = True,
        background: bool = True,
        surface: str = "conductor",
    ) -> None:
        tolerance = arguments.tolerance(tolerance)
        source_order = checks.order(source_order, "source_order", maximum=MAX_TOTAL_ORDER)
        order = checks.order(order, maximum=MAX_TOTAL_ORDER)
        check_total_order(source_order, order)
        channels = arguments.count(channels, "channels")
        leaf_size = arguments.leaf_size(leaf_size)
        kernel = kernel_object(kernel)
        steps = self._steps(sources, targets)
        self._options: dict[str, Any] = {
            "periodic": periodic, "background": background, "surface": surface,
        }  # fmt: skip
        self._cell = cell
        lattice = arguments.lattice(cell, **self._options, steps=steps)
        if lattice is not None:
            steps = self._steps_in(lattice, kernel, tolerance)
            arguments.one_system(source_batch, target_batch)
        each = arguments.each(each, steps.device)
        # targets of their own, even if they lie where the sources do
        self._has_targets = targets is not None and targets is not sources
        x, s, batches = steps.points(sources, targets, source_batch, target_batch)
        dtype = checks.common_dtype(x, s)
        if pair_scale is not None and steps.device:
            raise ValueError("pair_scale: expected none for points on a GPU")
        exclusions = self._exclusions(pair_scale, x, s, batches)
        request = Request(
            tolerance, source_order, order, channels, leaf_size, kernel, each, exclusions, dtype
        )
        start = perf_counter()
        layout = lay_out(steps, request, x, s, batches)
        self._take(layout, perf_counter() - start)
        self._keep(x, s)

    def _steps(self, sources: Any, targets: Any) -> Steps:
        """Return the steps of points in free space."""
        return arguments.steps_of(sources, targets)

    def _exclusions(self, pair_scale: Any, x: Array, s: Array, batches: Batches) -> Any:
        """Return what scaled pairs mean, None if they change nothing."""
        return Exclusions.made(pair_scale, x, s, batches)

    def _steps_in(self, lattice: Lattice, kernel: Kernel, tolerance: float) -> Steps:
        """Return the steps of points in a cell."""
        return CellSteps(lattice, kernel, tolerance)

    def _keep(self, targets: Array, sources: Array) -> None:
        """Keep points as they were given, where surface and virial of a cell ask for them."""
        self._given: tuple[Array, Array] = (None, None)
        if self._cell is not None:
            self._given = targets, sources

    def _take(self, layout: Layout, seconds: float) -> None:
        """Go over to a layout that took some seconds to make; a partner is one no more."""
        request = layout.request
        self.tolerance, self.kernel, self.each = request.tolerance, request.kernel, request.each
        self.source_order, self.order, self.dtype = (
            request.source_order,
            request.order,
            request.dtype,
        )
        self._layout, self._plan_seconds = layout, seconds
        self._report = Report(tolerance=self.tolerance, plan_seconds=seconds)
        self._shown = layout.geometry
        # what evaluates as the last time, and shape and type of the moments it takes
        self._again: tuple[Callable[[Array], Any], tuple[int, ...], np.dtype] | None = None
        if self._transposed is not None:
            self._transposed._transposed = None
            self._transposed = None

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return self._layout.n_sources

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return self._layout.n_targets

    def transpose(self) -> "FMM":
        """Return the plan with targets and sources exchanged: the adjoint map, on the same tree.

        It keeps its positions when this plan is rebuilt, and this plan its own when that is
        rebuilt: each then makes another.
        """
        if self._transposed is None:
            other = copy.copy(self)
            other._take(self._layout.transposed, self._plan_seconds)
            other._given = self._given[::-1]
            other._transposed, self._transposed = self, other
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

        Warns
        -----
        RuntimeWarning
            If the tolerance is not kept; it tells the error, and why.
        """
        order = self.order if order is None else checks.order(order, maximum=MAX_TOTAL_ORDER)
        steps = self._layout.steps
        with steps.alone():
            packed, source_order, had_channels, dtype = steps.moments(
                moments, self.n_sources, self.dtype
            )
            check_total_order(source_order, order)
            steps.refuse(packed, self.kernel)
            out = self._field(packed, source_order, order, dtype)
            if self._report.warning:
                warnings.warn(self._report.warning, RuntimeWarning, stacklevel=2)
            result: np.ndarray = steps.give(out, had_channels)
        return result

    def _field(self, moments: Array, source_order: int, order: int, dtype: np.dtype) -> Array:
        layout = self._layout.reaching(source_order + order)
        if layout is not self._layout:
            self._take(layout, self._plan_seconds)
        key = source_order, order, moments.shape, dtype
        work = partial(self._evaluated, layout, source_order, order, dtype)
        out, (self._report, self._shown) = layout.repeated(key, work, moments)
        self._again = work, moments.shape, moments.dtype
        return out

    def _evaluated(
        self, layout: Layout, source_order: int, order: int, dtype: np.dtype, moments: Array
    ) -> tuple[Array, tuple[Report, Geometry]]:
        """Return the field of moments, what to report, and the tree that was used."""
        report = Report(
            tolerance=self.tolerance, plan_seconds=self._plan_seconds, source_order=source_order,
            order=order, channels=moments.shape[1], wait=layout.steps.wait,
        )  # fmt: skip
        with report.timed(PERMUTATION):
            units = layout.steps.units(moments, source_order, layout.exponent)
            scaled = units.scaled(moments)
        evaluation = Evaluation(layout, scaled, source_order, order, dtype, report)
        found = evaluation.run(units.kept(dtype))
        of_surface = layout.steps.of_surface(*self._given, scaled, order)
        if of_surface is not None:
            found = found + of_surface
        with report.timed(PERMUTATION):
            out = units.restored(found, order, dtype)
        return out, (report, evaluation.geometry)

    def energy(self, moments: Any) -> float:
        """Return the energy of the moments of sites, targets being sources, see `fmm.energy`.

        Raises
        ------
        TypeError, ValueError
            See `field`; ValueError also if the plan has targets of their own.
        """
        arguments.sites_only(self._has_targets)
        return energies.energy_of(self, moments)

    def energy_forces(self, moments: Any, *, virial: bool = False) -> tuple[Any, ...]:
        """Return energy, forces and the gradient by the moments, see `fmm.energy_forces`.

        Parameters
        ----------
        moments : array_like
            See `field`.
        virial : bool
            In a cell, whether to return the virial too, see `multipoles.energy_forces`. It is not
            made of fields: a mesh, or an Ewald sum, is laid out for it.

        Raises
        ------
        TypeError, ValueError
            See `energy`.
        """
        arguments.sites_only(self._has_targets)
        found = energies.energy_forces_of(self, moments)
        return (*found, self._virial(moments)) if virial else found

    def _virial(self, moments: Any) -> np.ndarray:
        if self._cell is None:
            raise ValueError("virial: expected a plan in a cell, got one in free space")
        if self._layout.request.exclusions is not None:
            raise ValueError("virial: expected no scaled pairs; use multipoles.energy_forces")
        packed, source_order, _ = checks.moments(moments, self.n_sources)
        options = {"cell": self._cell, "kernel": self.kernel, **self._options}
        other = with_virial(self._given[1], self.tolerance, source_order, options)
        found: np.ndarray = other.energy_forces(packed, virial=True)[3]
        return found

    def torques(self, moments: Any) -> np.ndarray:
        """Return the torque on each site, see `fmm.torques`.

        Raises
        ------
        TypeError, ValueError
            See `energy`.
        """
        arguments.sites_only(self._has_targets)
        return energies.torques_of(self, moments)

    def rebuild(
        self,
        sources: Any,
        targets: Any = None,
        source_batch: Any = None,
        target_batch: Any = None,
        *,
        check: bool | None = None,
        cell: Any = None,
    ) -> None:
        """Go over to new positions, as in a step of dynamics.

        Root grid, size of leaves and degrees stay as long as they serve; tree and lists are made
        anew. On a GPU nothing but numbers of boxes and pairs, and the corners of the systems, come
        to the host.

        Parameters
        ----------
        sources : array_like, shape (n_sources, 3)
            As many as before, in the same systems, unless batches are given.
        targets : array_like, shape (n_targets, 3), optional
            Must be given if, and only if, they were when the plan was made.
        source_batch, target_batch : array_like of int, optional
            Other systems; then the number of points may be another too. Default: those of before.
        check : bool, optional
            On a GPU, whether the next evaluation of each pair of orders measures errors again and
            mends degrees. Default: if the edge of boxes or the number of near pairs is another by
            more than a tenth than where they were measured last. On the CPU every evaluation does.
        cell : array_like, shape (3, 3), optional
            Another cell, if the plan has one.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or lies elsewhere than the plan's points.
        """
        x, s, batches = self._moved_points(sources, targets, source_batch, target_batch)
        start = perf_counter()
        if cell is None:
            layout = self._layout.moved(x, s, batches, check)
        else:
            layout = self._layout_in(cell, x, s)
        self._take(layout, perf_counter() - start)
        self._keep(x, s)

    def _layout_in(self, cell: Any, targets: Array, sources: Array) -> Layout:
        """Return the layout of points in another cell."""
        if self._cell is None:
            raise ValueError("cell: expected none, the plan is one of free space")
        before = self._layout
        lattice = arguments.lattice(cell, **self._options, steps=before.steps)
        assert lattice is not None
        steps = self._steps_in(lattice, self.kernel, self.tolerance)
        layout = lay_out(steps, before.request, targets, sources, (None, None))
        known = carried(before.settings, before.geometry, layout.geometry)
        # boxes of another shape have other errors
        layout.settings.update({k: replace(s, evidence=None, lost=None) for k, s in known.items()})
        self._cell = cell
        return layout

    def _moved_points(
        self, sources: Any, targets: Any, source_batch: Any, target_batch: Any
    ) -> tuple[Array, Array, Batches]:
        """Return the checked arguments of `rebuild`."""
        arguments.targets_as_before(sources, targets, self._has_targets)
        arguments.same_place(self._layout.steps, sources, targets)
        has_batches = source_batch is not None or target_batch is not None
        if has_batches and self._layout.request.exclusions is not None:
            raise ValueError("expected no batches: the plan's scaled pairs belong to its systems")
        x, s, batches = self._layout.steps.points(sources, targets, source_batch, target_batch)
        sizes = x.shape[0], s.shape[0]
        if not has_batches:
            batches = self._layout.batches
            self._check_sizes(sizes)
        if checks.common_dtype(x, s) != self.dtype:
            raise TypeError(f"expected points of {self.dtype} as before, got {s.dtype}")
        return x, s, batches

    def _check_sizes(self, sizes: tuple[int, int]) -> None:
        """Refuse other numbers of targets and sources than before."""
        if sizes != (self.n_targets, self.n_sources):
            raise ValueError(
                f"expected as many points as before, {self.n_targets} targets and "
                f"{self.n_sources} sources, got {sizes[0]} and {sizes[1]}"
            )

    def report(self, *, synchronise: bool = False) -> Report:
        """Return what was chosen, and cost and error of the last evaluation; print it to read.

        Parameters
        ----------
        synchronise : bool
            On a GPU, whether to evaluate once more, for moments of zeros of the same shape, with a
            wait after each step: `seconds` are then the device's, some 10 µs of each the wait's.
            Otherwise they are what the host spent. On the CPU nothing changes.
        """
        if synchronise and self._again is not None and self._layout.steps.device:
            with self._layout.steps.alone():
                _, (found, _) = self._layout.steps.synchronised(*self._again)
            self._report = replace(self._report, seconds=found.seconds, synchronised=True)
        return self._report.of(self._shown)
