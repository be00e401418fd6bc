"""Points along a Morton curve, on which those of every box of an octree lie together.

Level 0 of each system is a grid of up to `root_grid` cubes along an axis that covers its points.
Edges have few digits, and corners are whole numbers of small fractions of an edge, so that centres
of boxes are exact (`fmm.tree.build`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fmm.tree import sorting
from fmm.tree.morton import N_DEEP, WORD, cells, encode
from multipoles.compiled.jit import bare, bare_inline, jit

MAX_LEVELS = (1 + N_DEEP) * WORD
CROWD = 24
"""More points than this in a box of the first word's last level ask for more levels."""
_MARGIN = 0.006
# binary digits of an edge, and of an origin counted in fractions of the edge
_EDGE_DIGITS, _ORIGIN_DIGITS = 10, 42
# an edge is at least so many times the spacing of numbers at the coordinates
_ROUNDINGS = 2.0**20
# exponent of the smallest edge
_LEAST_EXPONENT = -1000


class SortedPoints(NamedTuple):
    """Targets and sources along the Morton curve of each system's root cells.

    Keys have one word, or more where many points share a box of its last level. The first counts,
    from the highest bits down: system, root cell, and `bits` times three bits of x, y, z; the
    others `morton.WORD` times three bits. If targets and sources are the same points, so are their
    arrays.
    """

    target_permutation: np.ndarray
    source_permutation: np.ndarray
    target_keys: np.ndarray
    """(n_words, n_targets)"""
    source_keys: np.ndarray
    bits: int
    root_grid: int
    origin: np.ndarray
    edge: np.ndarray

    @property
    def n_levels(self) -> int:
        """How often root cells can be halved."""
        return int(self.bits + WORD * (self.source_keys.shape[0] - 1))

    def transposed(self) -> "SortedPoints":
        """Return the points with targets and sources exchanged."""
        return self._replace(
            target_permutation=self.source_permutation, source_permutation=self.target_permutation,
            target_keys=self.source_keys, source_keys=self.target_keys,
        )  # fmt: skip

    def in_one_cell(self, system_keys: Callable[[Any], Any]) -> "SortedPoints":
        """Return the points with one root cell for each system, which nothing divides.

        `system_keys` returns keys of systems alone, one word, from those of points.
        """
        sources = system_keys(self.source_keys)
        same = self.target_keys is self.source_keys
        return self._replace(
            source_keys=sources, target_keys=sources if same else system_keys(self.target_keys),
            root_grid=1, edge=self.edge * self.root_grid,
        )  # fmt: skip


def sort_points(
    targets: np.ndarray,
    sources: np.ndarray,
    target_batch: np.ndarray | None = None,
    source_batch: np.ndarray | None = None,
    root_grid: int = 1,
    known_roots: tuple[np.ndarray, np.ndarray] | None = None,
) -> SortedPoints:
    """Return the points along a Morton curve; points of one key keep their order.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3)
        float32 or float64; the same object if they are the same points.
    target_batch, source_batch : ndarray of int64, optional
        Sorted system index of each point; indices may have gaps.
    root_grid : int
        Most root cells along an axis.
    known_roots : tuple of ndarray, optional
        Origin and edge of the root cells of every system, as `roots` returns them; default those
        that hold the points.

    Raises
    ------
    ValueError
        If a system is larger than the largest number.
    """
    target_system, source_system, n_systems = _systems(target_batch, source_batch)
    # the same points may belong to different systems as targets and as sources
    same = targets is sources and np.array_equal(target_system, source_system)
    kinds = [(np.ascontiguousarray(sources, np.float64), source_system)]
    if not same:
        kinds.append((np.ascontiguousarray(targets, np.float64), target_system))
    bits = bits_of(n_systems, root_grid)
    if known_roots is None:
        low, high = np.full((n_systems, 3), np.inf), np.full((n_systems, 3), -np.inf)
        for kind in kinds:
            bounds(*kind, low, high)
        known_roots = roots(low, high, root_grid, bits)
    origin, edge = known_roots
    grid = cells(origin, edge, bits)
    keys = [encode(*kind, grid, root_grid, bits) for kind in kinds]
    permutations, firsts = zip(*(sorting.argsort(words[0]) for words in keys), strict=True)
    if any(map(_is_crowded, firsts, permutations, (points for points, _ in kinds))):
        deep = [encode(*kind, grid, root_grid, bits, deep=True) for kind in kinds]
        keys = [np.concatenate(words) for words in zip(keys, deep, strict=True)]
    sorted_ = list(map(_ordered, keys, permutations, firsts))
    (source_permutation, source_keys), (target_permutation, target_keys) = sorted_[0], sorted_[-1]
    return SortedPoints(
        target_permutation,
        source_permutation,
        target_keys,
        source_keys,
        bits,
        root_grid,
        origin,
        edge,
    )


