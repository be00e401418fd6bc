"""Pairs of atoms and particles within a distance, for short-ranged fields."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from multipoles.compiled import jit
from multipoles.neighbours import PairList

_BRUTE_FORCE = 5e7  # distances above which a tree is faster


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
    n, m = len(targets), len(sources)
    systems = int(target_batch[-1]) + 1 if n else 1
    reach = np.broadcast_to(np.asarray(reach, dtype=np.float64), n)
    if n * m / systems > _BRUTE_FORCE:
        pairs = _by_tree(targets, sources, target_batch, source_batch, reach)
    else:
        ends = np.searchsorted(source_batch, np.arange(systems + 1))
        counts = np.zeros(n, np.int64)
        none, reach2 = np.empty((0, 2), np.int64), reach * reach
        _brute_force(targets, sources, target_batch, ends, reach2, counts, none)
        pairs = np.empty((int(counts.sum()), 2), np.int64)
        if len(pairs):
            starts = np.cumsum(counts) - counts
            _brute_force(targets, sources, target_batch, ends, reach2, starts, pairs)
    return PairList(pairs, n, m)


@jit.jit
def _brute_force(targets, sources, target_batch, ends, reach2, rows, pairs):
    """Count the pairs of each target in `rows`, or write them to `pairs` from these rows on."""
    writing = len(pairs) > 0
    for i in range(len(targets)):
        x, y, z = targets[i, 0], targets[i, 1], targets[i, 2]
        row, within = rows[i], reach2[i]
        for j in range(ends[target_batch[i]], ends[target_batch[i] + 1]):
            a, b, c = x - sources[j, 0], y - sources[j, 1], z - sources[j, 2]
            if a * a + b * b + c * c <= within:
                if writing:
                    pairs[row, 0], pairs[row, 1] = i, j
                row += 1
        if not writing:
            rows[i] = row


def _by_tree(targets, sources, target_batch, source_batch, reach) -> NDArray[np.int64]:
    # a fourth coordinate keeps points of different systems further apart than the reach
    most = float(reach.max())
    low, high = targets.min(0) - most, targets.max(0) + most
    inside = np.flatnonzero(((sources >= low) & (sources <= high)).all(1))
    x = np.column_stack([targets, 2 * most * target_batch]).astype(np.float64)
    s = np.column_stack([sources[inside], 2 * most * source_batch[inside]]).astype(np.float64)
    found = cKDTree(x).sparse_distance_matrix(cKDTree(s), most, output_type="ndarray")
    found = found[found["v"] <= reach[found["i"]]]
    pairs = np.column_stack([found["i"], inside[found["j"]]]).astype(np.int64)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]
