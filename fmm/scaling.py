"""Units in which all numbers of a plan are ordinary: powers of two, so that nothing is rounded.

Lengths are counted in 2^e, moments of order j in 2^(m + e j); fields of order k then come out in
2^(m - e (k + 1)).
"""

from typing import Any

import numpy as np

from multipoles import indexing
from multipoles.scaling import exponent_of

# moments between 2^-60 and 2^60 stay as they are, and lengths that no power in a chain takes beyond
# the range of float64
ORDINARY, ORDINARY_LENGTHS = 60, 15
# bits that are left to outliers where lengths go by most points
_ROOM = 60
_GREATEST = np.finfo(np.float64).max


def exponent(steps: Any, targets: Any, sources: Any) -> int:
    """Return e: the power of two in which lengths are counted; 0 if they are ordinary.

    Where most points are close together and some far away, it goes by most; where all targets are
    far from all sources, by how far.
    """
    arrays = (sources,) if targets is sources else (sources, targets)
    corners = [steps.corners(points) for points in arrays if points.shape[0]]
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


class Units:
    """Units of one set of moments.

    Parameters
    ----------
    steps
        Arithmetic of the place where arrays lie.
    moments : array, shape (n, channels, n_components(K))
    source_order : int
        K.
    length : int
        Exponent of the unit of length.
    """

    def __init__(self, steps: Any, moments: Any, source_order: int, length: int) -> None:
        self.steps, self.length, self.source_order = steps, length, source_order
        most = _exponent(steps.largest(moments, -length * indexing.orders(source_order)))
        self.moment = most if abs(most) > ORDINARY else 0

    def scaled(self, moments: Any) -> Any:
        """Return moments in these units."""
        orders = indexing.orders(self.source_order)
        return self._times(moments, -self.moment - self.length * orders)

    def kept(self, dtype: np.dtype) -> np.dtype:
        """Return the type that a field has in these units: in others it may not fit float32."""
        return np.dtype(np.float64) if self.length or self.moment else dtype

    def restored(self, field: Any, order: int, dtype: np.dtype) -> Any:
        """Return a field in the caller's units and type."""
        orders = indexing.orders(order)
        out = self._times(field, self.moment - self.length * (orders + 1))
        return out.astype(dtype, copy=False)

    def _times(self, values: Any, exponents: np.ndarray) -> Any:
        return self.steps.scaled(values, exponents) if exponents.any() else values
