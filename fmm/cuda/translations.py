"""Translations between parents and children on the GPU.

A block takes some parents and all their children, so that a matrix is read once for all of them.
Every sum is gathered by the thread that owns its place, in a fixed order.
"""

from functools import cache
from typing import Any

import numpy as np

from fmm.cuda.curve import DeviceArray
from fmm.cuda.staging import QUAD, padded
from fmm.far import harmonics, translations
from multipoles.compiled.cuda_access import loader, zeros
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, Device, cuda, device, kernels
from multipoles.compiled.cuda_vectors import written_out
from multipoles.compiled.emit import emitted
from multipoles.cuda.device import Space

# parents of a block, teams of its threads, each for some octants, and most rows of a team
_FAMILIES = 2 if SIMULATED else 4
_TEAMS = 2 if SIMULATED else 4
_ROWS = 4 if SIMULATED else 128
_OCTANTS = 8
# so many threads have half the registers that a thread may take: a compiler must know of them
_MOST_THREADS = _ROWS * _TEAMS

# numbers, or what stands for them while a kernel is compiled, see `multipoles.compiled.emit`
Numbers = list[Any]


def shift_operators(space: Space, way: str, degree: int, dtype: np.dtype) -> DeviceArray:
    """Return the matrices of the eight octants, upward or downward, each column after column.

    Columns, and their number, are padded by zeros to a multiple of four.
    """
    n = harmonics.n_harmonics(degree)

    def make() -> np.ndarray:
        out = np.zeros((_OCTANTS, padded(n), padded(n)), dtype)
        for octant in range(_OCTANTS):
            matrix = translations.shift_matrix(octant, degree)
            out[octant, :n, :n] = matrix.T if way == "upward" else 0.5 * matrix
        return out.reshape(-1)

    return space.constant((way, degree, dtype.name), make)


