"""What a plan is laid out on: its points in their tree, in units in which numbers are ordinary."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np

from fmm import scaling
from fmm.cost import Work, expected_work
from fmm.exclusions import Exclusions
from fmm.leaves import arrange
from fmm.setting import Setting, carried
from fmm.steps import Array, FarField, Steps
from fmm.tree.geometry import Batches, Geometry
from multipoles.radial import Coulomb, Kernel

# share of the tolerance by which a kernel that is taken for 1/r may differ from it
_NEGLIGIBLE = 0.05
# logarithm of the ratio of two edges of boxes, or numbers of near pairs, that count as the same
_SAME = 0.1
# points of which the memory that a replayed evaluation keeps is no burden
_MOST_REPLAYED = 4_000_000
# leaves are chosen anew when the number of near pairs has changed by more than this factor
_MORE_PAIRS = 2.0
# logarithm of the ratio of two numbers of near pairs of points that lie much the same
_LIKE = 0.05


@dataclass(frozen=True)
class Request:
    """What a plan was asked for, checked; see `fmm.FMM`."""

    tolerance: float
    source_order: int
    order: int
    channels: int
    leaf_size: int | None
    kernel: Kernel
    each: tuple[str, ...]
    exclusions: Exclusions | None
    """Pairs that are scaled."""
    dtype: np.dtype
    """Of the points."""

    @property
    def transposed(self) -> "Request":
        """The same with targets and sources exchanged."""
        return replace(
            self, source_order=self.order, order=self.source_order,
            exclusions=self.exclusions and self.exclusions.transposed,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outline:
    """What tells trees apart that ask for other degrees, though little is known of their points."""

    edges: np.ndarray
    """Of the boxes of every system."""
    n_near_pairs: int

    @classmethod
    def of(cls, geometry: Geometry) -> "Outline":
        """Return that of a tree."""
        return cls(geometry.sorted_points.edge, geometry.n_near_pairs)

    def like(self, other: "Outline") -> bool:
        """Return whether what was measured on one tree should hold on the other."""
        if len(self.edges) != len(other.edges):
            return False
        pairs = np.log((1 + other.n_near_pairs) / (1 + self.n_near_pairs))
        return bool(
            abs(pairs) <= _SAME and np.all(np.abs(np.log(other.edges / self.edges)) <= _SAME)
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """Points in their tree, and what was enough for the moments at them so far.

    Nothing of it changes but `settings` and `far_fields`, which grow: other positions are another
    layout.
    """

    steps: Steps
    request: Request
    batches: Batches
    exponent: int
    """The geometry counts lengths in two to this power, see `fmm.scaling`."""
    kernel: Kernel
    """That of the request, in units of the geometry."""
    work: Work
    """What evaluations were expected to ask for when the leaves were chosen."""
    geometry: Geometry
    n_near_pairs: int
    """Pairs of points summed directly when the leaves were chosen."""
    settings: dict[tuple[int, int], Setting] = field(default_factory=dict)
    """What was enough, by order of moments and of the field."""
    far_fields: dict[tuple[Any, ...], FarField] = field(default_factory=dict)
    """By geometry, degrees, both orders and type of numbers: the arguments of `Steps.far`."""
    replays: dict[Any, Any] = field(default_factory=dict)
    """Evaluations that are asked for again and again, where the device takes them at one go."""
    measured: "Outline | None" = None
    """Of the tree on which errors were last measured on a GPU; None for this one."""

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return self.geometry.n_targets

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return self.geometry.n_sources

    @property
    def transposed(self) -> "Layout":
        """The same tree with targets and sources exchanged; nothing is known of moments there."""
        x_batch, s_batch = self.batches
        return replace(
            self, request=self.request.transposed, batches=(s_batch, x_batch),
            geometry=self.geometry.transposed, settings={}, far_fields={}, replays={},
        )  # fmt: skip

    def reach(self, derivatives: int) -> float:
        """Return the distance from which on the kernel is 1/r within the tolerance.

        Parameters
        ----------
        derivatives : int
            By source and target together.
        """
        return _reach(self.request, self.kernel, derivatives)

    def repeated(
        self, key: tuple[Any, ...], work: Callable[[Array], tuple[Array, Any]], moments: Array
    ) -> tuple[Array, Any]:
        """Return what the work makes of moments: an array, and what belongs to it.

        Parameters
        ----------
        key : tuple
            Orders of moments and field, and what else the work depends on.
        work : callable
            Takes moments.
        moments : array
        """
        setting = self.settings.get((key[0], key[1]))
        few = self.n_targets + self.n_sources <= _MOST_REPLAYED
        if not (self.steps.device and few and setting) or self.request.exclusions is not None:
            return work(moments)
        kept = self.replays.get(key)
        if kept is None or kept[0] is not setting:
            kept = self.replays[key] = setting, self.steps.repeated(work)
        found: tuple[Array, Any] = kept[1](moments)
        return found

    def reaching(self, derivatives: int) -> "Layout":
        """Return a layout whose boxes are large enough for so many derivatives of the kernel."""
        if self.steps.least_edge(self.reach(derivatives)) <= self.geometry.smallest:
            return self
        x, s = _scaled(self.steps, *self.geometry.unsorted(), self.exponent)
        return lay_out(self.steps, self.request, x, s, self.batches, derivatives)

    def moved(
        self, targets: Array, sources: Array, batches: Batches, check: bool | None
    ) -> "Layout":
        """Return a layout of other positions, see `fmm.FMM.rebuild`.

        Root grid, size of leaves and what was enough are taken over as far as they serve.
        """
        exponent = scaling.exponent(self.steps.in_units(0), targets, sources)
        if exponent != self.exponent or self.steps.number(sources) == 0:
            return lay_out(self.steps, self.request, targets, sources, batches)
        x, s = _scaled(self.steps, targets, sources, -exponent)
        before, after = self.geometry, self.geometry.moved(x, s, batches)
        n_near_pairs = self.n_near_pairs
        grown = (1 + after.n_near_pairs) / (1 + n_near_pairs)
        fits = after.has_far_field and 1 / _MORE_PAIRS < grown < _MORE_PAIRS
        if self.request.leaf_size is None and not fits:
            # crowded, or spread out, or all was summed directly: other leaves
            x, s = after.unsorted()
            after = arrange(self.steps, x, s, batches, self.work, None, after.smallest)
            n_near_pairs = after.n_near_pairs
        measured = self.measured or Outline.of(before)
        if check is None:
            check = not measured.like(Outline.of(after))
        anew = check and self.steps.device
        like = abs(np.log(grown)) < _LIKE
        settings = {} if anew else carried(self.settings, before, after, like)
        return replace(
            self, batches=batches, geometry=after, n_near_pairs=n_near_pairs, settings=settings,
            far_fields={}, measured=None if anew else measured,
        )  # fmt: skip


def lay_out(
    steps: Steps,
    request: Request,
    targets: Array,
    sources: Array,
    batches: Batches,
    derivatives: int | None = None,
) -> Layout:
    """Return the layout of points.

    Parameters
    ----------
    steps : Steps
        Those of the place where the points lie.
    request : Request
        What is asked for.
    targets, sources : array, shape (n, 3)
        As the caller gave them; the same object if they are the same points.
    batches : pair of array or None
        System of each target and source.
    derivatives : int, optional
        Of the kernel, that the smallest boxes must serve; default those of the request and two
        more: gradients ask for an order more, and theirs for another.
    """
    steps = steps.in_units(0)
    exponent = scaling.exponent(steps, targets, sources)
    steps = steps.in_units(exponent)
    kernel = request.kernel.scaled(2.0**-exponent) if exponent else request.kernel
    x, s = _scaled(steps, targets, sources, -exponent)
    if derivatives is None:
        derivatives = request.source_order + request.order + 2
    reach, n = _reach(request, kernel, derivatives), steps.number(s)
    work = expected_work(
        n, request.tolerance, request.source_order, request.order, request.channels,
        request.kernel.code != Coulomb.code, _in_distances(reach, steps, s),
    )._replace(processor=steps.processor(request.dtype), times=steps.times)  # fmt: skip
    smallest = steps.least_edge(reach)
    geometry = arrange(steps, x, s, batches, work, request.leaf_size, smallest)
    return Layout(steps, request, batches, exponent, kernel, work, geometry, geometry.n_near_pairs)


def _scaled(steps: Steps, targets: Array, sources: Array, exponent: int) -> tuple[Array, Array]:
    """Return targets and sources times two to a power, one object if they are."""
    if not exponent:
        return targets, sources
    scaled = steps.scaled(sources, exponent)
    return scaled if targets is sources else steps.scaled(targets, exponent), scaled


def _reach(request: Request, kernel: Kernel, derivatives: int) -> float:
    reach = kernel.coulomb_beyond(_NEGLIGIBLE * request.tolerance, derivatives)
    if not reach < inf:
        raise ValueError(
            "kernel: expected one that is 1/r beyond some distance, Coulomb(), Softened(...), "
            f"Erf(...) or Thole(...), got {request.kernel}"
        )
    return reach


def _in_distances(reach: float, steps: Steps, points: Array) -> float:
    """Return a length in units of the mean distance of points, rounded."""
    n = steps.number(points)
    if n == 0 or reach <= 0:
        return 0.0
    low, high = steps.corners(points)
    distance = np.exp(np.mean(np.log(np.maximum(high - low, reach)))) / n ** (1 / 3)
    return float(2.0 ** (0.5 * round(2 * np.log2(reach / distance))))
