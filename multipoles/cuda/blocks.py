"""What the threads of a block do together on a GPU: sums over them, in integers.

An array is cut into chunks, a block each, few enough that every block adds up itself what those
before it counted: no block ever waits for another, and a launch is the only barrier.
"""

import numpy as np

from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device

# the simulator makes a Python thread of each
THREADS = 4 if SIMULATED else 256
INTEGERS = np.dtype(np.float64)  # kernels without real numbers are compiled once
# least items of a chunk, and most chunks
_LEAST, _MOST = (64, 3) if SIMULATED else (2048, 264)


def blocks_for(n: int, per_block: int = THREADS) -> int:
    """Return how many blocks it takes for n items."""
    return -(-n // per_block)


def chunks_of(n: int, least: int = _LEAST, more: int = 1) -> tuple[int, int]:
    """Return how many chunks n items are cut into, and the items of each but the last.

    That is a multiple of `least`; there are at most `more` times as many chunks as usual.
    """
    size = least * max(blocks_for(blocks_for(n, more * _MOST), least), 1)
    return blocks_for(n, size), size


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
