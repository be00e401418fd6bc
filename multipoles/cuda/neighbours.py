"""Who meets whom on the GPU: all pairs, systems of a batch, or a list of pairs.

The counterparts of `multipoles.neighbours`; made once and used for many sums.
"""

from functools import cached_property
from typing import Any

import numpy as np

from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import (
    INTEGERS,
    THREADS,
    argsort,
    blocks_for,
    first_not_below,
    row_starts,
    running_sum,
    taken,
    total,
)
from multipoles.pairwise import square


class DeviceNeighbours:
    """All sources of the target's system, or of one system that holds everything.

    Parameters
    ----------
    n_targets, n_sources : int
        Numbers of points.
    target_batch, source_batch : device array of int64, optional
        Sorted system index of each point; None for a single system.
    """

    def __init__(
        self, n_targets: int, n_sources: int, target_batch: Any = None, source_batch: Any = None
    ) -> None:
        self.n_targets, self.n_sources = int(n_targets), int(n_sources)
        self.target_batch, self.source_batch = target_batch, source_batch
        self._kept: dict[Any, Any] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every target meets every source."""
        return self.target_batch is None

    def ranges(self, space: Space) -> Any:
        """Return first source and the one after the last of each target, flat."""
        return space.once(self._kept, "ranges", lambda: self._find_ranges(space))

    def _find_ranges(self, space: Space) -> Any:
        out = space.empty((2 * self.n_targets,), np.int64)
        batches = (self.target_batch, self.source_batch)
        make = _all_sources() if self.is_complete else _ranges_of_systems()
        given = (self.n_sources,) if self.is_complete else batches
        make(space.stream, INTEGERS, blocks_for(self.n_targets), THREADS, *given, out)
        return out

    @cached_property
    def transposed(self) -> "DeviceNeighbours":
        """The same pairs with targets and sources exchanged."""
        other = DeviceNeighbours(
            self.n_sources, self.n_targets, self.source_batch, self.target_batch
        )
        other.__dict__["transposed"] = self
        return other


class DevicePairs(DeviceNeighbours):
    """Given pairs.

    Parameters
    ----------
    targets, sources : device array of int64, shape (n_pairs,)
        Of each pair, in any order.
    n_targets, n_sources : int
        Numbers of points.
    weights : device array, shape (n_pairs,), optional
        Factor of each pair's contribution; None for one.
    """

    def __init__(
        self, targets: Any, sources: Any, n_targets: int, n_sources: int, weights: Any = None
    ) -> None:
        super().__init__(n_targets, n_sources)
        self.targets, self.sources, self.weights = targets, sources, weights
        self.n_pairs = int(targets.shape[0])

    @property
    def is_complete(self) -> bool:
        """Not even if the list holds all pairs."""
        return False

    def rows(self, space: Space, dtype: np.dtype) -> tuple[Any, Any, Any]:
        """Return the start of each target's row, the sources row by row, and weights or None."""
        starts, sources, order = space.once(self._kept, "rows", lambda: self._sort(space))
        if self.weights is None:
            return starts, sources, None
        weights = space.once(self._kept, dtype, lambda: taken(space, self.weights, order, dtype))
        return starts, sources, weights

    def _sort(self, space: Space) -> tuple[Any, Any, Any]:
        order, sorted_targets = argsort(space, self.targets, max(1, self.n_targets.bit_length()))
        starts = row_starts(space, sorted_targets, self.n_targets)
        return starts, taken(space, self.sources, order), order

    @cached_property
    def transposed(self) -> "DevicePairs":
        """The same pairs with targets and sources exchanged."""
        other = DevicePairs(
            self.sources, self.targets, self.n_sources, self.n_targets, self.weights
        )
        other.__dict__["transposed"] = self
        return other


def pairs_within(
    space: Space, targets: Any, sources: Any, neighbours: DeviceNeighbours, reach: float
) -> DevicePairs:
    """Return those pairs that are no further apart than a distance; waits for their number.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    targets, sources : device array, shape (n, 3)
        Points, of one dtype.
    neighbours : DeviceNeighbours
        All pairs, or those of systems.
    reach : float
        Largest distance.
    """
    n, dtype = len(targets), np.dtype(targets.dtype)
    counts, blocks = space.empty((n,), np.int64), blocks_for(n)
    points = targets.reshape(-1), sources.reshape(-1), neighbours.ranges(space), reach * reach
    _count_near()(space.stream, dtype, blocks, THREADS, *points, counts)
    starts = running_sum(space, counts)
    n_pairs = total(space, starts)
    ends = space.empty((n_pairs,), np.int64), space.empty((n_pairs,), np.int64)
    _list_near()(space.stream, dtype, blocks if n_pairs else 0, THREADS, *points, starts, *ends)
    found = DevicePairs(*ends, n, len(sources))
    space.once(found._kept, "rows", lambda: (starts, ends[1], None))
    return found


@kernels
def _count_near():
    def loop(targets, sources, ranges, reach2, counts):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < counts.shape[0]:
            count = 0
            for j in range(ranges[2 * i], ranges[2 * i + 1]):
                x = targets[3 * i] - sources[3 * j]
                y = targets[3 * i + 1] - sources[3 * j + 1]
                z = targets[3 * i + 2] - sources[3 * j + 2]
                if square(x, y, z) <= reach2:
                    count += 1
            counts[i] = count

    return loop


@kernels
def _list_near():
    def loop(targets, sources, ranges, reach2, starts, first, second):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < starts.shape[0] - 1:
            place = starts[i]
            for j in range(ranges[2 * i], ranges[2 * i + 1]):
                x = targets[3 * i] - sources[3 * j]
                y = targets[3 * i + 1] - sources[3 * j + 1]
                z = targets[3 * i + 2] - sources[3 * j + 2]
                if square(x, y, z) <= reach2:
                    first[place], second[place] = i, j
                    place += 1

    return loop


@kernels
def _all_sources():
    def loop(n_sources, ranges):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < ranges.shape[0] // 2:
            ranges[2 * i], ranges[2 * i + 1] = 0, n_sources

    return loop


@kernels
def _ranges_of_systems():
    def loop(target_batch, source_batch, ranges):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < target_batch.shape[0]:
            system = target_batch[i]
            for side in range(2):
                ranges[2 * i + side] = first_not_below(source_batch, system + side)

    return loop
