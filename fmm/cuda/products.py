"""Multipole-to-local translations on the GPU: one grouped matrix product for all levels.

Columns are target boxes of one octant, times channels, see `fmm.cuda.columns`; a block takes
`TILE` of them and some rows through the codes of the octant. Each thread keeps the sums of several
rows and columns in registers to the end: nothing is added in memory, and every sum has a fixed
order. A warp has one stretch of rows, which it reads from shared memory at once, and each of its
threads columns of its own. While one stretch of a product is computed, the next is on its way from
memory.
"""

import itertools
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fmm.cuda.columns import (
    CLASSES,
    GROUP,
    MOST_CANDIDATES,
    Columns,
    candidates,
    packed_shift,
    reflected_shifts,
)
from fmm.cuda.curve import DeviceArray
from fmm.cuda.staging import DEPTH, LANES, QUAD, QUADS, padded, shape_of, staging
from fmm.far import harmonics, translations
from multipoles.compiled.cuda_access import WIDEST, loader, zeros
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, Device, cuda, device, kernels
from multipoles.compiled.cuda_vectors import repeated, written_out
from multipoles.compiled.emit import emitted
from multipoles.cuda.device import Space

# blocks of a multiprocessor at once: enough that one computes while another waits
_BLOCKS = 3
# warps that fill a device about three times over, and most parts of the sums of one box
_ENOUGH = 8 if SIMULATED else 7000
_MOST_PARTS = 3 if SIMULATED else 32

# numbers, or what stands for them while a kernel is compiled, see `multipoles.compiled.emit`
Numbers = list[Any]


def operators_of(space: Space, degree: int, dtype: np.dtype) -> tuple[DeviceArray, DeviceArray]:
    """Return the matrices of shifts with components >= 0, column after column, and signs.

    Rows lie as the warps of `Shape` take them. Signs of rows, then of columns, for each of eight
    reflections: other translations are these between reflected boxes.
    """
    n = harmonics.n_harmonics(degree)
    shape = shape_of(n, int(dtype.itemsize == 8))
    place = np.arange(n) // shape.rows * shape.room + np.arange(n) % shape.rows
    all_rows = shape.row_blocks * shape.width

    def matrices() -> np.ndarray:
        out = np.zeros((len(reflected_shifts()), shape.depth, all_rows), dtype)
        for matrix, shift in zip(out, reflected_shifts(), strict=True):
            matrix[:n, place] = translations.transfer_matrix(shift, degree).T
        return out.reshape(-1)

    def signs() -> np.ndarray:
        of_rows, of_columns = (np.zeros((8, size), dtype) for size in (all_rows, shape.depth))
        for octant in range(8):
            values = translations.reflection(octant, degree, dtype)[:n]
            of_rows[octant, place] = of_columns[octant, :n] = values
        return np.concatenate([of_rows.reshape(-1), of_columns.reshape(-1)])

    key = degree, dtype.name
    return (
        space.constant(("transfer", *key), matrices),
        space.constant(("reflections", *key), signs),
    )


class Parts(NamedTuple):
    """Sums of translations to boxes ``begin <= box < end``, in parts that are to be added.

    Attributes
    ----------
    begin, end : int
    n, length : int
        Harmonics, and how far apart those of two boxes (or channels) are.
    count : int
        Parts.
    values : device array, shape (count * (end - begin) * channels * length,)
    """

    begin: int
    end: int
    n: int
    length: int
    count: int
    values: DeviceArray


def transfer(
    space: Space,
    columns: Columns,
    degree: int,
    channels: int,
    length: int,
    multipoles: DeviceArray,
    dtype: np.dtype,
) -> Parts:
    """Return the multipole-to-local translations of all columns.

    Parameters
    ----------
    columns : Columns
    degree : int
        Of the translations.
    channels, length : int
        Of the expansions; the length, of memory, is a multiple of four.
    multipoles : device array
        A row of zeros, then that of each box.
    """
    n = harmonics.n_harmonics(degree)
    wide = int(np.dtype(dtype).itemsize == 8)
    shape = shape_of(n, wide)
    n_boxes = columns.end - columns.begin
    tiles = n_boxes * channels // shape.tile + CLASSES
    count = parts_for(tiles * shape.row_blocks * shape.warps)
    values = space.empty((count * n_boxes * channels * padded(n),), dtype)
    _transfer(n, wide)(
        space.stream, dtype, (tiles, count, shape.row_blocks), LANES * shape.warps,
        columns.starts, columns.counts, columns.boxes, columns.origins, columns.sources,
        columns.marks.reshape(-1), *candidates(space), *operators_of(space, degree, dtype),
        channels, length, multipoles, columns.begin, n_boxes, padded(n), values,
    )  # fmt: skip
    return Parts(columns.begin, columns.end, n, padded(n), count, values)


