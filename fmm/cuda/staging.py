"""How a grouped product on the GPU is divided, and how its factors come to shared memory.

Each thread of a block brings its share: first from memory to registers, then, when what was there
is used up, to shared memory. What exceeds the last share is done twice, with the same result.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fmm.cuda.columns import slot_of
from multipoles.compiled.cuda_access import loader
from multipoles.compiled.cuda_kernels import SIMULATED, Device, device
from multipoles.compiled.cuda_vectors import repeated, wide_storer, written_out
from multipoles.compiled.emit import emitted

# threads of a warp; all that counts here is that they run together
LANES = 2 if SIMULATED else 32
# rows of a matrix that a warp may take, and warps of a block
_LEAST_ROWS, _MOST_ROWS = 8, 13
_WARPS = 2 if SIMULATED else 4
# numbers read at once, and how many of these are computed between two barriers
QUAD = 4
QUADS = 3
DEPTH = QUAD * QUADS
def padded(n: int) -> int:
    """Return the length of a row of n numbers that is read four at a time."""
    return -(-n // QUAD) * QUAD


class Shape(NamedTuple):
    """How a product with n rows is divided.

    Attributes
    ----------
    rows : int
        Of each warp.
    warps, row_blocks : int
        Of each block, and blocks that share a column's rows.
    columns : int
        Of each thread.
    depth : int
        Columns of the matrix, a multiple of what is computed at once.
    """

    rows: int
    warps: int
    row_blocks: int
    columns: int
    depth: int

    @property
    def tile(self) -> int:
        """Columns of a block."""
        return LANES * self.columns

    @property
    def room(self) -> int:
        """Numbers between the rows of two warps."""
        return padded(self.rows)

    @property
    def width(self) -> int:
        """Rows of a block, with room."""
        return self.warps * self.room


@cache
def shape_of(n: int, wide: int) -> Shape:
    """Return how a product with n rows is divided, of float64 numbers if `wide`."""

    def divided(rows: int) -> tuple[int, int]:
        stretches = -(-n // rows)
        # fewer warps than they might be have larger shares, and more registers
        warps = _WARPS if stretches > 2 else stretches
        return warps, -(-stretches // warps)

    def cost(rows: int) -> float:
        # a stretch of rows costs its products and its loads, empty rows too; a block its sources
        warps, row_blocks = divided(rows)
        return row_blocks * (warps * (rows + 1.5) + 6)

    rows = min(range(_MOST_ROWS, _LEAST_ROWS - 1, -1), key=cost)
    warps, row_blocks = divided(rows)
    columns = 2 if SIMULATED or wide else 4
    depth = -(-n // DEPTH) * DEPTH
    return Shape(rows, warps, row_blocks, columns, depth)


# numbers, or what stands for them while a kernel is compiled, see `multipoles.compiled.emit`
Numbers = list[Any]


def _signed(orders: int, values: Numbers, of_rows: Numbers, of_column: Numbers) -> list[Numbers]:
    """Return entries of one column of a matrix between reflected boxes."""
    return [[v * (r * of_column[0]) for v, r in zip(values, of_rows, strict=True)]]


signed = emitted(_signed)


class Staging(NamedTuple):
    """Functions for kernels, each for a thread's shares of one stretch of a product.

    Attributes
    ----------
    stride : int
        Numbers between two columns in shared memory: an odd multiple of 16 bytes, so that threads
        that read neighbouring columns find them in different banks.
    places, x_from, x_to : Device
        Where the columns of the shares are: their places, where their coefficients start in a row
        of `multipoles`, and in shared memory.
    m_from, m_to, i_of, k_of : Device
        Where the entries of the shares are in a matrix, and in shared memory; row and column.
    origins, rows : Device
        Origins of the places, and where the rows of `multipoles` that hold the sources of a code
        start.
    fetch, put : Device
        From memory to registers; from there, with signs, to shared memory.
    """

    stride: int
    places: Device
    x_from: Device
    x_to: Device
    m_from: Device
    m_to: Device
    i_of: Device
    k_of: Device
    origins: Device
    rows: Device
    fetch: Device
    put: Device


@device
def row_of(origin, shift, place, n_places, sources, size):
    """Return where the row of multipoles that holds the source of a place starts."""
    slot = slot_of(origin, shift)
    return sources[slot * n_places + place] * size if slot >= 0 else 0


@cache
def staging(n: int, wide: int) -> Staging:
    """Return the functions for products with n rows, of float64 numbers if `wide`."""
    shape = shape_of(n, wide)
    threads, stride = LANES * shape.warps, DEPTH + 2 * wide
    vectors, all_rows = shape.width // QUAD, shape.row_blocks * shape.width
    x_shares, m_shares = -(-shape.tile * QUADS // threads), -(-DEPTH * vectors // threads)
    # what exceeds the last share is done twice: the last column, or the last entries
    share = f"(thread + {{j}} * {threads})"
    column = f"min({share} // {QUADS}, {shape.tile - 1})"
    quad = f"{share} % {QUADS} * {QUAD}"
    entry = f"min({share}, {DEPTH * vectors - 1})"
    k, i = f"{entry} // {vectors}", f"{entry} % {vectors} * {QUAD}"
    here = f"min(first + {column}, last)"

    def of_x(arguments: str, item: str, **scope: Any) -> Device:
        return repeated(x_shares, arguments, f"int32({item})", int32=np.int32, **scope)

    def of_m(arguments: str, item: str) -> Device:
        return repeated(m_shares, arguments, f"int32({item})", int32=np.int32)

    return Staging(
        stride,
        of_x("thread, first, last, channels, start", f"start + {here} // channels"),
        of_x("thread, first, last, channels, length", f"{here} % channels * length + {quad}"),
        of_x("thread", f"{column} * {stride} + {quad}"),
        of_m("thread, begin", f"begin + {k} * {all_rows} + {i}"),
        of_m("thread", f"{k} * {shape.width} + {i}"),
        of_m("thread", i),
        of_m("thread", k),
        of_x("origins, places", "origins[places[{j}]]"),
        repeated(
            x_shares, "origins, shift, places, n_places, sources, size, x_from",
            "row_of(origins[{j}], shift, places[{j}], n_places, sources, size) + x_from[{j}]",
            row_of=row_of,
        ),
        _fetch(x_shares, m_shares),
        _put(x_shares, m_shares),
    )  # fmt: skip


def _fetch(x_shares: int, m_shares: int) -> Device:
    """Return what reads the shares of a stretch."""
    xs = "".join(f"read(multipoles, rows[{j}] + x_at), " for j in range(x_shares))
    ms = "".join(f"read(operators, m_from[{j}] + m_at), " for j in range(m_shares))
    source = (
        "def fetch(rows, x_at, multipoles, m_from, m_at, operators):\n"
        f"    return ({xs}), ({ms})"
    )
    return Device(written_out(source, read=loader(QUAD, QUAD)))


def _put(x_shares: int, m_shares: int) -> Device:
    """Return what writes the shares of a stretch to shared memory."""
    lines = ["def put(fetched, xs, x_to, x_at, ms, m_to, m_at, signs, rows, i_of, columns, k_of):"]
    for j in range(m_shares):
        lines += [
            f"    of_rows, of_column = read(signs, rows + i_of[{j}]), signs[columns + k_of[{j}]]",
            f"    values = signed(0, (fetched[1][{j}], of_rows, (of_column,)))[0]",
            f"    write(ms, m_at + m_to[{j}], values)",
        ]
    lines += [f"    write(xs, x_at + x_to[{j}], fetched[0][{j}])" for j in range(x_shares)]
    return Device(
        written_out("\n".join(lines), read=loader(QUAD, QUAD), write=wide_storer(QUAD), signed=signed)
    )
