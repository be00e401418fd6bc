"""Fields, energies and forces of multipoles that lie on a GPU: checked, and launched.

Shapes, dtypes and devices are checked; the numbers are not looked at, which would make the host
wait for the device: what is not finite stays so, indices must be right.
"""

from typing import Any

import numpy as np

from multipoles import indexing
from multipoles.checks import check_total_order, on_device
from multipoles.compiled.cuda_kernels import MOST_BLOCKS, REAL, cuda, device, kernels
from multipoles.cuda import direct as direct_cuda
from multipoles.cuda.device import Space, space_of, view
from multipoles.cuda.direct import THREADS, blocks_for
from multipoles.cuda.neighbours import DeviceNeighbours, DevicePairs
from multipoles.indexing import MAX_TOTAL_ORDER
from multipoles.radial import Kernel

_FLOATS = ("float32", "float64")


def field(
    targets: Any,
    sources: Any,
    moments: Any,
    order: int,
    kernel: Kernel,
    pairs: Any = None,
    target_batch: Any = None,
    source_batch: Any = None,
) -> Any:
    """Return the field of multipoles on the GPU; see `multipoles.field`."""
    space, (x, s) = points_of({"targets": targets, "sources": sources})
    packed, had_channels = moments_of(space, moments, s)
    check_total_order(indexing.order_of(packed.shape[2]), order)
    if pairs is not None:
        if target_batch is not None or source_batch is not None:
            raise ValueError("give pairs or batches, not both: a pair list needs no system index")
        neighbours: DeviceNeighbours = DevicePairs(*_columns(space, pairs, "pairs"), len(x), len(s))
    else:
        batches = batches_of(space, target_batch, source_batch, len(x), len(s))
        neighbours = DeviceNeighbours(len(x), len(s), *batches)
    out = direct_cuda.field(space, x, s, packed, order, kernel, neighbours)
    return space.give(out if had_channels else out.reshape(out.shape[0], out.shape[2]))


def energy_forces(
    positions: Any, moments: Any, kernel: Kernel, pair_scale: Any = None, batch: Any = None
) -> tuple[float, Any, Any]:
    """Return energy, forces and gradient by the moments; see `multipoles.energy_forces`.

    The energy is a number of the host: the call waits for the device.
    """
    space, (x,) = points_of({"positions": positions})
    packed, _ = moments_of(space, moments, x)
    order = indexing.order_of(packed.shape[2])
    check_total_order(order, order + 1)
    phi = _site_field(space, x, packed, order + 1, kernel, pair_scale, batch)
    return _per_sites(space, packed, phi, tuple(view(moments).shape))


def energy_forces_of_field(moments: Any, field: Any) -> tuple[float, Any, Any]:
    """Return energy, forces and gradient by the moments of sites whose field is known.

    Parameters
    ----------
    moments : array on a GPU, shape (n, [channels,] n_components(K))
        Checked.
    field : array of the same library, shape (n, [channels,] n_components(K + 1))
        At the sites, of the same dtype.
    """
    space = space_of(field)
    seen, phi = view(moments), view(field)
    shape = tuple(seen.shape)
    if len(shape) < 3:
        width = seen.shape[1] if len(seen.shape) == 2 else 1
        seen = seen.reshape(seen.shape[0], 1, width)
        phi = phi.reshape(phi.shape[0], 1, phi.shape[1])
    return _per_sites(space, seen, phi, shape)


def _per_sites(
    space: Space, packed: Any, phi: Any, shape: tuple[int, ...]
) -> tuple[float, Any, Any]:
    """Return energy, forces and gradient by the moments, the last in the shape they came in."""
    n, channels, n_in = packed.shape
    order = indexing.order_of(n_in)
    dtype = np.dtype(packed.dtype)
    forces, gradients = space.empty((n, 3), dtype), space.empty(packed.shape, dtype)
    energies = space.empty((blocks_for(n),), dtype)
    raised = space.constant(
        ("raised", order),
        lambda: np.ascontiguousarray(indexing.sum_index(order, 1)[:, 1:4].astype(np.int32)),
    )
    _per_site()(
        space.stream, dtype, blocks_for(n), THREADS, packed.reshape(-1), phi.reshape(-1), channels,
        n_in, phi.shape[2], raised, forces.reshape(-1), gradients.reshape(-1), energies,
    )  # fmt: skip
    if len(energies) > 1:
        blocks, energies = energies, space.empty((1,), dtype)
        _sum_blocks()(space.stream, dtype, 1, THREADS, blocks, energies)
    total = float(space.download(energies)[0]) if n else 0.0
    return total, space.give(forces), space.give(gradients.reshape(*shape))


# --- checks ---------------------------------------------------------------------------------------


