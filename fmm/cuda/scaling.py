"""Units of moments on the GPU, see `fmm.scaling`: worked out and used there, so that nothing waits.

The power of two that counts moments is a number on the device, which kernels read.
"""

from math import inf
from typing import Any

import numpy as np

from fmm.cuda.curve import GEOMETRY, THREADS, DeviceArray, launch
from fmm.scaling import ORDINARY
from fmm.tree.curve import upper
from multipoles import indexing
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.direct import fill

# blocks that share a search through all points
_PARTS = 4 if SIMULATED else 512
# exponents of the powers of two that float64 has, and those by which numbers are scaled at once
_LEAST, _MOST, _STEP = -1074, 1023, 1000
# beyond this all is zero or infinite
_BOUND = 4 * _STEP


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
            space, _choose(), 1, largest(space, moments), _exponents(space, exponents),
            _powers(space), self.moment,
        )  # fmt: skip

    def scaled(self, moments: DeviceArray) -> DeviceArray:
        """Return moments in these units."""
        exponents = -self.length * indexing.orders(self.source_order)
        return scaled(self.space, moments, exponents, self.moment, -1)

    def kept(self, dtype: np.dtype) -> np.dtype:
        """Return the type that a field has in these units: in others it may not fit float32."""
        return np.dtype(np.float64)

    def restored(self, field: DeviceArray, order: int, dtype: np.dtype) -> DeviceArray:
        """Return a field, which may be overwritten, in the caller's units and type."""
        exponents = -self.length * (indexing.orders(order) + 1)
        out = field if field.dtype == dtype else self.space.empty(field.shape, dtype)
        return scaled(self.space, field, exponents, self.moment, 1, out)


def scaled(
    space: Space,
    values: DeviceArray,
    exponents: Any,
    unit: DeviceArray = None,
    sign: int = 0,
    out: DeviceArray = None,
) -> DeviceArray:
    """Return values times powers of two.

    Parameters
    ----------
    values : device array
    exponents : int or ndarray
        One for all or one for each column.
    unit : device array of int64, shape (1,), optional
        Added to them, times `sign`.
    out : device array, optional
        Where to write, `values` itself perhaps; default a new array.
    """
    size = values.shape[len(values.shape) - 1]
    if unit is None:
        unit = space.constant(("no unit",), lambda: np.zeros(1, np.int64))
    made = space.empty(values.shape, values.dtype) if out is None else out
    launch(
        space, _scale(), int(np.prod(values.shape)), values.reshape(-1),
        _exponents(space, np.broadcast_to(exponents, size)), unit, sign, _powers(space),
        int(made is not values), made.reshape(-1),
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
        return fill(space, space.empty((1, max(size, 1)), np.float64), 0.0)
    out = space.empty((parts, size), np.float64)
    _largest()(space.stream, GEOMETRY, (parts, size), THREADS, values.reshape(-1), size, out)
    return out


def _powers(space: Space) -> DeviceArray:
    """Return all powers of two."""
    exponents = np.arange(_LEAST, _MOST + 1)
    return space.constant(("powers of two",), lambda: np.ldexp(1.0, exponents))


def _exponents(space: Space, exponents: np.ndarray) -> DeviceArray:
    kept = np.clip(exponents, -_BOUND, _BOUND).astype(np.int64)
    return space.constant(("exponents", *kept.tolist()), lambda: kept)


# --- kernels --------------------------------------------------------------------------------------


@kernels
def _largest():
    def loop(values, size, out):
        """Find the largest of one component, over a part of the points."""
        shared = cuda.shared.array(THREADS, np.float64)
        thread, part, column = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        n = values.shape[0] // size
        first, last = n * part // cuda.gridDim.x, n * (part + 1) // cuda.gridDim.x
        most = 0.0
        for i in range(first + thread, last, THREADS):
            x = abs(np.float64(values[i * size + column]))
            # of NaN no comparison is true
            most = x if x > most else most
        shared[thread] = most
        cuda.syncthreads()
        if thread == 0:
            for other in range(1, THREADS):
                most = max(most, shared[other])
            out[part, column] = most

    return loop


@kernels
def _choose():
    def loop(of_parts, exponents, powers, unit):
        """Write the exponent of the largest number of all; zero if it is ordinary."""
        if cuda.grid(1) > 0:
            return
        most, known = 0, False
        for column in range(of_parts.shape[1]):
            value = 0.0
            for part in range(of_parts.shape[0]):
                value = max(value, of_parts[part, column])
            if value > 0.0 and value < inf:
                here = upper(powers, 0, powers.shape[0], value) + _LEAST + exponents[column]
                most = max(most, here) if known else here
                known = True
        unit[0] = most if most > ORDINARY or most < -ORDINARY else 0

    return loop


@kernels
def _scale():
    def loop(values, exponents, unit, sign, powers, copied, out):
        i = cuda.grid(1)
        if i >= out.shape[0]:
            return
        exponent = exponents[i % exponents.shape[0]] + sign * unit[0]
        if exponent == 0:
            if copied:
                out[i] = values[i]
            return
        value = np.float64(values[i])
        while exponent > _STEP:
            value *= powers[_STEP - _LEAST]
            exponent -= _STEP
        while exponent < -_STEP:
            value *= powers[-_STEP - _LEAST]
            exponent += _STEP
        out[i] = value * powers[exponent - _LEAST]

    return loop
