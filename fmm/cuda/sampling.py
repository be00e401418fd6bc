"""The field at a few targets on the GPU, by which the error is measured; see `fmm.error.sampling`.

If many sources are about equally strong, targets are drawn evenly, and those in the corners of
leaves, where errors are largest, are taken in addition. If few are strong, or there are few, the
tree is copied to the host, which draws where errors are expected. The host waits for what is
compared.
"""

from functools import cached_property

import numpy as np

from fmm.cuda import scaling as scaling_cuda
from fmm.cuda.curve import GEOMETRY, THREADS, DeviceArray, gather, launch
from fmm.cuda.geometry import DeviceGeometry
from fmm.cuda.near import near_field
from fmm.cuda.rows import copy, picked
from fmm.error import sampling
from fmm.error.drawing import Drawn, draw
from fmm.error.indicators import HostStrengths, Where
from fmm.error.sampling import Probe
from fmm.error.systems import senders_of
from fmm.far import harmonics
from multipoles import indexing
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.digits import INDEX
from multipoles.cuda.sorting import argsort

# blocks that share a sum over all points
_PARTS = 4 if SIMULATED else 512
# sources that one block sums for sampled targets
_SENDERS = 16 if SIMULATED else 4096
# distances to the middle of a leaf are compared as integers of so many bits
_BITS = 30
# which are counted by the first of them
_BIN = 18
_BINS = 1 << (_BITS - _BIN)
# more targets in the last corners than this and those that are wanted are sorted on the device
_MOST_EQUAL = 4 if SIMULATED else 1 << 16
# what rounding leaves of moments that are all trace, relative to them
_TRACE = 1e-12
_WIDE = np.dtype(np.float64)
# sources are few below this number; few of them are strong below this share of all
_FEW, _UNEVEN = 10_000, 0.02


class DeviceStrengths:
    """What all sources together hold of one set of moments.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    moments : device array, shape (n, channels, n_components(K))
    harmonic : device array of float64, shape (n, channels, (K + 1)^2)
        The same by harmonics.
    source_order : int
        K.

    Attributes
    ----------
    mean : ndarray, shape (K + 1,)
        Mean over the sources of the square of the moments of each order, without their traces.
    spread : float
        How many sources of one size would make the most uneven component.
    """

    def __init__(
        self, space: Space, moments: DeviceArray, harmonic: DeviceArray, source_order: int
    ) -> None:
        whole = mean_squares(space, moments, np.ones(source_order + 1))
        squares, fourths = (component_means(space, harmonic, p) for p in (2, 4))
        matrix = harmonics.cartesian_map(source_order)
        self.mean = np.zeros(source_order + 1)
        for j in range(source_order + 1):
            own = slice(j * j, (j + 1) ** 2)
            unit = (matrix[own] ** 2).sum() / np.count_nonzero(matrix[own].any(axis=0))
            acting = squares[own].sum() / unit
            self.mean[j] = 0.0 if acting < _TRACE**2 * whole[j] else acting
        n, acts = moments.shape[0], np.repeat(self.mean > 0, 2 * np.arange(source_order + 1) + 1)
        with np.errstate(invalid="ignore"):  # of moments that are not finite
            self.spread = float(n * np.min(squares[acts] ** 2 / fourths[acts], initial=1.0))
        self._boxes: HostStrengths | None = None
        if np.isfinite(self.mean).all() and (n < _FEW or self.spread < _UNEVEN * n):
            self._boxes = HostStrengths(space.download(harmonic), source_order)

    def where(self, geometry: DeviceGeometry, degrees: tuple[int, ...], norms: np.ndarray) -> Where:
        """Return where errors are expected; no leaves if nowhere more than elsewhere."""
        if self._boxes is not None and self.mean.any():
            return self._boxes.where(geometry.host, degrees, norms)
        nothing = np.empty(0)
        return Where(nothing.astype(np.int64), nothing, max(degrees))

    def weights(self, geometry: DeviceGeometry) -> np.ndarray:
        """Return what `accuracy.predicted` asks for: not less than if all sources were alike.

        Degrees stay for later moments, of which nothing is known.
        """
        alike: np.ndarray = self.mean[:, None, None] * geometry.far_weights
        if self._boxes is None or not self.mean.any():
            return alike
        np.maximum(alike, self._boxes.weights(geometry.host), out=alike)
        return alike


