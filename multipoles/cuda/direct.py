"""Loops over pairs on the GPU: device arrays in, device arrays out, no checks.

Two ways to sum, chosen by numbers that the host knows. Many targets that all meet the same
sources: these are packed, and blocks of targets run through them (`multipoles.cuda.records`). Else
the threads of a block share the sources of each target, more of them where there are fewer
targets. No two threads write to one place, and sums are added in fixed order: every run gives the
same bits.

Positions, moments and results are flat arrays of one type; of moments and results, channels of a
point follow each other.
"""

from functools import cache
from typing import Any

import numpy as np

from multipoles import indexing, plain
from multipoles.compiled.cuda_access import loader, zeros
from multipoles.compiled.cuda_kernels import REAL, SIMULATED, Device, cuda, kernels
from multipoles.cuda.arithmetic import (
    MAX_EMITTED,
    add_field,
    add_pair_of_any_order,
    chain_function,
    channel_group,
    parameters_of,
    tables_of_any_order,
    times,
)
from multipoles.cuda.device import Space
from multipoles.cuda.neighbours import DeviceNeighbours, DevicePairs
from multipoles.cuda.records import (
    cell_size,
    gather_function,
    packed,
    sum_of_records,
    targets_of_thread,
)
from multipoles.pairwise import square
from multipoles.radial import Coulomb, Kernel

THREADS = 4 if SIMULATED else 128
# threads of blocks that sum pairs
TEAM = 4 if SIMULATED else 64
# pairs of all with all from which packing the sources pays
_TILED = 50 if SIMULATED else 1 << 24
# blocks, and threads that share sources, which keep a large device busy
_BLOCKS = 4 if SIMULATED else 1 << 14
_BUSY = 64 if SIMULATED else 1 << 17
# sources of a part, or of a thread, that are worth a sum of their own
_LEAST_PART = 4 if SIMULATED else 128
_LEAST_ROW = 2
_MOST_PARTS = 64


# --- many targets and the same sources for all ----------------------------------------------------


@kernels
def all_pairs(orders_code, kernel):
    """Sum all sources; a block those of one part for some targets and a group of channels."""
    _, order, group = plain.orders_of_code(orders_code)
    n_out = group * indexing.n_components(order)
    add_range, gather = (
        sum_of_records(orders_code, kernel, cell_size(orders_code, kernel, 2)),
        gather_function(n_out, TEAM),
    )
    point, zero = loader(3), zeros(n_out)
    two = targets_of_thread(orders_code) == 2
    taken, size = TEAM * targets_of_thread(orders_code), TEAM * n_out

    def loop(targets, records, n_sources, parameters, width, part, out):
        shared = cuda.shared.array(size, REAL)
        thread, n = cuda.threadIdx.x, targets.shape[0] // 3
        i = cuda.blockIdx.x * taken + thread
        here = point(targets, 3 * min(i, n - 1))
        there = point(targets, 3 * min(i + TEAM, n - 1)) if two else here
        begin = cuda.blockIdx.y * part
        end = min(begin + part, n_sources)
        before = cuda.blockIdx.z * n_sources
        first, second = add_range(
            records, before + begin, before + end, 0, 1, here, there, parameters, zero(), zero()
        )
        i -= thread
        place = (cuda.blockIdx.y * n + i) * width + cuda.blockIdx.z * n_out
        gather(shared, first, thread, thread, 1, TEAM, n - i, out, place, width, False)
        if two:
            place += TEAM * width
            rest = n - i - TEAM
            gather(shared, second, thread, thread, 1, TEAM, rest, out, place, width, False)

    return loop


# --- sources of each target -----------------------------------------------------------------------


@cache
def _add_own(orders_code: int, kernel: int, listed: int, weighted: int) -> Device:
    """Return the function for kernels that adds the field of the k-th source of a target."""
    source_order, _, group = plain.orders_of_code(orders_code)
    n_in = group * indexing.n_components(source_order)
    point, load = loader(3), loader(n_in)
    chain_of = chain_function(orders_code, kernel)

    def add_own(sums, here, k, sources, moments, row, column, parameters, list_, weights):
        j = list_[k] if listed else k
        there = point(sources, 3 * j)
        r = (here[0] - there[0], here[1] - there[1], here[2] - there[2])
        chain = chain_of(square(r[0], r[1], r[2]), parameters)
        if weighted:
            chain = times(orders_code, (chain, (weights[k],)))[0]
        return add_field(orders_code, (sums, chain, r, load(moments, j * row + column)))[0]

    return Device(add_own)


