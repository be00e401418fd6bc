"""The inner loop of the near field: `_near_math` written as vector instructions for given orders.

The arithmetic runs once, when a kernel is compiled, on stand-ins whose ``+ - *`` append
instructions for vectors of sources; its loops and dicts vanish. Sources lie in a `block`: one row
of `WIDTH` numbers per coordinate and then per row of moments, channel by channel.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core import types as nb_types
from numba.extending import intrinsic

from fmm import _near_math
from multipoles._simd import Vec, fill_lanes, lane_sum, rsqrt

CHUNK = 512
# rows of a power of two bytes would share the cache's few places for one address modulo 4096
WIDTH = CHUNK + 16
# products may fuse with sums, but sums keep their order: additions have units of their own
_FLAGS = ("contract", "nsz")


class _Number:
    """A vector of the program being compiled."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def _binary(self, other: Any, instruction: str) -> "_Number":
        kind = self.value.type
        if isinstance(other, _Number):
            right = other.value
        else:
            right = ir.Constant(kind, [float(other)] * kind.count)
        result = getattr(self.builder, instruction)(self.value, right, flags=_FLAGS)
        return _Number(self.builder, result)

    def __add__(self, other: Any) -> "_Number":
        return self._binary(other, "fadd")

    def __sub__(self, other: Any) -> "_Number":
        return self._binary(other, "fsub")

    def __mul__(self, other: Any) -> "_Number":
        return self if isinstance(other, float) and other == 1 else self._binary(other, "fmul")

    def __neg__(self) -> "_Number":
        return _Number(self.builder, self.builder.fneg(self.value))


def targets_at_once(source_order: int, order: int, single: bool) -> int:
    """Return how many targets share the load of a source."""
    return 2 if single and source_order == 0 and order <= 1 else 1


def sources_at_once(source_order: int, order: int, single: bool) -> int:
    """Return how many vectors of sources share the load and store of a channel's sums."""
    if single or _near_math.has_products(source_order, order):
        return 1
    return 4 if source_order + order <= 1 else 2


class _Loop:
    """One loop being written: addresses, loads and calls of vector functions."""

    def __init__(self, context, builder, lane, block, source_order, order):
        self.context, self.builder, self.lane, self.block = context, builder, lane, block
        self.vector = context.get_value_type(lane)
        self.orders = source_order, order
        self.n_rows = len(_near_math.row_names(*self.orders))
        self.n_sums = len(_near_math.sum_names(order))

    def word(self, number):
        return ir.Constant(ir.IntType(64), number)

    def load(self, pointer, place):
        """Load a vector from `place`, an integer value or literal, after a pointer to numbers."""
        value = self.builder.load(self._address(pointer, place), typ=self.vector)
        value.align = self.lane.dtype.bitwidth // 8
        return _Number(self.builder, value)

    def store(self, pointer, place, number):
        align = self.lane.dtype.bitwidth // 8
        self.builder.store(number.value, self._address(pointer, place), align=align)

    def _address(self, pointer, place):
        place = self.word(place) if isinstance(place, int) else place
        return self.builder.bitcast(
            self.builder.gep(pointer, [place]), ir.PointerType(self.vector)
        )

    def call(self, function, result, value):
        kind = self.context.typing_context.resolve_value_type(function)
        signature = kind.get_call_type(self.context.typing_context, (self.lane,), {})
        assert signature.return_type == result
        return self.context.get_function(kind, signature)(self.builder, [value])

    def zero(self):
        return ir.Constant(self.vector, [0.0] * self.vector.count)

    def shared(self, target, place, scaled):
        """Return the geometry of a target and the vector of sources at `place`."""
        source = self.builder.gep(self.block, [place])
        r = [x - self.load(source, axis * WIDTH) for axis, x in enumerate(target)]
        square = r[0] * r[0] + r[1] * r[1] + r[2] * r[2]
        inverse = _Number(self.builder, self.call(rsqrt, self.lane, square.value))
        return _near_math.geometry(*self.orders, tuple(r), inverse, scaled)

    def moments(self, place, channel=None):
        """Return the rows of moments of the vector of sources at `place`."""
        builder = self.builder
        if channel is not None:
            place = builder.add(place, builder.mul(channel, self.word(self.n_rows * WIDTH)))
        source = builder.gep(self.block, [place])
        return [self.load(source, (3 + row) * WIDTH) for row in range(self.n_rows)]

    def point(self, targets, index):
        """Return the three coordinates of a target, each in all lanes."""
        start = self.builder.mul(index, self.word(3))
        out = []
        for axis in range(3):
            place = self.builder.add(start, self.word(axis))
            number = self.builder.load(self.builder.gep(targets, [place]))
            out.append(_Number(self.builder, fill_lanes(self.builder, number, self.vector)))
        return out

    def add_lanes(self, vector, pointer, place):
        """Add the sum over the lanes to one number in memory."""
        total = self.call(lane_sum, self.lane.dtype, vector)
        address = self.builder.gep(pointer, [place])
        old = self.builder.load(address)
        self.builder.store(self.builder.fadd(old, total, flags=_FLAGS), address)


