"""The near field: the sum over sources close to each leaf of the tree, pair by pair.

By loops written for the orders (`multipoles.emitted`), up to where these would take too long to
compile.
"""

import numpy as np

from multipoles import indexing
from multipoles.emitted import field
from multipoles.emitted.field import MAX_EMITTED, field_of_tiles
from multipoles.layout import Tiles
from multipoles.neighbours import Slots
from multipoles.radial import Coulomb, Kernel
from multipoles.sums import field_arrays

#: Share of the tolerance that the rounding of near fields in float32 may take.
SHARE = 0.35
_LAST = 1.2e-7
_COULOMB = Coulomb()
#: Derivatives from which on pairs within a leaf ask for more exponents than float32 has.
STEEP = 3
_DECADES = 30.0  # of the 38 of float32
# how much slower the loop for any order is
_GENERIC = 20.0


def near_field(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    leaves: Tiles,
    out: np.ndarray,
    kernel: Kernel = _COULOMB,
    reach: float = 0.0,
) -> int:
    """Write the field of the sources near each leaf at the leaf's targets.

    Parameters
    ----------
    targets, sources, moments, order, out, kernel, reach
        See `multipoles.emitted.field.field_of_tiles`.
    leaves : tuple of ndarray
        The tiles of that function: a leaf's targets meet the sources near to it.

    Returns
    -------
    int
        See that function; only where `has_parts`.
    """
    if indexing.order_of(moments.shape[2]) + order <= MAX_EMITTED:
        return field_of_tiles(
            targets, sources, moments, order, leaves, out, kernel=kernel, reach=reach
        )
    if moments.shape[1]:
        _generic(targets, sources, moments, order, leaves, out, kernel)
    return 0


def has_parts(source_order: int, order: int, damped: bool) -> bool:
    """Return whether pairs of points in float64 can be summed in float32."""
    return source_order + order <= MAX_EMITTED and not damped


def rounding(derivatives: int) -> float:
    """Return the relative error of near fields in float32, by derivatives of source and target.

    Fitted from above to points in a cube and on a lattice, moments of order 0 to 3 and derivatives
    to the fourth.
    """
    return (1.8 + 0.6 * derivatives) * _LAST


def is_narrow(tolerance: float, source_order: int, order: int) -> bool:
    """Return whether near fields in float32 are good enough, where they are not above the whole."""
    return rounding(source_order + order) <= SHARE * tolerance


def narrow_unit(edges: tuple[float, float], derivatives: int) -> float:
    """Return by what to multiply coordinates, so that powers of distances stay within float32.

    Parameters
    ----------
    edges : pair of float
        Of the smallest and the largest leaf.
    derivatives : int
        By source and target: powers are up to twice that and one.
    """
    farthest = 10.0 ** (_DECADES / (2 * derivatives + 1))
    unit = min(1.0 / edges[0], farthest / edges[1])
    return float(np.ldexp(1.0, int(np.floor(np.log2(unit)))))


def pair_cost(source_order: int, order: int, channels: int = 1, damped: bool = False) -> float:
    """Return the cost of one pair, one being that of a charge's potential and gradient."""
    cost = field.pair_cost(source_order, order, channels, damped)
    return cost if source_order + order <= MAX_EMITTED else _GENERIC * cost


def _generic(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    leaves: Tiles,
    out: np.ndarray,
    kernel: Kernel,
) -> None:
    """Do the same by the loop for any order, leaf by leaf."""
    leaf_targets, starts, ranges = leaves
    for leaf, (begin, end) in enumerate(leaf_targets.tolist()):
        near = [np.arange(a, b) for a, b in ranges[starts[leaf] : starts[leaf + 1]]]
        index = np.concatenate([np.empty(0, np.int64), *near])
        out[begin:end] = field_arrays(
            targets[begin:end], sources[index], np.ascontiguousarray(moments[index]), order,
            kernel, Slots(end - begin, len(index)),
        )  # fmt: skip
