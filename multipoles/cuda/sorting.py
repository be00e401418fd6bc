"""Running sums and sorting on the GPU, by integers only: the same result on every run."""

from typing import Any

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import Space

# the simulator makes a Python thread of each
THREADS = 4 if SIMULATED else 256
_ITEMS = 16 if SIMULATED else 8
_CHUNK = THREADS * _ITEMS
_BITS = 4
_DIGITS = 1 << _BITS
INTEGERS = np.dtype(np.float64)  # kernels without real numbers are compiled once


def blocks_for(n: int, per_block: int = THREADS) -> int:
    """Return how many blocks it takes for n items."""
    return -(-n // per_block)


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
    out = space.empty((n + 1,), np.int64)
    blocks = blocks_for(n, _CHUNK)
    if blocks == 0:
        out.copy_to_device(np.zeros(1, np.int64), stream=space.stream)
        return out
    sums = space.empty((blocks,), np.int64)
    _sums_of_chunks()(space.stream, INTEGERS, blocks, THREADS, counts, out, sums)
    if blocks > 1:
        before = running_sum(space, sums)
        _add_to_chunks()(space.stream, INTEGERS, blocks, THREADS, before, out)
    return out


@kernels
def _sums_of_chunks():
    def loop(counts, out, sums):
        """Write the running sums within each chunk, one place later, and its sum."""
        shared = cuda.shared.array(THREADS, np.int64)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        first = (block * THREADS + thread) * _ITEMS
        last = min(first + _ITEMS, counts.shape[0])
        total = 0
        for i in range(first, last):
            total += counts[i]
        shared[thread] = total
        cuda.syncthreads()
        step = 1
        while step < THREADS:
            before = shared[thread - step] if thread >= step else 0
            cuda.syncthreads()
            shared[thread] += before
            cuda.syncthreads()
            step *= 2
        value = shared[thread] - total
        for i in range(first, last):
            value += counts[i]
            out[i + 1] = value
        if thread == THREADS - 1:
            sums[block] = shared[thread]
            if block == 0:
                out[0] = 0

    return loop


@kernels
def _add_to_chunks():
    def loop(before, out):
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        first = (block * THREADS + thread) * _ITEMS
        for i in range(first, min(first + _ITEMS, out.shape[0] - 1)):
            out[i + 1] += before[block]

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


def argsort(space: Space, keys: Any, bits: int = 63) -> tuple[Any, Any]:
    """Return the stable permutation that sorts keys, and the sorted keys.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    keys : device array of int64, shape (n,)
        Not negative.
    bits : int
        Bits that may be set; each four cost a pass.

    Returns
    -------
    permutation : device array of int64, shape (n,)
    sorted_keys : device array of int64, shape (n,)
    """
    n = keys.shape[0]
    permutations, sorted_keys = space.empty((2, n), np.int64), space.empty((2, n), np.int64)
    blocks = blocks_for(n, _CHUNK)
    counts = space.empty((_DIGITS * blocks,), np.int64)
    _count_up()(space.stream, INTEGERS, blocks_for(n), THREADS, permutations[0])
    here = 0
    source = keys
    for shift in range(0, bits, _BITS):
        _count_digits()(space.stream, INTEGERS, blocks, THREADS, source, shift, counts)
        places = running_sum(space, counts)
        there = 1 - here
        _scatter()(
            space.stream, INTEGERS, blocks, THREADS, source, permutations[here], shift, places,
            sorted_keys[there], permutations[there],
        )  # fmt: skip
        here, source = there, sorted_keys[there]
    return permutations[here], source


@kernels
def _count_up():
    def loop(out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = i

    return loop


@kernels
def _count_digits():
    def loop(keys, shift, counts):
        """Count the keys of each chunk with each digit: digit by digit, then chunk by chunk."""
        shared = cuda.shared.array(_DIGITS, np.int32)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        for digit in range(thread, _DIGITS, THREADS):
            shared[digit] = 0
        cuda.syncthreads()
        last = min((block + 1) * _CHUNK, keys.shape[0])
        for i in range(block * _CHUNK + thread, last, THREADS):
            cuda.atomic.add(shared, (keys[i] >> shift) & (_DIGITS - 1), 1)
        cuda.syncthreads()
        for digit in range(thread, _DIGITS, THREADS):
            counts[digit * cuda.gridDim.x + block] = shared[digit]

    return loop


@kernels
def _scatter():
    def loop(keys, permutation, shift, places, sorted_keys, sorted_permutation):
        """Move each key to its place: after lower digits, and those before it of its own."""
        shared = cuda.shared.array((_DIGITS, THREADS), np.int32)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        first = (block * THREADS + thread) * _ITEMS
        last = min(first + _ITEMS, keys.shape[0])
        for digit in range(_DIGITS):
            shared[digit, thread] = 0
        for i in range(first, last):
            shared[(keys[i] >> shift) & (_DIGITS - 1), thread] += 1
        cuda.syncthreads()
        for digit in range(thread, _DIGITS, THREADS):
            total = 0
            for other in range(THREADS):
                count = shared[digit, other]
                shared[digit, other] = total
                total += count
        cuda.syncthreads()
        for i in range(first, last):
            digit = (keys[i] >> shift) & (_DIGITS - 1)
            place = places[digit * cuda.gridDim.x + block] + shared[digit, thread]
            shared[digit, thread] += 1
            sorted_keys[place] = keys[i]
            sorted_permutation[place] = permutation[i]

    return loop
