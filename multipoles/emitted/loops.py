"""The inner loop of the near field, written as vector instructions for given orders.

The arithmetic of a pair is that of `traceless`, or of `traces` under a damped kernel, written out
by `multipoles.compiled.emit` for vectors with a source in each lane. Where all sources of a vector
are beyond the reach of a damped kernel, it is taken for 1/r. Sources lie in a `block`: rows of
`width` numbers, one for each coordinate, then one for each row of moments, channel by channel.

Coordinates may come in two parts (`split`): x, y, z in float32 and what rounding left of them, as
three more rows. Differences of both, added, have the digits of float32 however close the points;
pairs that do not differ are counted.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core import types as nb_types
from numba.extending import intrinsic

from multipoles.compiled.emit import Written
from multipoles.compiled.jit import name_by_constants
from multipoles.compiled.lanes import constant, estimate, fill_lanes, joined, pieces, refined
from multipoles.compiled.simd import Vec
from multipoles.emitted import traceless, traces
from multipoles.emitted.tiling import PITCH, RUN, Tiling, sources_at_once, targets_at_once, tiling
from multipoles.radial import Coulomb
from multipoles.radial.dispatch import chain_of_kernel
from multipoles.radial.remainder import Remainder

# bytes of a block of sources, which should stay in the first cache
_BLOCK = 49152
# the number of sources in a block is a multiple of this
_STEP = 64
# LLVM may fuse products with sums, but not reorder sums: what is left as an addition runs beside
# the products, in units of its own
_FLAGS = ("contract", "nsz")


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


class _Loop:
    """One loop being written: addresses, loads and calls of vector functions."""

    def __init__(
        self, context: Any, builder: Any, dtype: Any, block: Any, orders: tuple[int, int],
        tiles: Tiling, damping: "_Damping | None" = None, split: bool = False,
    ) -> None:  # fmt: skip
        self.context, self.builder, self.block, self.tiles = context, builder, block, tiles
        self.lane = lane = Vec(dtype, tiles.lanes)
        self.vector = context.get_value_type(lane)
        self.orders, order = orders, orders[1]
        self.damping, damped = damping, damping is not None
        self.arithmetic = arithmetic(damped)
        self.n_rows = len(self.arithmetic.row_names(*self.orders))
        self.n_sums = len(self.arithmetic.sum_names(order))
        itemsize = lane.dtype.bitwidth // 8
        self.split, self.n_places = split, n_places(split)
        self.width = width(*orders, itemsize, damped, split)
        self.row = padded_sums(order, itemsize, damped)

    def word(self, number: int) -> Any:
        return ir.Constant(ir.IntType(64), number)

    def number(self, values: list[Any]) -> Written:
        """Return a vector, or one for each target of a group, as a number."""
        return Written(self.builder, values, _FLAGS)

    def load(self, pointer: Any, place: Any) -> Written:
        """Load the vector that starts `place` numbers (an LLVM value or int) after a pointer."""
        value = self.builder.load(self._address(pointer, place), typ=self.vector)
        value.align = self.lane.dtype.bitwidth // 8
        return self.number([value])

    def store(self, pointer: Any, place: Any, value: Any) -> None:
        """Store a vector there."""
        align = self.lane.dtype.bitwidth // 8
        self.builder.store(value, self._address(pointer, place), align=align)

    def _address(self, pointer: Any, place: Any) -> Any:
        place = self.word(place) if isinstance(place, int) else place
        return self.builder.bitcast(self.builder.gep(pointer, [place]), ir.PointerType(self.vector))

    def zero(self) -> Any:
        return constant(self.vector, 0.0)

    def variables(self, n: int, width: int) -> list[list[Any]]:
        """Return n variables of `width` zero vectors, which LLVM keeps in registers if it can."""
        out = []
        for _ in range(n):
            out.append([cgutils.alloca_once(self.builder, self.vector) for _ in range(width)])
            for place in out[-1]:
                self.builder.store(self.zero(), place)
        return out

    def keep(self, variables: list[list[Any]], numbers: Sequence[Written]) -> None:
        """Assign numbers to variables."""
        for places, number in zip(variables, numbers, strict=True):
            for place, value in zip(places, number.values, strict=True):
                self.builder.store(value, place)

    def kept(self, variables: list[list[Any]]) -> list[Written]:
        """Return the numbers that variables have."""
        loads = ([self.builder.load(place) for place in places] for places in variables)
        return [self.number(values) for values in loads]

    def distances(self, target: list[Written], places: list[Any]) -> list[tuple[Written, ...]]:
        """Return x, y, z and 1/r from the vectors of sources at `places` to a target.

        The roots of all are taken together: two vectors may share an estimate.
        """
        found = [self._difference(target, place) for place in places]
        squares = [x * x + y * y + z * z for x, y, z in found]
        roots = self._refined(squares, self._estimates(squares))
        return [(*r, root) for r, root in zip(found, roots, strict=True)]

    def _estimates(self, squares: list[Written]) -> list[Written]:
        """Return estimates of 1/r, or what stands for them where there are none."""
        values = [value for square in squares for value in square.values]
        every = joined(self.builder, values)
        found = pieces(
            self.builder, estimate(self.context, self.builder, every), self.lane.lanes
        )
        n = len(squares[0].values)
        return [self.number(found[i : i + n]) for i in range(0, len(found), n)]

    def _refined(self, squares: list[Written], estimates: list[Written]) -> list[Written]:
        """Return 1/r."""
        out = []
        for square, about in zip(squares, estimates, strict=True):
            pairs = zip(square.values, about.values, strict=True)
            out.append(self.number([refined(self.context, self.builder, *pair) for pair in pairs]))
        return out

    def _difference(self, target: list[Written], place: Any) -> list[Written]:
        source = self.builder.gep(self.block, [place])
        parts = [x - self.load(source, row * self.width) for row, x in enumerate(target)]
        if not self.split:
            return parts
        return [a + b for a, b in zip(parts[:3], parts[3:], strict=True)]

    def over_sources(
        self, target: list[Written], n: Any, buffer: Any, add: Callable[..., None]
    ) -> None:
        """Write the loop over n sources that calls ``add(distance, place)`` for vectors of them.

        A sum waits for 1/r, through a long chain of instructions. With many registers, 1/r of the
        next vector is on its way meanwhile. With few, those of a run of sources are written to a
        buffer first.
        """
        builder, lanes, first = self.builder, self.word(self.lane.lanes), self.word(0)
        if self.tiles.ahead:
            ahead = self.variables(4, len(target[0].values))
            self.keep(ahead, self.distances(target, [first])[0])
            with cgutils.for_range_slice(builder, first, n, lanes) as (j, _):
                distance = self.kept(ahead)
                self.keep(ahead, self.distances(target, [builder.add(j, lanes)])[0])
                add(distance, j)
            return
        with cgutils.for_range_slice(builder, first, n, self.word(RUN)) as (start, _):
            left = builder.sub(n, start)
            full = builder.icmp_signed(">", left, self.word(RUN))
            run = builder.select(full, self.word(RUN), left)
            self._write_distances(target, start, run, buffer)
            with cgutils.for_range_slice(builder, first, run, lanes) as (j, _):
                place = builder.add(start, j)
                add(self._written_distance(target, place, j, buffer), place)

    def _write_distances(self, target: list[Written], start: Any, run: Any, buffer: Any) -> None:
        """Write 1/r of a run of sources to the buffer, and x, y, z where these are not cheap.

        Estimates of the next sources are on their way while these are improved.
        """
        builder, lanes, many = self.builder, self.lane.lanes, self.tiles.sources
        step = self.word(lanes * many)
        squares, estimates = (self.variables(many, len(target[0].values)) for _ in range(2))

        def places(j: Any) -> list[Any]:
            return [builder.add(j, self.word(k)) for k in range(0, step.constant, lanes)]

        def begin(j: Any) -> None:
            found = [self._difference(target, builder.add(start, place)) for place in places(j)]
            if self.split:
                for r, place in zip(found, places(j), strict=True):
                    self._write(r, place, buffer)
            begun = [x * x + y * y + z * z for x, y, z in found]
            self.keep(squares, begun)
            self.keep(estimates, self._estimates(begun))

        begin(self.word(0))
        with cgutils.for_range_slice(builder, self.word(0), run, step) as (j, _):
            begun = self.kept(squares), self.kept(estimates)
            begin(builder.add(j, step))
            rows = self.buffer_rows(target)[-1]
            for root, place in zip(self._refined(*begun), places(j), strict=True):
                self._write([root], builder.add(place, self.word(rows)), buffer)

    def _write(self, numbers: list[Written], place: Any, buffer: Any) -> None:
        """Write the vectors of numbers to rows of the buffer."""
        values = [value for number in numbers for value in number.values]
        for row, value in enumerate(values):
            self.store(buffer, self.builder.add(place, self.word(row * PITCH)), value)

    def _written_distance(
        self, target: list[Written], place: Any, offset: Any, buffer: Any
    ) -> tuple[Written, ...]:
        """Return x, y, z and 1/r of a vector of sources, with what the buffer has of them."""
        n, out = len(target[0].values), []
        for start in self.buffer_rows(target):
            rows = range(start, start + n * PITCH, PITCH)
            places = [self.builder.add(offset, self.word(row)) for row in rows]
            out.append(self.number([self.load(buffer, at).values[0] for at in places]))
        return tuple(out) if self.split else (*self._difference(target, place), *out)

    def buffer_rows(self, target: list[Written]) -> range:
        """Return where the rows of x, y, z and 1/r begin, or that of 1/r alone."""
        step = len(target[0].values) * PITCH
        return range(0, (4 if self.split else 1) * step, step)

    def shared(self, distance: Any, scaled: bool) -> Any:
        """Return what all channels of a pair share under 1/r."""
        return traceless.geometry(*self.orders, distance[:3], distance[3], scaled)

    def by_reach(
        self, damping: "_Damping", distance: Sequence[Written], add: Callable[[Any], None]
    ) -> None:
        """Write two branches, each with what `add` makes of what all channels of a pair share.

        One is for vectors with a source within the kernel's reach of a target, the other, under
        1/r, for those without; kernels that vanish beyond have none.
        """
        x, y, z, inverse = distance
        square = x * x + y * y + z * z
        if damping.vanishes:
            with self.builder.if_then(damping.reaches(self.builder, square.values)):
                chain = damping.chain(self, square, sum(self.orders))
                add(traces.geometry(*self.orders, (x, y, z), square, chain))
            return
        with self.builder.if_else(damping.reaches(self.builder, square.values)) as (near, far):
            with near:
                chain = damping.chain(self, square, sum(self.orders))
                add(traces.geometry(*self.orders, (x, y, z), square, chain))
            with far:
                add(traces.undamped(*self.orders, (x, y, z), inverse))

    def moments(self, place: Any, channel: Any = None) -> list[Written]:
        """Return the rows of moments of the vector of sources at `place`."""
        builder = self.builder
        if channel is not None:
            place = builder.add(place, builder.mul(channel, self.word(self.n_rows * self.width)))
        source = builder.gep(self.block, [place])
        return [self.load(source, (self.n_places + k) * self.width) for k in range(self.n_rows)]

    def group(self, base: Any, last: Any, n: int) -> tuple[list[Any], list[Any]]:
        """Return the indices of a group of n targets from `base` on, and which are repetitions.

        Where fewer than n are left, the last one is repeated; its other sums are not stored.
        """
        indices, doubles = [], []
        final = self.builder.sub(last, self.word(1))
        for k in range(n):
            index = self.builder.add(base, self.word(k))
            doubles.append(self.builder.icmp_signed(">", index, final))
            indices.append(self.builder.select(doubles[-1], final, index))
        return indices, doubles

    def points(self, targets: Any, indices: list[Any]) -> list[Written]:
        """Return the coordinates of targets, or their parts, each in all lanes."""
        starts = [self.builder.mul(index, self.word(self.n_places)) for index in indices]
        out = []
        for axis in range(self.n_places):
            places = [self.builder.add(start, self.word(axis)) for start in starts]
            numbers = [self.builder.load(self.builder.gep(targets, [p])) for p in places]
            lanes = [fill_lanes(self.builder, number, self.vector) for number in numbers]
            out.append(self.number(lanes))
        return out

    def counters(self, n: int) -> list[Any]:
        """Return n vectors of integers, all zero, to count pairs that coincide."""
        kind = ir.VectorType(ir.IntType(self.lane.dtype.bitwidth), self.lane.lanes)
        places = [cgutils.alloca_once(self.builder, kind) for _ in range(n if self.split else 0)]
        for place in places:
            self.builder.store(ir.Constant(kind, [0] * kind.count), place)
        return places

    def count(self, counters: list[Any], inverse: Written) -> None:
        """Count the pairs whose 1/r is zero."""
        for place, value in zip(counters, inverse.values if counters else (), strict=True):
            same = self.builder.fcmp_ordered("==", value, constant(self.vector, 0.0))
            total = self.builder.load(place)
            same = self.builder.sext(same, total.type)
            self.builder.store(self.builder.sub(total, same), place)

    def add_count(self, counter: Any, pointer: Any) -> None:
        """Add what was counted to the integer at a pointer."""
        builder, word = self.builder, ir.IntType(64)
        vector = builder.load(counter)
        name = f"llvm.vector.reduce.add.v{vector.type.count}i{vector.type.element.width}"
        kind = ir.FunctionType(vector.type.element, [vector.type])
        total = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [vector])
        builder.store(builder.add(builder.load(pointer), builder.zext(total, word)), pointer)

    def add_lanes(self, vectors: list[Any], pointer: Any, place: Any) -> None:
        """Add the sum over the lanes of each vector to the numbers from `place` on."""
        lanes = self.lane.lanes
        vectors = vectors + [self.zero()] * (self.row - len(vectors))
        for first in range(0, self.row, lanes):
            total = self.number([self._lane_sums(vectors[first : first + lanes])])
            at = self.builder.add(place, self.word(first))
            self.store(pointer, at, (self.load(pointer, at) + total).values[0])

    def _lane_sums(self, vectors: list[Any]) -> Any:
        """Return a vector whose lane i is the sum over the lanes of vector i, of as many vectors.

        Each round halves their number: of two vectors, neighbouring groups of `step` lanes are
        added, and the sums of one alternate with those of the other.
        """
        builder, lanes, step = self.builder, self.lane.lanes, 1
        kind = ir.VectorType(ir.IntType(32), lanes)
        while len(vectors) > 1:
            group = [i // (2 * step) * 2 * step + i % step for i in range(lanes)]
            left = [g + i // step % 2 * lanes for i, g in enumerate(group)]
            right = ir.Constant(kind, [i + step for i in left])
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                builder.fadd(
                    builder.shuffle_vector(a, b, ir.Constant(kind, left)),
                    builder.shuffle_vector(a, b, right),
                    flags=_FLAGS,
                )
                for a, b in pairs
            ]
            step *= 2
        return vectors[0]


class _Damping:
    """A damped kernel in a loop being written: where it acts, and its chain."""

    def __init__(self, context: Any, lane: Vec, kernel_code: int, kinds: Any, values: Any) -> None:
        self.context, self.lane, self.kernel_code = context, lane, kernel_code
        # of the kernel's parameters, the scratch for its chain, and the square of its reach
        self.kinds, self.values = kinds, values
        self.vanishes = kernel_code == Remainder.code

    def reaches(self, builder: Any, squares: list[Any]) -> Any:
        """Return whether any lane of some vectors of r^2 is within the kernel's reach."""
        reach = fill_lanes(builder, self.values[2], squares[0].type)
        bits = ir.IntType(self.lane.lanes)
        any_lane = ir.Constant(bits, 0)
        for square in squares:
            mask = builder.fcmp_ordered("<", square, reach)
            any_lane = builder.or_(any_lane, builder.bitcast(mask, bits))
        return builder.icmp_unsigned("!=", any_lane, ir.Constant(bits, 0))

    def chain(self, loop: _Loop, square: Written, last: int) -> list[Written]:
        """Return the links g_0 ... g_last of the kernel's chain, those of 1/r beyond its reach."""
        write_chain = chain_of_kernel(self.kernel_code)

        def write(parameters: Any, r2: Any, chain: Any) -> None:
            write_chain(parameters, r2, last, chain)

        name_by_constants(write)
        parameters, scratch = self.kinds[:2]
        kind = nb_types.none(parameters, self.lane, scratch)
        pointer = self.context.make_array(scratch)(self.context, loop.builder, self.values[1]).data
        links: list[list[Any]] = [[] for _ in range(last + 1)]
        for value in square.values:
            arguments = self.values[0], value, self.values[1]
            self.context.compile_internal(loop.builder, write, kind, arguments)
            for n, values in enumerate(links):
                values += loop.load(pointer, n * self.lane.lanes).values
        return [loop.number(values) for values in links]


