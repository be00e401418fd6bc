"""Points along the curve on the GPU: `fmm.tree.curve` with points that stay on the device.

Point by point the arithmetic is that of the CPU. Positions are taken as float64, whatever type they
come in. The host reads the corners of systems and whether points crowd.
"""

from math import inf
from typing import Any

import numpy as np

from fmm.cuda.keys import sorted_points
from fmm.tree.curve import MAX_LEVELS, SortedPoints, bits_of, crowding, parting, roots, upper
from fmm.tree.morton import WORD, cells
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels, substitute
from multipoles.cuda.blocks import THREADS as BLOCK
from multipoles.cuda.blocks import blocks_for, chunks_of
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import marked, taken

DeviceArray = Any
"""What kernels take: of `multipoles.cuda.arrays`, or of Numba's simulator, which has no types."""
THREADS = 8 if SIMULATED else 128
GEOMETRY = np.dtype(np.float64)
"""Type of the numbers of kernels that make boxes and lists."""
# blocks that share the points of a system when looking for its corners
_PARTS = 4 if SIMULATED else 256
_GRAIN = 32 if SIMULATED else 4096
_MOST_LEVELS = MAX_LEVELS + 1


def launch(space: Space, kernel: Any, n: int, *args: Any) -> None:
    """Run a kernel of the geometry with a thread for each of n items."""
    kernel(space.stream, GEOMETRY, blocks_for(n, THREADS), THREADS, *args)


# --- points along the curve -----------------------------------------------------------------------


def sort_points(
    space: Space,
    targets: DeviceArray,
    sources: DeviceArray,
    target_batch: DeviceArray = None,
    source_batch: DeviceArray = None,
    root_grid: int = 1,
) -> SortedPoints:
    """Return the points along a Morton curve, see `fmm.tree.curve`; all of them lie on the device.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    targets, sources : device array, shape (n, 3)
        float32 or float64; the same object if they are the same points.
    target_batch, source_batch : device array of integers, optional
        Sorted system index of each point; indices may have gaps.
    root_grid : int
        Most root cells along an axis.

    Raises
    ------
    ValueError
        If a batch index is not sorted, or a system is larger than the largest number.
    """
    same = targets is sources and target_batch is source_batch
    kinds = [(sources, source_batch, "source_batch")]
    if not same:
        kinds.append((targets, target_batch, "target_batch"))
    names = [_names(space, batch, label) for _, batch, label in kinds if batch is not None]
    systems = np.unique(np.concatenate(names)) if names else np.zeros(1, np.int64)
    starts = [_starts(space, x, batch, systems) for x, batch, _ in kinds]
    n_systems = max(len(systems), 1)
    low, high = np.full((n_systems, 3), inf), np.full((n_systems, 3), -inf)
    for (x, _, _), first in zip(kinds, starts, strict=True):
        _bounds(space, x, first, low, high)
    bits = bits_of(n_systems, root_grid)
    origin, edge = roots(low, high, root_grid, bits)
    grid = [space.upload(array) for array in cells(origin, edge, bits)]
    width = 3 * bits + (n_systems * root_grid**3 - 1).bit_length()
    named = [(x, first, *grid) for (x, _, _), first in zip(kinds, starts, strict=True)]
    kept = sorted_points(space, named, root_grid, bits, width)
    (source_permutation, source_keys), (target_permutation, target_keys) = kept[0], kept[-1]
    return SortedPoints(
        target_permutation,
        source_permutation,
        target_keys,
        source_keys,
        bits,
        root_grid,
        origin,
        edge,
    )


def _names(space: Space, batch: DeviceArray, label: str) -> np.ndarray:
    """Return the systems that points belong to, one number each, on the host."""
    n = batch.shape[0]
    begins = space.empty((n,), np.int64)
    launch(space, mark_begins(), n, batch, begins)
    names = space.download(taken(space, batch, marked(space, begins), np.int64))
    if np.any(np.diff(names) <= 0):
        raise ValueError(f"{label}: expected sorted system indices, got {names} in this order")
    return names


