"""Translations between boxes on the GPU: matrices of `fmm.far.translations`, and loops over them.

Every sum is gathered by the thread that owns its place, in a fixed order.
"""

import itertools
from functools import cache
from typing import Any

import numpy as np

from fmm.cuda.curve import DeviceArray
from fmm.cuda.expansions import THREADS
from fmm.far import harmonics, translations
from fmm.tree.curve import upper
from fmm.tree.lists import shifts
from multipoles.compiled.cuda_access import WIDEST, loader, storer, zeros
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, Device, cuda, kernels
from multipoles.compiled.emit import emitted
from multipoles.cuda.device import Space

# threads that translate the boxes of a group, and how many target boxes it has
WORKERS = 4 if SIMULATED else 256
GROUP = 32 if SIMULATED else 64
# boxes that one thread translates together, and columns of a matrix that it reads at once
_PAIRS = 4 if SIMULATED else 16
_COLUMNS = 4
# coefficients in shared memory
_ENTRIES = 64 if SIMULATED else 4096


# numbers, or what stands for them while a kernel is compiled, see `multipoles.compiled.emit`
Numbers = list[Any]


def _scaled_sum(orders: int, sums: Numbers, values: Numbers, factor: Numbers) -> list[Numbers]:
    """Return sums + values * factor."""
    return [[s + v * factor[0] for s, v in zip(sums, values, strict=True)]]


def _scaled(orders: int, values: Numbers, factor: Numbers) -> list[Numbers]:
    """Return values * factor."""
    return [[v * factor[0] for v in values]]


scaled_sum, scaled = emitted(_scaled_sum), emitted(_scaled)


