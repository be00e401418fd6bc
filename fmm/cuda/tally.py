"""What there is to compute on a tree on the GPU, counted there: sums of integers, always exact."""

from typing import NamedTuple

import numpy as np

from fmm.cuda.curve import DeviceArray, launch
from fmm.cuda.lists import DeviceLists
from fmm.tree.build import Tree
from fmm.tree.curve import upper
from fmm.tree.lists import N_CODES, POINTS
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import blocks_for, running_sum, total

# pairs that one thread counts: they are sorted, so that it adds to few counters
_RUN = 32


class Tally(NamedTuple):
    """Counts, on the host."""

    weights: np.ndarray
    """Pairs of points per level and translation code."""
    translations: np.ndarray
    """Multipole-to-local pairs of each level."""
    near: int
    mixed: int
    leaves: int


def tally(
    space: Space, tree: Tree, lists: DeviceLists, near: tuple[DeviceArray, DeviceArray, DeviceArray]
) -> Tally:
    """Return the counts of a tree; waits for them.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    tree, lists : Tree, DeviceLists
        On the device.
    near : tuple of device array
        Ranges of targets, starts of the ranges of sources near to each, and these.
    """
    n_levels = len(tree.level_starts) - 1
    level_starts = space.upload(tree.level_starts)
    weights = space.upload(np.zeros((n_levels, N_CODES), np.int64))
    counts = space.upload(np.zeros(n_levels + 2, np.int64))
    held = tree.target_range, tree.source_range
    n = lists.m2l_targets.shape[0]
    launch(
        space, _weigh(), blocks_for(n, _RUN), lists.m2l_targets, lists.m2l_sources,
        lists.m2l_codes, level_starts, *held, weights, counts,
    )  # fmt: skip
    for targets, sources, boxes, moving in (
        (lists.m2p_targets, lists.m2p_sources, lists.m2p_sources, 0),
        (lists.p2l_targets, lists.p2l_sources, lists.p2l_targets, 1),
    ):
        launch(
            space, _weigh_mixed(), targets.shape[0], targets, sources, boxes, moving,
            level_starts, *held, weights, counts,
        )  # fmt: skip
    leaves, starts, ranges = near
    launch(space, _weigh_near(), leaves.shape[0], leaves, starts, ranges, counts)
    numbers = space.download(counts)
    return Tally(
        space.download(weights).astype(np.float64), numbers[:n_levels], int(numbers[-2]),
        int(numbers[-1]), tree.parent.shape[0] - _divided(space, tree),
    )  # fmt: skip


def _divided(space: Space, tree: Tree) -> int:
    """Return how many boxes are divided."""
    n = tree.parent.shape[0]
    marks = space.empty((n,), np.int64)
    launch(space, _mark_divided(), n, tree.n_children, marks)
    return total(space, running_sum(space, marks))


@kernels
def _mark_divided():
    def loop(n_children, out):
        box = cuda.grid(1)
        if box < out.shape[0]:
            out[box] = 1 if n_children[box] > 0 else 0

    return loop


@kernels
def _weigh():
    def loop(targets, sources, codes, level_starts, target_range, source_range, weights, counts):
        """Add pairs of points, and of boxes, by level and code."""
        first = cuda.grid(1) * _RUN
        last = min(first + _RUN, targets.shape[0])
        if first >= last:
            return
        level = upper(level_starts, 0, level_starts.shape[0], targets[first]) - 1
        code = codes[first]
        pairs, boxes = 0, 0
        for i in range(first, last):
            target, source = targets[i], sources[i]
            inside = level_starts[level] <= target and target < level_starts[level + 1]
            if codes[i] != code or not inside:
                cuda.atomic.add(weights, (level, code), pairs)
                cuda.atomic.add(counts, level, boxes)
                level = upper(level_starts, 0, level_starts.shape[0], target) - 1
                code = codes[i]
                pairs, boxes = 0, 0
            boxes += 1
            pairs += (target_range[target, 1] - target_range[target, 0]) * (
                source_range[source, 1] - source_range[source, 0]
            )
        cuda.atomic.add(weights, (level, code), pairs)
        cuda.atomic.add(counts, level, boxes)

    return loop


@kernels
def _weigh_mixed():
    def loop(
        targets, sources, boxes, of_sources, level_starts, target_range, source_range, weights,
        counts,
    ):  # fmt: skip
        """Add pairs of points that one expansion stands for, and the single points among them."""
        i = cuda.grid(1)
        if i >= targets.shape[0]:
            return
        n_targets = target_range[targets[i], 1] - target_range[targets[i], 0]
        n_sources = source_range[sources[i], 1] - source_range[sources[i], 0]
        level = upper(level_starts, 0, level_starts.shape[0], boxes[i]) - 1
        cuda.atomic.add(weights, (level, POINTS), n_targets * n_sources)
        single = n_sources if of_sources else n_targets
        cuda.atomic.add(counts, counts.shape[0] - 1, single)

    return loop


@kernels
def _weigh_near():
    def loop(leaves, starts, ranges, counts):
        i = cuda.grid(1)
        if i >= leaves.shape[0]:
            return
        n = 0
        for k in range(starts[i], starts[i + 1]):
            n += ranges[k, 1] - ranges[k, 0]
        cuda.atomic.add(counts, counts.shape[0] - 2, n * (leaves[i, 1] - leaves[i, 0]))

    return loop
