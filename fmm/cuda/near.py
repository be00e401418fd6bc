"""The near field on the GPU: blocks of targets of a leaf run through the sources near to it.

Sources are packed once and the arithmetic of a pair is that of direct sums, see
`multipoles.cuda.records`. A leaf of many targets has several blocks; where few targets are left,
more threads share the sources of each.
"""

import numpy as np

from fmm.cuda.curve import DeviceArray
from multipoles import indexing, plain
from multipoles.compiled.cuda_access import loader, zeros
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, cuda, kernels
from multipoles.cuda.arithmetic import (
    MAX_EMITTED,
    add_pair_of_any_order,
    channel_group,
    parameters_of,
    tables_of_any_order,
)
from multipoles.cuda.device import Space
from multipoles.cuda.records import (
    cell_size,
    gather_function,
    groups_for,
    packed,
    sum_of_records,
    targets_of_thread,
)
from multipoles.radial import Coulomb, Kernel

# logarithms of the threads of a block, and of the columns that have targets of their own
_LOG_THREADS = 2 if SIMULATED else 5
_LOG_COLUMNS = 1 if SIMULATED else 5
THREADS = 1 << _LOG_THREADS
_MOST_SHARES = 16
_COULOMB = Coulomb()


def near_field(
    space: Space,
    targets: DeviceArray,
    sources: DeviceArray,
    moments: DeviceArray,
    order: int,
    leaf_targets: DeviceArray,
    range_starts: DeviceArray,
    ranges: DeviceArray,
    out: DeviceArray,
    kernel: Kernel = _COULOMB,
) -> None:
    """Write the field of all near sources at the targets of leaves; see `fmm.near`.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    targets, sources : device array, shape (n, 3)
        In tree order, of one dtype.
    moments : device array, shape (n_sources, channels, n_components(K))
    order : int
        Highest derivative.
    leaf_targets : device array of int64, shape (n_leaves, 2)
        Range of targets of each leaf.
    range_starts : device array of int64, shape (n_leaves + 1,)
        Leaf l is near the sources in ``ranges[range_starts[l] : range_starts[l + 1]]``.
    ranges : device array of int64, shape (n_ranges, 2)
        Ranges of sources.
    out : device array, shape (n_targets, channels, n_components(order))
        Overwritten at the targets of all leaves.
    kernel : Kernel
        Radial kernel.
    """
    n_leaves, channels = leaf_targets.shape[0], moments.shape[1]
    if out.size == 0 or n_leaves == 0:
        return
    dtype = np.dtype(targets.dtype)
    source_order = indexing.order_of(moments.shape[2])
    points, there, values = (array.reshape(-1) for array in (targets, sources, moments))
    leaves = tuple(array.reshape(-1) for array in (leaf_targets, range_starts, ranges))
    parameters = parameters_of(space, kernel, dtype)
    flat = out.reshape(-1)
    if source_order + order > MAX_EMITTED:
        tables = tables_of_any_order(space, source_order, order, dtype)
        _near_of_any_order(source_order + order, kernel.code)(
            space.stream, dtype, (n_leaves, channels), THREADS, points, there, values, parameters,
            channels, *leaves, *tables, flat,
        )  # fmt: skip
        return
    group = channel_group(source_order, order, channels)
    code = plain.code_of_orders(source_order, order, group)
    mean = -(-targets.shape[0] // n_leaves)
    shares = min(-(-mean // (targets_of_thread(code) << _LOG_COLUMNS)), _MOST_SHARES)
    _near(code, kernel.code)(
        space.stream, dtype, (n_leaves * shares, channels // group), THREADS, points,
        packed(space, there, values, channels, code), sources.shape[0], parameters,
        flat.shape[0] // targets.shape[0], shares, *leaves, flat,
    )  # fmt: skip


@kernels
def _near(orders_code, kernel):
    """Write the near field; a block takes every so many-th run of targets of a leaf."""
    _, order, group = plain.orders_of_code(orders_code)
    n_out, held = group * indexing.n_components(order), targets_of_thread(orders_code)
    add_range = sum_of_records(orders_code, kernel, cell_size(orders_code, kernel))
    gather = gather_function(n_out, THREADS)
    point, pair, zero = loader(3), loader(2), zeros(n_out)
    most, size, two = held << _LOG_COLUMNS, THREADS * n_out, held == 2

    def loop(
        targets, records, n_sources, parameters, width, shares, leaf_targets, range_starts, ranges,
        out,
    ):  # fmt: skip
        shared = cuda.shared.array(size, REAL)
        thread, leaf = cuda.threadIdx.x, cuda.blockIdx.x // shares
        before = cuda.blockIdx.y * n_sources
        held_by, own = pair(leaf_targets, 2 * leaf), pair(range_starts, leaf)
        begin = held_by[0] + (cuda.blockIdx.x - leaf * shares) * most
        last = held_by[1]
        while begin < last:
            stop = min(begin + most, last)
            while begin < stop:
                shift = groups_for(stop - begin, _LOG_THREADS, _LOG_COLUMNS, held)
                groups, columns = 1 << shift, THREADS >> shift
                group, column = thread >> (_LOG_THREADS - shift), thread & (columns - 1)
                here = point(targets, 3 * min(begin + column, stop - 1))
                there = point(targets, 3 * min(begin + columns + column, stop - 1))
                first, second = zero(), zero()
                for at in range(own[0], own[1]):
                    range_ = pair(ranges, 2 * at)
                    first, second = add_range(
                        records, before + range_[0], before + range_[1], group, groups, here,
                        there, parameters, first, second,
                    )  # fmt: skip
                place = begin * width + cuda.blockIdx.y * n_out
                count = stop - begin
                gather(shared, first, thread, thread, groups, columns, count, out, place, width,
                       False)  # fmt: skip
                if two:
                    place += columns * width
                    count -= columns
                    gather(shared, second, thread, thread, groups, columns, count, out, place,
                           width, False)  # fmt: skip
                begin += min(stop - begin, held * columns)
            begin += (shares - 1) * most

    return loop


@kernels
def _near_of_any_order(top, kernel):
    """Write it for orders whose arithmetic is too long to write out."""
    rows = indexing.n_components(top)
    links = top + 1
    add_pair = add_pair_of_any_order(top, kernel)

    def loop(
        targets, sources, moments, parameters, channels, leaf_targets, range_starts, ranges,
        recursion, factors, levels, places, signs, out,
    ):  # fmt: skip
        chain = cuda.local.array(links, REAL)
        tensor = cuda.local.array(rows, REAL)
        leaf, channel = cuda.blockIdx.x, cuda.blockIdx.y
        n_out, n_in = places.shape
        for i in range(
            leaf_targets[2 * leaf] + cuda.threadIdx.x, leaf_targets[2 * leaf + 1], THREADS
        ):
            start = (i * channels + channel) * n_out
            for beta in range(n_out):
                out[start + beta] = 0.0
            for at in range(range_starts[leaf], range_starts[leaf + 1]):
                for j in range(ranges[2 * at], ranges[2 * at + 1]):
                    add_pair(
                        targets, i, sources, j, moments, (j * channels + channel) * n_in, 1.0,
                        parameters, chain, tensor, recursion, factors, levels, places, signs, out,
                        start,
                    )  # fmt: skip

    return loop
