"""Units in which all numbers of a plan are ordinary: powers of two, so that nothing is rounded.

Lengths are counted in 2^e, moments of order j in 2^(m + e j); fields of order k then come out in
2^(m - e (k + 1)).
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from multipoles import indexing
from multipoles.scaling import exponent_of

# Moments within 2^-60 ... 2^60 stay as they are, and so do lengths within 2^-15 ... 2^15, whose
# powers in the chains of kernels are in the range of float64.
ORDINARY, ORDINARY_LENGTHS = 60, 15
# powers of two left to outliers, where the bulk of the points sets the unit of length
_ROOM = 60
_GREATEST = np.finfo(np.float64).max


class Extents(Protocol):
    """What is asked of `fmm.steps.Steps`."""

    def number(self, points: Any) -> int:
        """Return how many points there are, on all machines together."""

    def corners(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of points."""

    def typical_extent(self, points: Any) -> float:
        """Return the size of the bulk of the points, see `typical_extent`."""


def exponent(steps: Extents, targets: Any, sources: Any) -> int:
    """Return e: the power of two in which lengths are counted; 0 if they are ordinary.

    Where most points are close together and some far away, it goes by most; where all targets are
    far from all sources, by how far. Points are arrays of the steps.
    """
    arrays = (sources,) if targets is sources else (sources, targets)
    corners = [steps.corners(points) for points in arrays if steps.number(points)]
    if not corners:
        return 0
    lows, highs = np.array(corners).swapaxes(0, 1)
    low, high = lows.min(axis=0), highs.max(axis=0)
    # as halves, whose difference does not overflow
    largest = 2.0 * float((0.5 * high - 0.5 * low).max())
    if abs(_exponent(largest)) <= ORDINARY_LENGTHS:
        return 0
    # outliers must stay numbers
    most = np.finfo(np.dtype(str(sources.dtype).removeprefix("torch."))).maxexp - _ROOM
    typical = steps.typical_extent(sources) or largest
    # between the boxes around targets and around sources
    apart = 2.0 * float((0.5 * lows.max(axis=0) - 0.5 * highs.min(axis=0)).max())
    return max(_exponent(max(typical, apart)), _exponent(largest) - most)


def _exponent(value: float) -> int:
    """Return the exponent of a size; infinity is as the greatest number."""
    return exponent_of(min(value, _GREATEST))


def typical_extent(points: np.ndarray) -> float:
    """Return the size of the bulk of some points: the median distance from the median.

    The largest of the three axes; outliers do not count, and it is zero if most points coincide.
    """
    wide = points.astype(np.float64)
    away = np.abs(wide - np.median(wide, axis=0)) if len(wide) else np.zeros((1, 3))
    return float(np.median(away, axis=0).max())


class HostUnits:
    """Units of one set of moments on the CPU.

    Parameters
    ----------
    moments : ndarray, shape (n, channels, n_components(K))
    source_order : int
        K.
    length : int
        Exponent of the unit of length.
    overall : callable, optional
        Returns the largest of numbers like this one on all machines.
    """

    def __init__(
        self,
        moments: np.ndarray,
        source_order: int,
        length: int,
        overall: Callable[[float], float] = float,
    ) -> None:
        self.length, self.source_order = length, source_order
        largest = overall(_largest(moments, -length * indexing.orders(source_order)))
        most = _exponent(largest)
        self.moment = most if abs(most) > ORDINARY else 0

    def scaled(self, moments: np.ndarray) -> np.ndarray:
        """Return moments in these units."""
        orders = indexing.orders(self.source_order)
        return _times(moments, -self.moment - self.length * orders)

    def kept(self, dtype: np.dtype) -> np.dtype:
        """Return the type that a field has in these units: in others it may not fit float32."""
        return np.dtype(np.float64) if self.length or self.moment else dtype

    def restored(self, field: np.ndarray, order: int, dtype: np.dtype) -> np.ndarray:
        """Return a field in the caller's units and type."""
        orders = indexing.orders(order)
        out = _times(field, self.moment - self.length * (orders + 1))
        return out.astype(dtype, copy=False)


def _largest(values: np.ndarray, exponents: np.ndarray) -> float:
    """Return the largest of values times powers of two, one for each column."""
    if not exponents.any():
        return float(max(values.max(initial=0.0), -values.min(initial=0.0)))
    most = np.abs(values).max(axis=(0, 1), initial=0.0).astype(np.float64)
    return float(np.ldexp(most, exponents).max(initial=0.0))


def _times(values: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    return np.ldexp(values, exponents) if exponents.any() else values