def _ordered(
    keys: np.ndarray, permutation: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stable permutation by all words, and the keys permuted.

    `permutation` is that by the first word, which it turns into `first`.
    """
    if len(keys) == 1:
        return permutation, first[None]
    equal = first[1:] == first[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    if len(tied):
        members = permutation[tied]
        permutation[tied] = members[np.lexsort((members, *keys[::-1, members]))]
    return permutation, np.take(keys, permutation, axis=1)


@jit
def _is_crowded(keys, permutation, points):
    """Return whether many points share a key and are not all the same; keys are sorted."""
    first = 0
    differ = False
    for i in range(1, len(permutation)):
        if keys[i] != keys[first]:
            first, differ = i, False
            continue
        for axis in range(3):
            differ = differ or points[permutation[i], axis] != points[permutation[first], axis]
        if differ and i - first >= CROWD:
            return True
    return False


def _systems(
    target_batch: np.ndarray | None, source_batch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the systems of targets and sources, numbered without gaps, and how many there are."""
    if target_batch is None or source_batch is None:
        return np.empty(0, np.int64), np.empty(0, np.int64), 1
    targets, sources = np.empty_like(target_batch), np.empty_like(source_batch)
    return targets, sources, _number(target_batch, source_batch, targets, sources)


@bare
def _number(target_batch, source_batch, targets, sources):
    n_targets, n_sources = len(target_batch), len(source_batch)
    t = s = count = 0
    while t < n_targets or s < n_sources:
        if s == n_sources or (t < n_targets and target_batch[t] <= source_batch[s]):
            system = target_batch[t]
        else:
            system = source_batch[s]
        while t < n_targets and target_batch[t] == system:
            targets[t] = count
            t += 1
        while s < n_sources and source_batch[s] == system:
            sources[s] = count
            s += 1
        count += 1
    return count


@jit
def bounds(points, batch, low, high):
    """Widen the corners of every system to hold its points; no batch is one system."""
    for i in range(len(points)):
        system = batch[i] if len(batch) else 0
        for axis in range(3):
            low[system, axis] = min(low[system, axis], points[i, axis])
            high[system, axis] = max(high[system, axis], points[i, axis])


def bits_of(n_systems: int, root_grid: int) -> int:
    """Return the bits of each coordinate in the first word of keys."""
    # one bit stays free, for the key that follows the last
    return min(WORD, (62 - (n_systems * root_grid**3 - 1).bit_length()) // 3)


def roots(
    low: np.ndarray, high: np.ndarray, root_grid: int, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return origin and edge of the root cells of every system.

    Edges have `_EDGE_DIGITS` binary digits; origins are multiples of edge / 2^bits.
    """
    empty = np.any(low > high, axis=1)
    low, high = np.where(empty[:, None], 0.0, low), np.where(empty[:, None], 0.0, high)
    with np.errstate(over="ignore"):
        extent = high - low
    largest = extent.max(axis=1)
    if not np.isfinite(1.1 * largest).all():
        raise ValueError(
            "points: expected systems that extend over less than 1.6e308 along each axis, got "
            f"coordinates from {low.min():.3g} to {high.max():.3g}"
        )
    # a little wider, so that no point falls outside, and off the middle, so that faces of boxes do
    # not coincide with planes of lattices: points in corners make the largest errors
    edge = np.where(largest > 0, largest * ((1 + 2 * _MARGIN) / root_grid), 1.0)
    far = np.maximum(np.abs(low), np.abs(high)).max(axis=1)
    edge = np.maximum(edge, np.maximum(_ROUNDINGS * np.spacing(far), 2.0**_LEAST_EXPONENT))
    mantissa, exponent = np.frexp(edge)
    edge = np.ldexp(np.ceil(np.ldexp(mantissa, _EDGE_DIGITS)), exponent - _EDGE_DIGITS)
    # far from zero float64 resolves coarser steps only, which are still less than the margin
    halvings = np.minimum(bits, _ORIGIN_DIGITS - np.frexp(far / edge + 8)[1])
    step = np.ldexp(edge, -halvings)[:, None]
    counts = np.clip(np.ceil((extent + step) / edge[:, None]), 1, root_grid)
    slack = counts * edge[:, None] - extent
    return np.floor((low - 0.37 * slack) / step) * step, edge


def last_digit(edge: np.ndarray) -> np.ndarray:
    """Return the value of the last binary digit of edges."""
    mantissa, exponent = np.frexp(edge)
    whole = np.ldexp(mantissa, _EDGE_DIGITS).astype(np.int64)
    digit: np.ndarray = np.ldexp((whole & -whole).astype(np.float64), exponent - _EDGE_DIGITS)
    return digit


def occupancy(points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
    """Return, per level of a tree divided evenly, the boxes with sources and crowding.

    Crowding is the mean number of sources in the box of a source over that of a box: 1 for even
    spreading. The last level is the first whose boxes hold less than two sources on average.
    """
    counts = np.zeros((points.n_levels + 1, 2), np.int64)
    parts = partings(points.source_keys, points.bits)
    n_levels = _occupancy(points.source_keys, parts, counts)
    boxes, squares = counts[:n_levels].T
    return crowding(boxes, squares, points.source_keys.shape[1])


def crowding(boxes: np.ndarray, squares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and crowding, from boxes and the sum of the squares of what they hold."""
    return boxes, squares * boxes / max(n, 1) ** 2


@bare_inline
def parting(keys, i, others, j, bits):
    """Return the first level on which a point and another lie in different boxes.

    If their keys are the same it is the level after the last.
    """
    level, shift = 0, 3 * bits
    for word in range(keys.shape[0]):
        different = keys[word, i] ^ others[word, j]
        if different != 0:
            while different >> shift == 0:
                level += 1
                shift -= 3
            return level
        level += shift // 3 + 1
        shift = 3 * (WORD - 1)
    return level


@jit
def partings(keys, bits):
    """Return on which level each point and the one before it part; zero for the first."""
    parts = np.zeros(keys.shape[1], np.int8)
    for i in range(1, keys.shape[1]):
        parts[i] = parting(keys, i - 1, keys, i, bits)
    return parts


@jit
def _occupancy(keys, parts, counts):
    n = keys.shape[1]
    for level in range(len(counts)):
        start = 0
        for i in range(1, n + 1):
            if i == n or parts[i] <= level:
                counts[level, 0] += 1
                counts[level, 1] += (i - start) ** 2
                start = i
        if 2 * counts[level, 0] > n:
            return level + 1
    return len(counts)


@bare_inline
def upper(keys, first, last, bound):
    """Return the first index of the sorted keys[first:last] above `bound`."""
    while first < last:
        middle = (first + last) // 2
        if keys[middle] <= bound:
            first = middle + 1
        else:
            last = middle
    return first