class DeviceProbe(Probe):
    """Targets at which the whole field is known, on the host: some drawn evenly, some in corners.

    Those chosen because they lie in corners of leaves stand for themselves, those drawn for all
    others.
    """

    _geometry: DeviceGeometry
    _near: DeviceArray

    def crosscheck(self, field: DeviceArray) -> tuple[np.ndarray, int]:
        """Return zeros: there are no other loops on the device."""
        return np.zeros_like(self._near_squares), 0

    def squares(self, field: DeviceArray) -> np.ndarray:
        """Return the mean square of a field over all targets, in `units`: (1, order + 1, 1)."""
        if field is self._near and "_near_squares" in self.__dict__:
            return self._near_squares
        return mean_squares(self._geometry.space, field, self.units)[None, :, None]

    def _sample(self, field: DeviceArray) -> np.ndarray:
        n = field.shape[0]
        return picked(self._geometry.space, field, np.arange(0, n, 1 + n // sampling.SIZE))

    def _largest(self, field: DeviceArray) -> np.ndarray:
        space = self._geometry.space
        parts = space.download(scaling_cuda.largest(space, field))
        largest: np.ndarray = parts.max(axis=0, keepdims=True)
        return largest

    def _draw(self, first: int, last: int, size: int, seed: int) -> Drawn:
        n, geometry, where = last - first, self._geometry, self._where
        if n <= size + sampling.SIZE:
            return draw(geometry, None, first, last, n, seed)
        if where is not None and len(where.leaves):
            return draw(geometry.host, where, first, last, size, seed)
        samples, shares, even = draw(geometry, None, first, last, size, seed)
        corners = self._corners
        others = ~np.isin(samples, corners)
        if others.any():
            shares = others * ((n - len(corners)) / (n * np.count_nonzero(others)))
        alone = np.full(len(corners), 1.0 / n)
        return Drawn(
            np.concatenate([samples, corners]), np.append(shares, alone),
            np.append(even, np.zeros(len(corners), bool)),
        )  # fmt: skip

    def _at(self, field: DeviceArray, samples: np.ndarray | None = None) -> np.ndarray:
        some = self.samples if samples is None else samples
        return picked(self._geometry.space, field, some).astype(np.float64)

    @cached_property
    def _corners(self) -> np.ndarray:
        return self._in_corners(sampling.SIZE)

    def _in_corners(self, size: int) -> np.ndarray:
        """Return the targets that are farthest from the centres of their leaves."""
        geometry, n = self._geometry, self._near.shape[0]
        space, tree, leaves = geometry.space, geometry.tree, geometry.target_leaves
        keys, counts = space.empty((n,), np.int64), space.zeros((_BINS + 1,), np.int64)
        _measure()(
            space.stream, GEOMETRY, leaves.shape[0], THREADS, geometry.targets,
            geometry.leaf_targets, leaves, tree.centre, tree.edge, keys, counts,
        )  # fmt: skip
        wanted = min(size, n)
        above = np.cumsum(space.download(counts)[_BINS - 1 :: -1])
        first = int(np.searchsorted(above, wanted))
        if above[first] > _MOST_EQUAL + wanted:
            permutation, _ = argsort(space, keys, _BITS)
            return space.download(permutation[n - wanted :])
        found = space.empty((int(above[first]),), np.int64)
        bound = (_BINS - 1 - first) << _BIN
        launch(space, _collect(), n, keys, bound, counts[_BINS:], found)
        chosen: np.ndarray = np.sort(space.download(found))[len(found) - wanted :]
        return chosen & ((1 << INDEX) - 1)

    def _wide(self) -> DeviceArray:
        """Return the moments in float64."""
        space, moments = self._geometry.space, self._moments
        if moments.dtype == _WIDE:
            return moments
        out = space.empty(moments.shape, _WIDE)
        copy(space, moments, out)
        return out

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        geometry, moments = self._geometry, self._wide()
        space = geometry.space
        targets, sources = geometry.points(_WIDE)
        counts, senders = senders_of(samples, *geometry.roots)
        rows, leaves, ranges = _shared(counts, senders)
        here = gather(space, targets, space.upload(samples[rows]), _WIDE)
        n_out = indexing.n_components(self._order)
        out = space.upload(np.zeros((len(rows), moments.shape[1], n_out)))
        near_field(
            space, here, sources, moments, self._order, space.upload(leaves),
            space.upload(np.arange(len(leaves) + 1)), space.upload(ranges), out,
            kernel=self._kernel,
        )  # fmt: skip
        exact = np.zeros((len(samples), *out.shape[1:]))
        np.add.at(exact, rows, space.download(out))
        return exact

    def _some(self, samples: np.ndarray, senders: np.ndarray) -> tuple[np.ndarray, ...]:
        space = self._geometry.space
        targets, sources = self._geometry.points(_WIDE)
        here = gather(space, targets, space.upload(samples), _WIDE)
        there = gather(space, sources, space.upload(senders), _WIDE)
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


def mean_squares(space: Space, values: DeviceArray, units: np.ndarray) -> np.ndarray:
    """Return the mean over points of the sum of squares per order, on the host.

    Parameters
    ----------
    values : device array, shape (n, channels, n_components(order))
    units : ndarray, shape (order + 1,)
        In which each order is counted, so that no square overflows.
    """
    orders = indexing.orders(len(units) - 1)
    squares = component_means(space, values, 2, 1.0 / units[orders])
    return np.bincount(orders, squares, minlength=len(units))


def component_means(
    space: Space, values: DeviceArray, power: int, factors: np.ndarray | None = None
) -> np.ndarray:
    """Return the mean over points of a power of each component times a factor, on the host."""
    n, channels, size = values.shape
    factors = np.ones(size) if factors is None else factors
    if n * channels == 0:
        return np.zeros(size)
    parts = max(1, min(_PARTS, n // THREADS))
    sums = space.empty((parts, size), np.float64)
    _powers(power)(
        space.stream, GEOMETRY, (parts, size), THREADS, values.reshape(-1), space.upload(factors),
        sums,
    )  # fmt: skip
    mean: np.ndarray = space.download(sums).sum(axis=0) / n
    return mean


# --- kernels --------------------------------------------------------------------------------------


@kernels
def _powers(power):
    def loop(values, factors, sums):
        """Add an even power of one component, over a part of the points: always in one order."""
        shared = cuda.shared.array(THREADS, np.float64)
        thread, part, column = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        size = factors.shape[0]
        n = values.shape[0] // size
        first, last = n * part // cuda.gridDim.x, n * (part + 1) // cuda.gridDim.x
        total = 0.0
        for i in range(first + thread, last, THREADS):
            value = np.float64(values[i * size + column]) * factors[column]
            square = value * value
            total += square if power == 2 else square * square
        shared[thread] = total
        cuda.syncthreads()
        if thread == 0:
            total = 0.0
            for other in range(THREADS):
                total += shared[other]
            sums[part, column] = total

    return loop


@kernels
def _measure():
    def loop(targets, ranges, leaves, centre, edge, keys, counts):
        """Write the squared distances of the targets of a leaf from its middle, as integers.

        They are counted by their first bits.
        """
        leaf = cuda.blockIdx.x
        box = leaves[leaf]
        for i in range(ranges[leaf, 0] + cuda.threadIdx.x, ranges[leaf, 1], THREADS):
            square = 0.0
            for axis in range(3):
                x = (targets[i, axis] - centre[box, axis]) / edge[box]
                square += x * x
            key = int(min(square, 0.99) * (1 << _BITS))
            keys[i] = key
            cuda.atomic.add(counts, key >> _BIN, 1)

    return loop


@kernels
def _collect():
    def loop(keys, bound, count, found):
        """Write keys that are not below a bound, and where they are; in any order."""
        i = cuda.grid(1)
        if i < keys.shape[0] and keys[i] >= bound:
            found[cuda.atomic.add(count, 0, 1)] = keys[i] << INDEX | i

    return loop
