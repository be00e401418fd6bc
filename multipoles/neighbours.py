"""Who meets whom: all pairs, systems of a batch, or a list of pairs, laid out for the loops.

A loop over all sources (of a system) reads them in *slots*: consecutive places, each system's
number rounded up to whole vectors. Slots beyond a system's last source repeat it with zero moments.
A pair list is stored by target (compressed rows). Nothing here knows positions or moments, so a
layout is made once and used for many sums.
"""

from functools import cached_property
from typing import Any

import numpy as np

from multipoles import checks, layout
from multipoles.layout import Tiles


class Slots:
    """All sources of the target's system, or of one system that holds everything.

    Parameters
    ----------
    n_targets, n_sources : int
        Numbers of points.
    target_batch, source_batch : ndarray of int64, optional
        Sorted system index of each point; None for a single system.
    """

    def __init__(
        self,
        n_targets: int,
        n_sources: int,
        target_batch: np.ndarray | None = None,
        source_batch: np.ndarray | None = None,
    ) -> None:
        self.n_targets, self.n_sources = int(n_targets), int(n_sources)
        self.target_batch, self.source_batch = target_batch, source_batch
        self._layouts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def layout(self, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each slot and the range of slots of each target.

        Returns
        -------
        slots : ndarray, int64, shape (n_slots,)
            Index of a source; ``-1 - index`` in slots that repeat one.
        ranges : ndarray, int64, shape (n_targets, 2)
            First slot and the one after the last; multiples of `lanes`.
        """
        if lanes not in self._layouts:
            if self.target_batch is None or self.source_batch is None:
                made = layout.single_system(self.n_targets, self.n_sources, lanes)
            else:
                made = layout.systems(self.target_batch, self.source_batch, lanes)
            self._layouts[lanes] = made
        return self._layouts[lanes]

    def tiles(self, size: int) -> Tiles:
        """Return tiles of at most `size` targets, see `multipoles.layout.tiles_of_systems`."""
        batches, counts = (self.target_batch, self.source_batch), (self.n_targets, self.n_sources)
        return layout.tiles_of_systems(*batches, *counts, size)

    @cached_property
    def n_pairs(self) -> int:
        """Number of pairs, those with empty slots included, for the choice of threads."""
        if self.target_batch is None:
            return self.n_targets * self.n_sources
        ranges = self.layout(next(iter(self._layouts), 8))[1]
        return int((ranges[:, 1] - ranges[:, 0]).sum())

    def all_pairs(self) -> np.ndarray:
        """Return (target, source) of every pair, int64, shape (n_pairs, 2)."""
        if self.target_batch is None or self.source_batch is None:
            grid = np.indices((self.n_targets, self.n_sources))
            return np.ascontiguousarray(grid.reshape(2, -1).T)
        same = self.target_batch[:, None] == self.source_batch[None, :]
        return np.argwhere(same)

    @cached_property
    def transposed(self) -> "Slots":
        """The same pairs with targets and sources exchanged."""
        other = Slots(self.n_sources, self.n_targets, self.source_batch, self.target_batch)
        other.__dict__["transposed"] = self
        return other


class PairList:
    """Given pairs.

    Parameters
    ----------
    pairs : ndarray of int64, shape (n_pairs, 2)
        Target and source of each pair, in any order.
    n_targets, n_sources : int
        Numbers of points.
    weights : ndarray, shape (n_pairs,), optional
        Factor of each pair's contribution; None for one.
    """

    def __init__(
        self,
        pairs: np.ndarray,
        n_targets: int,
        n_sources: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.__dict__["pairs"] = pairs
        self.weights = weights
        self.n_targets, self.n_sources = int(n_targets), int(n_sources)
        self.n_pairs = len(pairs)

    @classmethod
    def of_rows(cls, starts: np.ndarray, sources: np.ndarray, n_sources: int) -> "PairList":
        """Return the pairs of rows: start of each target's, and the sources row by row."""
        made = cls(np.empty((0, 2), np.int64), len(starts) - 1, n_sources)
        del made.__dict__["pairs"]  # listed where they are asked for
        made.__dict__["rows"] = starts, sources, np.empty(0)  # sorted already
        made.n_pairs = len(sources)
        return made

    @cached_property
    def pairs(self) -> np.ndarray:
        """Target and source of each pair."""
        starts, sources, _ = self.rows
        return np.stack([np.repeat(np.arange(self.n_targets), np.diff(starts)), sources], axis=1)

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start of each target's row, the sources row by row, and their weights (or none)."""
        starts, order = layout.sort_by_first(self.pairs, self.n_targets)
        sources = self.pairs[:, 1][order]
        weights = np.empty(0) if self.weights is None else np.asarray(self.weights)[order]
        return starts, sources, weights

    def all_pairs(self) -> np.ndarray:
        """Return (target, source) of every pair, int64, shape (n_pairs, 2)."""
        return self.pairs

    def less_one(self) -> "PairList":
        """Return the pairs with weights less one: what a sum of all pairs lacks of the weights."""
        weights = np.zeros(self.n_pairs) if self.weights is None else self.weights - 1.0
        return PairList(self.pairs, self.n_targets, self.n_sources, weights)

    @cached_property
    def transposed(self) -> "PairList":
        """The same pairs with targets and sources exchanged."""
        pairs = np.ascontiguousarray(self.pairs[:, ::-1])
        other = PairList(pairs, self.n_sources, self.n_targets, self.weights)
        other.__dict__["transposed"] = self
        return other


Neighbours = Slots | PairList


def neighbours_of(
    n_targets: int, n_sources: int, pairs: Any, target_batch: Any, source_batch: Any
) -> Neighbours:
    """Return who meets whom, from arguments of `multipoles.field`, which are checked."""
    targets, sources = checks.batches(target_batch, source_batch, n_targets, n_sources)
    listed = checks.pair_list(pairs, n_targets, n_sources)
    if listed is None:
        return Slots(n_targets, n_sources, targets, sources)
    if targets is not None:
        raise ValueError("give pairs or batches, not both: a pair list needs no system index")
    return PairList(listed, n_targets, n_sources)
