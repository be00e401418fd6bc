"""The arithmetic of a pair on the GPU: functions that kernels call, and the constants they read.

Up to `MAX_EMITTED` orders the arithmetic is written out (`multipoles.plain`) and everything of a
pair stays in registers; above, one function serves all orders by tables, as on the CPU.
"""

from functools import cache, lru_cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from multipoles import indexing, plain
from multipoles.compiled.cuda_access import loader
from multipoles.compiled.cuda_kernels import REAL, Device, cuda, rsqrt
from multipoles.compiled.emit import emitted
from multipoles.cuda.device import Space
from multipoles.pairwise import square
from multipoles.radial import Coulomb, Kernel
from multipoles.radial.base import CUSTOM, KINDS

MAX_EMITTED = 6

coulomb_chain = emitted(plain.coulomb_chain)
signed_chain = emitted(plain.signed_chain)
add_field = emitted(plain.add_field)
add = emitted(plain.add)
times = emitted(plain.times)


@cache
def scalar_chain(kernel: int) -> Any:
    """Return the scalar function of a radial kernel as kernels call it, ``(…, out, 0, 1)``."""
    if kernel not in KINDS:
        raise ValueError(f"kernel: expected the code of a radial kernel, got {kernel}")
    function = KINDS[kernel].write_chain
    if kernel < CUSTOM:
        return function
    # what has this attribute is copied for the GPU
    write = SimpleNamespace(py_func=getattr(function, "py_func", function))

    def custom(r2, parameters, last, out, start, stride):
        # the unit of length is the last but one, see `Kernel.parameter_array`
        inverse = 1.0 / parameters[parameters.shape[0] - 2]
        square = inverse * inverse
        write(r2 * square, parameters, last, out)
        scale = inverse
        for n in range(last + 1):
            out[n] = out[n] * scale
            scale *= square

    return Device(custom)


@cache
def chain_function(orders_code: int, kernel: int) -> Device:
    """Return the function for kernels that makes g_0 ... g_top of a radial kernel; r2 may be 0."""
    source_order, order, _ = plain.orders_of_code(orders_code)
    top = source_order + order
    links, load = top + 1, loader(top + 1)
    if kernel == Coulomb.code:

        def coulomb(r2, parameters):
            return coulomb_chain(orders_code, ((rsqrt(r2),),))[0]

        return Device(coulomb)
    one = scalar_chain(kernel)

    def other(r2, parameters):
        work = cuda.local.array(links, REAL)
        for n in range(links):
            work[n] = 0.0
        if r2 > 0.0:
            one(r2, parameters, top, work, 0, 1)
        return signed_chain(orders_code, (load(work, 0),))[0]

    return Device(other)


@cache
def add_pair_of_any_order(top: int, kernel: int) -> Device:
    """Return the function for kernels that adds the field of one source, by tables."""
    links = top + 1
    one = scalar_chain(kernel)

    def add_pair(
        targets, i, sources, j, moments, source, weight, parameters, chain, tensor, recursion,
        factors, levels, places, signs, out, start,
    ):  # fmt: skip
        x = targets[3 * i] - sources[3 * j]
        y = targets[3 * i + 1] - sources[3 * j + 1]
        z = targets[3 * i + 2] - sources[3 * j + 2]
        r2 = square(x, y, z)
        for n in range(links):
            chain[n] = 0.0
        if r2 > 0.0:
            one(r2, parameters, top, chain, 0, 1)
        for n in range(1, links, 2):
            chain[n] = -chain[n]
        tensor[0] = chain[top]
        for n in range(top - 1, -1, -1):
            for row in range(levels[top - n] - 1, 0, -1):
                axis = recursion[row, 0]
                step = x if axis == 0 else (y if axis == 1 else z)
                value = step * tensor[recursion[row, 1]]
                tensor[row] = value + tensor[recursion[row, 2]] * factors[row]
            tensor[0] = chain[n]
        n_out, n_in = places.shape
        for beta in range(n_out):
            value = 0.0
            for alpha in range(n_in):
                value += moments[source + alpha] * signs[alpha] * tensor[places[beta, alpha]]
            out[start + beta] += value * weight

    return Device(add_pair)


# --- what they read -------------------------------------------------------------------------------


def channel_group(source_order: int, order: int, channels: int) -> int:
    """Return how many channels a thread takes: what they share is computed once."""
    numbers = indexing.n_components(order)
    # more derivatives than that leave no registers for a second channel
    if source_order + order > 4:
        return 1
    return next(g for g in (4, 2, 1) if channels % g == 0 and (g == 1 or g * numbers <= 40))


def parameters_of(space: Space, kernel: Kernel, dtype: np.dtype) -> Any:
    """Return the parameters of a radial kernel on the device."""
    return space.constant((kernel, dtype.name), lambda: kernel.parameter_array.astype(dtype))


def tables_of_any_order(
    space: Space, source_order: int, order: int, dtype: np.dtype
) -> tuple[Any, ...]:
    """Return what loops for any order read, on the device."""
    names = ("recursion", "factors", "levels", "places", "signs")
    made = _tables(source_order, order, dtype)
    return tuple(
        space.constant((name, source_order, order, dtype.name), partial(np.asarray, array))
        for name, array in zip(names, made, strict=True)
    )


@lru_cache(maxsize=64)
def _tables(source_order: int, order: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Return recursion, its factors, sizes of levels, places of products, and signs of moments."""
    top = source_order + order
    table = indexing.recursion_table(top)
    recursion = np.stack([table.axis, table.parent, table.grandparent], axis=1).astype(np.int32)
    levels = np.array([indexing.n_components(n) for n in range(top + 1)], np.int32)
    places = np.ascontiguousarray(indexing.sum_index(source_order, order).T.astype(np.int32))
    signs = indexing.signs(source_order).astype(dtype)
    return recursion, table.weight.astype(dtype), levels, places, signs
