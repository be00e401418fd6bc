"""Between points and expansions on the GPU: the steps of `fmm.far.expansions`, a block per box.

The harmonics of some points at a time lie in shared memory, made by the recursion of the CPU. Sums
are taken in a fixed order: every run gives the same bits.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from fmm.cuda.curve import DeviceArray
from fmm.far import harmonics
from fmm.far.expansions import write_harmonics
from multipoles.compiled.cuda_kernels import (
    REAL,
    SIMULATED,
    Device,
    cuda,
    kernels,
    rsqrt,
    substitute,
)
from multipoles.compiled.simd import store
from multipoles.cuda.device import Space

THREADS = 2 if SIMULATED else 128
# bytes of shared memory for harmonics of points, and for sums over them
_SHARED = 30_000


def _put(out, offset, value):
    out[offset] = value


# on the CPU harmonics are vectors of points
substitute(store, Device(_put))


def _points_at_once(size: int) -> tuple[int, int]:
    """Return for how many points harmonics are made together, and how far apart they lie.

    The distance is odd: threads that read neighbouring harmonics find them in different banks.
    """
    most = 16 if SIMULATED else 32
    n = _SHARED // (8 * size)
    return (most, most + 1) if n >= most else (max(n - 1, 0) | 1, max(n - 1, 0) | 1)


def _harmonics_function(stride: int, irregular: int) -> Device:
    """Return the function for kernels that writes the harmonics of a block of points.

    Points and centres are float64 always: differences, not coordinates, are rounded to the
    kernel's numbers, for a box may be small and far from zero.
    """

    def write(count, points, first, centres, box, scale, factor, h):
        zero = scale - scale
        for i in range(cuda.threadIdx.x, count, THREADS):
            x = REAL(points[3 * (first + i)] - centres[3 * box]) * scale
            y = REAL(points[3 * (first + i) + 1] - centres[3 * box + 1]) * scale
            z = REAL(points[3 * (first + i) + 2] - centres[3 * box + 2]) * scale
            s = x * x + y * y + z * z
            start = zero + 1.0
            if irregular:
                start = rsqrt(s)
                s = start * start
                x, y, z = x * s, y * s, z * s
            write_harmonics(factor, x, y, z, s, start, zero, i, stride, h)

    return Device(write)


@kernels
def form(degree, irregular):
    """Add expansions of points to boxes: a block works on the entries of one row of a list."""
    size = harmonics.n_harmonics(degree)
    sign = -1.0 if irregular else 1.0
    step, stride = _points_at_once(size)
    write = _harmonics_function(stride, irregular)
    room = size * stride

    def loop(
        rows, boxes, senders, ranges, centres, edges, points, moments, channels, columns,
        column_degrees, factor, starts, harmonic, factors, n, length, out,
    ):  # fmt: skip
        # the simulator tells shared arrays apart by their lines
        h = cuda.shared.array(room, REAL)
        sums = cuda.shared.array(size, REAL)
        thread, channel = cuda.threadIdx.x, cuda.blockIdx.y
        box = boxes[rows[cuda.blockIdx.x]]
        scale = 1.0 / edges[box]
        for column in range(columns):
            power = scale - scale + 1.0
            for _ in range(column_degrees[column]):
                power *= scale
            for k in range(thread, size, THREADS):
                sums[k] = 0.0
            for entry in range(rows[cuda.blockIdx.x], rows[cuda.blockIdx.x + 1]):
                begin, end = ranges[2 * senders[entry]], ranges[2 * senders[entry] + 1]
                for first in range(begin, end, step):
                    count = min(step, end - first)
                    cuda.syncthreads()
                    write(count, points, first, centres, box, sign * scale, factor, h)
                    cuda.syncthreads()
                    for k in range(thread, size, THREADS):
                        total = sums[k]
                        for i in range(count):
                            moment = moments[((first + i) * channels + channel) * columns + column]
                            total += h[k * stride + i] * moment
                        sums[k] = total
            cuda.syncthreads()
            for row in range(thread, n, THREADS):
                total = 0.0
                for term in range(starts[column * n + row], starts[column * n + row + 1]):
                    total += factors[term] * sums[harmonic[term]]
                out[(box * channels + channel) * length + row] += total * power
            cuda.syncthreads()

    return loop


@kernels
def evaluate(degree, irregular):
    """Add the field of boxes' expansions at points: a block works on one row of a list."""
    size = harmonics.n_harmonics(degree)
    step, stride = _points_at_once(size)
    write = _harmonics_function(stride, irregular)
    room = size * stride

    def loop(
        rows, boxes, receivers, ranges, centres, edges, points, coefficients, channels, columns,
        column_degrees, factor, starts, row, factors, length, out,
    ):  # fmt: skip
        # the simulator tells shared arrays apart by their lines
        h = cuda.shared.array(room, REAL)
        sums = cuda.shared.array(size, REAL)
        thread, channel = cuda.threadIdx.x, cuda.blockIdx.y
        receiver = receivers[rows[cuda.blockIdx.x]]
        begin, end = ranges[2 * receiver], ranges[2 * receiver + 1]
        for entry in range(rows[cuda.blockIdx.x], rows[cuda.blockIdx.x + 1]):
            box = boxes[entry]
            scale = 1.0 / edges[box]
            offset = (box * channels + channel) * length
            for column in range(columns):
                power = scale
                for _ in range(column_degrees[column]):
                    power *= scale
                cuda.syncthreads()
                for k in range(thread, size, THREADS):
                    total = 0.0
                    for term in range(starts[column * size + k], starts[column * size + k + 1]):
                        total += factors[term] * coefficients[offset + row[term]]
                    sums[k] = total * power
                for first in range(begin, end, step):
                    count = min(step, end - first)
                    cuda.syncthreads()
                    write(count, points, first, centres, box, scale, factor, h)
                    cuda.syncthreads()
                    for i in range(thread, count, THREADS):
                        total = 0.0
                        for k in range(size):
                            total += sums[k] * h[k * stride + i]
                        out[((first + i) * channels + channel) * columns + column] += total

    return loop


