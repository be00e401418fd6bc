"""Leaves of a tree on the GPU and the sources near to each; leaves of many targets in tiles."""

import numpy as np

from fmm.cuda.curve import DeviceArray, launch
from fmm.tree.build import Tree
from fmm.tree.curve import upper
from fmm.tree.geometry import MOST_TARGETS, TILE
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import marked, running_sum, total


def leaves_with(space: Space, tree: Tree, ranges: DeviceArray) -> DeviceArray:
    """Return the leaves that hold points."""
    n = tree.parent.shape[0]
    marks = space.empty((n,), np.int64)
    launch(space, _mark_leaves(), n, tree.n_children, ranges, marks)
    return marked(space, marks)


@kernels
def _mark_leaves():
    def loop(n_children, ranges, out):
        box = cuda.grid(1)
        if box < out.shape[0]:
            out[box] = 1 if n_children[box] == 0 and ranges[box, 1] > ranges[box, 0] else 0

    return loop


def near_of(
    space: Space, leaves: DeviceArray, target_range: DeviceArray, range_starts: DeviceArray
) -> tuple[DeviceArray, DeviceArray]:
    """Return ranges of targets of leaves, and starts of the ranges of sources near to each."""
    n = leaves.shape[0]
    targets, starts = space.empty((n, 2), np.int64), space.empty((n + 1,), np.int64)
    launch(space, _near(), n + 1, leaves, target_range, range_starts, targets, starts)
    return targets, starts


@kernels
def _near():
    def loop(leaves, target_range, range_starts, targets, starts):
        i = cuda.grid(1)
        if i == leaves.shape[0]:
            # boxes that are no leaves, or without targets, have no ranges
            starts[i] = range_starts[range_starts.shape[0] - 1]
        elif i < leaves.shape[0]:
            box = leaves[i]
            starts[i] = range_starts[box]
            targets[i, 0] = target_range[box, 0]
            targets[i, 1] = target_range[box, 1]

    return loop


def tiles(
    space: Space, targets: DeviceArray, starts: DeviceArray, ranges: DeviceArray
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Return ranges of targets, starts and ranges of sources, leaves of many targets cut up."""
    n = targets.shape[0]
    parts, entries = space.empty((n,), np.int64), space.empty((n,), np.int64)
    launch(space, _count_tiles(), n, targets, starts, parts, entries)
    first, offsets = running_sum(space, parts), running_sum(space, entries)
    n_tiles = total(space, first)
    if n_tiles == n:
        return targets, starts, ranges
    parts_of, begins = space.empty((n_tiles, 2), np.int64), space.empty((n_tiles + 1,), np.int64)
    out = space.empty((total(space, offsets), 2), np.int64)
    launch(
        space, _cut(), n_tiles + 1, targets, starts, ranges, first, offsets, parts_of, begins, out
    )  # fmt: skip
    return parts_of, begins, out


@kernels
def _count_tiles():
    def loop(targets, starts, parts, entries):
        leaf = cuda.grid(1)
        if leaf < parts.shape[0]:
            held = targets[leaf, 1] - targets[leaf, 0]
            parts[leaf] = (held + TILE - 1) // TILE if held > MOST_TARGETS else 1
            entries[leaf] = parts[leaf] * (starts[leaf + 1] - starts[leaf])

    return loop


@kernels
def _cut():
    def loop(targets, starts, ranges, first, offsets, tiles, begins, out):
        """Write a tile: a part of the targets of a leaf, and all its ranges of sources."""
        tile, n = cuda.grid(1), targets.shape[0]
        if tile == tiles.shape[0]:
            begins[tile] = offsets[n]
        if tile >= tiles.shape[0]:
            return
        leaf = upper(first, 0, n, tile) - 1
        part, parts = tile - first[leaf], first[leaf + 1] - first[leaf]
        begin, held = targets[leaf, 0], targets[leaf, 1] - targets[leaf, 0]
        count = starts[leaf + 1] - starts[leaf]
        tiles[tile, 0] = begin + held * part // parts
        tiles[tile, 1] = begin + held * (part + 1) // parts
        begins[tile] = offsets[leaf] + part * count
        for i in range(count):
            for end in range(2):
                out[begins[tile] + i, end] = ranges[starts[leaf] + i, end]

    return loop
