"""Units of moments on the GPU, see `fmm.scaling`: worked out and used there, so that nothing waits.

The power of two that counts moments is a number on the device, which kernels read.
"""

from math import inf
from typing import Any, NamedTuple

import numpy as np

from fmm.cuda.curve import GEOMETRY, THREADS, DeviceArray, launch
from fmm.scaling import ORDINARY
from fmm.tree.curve import upper
from multipoles import indexing
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, device, kernels
from multipoles.cuda.device import Space

# blocks that share a search through all points
_PARTS = 4 if SIMULATED else 512
# exponents of the powers of two that float64 has, and those by which numbers are scaled at once
_LEAST, _MOST, _STEP = -1074, 1023, 1000
# beyond this all is zero or infinite
_BOUND = 4 * _STEP
# less than any exponent: there is no number
_NOTHING = -10 * _BOUND


class DeviceUnits:
    """Units of one set of moments on the device.

    Parameters
    ----------
    space : Space
        Where the arrays are.
    moments : device array, shape (n, channels, n_components(K))
    source_order : int
        K.
    length : int
        Exponent of the unit of length.
    """

    def __init__(self, space: Space, moments: DeviceArray, source_order: int, length: int) -> None:
        self.space, self.length, self.source_order = space, length, source_order
        exponents = -length * indexing.orders(source_order)
        self.moment = space.empty((1,), np.int64)
        launch(
            space, _choose(), THREADS, largest(space, moments).reshape(-1),
            _exponents(space, exponents), _powers(space), self.moment,
        )  # fmt: skip

    def scaled(self, moments: DeviceArray) -> "Scaled":
        """Return moments in these units, which `carried` makes where they are wanted."""
        exponents = -self.length * indexing.orders(self.source_order)
        return Scaled(self.space, moments, exponents, self.moment)

    def kept(self, dtype: np.dtype) -> np.dtype:
        """Return the type that a field has in these units: in others it may not fit float32."""
        return np.dtype(np.float64)

    def restored(self, field: "Ordered", order: int, dtype: np.dtype) -> DeviceArray:
        """Return a field in the caller's order, units and type."""
        exponents = -self.length * (indexing.orders(order) + 1)
        out = self.space.empty(field.values.shape, dtype)
        carry(
            self.space, field.permutation, field.values, exponents, self.moment, 1, True, out
        )  # fmt: skip
        return out


class Scaled:
    """Moments in units, as the caller ordered them: not yet made.

    Attributes
    ----------
    shape, dtype
        Of the moments.
    """

    def __init__(
        self, space: Space, values: DeviceArray, exponents: np.ndarray, unit: DeviceArray
    ) -> None:
        self._space, self._values, self._exponents, self._unit = space, values, exponents, unit
        self.shape, self.dtype = values.shape, values.dtype

    def made(self) -> DeviceArray:
        """Return them in the caller's order."""
        return scaled(self._space, self._values, self._exponents, self._unit, -1)

    def ordered(self, permutation: DeviceArray, dtype: np.dtype) -> DeviceArray:
        """Return them in the order of a permutation, as `dtype`."""
        out = self._space.empty(self.shape, dtype)
        given = self._values, self._exponents, self._unit
        carry(self._space, permutation, *given, -1, False, out)
        return out


class Ordered(NamedTuple):
    """A field in the order of the tree, and where each of its rows belongs."""

    values: DeviceArray
    permutation: DeviceArray


def carry(
    space: Space,
    permutation: DeviceArray,
    values: DeviceArray,
    exponents: np.ndarray,
    unit: DeviceArray,
    sign: int,
    scattered: bool,
    out: DeviceArray,
) -> None:
    """Copy ``values[permutation]``, or rows back by it, times powers of two, to another type.

    Parameters
    ----------
    values, out : device array, shape (n, channels, size)
    exponents : ndarray, shape (size,)
    unit : device array of int64, shape (1,)
        Added to them, times `sign`.
    scattered : bool
        Whether rows go to the permutation's places, rather than come from there.
    """
    _, channels, size = values.shape
    launch(
        space, _carry(int(scattered)), int(np.prod(out.shape)), permutation, channels * size,
        values.reshape(-1), _exponents(space, exponents), unit, sign, _powers(space),
        out.reshape(-1),
    )  # fmt: skip


def scaled(
    space: Space,
    values: DeviceArray,
    exponents: Any,
    unit: DeviceArray = None,
    sign: int = 0,
) -> DeviceArray:
    """Return values times powers of two.

    Parameters
    ----------
    values : device array
    exponents : int or ndarray
        One for all or one for each column.
    unit : device array of int64, shape (1,), optional
        Added to them, times `sign`.
    """
    size = values.shape[len(values.shape) - 1]
    if unit is None:
        unit = space.constant(("no unit",), lambda: np.zeros(1, np.int64))
    made = space.empty(values.shape, values.dtype)
    launch(
        space, _scale(), int(np.prod(values.shape)), values.reshape(-1),
        _exponents(space, np.broadcast_to(exponents, size)), unit, sign, _powers(space),
        made.reshape(-1),
    )  # fmt: skip
    return made


