"""How numbers lie in memory: aligned arrays, and compiled loops that lay out neighbours.

See `multipoles.neighbours`.
"""

import numpy as np

from multipoles.compiled.jit import jit
from multipoles.compiled.simd import BYTES


def aligned(n: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array that starts where a cache line does: vectors cross none."""
    raw = np.empty(n * dtype.itemsize + BYTES, np.uint8)
    start = -raw.ctypes.data % BYTES
    return raw[start : start + n * dtype.itemsize].view(dtype)


@jit
def single_system(n_targets, n_sources, lanes):
    """Slots and ranges of one system that holds all points."""
    n_slots = (n_sources + lanes - 1) // lanes * lanes
    slots = np.empty(n_slots, np.int64)
    for i in range(n_slots):
        slots[i] = i if i < n_sources else -n_sources
    ranges = np.empty((n_targets, 2), np.int64)
    for i in range(n_targets):
        ranges[i, 0] = 0
        ranges[i, 1] = n_slots
    return slots, ranges


@jit
def systems(target_batch, source_batch, lanes):
    """Slots and ranges of several systems; both indices are sorted."""
    n_sources, n_targets = len(source_batch), len(target_batch)
    n_slots = 0
    count = 0
    for i in range(n_sources):
        count += 1
        if i + 1 == n_sources or source_batch[i + 1] != source_batch[i]:
            n_slots += (count + lanes - 1) // lanes * lanes
            count = 0
    slots = np.empty(n_slots, np.int64)
    ranges = np.empty((n_targets, 2), np.int64)
    source = slot = target = 0
    while source < n_sources:
        system = source_batch[source]
        while target < n_targets and target_batch[target] < system:
            ranges[target] = 0
            target += 1
        first = slot
        while source < n_sources and source_batch[source] == system:
            slots[slot] = source
            source += 1
            slot += 1
        while slot % lanes:
            slots[slot] = -source
            slot += 1
        while target < n_targets and target_batch[target] == system:
            ranges[target, 0] = first
            ranges[target, 1] = slot
            target += 1
    while target < n_targets:
        ranges[target] = 0
        target += 1
    return slots, ranges


@jit
def sort_by_first(pairs, n):
    """Start of the row of each first index, and the stable order that sorts the pairs by it."""
    starts = np.zeros(n + 1, np.int64)
    for k in range(len(pairs)):
        starts[pairs[k, 0] + 1] += 1
    for i in range(n):
        starts[i + 1] += starts[i]
    place = starts[:n].copy()
    order = np.empty(len(pairs), np.int64)
    for k in range(len(pairs)):
        i = pairs[k, 0]
        order[place[i]] = k
        place[i] += 1
    return starts, order


#: Ranges of targets (n, 2), starts (n + 1,), and ranges of sources (m, 2): tile l meets the sources
#: in ``ranges[starts[l] : starts[l + 1]]``; all int64.
Tiles = tuple[np.ndarray, np.ndarray, np.ndarray]


def cut_tiles(tiles: Tiles, size: int, most: int) -> Tiles:
    """Return tiles, those of more than `most` targets cut into parts of at most `size`."""
    targets, starts, ranges = tiles
    held = targets[:, 1] - targets[:, 0]
    parts = np.where(held > most, -(-held // size), 1)
    if (parts == 1).all():
        return tiles
    tile = np.repeat(np.arange(len(targets)), parts)
    part = np.arange(len(tile)) - np.repeat(np.cumsum(parts) - parts, parts)
    ends = [targets[tile, 0] + held[tile] * (part + k) // parts[tile] for k in (0, 1)]
    counts = np.diff(starts)[tile]
    offsets = np.append(0, np.cumsum(counts))
    index = np.arange(offsets[-1]) + np.repeat(starts[tile] - offsets[:-1], counts)
    return np.stack(ends, axis=1), offsets, ranges[index]


def tiles_of_systems(
    target_batch: np.ndarray | None,
    source_batch: np.ndarray | None,
    n_targets: int,
    n_sources: int,
    size: int,
) -> Tiles:
    """Return tiles of at most `size` targets of one system, which meet all of its sources."""
    if target_batch is None or source_batch is None:
        targets, ranges = np.array([[0, n_targets]]), np.array([[0, n_sources]])
    else:
        systems = np.unique(target_batch)
        targets, ranges = (
            np.stack([np.searchsorted(batch, systems, side) for side in ("left", "right")], axis=1)
            for batch in (target_batch, source_batch)
        )
    return cut_tiles((targets, np.arange(len(targets) + 1), ranges), size, size)
