"""What a plan chose, what each step cost and how accurate the result was."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from fmm.error.verdict import Verdict
from fmm.tree.geometry import Geometry

PERMUTATION = "permutation"
"""Moments put into the order of the tree, and fields back into that of the targets."""
STEPS = (
    "near field",
    "form multipoles",
    "multipole to multipole",
    "multipole to local",
    "particle to local",
    "local to local",
    "evaluate locals",
    "multipole to particle",
    "sample",
    PERMUTATION,
)


@contextmanager
def timed(seconds: dict[str, float], step: str, wait: Callable[[], None]) -> Iterator[None]:
    """Add the time spent inside to a step; `wait` is called before and after."""
    wait()
    start = perf_counter()
    try:
        yield
    finally:
        wait()
        seconds[step] = seconds.get(step, 0.0) + perf_counter() - start


def _nothing() -> None:
    """Wait for nothing."""


@dataclass
class Measured:
    """What is known of the error of the last evaluation.

    Attributes
    ----------
    errors : ndarray, shape (order + 1,)
        Relative L2 error per output order, with what rounding does to sums in float64: measured at
        `sampled` targets against exact sums in float64, and each target counted for as many as it
        stands for. The largest of those of all systems or channels that count for themselves. Empty
        where nothing was measured.
    bounds : ndarray, shape (order + 1,)
        What the errors may be at most: with three standard errors of their mean square.
    each : ndarray, shape (n_systems or 1, order + 1, n_channels or 1)
        Errors of the systems and channels that count for themselves.
    sampled : int
        Targets at which the last evaluation was compared: a few, with the loops of
        `multipoles.field`, where all was summed directly in float64; 0 where nothing was compared.
    warning : str
        What was warned of; empty if the tolerance is kept.
    """

    errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    bounds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    each: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    sampled: int = 0
    warning: str = ""

    def measured(self, verdict: Verdict, sampled: int) -> None:
        """Note what is known of the error of a field."""
        self.each = verdict.relative(verdict.errors)
        self.errors = self.each.max(axis=(0, 2), initial=0.0)
        self.bounds = verdict.relative(verdict.bounds).max(axis=(0, 2), initial=0.0)
        self.sampled, self.warning = sampled, verdict.message(sampled)

    def accuracy(self) -> str:
        """Return the errors in words."""
        if not len(self.errors):
            return "relative L2 error not measured in this evaluation"
        columns = zip(self.errors.tolist(), self.bounds.tolist(), strict=True)
        measured = "  ".join(f"{k}: {a:.1e} (at most {b:.1e})" for k, (a, b) in enumerate(columns))
        where = f"measured at {self.sampled} targets" if self.sampled else "by rounding alone"
        return f"relative L2 error per order, {where}  {measured}"


@dataclass
class Report(Measured):
    """Choices, seconds and errors of a plan and of its last evaluation; `str` of it is a table.

    Attributes
    ----------
    n_targets, n_sources, n_levels, n_boxes, n_leaves, leaf_size, root_grid : int
        The tree: a leaf holds at most `leaf_size` points, the coarsest level at most
        `root_grid` boxes along an axis.
    near_pairs, translations : int
        Pairs of points summed directly, multipole-to-local translations.
    plan_seconds : float
        Time to make the plan.
    tolerance : float
        What was asked.
    source_order, order, channels : int
        Of the last evaluation.
    degrees : tuple of int
        Degree of the translations on every level; empty where all was summed directly.
    precision : str
        Of the far field: ``float32``, ``float64`` or empty.
    seconds : dict of str to float
        Time of each step of the last evaluation; on a GPU, which works on while the host goes on,
        that which the host spent, unless `FMM.report` was told to synchronise.
    synchronised : bool
        Whether these are times of the GPU.
    wait : callable
        Called before and after each step.
    errors, bounds, each, sampled, warning
        See `Measured`.
    """

    n_targets: int = 0
    n_sources: int = 0
    n_levels: int = 1
    n_boxes: int = 1
    n_leaves: int = 1
    leaf_size: int = 0
    root_grid: int = 1
    near_pairs: int = 0
    translations: int = 0
    plan_seconds: float = 0.0
    tolerance: float = 0.0
    source_order: int = 0
    order: int = 0
    channels: int = 0
    degrees: tuple[int, ...] = ()
    precision: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    synchronised: bool = False
    wait: Callable[[], None] = field(default=_nothing, repr=False, compare=False)

    def of(self, geometry: Geometry) -> "Report":
        """Return the report with what there is to say of a tree."""
        return replace(
            self,
            n_targets=geometry.n_targets,
            n_sources=geometry.n_sources,
            n_levels=len(geometry.tree.level_starts) - 1,
            n_boxes=geometry.n_boxes,
            n_leaves=geometry.n_leaves,
            leaf_size=geometry.leaf_size,
            root_grid=geometry.n_across,
            near_pairs=geometry.n_near_pairs,
            translations=int(geometry.translations.sum()),
        )

    def timed(self, step: str) -> AbstractContextManager[None]:
        """Return what adds the time spent inside to a step."""
        return timed(self.seconds, step, self.wait)

    @property
    def degree(self) -> int:
        """Highest degree of expansions; 0 where all was summed directly."""
        return max(self.degrees, default=0)

    @property
    def total_seconds(self) -> float:
        """Time of the last evaluation."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        lines = [
            f"{self.n_sources} sources, {self.n_targets} targets, tolerance {self.tolerance:g}",
            f"tree: {self.n_boxes} boxes in {self.n_levels} levels, {self.n_leaves} leaves of at "
            f"most {self.leaf_size} points, {self.root_grid} boxes along the coarsest level",
            f"{self.near_pairs:.3g} near pairs, {self.translations:.3g} translations",
            f"plan {1e3 * self.plan_seconds:.1f} ms",
        ]
        if self.seconds:
            degrees = " ".join(map(str, self.degrees))
            far = f"degrees {degrees} in {self.precision}" if self.degree else "direct sum"
            channels = "" if self.channels == 1 else f", {self.channels} channels"
            lines.append(
                f"last evaluation: moments of order {self.source_order} to field of order "
                f"{self.order}{channels}; {far}; {1e3 * self.total_seconds:.1f} ms"
                f"{' of the GPU, a wait after each step' if self.synchronised else ''}"
            )
            lines += [
                f"  {step:<24}{1e3 * self.seconds[step]:9.1f} ms"
                for step in STEPS
                if self.seconds.get(step, 0.0) > 5e-6
            ]
        if self.seconds:
            lines.append(self.accuracy())
        return "\n".join(lines)
