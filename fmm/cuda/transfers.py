"""Multipole-to-local pairs of a tree on the GPU, and the colleagues of boxes: as `fmm.tree.lists`.

A few threads share a box, each looks at some of the 27 boxes that touch its parent. These are found
by climbing to the first box that holds both and going down again, so that no level waits for the
one above. A target has at most one pair of each code: where it goes among those of the code follows
from how many targets before have one, which chunks of boxes count, and masks within a chunk.
"""

from itertools import pairwise

import numpy as np

from fmm.cuda.build import DeviceTree
from fmm.cuda.curve import GEOMETRY, DeviceArray
from fmm.tree.curve import upper
from fmm.tree.lists import IS_ADJACENT, N_CODES, POINTS
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.blocks import THREADS as BLOCK
from multipoles.cuda.blocks import blocks_for, scanned
from multipoles.cuda.device import Space

# threads that share a box, and boxes whose pairs are put in order together: a bit of a mask each
_TEAM = 2 if SIMULATED else 32
_TEAMS = BLOCK // _TEAM
_TILE = 32
# most chunks of boxes, but for what is left of each level
_MOST = 3 if SIMULATED else 4096
# blocks that sum over the chunks, a code each
_SCANS = 2 if SIMULATED else N_CODES
_NEAR = 27

NEAR, M2P, P2L, SINGLE, CLOSE, LEAVES, N_NUMBERS = range(7)
"""What is counted of a tree: pairs of three kinds, points that meet expansions, pairs of points
summed directly, leaves."""


