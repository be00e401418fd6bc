"""What a plan asks for, step by step, on the GPU: the steps of `fmm.steps_cpu`.

The host waits for the device when it lays out a plan and when it chooses degrees, which is done
once for each pair of orders; later evaluations only launch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fmm import harmonics
from fmm.cost import Work
from fmm.curve_cuda import GEOMETRY, corners, gather, launch
from fmm.driver_cuda import FarField
from fmm.geometry import Batches
from fmm.geometry_cuda import DeviceGeometry, arrange
from fmm.indicators import Where
from fmm.near_cuda import near_field
from fmm.sampling import SIZE, Probe, senders_of
from multipoles import checks, indexing
from multipoles import interactions_cuda as given
from multipoles._cuda import REAL, SIMULATED, cuda, kernels
from multipoles._device import Space, space_of
from multipoles._sorting_cuda import argsort, blocks_for
from multipoles.radial import Kernel

THREADS = 8 if SIMULATED else 128
# blocks that share a sum over all points
_PARTS = 4 if SIMULATED else 512
# sources that one block sums for sampled targets
_SENDERS = 16 if SIMULATED else 4096
# distances to the middle of a leaf are compared as integers of so many bits
_BITS = 30


class DeviceSteps:
    """Arrays on the GPU, in the caller's library, on its stream.

    All that a plan makes knows one space, whose stream is that of the last call: on another, the
    device first waits for what was made before.

    Parameters
    ----------
    array
        One on the device.
    """

    device = True

    def __init__(self, array: Any) -> None:
        self.space: Space = space_of(array)

    def points(
        self, sources: Any, targets: Any, source_batch: Any, target_batch: Any
    ) -> tuple[Any, Any, Batches]:
        """Return targets, sources and both batches, checked; targets are sources if None."""
        names = {"sources": sources}
        if targets is not None and targets is not sources:
            names["targets"] = targets
        space, found = given.points_of(names)
        self.space.move_to(space)
        s, x = found[0], found[-1]
        if x is s and target_batch is None:
            target_batch = source_batch
        batches = given.batches_of(self.space, target_batch, source_batch, x.shape[0], s.shape[0])
        if x is s and target_batch is source_batch:
            batches = batches[1], batches[1]
        return x, s, batches

    def moments(self, moments: Any, n: int | None, dtype: Any) -> tuple[Any, int, bool, np.dtype]:
        """Return moments with channels, their order, whether they had them, and the result's type.

        `dtype` is that of the points, if they are known.
        """
        if not checks.on_device(moments):
            raise TypeError(
                "moments: the points lie on a GPU and these on the CPU (a "
                f"{type(moments).__name__}); nothing is moved silently: put all in one place"
            )
        like = _Like(n if n is not None else moments.shape[0], dtype or np.dtype(_name(moments)))
        packed, had_channels = given.moments_of(self.space, moments, like)
        self.space.move_to(space_of(moments))
        return packed, indexing.order_of(packed.shape[2]), had_channels, np.dtype(packed.dtype)

    def processor(self, dtype: np.dtype) -> str:
        """Return whose times decide about leaves."""
        return f"cuda {np.dtype(dtype).name}"

    def extent(self, points: Any) -> np.ndarray:
        """Return how far points extend along each axis."""
        low, high = corners(self.space, points)
        return np.maximum(high - low, 0.0)

    def arrange(
        self,
        targets: Any,
        sources: Any,
        batches: Batches,
        work: Work,
        leaf_size: int | None,
        smallest: float,
    ) -> DeviceGeometry:
        """Return points, tree and lists, see `fmm.geometry.arrange`."""
        return arrange(self.space, targets, sources, batches, work, leaf_size, smallest)

    def order(self, geometry: DeviceGeometry, moments: Any, dtype: np.dtype) -> Any:
        """Return moments in the order of the tree."""
        out = self.space.empty(moments.shape, dtype)
        self._move(geometry.tree.source_order, moments, out, scattered=False)
        return out

    def near(
        self, geometry: DeviceGeometry, moments: Any, order: int, kernel: Kernel, reach: float
    ) -> Any:
        """Return the near field, in the order of the tree."""
        targets, sources = geometry.points(np.dtype(moments.dtype))
        shape = targets.shape[0], moments.shape[1], indexing.n_components(order)
        out = self.space.empty(shape, moments.dtype)
        near_field(
            self.space, targets, sources, moments, order, *geometry.near, out, kernel=kernel,
            reach=reach,
        )  # fmt: skip
        return out

    def probe(self, *args: Any) -> "DeviceProbe":
        """Return the field at sampled targets; arguments are those of `Probe`."""
        return DeviceProbe(*args)

    def held(self, geometry, moments: Any, harmonic: Any, source_order: int) -> "DeviceHeld":
        """Return what the moments are of each order; waits for it."""
        return DeviceHeld(mean_squares(self.space, moments, source_order))

    def harmonic(self, moments: Any, source_order: int) -> "_Harmonic":
        """Return moments by harmonics, as the far field takes them."""
        return _Harmonic(self, moments, source_order)

    def far(
        self,
        geometry: DeviceGeometry,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
    ) -> Callable[[Any, dict[str, float]], Any]:
        """Return what computes the far field of harmonic moments."""
        far = FarField(geometry, degrees, source_order, order, dtype, self.space)

        def run(moments: "_Harmonic", seconds: dict[str, float]) -> Any:
            return far(moments.of(np.dtype(dtype)))

        return run

    def total(self, near: Any, local: Any, order: int) -> Any:
        """Return the near field and the derivatives that local expansions give."""
        out = self.space.empty(near.shape, near.dtype)
        _copy(self.space, near, out)
        self.multiply(local, ("to cartesian", order), harmonics.cartesian_map(order), True, out)
        return out

    def corners(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of some points, on the host."""
        return corners(self.space, points)

    def typical_extent(self, points: Any) -> float:
        """Return zero: not known."""
        return 0.0

    def scaled(self, values: Any, exponents: Any) -> Any:
        """Return values times powers of two, one for all or one for each column."""
        factors = np.ldexp(np.ones(values.shape[-1]), exponents)
        wide = values.reshape(values.shape[0], -1, values.shape[-1])
        out = self.space.empty(wide.shape, values.dtype)
        key = "scaled", tuple(np.broadcast_to(exponents, len(factors)).tolist())
        self.multiply(wide, key, np.diag(factors), False, out)
        return out.reshape(*values.shape)

    def largest(self, values: Any, exponents: np.ndarray) -> float:
        """Return one: nothing waits for the device."""
        return 1.0

    def unorder(self, geometry: DeviceGeometry, out: Any, dtype: np.dtype) -> Any:
        """Return a field in the order in which targets were given."""
        result = self.space.empty(out.shape, dtype)
        self._move(geometry.tree.target_order, out, result, scattered=True)
        return result

    def give(self, out: Any, had_channels: bool) -> Any:
        """Return a field as the caller gets it."""
        return self.space.give(out if had_channels else out.reshape(out.shape[0], out.shape[2]))

    def multiply(self, values: Any, key: tuple, matrix: np.ndarray, added: bool, out: Any) -> None:
        """Write, or add to `out`, the rows of values times a matrix."""
        wide = np.result_type(values.dtype, out.dtype)
        table = self.space.constant(
            (*key, wide.name), lambda: np.ascontiguousarray(matrix.astype(wide)).reshape(-1)
        )
        n_in, n_out = matrix.shape
        n = out.shape[0] * out.shape[1] * n_out
        _multiply(int(added))(
            self.space.stream, wide, blocks_for(n, THREADS), THREADS, values.reshape(-1), table,
            n_in, n_out, out.reshape(-1),
        )  # fmt: skip

    def _move(self, order: Any, values: Any, out: Any, scattered: bool) -> None:
        """Copy rows in an order, or back; the type of numbers may change."""
        wide = np.result_type(values.dtype, out.dtype)
        width = values.shape[1] * values.shape[2]
        _move(int(scattered))(
            self.space.stream, wide, blocks_for(order.shape[0] * width, THREADS), THREADS, order,
            width, values.reshape(-1), out.reshape(-1),
        )  # fmt: skip


