"""The near field on the GPU: a block for each leaf, its sources in tiles of shared memory.

The arithmetic of a pair is that of `multipoles.cuda.direct`.
"""

import numpy as np

from fmm.cuda.curve import DeviceArray
from multipoles import indexing, plain
from multipoles.compiled.cuda_access import WIDEST, loader, storer, zeros
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.direct import (
    ALIGNED,
    MAX_EMITTED,
    add,
    add_field,
    add_pair_of_any_order,
    chain_function,
    channel_group,
    parameters_of,
    record_layout,
    tables_of_any_order,
)
from multipoles.pairwise import square
from multipoles.radial import Coulomb, Kernel

THREADS = 4 if SIMULATED else 64
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
    arrays = tuple(array.reshape(-1) for array in (targets, sources, moments))
    leaves = tuple(array.reshape(-1) for array in (leaf_targets, range_starts, ranges))
    parameters = parameters_of(space, kernel, dtype)
    flat = out.reshape(-1)
    if source_order + order > MAX_EMITTED:
        tables = tables_of_any_order(space, source_order, order, dtype)
        _near_of_any_order(source_order + order, kernel.code)(
            space.stream, dtype, (n_leaves, channels), THREADS, *arrays, parameters, channels,
            *leaves, *tables, flat,
        )  # fmt: skip
        return
    group = channel_group(source_order, order, channels)
    orders_code = plain.code_of_orders(source_order, order, group)
    _near(orders_code, kernel.code)(
        space.stream, dtype, (n_leaves, channels // group), THREADS, *arrays, parameters, channels,
        *leaves, flat,
    )  # fmt: skip


@kernels
def _near(orders_code, kernel):
    """Write the near field of leaves: a block's threads take its targets, some at a time."""
    source_order, order, group = plain.orders_of_code(orders_code)
    n_in, n_out = (group * indexing.n_components(n) for n in (source_order, order))
    chain_of = chain_function(orders_code, kernel)
    length, tile = record_layout(n_in, THREADS)
    size = length * tile
    load, store, zero = loader(length, ALIGNED), storer(n_out), zeros(n_out)
    point, end_of_moments = loader(3), 3 + n_in

    def loop(
        targets, sources, moments, parameters, channels, leaf_targets, range_starts, ranges, out
    ):
        records = cuda.shared.array(size, REAL, WIDEST)
        thread, leaf = cuda.threadIdx.x, cuda.blockIdx.x
        row, column = channels * n_in // group, cuda.blockIdx.y * n_in
        last = leaf_targets[2 * leaf + 1]
        for begin in range(leaf_targets[2 * leaf], last, THREADS):
            i = begin + thread
            here = point(targets, 3 * min(i, last - 1))
            total = zero()
            for at in range(range_starts[leaf], range_starts[leaf + 1]):
                stop = ranges[2 * at + 1]
                for first in range(ranges[2 * at], stop, tile):
                    full = length * min(tile, stop - first)
                    cuda.syncthreads()
                    for k in range(thread, full, THREADS):
                        item, j = k % length, first + k // length
                        value = 0.0
                        if item < 3:
                            value = sources[3 * j + item]
                        elif item < end_of_moments:
                            value = moments[j * row + column + item - 3]
                        records[k] = value
                    cuda.syncthreads()
                    some = zero()
                    offset = 0
                    # a warp without targets only helps to copy
                    end = full if begin + thread // 32 * 32 < last else 0
                    while offset < end:
                        source = load(records, offset)
                        r = (here[0] - source[0], here[1] - source[1], here[2] - source[2])
                        chain = chain_of(square(r[0], r[1], r[2]), parameters)
                        some = add_field(orders_code, (some, chain, r, source[3:end_of_moments]))[0]
                        offset += length
                    total = add(orders_code, (total, some))[0]
            if i < last:
                width = channels * n_out // group
                store(out, i * width + cuda.blockIdx.y * n_out, total)

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
