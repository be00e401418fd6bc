"""How the points of all ranks fill the boxes of a tree that is divided evenly."""

import numpy as np

from fmm.distributed.ranks import Ranks
from fmm.tree.curve import SortedPoints, crowding, partings


def occupancy(ranks: Ranks, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes with sources and crowding of each level, see `fmm.tree.curve.occupancy`.

    A box that several ranks share counts once.
    """
    keys, bits = points.source_keys, points.bits
    parts = partings(keys, bits)
    between = _between(ranks, keys[0], bits)
    n = int(ranks.sum(np.array([keys.shape[1]]))[0])
    most = int(ranks.largest(np.array([points.n_levels]))[0])
    counts = []
    for level in range(most + 1):
        told = np.concatenate(ranks.gather(_runs(parts, level)[None]))
        counts.append(_together(told, between, level))
        if 2 * counts[-1][0] > n:
            break
    boxes, squares = np.array(counts).T
    return crowding(boxes, squares, n)


def _between(ranks: Ranks, first_words: np.ndarray, bits: int) -> np.ndarray:
    """Return on which level the first point of a rank and the last before it part.

    Ranks without points have what does not matter.
    """
    own = first_words[[0, -1]] if len(first_words) else np.full(2, -1)
    told = np.concatenate(ranks.gather(own[None]))
    levels, before = np.zeros(len(told), np.int64), -1
    for rank, (first, last) in enumerate(told.tolist()):
        if last < 0:
            continue
        if before >= 0:
            different = first ^ before
            levels[rank] = max(0, bits - (different.bit_length() - 1) // 3)
        before = last
    return levels


def _runs(parts: np.ndarray, level: int) -> np.ndarray:
    """Return boxes, the sum of squares of what they hold, and what the first and the last hold."""
    n = len(parts)
    if n == 0:
        return np.zeros(4, np.int64)
    begins = np.append(0, 1 + np.flatnonzero(parts[1:] <= level))
    lengths = np.diff(np.append(begins, n))
    return np.array([len(lengths), (lengths**2).sum(), lengths[0], lengths[-1]])


def _together(told: np.ndarray, between: np.ndarray, level: int) -> tuple[int, int]:
    """Return boxes and squares of all ranks, from those of each."""
    boxes, squares, last = 0, 0, 0
    for rank, (count, square, first, end) in enumerate(told.tolist()):
        if count == 0:
            continue
        boxes, squares = boxes + count, squares + square
        if last and between[rank] > level:
            # the last box before and the first here are one
            boxes, squares = boxes - 1, squares + 2 * last * first
            end = end + last if count == 1 else end
        last = end
    return boxes, squares