class Counts:
    """What lists are counted into, zero at first.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    n_levels : int
        Of the tree.

    Attributes
    ----------
    numbers : device array of int64, shape (N_NUMBERS + n_levels + N_CODES,)
        Of `N_NUMBERS` kinds, of translations of each level, and of pairs of each code.
    weights : device array of int64, shape (n_levels, N_CODES)
        Pairs of points per level and code.
    """

    def __init__(self, space: Space, n_levels: int) -> None:
        self._space, self._n, self._shape = space, N_NUMBERS + n_levels + N_CODES, (-1, N_CODES)
        self._whole = space.zeros((self._n + n_levels * N_CODES,), np.int64)
        self.numbers = self._whole[: self._n]
        self.weights = self._whole[self._n :].reshape(self._shape)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both on the host; waits for them."""
        whole = self._space.download(self._whole)
        return whole[: self._n], whole[self._n :].reshape(self._shape)


class Transfers:
    """Pairs of a tree, counted first and written then.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    tree : DeviceTree
        On the device.
    counts : Counts
        Into which pairs are counted.

    Attributes
    ----------
    colleagues : device array of int32, shape (n_boxes, 27)
        Adjacent boxes of one size, ascending, then -1.
    """

    def __init__(self, space: Space, tree: DeviceTree, counts: Counts) -> None:
        self.space, self.tree = space, tree
        n = tree.parent.shape[0]
        self.colleagues = space.empty((n, _NEAR), np.int32)
        table = _chunks(tree.level_starts)
        self._chunks = space.upload(table)
        self._counts = space.empty((N_CODES, len(table)), np.int32)
        self._boxes = (
            self._chunks, tree.starts, tree.system, tree.parent, tree.first_child,
            tree.n_children, tree.cell, tree.n_targets, tree.n_sources,
        )  # fmt: skip
        self._grid = space.stream, GEOMETRY, len(table), BLOCK
        _count()(
            *self._grid, *self._boxes, tree.anchor, tree.octants, self.colleagues, self._counts,
            counts.numbers, counts.weights,
        )  # fmt: skip

    def pairs(self, numbers: np.ndarray) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """Return where the pairs of each code start, their targets and their sources.

        `numbers` is what was counted, on the host.
        """
        space = self.space
        starts = np.append(0, np.cumsum(numbers[-N_CODES:]))
        n_pairs = int(starts[-1])
        check_pairs(n_pairs)
        targets, sources = (space.empty((n_pairs,), np.int32) for _ in range(2))
        there = space.upload(starts)
        if n_pairs > 0:
            _begin()(space.stream, GEOMETRY, _SCANS, BLOCK, there, self._counts)
            _write()(*self._grid, *self._boxes, self.colleagues, self._counts, targets, sources)
        return there, targets, sources


def check_pairs(n_pairs: int) -> None:
    """Refuse more translations than are counted in 32 bits, see `fmm.cuda.driver`."""
    if n_pairs >= 2**31:
        raise ValueError(
            f"expected a tree of fewer than 2^31 multipole-to-local translations, got {n_pairs}: "
            "give a larger leaf_size"
        )


def _chunks(level_starts: np.ndarray) -> np.ndarray:
    """Return first box, end and level of chunks of boxes, int64, shape (n, 3)."""
    size = _TILE * max(blocks_for(blocks_for(int(level_starts[-1]), _MOST), _TILE), 1)
    rows = [
        (begin, min(begin + size, int(last)), level)
        for level, (first, last) in enumerate(pairwise(level_starts))
        for begin in range(int(first), int(last), size)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


# --- boxes that touch -----------------------------------------------------------------------------


@device
def _is_at(anchor, box, x, y, z):
    return anchor[box, 0] == x and anchor[box, 1] == y and anchor[box, 2] == z


@device
def _touching(anchor, system, parent, first_child, octants, n_roots, box, k):
    """Return the k-th of the 27 boxes of one size around a box, -1 if it is not there."""
    x, y, z = (
        anchor[box, 0] + k // 9 - 1,
        anchor[box, 1] + k // 3 % 3 - 1,
        anchor[box, 2] + k % 3 - 1,
    )
    up = 0
    while parent[box] >= 0 and not _is_at(anchor, box, x >> up, y >> up, z >> up):
        box = parent[box]
        up += 1
    if parent[box] < 0:
        own = system[box]
        last = upper(system, 0, n_roots, own)
        box = upper(system, 0, n_roots, own - 1)
        while box < last and not _is_at(anchor, box, x >> up, y >> up, z >> up):
            box += 1
        if box == last:
            return np.int64(-1)
    while up > 0:
        up -= 1
        octant = (x >> up & 1) << 2 | (y >> up & 1) << 1 | z >> up & 1
        mask = octants[box]
        if mask >> octant & 1 == 0:
            return np.int64(-1)
        box = first_child[box] + cuda.popc(np.uint32(mask & ((1 << octant) - 1)))
    return np.int64(box)


@kernels
def _count():
    def loop(
        chunks, starts, system, parent, first_child, n_children, cell, n_targets, n_sources, anchor,
        octants, colleagues, counts, numbers, weights,
    ):  # fmt: skip
        """Find the colleagues of the boxes of a chunk, and count their pairs by codes."""
        pairs = cuda.shared.array(N_CODES, np.int32)
        points = cuda.shared.array(N_CODES, np.int64)
        found = cuda.shared.array((_TEAMS, _NEAR), np.int32)
        n_found = cuda.shared.array(_TEAMS, np.int32)
        thread, chunk = cuda.threadIdx.x, cuda.blockIdx.x
        team, lane = thread // _TEAM, thread % _TEAM
        level, n_roots = chunks[chunk, 2], starts[1]
        for code in range(thread, N_CODES, BLOCK):
            pairs[code] = 0
            points[code] = 0
        for begin in range(chunks[chunk, 0], chunks[chunk, 1], _TEAMS):
            box = begin + team
            if lane == 0:
                n_found[team] = 0
            cuda.syncthreads()
            if box < chunks[chunk, 1]:
                for k in range(lane, _NEAR, _TEAM):
                    first, last = np.int64(0), np.int64(0)
                    if level > 0:
                        near = _touching(
                            anchor, system, parent, first_child, octants, n_roots, parent[box], k
                        )
                        if near >= 0:
                            first = np.int64(first_child[near])
                            last = first + n_children[near]
                    else:
                        first, last = _share_of_roots(system, n_roots, box, k)
                    for other in range(first, last):
                        code = cell[box] + POINTS - cell[other]
                        if IS_ADJACENT[code]:
                            place = cuda.atomic.add(n_found, team, 1)
                            found[team, place] = other
                        elif n_targets[box] > 0 and n_sources[other] > 0:
                            cuda.atomic.add(pairs, code, 1)
                            held = np.int64(n_targets[box]) * n_sources[other]
                            cuda.atomic.add(points, code, held)
            cuda.syncthreads()
            if box < chunks[chunk, 1]:
                for k in range(lane, _NEAR, _TEAM):
                    if k >= n_found[team]:
                        colleagues[box, k] = -1
                        continue
                    place = 0
                    for other in range(n_found[team]):
                        place += 1 if found[team, other] < found[team, k] else 0
                    colleagues[box, place] = found[team, k]
            cuda.syncthreads()
        for code in range(thread, N_CODES, BLOCK):
            counts[code, chunk] = pairs[code]
            if pairs[code] > 0:
                cuda.atomic.add(numbers, N_NUMBERS + level, pairs[code])
                cuda.atomic.add(numbers, numbers.shape[0] - N_CODES + code, pairs[code])
                cuda.atomic.add(weights, (level, code), points[code])

    return loop


@device
def _share_of_roots(system, n_roots, box, k):
    """Return the k-th of 27 parts of the root boxes of a box's system."""
    own = system[box]
    first, last = upper(system, 0, n_roots, own - 1), upper(system, 0, n_roots, own)
    n = last - first
    return first + n * k // _NEAR, first + n * (k + 1) // _NEAR