@lru_cache(maxsize=32)
def _terms(kind: str, degree: int, inner: int, by_harmonic: bool) -> tuple[np.ndarray, ...]:
    """Return the terms of a matrix sorted by column, then row (or harmonic): starts, the other."""
    build = harmonics.transfer_terms if kind == "transfer" else harmonics.shift_terms
    row, column, harmonic, factor = build(degree, inner)
    # moments and fields may be of higher order than the expansions: columns without terms
    columns = harmonics.n_harmonics(inner)
    if kind == "transfer" and by_harmonic:
        # multipole-to-particle: the box has the columns
        row, column, columns = column, row, harmonics.n_harmonics(degree)
    first, other = (harmonic, row) if by_harmonic else (row, harmonic)
    n = int(first.max()) + 1
    key = column.astype(np.int64) * n + first
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(columns * n + 1))
    return starts.astype(np.int32), other[order].astype(np.int32), factor[order]


def tables(
    space: Space, kind: str, degree: int, inner: int, by_harmonic: bool, dtype: np.dtype
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Return starts, indices and factors of the sparse step on the device."""
    starts, indices, factors = (
        space.constant(("terms", kind, degree, inner, by_harmonic, part, dtype.name), made)
        for part, made in enumerate(_parts(kind, degree, inner, by_harmonic, dtype))
    )
    return starts, indices, factors


def _parts(
    kind: str, degree: int, inner: int, by_harmonic: bool, dtype: np.dtype
) -> list[Callable[[], np.ndarray]]:
    """Return what makes starts, indices and factors."""

    def part(i: int) -> np.ndarray:
        array = _terms(kind, degree, inner, by_harmonic)[i]
        return array.astype(dtype) if array.dtype.kind == "f" else array

    return [partial(part, i) for i in range(3)]


def recursion(space: Space, degree: int, dtype: np.dtype) -> DeviceArray:
    """Return the factors of the recursion of harmonics on the device."""
    return space.constant(
        ("recursion", degree, dtype.name),
        lambda: np.stack(harmonics.recursion(degree)).astype(dtype),
    )


def column_degrees(space: Space, order: int) -> DeviceArray:
    """Return the degree of every harmonic on the device."""
    return space.constant(
        ("harmonic degrees", order), lambda: harmonics.degrees(order).astype(np.int32)
    )
