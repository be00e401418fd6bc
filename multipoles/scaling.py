"""Units in which no power of a length or moment leaves the range of floating-point numbers.

The radial chain of order n falls as r^-(2n+1): in float32 it ends at r = 100 for n = 9, and squares
of distances end at 1e-19. The sums themselves have no unit, so points, moments and fields are
multiplied by powers of two, which is exact. With lengths multiplied by ``2^length`` and moments by
``2^moment`` beside, moments of order j take ``2^(moment + j length)``, the field of order k
``2^(moment - (k + 1) length)``, and the kernel is `Kernel.scaled`.
"""

import math
from functools import lru_cache

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import jit

# the least and the greatest exponent of a power of two that is a normal number of float64
LEAST, GREATEST = -1022, 1023


def exponent_of(extent: float) -> int:
    """Return e with 2^(e-1) <= `extent` < 2^e; zero for an extent of zero."""
    return math.frexp(extent)[1]


def extent_of(*points: np.ndarray) -> float:
    """Return the longest edge of the box around all points, shape (n, 3) each; 0 for none.

    It is infinite where the difference of two coordinates is.
    """
    given = [p for p in points if len(p)]
    if not given:
        return 0.0
    top = np.max([p.max(axis=0) for p in given], axis=0)
    with np.errstate(over="ignore"):
        return float((top - np.min([p.min(axis=0) for p in given], axis=0)).max())


def length_exponent(*points: np.ndarray) -> int:
    """Return the exponent that brings the extent of all points to about one."""
    extent = extent_of(*points)
    if math.isinf(extent):
        return LEAST
    return min(max(-exponent_of(extent), LEAST), GREATEST)


def scale_points(points: np.ndarray, length: int) -> np.ndarray:
    """Return points with coordinates multiplied by 2^length."""
    return np.ldexp(points, length)


def scale_moments(
    moments: np.ndarray, length: int | np.ndarray, moment: int | np.ndarray
) -> np.ndarray:
    """Return packed moments in scaled units.

    Parameters
    ----------
    moments : ndarray, shape (..., n_components(order))
        Packed moments.
    length, moment : int or ndarray
        Exponents of the factors of lengths and of moments, that broadcast.
    """
    return np.ldexp(moments, moment + length * indexing.orders(_order(moments)))


def unscale_field(
    phi: np.ndarray, length: int | np.ndarray, moment: int | np.ndarray
) -> np.ndarray:
    """Return a field of scaled points and moments in the caller's units.

    Parameters
    ----------
    phi : ndarray, shape (..., n_components(order))
        Field of `scale_moments` at `scale_points` under the scaled kernel.
    length, moment : int or ndarray
        The exponents of the scaling.
    """
    return np.ldexp(phi, length * (1 + indexing.orders(_order(phi))) - moment)


def strengths(moments: np.ndarray, length: int | np.ndarray = 0) -> np.ndarray:
    """Return the exponent of every component in scaled lengths, int64, shape of `moments`.

    Components that are zero get a number below all others.
    """
    exponents = np.frexp(moments)[1] + length * indexing.orders(_order(moments))
    return np.where(moments == 0, -(2**40), exponents)


@lru_cache(maxsize=256)
def _limits(dtype: np.dtype, top: int, power: float) -> tuple[float, float, float, float, float]:
    """Return the least and greatest extent, the power by which chains fall, their room, and more.

    The chain of an extent within the two is a normal number with all its digits, and so are its
    multiples down to ``2^-room extent^power``. The last is `_tiny_coordinate`.
    """
    info = np.finfo(dtype)
    steps = 2 * top + power
    room = -int(info.minexp) - int(info.nmant)
    double = sum(math.log2(2 * n - 1) for n in range(1, top + 1))
    square = info.maxexp / 2 - 2
    greatest = min((room + double) / steps, square)
    least = max(-room / steps, -square)
    return 2.0**least, 2.0**greatest, steps, room + double, _tiny_coordinate(dtype)


def fits(
    x: np.ndarray,
    s: np.ndarray,
    moments: np.ndarray,
    top: int,
    power: float,
    products: bool = False,
) -> bool:
    """Return whether a sum in the arrays' dtype loses nothing where chains and squares underflow.

    Overflow is left out: it shows in the result.

    Parameters
    ----------
    x, s : ndarray, shape (n, 3)
        Targets and sources.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        Packed moments, of the same dtype.
    top : int
        Last link of the chain: K and the order of the field.
    power : float
        The power of 1/r that the kernel follows, `Kernel.power`.
    products : bool
        Whether products of two moments are multiplied by the chain.
    """
    if not len(x) or not moments.size:
        return True
    least, greatest, steps, room, tiny = _limits(moments.dtype, top, power)
    largest, any_tiny, weakest = _measure(x, s, moments, tiny)
    # twice the diagonal of the box bounds all distances; far from the origin the bound is poor
    extent = 4 * largest
    if extent > greatest:
        extent = 2 * extent_of(x, s)
    if not least <= extent <= greatest:
        return largest == 0
    if products:
        weakest = min(weakest, weakest * weakest)
    if weakest < max(extent, 1.0) ** steps * 2.0**-room:
        return False
    return not (any_tiny and close_targets(x, s).any())


@jit
def _measure(x, s, moments, tiny):
    """Greatest coordinate, whether one is below `tiny` but not zero, and the weakest strength.

    A strength is that of the strongest component of a site's channel; zero is none.
    """
    largest, any_tiny = 0.0, False
    for points in (x, s):
        for i in range(points.shape[0]):
            for axis in range(3):
                size = abs(points[i, axis])
                largest = max(largest, size)
                any_tiny |= 0.0 < size < tiny
    weakest = np.inf
    for i in range(moments.shape[0]):
        for channel in range(moments.shape[1]):
            strongest = 0.0
            for component in range(moments.shape[2]):
                strongest = max(strongest, abs(moments[i, channel, component]))
            if strongest > 0.0:
                weakest = min(weakest, strongest)
    return largest, any_tiny, weakest


def _tiny_coordinate(dtype: np.dtype) -> float:
    """Return the size of coordinates below which differences may have no normal square."""
    info = np.finfo(dtype)
    # two different numbers are at least half a digit of the greater one apart
    return float(2.0 ** (info.minexp // 2 + info.nmant + 2))


def close_targets(x: np.ndarray, s: np.ndarray, length: int = 0) -> np.ndarray:
    """Return which targets may have a source so close that the square of the distance underflows.

    Floating-point numbers that differ differ by a digit of theirs: only coordinates that are tiny
    themselves can be so close.

    Parameters
    ----------
    x, s : ndarray, shape (n, 3)
        Targets and sources, of one dtype, not scaled.
    length : int
        Exponent by which they will be: squares are meant to be those of scaled distances.

    Returns
    -------
    ndarray, bool, shape (n_targets,)
        A few others may be among them.
    """
    tiny = np.ldexp(_tiny_coordinate(x.dtype), -length)
    points = x if s is x else np.concatenate([x, s])
    sizes = np.abs(points)
    if not ((sizes > 0) & (sizes < tiny)).any():
        return np.zeros(len(x), bool)
    distinct, inverse = np.unique(points, axis=0, return_inverse=True)
    snapped = np.where(np.abs(distinct) < tiny, 0.0, distinct)
    _, group, count = np.unique(snapped, axis=0, return_inverse=True, return_counts=True)
    return (count > 1)[group.reshape(-1)][inverse.reshape(-1)[: len(x)]]


def _order(packed: np.ndarray) -> int:
    return indexing.order_of(packed.shape[-1])