def largest(space: Space, values: DeviceArray) -> DeviceArray:
    """Return the largest number of each component, whatever its sign, over parts of the points.

    Parameters
    ----------
    values : device array, shape (n, channels, size)

    Returns
    -------
    device array of float64, shape (n_parts, size)
        NaN is left out.
    """
    n, _, size = values.shape
    parts = max(1, min(_PARTS, n // THREADS))
    if size == 0 or n == 0:
        return space.zeros((1, max(size, 1)), np.float64)
    out = space.empty((parts, size), np.float64)
    _largest()(space.stream, GEOMETRY, parts, THREADS, values.reshape(-1), size, out)
    return out


def _powers(space: Space) -> DeviceArray:
    """Return all powers of two."""
    exponents = np.arange(_LEAST, _MOST + 1)
    return space.constant(("powers of two",), lambda: np.ldexp(1.0, exponents))


def _exponents(space: Space, exponents: np.ndarray) -> DeviceArray:
    kept = np.clip(exponents, -_BOUND, _BOUND).astype(np.int64)
    return space.constant(("exponents", *kept.tolist()), lambda: kept)


# --- kernels --------------------------------------------------------------------------------------


@device
def _largest_of(values, size, first, last, column, shared):
    """Return, to the first threads, the largest number of some columns of rows, one each.

    The columns from `column` on, as many as there are threads. Threads read what lies side by side.
    """
    thread = cuda.threadIdx.x
    width = min(size - column, THREADS)
    together = THREADS // width
    most = 0.0
    for row in range(first + thread // width, last if thread < together * width else 0, together):
        x = abs(np.float64(values[row * size + column + thread % width]))
        # of NaN no comparison is true
        most = x if x > most else most
    shared[thread] = most
    cuda.syncthreads()
    if thread < width:
        for other in range(1, together):
            most = max(most, shared[other * width + thread])
    cuda.syncthreads()
    return most


@kernels
def _largest():
    def loop(values, size, out):
        """Find the largest of every component, over a part of the points."""
        shared = cuda.shared.array(THREADS, np.float64)
        thread, part = cuda.threadIdx.x, cuda.blockIdx.x
        n = values.shape[0] // size
        first, last = n * part // cuda.gridDim.x, n * (part + 1) // cuda.gridDim.x
        for column in range(0, size, THREADS):
            most = _largest_of(values, size, first, last, column, shared)
            if thread < min(size - column, THREADS):
                out[part, column + thread] = most

    return loop


@kernels
def _choose():
    def loop(of_parts, exponents, powers, unit):
        """Write the exponent of the largest number of all; zero if it is ordinary."""
        shared = cuda.shared.array(THREADS, np.float64)
        found = cuda.shared.array(THREADS, np.int64)
        thread, size = cuda.threadIdx.x, exponents.shape[0]
        n = of_parts.shape[0] // size
        found[thread] = _NOTHING
        for column in range(0, size, THREADS):
            value = _largest_of(of_parts, size, 0, n, column, shared)
            if thread < min(size - column, THREADS) and value > 0.0 and value < inf:
                here = upper(powers, 0, powers.shape[0], value) + _LEAST
                found[thread] = max(found[thread], here + exponents[column + thread])
        cuda.syncthreads()
        if thread == 0:
            most = _NOTHING
            for other in range(THREADS):
                most = max(most, found[other])
            is_other = most > ORDINARY or (most < -ORDINARY and most > _NOTHING)
            unit[0] = most if is_other else 0

    return loop


@device
def _times_power(x, exponent, powers):
    """Return a number of float64 times a power of two, however large."""
    value = np.float64(x)
    while exponent > _STEP:
        value *= powers[_STEP - _LEAST]
        exponent -= _STEP
    while exponent < -_STEP:
        value *= powers[-_STEP - _LEAST]
        exponent += _STEP
    return value * powers[exponent - _LEAST]


@kernels
def _scale():
    def loop(values, exponents, unit, sign, powers, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            exponent = exponents[i % exponents.shape[0]] + sign * unit[0]
            out[i] = values[i] if exponent == 0 else _times_power(values[i], exponent, powers)

    return loop


@kernels
def _carry(scattered):
    def loop(permutation, width, values, exponents, unit, sign, powers, out):
        i = cuda.grid(1)
        if i >= out.shape[0]:
            return
        there = permutation[i // width] * width + i % width
        source, target = (i, there) if scattered else (there, i)
        exponent = exponents[i % exponents.shape[0]] + sign * unit[0]
        if exponent == 0:
            out[target] = values[source]
        else:
            out[target] = _times_power(values[source], exponent, powers)

    return loop
