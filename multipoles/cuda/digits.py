"""Sorting by the digits of numbers on the GPU: the same result on every run.

Each block places the numbers of its chunk: it knows from the counts of all chunks where those with
each digit begin, and numbers of a tile of it count each other by masks.
"""

from typing import Any

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.blocks import INTEGERS, THREADS, blocks_for, chunks_of, scanned
from multipoles.cuda.device import Space

# items that a block places at once, and the bits of a mask of them
_LANES = 32
_TILE = 64 if SIMULATED else 512
_GROUPS = _TILE // _LANES
_BITS = 8
DIGITS = 1 << _BITS
_SHARE = DIGITS // THREADS
INDEX = 31
"""Bits of an index; above them is what is sorted by, of at most `HALF` bits."""
HALF = 32


class Digits:
    """Numbers on their way to be sorted, by eight bits at a time from the lowest on.

    A number holds what it is sorted by, and its index in the `INDEX` bits below. Whoever makes the
    numbers counts their lowest digits, chunk by chunk: see `clear` and `store`.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    n : int
        Numbers, fewer than 2^31.
    bits : int
        Bits that are sorted by, at most 32.

    Attributes
    ----------
    blocks, chunk : int
        Chunks, and the numbers of each but the last.
    numbers : device array of int64, shape (n,)
    counts : device array of int32, shape (blocks * DIGITS,)
        Of every chunk, how many numbers have each lowest digit.
    """

    def __init__(self, space: Space, n: int, bits: int) -> None:
        if n >= 1 << INDEX:
            raise ValueError(f"expected fewer than 2^31 numbers to sort on a GPU, got {n}")
        self.space, self.passes = space, blocks_for(bits, _BITS)
        self.blocks, self.chunk = chunks_of(n)
        self.numbers = space.empty((n,), np.int64)
        self.counts = space.empty((self.blocks * DIGITS,), np.int32)

    def sorted(self) -> Any:
        """Return the numbers sorted: a launch that moves them for each digit, one between two."""
        space, numbers = self.space, self.numbers
        there = space.empty(numbers.shape, np.int64)
        for digit in range(self.passes):
            shift = INDEX + _BITS * digit
            grid = space.stream, INTEGERS, self.blocks, THREADS
            if digit > 0:
                _count_digits()(*grid, numbers, shift, self.chunk, self.counts)
            _scatter()(*grid, numbers, shift, self.chunk, self.counts, there)
            numbers, there = there, numbers
        return numbers


@device
def clear(counts):
    """Set the counts of all digits, shared by a block, to zero."""
    for digit in range(cuda.threadIdx.x, DIGITS, THREADS):
        counts[digit] = 0
    cuda.syncthreads()


@device
def store(shared, counts):
    """Write the counts of the block's chunk."""
    cuda.syncthreads()
    for digit in range(cuda.threadIdx.x, DIGITS, THREADS):
        counts[cuda.blockIdx.x * DIGITS + digit] = shared[digit]


@kernels
def _count_digits():
    def loop(numbers, shift, chunk, counts):
        shared = cuda.shared.array(DIGITS, np.int32)
        clear(shared)
        first = cuda.blockIdx.x * chunk
        for i in range(first + cuda.threadIdx.x, min(first + chunk, numbers.shape[0]), THREADS):
            cuda.atomic.add(shared, numbers[i] >> shift & (DIGITS - 1), 1)
        store(shared, counts)

    return loop


@device
def _begin(counts, shared, next_):
    """Write where the numbers of the block's chunk with each digit go.

    After all with lower digits, and those of the same digit in the chunks before.
    """
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    mine = 0
    for digit in range(thread * _SHARE, (thread + 1) * _SHARE):
        whole = 0
        before = 0
        for other in range(cuda.gridDim.x):
            if other == block:
                before = whole
            whole += counts[other * DIGITS + digit]
        next_[digit] = mine + before
        mine += whole
    lower, _ = scanned(shared, mine)
    for digit in range(thread * _SHARE, (thread + 1) * _SHARE):
        next_[digit] += lower


