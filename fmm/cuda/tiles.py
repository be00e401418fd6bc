"""Leaves of a tree on the GPU and the sources near to each; leaves of many targets in tiles."""

from typing import NamedTuple

import numpy as np

from fmm.cuda.build import DeviceTree
from fmm.cuda.curve import GEOMETRY, DeviceArray, launch
from fmm.tree.curve import upper
from fmm.tree.geometry import MOST_TARGETS, TILE
from multipoles.compiled.cuda_kernels import cuda, device, kernels
from multipoles.cuda.blocks import THREADS as BLOCK
from multipoles.cuda.blocks import chunks_of, scanned, summed
from multipoles.cuda.device import Space

# what is counted of every box
_RANGES, _TARGETS, _SOURCES, _PARTS, _ENTRIES, N_KINDS = range(6)


class Leaves(NamedTuple):
    """Leaves that hold points, ascending, and what is near to them; all on the device."""

    range_starts: DeviceArray
    """int64, (n_boxes + 1,): see `fmm.tree.lists.Lists.near_range_starts`."""
    ranges: DeviceArray
    targets: DeviceArray
    """int64: leaves with targets."""
    sources: DeviceArray
    """int64: leaves with sources."""
    target_ranges: DeviceArray
    """int64, (n, 2): targets of each leaf."""
    near: tuple[DeviceArray, DeviceArray, DeviceArray]
    """Ranges of targets, starts of the ranges of sources near to each, and these: of leaves, those
    of many targets cut into tiles."""


class Ranges(NamedTuple):
    """Ranges of sources near to each box, with gaps between those of one box and the next."""

    loose: DeviceArray
    """int64, (n_pairs, 2): those of a box begin where its near pairs do."""
    lengths: DeviceArray
    """int32, (n_boxes,): how many each box has."""
    per_chunk: DeviceArray
    """int64, (N_KINDS, n_chunks): what is counted of the boxes of a chunk."""
    totals: DeviceArray
    """int64, (N_KINDS,): of all boxes."""


def chunks_of_boxes(n: int) -> tuple[int, int]:
    """Return how many chunks n boxes are cut into, and the boxes of each but the last."""
    return chunks_of(n, BLOCK, 8)


def leaves_of(space: Space, tree: DeviceTree, near_starts: DeviceArray, found: Ranges) -> Leaves:
    """Return the leaves of a tree that hold points; waits for their number.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    tree : DeviceTree
        On the device.
    near_starts : device array of int64, shape (n_boxes + 1,)
        Where the near pairs of each box begin.
    found : Ranges
        Sources near to each box.
    """
    n = found.lengths.shape[0]
    blocks, chunk = chunks_of_boxes(n)
    n_ranges, n_targets, n_sources, n_parts, n_entries = space.download(found.totals).tolist()
    range_starts, ranges = space.zeros((n + 1,), np.int64), space.empty((n_ranges, 2), np.int64)
    targets, sources = (space.empty((k,), np.int64) for k in (n_targets, n_sources))
    of_targets = space.empty((n_targets, 2), np.int64)
    rows = space.zeros((3, n_targets + 1), np.int64)
    starts, first, offsets = rows[0], rows[1], rows[2]
    _pack()(
        space.stream, GEOMETRY, blocks, BLOCK, chunk, tree.n_children, tree.n_targets,
        tree.n_sources, near_starts, *found[:3], tree.target_range, range_starts, ranges, targets,
        sources, of_targets, starts, first, offsets,
    )  # fmt: skip
    near = of_targets, starts, ranges
    if n_parts > n_targets:
        tiles, begins = space.empty((n_parts, 2), np.int64), space.empty((n_parts + 1,), np.int64)
        out = space.empty((n_entries, 2), np.int64)
        launch(space, _cut(), n_parts + 1, *near, first, offsets, tiles, begins, out)
        near = tiles, begins, out
    return Leaves(range_starts, ranges, targets, sources, of_targets, near)


@device
def kinds_of(n_children, n_targets, n_sources, n_ranges, out):
    """Write what is counted of a box."""
    is_leaf = n_children == 0
    out[_RANGES] = n_ranges
    out[_TARGETS] = 1 if is_leaf and n_targets > 0 else 0
    out[_SOURCES] = 1 if is_leaf and n_sources > 0 else 0
    parts = (n_targets + TILE - 1) // TILE if n_targets > MOST_TARGETS else 1
    out[_PARTS] = out[_TARGETS] * parts
    out[_ENTRIES] = out[_PARTS] * n_ranges


@kernels
def _pack():
    def loop(
        chunk, n_children, n_targets, n_sources, near_starts, loose, lengths, per_chunk,
        target_range, range_starts, ranges, targets, sources, of_targets, starts, first, offsets,
    ):  # fmt: skip
        """Close the gaps between ranges, and write the leaves."""
        shared = cuda.shared.array(BLOCK, np.int64)
        counts = cuda.local.array(N_KINDS, np.int64)
        before, at = cuda.local.array(N_KINDS, np.int64), cuda.local.array(N_KINDS, np.int64)
        thread, block, n = cuda.threadIdx.x, cuda.blockIdx.x, lengths.shape[0]
        for kind in range(N_KINDS):
            before[kind] = summed(shared, per_chunk[kind], 0, block)
        last = min((block + 1) * chunk, n)
        for begin in range(block * chunk, last, BLOCK):
            box = begin + thread
            for kind in range(N_KINDS):
                counts[kind] = 0
            if box < last:
                kinds_of(n_children[box], n_targets[box], n_sources[box], lengths[box], counts)
            for kind in range(N_KINDS):
                inside, whole = scanned(shared, counts[kind])
                at[kind] = before[kind] + inside
                before[kind] += whole
            if box >= last:
                continue
            range_starts[box + 1] = at[_RANGES] + counts[_RANGES]
            for i in range(counts[_RANGES]):
                for end in range(2):
                    ranges[at[_RANGES] + i, end] = loose[near_starts[box] + i, end]
            if counts[_SOURCES] > 0:
                sources[at[_SOURCES]] = box
            if counts[_TARGETS] > 0:
                leaf = at[_TARGETS]
                targets[leaf] = box
                for end in range(2):
                    of_targets[leaf, end] = target_range[box, end]
                # boxes that are no leaves, or without targets, have no ranges
                starts[leaf + 1] = at[_RANGES] + counts[_RANGES]
                first[leaf + 1] = at[_PARTS] + counts[_PARTS]
                offsets[leaf + 1] = at[_ENTRIES] + counts[_ENTRIES]

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
