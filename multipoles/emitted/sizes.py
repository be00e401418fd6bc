"""Sizes of what loops over pairs read and write: blocks of sources, sums, scratch."""

from typing import Any

from multipoles.emitted import traceless, traces
from multipoles.emitted.tiling import PITCH, sources_at_once, targets_at_once

# bytes of a block of sources, which should stay in the first cache
_BLOCK = 49152
# the number of sources in a block is a multiple of this
_STEP = 64


def arithmetic(damped: bool) -> Any:
    """Return the module of the arithmetic: that of 1/r, or that of damped kernels."""
    return traces if damped else traceless


def chunk(n_rows: int, itemsize: int) -> int:
    """Return how many sources a block of so many rows holds: a multiple of every `step`."""
    fitting = _BLOCK // (n_rows * itemsize) // _STEP * _STEP
    return min(max(fitting, _STEP), 8192 // itemsize)


def n_places(split: bool) -> int:
    """Return the number of rows of coordinates."""
    return 6 if split else 3


def width(
    source_order: int, order: int, itemsize: int, damped: bool = False, split: bool = False
) -> int:
    """Return the length of a row of a block.

    It is a vector longer than a chunk: copies are made in whole vectors, and rows whose bytes were
    a power of two would compete for the few cache lines of addresses that are equal modulo 4096.
    """
    n_rows = n_places(split) + len(arithmetic(damped).row_names(source_order, order))
    return chunk(n_rows, itemsize) + 64 // itemsize


def padded_sums(order: int, itemsize: int, damped: bool = False) -> int:
    """Return the number of sums of a target and channel, rounded up to whole vectors."""
    lanes = 64 // itemsize
    return -(-len(arithmetic(damped).sum_names(order)) // lanes) * lanes


def step(source_order: int, order: int, single: bool, lanes: int, damped: bool = False) -> int:
    """Return of what the number of sources in a block must be a multiple."""
    return lanes * sources_at_once(source_order, order, single, damped)


def n_scratch(
    source_order: int, order: int, channels: int, itemsize: int, damped: bool = False
) -> int:
    """Return the length of the scratch for the sums of a group of targets."""
    n = targets_at_once(source_order, order, channels == 1)
    n *= len(arithmetic(damped).sum_names(order))
    return channels * n * 64 // itemsize


def n_links(total_order: int, itemsize: int, damped: bool = False) -> int:
    """Return the length of the scratch for links of a chain, or for distances under 1/r."""
    return (total_order + 1) * 64 // itemsize if damped else 8 * PITCH
