"""How the field of multipoles is summed: directly, or by the fast multipole method.

An evaluator maps moments to fields, as arrays, and has a transpose: the map with targets and
sources exchanged. Nothing above it knows how a field is summed.
"""

from collections.abc import Callable
from math import isfinite
from typing import Any, Protocol

import numpy as np

from fmm import FMM
from fmm.cost import expected_work, seconds_per_point
from multipoles import indexing
from multipoles.neighbours import Neighbours, Slots
from multipoles.radial import Kernel
from multipoles.sums import field_arrays

METHODS = ("direct", "fmm", "auto")
# number of pairs below which a tree never pays
_FEW_PAIRS = 1e6
# seconds per point that planning takes
_PLAN = 1e-6
# points in a leaf of a plan's tree; None: the plan chooses
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

    def __init__(self, kernel: Kernel, neighbours: Neighbours) -> None:
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


class Deferred:
    """An evaluator that is made at its first call.

    Under the transforms of `torch.func`, tensors have no values before the innermost function
    runs.

    Parameters
    ----------
    make : callable
        Returns an evaluator for targets, sources and moments.
    """

    def __init__(self, make: Callable[[Any, Any, Any], Evaluator]) -> None:
        self.make = make
        self._evaluator: Evaluator | None = None

    def evaluator(self, targets: Any, sources: Any, moments: Any) -> Evaluator:
        """Return the evaluator, which the first call makes."""
        if self._evaluator is None:
            self._evaluator = self.make(targets, sources, moments)
        return self._evaluator

    def field(self, targets: Any, sources: Any, moments: Any, order: int) -> Any:
        """Return the field at the targets."""
        return self.evaluator(targets, sources, moments).field(targets, sources, moments, order)

    @property
    def transposed(self) -> "DeferredTransposed":
        """The same pairs with targets and sources exchanged."""
        return DeferredTransposed(self)

    def renewed(self) -> "Deferred":
        """Return the same for other points."""
        return Deferred(self.make)


class DeferredTransposed:
    """`Deferred` with targets and sources exchanged."""

    def __init__(self, other: Deferred) -> None:
        self.transposed = other

    def field(self, targets: Any, sources: Any, moments: Any, order: int) -> Any:
        """Return the field at the targets."""
        evaluator = self.transposed.evaluator(sources, targets, moments)
        return evaluator.transposed.field(targets, sources, moments, order)

    def renewed(self) -> "DeferredTransposed":
        """Return the same for other points."""
        return DeferredTransposed(self.transposed.renewed())


def evaluator(
    method: str,
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    neighbours: Neighbours,
    tolerance: float,
) -> Evaluator:
    """Return the evaluator of a method, for these points and for moments of this shape.

    Parameters
    ----------
    method : {"direct", "fmm", "auto"}
        ``"auto"`` is the faster one, and direct where the fast multipole method does not apply.
    targets, sources : ndarray, shape (n, 3)
        The same object if they are the same points.
    moments : ndarray, shape (n_sources, channels, n_components)
        Only their shape is used: order and channels.
    order : int
        Highest derivative.
    kernel : Kernel
        Radial kernel.
    neighbours : Slots or PairList
        Interacting pairs.
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
    kernel: Kernel,
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
    # the work per point hardly depends on the number of points
    work = expected_work(10_000, tolerance, source_order, order, channels, damped=True)
    seconds = points * (_PLAN + 0.5 * seconds_per_point(work, 3.0, 60.0))
    return seconds < neighbours.n_pairs * work.seconds_per_pair()