# --- pairs in order -------------------------------------------------------------------------------


@kernels
def _begin():
    def loop(starts, counts):
        """Replace the pairs of a code in each chunk by where the first of them goes."""
        shared = cuda.shared.array(BLOCK, np.int64)
        thread, n = cuda.threadIdx.x, counts.shape[1]
        for code in range(cuda.blockIdx.x, N_CODES, cuda.gridDim.x):
            before = starts[code]
            if before == starts[code + 1]:
                continue
            for begin in range(0, n, BLOCK):
                chunk = begin + thread
                count = np.int64(counts[code, chunk]) if chunk < n else np.int64(0)
                inside, whole = scanned(shared, count)
                if chunk < n:
                    counts[code, chunk] = before + inside
                before += whole

    return loop


@kernels
def _write():
    def loop(
        chunks, starts, system, parent, first_child, n_children, cell, n_targets, n_sources,
        colleagues, counts, targets, sources,
    ):  # fmt: skip
        """Write the pairs of a chunk: boxes of a tile mark their codes, then know their places."""
        next_ = cuda.shared.array(N_CODES, np.int32)
        masks = cuda.shared.array(N_CODES, np.uint32)
        thread, chunk = cuda.threadIdx.x, cuda.blockIdx.x
        team, lane = thread // _TEAM, thread % _TEAM
        last_box, n_roots = chunks[chunk, 1], starts[1]
        for code in range(thread, N_CODES, BLOCK):
            next_[code] = counts[code, chunk]
            masks[code] = 0
        cuda.syncthreads()
        for begin in range(chunks[chunk, 0], last_box, _TILE):
            for writing in range(2):
                for box in range(begin + team, min(begin + _TILE, last_box), _TEAMS):
                    if n_targets[box] == 0:
                        continue
                    bit = np.uint32(1 << (box - begin))
                    for k in range(lane, _NEAR, _TEAM):
                        first, last = np.int64(0), np.int64(0)
                        if parent[box] < 0:
                            first, last = _share_of_roots(system, n_roots, box, k)
                        elif colleagues[parent[box], k] >= 0:
                            near = colleagues[parent[box], k]
                            first = np.int64(first_child[near])
                            last = first + n_children[near]
                        for other in range(first, last):
                            code = cell[box] + POINTS - cell[other]
                            if IS_ADJACENT[code] or n_sources[other] == 0:
                                continue
                            if writing == 0:
                                cuda.atomic.or_(masks, code, bit)
                                continue
                            lower = masks[code] & np.uint32(bit - np.uint32(1))
                            place = next_[code] + cuda.popc(lower)
                            targets[place] = box
                            sources[place] = other
                cuda.syncthreads()
            for code in range(thread, N_CODES, BLOCK):
                next_[code] += cuda.popc(masks[code])
                masks[code] = 0
            cuda.syncthreads()

    return loop