@kernels
def own_pairs(orders_code, kernel, step, listed, weighted):
    """Sum the sources of each target: a range (step 2), a row of a list (1), or all (0).

    ``1 << shift`` threads share those of a target in one part of all.
    """
    source_order, order, group = plain.orders_of_code(orders_code)
    n_in, n_out = (group * indexing.n_components(n) for n in (source_order, order))
    add_own = _add_own(orders_code, kernel, listed, weighted)
    point, zero, gather = loader(3), zeros(n_out), gather_function(n_out, TEAM)
    size = TEAM * n_out
    # sources of a thread whose loads do not wait for each other
    cell = 1 if kernel != Coulomb.code or n_out > 10 else 4 if source_order + order <= 1 else 2

    def loop(
        targets, sources, moments, parameters, channels, shift, bounds, list_, weights, added, out
    ):
        shared = cuda.shared.array(size, REAL)
        thread, n = cuda.threadIdx.x, targets.shape[0] // 3
        lanes, columns = 1 << shift, TEAM >> shift
        column, lane = thread >> shift, thread & (lanes - 1)
        i = cuda.blockIdx.x * columns + column
        mine = min(i, n - 1)
        here = point(targets, 3 * mine)
        row, own = channels * n_in // group, cuda.blockIdx.y * n_in
        total = zero()
        k, end = 0, sources.shape[0] // 3
        if step:
            k, end = bounds[step * mine], bounds[step * mine + 1]
        if i >= n:
            end = k
        k += lane + lanes * cuda.blockIdx.z
        stride = lanes * cuda.gridDim.z
        while k < end - (cell - 1) * stride:
            for c in range(cell):
                total = add_own(
                    total, here, k + c * stride, sources, moments, row, own, parameters, list_,
                    weights,
                )  # fmt: skip
            k += cell * stride
        while k < end:
            total = add_own(total, here, k, sources, moments, row, own, parameters, list_, weights)
            k += stride
        i -= column
        width = channels * n_out // group
        place = (cuda.blockIdx.z * n + i) * width + cuda.blockIdx.y * n_out
        gather(
            shared, total, thread, lane * columns + column, lanes, columns, n - i, out, place,
            width, added != 0,
        )  # fmt: skip

    return loop


