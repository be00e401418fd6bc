"""Loops over pairs on the GPU: device arrays in, device arrays out, no checks.

A thread gathers the field at one target, for a group of channels, so that no two threads write to
one place and every run gives the same bits. Up to `MAX_EMITTED` orders the arithmetic of a pair is
written out (`multipoles.plain`) and everything of a thread stays in registers; above, one loop
serves all orders by tables, as on the CPU.

Positions, moments and results are flat arrays of one type; of moments and results, channels of a
point follow each other.
"""

from functools import cache, lru_cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from multipoles import indexing, plain
from multipoles.compiled.cuda_access import WIDEST, loader, storer, zeros
from multipoles.compiled.cuda_kernels import (
    REAL,
    SIMULATED,
    Device,
    cuda,
    kernels,
    rsqrt,
)
from multipoles.compiled.emit import emitted
from multipoles.cuda.device import Space
from multipoles.cuda.neighbours import DeviceNeighbours, DevicePairs
from multipoles.pairwise import square
from multipoles.radial import Coulomb, Kernel
from multipoles.radial.base import CUSTOM, KINDS

MAX_EMITTED = 6
THREADS = 4 if SIMULATED else 128
# records in shared memory start at multiples of this many numbers
ALIGNED = 4
# bytes of shared memory for a tile of sources
_SHARED = 40_000
# blocks that keep a large device busy
_BLOCKS = 2 if SIMULATED else 1024

coulomb_chain = emitted(plain.coulomb_chain)
signed_chain = emitted(plain.signed_chain)
add_field = emitted(plain.add_field)
add = emitted(plain.add)
times = emitted(plain.times)


@cache
def scalar_chain(kernel: int) -> Any:
    """Return the scalar function of a radial kernel as kernels call it, ``(…, out, 0, 1)``."""
    if kernel not in KINDS:
        raise ValueError(f"kernel: expected the code of a radial kernel, got {kernel}")
    function = KINDS[kernel].write_chain
    if kernel < CUSTOM:
        return function
    # what has this attribute is copied for the GPU
    write = SimpleNamespace(py_func=getattr(function, "py_func", function))

    def custom(r2, parameters, last, out, start, stride):
        # the unit of length is the last but one, see `Kernel.parameter_array`
        inverse = 1.0 / parameters[parameters.shape[0] - 2]
        square = inverse * inverse
        write(r2 * square, parameters, last, out)
        scale = inverse
        for n in range(last + 1):
            out[n] = out[n] * scale
            scale *= square

    return Device(custom)


@cache
def chain_function(orders_code: int, kernel: int) -> Device:
    """Return the function for kernels that makes g_0 ... g_top of a radial kernel; r2 may be 0."""
    source_order, order, _ = plain.orders_of_code(orders_code)
    top = source_order + order
    links, load = top + 1, loader(top + 1)
    if kernel == Coulomb.code:

        def coulomb(r2, parameters):
            return coulomb_chain(orders_code, ((rsqrt(r2),),))[0]

        return Device(coulomb)
    one = scalar_chain(kernel)

    def other(r2, parameters):
        work = cuda.local.array(links, REAL)
        for n in range(links):
            work[n] = 0.0
        if r2 > 0.0:
            one(r2, parameters, top, work, 0, 1)
        return signed_chain(orders_code, (load(work, 0),))[0]

    return Device(other)