@intrinsic(prefer_literal=True)
def add_sources(
    typing_context, source_order, order, single, targets, first, last, block, n, channels, vectors, sums
):
    """Add the field of the first n sources of `block` at targets first ... last - 1 to `sums`.

    source_order, order and single (whether there is one channel) are known when compiling. `n` is
    a multiple of `step(...)`. `sums` is flat, row by row of (target, channel, sum); `vectors` is
    scratch for the sums of one target.
    """
    lane = Vec(block.dtype)
    orders = source_order.literal_value, order.literal_value

    def codegen(context, builder, sig, args):
        data = {
            name: context.make_array(sig.args[i])(context, builder, args[i]).data
            for name, i in (("targets", 3), ("block", 6), ("vectors", 9), ("sums", 10))
        }
        loop = _Loop(context, builder, lane, data["block"], *orders)
        if single.literal_value:
            _one_channel(loop, data, args[4], args[5], args[7])
        else:
            _many_channels(loop, data, args[4], args[5], args[7], args[8])
        return context.get_dummy_value()

    integer = nb_types.intp
    signature = nb_types.void(
        source_order, order, single, targets, integer, integer, block, integer, integer, vectors,
        sums,
    )  # fmt: skip
    return signature, codegen


def step(source_order: int, order: int, single: bool, lanes: int) -> int:
    """Return of what the number of sources in a block must be a multiple."""
    return lanes * sources_at_once(source_order, order, single)


def _one_channel(loop, data, first, last, n):
    """Write the loop that keeps the sums of one or several targets in registers."""
    builder = loop.builder
    at_once = targets_at_once(*loop.orders, True)
    with cgutils.for_range_slice(builder, first, last, loop.word(at_once)) as (base, _):
        final = builder.sub(last, loop.word(1))
        indices = []
        for k in range(at_once):
            index = builder.add(base, loop.word(k))
            # past the end the last target comes twice; its second sums go nowhere
            over = builder.icmp_signed(">", index, final)
            indices.append((builder.select(over, final, index), over))
        points = [loop.point(data["targets"], index) for index, _ in indices]
        places = [
            [cgutils.alloca_once_value(builder, loop.zero()) for _ in range(loop.n_sums)]
            for _ in points
        ]
        for place in sum(places, []):
            builder.store(loop.zero(), place)
        with cgutils.for_range_slice(
            builder, loop.word(0), n, loop.word(loop.lane.lanes)
        ) as (j, _):
            rows = loop.moments(j)
            for point, mine in zip(points, places, strict=True):
                shared = loop.shared(point, j, False)
                old = [_Number(builder, builder.load(place)) for place in mine]
                new = _near_math.add_field(*loop.orders, shared, rows, old)
                for place, value in zip(mine, new, strict=True):
                    builder.store(value.value, place)
        for (index, over), mine in zip(indices, places, strict=True):
            row = builder.mul(builder.sub(index, first), loop.word(loop.n_sums))
            for k, place in enumerate(mine):
                with cgutils.if_unlikely(builder, over) if False else builder.if_then(
                    builder.not_(over)
                ):
                    loop.add_lanes(
                        builder.load(place), data["sums"], builder.add(row, loop.word(k))
                    )


def _many_channels(loop, data, first, last, n, channels):
    """Write the loop that runs over channels inside, their sums in memory."""
    builder = loop.builder
    lanes = loop.lane.lanes
    at_once = sources_at_once(*loop.orders, False)
    scaled = not _near_math.has_products(*loop.orders)
    vectors = data["vectors"]
    n_vectors = builder.mul(channels, loop.word(loop.n_sums))
    with cgutils.for_range_slice(builder, first, last, loop.word(1)) as (index, _):
        point = loop.point(data["targets"], index)
        with cgutils.for_range(builder, n_vectors) as k:
            place = builder.mul(k.index, loop.word(lanes))
            loop.store(vectors, place, _Number(builder, loop.zero()))
        with cgutils.for_range_slice(
            builder, loop.word(0), n, loop.word(lanes * at_once)
        ) as (j, _):
            starts = [builder.add(j, loop.word(lanes * u)) for u in range(at_once)]
            shared = [loop.shared(point, start, scaled) for start in starts]
            with cgutils.for_range(builder, channels) as c:
                mine = builder.mul(c.index, loop.word(loop.n_sums * lanes))
                mine = builder.gep(vectors, [mine])
                sums = [loop.load(mine, k * lanes) for k in range(loop.n_sums)]
                for start, pair in zip(starts, shared, strict=True):
                    rows = loop.moments(start, c.index)
                    sums = _near_math.add_field(*loop.orders, pair, rows, sums)
                for k, total in enumerate(sums):
                    loop.store(mine, k * lanes, total)
        row = builder.mul(builder.sub(index, first), n_vectors)
        with cgutils.for_range(builder, n_vectors) as k:
            vector = loop.load(vectors, builder.mul(k.index, loop.word(lanes)))
            loop.add_lanes(vector.value, data["sums"], builder.add(row, k.index))
