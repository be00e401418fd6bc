"""Running sums and sorting on the GPU, by integers only: the same result on every run."""

from typing import Any

import numpy as np

from multipoles.compiled.cuda_kernels import cuda, device, kernels
from multipoles.cuda.blocks import INTEGERS, THREADS, blocks_for, chunks_of, scanned, summed
from multipoles.cuda.device import Space
from multipoles.cuda.digits import DIGITS, HALF, INDEX, Digits, clear, store
from multipoles.cuda.library import sorter

__all__ = [
    "INTEGERS", "THREADS", "argsort", "blocks_for", "count_up", "first_not_below", "marked",
    "row_starts", "running_sum", "taken", "total",
]  # fmt: skip


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
    if (by_library := sorter(space, keys)) is not None:
        by_library(order, sorted_keys)
        return order, sorted_keys
    numbers = None
    for low in range(0, max(bits, 1), HALF):
        digits = Digits(space, n, min(max(bits, 1) - low, HALF))
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
            half = keys[index] >> low & ((1 << HALF) - 1)
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