def grid_of(n_parents: int, channels: int, length: int) -> tuple[Any, Any]:
    """Return blocks and threads for the families of some parents."""
    rows = min(_ROWS, 2 if SIMULATED else -(-length // 32) * 32)
    return (-(-n_parents // _FAMILIES), channels), (rows, _TEAMS)


@kernels
def coarsen():
    """Add to parents the translated multipoles of their children, behind a row of zeros."""
    room, apart, families = _TEAMS * _FAMILIES * _ROWS, _FAMILIES * _ROWS, _FAMILIES
    multiply, zero, n_rows = _multiplier(), zeros(_FAMILIES), _OCTANTS * _FAMILIES

    def loop(begin, end, first_child, n_children, anchor, operators, length, channels, multipoles):
        sums = cuda.shared.array(room, REAL)
        rows = cuda.shared.array(n_rows, np.int32)
        first, channel = begin + cuda.blockIdx.x * families, cuda.blockIdx.y
        team, size = cuda.threadIdx.y, length * length
        if find_children(first, end, first_child, n_children, anchor, rows) == 0:
            return
        for start in range(0, length, cuda.blockDim.x):
            i = start + cuda.threadIdx.x
            total = zero()
            for octant in range(team, _OCTANTS if i < length else 0, _TEAMS):
                total = multiply(
                    total, rows, octant, 1, 0, channels, channel, length, operators,
                    octant * size + i, multipoles,
                )  # fmt: skip
            put_sums(total, sums, team * apart + cuda.threadIdx.x)
            cuda.syncthreads()
            for family in range(team, families, _TEAMS):
                parent = first + family
                if parent < end and n_children[parent] > 0 and i < length:
                    value = 0.0
                    for other in range(_TEAMS):
                        value += sums[other * apart + family * _ROWS + cuda.threadIdx.x]
                    multipoles[((parent + 1) * channels + channel) * length + i] += value
            cuda.syncthreads()

    loop.bounds = _MOST_THREADS, 1
    return loop


@kernels
def refine():
    """Add to children the translated local expansion of their parents."""
    multiply, zero, n_rows = _multiplier(), zeros(_FAMILIES), _OCTANTS * _FAMILIES
    families, add = _FAMILIES, _adder()

    def loop(begin, end, first_child, n_children, anchor, operators, length, channels, locals_):
        rows = cuda.shared.array(n_rows, np.int32)
        first, channel = begin + cuda.blockIdx.x * families, cuda.blockIdx.y
        team, size = cuda.threadIdx.y, length * length
        if find_children(first, end, first_child, n_children, anchor, rows) == 0:
            return
        for i in range(cuda.threadIdx.x, length, cuda.blockDim.x):
            for octant in range(team, _OCTANTS, _TEAMS):
                total = multiply(
                    zero(), rows, octant, 0, first, channels, channel, length, operators,
                    octant * size + i, locals_,
                )  # fmt: skip
                add(total, rows, octant, channels, channel, length, i, locals_)

    loop.bounds = _MOST_THREADS, 1
    return loop


@kernels
def add_parts():
    """Add to the local expansions of boxes the parts of their multipole-to-local translations."""

    def loop(begin, n_boxes, channels, n, n_parts, part_length, parts, length, locals_):
        i = cuda.grid(1)
        size = n_boxes * channels * part_length
        if i < size and i % part_length < n:
            total = 0.0
            for part in range(n_parts):
                total += parts[part * size + i]
            row = begin * channels + i // part_length
            locals_[row * length + i % part_length] += total

    return loop


# --- families -------------------------------------------------------------------------------------


@device
def find_children(first, end, first_child, n_children, anchor, rows):
    """Write each family's child of each octant, a box's number and one, or 0; return if any."""
    thread = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    n_threads = cuda.blockDim.x * cuda.blockDim.y
    for i in range(thread, _OCTANTS * _FAMILIES, n_threads):
        rows[i] = 0
    cuda.syncthreads()
    found = 0
    for family in range(min(_FAMILIES, end - first)):
        found += n_children[first + family]
    for i in range(thread, _OCTANTS * _FAMILIES, n_threads):
        family, child = i // _OCTANTS, i % _OCTANTS
        if first + family < end and child < n_children[first + family]:
            box = first_child[first + family] + child
            octant = 4 * (anchor[box, 0] & 1) + 2 * (anchor[box, 1] & 1) + (anchor[box, 2] & 1)
            rows[octant * _FAMILIES + family] = box + 1
    cuda.syncthreads()
    return found


def _sums_of_four(orders: int, sums: Numbers, entries: Numbers, *values: Numbers) -> list[Numbers]:
    """Return each family's sum with four entries of a matrix's row times its coefficients."""
    for k in range(QUAD):
        sums = [s + entries[k] * x[k] for s, x in zip(sums, values, strict=True)]
    return [sums]


sums_of_four = emitted(_sums_of_four)


@cache
def _multiplier() -> Device:
    """Return the function for kernels that adds an octant's product to the sums of families.

    It multiplies children's coefficients (behind a row of zeros), or those of parents from `first`
    on, of which those without this child need not be there.
    """
    lines = [
        "def multiply(sums, rows, octant, of_children, first, channels, channel, length, operators,"
        " entry, values):",
        f"    families = octant * {_FAMILIES}",
    ]
    for f in range(_FAMILIES):
        lines += [
            f"    row{f} = rows[families + {f}] if of_children else "
            f"(first + {f} if rows[families + {f}] > 0 else first)",
            f"    at{f} = (row{f} * channels + channel) * length",
        ]
    xs = ", ".join(f"read(values, at{f} + j)" for f in range(_FAMILIES))
    ms = ", ".join(f"operators[entry + {k} * length]" for k in range(QUAD))
    lines += [
        f"    for j in range(0, length, {QUAD}):",
        f"        sums = sums_of_four(0, (sums, ({ms}), {xs}))[0]",
        f"        entry += {QUAD} * length",
        "    return sums",
    ]
    source = "\n".join(lines)
    return Device(written_out(source, read=loader(QUAD, QUAD), sums_of_four=sums_of_four))


@cache
def _adder() -> Device:
    """Return the function for kernels that adds families' sums to their child of an octant."""
    lines = ["def add(sums, rows, octant, channels, channel, length, i, out):"]
    for f in range(_FAMILIES):
        lines += [
            f"    child = rows[octant * {_FAMILIES} + {f}]",
            "    if child > 0:",
            f"        out[((child - 1) * channels + channel) * length + i] += sums[{f}]",
        ]
    return Device(written_out("\n".join(lines)))


put_sums = Device(
    written_out(
        "\n".join(
            ["def put_sums(sums, shared, at):"]
            + [f"    shared[at + {f * _ROWS}] = sums[{f}]" for f in range(_FAMILIES)]
        )
    )
)