def points_of(given: dict[str, Any]) -> tuple[Space, list[Any]]:
    """Return the space of the first array, and all as Numba sees them: (n, 3), of one dtype."""
    first = next((a for a in given.values() if on_device(a)), None)
    space = space_of(first) if first is not None else None
    arrays = [_array(space, array, name) for name, array in given.items()]
    for (name, array), seen in zip(given.items(), arrays, strict=True):
        if len(seen.shape) != 2 or seen.shape[1] != 3:
            raise ValueError(f"{name}: expected shape (n, 3), got {tuple(array.shape)}")
        _check_dtype(seen, arrays[0], name, next(iter(given)))
    return space, arrays  # type: ignore[return-value]


def _array(space: Space | None, array: Any, name: str) -> Any:
    """Return an array on the GPU as Numba sees it, contiguous."""
    if space is None or not on_device(array):
        raise TypeError(
            f"{name}: other arguments lie on a GPU and this one on the CPU (a "
            f"{type(array).__name__}); nothing is moved silently: put all in one place"
        )
    if space.key != space_of(array).key:
        raise ValueError(
            f"{name}: expected arrays of one library on one device, got {space.key} and "
            f"{space_of(array).key}"
        )
    seen = view(array)
    if not seen.is_c_contiguous():
        raise ValueError(f"{name}: expected a contiguous array (rows one after another); copy it")
    return seen


def _check_dtype(seen: Any, other: Any, name: str, other_name: str) -> None:
    kind = np.dtype(seen.dtype).name
    if kind not in _FLOATS:
        raise TypeError(f"{name}: expected float32 or float64 on a GPU, got {kind}")
    if seen.dtype != other.dtype:
        raise TypeError(
            f"expected {other_name} and {name} of one dtype, got {other.dtype} and {seen.dtype}; "
            "nothing is converted silently on a GPU"
        )


def moments_of(space: Space, moments: Any, points: Any) -> tuple[Any, bool]:
    """Return moments with a channel axis, and whether they had it."""
    seen = _array(space, moments, "moments")
    _check_dtype(seen, points, "moments", "points")
    if len(seen.shape) not in (1, 2, 3):
        raise ValueError(
            "moments: expected shape (n, [channels,] components), or (n,) for charges alone, got "
            f"{tuple(seen.shape)}"
        )
    if seen.shape[0] != points.shape[0]:
        raise ValueError(
            f"moments: expected {points.shape[0]} sites, one per point, got shape "
            f"{tuple(seen.shape)}"
        )
    if len(seen.shape) == 3 and seen.shape[1] > MOST_BLOCKS[1]:
        raise ValueError(
            f"moments: expected at most {MOST_BLOCKS[1]} channels on a GPU, got {seen.shape[1]}"
        )
    if len(seen.shape) == 1:
        return seen.reshape(seen.shape[0], 1, 1), False
    if indexing.order_of(tuple(seen.shape)[-1]) > MAX_TOTAL_ORDER:
        raise ValueError(f"moments: expected an order up to {MAX_TOTAL_ORDER}")
    if len(seen.shape) == 3:
        return seen, True
    return seen.reshape(seen.shape[0], 1, seen.shape[1]), False


def batches_of(
    space: Space, targets: Any, sources: Any, n_targets: int, n_sources: int
) -> tuple[Any, Any]:
    """Return both system indices as Numba sees them, or (None, None) if neither is given."""
    if targets is None and sources is None:
        return None, None
    if targets is None or sources is None:
        raise ValueError("give both target_batch and source_batch, or neither")
    return (
        _index(space, targets, "target_batch", (n_targets,)),
        _index(space, sources, "source_batch", (n_sources,)),
    )


def _index(space: Space, index: Any, name: str, shape: tuple[int, ...]) -> Any:
    seen = _array(space, index, name)
    if np.dtype(seen.dtype) != np.int64 or tuple(seen.shape) != shape:
        raise ValueError(
            f"{name}: expected int64 of shape {shape} on the GPU, got {seen.dtype} of shape "
            f"{tuple(seen.shape)}"
        )
    return seen


def _columns(space: Space, pairs: Any, name: str) -> tuple[Any, Any]:
    """Return the two columns of a list of pairs, each contiguous."""
    n = pairs.shape[0] if hasattr(pairs, "shape") and len(pairs.shape) else 0
    seen = _index(space, pairs, name, (n, 2))
    columns = space.empty((n,), np.int64), space.empty((n,), np.int64)
    dtype = np.dtype(np.float64)
    _split()(space.stream, dtype, blocks_for(n), THREADS, seen.reshape(-1), *columns)
    return columns


# --- sites that are sources and targets -----------------------------------------------------------


