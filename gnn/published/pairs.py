"""Pairs of points within a distance, by minimum image where there is a box."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.operators.near_pairs import near_ends
from multipoles.compiled.jit import equal_ranges

_AT_ONCE = 1_000_000  # distances in memory


class Pairs(NamedTuple):
    """Indices of two points each (P,), sorted by the first, and shifts in Å (P, 3).

    The vector from the first to the nearest image of the second is their difference plus the
    shift, which is None without a box.
    """

    first: Tensor
    second: Tensor
    shift: Tensor | None

    def vectors(self, one: Tensor, two: Tensor) -> Tensor:
        """Return the vectors from points of `one` to points of `two`, (P, 3)."""
        vectors = two.index_select(0, self.second) - one.index_select(0, self.first)
        return vectors if self.shift is None else vectors + self.shift


def pairs_within(
    one: Tensor,
    two: Tensor,
    batch_one: Tensor,
    batch_two: Tensor,
    reach: float,
    box: Tensor | None = None,
) -> Pairs:
    """Return all pairs of a point of `one` and a point of `two` of one system within `reach`.

    Parameters
    ----------
    one, two : Tensor
        (n, 3) and (m, 3) points in Å.
    batch_one, batch_two : Tensor
        Sorted system of each point.
    reach : float
        Largest distance in Å.
    box : Tensor, optional
        (3,) edges of an orthorhombic box in Å.
    """
    points = one.detach().numpy(), two.detach().numpy()
    batches = batch_one.numpy(), batch_two.numpy()
    if box is None:
        first, second = near_ends(*points, *batches, reach)
        return Pairs(torch.from_numpy(first), torch.from_numpy(second), None)
    first, second, shift = _by_minimum_image(*points, *batches, reach, box.numpy())
    return Pairs(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(shift))


def ranges_of_atoms(first: NDArray[np.int64], cost: float) -> list[tuple[int, int]]:
    """Return ranges of pairs for threads; those of an atom stay together.

    Parameters
    ----------
    first : ndarray
        Atom of each pair, sorted.
    cost : float
        What a pair takes, in pairs of point charges.
    """
    parts = equal_ranges(np.ones(len(first)), cost * len(first))
    if len(parts) == 1:
        return parts
    cuts = np.searchsorted(first, first[[begin for begin, _ in parts[1:]]])
    return list(pairwise([0, *cuts.tolist(), len(first)]))


def pairs_among(points: Tensor, batch: Tensor, reach: float, box: Tensor | None = None) -> Pairs:
    """Return all unordered pairs of different points of one system within `reach`."""
    pairs = pairs_within(points, points, batch, batch, reach, box)
    once = pairs.first < pairs.second
    shift = None if pairs.shift is None else pairs.shift[once]
    return Pairs(pairs.first[once], pairs.second[once], shift)


def _by_minimum_image(
    one: NDArray,
    two: NDArray,
    batch_one: NDArray,
    batch_two: NDArray,
    reach: float,
    box: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray]:
    parts = []
    rows = max(1, _AT_ONCE // max(1, len(two)))
    for start in range(0, len(one), rows):
        chunk = slice(start, start + rows)
        vectors = two[None] - one[chunk, None]
        shift = -box * np.round(vectors / box)
        squared = ((vectors + shift) ** 2).sum(-1)
        same = batch_one[chunk, None] == batch_two[None]
        first, second = np.nonzero((squared <= reach * reach) & same)
        parts.append((first + start, second, shift[first, second].astype(one.dtype)))
    first, second, shift = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, shift
