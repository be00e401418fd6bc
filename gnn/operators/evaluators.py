"""How the field of multipoles is summed: directly, or by the fast multipole method.

An evaluator takes arrays to arrays and has a transpose, that with targets and sources exchanged.
The operator and everything above know nothing else of it.
"""

from collections.abc import Callable
from math import isfinite
from typing import Any, Protocol

import numpy as np

from fmm import FMM
from fmm.cost import expected_work, seconds_per_point
from multipoles import indexing
from multipoles.neighbours import Neighbours, Slots
from multipoles.sums import field_arrays

METHODS = ("direct", "fmm", "auto")
# pairs that are summed before a tree is made
_FEW_PAIRS = 1e6
# a pair of the loop for any order and kernel costs that much more than one of a plan's loops
_DIRECT = 5.0
# seconds to plan per point
_PLAN = 1e-6
# points in a leaf of a plan, which chooses if None
_LEAF_SIZE: int | None = None


class Evaluator(Protocol):
    """Sums fields of any moments between two sets of points."""

    def field(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray:
        """Return the field (n_targets, channels, n_components(order)) at the targets."""

    @property
    def transposed(self) -> "Evaluator":
        """The same pairs with targets and sources exchanged."""


class Direct:
    """The sum over all pairs, or over those of a list."""

    def __init__(self, kernel: Any, neighbours: Neighbours) -> None:
        self.kernel, self.neighbours = kernel, neighbours

    def field(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray:
        """Return the field at the targets."""
        return field_arrays(targets, sources, moments, order, self.kernel, self.neighbours)

    @property
    def transposed(self) -> "Direct":
        """The same pairs with targets and sources exchanged."""
        return Direct(self.kernel, self.neighbours.transposed)


class Planned:
    """The fast multipole method on a plan, which holds the points."""

    def __init__(self, plan: FMM) -> None:
        self.plan = plan

    def field(
        self, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray, order: int
    ) -> np.ndarray:
        """Return the field at the plan's targets."""
        return self.plan.field(moments, order)

    @property
    def transposed(self) -> "Planned":
        """The same tree with targets and sources exchanged."""
        return Planned(self.plan.transpose())


class Later:
    """An evaluator that is made when the first numbers are seen.

    Under `torch.func`, points have no numbers until the innermost function runs.

    Parameters
    ----------
    make : callable
        Takes targets, sources and moments to an evaluator.
    """

    def __init__(self, make: Callable[[Any, Any, Any], Evaluator]) -> None:
        self.make = make
        self._made: Evaluator | None = None

    def made(self, targets: Any, sources: Any, moments: Any) -> Evaluator:
        """Return the evaluator, the same for all calls."""
        if self._made is None:
            self._made = self.make(targets, sources, moments)
        return self._made

    def field(self, targets: Any, sources: Any, moments: Any, order: int) -> Any:
        """Return the field at the targets."""
        return self.made(targets, sources, moments).field(targets, sources, moments, order)

    @property
    def transposed(self) -> "LaterTransposed":
        """The same pairs with targets and sources exchanged."""
        return LaterTransposed(self)

    def again(self) -> "Later":
        """Return one for other points."""
        return Later(self.make)


class LaterTransposed:
    """`Later` with targets and sources exchanged."""

    def __init__(self, other: Later) -> None:
        self.transposed = other

    def field(self, targets: Any, sources: Any, moments: Any, order: int) -> Any:
        """Return the field at the targets."""
        made = self.transposed.made(sources, targets, moments)
        return made.transposed.field(targets, sources, moments, order)

    def again(self) -> "LaterTransposed":
        """Return one for other points."""
        return LaterTransposed(self.transposed.again())


def evaluator(
    method: str,
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Any,
    neighbours: Neighbours,
    tolerance: float,
) -> Evaluator:
    """Return what sums by a method, for these points and for moments and orders like these.

    Parameters
    ----------
    method : {"direct", "fmm", "auto"}
        ``"auto"`` is direct where few pairs make a tree too dear, and where there is no other way.
    targets, sources : ndarray, shape (n, 3)
        The same object if they are the same points.
    moments : ndarray, shape (n_sources, channels, n_components)
        Tell order and channels.
    order : int
        Highest derivative.
    kernel : Kernel
        Radial kernel.
    neighbours : Slots or PairList
        Who meets whom.
    tolerance : float
        Relative L2 error of the field, see `fmm.FMM`.

    Raises
    ------
    ValueError
        If the fast multipole method is asked for with a list of pairs, or with a kernel that is
        not 1/r at long range.
    """
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {METHODS}, got {method!r}")
    source_order, channels = indexing.order_of(moments.shape[2]), max(moments.shape[1], 1)
    if method == "auto":
        asked = source_order, order, channels
        method = "fmm" if _pays(kernel, neighbours, tolerance, *asked) else "direct"
    if method == "direct":
        return Direct(kernel, neighbours)
    if not isinstance(neighbours, Slots):
        raise ValueError(
            "method 'fmm' sums over all pairs of a system, expected no list of pairs: use 'direct'"
        )
    plan = FMM(
        sources, targets, tolerance, source_order, order, source_batch=neighbours.source_batch,
        target_batch=neighbours.target_batch, channels=channels, leaf_size=_LEAF_SIZE,
        kernel=kernel,
    )  # fmt: skip
    return Planned(plan)


def _pays(
    kernel: Any,
    neighbours: Neighbours,
    tolerance: float,
    source_order: int,
    order: int,
    channels: int,
) -> bool:
    """Return whether the fast multipole method is expected to be faster than direct sums."""
    if not isinstance(neighbours, Slots) or neighbours.n_pairs < _FEW_PAIRS:
        return False
    if not isfinite(kernel.coulomb_beyond(tolerance, source_order + order)):
        return False
    points = neighbours.n_targets + neighbours.n_sources
    # the degree hardly depends on the number of points
    work = expected_work(10_000, tolerance, source_order, order, channels, damped=True)
    seconds = points * (_PLAN + 0.5 * seconds_per_point(work, 3.0, 60.0))
    return seconds < _DIRECT * neighbours.n_pairs * work.seconds_per_pair()