def teams_for(n: int) -> int:
    """Return into how many teams a block's threads divide if a team takes n rows of a matrix."""
    if SIMULATED:
        return 2
    return next((teams for teams in (4, 2) if n <= WORKERS // teams), 1)


def shift_operators(space: Space, way: str, degree: int, dtype: np.dtype) -> DeviceArray:
    """Return the matrices of the eight octants, upward or downward, each column after column."""

    def make() -> np.ndarray:
        matrices = [translations.shift_matrix(octant, degree) for octant in range(8)]
        if way == "downward":
            matrices = [0.5 * matrix.T for matrix in matrices]
        return np.stack([m.T for m in matrices]).astype(dtype).reshape(-1)

    return space.constant((way, degree, dtype.name), make)


def transfer_operators(
    space: Space, degree: int, dtype: np.dtype
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Return codes with their matrix and reflection, the matrices, and signs of reflections.

    Matrices of shifts with components >= 0 alone, each column after column, columns of zeros up
    to a multiple of `_COLUMNS`; others are theirs between reflected boxes.
    """
    reach = int(np.abs(shifts()).max())
    span = range(reach + 1)
    reflected = [shift for shift in itertools.product(span, span, span) if max(shift) > 1]

    def codes() -> np.ndarray:
        rows = []
        for code, shift in enumerate(shifts().tolist()):
            if max(map(abs, shift)) > 1:
                octant = 4 * (shift[0] < 0) + 2 * (shift[1] < 0) + (shift[2] < 0)
                rows.append((code, reflected.index(tuple(map(abs, shift))), octant))
        # codes of one matrix follow each other: it is read from memory once
        return np.array(sorted(rows, key=lambda row: row[1:]), np.int32)

    def matrices() -> np.ndarray:
        n = harmonics.n_harmonics(degree)
        out = np.zeros((len(reflected), -(-n // _COLUMNS) * _COLUMNS, n), dtype)
        for i, shift in enumerate(reflected):
            out[i, :n] = translations.transfer_matrix(shift, degree).T
        return out.reshape(-1)

    def signs() -> np.ndarray:
        size = harmonics.n_harmonics(degree)
        return np.stack(
            [translations.reflection(octant, degree, dtype)[:size] for octant in range(8)]
        ).reshape(-1)

    return (
        space.constant("transfer codes", codes),
        space.constant(("transfer", degree, dtype.name), matrices),
        space.constant(("reflections", degree, dtype.name), signs),
    )


@kernels
def coarsen():
    """Add to a parent the translated multipoles of its children."""

    def loop(begin, first_child, n_children, anchor, operators, length, channels, multipoles):
        parent, channel = begin + cuda.blockIdx.x, cuda.blockIdx.y
        first = first_child[parent]
        for i in range(cuda.threadIdx.x, length, THREADS):
            total = 0.0
            for child in range(first, first + n_children[parent]):
                octant = (
                    4 * (anchor[child, 0] & 1) + 2 * (anchor[child, 1] & 1) + (anchor[child, 2] & 1)
                )
                offset = (child * channels + channel) * length
                matrix = octant * length * length + i
                for j in range(length):
                    total += operators[matrix + j * length] * multipoles[offset + j]
            if n_children[parent] > 0:
                multipoles[(parent * channels + channel) * length + i] += total

    return loop


@kernels
def refine():
    """Add to a child the translated local expansion of its parent."""

    def loop(begin, parents, anchor, operators, length, channels, locals_):
        child, channel = begin + cuda.blockIdx.x, cuda.blockIdx.y
        octant = 4 * (anchor[child, 0] & 1) + 2 * (anchor[child, 1] & 1) + (anchor[child, 2] & 1)
        offset = (parents[child] * channels + channel) * length
        for i in range(cuda.threadIdx.x, length, THREADS):
            matrix = octant * length * length + i
            total = 0.0
            for j in range(length):
                total += operators[matrix + j * length] * locals_[offset + j]
            locals_[(child * channels + channel) * length + i] += total

    return loop


@kernels
def find_group_starts():
    """Write the first pair of each code whose target is not before a group's first box."""

    def loop(begin, end, starts, targets, group_starts):
        # groups along x: a grid has no more than 65535 blocks along its other axes
        group = cuda.blockIdx.x
        code = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if code < group_starts.shape[1]:
            bound = min(begin + group * GROUP, end)
            group_starts[group, code] = upper(targets, starts[code], starts[code + 1], bound - 1)

    return loop


@kernels
def transfer(teams):
    """Add multipole-to-local translations to the boxes of a group, code by code.

    Each team of threads takes some pairs of a code, each thread of it a row of the matrix. The
    targets of one code are distinct, so that no two threads write to one place.
    """
    rows, together = WORKERS // teams, teams * _PAIRS
    chunk = _ENTRIES // together
    # four more: fewer conflicts between the banks of shared memory
    stride = together + 4
    size = stride * chunk
    gather, add_rows = _gather(rows, stride), _add_rows()
    load, entry, zero = loader(_PAIRS, 4), loader(1), zeros(_PAIRS)

    def loop(
        group_starts,
        codes,
        targets,
        sources,
        operators,
        signs,
        n,
        length,
        channels,
        multipoles,
        locals_,
    ):
        x = cuda.shared.array(size, REAL, WIDEST)
        work = cuda.local.array(_PAIRS, REAL)
        thread, group, channel = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        team, row = thread // rows, thread % rows
        n_columns = (n + _COLUMNS - 1) // _COLUMNS * _COLUMNS
        for item in range(codes.shape[0]):
            code, octant = codes[item, 0], codes[item, 2] * n
            matrix = codes[item, 1] * n * n_columns
            begin, stop = group_starts[group, code], group_starts[group + 1, code]
            while begin < stop:
                first = begin + team * _PAIRS
                count = min(_PAIRS, stop - first)
                for column in range(0, n_columns, chunk):
                    width = min(chunk, n_columns - column)
                    cuda.syncthreads()
                    gather(
                        row, team * _PAIRS, column, width, n, sources, first, count, channels,
                        channel, length, multipoles, signs, octant, work, x,
                    )  # fmt: skip
                    cuda.syncthreads()
                    for i in range(row, n if count > 0 else 0, rows):
                        total = zero()
                        offset, at = team * _PAIRS, matrix + column * n + i
                        end = offset + width * stride
                        while offset < end:
                            a, b = entry(operators, at), entry(operators, at + n)
                            c, d = entry(operators, at + 2 * n), entry(operators, at + 3 * n)
                            total = scaled_sum(0, (total, load(x, offset), a))[0]
                            total = scaled_sum(0, (total, load(x, offset + stride), b))[0]
                            total = scaled_sum(0, (total, load(x, offset + 2 * stride), c))[0]
                            total = scaled_sum(0, (total, load(x, offset + 3 * stride), d))[0]
                            offset += _COLUMNS * stride
                            at += _COLUMNS * n
                        add_rows(
                            total, signs[octant + i], i, targets, first, count, channels, channel,
                            length, work, locals_,
                        )  # fmt: skip
                begin += together

    return loop


@cache
def _gather(rows: int, stride: int) -> Device:
    """Return the function for kernels that reads some columns of a team's coefficients."""
    load, store = loader(_PAIRS), storer(_PAIRS)

    def gather(
        row, team, column, width, n, sources, first, count, channels, channel, length, multipoles,
        signs, octant, work, x,
    ):  # fmt: skip
        for j in range(row, width if count > 0 else 0, rows):
            # columns beyond the last are zeros in the matrix, pairs beyond it are not written
            harmonic = min(column + j, n - 1)
            for pair in range(_PAIRS):
                box = sources[first + min(pair, count - 1)] * channels + channel
                work[pair] = multipoles[box * length + harmonic]
            store(x, j * stride + team, scaled(0, (load(work, 0), (signs[octant + harmonic],)))[0])

    return Device(gather)


@cache
def _add_rows() -> Device:
    """Return the function for kernels that adds a row of each pair's product to its target."""
    load, store = loader(_PAIRS), storer(_PAIRS)

    def add_rows(
        total, sign, i, targets, first, count, channels, channel, length, work, locals_
    ):  # fmt: skip
        # all are read before any is written: the device waits once
        for pair in range(_PAIRS):
            box = targets[first + min(pair, count - 1)] * channels + channel
            work[pair] = locals_[box * length + i]
        store(work, 0, scaled_sum(0, (load(work, 0), total, (sign,)))[0])
        for pair in range(_PAIRS):
            if pair < count:
                box = targets[first + pair] * channels + channel
                locals_[box * length + i] = work[pair]

    return Device(add_rows)
