"""Targets and sources of each system: ranges, for those of one system lie together."""

import numpy as np

from fmm.tree.geometry import Geometry


def all_targets(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the range of all targets."""
    return [(0, int(geometry.targets.shape[0]))]


def targets_of_systems(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the ranges of targets of the systems that have any."""
    system, targets, _ = geometry.roots
    starts = np.flatnonzero(np.diff(system, prepend=-1))
    occupied = targets[:, 1] > targets[:, 0]
    first = np.minimum.reduceat(np.where(occupied, targets[:, 0], np.iinfo(np.int64).max), starts)
    last = np.maximum.reduceat(np.where(occupied, targets[:, 1], 0), starts)
    return [(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True) if b > a] or [(0, 0)]


def senders_of(
    samples: np.ndarray, system: np.ndarray, targets: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many of some targets are of each system, and the range of its sources.

    Parameters
    ----------
    samples : ndarray
        Ascending indices of targets; systems without any are left out.
    system : ndarray, shape (n_roots,)
        Of the boxes of level 0.
    targets, sources : ndarray, shape (n_roots, 2)
        What they hold.
    """
    # points of one system lie together
    starts = np.flatnonzero(np.diff(system, prepend=-1))
    far = np.iinfo(np.int64).max

    def least(ranges: np.ndarray) -> np.ndarray:
        occupied = ranges[:, 1] > ranges[:, 0]
        return np.minimum.reduceat(np.where(occupied, ranges[:, 0], far), starts)

    ends = np.maximum.reduceat(sources[:, 1], starts)
    senders = np.stack([np.minimum(least(sources), ends), ends], axis=1)
    begin = least(targets)
    begin, senders = begin[begin < far], senders[begin < far]
    used, counts = np.unique(np.searchsorted(begin, samples, side="right") - 1, return_counts=True)
    return counts, senders[used]
