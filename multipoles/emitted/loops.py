"""The inner loop of the near field, written as vector instructions for given orders.

The arithmetic of a pair is that of `traceless`, or of `traces` under a damped kernel, written out
by `multipoles.compiled.emit` for vectors with a source in each lane. Where all sources of a vector
are beyond the reach of a damped kernel, it is taken for 1/r. Sources lie in a `block`: rows of
`width` numbers, one for each coordinate, then one for each row of moments, channel by channel.

Coordinates may come in two parts (`split`): x, y, z in float32 and what rounding left of them, as
three more rows. Differences of both, added, have the digits of float32 however close the points;
pairs that do not differ are counted.
"""

from typing import Any

from numba.core import cgutils
from numba.core import types as nb_types
from numba.extending import intrinsic

from multipoles.compiled.emit import Written
from multipoles.compiled.simd import Vec
from multipoles.emitted import traceless
from multipoles.emitted.tiling import tiling
from multipoles.emitted.writing import Damping, Loop
from multipoles.radial import Coulomb


@intrinsic(prefer_literal=True)
def add_sources(
    typing_context: Any, source_order: Any, order: Any, single: Any, kernel_code: Any, split: Any,
    targets: Any, first: Any, last: Any, block: Any, n: Any, channels: Any,
    vectors: Any, sums: Any, parameters: Any, chain: Any, reach: Any, coincident: Any,
) -> Any:  # fmt: skip
    """Add the field of the first n sources of `block` at targets first ... last - 1 to `sums`.

    source_order, order, single (whether there is one channel), kernel_code (of the radial kernel)
    and split (whether coordinates are in two parts) are known when compiling. `n` is a multiple of
    `sizes.step`; the block has room for one more vector of sources. `sums` is flat, row by row of
    (target, channel, sum). `vectors` and `chain` are scratch, see `sizes.n_scratch` and
    `sizes.n_links`. Where coordinates are split, the number of pairs that do not differ is added to
    ``coincident[0]``.
    """
    dtype = block.dtype
    orders = source_order.literal_value, order.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = {
            name: context.make_array(sig.args[i])(context, builder, args[i]).data
            for name, i in zip(
                ("targets", "block", "vectors", "sums", "chain", "coincident"),
                (5, 8, 11, 12, 14, 16),
                strict=True,
            )
        }  # fmt: skip
        damping, damped = None, kernel_code.literal_value != Coulomb.code
        tiles = tiling(context, dtype.bitwidth // 8, orders, single.literal_value, damped)
        if damped:
            reach = context.cast(builder, args[15], sig.args[15], dtype)
            square = builder.fmul(reach, reach)
            code, values = kernel_code.literal_value, (*args[13:15], square)
            damping = Damping(context, Vec(dtype), code, sig.args[13:15], values)
        loop = Loop(
            context, builder, dtype, data["block"], orders, tiles, damping, split.literal_value
        )
        if single.literal_value:
            _one_channel(loop, data, args[6], args[7], args[9])
        else:
            _many_channels(loop, data, args[6], args[7], args[9], args[10])
        return context.get_dummy_value()

    integer = nb_types.intp
    signature = nb_types.void(
        source_order, order, single, kernel_code, split, targets, integer, integer, block,
        integer, integer, vectors, sums, parameters, chain, reach, coincident,
    )  # fmt: skip
    return signature, codegen


def _one_channel(loop: Loop, data: Any, first: Any, last: Any, n: Any) -> None:
    """Write the loop that keeps the sums of one or several targets in registers."""
    builder = loop.builder
    at_once = loop.tiles.targets
    with cgutils.for_range_slice(builder, first, last, loop.word(at_once)) as (base, _):
        indices, doubles = loop.group(base, last, at_once)
        points = loop.points(data["targets"], indices)
        sums, counters = loop.variables(loop.n_sums, at_once), loop.counters(at_once)

        def add_to_sums(distance: Any, place: Any) -> None:
            loop.count(counters, distance[3])

            def add(shared: Any) -> None:
                rows = loop.moments(place)
                found = loop.arithmetic.add_field(*loop.orders, shared, rows, loop.kept(sums))
                loop.keep(sums, found)

            if loop.damping is None:
                add(loop.shared(distance, False))
            else:
                loop.by_reach(loop.damping, distance, add)

        loop.over_sources(points, n, data["chain"], add_to_sums)
        totals = loop.kept(sums)
        for k in range(at_once):
            row = builder.mul(builder.sub(indices[k], first), loop.word(loop.row))
            with builder.if_then(builder.not_(doubles[k])):
                loop.add_lanes([total.values[k] for total in totals], data["sums"], row)
                for counter in counters[k : k + 1]:
                    loop.add_count(counter, data["coincident"])


def _many_channels(loop: Loop, data: Any, first: Any, last: Any, n: Any, channels: Any) -> None:
    """Write the loop that runs over channels inside, their sums in memory."""
    builder = loop.builder
    lanes, vectors = loop.lane.lanes, data["vectors"]
    at_once = loop.tiles.targets
    per_channel = loop.n_sums * at_once
    scaled = not traceless.has_products(*loop.orders)

    def of_channel(c: Any) -> Any:
        return builder.gep(vectors, [builder.mul(c.index, loop.word(per_channel * lanes))])

    def load_sums(pointer: Any) -> list[Written]:
        places = [[(k * at_once + t) * lanes for t in range(at_once)] for k in range(loop.n_sums)]
        return [loop.number([loop.load(pointer, p).values[0] for p in row]) for row in places]

    with cgutils.for_range_slice(builder, first, last, loop.word(at_once)) as (base, _):
        indices, doubles = loop.group(base, last, at_once)
        points, counters = loop.points(data["targets"], indices), loop.counters(at_once)
        with cgutils.for_range(builder, builder.mul(channels, loop.word(per_channel))) as k:
            place = builder.mul(k.index, loop.word(lanes))
            loop.store(vectors, place, loop.zero())
        step = lanes * loop.tiles.sources
        with cgutils.for_range_slice(builder, loop.word(0), n, loop.word(step)) as (j, _):
            starts = [builder.add(j, loop.word(k)) for k in range(0, step, lanes)]
            distances = loop.distances(points, starts)
            for distance in distances:
                loop.count(counters, distance[3])

            def add(*pairs: Any, starts: Any = starts) -> None:
                with cgutils.for_range(builder, channels) as c:
                    mine = of_channel(c)
                    sums = load_sums(mine)
                    for start, pair in zip(starts, pairs, strict=True):
                        rows = loop.moments(start, c.index)
                        sums = loop.arithmetic.add_field(*loop.orders, pair, rows, sums)
                    values = [value for number in sums for value in number.values]
                    for k, value in enumerate(values):
                        loop.store(mine, k * lanes, value)

            if loop.damping is None:
                add(*(loop.shared(distance, scaled) for distance in distances))
            else:
                loop.by_reach(loop.damping, distances[0], add)
        with cgutils.for_range(builder, channels) as c:
            totals = load_sums(of_channel(c))
            for t in range(at_once):
                row = builder.mul(builder.sub(indices[t], first), channels)
                row = builder.mul(builder.add(row, c.index), loop.word(loop.row))
                with builder.if_then(builder.not_(doubles[t])):
                    loop.add_lanes([total.values[t] for total in totals], data["sums"], row)
        for k, counter in enumerate(counters):
            with builder.if_then(builder.not_(doubles[k])):
                loop.add_count(counter, data["coincident"])
