"""Plans: fields of multipoles at many points, to a tolerance, in linear time."""

import warnings
from collections.abc import Collection
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fmm import arguments, choice, energies, scaling
from fmm.cost import Work, expected_work
from fmm.evaluation import Evaluation, Setting
from fmm.exclusions import Exclusions
from fmm.report import Report
from fmm.tree.geometry import Batches
from multipoles import checks
from multipoles.checks import check_total_order
from multipoles.indexing import MAX_TOTAL_ORDER
from multipoles.radial import Coulomb, Kernel, kernel_object

# of the tolerance: by how much a kernel taken for 1/r may differ from it
_NEGLIGIBLE = 0.05
_COULOMB = Coulomb()
# logarithm of edges that count as the same
_SAME_EDGE = 0.1
# times as many near pairs as when leaves were chosen: they are chosen anew
_MORE_PAIRS = 2.0
# more than all points of any plan
_MANY = 2**48


class Choice(NamedTuple):
    """What a plan is laid out for."""

    batches: Batches
    work: Work
    leaf_size: int | None
    """As the caller gave it."""


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
        evaluation (on a GPU in the first), at targets drawn by where errors can sit; where it
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
        Radial kernel: 1/r, or one that is 1/r from some distance on (`Softened`, `Erf`). Boxes of
        the tree are not smaller than this distance: within it all pairs are summed directly.
    each : str or collection of str
        ``"system"``, ``"channel"`` or both: the tolerance holds for every system, or channel, by
        itself. Default: for all targets and channels together. Not on a GPU.
    pair_scale : tuple (pairs, factors), optional
        Pairs (P, 2) whose interaction is multiplied by a factor (P,), each given once: unordered
        pairs of sites if the targets are the sources, else (target, source). They are taken off
        the sum of all in float64, and the tolerance is that of what remains. Not on a GPU.

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
        each: str | Collection[str] = (),
        pair_scale: Any = None,
    ) -> None:
        self.tolerance = arguments.tolerance(tolerance)
        self.source_order = checks.order(source_order, "source_order", maximum=MAX_TOTAL_ORDER)
        self.order = checks.order(order, maximum=MAX_TOTAL_ORDER)
        check_total_order(self.source_order, self.order)
        self._channels = arguments.count(channels, "channels")
        self._leaf_size = (
            None if leaf_size is None else min(arguments.count(leaf_size, "leaf_size"), _MANY)
        )
        self.kernel = kernel_object(kernel)
        self._steps = arguments.steps_of(sources, targets)
        self.each = arguments.each(each, self._steps.device)
        # targets of their own, even if they lie where the sources do
        self._has_targets = targets is not None and targets is not sources
        x, s, batches = self._steps.points(sources, targets, source_batch, target_batch)
        self.dtype = checks.common_dtype(x, s)
        if pair_scale is not None and self._steps.device:
            raise ValueError("pair_scale: expected none for points on a GPU")
        self._exclusions = Exclusions.made(pair_scale, x, s, batches)
        start = perf_counter()
        self._arrange(x, s, batches)
        self._plan_seconds = perf_counter() - start
        self._report = self._blank()

    def _arrange(self, x: Any, s: Any, batches: Batches, orders: int | None = None) -> None:
        """Lay out the tree of points as the caller gave them."""
        steps = self._steps
        exponent = scaling.exponent(steps, x, s)
        kernel = self.kernel
        if exponent:
            kernel = self.kernel.scaled(2.0**-exponent)
            s, same = steps.scaled(s, -exponent), x is s
            x = s if same else steps.scaled(x, -exponent)
        # gradients ask for an order more, and theirs for another
        links = self.source_order + self.order + 2 if orders is None else orders
        reach = self._reach(links, kernel)
        n = s.shape[0]
        distances = _in_distances(reach, steps.extent(s), n) if n and reach > 0 else 0.0
        work = expected_work(
            n, self.tolerance, self.source_order, self.order, self._channels,
            self.kernel.code != _COULOMB.code, distances,
        )._replace(processor=steps.processor(self.dtype))  # fmt: skip
        geometry = steps.arrange(x, s, batches, work, self._leaf_size, reach)
        # all at once: points that cannot be arranged leave the plan as it was
        self._exponent, self._scaled_kernel, self._geometry = exponent, kernel, geometry
        self._choice = Choice(batches, work, self._leaf_size)
        self._forget()
        self._geometry.lists  # noqa: B018 - worked out here
        self._pairs = self._geometry.n_near_pairs

    def _forget(self) -> None:
        """Drop what belongs to another tree; a partner stays where it is, and is ours no more."""
        partner = self.__dict__.get("_transposed")
        if partner is not None:
            partner._transposed = None
        self._settings: dict[tuple[int, int], Setting] = {}
        self._far: dict[tuple, Any] = {}
        self._transposed: FMM | None = None

    def _blank(self) -> Report:
        self._shown = self._geometry
        return Report(tolerance=self.tolerance, plan_seconds=self._plan_seconds)

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

        It keeps its positions when this plan is rebuilt, and this plan its own when that is
        rebuilt: each then makes another.
        """
        if self._transposed is None:
            other = object.__new__(FMM)
            other.__dict__ |= self.__dict__
            other._geometry = self._geometry.transposed
            (x_batch, s_batch), work, leaf_size = self._choice
            other._choice = Choice((s_batch, x_batch), work, leaf_size)
            other.source_order, other.order = self.order, self.source_order
            other._exclusions = self._exclusions and self._exclusions.transposed
            other._forget()
            other._transposed = self
            other._report = other._blank()
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

        Warns
        -----
        RuntimeWarning
            If the tolerance is not kept; it tells the error, and why.
        """
        order = self.order if order is None else checks.order(order, maximum=MAX_TOTAL_ORDER)
        packed, source_order, had_channels, dtype = self._steps.moments(
            moments, self.n_sources, self.dtype
        )
        check_total_order(source_order, order)
        out = self._field(packed, source_order, order, dtype)
        if self._report.warning:
            warnings.warn(self._report.warning, RuntimeWarning, stacklevel=2)
        return self._steps.give(out, had_channels)

    def energy(self, moments: Any) -> float:
        """Return the energy of the moments of sites, targets being sources, see `fmm.energy`.

        Raises
        ------
        TypeError, ValueError
            See `field`; ValueError also if the plan has targets of their own.
        """
        self._check_sites()
        return energies.energy_of(self, moments)

    def energy_forces(self, moments: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """Return energy, forces and the gradient by the moments, see `fmm.energy_forces`.

        Raises
        ------
        TypeError, ValueError
            See `energy`.
        """
        self._check_sites()
        return energies.energy_forces_of(self, moments)

    def torques(self, moments: Any) -> np.ndarray:
        """Return the torque on each site, see `fmm.torques`.

        Raises
        ------
        TypeError, ValueError
            See `energy`.
        """
        self._check_sites()
        return energies.torques_of(self, moments)

    def _check_sites(self) -> None:
        if self._has_targets:
            raise ValueError("expected a plan whose targets are its sources, got one of both")

    def _field(self, moments: Any, source_order: int, order: int, dtype: np.dtype) -> Any:
        steps = self._steps
        reach = self._reach(source_order + order)
        if reach > self._geometry.smallest:
            self._arrange(*self._unscaled(), self._choice.batches, source_order + order)
        units = steps.units(moments, source_order, self._exponent)
        evaluation = Evaluation(
            self, units.scaled(moments), source_order, order, dtype, self._scaled_kernel
        )
        out = units.restored(evaluation.run(units.kept(dtype)), order, dtype)
        self._report, self._shown = evaluation.report, evaluation.geometry
        return out

    def _unscaled(self) -> tuple[Any, Any]:
        """Return targets and sources as the caller gave them."""
        x, s = self._geometry.unsorted()
        if not self._exponent:
            return x, s
        s, same = self._steps.scaled(s, self._exponent), x is s
        return s if same else self._steps.scaled(x, self._exponent), s

    def rebuild(
        self,
        sources: Any,
        targets: Any = None,
        source_batch: Any = None,
        target_batch: Any = None,
        *,
        check: bool | None = None,
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
            mends degrees. Default: if the edge of boxes is another by more than a tenth. On the
            CPU every evaluation does.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or lies elsewhere than the plan's points.
        """
        x, s, batches = self._moved_points(sources, targets, source_batch, target_batch)
        start = perf_counter()
        before, kept, exponent = self._geometry, self._settings, self._exponent
        if scaling.exponent(self._steps, x, s) != exponent or self.n_sources == 0:
            self._arrange(x, s, batches)
        else:
            if exponent:
                s, same = self._steps.scaled(s, -exponent), x is s
                x = s if same else self._steps.scaled(x, -exponent)
            self._move(before.moved(x, s, batches), batches, kept, check)
        self._plan_seconds = perf_counter() - start
        self._report = self._blank()

    def _moved_points(self, sources, targets, source_batch, target_batch):
        """Return the checked arguments of `rebuild`."""
        if (targets is not None and targets is not sources) != self._has_targets:
            raise ValueError(
                "targets: expected "
                + ("those of the plan too" if self._has_targets else "none: the plan has none")
            )
        arguments.same_place(self._steps, sources, targets)
        given = source_batch is not None or target_batch is not None
        if given and self._exclusions is not None:
            raise ValueError("expected no batches: the plan's scaled pairs belong to its systems")
        x, s, batches = self._steps.points(sources, targets, source_batch, target_batch)
        sizes = x.shape[0], s.shape[0]
        if not given:
            batches = self._choice.batches
            if sizes != (self.n_targets, self.n_sources):
                raise ValueError(
                    f"expected as many points as before, {self.n_targets} targets and "
                    f"{self.n_sources} sources, got {sizes[0]} and {sizes[1]}"
                )
        if checks.common_dtype(x, s) != self.dtype:
            raise TypeError(f"expected points of {self.dtype} as before, got {s.dtype}")
        return x, s, batches

    def _move(self, after: Any, batches: Batches, kept: dict, check: bool | None) -> None:
        """Go over to a tree of the same kind, if it serves."""
        before = self._geometry
        after.lists  # noqa: B018 - worked out here
        grown = (1 + after.n_near_pairs) / (1 + self._pairs)
        fits = after.has_far_field and 1 / _MORE_PAIRS < grown < _MORE_PAIRS
        if self._leaf_size is None and not fits:
            # crowded, or spread out, or all was summed directly: other leaves
            targets, sources = after.unsorted()
            after = self._steps.arrange(
                targets, sources, batches, self._choice.work, None, after.smallest
            )
            self._pairs = after.n_near_pairs
        self._choice = self._choice._replace(batches=batches)
        self._geometry = after
        self._forget()
        edges = before.sorted_points.edge, after.sorted_points.edge
        if check is None:
            alike = len(edges[0]) == len(edges[1])
            check = not alike or bool(np.any(np.abs(np.log(edges[1] / edges[0])) > _SAME_EDGE))
        if not (check and self._steps.device):
            self._settings = _carried(kept, before, after)

    def report(self) -> Report:
        """Return what was chosen, and cost and error of the last evaluation; print it to read."""
        return self._report.of(self._shown)

    def _reach(self, links: int, kernel: Kernel | None = None) -> float:
        """Return the distance from which on the kernel is 1/r, within the tolerance."""
        kernel = kernel or self._scaled_kernel
        found = kernel.coulomb_beyond(_NEGLIGIBLE * self.tolerance, links)
        if not found < inf:
            raise ValueError(
                "kernel: expected one that is 1/r beyond some distance, Coulomb(), Softened(...) "
                f"or Erf(...), got {self.kernel}"
            )
        return found


def _carried(
    kept: dict[tuple[int, int], Setting], before: Any, after: Any
) -> dict[tuple[int, int], Setting]:
    """Return what was enough on one tree for another of the same kind."""
    found = {}
    for key, setting in kept.items():
        if not any(setting.degrees) or not after.has_far_field:
            continue
        geometry = after
        if setting.geometry is not before:
            geometry = after.with_leaves(setting.geometry.leaf_size, setting.geometry.least)
        if geometry.has_far_field:
            degrees = choice.for_levels(setting.degrees, len(geometry.edges))
            found[key] = replace(setting, geometry=geometry, degrees=degrees, lost=None)
    return found


def _in_distances(reach: float, extent: np.ndarray, n: int) -> float:
    """Return a length in units of the mean distance of n points, rounded."""
    distance = np.exp(np.mean(np.log(np.maximum(extent, reach)))) / n ** (1 / 3)
    return float(2.0 ** (0.5 * round(2 * np.log2(reach / distance))))
