"""Sums over packed sources on the GPU: the core of the direct sum and of the near field.

A record holds a source: its place, its moments for a group of channels, and zeros up to a multiple
of four numbers, so that it is read by 16 bytes at a time. A block takes some targets; its threads
stand in columns and groups. A column has a target, or two where these leave registers: a record
that is read serves both. The groups of a column share the sources, and their sums are added in
fixed order: blocks of few targets have as many threads at work as others, and every run gives the
same bits.
"""

from functools import cache
from typing import Any

from multipoles import indexing, plain
from multipoles.compiled.cuda_access import loader, storer, zeros
from multipoles.compiled.cuda_kernels import SIMULATED, Device, cuda, device, kernels
from multipoles.cuda.arithmetic import add, add_field, chain_function
from multipoles.cuda.device import Space
from multipoles.pairwise import square
from multipoles.radial import Coulomb

# numbers of a record are read by so many at a time
ALIGNED = 4
# sources that a thread adds to one sum: the sum of such sums keeps the digits that a long one loses
_RUN = 4 if SIMULATED else 128
# sources that a thread of two targets reads at once: their loads do not wait for each other
_CELL = 2 if SIMULATED else 4
_PACKING = 4 if SIMULATED else 256


def record_length(orders_code: int) -> int:
    """Return the numbers of a source's record."""
    source_order, _, group = plain.orders_of_code(orders_code)
    return -(-(3 + group * indexing.n_components(source_order)) // ALIGNED) * ALIGNED


def targets_of_thread(orders_code: int) -> int:
    """Return how many targets a thread takes."""
    source_order, order, group = plain.orders_of_code(orders_code)
    return 2 if group * indexing.n_components(order) <= 4 and source_order <= 2 else 1


def cell_size(orders_code: int, kernel: int, more: int = 1) -> int:
    """Return how many records a thread reads at once, `more` times that where ranges are long."""
    if kernel != Coulomb.code:  # their chains are long enough to hide a load
        return 1
    source_order, order, group = plain.orders_of_code(orders_code)
    if source_order == 0 and targets_of_thread(orders_code) == 2:
        return more * _CELL
    return 2 * more if source_order + order <= 2 and group == 1 else 1


def packed(space: Space, sources: Any, moments: Any, channels: int, orders_code: int) -> Any:
    """Return the records of all sources, for one group of channels after the other.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    sources, moments : device array
        Flat, of one dtype.
    channels : int
        Of the moments.
    orders_code : int
        See `plain.code_of_orders`.

    Returns
    -------
    device array, shape (channels // group * n_sources * record_length,)
    """
    source_order, _, group = plain.orders_of_code(orders_code)
    n, length, groups = sources.shape[0] // 3, record_length(orders_code), channels // group
    out = space.empty((groups * n * length,), sources.dtype)
    n_in = group * indexing.n_components(source_order)
    _pack(n_in, length)(
        space.stream, sources.dtype, (-(-n * length // _PACKING), groups), _PACKING, sources,
        moments, groups * n_in, out,
    )  # fmt: skip
    return out


@kernels
def _pack(n_in, length):
    end_of_moments = 3 + n_in

    def loop(sources, moments, row, out):
        k = cuda.blockIdx.x * _PACKING + cuda.threadIdx.x
        size = sources.shape[0] // 3 * length
        if k < size:
            item, j = k % length, k // length
            value = 0.0
            if item < 3:
                value = sources[3 * j + item]
            elif item < end_of_moments:
                value = moments[j * row + cuda.blockIdx.y * n_in + item - 3]
            out[cuda.blockIdx.y * size + k] = value

    return loop


@cache
def pair_function(orders_code: int, kernel: int) -> Device:
    """Return the function for kernels that adds the field of a record at a place to sums."""
    source_order, _, group = plain.orders_of_code(orders_code)
    end_of_moments = 3 + group * indexing.n_components(source_order)
    chain_of = chain_function(orders_code, kernel)

    def pair(sums, place, source, parameters):
        r = (place[0] - source[0], place[1] - source[1], place[2] - source[2])
        chain = chain_of(square(r[0], r[1], r[2]), parameters)
        return add_field(orders_code, (sums, chain, r, source[3:end_of_moments]))[0]

    return Device(pair)


@cache
def _cell_function(orders_code: int, kernel: int, count: int) -> Device:
    """Return the function for kernels that adds records, which were read, to a thread's sums."""
    pair, two = pair_function(orders_code, kernel), targets_of_thread(orders_code) == 2
    rest = (count - 1) * record_length(orders_code)

    def last(block, here, there, parameters, one, other):
        one = pair(one, here, block[rest:], parameters)
        if two:
            other = pair(other, there, block[rest:], parameters)
        return one, other

    if count == 1:
        return Device(last)
    add_last, add_others = Device(last), _cell_function(orders_code, kernel, count - 1)

    def add_cell(block, here, there, parameters, one, other):
        one, other = add_others(block[:rest], here, there, parameters, one, other)
        return add_last(block, here, there, parameters, one, other)

    return Device(add_cell)


@cache
def sum_of_records(orders_code: int, kernel: int, cell: int) -> Device:
    """Return the function for kernels that adds a range of records to the sums of a thread.

    A thread takes cells of records, one in `groups`, and single ones of the rest. It returns the
    sums of its first target, and of its second if it has two (else they are what came).
    """
    _, order, channels = plain.orders_of_code(orders_code)
    zero, length = zeros(channels * indexing.n_components(order)), record_length(orders_code)
    size, two, several = cell * length, targets_of_thread(orders_code) == 2, cell > 1
    # derivatives of high order fade soon and are many: there are no registers for sums of sums
    runs = order < 4
    load, load_cell = loader(length, ALIGNED), loader(size, ALIGNED)
    add_one, add_cell = (_cell_function(orders_code, kernel, n) for n in (1, cell))

    def add_range(records, begin, end, group, groups, here, there, parameters, first, second):
        mine, step, single = group * size, groups * size, groups * length
        back, run = group * length - mine, _RUN * single
        place, end = begin * length, end * length
        while place < end:
            stop = min(place + run, end) if runs else end
            one, other = (zero(), zero()) if runs else (first, second)
            # not a range: its counting would cost as much as a charge's arithmetic
            own, last = place + mine, stop - step + mine
            if several:
                while own <= last:
                    block = load_cell(records, own)
                    one, other = add_cell(block, here, there, parameters, one, other)
                    own += step
                # what is left begins at the same place for all groups
                own += back
            while own < stop:
                block = load(records, own)
                one, other = add_one(block, here, there, parameters, one, other)
                own += single
            first = add(orders_code, (first, one))[0] if runs else one
            if two:
                second = add(orders_code, (second, other))[0] if runs else other
            place = stop
        return first, second

    return Device(add_range)


@device
def groups_for(n, threads, most, targets):
    """Return the logarithm of the number of groups that share the sources of the next targets.

    Of n targets, one or two for each of at most ``1 << most`` columns, as many come next as have
    columns: all, or, if more than a quarter of the columns would have none, half of that number,
    and the rest later with twice as many groups. Not more groups than find sources in short ranges.
    `threads` is the logarithm of their number.
    """
    columns, least = most, max(0, most - 3)
    while columns > least and targets << (columns - 1) >= n:
        columns -= 1
    if columns > least and 4 * n <= 3 * targets << columns:
        columns -= 1
    return threads - columns


@cache
def gather_function(n_out: int, threads: int) -> Device:
    """Return the function for kernels that adds the sums of all groups and writes them.

    The n_out sums of a thread come to `place` in `shared`, first those of all columns of the first
    group. Those of a target go to `out`, from `begin` on, `width` further for each; they are added
    to what is there if `added`. All threads of a block must come.
    """
    # no places from the end, see `Access`
    store, get, put = storer(n_out), loader(1), storer(1)

    def gather(shared, sums, thread, place, groups, columns, count, out, begin, width, added):
        store(shared, place * n_out, sums)
        cuda.syncthreads()
        while groups > 1:
            groups >>= 1
            size = groups * columns * n_out
            for k in range(thread, size, threads):
                put(shared, k, (get(shared, k)[0] + get(shared, size + k)[0],))
            cuda.syncthreads()
        for k in range(thread, min(count, columns) * n_out, threads):
            to = begin + k // n_out * width + k % n_out
            value = get(shared, k)[0]
            if added:
                value += get(out, to)[0]
            put(out, to, (value,))
        # before it is used again
        cuda.syncthreads()

    return Device(gather)
