"""How many targets and sources a loop over pairs takes at once: as registers and latencies allow.

A vector of `BYTES` is one register of AVX-512, two of AVX2, four of NEON or SSE. Loops under 1/r
take as many registers of sources at once as leave half of all for what is not a sum.
"""

from typing import Any, NamedTuple

from multipoles.compiled.instructions import registers
from multipoles.compiled.simd import BYTES
from multipoles.emitted import traceless

#: Sources whose distances are written to a buffer at once: a multiple of every vector.
RUN = 256
#: Length of a row of that buffer: a vector more.
PITCH = RUN + 16


class Tiling(NamedTuple):
    """What a loop takes at once."""

    lanes: int
    """Sources of a vector."""
    targets: int
    """Targets that share the load of a vector of sources."""
    sources: int
    """Vectors of sources that share an estimate of 1/r, or the load and store of sums."""
    ahead: bool
    """Whether 1/r of the next vector is kept in registers while one is summed."""


def tiling(
    context: Any, itemsize: int, orders: tuple[int, int], single: bool, damped: bool
) -> Tiling:
    """Return what a loop takes at once on the processor that is compiled for."""
    size, count = registers(context)
    targets = targets_at_once(*orders, single)
    sources = sources_at_once(*orders, single, damped)
    if size == BYTES:
        return Tiling(BYTES // itemsize, targets, sources, single)
    if damped:
        return Tiling(BYTES // itemsize, 1, 1, single)
    if not single:
        return Tiling(size // itemsize, targets, sources, False)
    # sums in half of the registers
    n_sums = len(traceless.sum_names(orders[1]))
    wide = min(max(count // 2 // n_sums, 1), BYTES // size)
    wide = 1 << (wide.bit_length() - 1)
    # an estimate for float32 serves two registers of float64
    sources = 2 if wide == 1 and itemsize == 8 else 1
    return Tiling(wide * size // itemsize, 1, sources, False)


def targets_at_once(source_order: int, order: int, single: bool) -> int:
    """Return how many targets share the load of a source, at most."""
    if single:
        return 2 if order <= 1 else 1
    if order == 0:
        return 2 if source_order <= 1 else 4
    return 2 if source_order == 0 and order == 1 else 1


def sources_at_once(source_order: int, order: int, single: bool, damped: bool = False) -> int:
    """Return how many vectors of sources share the load and store of a channel's sums."""
    if single or damped or traceless.has_products(source_order, order):
        return 1
    return {0: 4, 1: 2}.get(source_order, 1)