def record_layout(n_in: int, threads: int) -> tuple[int, int]:
    """Return the length of a source's record in shared memory, and how many records it holds."""
    length = -(-(3 + n_in) // ALIGNED) * ALIGNED
    tile = threads
    while tile > 8 and tile * length * 8 > _SHARED:
        tile //= 2
    return length, tile


@kernels
def all_pairs(orders_code, kernel):
    """Sum all sources, in tiles; a block those of one part for some targets and channels."""
    source_order, order, group = plain.orders_of_code(orders_code)
    n_in, n_out = (group * indexing.n_components(n) for n in (source_order, order))
    chain_of = chain_function(orders_code, kernel)
    length, tile = record_layout(n_in, THREADS)
    size = length * tile
    load, store, zero = loader(length, ALIGNED), storer(n_out), zeros(n_out)
    end_of_moments = 3 + n_in

    def loop(targets, sources, moments, parameters, channels, part, out):
        records = cuda.shared.array(size, REAL, WIDEST)
        thread = cuda.threadIdx.x
        n_targets, n_sources = targets.shape[0] // 3, sources.shape[0] // 3
        i = cuda.blockIdx.x * THREADS + thread
        here = min(i, n_targets - 1)
        x, y, z = targets[3 * here], targets[3 * here + 1], targets[3 * here + 2]
        begin = cuda.blockIdx.y * part
        end = min(begin + part, n_sources)
        row, column = channels * n_in // group, cuda.blockIdx.z * n_in
        total = zero()
        for first in range(begin, end, tile):
            cuda.syncthreads()
            for k in range(thread, size, THREADS):
                item, j = k % length, first + k // length
                value = 0.0  # no moments beyond the end, so that every tile is full
                if item < 3:
                    value = sources[3 * min(j, end - 1) + item]
                elif item < end_of_moments and j < end:
                    value = moments[j * row + column + item - 3]
                records[k] = value
            cuda.syncthreads()
            some = zero()
            # not a range: its counting would cost as much as a charge's arithmetic
            place = 0
            while place < size:
                source = load(records, place)
                r = (x - source[0], y - source[1], z - source[2])
                chain = chain_of(square(r[0], r[1], r[2]), parameters)
                some = add_field(orders_code, (some, chain, r, source[3:end_of_moments]))[0]
                place += length
            # the sum of sums keeps the digits that one long sum would lose
            total = add(orders_code, (total, some))[0]
        if i < n_targets:
            width = channels * n_out // group
            row = (cuda.blockIdx.y * n_targets + i) * width
            store(out, row + cuda.blockIdx.z * n_out, total)

    return loop


@kernels
def own_pairs(orders_code, kernel, step, listed, weighted):
    """Sum the sources of each target: a range (step 2), or a row of a list (step 1)."""
    source_order, order, group = plain.orders_of_code(orders_code)
    n_in, n_out = (group * indexing.n_components(n) for n in (source_order, order))
    point, load, store, zero = loader(3), loader(n_in), storer(n_out), zeros(n_out)
    chain_of = chain_function(orders_code, kernel)

    def loop(targets, sources, moments, parameters, channels, bounds, list_, weights, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= targets.shape[0] // 3:
            return
        here = point(targets, 3 * i)
        row, column = channels * n_in // group, cuda.blockIdx.y * n_in
        total = zero()
        k, end = bounds[step * i], bounds[step * i + 1]
        while k < end:
            j = list_[k] if listed else k
            there = point(sources, 3 * j)
            r = (here[0] - there[0], here[1] - there[1], here[2] - there[2])
            chain = chain_of(square(r[0], r[1], r[2]), parameters)
            if weighted:
                chain = times(orders_code, (chain, (weights[k],)))[0]
            total = add_field(orders_code, (total, chain, r, load(moments, j * row + column)))[0]
            k += 1
        store(out, i * (channels * n_out // group) + cuda.blockIdx.y * n_out, total)

    return loop


@cache
def add_pair_of_any_order(top: int, kernel: int) -> Device:
    """Return the function for kernels that adds the field of one source, by tables."""
    links = top + 1
    one = scalar_chain(kernel)

    def add_pair(
        targets, i, sources, j, moments, source, weight, parameters, chain, tensor, recursion,
        factors, levels, places, signs, out, start,
    ):  # fmt: skip
        x = targets[3 * i] - sources[3 * j]
        y = targets[3 * i + 1] - sources[3 * j + 1]
        z = targets[3 * i + 2] - sources[3 * j + 2]
        r2 = square(x, y, z)
        for n in range(links):
            chain[n] = 0.0
        if r2 > 0.0:
            one(r2, parameters, top, chain, 0, 1)
        for n in range(1, links, 2):
            chain[n] = -chain[n]
        tensor[0] = chain[top]
        for n in range(top - 1, -1, -1):
            for row in range(levels[top - n] - 1, 0, -1):
                axis = recursion[row, 0]
                step = x if axis == 0 else (y if axis == 1 else z)
                value = step * tensor[recursion[row, 1]]
                tensor[row] = value + tensor[recursion[row, 2]] * factors[row]
            tensor[0] = chain[n]
        n_out, n_in = places.shape
        for beta in range(n_out):
            value = 0.0
            for alpha in range(n_in):
                value += moments[source + alpha] * signs[alpha] * tensor[places[beta, alpha]]
            out[start + beta] += value * weight

    return Device(add_pair)


@kernels
def own_pairs_of_any_order(top, kernel, step, listed, weighted):
    """Sum them for orders whose arithmetic is too long to write out."""
    rows = indexing.n_components(top)
    links = top + 1
    add_pair = add_pair_of_any_order(top, kernel)

    def loop(
        targets, sources, moments, parameters, channels, bounds, list_, weights, recursion, factors,
        levels, places, signs, out,
    ):  # fmt: skip
        chain = cuda.local.array(links, REAL)
        tensor = cuda.local.array(rows, REAL)
        i, channel = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y
        if i >= targets.shape[0] // 3:
            return
        n_out, n_in = places.shape
        start = (i * channels + channel) * n_out
        for beta in range(n_out):
            out[start + beta] = 0.0
        for k in range(bounds[step * i], bounds[step * i + 1]):
            j = list_[k] if listed else k
            weight = weights[k] if weighted else 1.0
            add_pair(
                targets, i, sources, j, moments, (j * channels + channel) * n_in, weight,
                parameters, chain, tensor, recursion, factors, levels, places, signs, out, start,
            )  # fmt: skip

    return loop


@kernels
def sum_parts():
    """Add the parts of every number, in order."""

    def loop(parts, n, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < out.shape[0]:
            value = parts[i]
            for part in range(1, n):
                value += parts[part * out.shape[0] + i]
            out[i] = value

    return loop


# --- launches -------------------------------------------------------------------------------------


def blocks_for(n: int) -> int:
    """Return how many blocks have a thread for each of n items."""
    return -(-n // THREADS)


def field(
    space: Space,
    targets: Any,
    sources: Any,
    moments: Any,
    order: int,
    kernel: Kernel,
    neighbours: DeviceNeighbours,
) -> Any:
    """Return the field of multipoles at the targets, on the device.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    targets, sources : device array, shape (n, 3)
        Contiguous, of one dtype.
    moments : device array, shape (n_sources, channels, n_components(K))
    order : int
        Highest derivative.
    kernel : Kernel
    neighbours : DeviceNeighbours
        Which pairs.

    Returns
    -------
    device array, shape (n_targets, channels, n_components(order))
    """
    n, channels, n_in = len(targets), moments.shape[1], moments.shape[2]
    shape = (n, channels, indexing.n_components(order))
    dtype = np.dtype(targets.dtype)
    out = space.empty(shape, dtype)
    if out.size == 0 or len(sources) == 0:
        return fill(space, out, 0.0)
    flat = out.reshape(-1)
    arrays = tuple(array.reshape(-1) for array in (targets, sources, moments))
    parameters = parameters_of(space, kernel, dtype)
    source_order = indexing.order_of(n_in)
    if source_order + order > MAX_EMITTED:
        _of_any_order(space, dtype, arrays, parameters, channels, source_order, order, kernel,
                      neighbours, flat)  # fmt: skip
        return out
    group = channel_group(source_order, order, channels)
    orders_code = plain.code_of_orders(source_order, order, group)
    if neighbours.is_complete:
        _all_pairs(space, dtype, orders_code, kernel, arrays, parameters, channels, flat)
        return out
    bounds, list_, weights, flags = _own(space, neighbours, dtype)
    own_pairs(orders_code, kernel.code, *flags)(
        space.stream, dtype, (blocks_for(n), channels // group), THREADS, *arrays, parameters,
        channels, bounds, list_, weights, flat,
    )  # fmt: skip
    return out


def channel_group(source_order: int, order: int, channels: int) -> int:
    """Return how many channels a thread takes: what they share is computed once."""
    numbers = indexing.n_components(order)
    # more derivatives than that leave no registers for a second channel
    if source_order + order > 4:
        return 1
    return next(g for g in (4, 2, 1) if channels % g == 0 and (g == 1 or g * numbers <= 40))


def _all_pairs(
    space: Space, dtype: np.dtype, orders_code: int, kernel: Kernel, arrays: tuple[Any, ...],
    parameters: Any, channels: int, out: Any,
) -> None:  # fmt: skip
    targets, sources, _ = arrays
    group = plain.orders_of_code(orders_code)[2]
    blocks, groups = blocks_for(targets.shape[0] // 3), channels // group
    n_sources = sources.shape[0] // 3
    # few targets in many sources: the sources are divided too
    parts = max(1, min(_BLOCKS // (blocks * groups), blocks_for(n_sources)))
    length = -(-n_sources // parts)
    parts = -(-n_sources // length)
    sums = out if parts == 1 else space.empty((parts * out.shape[0],), dtype)
    all_pairs(orders_code, kernel.code)(
        space.stream, dtype, (blocks, parts, groups), THREADS, *arrays, parameters, channels,
        length, sums,
    )  # fmt: skip
    if parts > 1:
        sum_parts()(space.stream, dtype, blocks_for(out.shape[0]), THREADS, sums, parts, out)


def _own(
    space: Space, neighbours: Any, dtype: np.dtype
) -> tuple[Any, Any, Any, tuple[int, int, int]]:
    """Return bounds, list and weights of each target's sources, and what kernels ask of them."""
    nothing = space.constant(("nothing", dtype.name), lambda: np.zeros(1, dtype))
    if not isinstance(neighbours, DevicePairs):
        bounds = neighbours.ranges(space)
        return bounds, bounds, nothing, (2, 0, 0)
    starts, list_, weights = neighbours.rows(space, dtype)
    weighted = weights is not None
    return starts, list_, weights if weighted else nothing, (1, 1, int(weighted))


def _of_any_order(
    space: Space, dtype: np.dtype, arrays: tuple[Any, ...], parameters: Any, channels: int,
    source_order: int, order: int, kernel: Kernel, neighbours: Any, out: Any,
) -> None:  # fmt: skip
    top = source_order + order
    bounds, list_, weights, flags = _own(space, neighbours, dtype)
    tables = tables_of_any_order(space, source_order, order, dtype)
    own_pairs_of_any_order(top, kernel.code, *flags)(
        space.stream, dtype, (blocks_for(arrays[0].shape[0] // 3), channels), THREADS, *arrays,
        parameters, channels, bounds, list_, weights, *tables, out,
    )  # fmt: skip


def parameters_of(space: Space, kernel: Kernel, dtype: np.dtype) -> Any:
    """Return the parameters of a radial kernel on the device."""
    return space.constant((kernel, dtype.name), lambda: kernel.parameter_array.astype(dtype))


def tables_of_any_order(
    space: Space, source_order: int, order: int, dtype: np.dtype
) -> tuple[Any, ...]:
    """Return what loops for any order read, on the device."""
    names = ("recursion", "factors", "levels", "places", "signs")
    made = _tables(source_order, order, dtype)
    return tuple(
        space.constant((name, source_order, order, dtype.name), partial(np.asarray, array))
        for name, array in zip(names, made, strict=True)
    )


@lru_cache(maxsize=64)
def _tables(source_order: int, order: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return recursion, its factors, sizes of levels, places of products, and signs of moments."""
    top = source_order + order
    table = indexing.recursion_table(top)
    recursion = np.stack([table.axis, table.parent, table.grandparent], axis=1).astype(np.int32)
    levels = np.array([indexing.n_components(n) for n in range(top + 1)], np.int32)
    places = np.ascontiguousarray(indexing.sum_index(source_order, order).T.astype(np.int32))
    signs = indexing.signs(source_order).astype(dtype)
    return recursion, table.weight.astype(dtype), levels, places, signs


@kernels
def _fill():
    def loop(value, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < out.shape[0]:
            out[i] = value

    return loop


def fill(space: Space, array: Any, value: float) -> Any:
    """Set all numbers of an array of reals; return it."""
    flat = array.reshape(-1)
    _fill()(space.stream, array.dtype, blocks_for(flat.shape[0]), THREADS, value, flat)
    return array