@kernels
def _scatter():
    def loop(numbers, shift, chunk, counts, out):
        """Move each number to its place: those of one digit stay in order.

        Numbers of a tile are counted by masks: a bit for each of 32 that follow one another.
        """
        shared = cuda.shared.array(THREADS, np.int64)
        next_ = cuda.shared.array(DIGITS, np.int32)
        masks = cuda.shared.array((_GROUPS, DIGITS), np.uint32)
        places = cuda.shared.array((_GROUPS, DIGITS), np.int32)
        thread = cuda.threadIdx.x
        _begin(counts, shared, next_)
        first = cuda.blockIdx.x * chunk
        last = min(first + chunk, numbers.shape[0])
        for begin in range(first, last, _TILE):
            end = min(begin + _TILE, last)
            for digit in range(thread, DIGITS, THREADS):
                for group in range(_GROUPS):
                    masks[group, digit] = 0
            cuda.syncthreads()
            for i in range(begin + thread, end, THREADS):
                own = (i - begin) // _LANES, numbers[i] >> shift & (DIGITS - 1)
                cuda.atomic.or_(masks, own, np.uint32(1 << (i - begin) % _LANES))
            cuda.syncthreads()
            for digit in range(thread, DIGITS, THREADS):
                place = next_[digit]
                for group in range(_GROUPS):
                    places[group, digit] = place
                    place += cuda.popc(masks[group, digit])
                next_[digit] = place
            cuda.syncthreads()
            for i in range(begin + thread, end, THREADS):
                group, digit = (i - begin) // _LANES, numbers[i] >> shift & (DIGITS - 1)
                lower = masks[group, digit] & np.uint32((1 << (i - begin) % _LANES) - 1)
                out[places[group, digit] + cuda.popc(lower)] = numbers[i]
            cuda.syncthreads()

    return loop


# --- keys that mostly differ in their leading bits ------------------------------------------------


def leading_bits(n: int) -> int:
    """Return by how many leading bits n keys are sorted that are spread about evenly.

    There are sixteen times as many values, so that few keys share theirs.
    """
    return min(_BITS * blocks_for(n.bit_length() + 4, _BITS), HALF)


def settled(space: Space, keys: Any, digits: Digits, most: int, crowded: Any) -> tuple[Any, Any]:
    """Return what `argsort` does, from numbers of leading bits that few keys share.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    keys : device array of int64, shape (n,)
    digits : Digits
        Numbers of their leading bits.
    most : int
        As many keys that agree in the leading bits are compared one by one.
    crowded : device array of int64, shape (1,)
        Becomes one if more than that do: then the result is of no use.

    Returns
    -------
    permutation, sorted_keys : device array of int64, shape (n,)
    """
    n = keys.shape[0]
    numbers = digits.sorted()
    order, sorted_keys = space.empty((n,), np.int64), space.empty((n,), np.int64)
    _settle()(
        space.stream, INTEGERS, blocks_for(n), THREADS, keys, numbers, most, order, sorted_keys,
        crowded,
    )  # fmt: skip
    return order, sorted_keys


@kernels
def _settle():
    def loop(keys, numbers, most, order, sorted_keys, crowded):
        """Move each key behind those that agree with it in the leading bits and are lower."""
        i, n = cuda.grid(1), keys.shape[0]
        if i >= n:
            return
        number = numbers[i]
        index = number & ((1 << INDEX) - 1)
        key = keys[index]
        place = i
        first, last = i - 1, i + 1
        # keys of one value keep their order, which is that of the numbers
        while first >= 0 and i - first <= most and numbers[first] >> INDEX == number >> INDEX:
            if keys[numbers[first] & ((1 << INDEX) - 1)] > key:
                place -= 1
            first -= 1
        while last < n and last - i <= most and numbers[last] >> INDEX == number >> INDEX:
            if keys[numbers[last] & ((1 << INDEX) - 1)] < key:
                place += 1
            last += 1
        if last - first - 1 > most:
            crowded[0] = 1
            return
        order[place] = index
        sorted_keys[place] = key

    return loop
