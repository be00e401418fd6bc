"""Small kernels that show what the compiler does: shared helpers, constants, what promotes."""

import numpy as np

from multipoles.compiled.cuda_access import WIDEST, loader
from multipoles.compiled.cuda_kernels import REAL, cuda, device, kernels, rsqrt
from multipoles.compiled.emit import emitted
from multipoles.compiled.jit import inline

TABLE = np.array([0.5, 0.25, 0.125])


@inline
def halved(x):
    """A helper of loops on the CPU, with a constant that would promote float32."""
    return 0.5 * x + TABLE[0]


@device
def placed(array, x):
    """A helper for kernels only."""
    i = cuda.grid(1)
    if i < array.shape[0]:
        array[i] = x


def powers(order, x):
    """Return 1, x, x², ...: plain arithmetic on numbers."""
    out = [1.0]
    for _ in range(order):
        out.append(out[-1] * x[0])
    return [out]


emitted_powers = emitted(powers)


@kernels
def clean(n):
    """Return the loop ``out = n·1 + halved(x) + Σ x^k + 1/√x`` with no promotion."""

    def loop(x, out):
        i = cuda.grid(1)
        if i < x.shape[0]:
            total = halved(x[i]) + rsqrt(x[i])
            for power in emitted_powers(n, ((x[i],),))[0]:
                total += power
            for _ in range(n):
                total += 1.0
            placed(out, total)

    return loop


@kernels
def calling(n):
    """Return a loop that calls a function of the compiler's library, which is not linked."""

    def loop(x, out):
        i = cuda.grid(1)
        if i < x.shape[0]:
            out[i] = n * x.reshape(x.shape[0])[i]

    return loop


@kernels
def promoting(n):
    """Return a loop with a product of an integer and a real number."""

    def loop(x, out):
        i = cuda.grid(1)
        if i < x.shape[0]:
            out[i] = x[i] * (i + n)

    return loop


@kernels
def failing(n):
    """Return a loop that does not compile: no array has such an attribute."""

    def loop(x, out):
        out[0] = x.nothing

    return loop


@kernels
def reversed_blocks(n):
    """Return a loop that turns each block of n around, through shared memory."""

    def loop(x, out):
        shared = cuda.shared.array(n, REAL)
        i, thread = cuda.grid(1), cuda.threadIdx.x
        shared[thread] = x[i] if i < x.shape[0] else 0.0
        cuda.syncthreads()
        if i < x.shape[0]:
            out[i] = shared[n - 1 - thread]

    return loop


@kernels
def with_scalars(n):
    """Return the loop ``out = a·x + b`` whose numbers are arguments."""

    def loop(x, a, first, out):
        i = first + cuda.grid(1)
        if i < x.shape[0]:
            out[i] = a * x[i]

    return loop


def _through_shared_memory(n, alignment):
    load = loader(4, 4 if alignment else 1)

    def aligned(x, out):
        shared = cuda.shared.array(n, REAL, WIDEST)
        shared[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        a, b, c, d = load(shared, 4)
        out[0] = a + b + c + d

    def unaligned(x, out):
        shared = cuda.shared.array(n, REAL)
        shared[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        a, b, c, d = load(shared, 4)
        out[0] = a + b + c + d

    return aligned if alignment else unaligned


@kernels
def aligned(n):
    """Return a loop that reads four numbers of shared memory at once."""
    return _through_shared_memory(n, True)


@kernels
def unaligned(n):
    """Return a loop that reads them one by one."""
    return _through_shared_memory(n, False)
