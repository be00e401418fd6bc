"""Pairs of points within a distance, by minimum image where there is a box."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.data.batching import apart
from gnn.operators.fixed_pairs import HALF, FixedPairs
from gnn.operators.gpu import on_gpu
from gnn.operators.near_pairs import near_ends
from gnn.operators.room import Room, pairs_of
from multipoles.compiled.jit import equal_ranges

_AT_ONCE = 1_000_000  # distances in memory


class Pairs(NamedTuple):
    """Indices of two points each (P,), sorted by the first, and shifts in Å (P, 3).

    The vector from the first to the nearest image of the second is their difference plus the
    shift, which is None without a box. Where the list is of fixed length, `present` (P,) says
    which pairs are there; None: all.
    """

    first: Tensor
    second: Tensor
    shift: Tensor | None
    present: Tensor | None = None

    def vectors(self, one: Tensor, two: Tensor) -> Tensor:
        """Return the vectors from points of `one` to points of `two`, (P, 3).

        Those of pairs that are not there are longer than any cutoff.
        """
        vectors = two.index_select(0, self.second) - one.index_select(0, self.first)
        if self.present is not None:
            return apart(vectors, self.present)
        return vectors if self.shift is None else vectors + self.shift

    def only(self, values: Tensor) -> Tensor:
        """Return values (P,), zero for pairs that are not there."""
        return values if self.present is None else values * self.present


def pairs_within(
    one: Tensor,
    two: Tensor,
    batch_one: Tensor,
    batch_two: Tensor,
    reach: float,
    box: Tensor | None = None,
    room: Room | None = None,
    name: str = "near",
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
    room : Room, optional
        Of a step of fixed shapes, where the pairs have this name.
    """
    points, batches = (one.detach(), two.detach()), (batch_one, batch_two)
    if box is not None:
        return Pairs(*_by_minimum_image(*points, *batches, reach, box))
    if room is not None or on_gpu(one):
        return _of_fixed(pairs_of(room, name, *points, batches, reach))
    x, s, *index = (t.numpy() for t in (*points, *batches))
    first, second = near_ends(x, s, index[0], index[1], reach)
    return Pairs(torch.from_numpy(first), torch.from_numpy(second), None)


def _of_fixed(pairs: FixedPairs) -> Pairs:
    return Pairs(pairs.first, pairs.second, None, pairs.present)


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


def pairs_among(
    points: Tensor,
    batch: Tensor,
    reach: float,
    box: Tensor | None = None,
    room: Room | None = None,
) -> Pairs:
    """Return all unordered pairs of different points of one system within `reach`."""
    if box is None and (room is not None or on_gpu(points)):
        given = points.detach(), points.detach(), (batch, batch), reach
        return _of_fixed(pairs_of(room, "pairs of atoms", *given, HALF))
    pairs = pairs_within(points, points, batch, batch, reach, box)
    once = pairs.first < pairs.second
    shift = None if pairs.shift is None else pairs.shift[once]
    return Pairs(pairs.first[once], pairs.second[once], shift)


def _by_minimum_image(
    one: Tensor, two: Tensor, batch_one: Tensor, batch_two: Tensor, reach: float, box: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    parts = []
    rows = max(1, _AT_ONCE // max(1, len(two)))
    for start in range(0, len(one), rows):
        chunk = slice(start, start + rows)
        vectors = two[None] - one[chunk, None]
        shift = -box * torch.round(vectors / box)
        squared = (vectors + shift).square().sum(-1)
        same = batch_one[chunk, None] == batch_two[None]
        first, second = torch.nonzero((squared <= reach * reach) & same).unbind(1)
        parts.append((first + start, second, shift[first, second].to(one.dtype)))
    first, second, shift = (torch.cat(column) for column in zip(*parts, strict=True))
    return first, second, shift