class _Like:
    """Number and type of points that moments must agree with."""

    def __init__(self, n: int, dtype: np.dtype) -> None:
        self.shape, self.dtype = (n, 3), dtype


def _name(array: Any) -> str:
    """Return the name of an array's dtype, torch's too."""
    return str(array.dtype).removeprefix("torch.")


class _Harmonic:
    """Moments by harmonics, in the type of numbers of the expansions that take them."""

    def __init__(self, steps: DeviceSteps, moments: Any, source_order: int) -> None:
        self.steps, self.moments, self.source_order = steps, moments, source_order
        self._made: dict[np.dtype, Any] = {}

    def of(self, dtype: np.dtype) -> Any:
        """Return them in one type of numbers."""
        if dtype not in self._made:
            n, channels, _ = self.moments.shape
            size = harmonics.n_harmonics(self.source_order)
            out = self.steps.space.empty((n, channels, size), dtype)
            matrix = harmonics.cartesian_map(self.source_order).T
            key = ("to harmonic", self.source_order)
            self.steps.multiply(self.moments, key, matrix, False, out)
            self._made[dtype] = out
        return self._made[dtype]


class DeviceHeld:
    """What all sources together hold of one set of moments.

    Parameters
    ----------
    mean : ndarray, shape (K + 1,)
        Mean over the sources of the square of the moments of each order.
    """

    spread = 1.0

    def __init__(self, mean: np.ndarray) -> None:
        self.mean = mean

    def where(self, geometry: DeviceGeometry, degrees: tuple[int, ...], norms: np.ndarray) -> Where:
        """Return where errors are expected: nowhere more than elsewhere."""
        nothing = np.empty(0)
        return Where(nothing.astype(np.int64), nothing, max(degrees))

    def weights(self, geometry: DeviceGeometry) -> np.ndarray:
        """Return what `accuracy.predicted` asks for."""
        return self.mean[:, None, None] * geometry.far_weights


