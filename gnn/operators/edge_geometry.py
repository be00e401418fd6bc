"""Directions, envelopes and Bessel functions of edges, and their derivatives, as arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.operators import _edge_geometry_loops as loops
from multipoles.compiled.jit import add_up, equal_ranges, run_ranges

# an edge takes as long as so many pairs of point charges
_COST = 50.0
#: Largest shift that the loops take: of its third power, a sixth is neglected.
MOST_SHIFT = 1e-5


class Radial(NamedTuple):
    """What the loops know of radial functions.

    Attributes
    ----------
    cutoff : float
        Of the envelope f in Å.
    scale : float
        Functions are `scale` f / r sin(k pi r / cutoff).
    divided : bool
        Whether the edges' fade is `scale` f / r, too, instead of f.
    shifts : ndarray
        (n,) by how much frequencies in 1/Å are more than multiples of pi / cutoff.
    """

    cutoff: float
    scale: float
    divided: bool
    shifts: NDArray[np.float64]


def frequency_shifts(frequencies: NDArray, cutoff: float = 1.0) -> NDArray[np.float64]:
    """Return by how much frequencies differ from multiples of pi / cutoff, which rounding does."""
    exact = frequencies.astype(np.float64)
    shifts: NDArray = exact - np.pi / cutoff * np.arange(1, len(exact) + 1)
    return shifts


class Edges:
    """The geometry of some edges.

    Parameters
    ----------
    positions : ndarray
        (N, 3) in Å. The loops compute in float64 whatever the type of these.
    ends : tuple of ndarray
        Senders and receivers, (E,) int64.
    radial : Radial
        The radial functions.
    """

    def __init__(
        self, positions: NDArray, ends: tuple[NDArray[np.int64], NDArray[np.int64]], radial: Radial
    ):
        self._x, self._ends, self._shifts = positions, ends, radial.shifts
        cutoff = float(radial.cutoff)
        self._radial = cutoff, float(radial.scale), np.pi / cutoff, bool(radial.divided)
        self._ranges = equal_ranges(np.ones(len(ends[0])), _COST * len(ends[0]))

    def values(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Return lengths (E,), directions (E, 3), envelopes (E, 1) and basis (E, n)."""
        lengths = np.empty(len(self._ends[0]), self._x.dtype)
        found = self._empty()

        def task(begin: int, end: int) -> None:
            given = self._x, self._ends, self._radial, self._shifts, self._scratch()
            loops.values(begin, end, *given, lengths, *found)

        run_ranges(task, self._ranges)
        return lengths, *found

    def gradients(self, *weights: NDArray) -> NDArray:
        """Return the gradient by the positions of sums of weights times all but the lengths."""

        def task(begin: int, end: int) -> NDArray:
            by_positions = np.zeros(self._x.shape)
            given = self._x, self._ends, self._radial, self._shifts, self._scratch()
            loops.gradients(begin, end, *given, *weights, by_positions)
            return by_positions

        total: NDArray = add_up(run_ranges(task, self._ranges)).astype(self._x.dtype)
        return total

    def changes(self, along: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return how all but the lengths change when the positions move along (N, 3)."""
        found = self._empty()
        given = self._ends, self._radial, self._shifts, self._scratch()
        loops.changes(0, len(self._ends[0]), self._x, along, *given, *found)
        return found

    def _empty(self) -> tuple[NDArray, NDArray, NDArray]:
        rows, dtype = len(self._ends[0]), self._x.dtype
        widths = 3, 1, len(self._shifts)
        directions, fade, basis = (np.empty((rows, width), dtype) for width in widths)
        return directions, fade, basis

    def _scratch(self) -> NDArray[np.float64]:
        return np.empty((2, len(self._shifts)))