@intrinsic(prefer_literal=True)
def add_sources(
    typing_context: Any, source_order: Any, order: Any, single: Any, kernel_code: Any, split: Any,
    targets: Any, first: Any, last: Any, block: Any, n: Any, channels: Any,
    vectors: Any, sums: Any, parameters: Any, chain: Any, reach: Any, coincident: Any,
) -> Any:  # fmt: skip
    """Add the field of the first n sources of `block` at targets first ... last - 1 to `sums`.

    source_order, order, single (whether there is one channel), kernel_code (of the radial kernel)
    and split (whether coordinates are in two parts) are known when compiling. `n` is a multiple of
    `step(...)`; the block has room for one more vector of sources. `sums` is flat, row by row of
    (target, channel, sum). `vectors` and `chain` are scratch of lengths `n_scratch` and `n_links`. Where coordinates are split, the number of pairs that do not differ
    is added to ``coincident[0]``.
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
            damping = _Damping(
                context, Vec(dtype), kernel_code.literal_value, sig.args[13:15], (*args[13:15], square)
            )
        loop = _Loop(
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


def _one_channel(loop: _Loop, data: Any, first: Any, last: Any, n: Any) -> None:
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


def _many_channels(loop: _Loop, data: Any, first: Any, last: Any, n: Any, channels: Any) -> None:
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
