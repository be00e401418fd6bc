"""Boxes that receive multipole-to-local translations, as the columns of products on the GPU.

Boxes of one octant of their parents have the same translation codes. They lie side by side, so that
a product of a code's matrix with some of them has few empty columns, and their sums stay in
registers through all codes. The coarsest boxes, which have no parents, are a class of their own.
Made once for a tree; every place is counted by integers: the same on every run.
"""

from dataclasses import dataclass

import numpy as np

from fmm.cuda.curve import GEOMETRY, DeviceArray, launch
from fmm.tree.curve import upper
from fmm.tree.lists import N_CODES, REACH, shifts
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import argsort, blocks_for

# places that share marks; a class begins at a multiple
GROUP = 2 if SIMULATED else 32
# eight octants, and the coarsest boxes
CLASSES = 9
# along an axis, the children of a parent and its neighbours; the coarsest boxes are fewer
_ACROSS = 6
_SLOTS = _ACROSS**3
# threads that find places, and boxes of each
_THREADS, _ITEMS = (4, 2) if SIMULATED else (256, 4)
_CHUNK = _THREADS * _ITEMS
# the coarsest boxes of a system, along an axis
_ROOTS = REACH + 1


@dataclass(frozen=True)
class Columns:
    """Target boxes ``begin <= box < end`` in places by classes, and their sources.

    Attributes
    ----------
    begin, end : int
        The boxes.
    starts, counts : device array of int32, shape (CLASSES,)
        First place, and boxes, of each class.
    boxes, origins : device array of int32, shape (n_places,)
        Box at each place, -1 if none, and where it lies, as `slot_of` takes it.
    sources : device array of int32, shape (216 * n_places,)
        Row of the source in each slot of each place: a box's number and one, or zero.
    marks : device array of int32, shape (n_groups, n_candidates)
        Whether any of `GROUP` places has a source for each code of its class.
    """

    begin: int
    end: int
    starts: DeviceArray
    counts: DeviceArray
    boxes: DeviceArray
    origins: DeviceArray
    sources: DeviceArray
    marks: DeviceArray


def candidates_of_classes() -> tuple[np.ndarray, np.ndarray]:
    """Return code, matrix and reflection that a class may have, and where classes start.

    Matrices are numbered as in `reflected_shifts`. Codes whose sources are of one octant follow
    each other: these are the same boxes, which a multiprocessor then has at hand.
    """
    reflected = {shift: i for i, shift in enumerate(reflected_shifts())}
    rows: list[tuple[int, int, int]] = []
    starts = [0]
    for kind in range(CLASSES):
        octant = np.array([kind >> 2 & 1, kind >> 1 & 1, kind & 1])
        found = []
        for code, shift in enumerate(shifts()):
            source = octant + 2 - shift
            possible = kind == CLASSES - 1 or np.all((source >= 0) & (source < _ACROSS))
            if np.abs(shift).max() > 1 and possible:
                reflection = int((shift < 0) @ (4, 2, 1))
                parity = int(shift % 2 @ (4, 2, 1))
                matrix = reflected[tuple(np.abs(shift).tolist())]
                found.append((parity, reflection, matrix, code))
        rows += [(code, matrix, reflection) for _, reflection, matrix, code in sorted(found)]
        starts.append(len(rows))
    return np.array(rows, np.int32), np.array(starts, np.int32)


def reflected_shifts() -> list[tuple[int, int, int]]:
    """Return the shifts with components >= 0 that translations have; others are reflections."""
    kept = shifts()[(shifts() >= 0).all(axis=1) & (np.abs(shifts()).max(axis=1) > 1)]
    return [(int(x), int(y), int(z)) for x, y, z in kept]


def candidates(space: Space) -> tuple[DeviceArray, DeviceArray]:
    """Return `candidates_of_classes` on the device, flat."""
    return (
        space.constant("candidates", lambda: candidates_of_classes()[0].reshape(-1)),
        space.constant("candidate starts", lambda: candidates_of_classes()[1]),
    )


MOST_CANDIDATES = (2 * REACH + 1) ** 3 - 27
"""Codes of the class that has most."""


