"""Points along the curve on the GPU: `fmm.tree.curve` with points that stay on the device.

Point by point the arithmetic is that of the CPU. Positions are taken as float64, whatever type they
come in. The host reads the corners of systems and whether points crowd.
"""

from math import inf
from typing import Any

import numpy as np

from fmm.tree.curve import (
    CROWD,
    MAX_LEVELS,
    SortedPoints,
    bits_of,
    crowding,
    parting,
    roots,
    upper,
)
from fmm.tree.morton import N_DEEP, WORD, cells, deep_key_of, key_of
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import (
    DIGITS,
    INDEX,
    Digits,
    argsort,
    blocks_for,
    chunks_of,
    clear,
    leading_bits,
    marked,
    settled,
    store,
    taken,
)
from multipoles.cuda.sorting import THREADS as BLOCK

DeviceArray = Any
"""An array of `numba.cuda` or of its simulator, which have no types."""
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
    kept = _sorted(space, named, root_grid, bits, width)
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


def _sorted(
    space: Space, kinds: list[tuple[DeviceArray, ...]], root_grid: int, bits: int, width: int
) -> list[tuple[DeviceArray, DeviceArray]]:
    """Return the permutation and the keys of each kind of points; waits for what crowds.

    Leading bits tell most points apart. If not, all bits of a word are sorted by, and more words
    where many points share one.
    """
    crowded = space.zeros((len(kinds),), np.int64)
    keys, found = [], []
    for number, kind in enumerate(kinds):
        n = kind[0].shape[0]
        leading = leading_bits(n)
        digits = Digits(space, n, min(leading, width))
        keys.append(space.empty((n,), np.int64))
        _encode()(
            space.stream, GEOMETRY, digits.blocks, BLOCK, *kind, root_grid, bits,
            max(width - leading, 0), digits.chunk, keys[-1], digits.numbers, digits.counts,
        )  # fmt: skip
        found.append(settled(space, keys[-1], digits, CROWD, crowded[number : number + 1]))
    many = space.download(crowded)
    if many.any():
        for number in np.flatnonzero(many).tolist():
            found[number] = argsort(space, keys[number], width)
        if _are_crowded(space, [kind[0] for kind in kinds], found):
            return [
                _sorted_deeply(space, x, first, inverse, own, width)
                for (x, first, _, inverse), own in zip(kinds, keys, strict=True)
            ]
    return [(permutation, own.reshape(1, own.shape[0])) for permutation, own in found]


def _are_crowded(
    space: Space, points: list[DeviceArray], found: list[tuple[DeviceArray, DeviceArray]]
) -> bool:
    """Return whether many points share a key and are not all the same; waits for it."""
    crowded = space.zeros((1,), np.int64)
    for x, (permutation, keys) in zip(points, found, strict=True):
        launch(space, _look_for_crowds(), max(x.shape[0] - 1, 0), x, permutation, keys, crowded)
    return bool(space.download(crowded)[0])


def _sorted_deeply(
    space: Space,
    points: DeviceArray,
    starts: DeviceArray,
    inverse: DeviceArray,
    keys: DeviceArray,
    width: int,
) -> tuple[DeviceArray, DeviceArray]:
    """Return the permutation by all words, of which `keys` is the first, and these permuted."""
    n = points.shape[0]
    words = space.empty((1 + N_DEEP, n), np.int64)
    permutation = None
    for word in range(N_DEEP, -1, -1):
        values = keys
        if word > 0:
            values = space.empty((n,), np.int64)
            launch(space, _encode_deep(), n, points, starts, inverse, word, values)
        launch(space, copying(), n, values, words[word])
        sent = values if permutation is None else taken(space, values, permutation)
        after, _ = argsort(space, sent, 3 * WORD if word > 0 else width)
        permutation = after if permutation is None else taken(space, permutation, after)
    for word in range(1 + N_DEEP):
        launch(space, copying(), n, taken(space, words[word], permutation), words[word])
    return permutation, words


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
def _encode():
    def loop(
        points, starts, corner, inverse, root_grid, bits, dropped, chunk, keys, numbers, counts
    ):
        """Write the keys of a chunk of points, and the leading bits of each to sort by."""
        shared = cuda.shared.array(DIGITS, np.int32)
        clear(shared)
        first = cuda.blockIdx.x * chunk
        for i in range(first + cuda.threadIdx.x, min(first + chunk, points.shape[0]), BLOCK):
            system = upper(starts, 0, starts.shape[0], i) - 1
            key = key_of(points, i, system, corner, inverse, root_grid, bits)
            keys[i] = key
            leading = key >> dropped
            numbers[i] = leading << INDEX | i
            cuda.atomic.add(shared, leading & (DIGITS - 1), 1)
        store(shared, counts)

    return loop


@kernels
def _encode_deep():
    def loop(points, starts, inverse, word, keys):
        i = cuda.grid(1)
        if i < points.shape[0]:
            system = upper(starts, 0, starts.shape[0], i) - 1
            keys[i] = deep_key_of(points, i, system, inverse, word)

    return loop


@kernels
def _look_for_crowds():
    def loop(points, permutation, keys, crowded):
        """Look at a point and the next: whether they differ and share a key with many others."""
        i = cuda.grid(1)
        n = keys.shape[0]
        if i >= n - 1 or keys[i] != keys[i + 1]:
            return
        a, b = permutation[i], permutation[i + 1]
        differ = False
        for axis in range(3):
            differ = differ or points[a, axis] != points[b, axis]
        if differ and upper(keys, i, n, keys[i]) - upper(keys, 0, i, keys[i] - 1) > CROWD:
            crowded[0] = 1

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