class DeviceProbe(Probe):
    """Targets at which the whole field is known, on the host: some drawn evenly, some in corners.

    Those chosen for their place in corners of leaves stand for themselves, those drawn for all.
    """

    _geometry: DeviceGeometry
    _near: Any

    def squares(self, field: Any) -> np.ndarray:
        """Return the mean square of a field over all targets, shape (1, order + 1, 1)."""
        found = mean_squares(self._geometry.space, field, self._order) / self.units**2
        return found[None, :, None]

    def _sample(self, field: Any) -> np.ndarray:
        n = field.shape[0]
        return picked(self._geometry.space, field, np.arange(0, n, 1 + n // SIZE))

    def _draw(self, first: int, last: int, size: int, seed: int):
        places, shares, even = super()._draw(first, last, size, seed)
        corners = self._in_corners(SIZE)
        places = np.concatenate([places, corners])
        alone = np.full(len(corners), 1.0 / max(last - first, 1))
        return places, np.append(shares, alone), np.append(even, np.zeros(len(corners), bool))

    def _at(self, field: Any) -> np.ndarray:
        return picked(self._geometry.space, field, self.places).astype(np.float64)

    def _in_corners(self, size: int) -> np.ndarray:
        """Return the places of the targets that are farthest from the centres of their leaves."""
        geometry, n = self._geometry, self._near.shape[0]
        space, tree = geometry.space, geometry.tree
        keys = space.upload(np.zeros(n, np.int64))
        leaves, targets = geometry.target_leaves, geometry.targets
        launch(
            space, _measure(), n, targets, geometry.leaf_targets,
            _by_start(space, geometry.leaf_targets), leaves, tree.centre, tree.edge, keys,
        )  # fmt: skip
        order, _ = argsort(space, keys, _BITS)
        return space.download(order[max(n - size, 0) :])

    def _wide(self) -> Any:
        """Return the moments in float64."""
        space, moments = self._geometry.space, self._moments
        if moments.dtype == np.float64:
            return moments
        out = space.empty(moments.shape, np.dtype(np.float64))
        _copy(space, moments, out)
        return out

    def _sum(self, places: np.ndarray) -> np.ndarray:
        geometry, moments = self._geometry, self._wide()
        space, dtype = geometry.space, np.dtype(np.float64)
        targets, sources = geometry.points(dtype)
        counts, senders = senders_of(places, *geometry.roots)
        rows, leaves, ranges = _shared(counts, senders)
        here = gather(space, targets, space.upload(places[rows]), dtype)
        n_out = indexing.n_components(self._order)
        out = space.upload(np.zeros((len(rows), moments.shape[1], n_out), dtype))
        near_field(
            space, here, sources, moments, self._order, space.upload(leaves),
            space.upload(np.arange(len(leaves) + 1)), space.upload(ranges), out,
            kernel=self._kernel, reach=self._reach,
        )  # fmt: skip
        exact = np.zeros((len(places), *out.shape[1:]))
        np.add.at(exact, rows, space.download(out))
        return exact

    def _some(self, places: np.ndarray, senders: np.ndarray) -> tuple[np.ndarray, ...]:
        space, dtype = self._geometry.space, np.dtype(np.float64)
        targets, sources = self._geometry.points(dtype)
        here = gather(space, targets, space.upload(places), dtype)
        there = gather(space, sources, space.upload(senders), dtype)
        moments = picked(space, self._moments, senders).astype(np.float64)
        return space.download(here), space.download(there), moments


def _shared(counts: np.ndarray, senders: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return targets, as often as parts of their sources; leaves of them; and the parts."""
    rows, leaves, ranges = [], [], []
    first, n = 0, 0
    for count, (begin, end) in zip(counts.tolist(), senders.tolist(), strict=True):
        for start in range(begin, end, _SENDERS):
            rows.append(np.arange(first, first + count))
            leaves.append((n, n + count))
            ranges.append((start, min(start + _SENDERS, end)))
            n += count
        first += count
    whole = np.concatenate(rows) if rows else np.empty(0, np.int64)
    pairs = np.array(leaves, np.int64).reshape(-1, 2), np.array(ranges, np.int64).reshape(-1, 2)
    return whole, *pairs


def _copy(space: Space, values: Any, out: Any) -> None:
    """Copy all numbers of an array to another, whose type may be wider."""
    n = int(np.prod(values.shape))
    _copied()(
        space.stream, np.result_type(values.dtype, out.dtype), blocks_for(n, THREADS), THREADS,
        values.reshape(-1), out.reshape(-1),
    )  # fmt: skip


def picked(space: Space, values: Any, places: np.ndarray) -> np.ndarray:
    """Return some rows of values (n, c, k), on the host; waits for them."""
    shape = len(places), *values.shape[1:]
    out = space.empty(shape, values.dtype)
    width = shape[1] * shape[2]
    _move(0)(
        space.stream, values.dtype, blocks_for(len(places) * width, THREADS), THREADS,
        space.upload(np.asarray(places, np.int64)), width, values.reshape(-1), out.reshape(-1),
    )  # fmt: skip
    return space.download(out)


def mean_squares(space: Space, values: Any, order: int) -> np.ndarray:
    """Return the mean over points of the sum of squares per order of components, on the host."""
    n, _, size = values.shape
    parts = max(1, min(_PARTS, n // THREADS))
    sums = space.empty((parts, size), np.float64)
    _squares()(space.stream, GEOMETRY, (parts, size), THREADS, values.reshape(-1), size, sums)
    squares = space.download(sums).sum(axis=0) / max(n, 1)
    starts = [indexing.order_slice(k).start for k in range(order + 1)]
    return np.add.reduceat(squares, starts)


# --- kernels --------------------------------------------------------------------------------------


@kernels
def _move(scattered):
    def loop(order, width, values, out):
        i = cuda.grid(1)
        if i < order.shape[0] * width:
            row, column = i // width, i % width
            there = order[row] * width + column
            if scattered:
                out[there] = values[i]
            else:
                out[i] = values[there]

    return loop


@kernels
def _copied():
    def loop(values, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = values[i]

    return loop


@kernels
def _multiply(added):
    def loop(values, matrix, n_in, n_out, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            row, column = i // n_out, i % n_out
            total = 0.0
            for k in range(n_in):
                total += values[row * n_in + k] * matrix[k * n_out + column]
            if added:
                total += out[i]
            out[i] = total

    return loop


@kernels
def _squares():
    def loop(values, size, sums):
        """Add the squares of one component, over a part of the points: always in one order."""
        shared = cuda.shared.array(THREADS, REAL)
        thread, part, column = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        n = values.shape[0] // size
        first, last = n * part // cuda.gridDim.x, n * (part + 1) // cuda.gridDim.x
        total = 0.0
        for i in range(first + thread, last, THREADS):
            total += values[i * size + column] * values[i * size + column]
        shared[thread] = total
        cuda.syncthreads()
        if thread == 0:
            total = 0.0
            for other in range(THREADS):
                total += shared[other]
            sums[part, column] = total

    return loop


def _by_start(space: Space, leaves: Any) -> Any:
    """Return the order in which leaves start."""
    starts = space.empty((leaves.shape[0],), np.int64)
    launch(space, _first_column(), leaves.shape[0], leaves, starts)
    return argsort(space, starts)[0]


@kernels
def _first_column():
    def loop(pairs, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            out[i] = pairs[i, 0]

    return loop


@kernels
def _measure():
    def loop(targets, ranges, order, leaves, centre, edge, keys):
        """Write the squared distance of every target from the middle of its leaf, as integers."""
        i = cuda.grid(1)
        if i >= keys.shape[0]:
            return
        first, last = 0, order.shape[0]
        while first < last:
            middle = (first + last) // 2
            if ranges[order[middle], 0] <= i:
                first = middle + 1
            else:
                last = middle
        box = leaves[order[first - 1]]
        square = 0.0
        for axis in range(3):
            x = (targets[i, axis] - centre[box, axis]) / edge[box]
            square += x * x
        keys[i] = int(min(square, 0.99) * (1 << _BITS))

    return loop
