"""Pairs of atoms and particles within a distance, for short-ranged fields."""

import numpy as np
from numpy.typing import NDArray

from multipoles.compiled import jit
from multipoles.lattice.search import pairs_within
from multipoles.neighbours import PairList

_BRUTE_FORCE = 6e4  # distances of a system above which bins are faster


def near_pairs(
    targets: NDArray,
    sources: NDArray,
    target_batch: NDArray,
    source_batch: NDArray,
    reach: float | NDArray,
) -> PairList:
    """Return all pairs of a target and a source of one system within a distance.

    Parameters
    ----------
    targets, sources : ndarray, shape (n, 3) and (m, 3)
        Points.
    target_batch, source_batch : ndarray of int64
        Sorted system of each point.
    reach : float or ndarray, shape (n,)
        Largest distance, of all targets or of each.

    Returns
    -------
    PairList
        Sorted by target.
    """
    ends = near_ends(targets, sources, target_batch, source_batch, reach)
    return PairList(np.stack(ends, axis=1), len(targets), len(sources))


def near_ends(
    targets: NDArray,
    sources: NDArray,
    target_batch: NDArray,
    source_batch: NDArray,
    reach: float | NDArray,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the targets and the sources of the same pairs, in the same order."""
    n, m = len(targets), len(sources)
    systems = int(target_batch[-1]) + 1 if n else 1
    reach = np.broadcast_to(np.asarray(reach, dtype=np.float64), n)
    ends = np.searchsorted(source_batch, np.arange(systems + 1))
    if n * m / systems > _BRUTE_FORCE and _finite(targets, sources, reach):
        target_ends = np.searchsorted(target_batch, np.arange(systems + 1))
        return _by_bins(targets, sources, target_ends, ends, reach)
    # memory that nobody writes to costs nothing
    most = int((np.diff(ends)[target_batch] if n else ends[:1]).sum())
    counts, found = np.empty(n, np.int64), np.empty(most + 1, np.int64)
    total = _brute_force(targets, sources, target_batch, ends, reach * reach, counts, found)
    return np.repeat(np.arange(n), counts), found[:total]


def _finite(*arrays: NDArray) -> bool:
    """Return whether points can be sorted into bins; those that are none are near nothing."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


@jit.jit
def _brute_force(targets, sources, target_batch, ends, reach2, counts, found):
    """Write the sources of each target's pairs, one target after the other; return their number."""
    row = 0
    for i in range(len(targets)):
        x, y, z = targets[i, 0], targets[i, 1], targets[i, 2]
        start, within = row, reach2[i]
        for j in range(ends[target_batch[i]], ends[target_batch[i] + 1]):
            a, b, c = x - sources[j, 0], y - sources[j, 1], z - sources[j, 2]
            found[row] = j  # without a branch: the next one overwrites it
            row += int(a * a + b * b + c * c <= within)
        counts[i] = row - start
    return row


def _by_bins(
    targets, sources, target_ends, source_ends, reach
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs by a search in bins, in threads."""
    # NaN: pairs that coincide are listed with the others
    found = pairs_within(
        np.ascontiguousarray(targets, dtype=np.float64),
        np.ascontiguousarray(sources, dtype=np.float64),
        float(reach.max()),
        np.nan,
        (target_ends, source_ends),
    )
    first, second = np.repeat(np.arange(len(targets)), np.diff(found.starts)), found.images
    if np.all(reach == reach[0]):
        return first, second
    apart = ((targets[first] - sources[second]) ** 2).sum(1)
    near = apart <= reach[first] ** 2
    return first[near], second[near]
