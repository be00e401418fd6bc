"""Running sums and sorting on the GPU, by integers only: the same result on every run.

An array is cut into chunks, a block each, few enough that every block adds up itself what those
before it counted: no block ever waits for another, and a launch is the only barrier.
"""

from typing import Any

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.library import sorter

# the simulator makes a Python thread of each
THREADS = 4 if SIMULATED else 256
INTEGERS = np.dtype(np.float64)  # kernels without real numbers are compiled once
# items that a block places at once, and the bits of a mask of them
_LANES = 32
_TILE = 64 if SIMULATED else 512
_GROUPS = _TILE // _LANES
# least items of a chunk, and most chunks: each block reads the counts of all
_LEAST, _MOST = (64, 3) if SIMULATED else (2048, 264)
_BITS = 8
DIGITS = 1 << _BITS
_SHARE = DIGITS // THREADS
INDEX = 31
"""Bits of an index; above them is what is sorted by, of at most 32 bits."""
_HALF = 32


def blocks_for(n: int, per_block: int = THREADS) -> int:
    """Return how many blocks it takes for n items."""
    return -(-n // per_block)


def chunks_of(n: int, least: int = _LEAST, more: int = 1) -> tuple[int, int]:
    """Return how many chunks n items are cut into, and the items of each but the last.

    That is a multiple of `least`; there are at most `more` times as many chunks as usual.
    """
    size = least * max(blocks_for(blocks_for(n, more * _MOST), least), 1)
    return blocks_for(n, size), size


# --- running sums ---------------------------------------------------------------------------------


@device
def scanned(shared, value):
    """Return the sum of the values of the threads before this one in its block, and of all.

    All `THREADS` threads of a block take part; `shared` holds an int64 for each of them.
    """
    thread = cuda.threadIdx.x
    shared[thread] = value
    cuda.syncthreads()
    step = 1
    while step < THREADS:
        before = shared[thread - step] if thread >= step else 0
        cuda.syncthreads()
        shared[thread] += before
        cuda.syncthreads()
        step *= 2
    before, whole = shared[thread] - value, shared[THREADS - 1]
    cuda.syncthreads()
    return before, whole


@device
def summed(shared, values, first, last):
    """Return the sum of values[first:last], for all threads of a block together."""
    part = 0
    for i in range(first + cuda.threadIdx.x, last, THREADS):
        part += values[i]
    return scanned(shared, part)[1]


@device
def add_up(shared, parts, sums, whole):
    """Write the sums over a block of several counts of each thread, and add them to those of all.

    Column `blockIdx.x` of `sums` gets the first of them, as many as it has rows.
    """
    for kind in range(parts.shape[0]):
        _, found = scanned(shared, parts[kind])
        if cuda.threadIdx.x == 0:
            if kind < sums.shape[0]:
                sums[kind, cuda.blockIdx.x] = found
            cuda.atomic.add(whole, kind, found)


def running_sum(space: Space, counts: Any) -> Any:
    """Return the sums of all entries before each one, and of all.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    counts : device array of int64, shape (n,)

    Returns
    -------
    device array of int64, shape (n + 1,)
    """
    n = counts.shape[0]
    if n == 0:
        return space.zeros((1,), np.int64)
    out = space.empty((n + 1,), np.int64)
    blocks, chunk = chunks_of(n)
    sums = space.empty((blocks,), np.int64)
    if blocks > 1:
        _sum_chunks()(space.stream, INTEGERS, blocks, THREADS, counts, chunk, sums)
    _scan_chunks()(space.stream, INTEGERS, blocks, THREADS, counts, chunk, sums, out)
    return out


@kernels
def _sum_chunks():
    def loop(counts, chunk, sums):
        shared = cuda.shared.array(THREADS, np.int64)
        block = cuda.blockIdx.x
        first = block * chunk
        whole = summed(shared, counts, first, min(first + chunk, counts.shape[0]))
        if cuda.threadIdx.x == 0:
            sums[block] = whole

    return loop


@kernels
def _scan_chunks():
    def loop(counts, chunk, sums, out):
        """Write the running sums of a chunk, one place later."""
        shared = cuda.shared.array(THREADS, np.int64)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        before = summed(shared, sums, 0, block)
        first = block * chunk
        last = min(first + chunk, counts.shape[0])
        for begin in range(first, last, THREADS):
            i = begin + thread
            count = counts[i] if i < last else 0
            inside, whole = scanned(shared, count)
            if i < last:
                out[i + 1] = before + inside + count
            before += whole
        if block == 0 and thread == 0:
            out[0] = 0

    return loop


def total(space: Space, sums: Any) -> int:
    """Return the last of running sums; waits for it."""
    last = sums.shape[0] - 1
    return int(space.download(sums[last : last + 1])[0])


def marked(space: Space, marks: Any) -> Any:
    """Return the places of marks that are one, ascending, int64; waits for their number."""
    n = marks.shape[0]
    places = running_sum(space, marks)
    out = space.empty((total(space, places),), np.int64)
    _places_of_marks()(space.stream, INTEGERS, blocks_for(n), THREADS, places, out)
    return out


@kernels
def _places_of_marks():
    def loop(places, out):
        i = cuda.grid(1)
        if i < places.shape[0] - 1 and places[i] < places[i + 1]:
            out[places[i]] = i

    return loop


def count_up(space: Space, n: int) -> Any:
    """Return 0 ... n - 1, int64."""
    out = space.empty((n,), np.int64)
    _count_up()(space.stream, INTEGERS, blocks_for(n), THREADS, out)
    return out


@kernels
def _count_up():
    def loop(out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = i

    return loop


def taken(space: Space, values: Any, permutation: Any, dtype: Any = None) -> Any:
    """Return numbers in the order of a permutation, of their own type or another."""
    out = space.empty(permutation.shape, dtype or values.dtype)
    kind = INTEGERS if values.dtype.kind == "i" else np.result_type(values.dtype, out.dtype)
    _take()(space.stream, kind, blocks_for(permutation.shape[0]), THREADS, values, permutation, out)
    return out


@kernels
def _take():
    def loop(values, permutation, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = values[permutation[i]]

    return loop


@device
def first_not_below(values, bound):
    """Return the first place of sorted values that is not below a bound."""
    first, last = 0, values.shape[0]
    while first < last:
        middle = (first + last) // 2
        if values[middle] < bound:
            first = middle + 1
        else:
            last = middle
    return first


def row_starts(space: Space, rows: Any, n: int) -> Any:
    """Return where each of n rows starts among sorted row numbers, and where the last ends."""
    out = space.empty((n + 1,), np.int64)
    _row_starts()(space.stream, INTEGERS, blocks_for(n + 1), THREADS, rows, out)
    return out


@kernels
def _row_starts():
    def loop(rows, starts):
        i = cuda.grid(1)
        if i < starts.shape[0]:
            starts[i] = first_not_below(rows, i)

    return loop


# --- sorting --------------------------------------------------------------------------------------


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


def argsort(space: Space, keys: Any, bits: int = 63) -> tuple[Any, Any]:
    """Return the stable permutation that sorts keys, and the sorted keys.

    Parameters
    ----------
    space : Space
        Where the arrays are. If the library that owns them sorts, it is asked to.
    keys : device array of int64, shape (n,)
        Not negative.
    bits : int
        Bits that may be set; each eight cost two launches.

    Returns
    -------
    permutation : device array of int64, shape (n,)
    sorted_keys : device array of int64, shape (n,)

    Raises
    ------
    ValueError
        If there are 2^31 keys or more, and no library sorts them.
    """
    n = keys.shape[0]
    order, sorted_keys = space.empty((n,), np.int64), space.empty((n,), np.int64)
    if n > 0 and (by_library := sorter(space)) is not None:
        by_library(keys, sorted_keys, order)
        return order, sorted_keys
    numbers = None
    for low in range(0, max(bits, 1), _HALF):
        digits = Digits(space, n, min(max(bits, 1) - low, _HALF))
        _pack(int(numbers is not None))(
            space.stream, INTEGERS, digits.blocks, THREADS, keys,
            digits.numbers if numbers is None else numbers, low, digits.chunk, digits.numbers,
            digits.counts,
        )  # fmt: skip
        numbers = digits.sorted()
    _unpack()(space.stream, INTEGERS, blocks_for(n), THREADS, keys, numbers, order, sorted_keys)
    return order, sorted_keys


@kernels
def _pack(in_order):
    def loop(keys, before, low, chunk, numbers, counts):
        """Make numbers of a half of each key and its index, and count the lowest digits."""
        shared = cuda.shared.array(DIGITS, np.int32)
        clear(shared)
        first = cuda.blockIdx.x * chunk
        for i in range(first + cuda.threadIdx.x, min(first + chunk, keys.shape[0]), THREADS):
            index = before[i] & ((1 << INDEX) - 1) if in_order else i
            half = keys[index] >> low & ((1 << _HALF) - 1)
            numbers[i] = half << INDEX | index
            cuda.atomic.add(shared, half & (DIGITS - 1), 1)
        store(shared, counts)

    return loop


@kernels
def _unpack():
    def loop(keys, numbers, order, sorted_keys):
        i = cuda.grid(1)
        if i < order.shape[0]:
            index = numbers[i] & ((1 << INDEX) - 1)
            order[i] = index
            sorted_keys[i] = keys[index]

    return loop


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
    return min(_BITS * blocks_for(n.bit_length() + 4, _BITS), _HALF)


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
