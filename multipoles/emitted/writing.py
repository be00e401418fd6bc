"""A loop over pairs while it is written: addresses, variables, distances, damped kernels."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core import types as nb_types

from multipoles.compiled.emit import Written
from multipoles.compiled.jit import name_by_constants
from multipoles.compiled.lanes import constant, estimate, fill_lanes, joined, pieces, refined
from multipoles.compiled.simd import Vec
from multipoles.emitted import traceless, traces
from multipoles.emitted.sizes import arithmetic, n_places, padded_sums, width
from multipoles.emitted.tiling import PITCH, RUN, Tiling
from multipoles.radial.dispatch import chain_of_kernel
from multipoles.radial.remainder import Remainder

# LLVM may fuse products with sums, but not reorder sums: what is left as an addition runs beside
# the products, in units of its own
_FLAGS = ("contract", "nsz")


class Loop:
    """One loop being written: addresses, loads and calls of vector functions."""

    def __init__(
        self, context: Any, builder: Any, dtype: Any, block: Any, orders: tuple[int, int],
        tiles: Tiling, damping: "Damping | None" = None, split: bool = False,
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
        """Return an integer of the program."""
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
        """Return a vector of zeros."""
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
        found = pieces(self.builder, estimate(self.context, self.builder, every), self.lane.lanes)
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
        self, damping: "Damping", distance: Sequence[Written], add: Callable[[Any], None]
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


class Damping:
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

    def chain(self, loop: Loop, square: Written, last: int) -> list[Written]:
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
