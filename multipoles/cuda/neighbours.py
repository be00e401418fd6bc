"""Who meets whom on the GPU: all pairs, systems of a batch, or a list of pairs.

The counterparts of `multipoles.neighbours`; made once and used for many sums.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import (
    INTEGERS,
    THREADS,
    argsort,
    blocks_for,
    count_up,
    first_not_below,
    row_starts,
    running_sum,
    taken,
    total,
)
from multipoles.pairwise import square

# threads that keep a large device busy, and sources that are worth one
_BUSY = 32 if SIMULATED else 1 << 17
_LEAST = 2 if SIMULATED else 16


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


class NearPairs(DevicePairs):
    """Pairs within a distance, in rows of targets, for which there is a fixed room.

    Places without a pair hold targets and sources after the last. If there are more pairs than
    places, the weights of those that have one are not numbers, and so is what is summed over them:
    `check` says why.

    Attributes
    ----------
    capacity : int
        Number of places.
    found : device array of int64, shape (1,)
        Number of pairs.
    """

    def __init__(self, made: tuple[Any, ...], found: Any, n_targets: int, n_sources: int) -> None:
        self._starts, targets, sources, weights = made
        super().__init__(targets, sources, n_targets, n_sources, weights)
        self.capacity, self.found = targets.shape[0], found

    def rows(self, space: Space, dtype: np.dtype) -> tuple[Any, Any, Any]:
        """Return the start of each target's row, the sources row by row, and weights."""
        return self._starts, self.sources, space.once(self._kept, dtype, self._cast(space, dtype))

    def _cast(self, space: Space, dtype: np.dtype) -> Callable[[], Any]:
        if self.weights.dtype == dtype:
            return lambda: self.weights
        return lambda: taken(space, self.weights, count_up(space, self.capacity), dtype)

    def check(self, space: Space) -> int:
        """Return the number of pairs; waits for it.

        Raises
        ------
        ValueError
            If there are more than places.
        """
        found = int(space.download(self.found)[0])
        if found > self.capacity:
            raise ValueError(
                f"expected at most {self.capacity} pairs within reach, the capacity, found "
                f"{found}: what was summed over them is not a number; give a larger capacity"
            )
        return found

    def ends(self, space: Space) -> tuple[Any, Any]:
        """Return targets and sources of the pairs alone; waits for their number, and checks it."""
        n = self.check(space)
        return self.targets[:n], self.sources[:n]


def pairs_within(
    space: Space,
    targets: Any,
    sources: Any,
    neighbours: DeviceNeighbours,
    reach: float,
    capacity: int | None = None,
) -> DevicePairs:
    """Return those pairs that are no further apart than a distance.

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
    capacity : int, optional
        Most pairs that there may be: the host then does not wait for their number, and
        `NearPairs.check` is to be called where it waits anyway. None waits and takes what there is.

    Raises
    ------
    ValueError
        If the capacity is less than one.
    """
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity: expected room for at least one pair, got {capacity}")
    n, dtype = len(targets), np.dtype(targets.dtype)
    lanes = max(1, min(_BUSY // max(n, 1), len(sources) // _LEAST))
    counts, blocks = space.empty((n * lanes,), np.int64), blocks_for(n * lanes)
    points = targets.reshape(-1), sources.reshape(-1), neighbours.ranges(space), reach * reach
    _count_near()(space.stream, dtype, blocks, THREADS, *points, lanes, counts)
    offsets = running_sum(space, counts)
    size = total(space, offsets) if capacity is None else int(capacity)
    starts = space.empty((n + 1,), np.int64)
    ends = space.empty((size,), np.int64), space.empty((size,), np.int64)
    weights = space.empty((0 if capacity is None else size,), dtype)
    found = space.empty((1,), np.int64)
    _list_near()(
        space.stream, dtype, max(blocks, 1), THREADS, *points, lanes, offsets, math.nan, starts,
        *ends, weights, found,
    )  # fmt: skip
    if capacity is not None:
        return NearPairs((starts, *ends, weights), found, n, len(sources))
    exact = DevicePairs(*ends, n, len(sources))
    space.once(exact._kept, "rows", lambda: (starts, ends[1], None))
    return exact


@device
def _share(ranges, i, lanes):
    """Return the sources of a thread: one of `lanes` parts of those of its target."""
    target = i // lanes
    first, n = ranges[2 * target], ranges[2 * target + 1] - ranges[2 * target]
    lane = i - target * lanes
    return target, first + n * lane // lanes, first + n * (lane + 1) // lanes


@device
def _apart(targets, i, sources, j):
    """Return the square of the distance of two points."""
    x = targets[3 * i] - sources[3 * j]
    y = targets[3 * i + 1] - sources[3 * j + 1]
    z = targets[3 * i + 2] - sources[3 * j + 2]
    return square(x, y, z)


@kernels
def _count_near():
    def loop(targets, sources, ranges, reach2, lanes, counts):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < counts.shape[0]:
            target, first, last = _share(ranges, i, lanes)
            count = 0
            for j in range(first, last):
                if _apart(targets, target, sources, j) <= reach2:
                    count += 1
            counts[i] = count

    return loop


@kernels
def _list_near():
    def loop(
        targets, sources, ranges, reach2, lanes, offsets, nan, starts, first, second, weights, found
    ):
        """Write the pairs that have a place, rows of targets, and what places without pair hold."""
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n, n_places = starts.shape[0] - 1, first.shape[0]
        n_pairs = offsets[n * lanes]
        if i < n * lanes:
            target, begin, end = _share(ranges, i, lanes)
            # a pair more than were counted would be written over the next one's
            place, last = offsets[i], min(offsets[i + 1], n_places)
            if i == target * lanes:
                starts[target] = min(place, n_places)
            for j in range(begin, end):
                if place < last and _apart(targets, target, sources, j) <= reach2:
                    first[place], second[place] = target, j
                    place += 1
        if i == 0:
            starts[n], found[0] = min(n_pairs, n_places), n_pairs
        step = cuda.gridDim.x * THREADS
        for k in range(n_pairs + i, n_places, step):
            first[k], second[k] = n, sources.shape[0] // 3
        for k in range(i, weights.shape[0], step):
            weights[k] = 1.0 if n_pairs <= n_places else nan

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