@kernels
def own_pairs_of_any_order(top, kernel, step, listed, weighted):
    """Sum them for orders whose arithmetic is too long to write out; a thread one part of all."""
    rows = indexing.n_components(top)
    links = top + 1
    add_pair = add_pair_of_any_order(top, kernel)

    def loop(
        targets, sources, moments, parameters, channels, bounds, list_, weights, added, recursion,
        factors, levels, places, signs, out,
    ):  # fmt: skip
        chain = cuda.local.array(links, REAL)
        tensor = cuda.local.array(rows, REAL)
        i, channel = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y
        n = targets.shape[0] // 3
        if i >= n:
            return
        n_out, n_in = places.shape
        start = ((cuda.blockIdx.z * n + i) * channels + channel) * n_out
        if added == 0:
            for beta in range(n_out):
                out[start + beta] = 0.0
        first, end = 0, sources.shape[0] // 3
        if step:
            first, end = bounds[step * i], bounds[step * i + 1]
        for k in range(first + cuda.blockIdx.z, end, cuda.gridDim.z):
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
    out: Any = None,
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
    out : device array, optional
        To which the field is added, and which is returned.

    Returns
    -------
    device array, shape (n_targets, channels, n_components(order))
    """
    n, channels, n_in = len(targets), moments.shape[1], moments.shape[2]
    shape, dtype = (n, channels, indexing.n_components(order)), np.dtype(targets.dtype)
    if 0 in shape or len(sources) == 0:
        return space.zeros(shape, dtype) if out is None else out
    source_order = indexing.order_of(n_in)
    arrays = tuple(array.reshape(-1) for array in (targets, sources, moments))
    summed = _Sum(space, dtype, arrays, channels, source_order, order, kernel, neighbours)
    added = out is not None
    if out is None:
        out = space.empty(shape, dtype)
    if source_order + order > MAX_EMITTED:
        summed.of_any_order(out.reshape(-1), added)
    elif neighbours.is_complete and not added and n >= 4 * TEAM and n * len(sources) >= _TILED:
        summed.of_all(out.reshape(-1))
    else:
        summed.of_own(out.reshape(-1), added)
    return out


class _Sum:
    """A sum over pairs, and the ways to launch it; arrays are flat."""

    def __init__(
        self, space: Space, dtype: np.dtype, arrays: tuple[Any, ...], channels: int,
        source_order: int, order: int, kernel: Kernel, neighbours: DeviceNeighbours,
    ) -> None:  # fmt: skip
        self.space, self.dtype, self.arrays, self.channels = space, dtype, arrays, channels
        self.orders, self.kernel, self.neighbours = (source_order, order), kernel, neighbours
        self.n_targets, self.n_sources = (array.shape[0] // 3 for array in arrays[:2])
        self.parameters = parameters_of(space, kernel, dtype)

    def _grouped(self) -> tuple[int, int]:
        """Return the code of orders and channels of a thread, and how many groups of channels."""
        group = channel_group(*self.orders, self.channels)
        return plain.code_of_orders(*self.orders, group), self.channels // group

    def of_all(self, out: Any) -> None:
        """Sum packed sources; parts of them where there are few targets."""
        code, groups = self._grouped()
        blocks = -(-self.n_targets // (TEAM * targets_of_thread(code)))
        parts = max(1, min(_BLOCKS // (blocks * groups), self.n_sources // _LEAST_PART))
        length = -(-self.n_sources // parts)
        parts = -(-self.n_sources // length)
        targets, sources, moments = self.arrays
        records = packed(self.space, sources, moments, self.channels, code)
        width = out.shape[0] // self.n_targets
        sums = self._parts(out, parts)
        all_pairs(code, self.kernel.code)(
            self.space.stream, self.dtype, (blocks, parts, groups), TEAM, targets, records,
            self.n_sources, self.parameters, width, length, sums,
        )  # fmt: skip
        self._add_parts(sums, parts, out)

    def of_own(self, out: Any, added: bool) -> None:
        """Sum the sources of each target, shared by threads of a block, and by blocks."""
        code, groups = self._grouped()
        bounds, list_, weights, flags = self._own()
        row = self._row()
        busy = max(1, _BUSY // (self.n_targets * groups))
        lanes = max(1, min(busy, row // _LEAST_ROW, TEAM))
        shift = lanes.bit_length() - 1
        parts = 1
        if lanes == TEAM and not added:
            parts = max(1, min(busy // TEAM, row // (TEAM * _LEAST_PART // 2)))
        blocks = -(-(self.n_targets << shift) // TEAM)
        sums = self._parts(out, parts)
        own_pairs(code, self.kernel.code, *flags)(
            self.space.stream, self.dtype, (blocks, groups, parts), TEAM, *self.arrays,
            self.parameters, self.channels, shift, bounds, list_, weights, int(added), sums,
        )  # fmt: skip
        self._add_parts(sums, parts, out)

    def of_any_order(self, out: Any, added: bool) -> None:
        """Sum them by tables; parts of them where there are few targets."""
        source_order, order = self.orders
        bounds, list_, weights, flags = self._own()
        tables = tables_of_any_order(self.space, source_order, order, self.dtype)
        busy = _BUSY // (self.n_targets * self.channels)
        parts = 1 if added else max(1, min(busy, self._row() // _LEAST_ROW, _MOST_PARTS))
        sums = self._parts(out, parts)
        own_pairs_of_any_order(source_order + order, self.kernel.code, *flags)(
            self.space.stream, self.dtype, (blocks_for(self.n_targets), self.channels, parts),
            THREADS, *self.arrays, self.parameters, self.channels, bounds, list_, weights,
            int(added), *tables, sums,
        )  # fmt: skip
        self._add_parts(sums, parts, out)

    def _row(self) -> int:
        """Return how many sources a target has: the mean of a list, or at most so many."""
        if isinstance(self.neighbours, DevicePairs):
            return -(-self.neighbours.n_pairs // self.n_targets)
        return self.n_sources

    def _parts(self, out: Any, parts: int) -> Any:
        return out if parts == 1 else self.space.empty((parts * out.shape[0],), self.dtype)

    def _add_parts(self, sums: Any, parts: int, out: Any) -> None:
        if parts > 1:
            blocks = blocks_for(out.shape[0])
            sum_parts()(self.space.stream, self.dtype, blocks, THREADS, sums, parts, out)

    def _own(self) -> tuple[Any, Any, Any, tuple[int, int, int]]:
        """Return bounds, list and weights of each target's sources, and what kernels ask."""
        space, neighbours = self.space, self.neighbours
        nothing = space.constant(("nothing", self.dtype.name), lambda: np.zeros(1, self.dtype))
        if isinstance(neighbours, DevicePairs):
            starts, list_, weights = neighbours.rows(space, self.dtype)
            weighted = weights is not None
            return starts, list_, weights if weighted else nothing, (1, 1, int(weighted))
        if neighbours.is_complete:
            bounds = space.constant("no bounds", lambda: np.zeros(1, np.int64))
            return bounds, bounds, nothing, (0, 0, 0)
        bounds = neighbours.ranges(space)
        return bounds, bounds, nothing, (2, 0, 0)


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