def make_columns(
    space: Space,
    begin: int,
    end: int,
    n_roots: int,
    anchor: DeviceArray,
    pairs: tuple[DeviceArray, DeviceArray, DeviceArray],
) -> Columns:
    """Return some target boxes as columns; nothing waits.

    Parameters
    ----------
    begin, end : int
        The boxes, whole levels.
    n_roots : int
        Boxes of the coarsest level.
    anchor : device array of int64, shape (n_boxes, 3)
    pairs : tuple of device array
        `Lists.m2l_starts`, `Lists.m2l_targets` and `Lists.m2l_sources`.
    """
    n = end - begin
    n_groups = -(-n // GROUP) + CLASSES
    n_places = n_groups * GROUP
    starts, counts = space.empty((CLASSES,), np.int32), space.empty((CLASSES,), np.int32)
    boxes, origins = (space.zeros((n_places,), np.int32) for _ in range(2))
    places = space.empty((n,), np.int32)
    order = _order_of_roots(space, begin, n_roots, anchor)
    blocks = blocks_for(n, _CHUNK)
    of_blocks = space.empty((blocks, CLASSES), np.int32)
    flat = anchor.reshape(-1)
    of_boxes = begin, n, n_roots, flat, order
    stream = space.stream
    _count()(stream, GEOMETRY, blocks, _THREADS, *of_boxes, of_blocks)
    _place()(
        stream, GEOMETRY, blocks, _THREADS, *of_boxes, of_blocks, starts, counts, boxes, origins,
        places,
    )  # fmt: skip
    sources = space.zeros((_SLOTS * n_places,), np.int32)
    launch(space, _fill(), pairs[1].shape[0], begin, *pairs, places, origins, sources)
    marks = space.empty((n_groups, MOST_CANDIDATES), np.int32)
    _mark()(
        stream, GEOMETRY, n_groups, _THREADS, starts, counts, origins, sources, *candidates(space),
        marks,
    )  # fmt: skip
    return Columns(begin, end, starts, counts, boxes, origins, sources, marks)


def _order_of_roots(space: Space, begin: int, n_roots: int, anchor: DeviceArray) -> DeviceArray:
    """Return the coarsest boxes of many systems by where they lie; nothing for few boxes.

    Boxes at one place have the same codes.
    """
    if begin > 0 or n_roots <= _ROOTS**3:
        return space.empty((0,), np.int64)
    keys = space.empty((n_roots,), np.int64)
    launch(space, _name_roots(), n_roots, anchor.reshape(-1), keys)
    return argsort(space, keys, (_ROOTS**3 - 1).bit_length())[0]


# --- for kernels ----------------------------------------------------------------------------------


@device
def slot_of(origin, shift):
    """Return the slot of the source of a box at a shift, -1 if no source can lie there.

    `origin` and `shift` hold three components, each in a byte and more than nothing: for the
    octant of a box, or where it lies among the coarsest, six (or four) more, for target minus
    source anchor `REACH` more.
    """
    x = (origin & 255) - (shift & 255)
    y = ((origin >> 8) & 255) - ((shift >> 8) & 255)
    z = (origin >> 16) - (shift >> 16)
    low, high = min(x, y, z), max(x, y, z)
    return (x * _ACROSS + y) * _ACROSS + z if low >= 0 and high < _ACROSS else -1


@device
def packed_shift(code):
    """Return the shift of a code as `slot_of` takes it."""
    return code // 81 + (code // 9 % 9 << 8) + (code % 9 << 16)


@device
def _class_of(box, n_roots, anchor):
    if box < n_roots:
        return 8
    return 4 * (anchor[3 * box] & 1) + 2 * (anchor[3 * box + 1] & 1) + (anchor[3 * box + 2] & 1)


@device
def _box_at(i, begin, order):
    return order[i] if i < order.shape[0] else begin + i


@kernels
def _name_roots():
    def loop(anchor, keys):
        i = cuda.grid(1)
        if i < keys.shape[0]:
            keys[i] = (anchor[3 * i] * _ROOTS + anchor[3 * i + 1]) * _ROOTS + anchor[3 * i + 2]

    return loop


@kernels
def _count():
    def loop(begin, n, n_roots, anchor, order, of_blocks):
        """Count the boxes of each class in a chunk."""
        counts = cuda.shared.array((CLASSES, _THREADS), np.int32)
        thread = cuda.threadIdx.x
        first = cuda.blockIdx.x * _CHUNK + thread * _ITEMS
        for kind in range(CLASSES):
            counts[kind, thread] = 0
        for i in range(first, min(first + _ITEMS, n)):
            counts[_class_of(_box_at(i, begin, order), n_roots, anchor), thread] += 1
        cuda.syncthreads()
        if thread == 0:
            for kind in range(CLASSES):
                total = 0
                for other in range(_THREADS):
                    total += counts[kind, other]
                of_blocks[cuda.blockIdx.x, kind] = total

    return loop


@kernels
def _place():
    def loop(
        begin, n, n_roots, anchor, order, of_blocks, starts, counts, boxes, origins, places
    ):
        """Give the boxes of a chunk places behind those of the same class before them."""
        own = cuda.shared.array((CLASSES, _THREADS), np.int32)
        before = cuda.shared.array((2, CLASSES), np.int32)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        first = block * _CHUNK + thread * _ITEMS
        for kind in range(CLASSES):
            own[kind, thread] = 0
        for i in range(first, min(first + _ITEMS, n)):
            own[_class_of(_box_at(i, begin, order), n_roots, anchor), thread] += 1
        for kind in range(thread, CLASSES, _THREADS):
            total = 0
            for other in range(of_blocks.shape[0]):
                if other == block:
                    before[0, kind] = total
                total += of_blocks[other, kind]
            before[1, kind] = total
        cuda.syncthreads()
        for kind in range(thread, CLASSES, _THREADS):
            start = 0
            for other in range(kind):
                start += (before[1, other] + GROUP - 1) // GROUP * GROUP
            if block == 0:
                starts[kind] = start
                counts[kind] = before[1, kind]
            place = start + before[0, kind]
            for other in range(_THREADS):
                here = own[kind, other]
                own[kind, other] = place
                place += here
        cuda.syncthreads()
        for i in range(first, min(first + _ITEMS, n)):
            box = _box_at(i, begin, order)
            kind = _class_of(box, n_roots, anchor)
            place = own[kind, thread]
            own[kind, thread] = place + 1
            boxes[place] = box
            places[box - begin] = place
            origin = 0
            for axis in range(3):
                along = anchor[3 * box + axis]
                origin += (along + REACH if kind == 8 else (along & 1) + 6) << (8 * axis)
            origins[place] = origin

    return loop


@kernels
def _fill():
    def loop(begin, pair_starts, targets, pair_sources, places, origins, sources):
        """Write the source of every pair where its target looks for it."""
        pair = cuda.grid(1)
        if pair >= targets.shape[0]:
            return
        box = targets[pair] - begin
        if 0 <= box and box < places.shape[0]:
            code = upper(pair_starts, 0, N_CODES + 1, pair) - 1
            place = places[box]
            slot = slot_of(origins[place], packed_shift(code))
            sources[slot * origins.shape[0] + place] = pair_sources[pair] + 1

    return loop


@kernels
def _mark():
    def loop(starts, counts, origins, sources, candidates, candidate_starts, marks):
        """Mark the codes for which a place of a group has a source."""
        first = cuda.blockIdx.x * GROUP
        kind = 0
        while kind < CLASSES - 1 and first >= starts[kind + 1]:
            kind += 1
        last = min(first + GROUP, starts[kind] + counts[kind])
        begin, end = candidate_starts[kind], candidate_starts[kind + 1]
        for i in range(begin + cuda.threadIdx.x, end, _THREADS):
            shift, found = packed_shift(candidates[3 * i]), 0
            for place in range(first, last):
                slot = slot_of(origins[place], shift)
                if slot >= 0 and sources[slot * origins.shape[0] + place] > 0:
                    found = 1
            marks[cuda.blockIdx.x, i - begin] = found

    return loop