def _site_field(
    space: Space, x: Any, moments: Any, order: int, kernel: Kernel, pair_scale: Any, batch: Any
) -> Any:
    """Return the field of all sites at all, scaled pairs with their factors."""
    index = None if batch is None else _index(space, batch, "batch", (len(x),))
    everyone = DeviceNeighbours(len(x), len(x), index, index)
    if pair_scale is None:
        return direct_cuda.field(space, x, x, moments, order, kernel, everyone)
    if not isinstance(pair_scale, tuple | list) or len(pair_scale) != 2:
        raise TypeError(
            "pair_scale: expected a tuple (pairs of shape (P, 2), factors of shape (P,)), got "
            f"{type(pair_scale).__name__}"
        )
    n = pair_scale[0].shape[0] if hasattr(pair_scale[0], "shape") else 0
    pairs = _index(space, pair_scale[0], "pair_scale pairs", (n, 2))
    factors = _array(space, pair_scale[1], "pair_scale factors")
    _check_dtype(factors, x, "pair_scale factors", "positions")
    if tuple(factors.shape) != (n,):
        raise ValueError(
            f"pair_scale: expected one factor per pair, shape ({n},), got {tuple(factors.shape)}"
        )
    # scaled pairs are in the sum of all and leave it by subtraction: they may be close, so the
    # difference is taken in float64
    wide = np.dtype(np.float64)
    points, values = (_cast(space, array, wide) for array in (x, moments))
    total = direct_cuda.field(space, points, points, values, order, kernel, everyone)
    listed = _corrections(space, pairs.reshape(-1), factors, index, len(x))
    total = direct_cuda.field(space, points, points, values, order, kernel, listed, out=total)
    return _cast(space, total, np.dtype(x.dtype))


def _corrections(space: Space, pairs: Any, factors: Any, batch: Any, n_sites: int) -> DevicePairs:
    """Return scaled pairs in both directions, weighted by what the sum of all lacks."""
    n, wide = factors.shape[0], np.dtype(np.float64)
    ends = space.empty((2 * n,), np.int64), space.empty((2 * n,), np.int64)
    less = space.empty((2 * n,), wide)
    batches = (pairs, 0) if batch is None else (batch, 1)
    _both_ways()(
        space.stream, wide, blocks_for(n), THREADS, pairs, factors, *batches, *ends, less
    )  # fmt: skip
    return DevicePairs(*ends, n_sites, n_sites, less)


def _cast(space: Space, array: Any, dtype: np.dtype) -> Any:
    if array.dtype == dtype:
        return array
    out = space.empty(array.shape, dtype)
    flat = array.reshape(-1), out.reshape(-1)
    _copy()(space.stream, np.dtype(np.float64), blocks_for(flat[0].shape[0]), THREADS, *flat)
    return out


@kernels
def _copy():
    def loop(source, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < out.shape[0]:
            out[i] = source[i]

    return loop


@kernels
def _split():
    def loop(pairs, first, second):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < first.shape[0]:
            first[i], second[i] = pairs[2 * i], pairs[2 * i + 1]

    return loop


@kernels
def _both_ways():
    """Write every pair in both directions, with its factor less one; none between systems."""

    def loop(pairs, factors, batch, batched, targets, sources, less):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = factors.shape[0]
        if i < n:
            a, b = pairs[2 * i], pairs[2 * i + 1]
            weight = factors[i] - 1.0
            if batched == 1 and batch[a] != batch[b]:
                weight = 0.0
            targets[i], sources[i], less[i] = a, b, weight
            targets[n + i], sources[n + i], less[n + i] = b, a, weight

    return loop


@device
def _add_threads(shared, thread, value):
    """Add the numbers of a block's threads, in fixed order; the sum is the first of `shared`."""
    shared[thread] = value
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            shared[thread] += shared[thread + half]
        half //= 2


@kernels
def _per_site():
    """Write every site's force, the field as gradient by its moments, and energies of blocks."""

    def loop(moments, phi, channels, n_in, n_out, raised, forces, gradients, energies):
        shared = cuda.shared.array(THREADS, REAL)
        thread = cuda.threadIdx.x
        i = cuda.blockIdx.x * THREADS + thread
        energy = fx = fy = fz = 0.0
        if i < forces.shape[0] // 3:
            for channel in range(channels):
                own, place = (i * channels + channel) * n_in, (i * channels + channel) * n_out
                for beta in range(n_in):
                    moment = moments[own + beta]
                    gradients[own + beta] = phi[place + beta]
                    energy += moment * phi[place + beta]
                    fx -= moment * phi[place + raised[beta, 0]]
                    fy -= moment * phi[place + raised[beta, 1]]
                    fz -= moment * phi[place + raised[beta, 2]]
            forces[3 * i], forces[3 * i + 1], forces[3 * i + 2] = fx, fy, fz
        _add_threads(shared, thread, 0.5 * energy)
        if thread == 0:
            energies[cuda.blockIdx.x] = shared[0]

    return loop


@kernels
def _sum_blocks():
    """Add all numbers by one block."""

    def loop(values, out):
        shared = cuda.shared.array(THREADS, REAL)
        thread = cuda.threadIdx.x
        total = 0.0
        for k in range(thread, values.shape[0], THREADS):
            total += values[k]
        _add_threads(shared, thread, total)
        if thread == 0:
            out[0] = shared[0]

    return loop