def parts_for(warps: int) -> int:
    """Return in how many parts codes are divided, so that few columns occupy a whole device."""
    return max(1, min(_MOST_PARTS, -(-_ENOUGH // max(warps, 1))))


# --- the product ----------------------------------------------------------------------------------


def _accumulated(orders: int, sums: Numbers, column: Numbers, *xs: Numbers) -> list[Numbers]:
    """Return sums with the product of a matrix's column and one coefficient of each of several."""
    return [[s + m * x for s, (x, m) in zip(sums, itertools.product(_first(xs), column), strict=True)]]


def _first(xs: tuple[Numbers, ...]) -> Numbers:
    return [x[0] for x in xs]


accumulated = emitted(_accumulated)


@kernels
def _transfer(n, wide):
    """Write the product of all codes with the sources of a tile of columns."""
    shape, stage_of = shape_of(n, wide), staging(n, wide)
    tile, threads, rows = shape.tile, LANES * shape.warps, shape.rows
    stride, width, room = stage_of.stride, shape.width, shape.room
    all_rows, all_columns = shape.row_blocks * width, shape.depth
    n_stages = all_columns // DEPTH
    quads, last_quads = QUADS, padded(n) // QUAD - (n_stages - 1) * QUADS
    x_size, m_size, most = tile * stride, DEPTH * width, MOST_CANDIDATES + 1
    x_room, m_room, x_step, m_step = 2 * x_size, 2 * m_size, DEPTH, DEPTH * all_rows
    places_of, x_from_of, x_to_of = stage_of.places, stage_of.x_from, stage_of.x_to
    m_from_of, m_to_of, i_of, k_of = stage_of.m_from, stage_of.m_to, stage_of.i_of, stage_of.k_of
    origins_of, rows_of = stage_of.origins, stage_of.rows
    fetch, put, multiply = stage_of.fetch, stage_of.put, _multiplier(rows, shape.columns, width, stride)
    write, zero, lanes = _writer(rows, shape.columns), zeros(rows * shape.columns), LANES
    # signs of rows come first
    signs_of_columns = 8 * all_rows

    def loop(
        starts, counts, boxes, origins, sources, marks, candidates, candidate_starts, operators,
        signs, channels, length, multipoles, begin, n_boxes, part_length, parts,
    ):  # fmt: skip
        xs = cuda.shared.array(x_room, REAL, WIDEST)
        ms = cuda.shared.array(m_room, REAL, WIDEST)
        active = cuda.shared.array(most, np.int32, WIDEST)
        thread, part = cuda.threadIdx.x, cuda.blockIdx.y
        lane, warp = thread % lanes, thread // lanes
        kind, first = tile_of_block(counts, channels, tile)
        if kind == CLASSES:
            return
        start, n_columns = starts[kind], counts[kind] * channels
        final = min(first + tile, n_columns) - 1
        find_active(
            thread, threads, start + first // channels, start + final // channels, marks,
            candidate_starts[kind], candidate_starts[kind + 1], part, cuda.gridDim.y, active,
        )  # fmt: skip
        count, n_places, size = active[MOST_CANDIDATES], origins.shape[0], channels * length
        begin_rows = cuda.blockIdx.z * width
        total = zero()
        if count > 0:
            places = places_of(thread, first, final, channels, start)
            where = origins_of(origins, places)
            x_from, x_to = x_from_of(thread, first, final, channels, length), x_to_of(thread)
            m_from, m_to = m_from_of(thread, begin_rows), m_to_of(thread)
            i, k = i_of(thread), k_of(thread)
            x_here, m_here = lane * stride, warp * room
            current, after = active[0], active[min(1, count - 1)]
            shift = packed_shift(candidates[3 * current])
            box_rows = rows_of(where, shift, places, n_places, sources, size, x_from)
            shift = packed_shift(candidates[3 * after])
            ahead = rows_of(where, shift, places, n_places, sources, size, x_from)
            m_at = candidates[3 * current + 1] * all_columns * all_rows
            octant = candidates[3 * current + 2]
            fetched = fetch(box_rows, 0, multipoles, m_from, m_at, operators)
            of_rows = octant * all_rows + begin_rows
            of_columns = signs_of_columns + octant * all_columns
            put(fetched, xs, x_to, 0, ms, m_to, 0, signs, of_rows, i, of_columns, k)
            cuda.syncthreads()
            # the half of shared memory that is read
            half = 0
            for item in range(count):
                for stage in range(1, n_stages):
                    m_at += m_step
                    of_columns += x_step
                    fetched = fetch(
                        box_rows, stage * x_step, multipoles, m_from, m_at, operators
                    )
                    total = multiply(
                        total, quads, xs, half * x_size + x_here, ms, half * m_size + m_here
                    )
                    half = 1 - half
                    put(
                        fetched, xs, x_to, half * x_size, ms, m_to, half * m_size, signs, of_rows,
                        i, of_columns, k,
                    )  # fmt: skip
                    cuda.syncthreads()
                # the next code; after the last, the last again
                current, after = after, active[min(item + 2, count - 1)]
                box_rows = ahead
                shift = packed_shift(candidates[3 * after])
                ahead = rows_of(where, shift, places, n_places, sources, size, x_from)
                m_at = candidates[3 * current + 1] * all_columns * all_rows
                octant = candidates[3 * current + 2]
                of_rows = octant * all_rows + begin_rows
                of_columns = signs_of_columns + octant * all_columns
                fetched = fetch(box_rows, 0, multipoles, m_from, m_at, operators)
                total = multiply(
                    total, last_quads, xs, half * x_size + x_here, ms, half * m_size + m_here
                )
                half = 1 - half
                put(
                    fetched, xs, x_to, half * x_size, ms, m_to, half * m_size, signs, of_rows, i,
                    of_columns, k,
                )  # fmt: skip
                cuda.syncthreads()
        row = (cuda.blockIdx.z * (threads // lanes) + warp) * rows
        write(
            total, first + lane, lanes, n_columns, channels, start, boxes, row, n,
            part * n_boxes - begin, part_length, parts,
        )  # fmt: skip

    loop.bounds = threads, _BLOCKS
    return loop


@device
def tile_of_block(counts, channels, tile):
    """Return the class of a block's columns, and the first of them; `CLASSES` if it has none."""
    block = cuda.blockIdx.x
    for kind in range(CLASSES):
        tiles = (counts[kind] * channels + tile - 1) // tile
        if block < tiles:
            return kind, block * tile
        block -= tiles
    return CLASSES, 0


@device
def find_active(thread, threads, first, last, marks, begin, end, part, n_parts, active):
    """Write this part's codes with a source for some place of ``first ... last``, then how many."""
    n = end - begin
    low, high = n * part // n_parts, n * (part + 1) // n_parts
    for i in range(low + thread, high, threads):
        found = 0
        for group in range(first // GROUP, last // GROUP + 1):
            found |= marks[group * MOST_CANDIDATES + i]
        active[i - low] = found
    cuda.syncthreads()
    if thread == 0:
        count = 0
        for i in range(low, high):
            if active[i - low] > 0:
                active[count] = begin + i
                count += 1
        active[MOST_CANDIDATES] = count
    cuda.syncthreads()


@cache
def _multiplier(rows: int, columns: int, width: int, stride: int) -> Device:
    """Return the function for kernels that adds products to a thread's sums, four at a time."""
    lines = [
        "def multiply(sums, quads, xs, x_at, ms, m_at):",
        "    for _ in range(quads):",
        f"        x = read_columns(xs, x_at, {LANES} * stride)",
    ]
    for k in range(QUAD):
        each = ", ".join(f"(x[{j}][{k}],)" for j in range(columns))
        lines.append(f"        column = read(ms, m_at + {k * width})")
        lines.append(f"        sums = accumulated(0, (sums, column, {each}))[0]")
    lines += [f"        x_at += {QUAD}", f"        m_at += {QUAD * width}", "    return sums"]
    read_columns = repeated(
        columns, "xs, at, apart", "read(xs, at + {j} * apart)", read=loader(QUAD, QUAD)
    )
    return Device(
        written_out(
            "\n".join(lines), stride=stride, read=loader(rows, QUAD), read_columns=read_columns,
            accumulated=accumulated,
        )
    )  # fmt: skip


@cache
def _writer(rows: int, columns: int) -> Device:
    """Return the function for kernels that writes a thread's sums."""
    lines = [
        "def write(sums, column, lanes, n_columns, channels, start, boxes, row, n, before, length,"
        " out):"
    ]
    for j in range(columns):
        lines += [
            f"    here = column + {j} * lanes",
            "    if here < n_columns:",
            "        box = before + boxes[start + here // channels]",
            "        at = (box * channels + here % channels) * length + row",
        ]
        for i in range(rows):
            lines += [
                f"        if row + {i} < n:",
                f"            out[at + {i}] = sums[{j * rows + i}]",
            ]
    return Device(written_out("\n".join(lines)))