def _starts(
    space: Space, points: DeviceArray, batch: DeviceArray, systems: np.ndarray
) -> DeviceArray:
    """Return where the points of every system start, and where the last ones end."""
    n = points.shape[0]
    if batch is None:
        return space.upload(np.array([0, n]))
    out = space.empty((len(systems) + 1,), np.int64)
    launch(space, _find_starts(), len(systems) + 1, batch, space.upload(systems), out)
    return out


@kernels
def mark_begins():
    """Mark where runs of equal values begin, and their end if there is room for it."""

    def loop(values, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = 1 if i == 0 or i == values.shape[0] or values[i] != values[i - 1] else 0

    return loop


@kernels
def _find_starts():
    def loop(batch, systems, out):
        i = cuda.grid(1)
        if i < systems.shape[0]:
            out[i] = upper(batch, 0, batch.shape[0], systems[i] - 1)
        elif i == systems.shape[0]:
            out[i] = batch.shape[0]

    return loop


def _bounds(
    space: Space, points: DeviceArray, starts: DeviceArray, low: np.ndarray, high: np.ndarray
) -> None:
    """Widen the corners of every system to hold its points."""
    n, n_systems = points.shape[0], len(low)
    parts = max(1, min(_PARTS, n // (_GRAIN * n_systems)))
    out = space.empty((n_systems * parts, 6), np.float64)
    grid = n_systems * parts
    _corners()(space.stream, GEOMETRY, grid, THREADS, points, starts, parts, out)
    extremes = space.download(out).reshape(n_systems, parts, 2, 3)
    np.minimum(low, extremes[:, :, 0].min(axis=1), out=low)
    np.maximum(high, extremes[:, :, 1].max(axis=1), out=high)


def corners(space: Space, points: DeviceArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest coordinates of points, on the host."""
    low, high = np.full((1, 3), inf), np.full((1, 3), -inf)
    _bounds(space, points, space.upload(np.array([0, points.shape[0]])), low, high)
    return low[0], high[0]


@kernels
def _corners():
    def loop(points, starts, parts, out):
        """Find the corners of a part of a system's points: a block each."""
        shared = cuda.shared.array((6, THREADS), np.float64)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        system, part = block // parts, block % parts
        first, n = starts[system], starts[system + 1] - starts[system]
        for axis in range(3):
            shared[axis, thread] = inf
            shared[3 + axis, thread] = -inf
        for i in range(
            first + n * part // parts + thread, first + n * (part + 1) // parts, THREADS
        ):
            for axis in range(3):
                x = np.float64(points[i, axis])
                shared[axis, thread] = min(shared[axis, thread], x)
                shared[3 + axis, thread] = max(shared[3 + axis, thread], x)
        cuda.syncthreads()
        if thread < 6:
            extreme = shared[thread, 0]
            for other in range(1, THREADS):
                x = shared[thread, other]
                extreme = min(extreme, x) if thread < 3 else max(extreme, x)
            out[block, thread] = extreme

    return loop


@kernels
def copying():
    """Copy all numbers of an array to another, whose type may be wider."""

    def loop(values, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = values[i]

    return loop


def gather(
    space: Space, points: DeviceArray, permutation: DeviceArray, dtype: Any = np.float64
) -> DeviceArray:
    """Return ``points[permutation]``."""
    out = space.empty((permutation.shape[0], 3), dtype)
    launch(space, _gather(), permutation.shape[0], points, permutation, out)
    return out


def scatter(space: Space, points: DeviceArray, permutation: DeviceArray) -> DeviceArray:
    """Return the array of which `gather` would make these points."""
    out = space.empty((permutation.shape[0], 3), np.float64)
    launch(space, _scatter(), permutation.shape[0], points, permutation, out)
    return out


@kernels
def _gather():
    def loop(points, permutation, out):
        i = cuda.grid(1)
        if i < permutation.shape[0]:
            for axis in range(3):
                out[i, axis] = points[permutation[i], axis]

    return loop


@kernels
def _scatter():
    def loop(points, permutation, out):
        i = cuda.grid(1)
        if i < permutation.shape[0]:
            for axis in range(3):
                out[permutation[i], axis] = points[i, axis]

    return loop


# --- crowding -------------------------------------------------------------------------------------


def occupancy(space: Space, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
    """Return, per level of a tree divided evenly, the boxes with sources and crowding.

    See `fmm.tree.curve.occupancy`; the result is on the host.
    """
    keys, n = points.source_keys, points.source_keys.shape[1]
    most = points.n_levels + 1
    out = space.zeros((3, most), np.int64)
    blocks, chunk = chunks_of(n)
    _fill()(space.stream, GEOMETRY, blocks, BLOCK, keys, points.bits, chunk, out)
    begun, single, squares = space.download(out)
    boxes = np.cumsum(begun)
    crowded = np.flatnonzero(2 * boxes > n)
    n_levels = int(crowded[0]) + 1 if len(crowded) else most
    return crowding(boxes[:n_levels], (np.cumsum(single) + squares)[:n_levels], n)


@kernels
def _fill():
    def loop(keys, bits, chunk, out):
        """Count the boxes of a chunk of points, each at its first point.

        By the first level at which a point is in another box than the one before, and by that at
        which it is alone; on levels between, add the squares of what boxes hold.
        """
        shared = cuda.shared.array((3, _MOST_LEVELS), np.int64)
        thread, n, most = cuda.threadIdx.x, keys.shape[1], out.shape[1]
        for level in range(thread, most, BLOCK):
            for row in range(3):
                shared[row, level] = 0
        cuda.syncthreads()
        first = cuda.blockIdx.x * chunk
        for i in range(first + thread, min(first + chunk, n), BLOCK):
            begins = parting(keys, i - 1, keys, i, bits) if i > 0 else 0
            alone = parting(keys, i, keys, i + 1, bits) if i + 1 < n else 0
            alone = max(begins, alone)
            if begins < most:
                cuda.atomic.add(shared, (0, begins), 1)
            if alone < most:
                cuda.atomic.add(shared, (1, alone), 1)
            for level in range(begins, min(alone, most)):
                held = end_of_box(keys, i, level, bits) - i
                cuda.atomic.add(shared, (2, level), held * held)
        cuda.syncthreads()
        for level in range(thread, most, BLOCK):
            for row in range(3):
                if shared[row, level] > 0:
                    cuda.atomic.add(out, (row, level), shared[row, level])

    return loop


@device
def _parting(keys, i, others, j, bits):
    """Return what `fmm.tree.curve.parting` does, from the highest bit that differs."""
    level, shift = 0, 3 * bits
    for word in range(keys.shape[0]):
        different = keys[word, i] ^ others[word, j]
        if different != 0:
            # the first of 62 bits
            high = different >> 31
            zeros = cuda.clz(np.int32(high)) if high != 0 else 31 + cuda.clz(np.int32(different))
            return level + max(shift - 62 + zeros + 2, 0) // 3
        level += shift // 3 + 1
        shift = 3 * (WORD - 1)
    return level


substitute(parting, _parting)


@device
def end_of_box(keys, i, level, bits):
    """Return the end of the box of a level that begins with a point, among sorted keys."""
    n = keys.shape[1]
    # steps that double find the end fast where boxes are small
    step = 1
    while i + step < n and parting(keys, i, keys, i + step, bits) > level:
        step *= 2
    first, last = i + step // 2, min(i + step, n)
    while first < last:
        middle = (first + last) // 2
        if parting(keys, i, keys, middle, bits) > level:
            first = middle + 1
        else:
            last = middle
    return first
