"""Between points and expansions on the GPU: the steps of `fmm.far.expansions`, a block per box.

The harmonics of some points at a time lie in shared memory, made by the recursion of the CPU. Sums
are taken in a fixed order: every run gives the same bits.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from fmm.cuda.curve import DeviceArray
from fmm.far import harmonics
from multipoles.compiled.cuda_access import loader, storer
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, Device, cuda, device, kernels, rsqrt
from multipoles.cuda.device import Space

THREADS = 2 if SIMULATED else 128
# points whose harmonics are made together; several threads share those of one point
_POINTS = 16 if SIMULATED else 32
_SHARES = max(1, THREADS // _POINTS)
# columns of moments or of a field that are done at once
_COLUMNS = 2 if SIMULATED else 4
# bytes of shared memory for harmonics of points, and for sums over them
_SHARED, _OF_SUMS = 30_000, 14_000


put = storer(1)


def _points_at_once(size: int) -> tuple[int, int]:
    """Return for how many points harmonics are made together, and how far apart they lie.

    The distance is odd: threads that read neighbouring harmonics find them in different banks.
    """
    n = _SHARED // (8 * size)
    return (_POINTS, _POINTS + 1) if n >= _POINTS else (max(n - 1, 0) | 1, max(n - 1, 0) | 1)


def _columns_at_once(size: int) -> int:
    """Return how many columns have sums over so many harmonics together."""
    return _COLUMNS if 8 * size * _COLUMNS <= _OF_SUMS else 1


def _harmonics_function(stride: int, irregular: int) -> Device:
    """Return the function for kernels that writes the harmonics of a block of points.

    Points and centres are float64 always: differences, not coordinates, are rounded to the
    kernel's numbers, for a box may be small and far from zero.
    """

    def write(count, points, first, centres, box, scale, factor, h):
        zero = scale - scale
        for task in range(cuda.threadIdx.x, _SHARES * _POINTS, THREADS):
            for i in range(task % _POINTS, count, _POINTS):
                x = REAL(points[3 * (first + i)] - centres[3 * box]) * scale
                y = REAL(points[3 * (first + i) + 1] - centres[3 * box + 1]) * scale
                z = REAL(points[3 * (first + i) + 2] - centres[3 * box + 2]) * scale
                s = x * x + y * y + z * z
                start = zero + 1.0
                if irregular:
                    start = rsqrt(s)
                    s = start * start
                    x, y, z = x * s, y * s, z * s
                _write_share(task // _POINTS, factor, x, y, z, s, start, zero, i, stride, h)

    return Device(write)


@device
def _write_share(share, factor, x, y, z, s, start, zero, offset, step, out):
    """Write the harmonics of some orders of one point, as `expansions.write_harmonics` all."""
    degree = factor.shape[1] - 1
    real, imaginary = start, zero
    for m in range(degree + 1):
        if m > 0:
            diagonal = factor[0, m, m]
            a = x * real - y * imaginary
            b = y * real + x * imaginary
            real, imaginary = a * diagonal, b * diagonal
        if m % _SHARES == share:
            c1, s1, c2, s2 = real, imaginary, zero, zero
            for n in range(m, degree + 1):
                if n > m:
                    up, down = z * factor[1, n, m], s * factor[2, n, m]
                    c0, s0 = up * c1 - down * c2, up * s1 - down * s2
                    c2, s2, c1, s1 = c1, s1, c0, s0
                index = offset + (n * n + 2 * m) * step
                if m > 0:
                    put(out, index - step, (c1,))
                    put(out, index, (s1,))
                else:
                    put(out, index, (c1,))


@device
def _power(scale, zero, degree):
    """Return a power of the inverse edge of a box."""
    power = zero + 1.0
    for _ in range(degree):
        power *= scale
    return power


@kernels
def form(degree, irregular):
    """Add expansions of points to boxes: a block works on the entries of one row of a list."""
    size = harmonics.n_harmonics(degree)
    sign = -1.0 if irregular else 1.0
    step, stride = _points_at_once(size)
    group = _columns_at_once(size)
    write = _harmonics_function(stride, irregular)
    room, of_sums, of_moments, read = size * stride, size * group, step * group, loader(1)

    def loop(
        rows, boxes, senders, ranges, centres, edges, points, moments, channels, columns,
        column_degrees, factor, starts, harmonic, factors, n, length, out,
    ):  # fmt: skip
        # the simulator tells shared arrays apart by their lines
        h = cuda.shared.array(room, REAL)
        sums = cuda.shared.array(of_sums, REAL)
        values = cuda.shared.array(of_moments, REAL)
        thread, channel = cuda.threadIdx.x, cuda.blockIdx.y
        box = boxes[rows[cuda.blockIdx.x]]
        scale = 1.0 / edges[box]
        zero = scale - scale
        for column in range(0, columns, group):
            width = min(group, columns - column)
            for item in range(thread, of_sums, THREADS):
                sums[item] = 0.0
            for entry in range(rows[cuda.blockIdx.x], rows[cuda.blockIdx.x + 1]):
                begin, end = ranges[2 * senders[entry]], ranges[2 * senders[entry] + 1]
                for first in range(begin, end, step):
                    count = min(step, end - first)
                    cuda.syncthreads()
                    write(count, points, first, centres, box, sign * scale, factor, h)
                    for item in range(thread, count * width, THREADS):
                        row = (first + item // width) * channels + channel
                        values[item] = moments[row * columns + column + item % width]
                    cuda.syncthreads()
                    for item in range(thread, size * width, THREADS):
                        k, of_column = item % size, item // size
                        total, at = sums[item], k * stride
                        for i in range(count):
                            total += read(h, at + i)[0] * read(values, of_column)[0]
                            of_column += width
                        sums[item] = total
            cuda.syncthreads()
            for row in range(thread, n, THREADS):
                value = 0.0
                for of_column in range(width):
                    total = 0.0
                    at = (column + of_column) * n + row
                    for term in range(starts[at], starts[at + 1]):
                        total += factors[term] * sums[of_column * size + harmonic[term]]
                    value += total * _power(scale, zero, column_degrees[column + of_column])
                out[(box * channels + channel) * length + row] += value
            cuda.syncthreads()

    return loop


@kernels
def evaluate(degree, irregular):
    """Add the field of boxes' expansions at points: a block works on one row of a list."""
    size = harmonics.n_harmonics(degree)
    step, stride = _points_at_once(size)
    group = _columns_at_once(size)
    write = _harmonics_function(stride, irregular)
    room, of_sums, read = size * stride, size * group, loader(1)

    def loop(
        rows, boxes, receivers, ranges, centres, edges, points, coefficients, channels, columns,
        column_degrees, factor, starts, row, factors, length, out,
    ):  # fmt: skip
        # the simulator tells shared arrays apart by their lines
        h = cuda.shared.array(room, REAL)
        sums = cuda.shared.array(of_sums, REAL)
        thread, channel = cuda.threadIdx.x, cuda.blockIdx.y
        receiver = receivers[rows[cuda.blockIdx.x]]
        begin, end = ranges[2 * receiver], ranges[2 * receiver + 1]
        for entry in range(rows[cuda.blockIdx.x], rows[cuda.blockIdx.x + 1]):
            box = boxes[entry]
            scale = 1.0 / edges[box]
            zero = scale - scale
            offset = (box * channels + channel) * length
            for column in range(0, columns, group):
                width = min(group, columns - column)
                cuda.syncthreads()
                for item in range(thread, size * width, THREADS):
                    total = 0.0
                    at = column * size + item
                    for term in range(starts[at], starts[at + 1]):
                        total += factors[term] * coefficients[offset + row[term]]
                    degree_here = column_degrees[column + item // size]
                    sums[item] = total * scale * _power(scale, zero, degree_here)
                for first in range(begin, end, step):
                    count = min(step, end - first)
                    cuda.syncthreads()
                    write(count, points, first, centres, box, scale, factor, h)
                    cuda.syncthreads()
                    for item in range(thread, _POINTS * width, THREADS):
                        of_column = item // _POINTS
                        for i in range(item % _POINTS, count, _POINTS):
                            total, at = 0.0, i
                            for k in range(size):
                                total += read(sums, of_column * size + k)[0] * read(h, at)[0]
                                at += stride
                            at = ((first + i) * channels + channel) * columns + column
                            out[at + of_column] += total

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
