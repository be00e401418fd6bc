"""What a plan asks for, step by step, on the CPU; `fmm.cuda.steps` offers the same on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fmm.error.indicators import Held
from fmm.error.sampling import Probe
from fmm.far import harmonics
from fmm.far.driver import FarField
from fmm.near.field import near_field
from fmm.scaling import Units
from fmm.tree.curve import bounds
from fmm.tree.geometry import Batches, Geometry, arrange
from multipoles import checks, indexing
from multipoles.radial import Kernel


class HostSteps:
    """Arrays of NumPy, arithmetic of this machine's processor.

    Attributes
    ----------
    device : bool
        Whether arrays lie on a GPU.
    """

    device = False

    def points(
        self, sources: Any, targets: Any, source_batch: Any, target_batch: Any
    ) -> tuple[Any, Any, Batches]:
        """Return targets, sources and both batches, checked; targets are sources if None."""
        s = checks.points(sources, "sources", squares=False)
        x = (
            s
            if targets is None or targets is sources
            else checks.points(targets, "targets", squares=False)
        )
        if x is s and target_batch is None:
            target_batch = source_batch
        return x, s, checks.batches(target_batch, source_batch, len(x), len(s))

    def moments(self, moments: Any, n: int | None, dtype: Any) -> tuple[Any, int, bool, np.dtype]:
        """Return moments with channels, their order, whether they had them, and the result's type.

        `dtype` is that of the points, if they are known.
        """
        if checks.on_device(moments):
            raise TypeError(
                "moments: the points lie on the CPU and these on a GPU (a "
                f"{type(moments).__name__}); nothing is moved silently: put all in one place"
            )
        packed, source_order, had_channels = checks.moments(moments, n)
        dtype = packed.dtype if dtype is None else np.result_type(dtype, packed.dtype)
        return packed, source_order, had_channels, dtype

    def processor(self, dtype: np.dtype) -> str:
        """Return whose times decide about leaves."""
        return "cpu"

    def extent(self, points: Any) -> np.ndarray:
        """Return how far points extend along each axis."""
        return np.ptp(points, axis=0).astype(np.float64)

    def corners(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of some points."""
        low, high = np.full((1, 3), np.inf), np.full((1, 3), -np.inf)
        bounds(points, np.empty(0, np.int64), low, high)
        return low[0], high[0]

    def typical_extent(self, points: Any) -> float:
        """Return how far most of the points are apart, zero if they are not."""
        some = points[:: 1 + len(points) // 1000].astype(np.float64)
        away = np.abs(some - np.median(some, axis=0)) if len(some) else np.zeros((1, 3))
        return float(np.median(away, axis=0).max())

    def scaled(self, values: Any, exponents: Any) -> Any:
        """Return values times powers of two, one for all or one for each column."""
        return np.ldexp(values, exponents)

    def largest(self, values: Any, exponents: np.ndarray) -> float:
        """Return the largest of values times powers of two, one for each column."""
        if not exponents.any():
            return float(max(values.max(initial=0.0), -values.min(initial=0.0)))
        most = np.abs(values).max(axis=(0, 1), initial=0.0).astype(np.float64)
        return float(np.ldexp(most, exponents).max(initial=0.0))

    def units(self, moments: Any, source_order: int, length: int) -> Units:
        """Return units of moments, where lengths are counted in two to a power."""
        return Units(self, moments, source_order, length)

    def arrange(self, targets, sources, batches, work, leaf_size, smallest) -> Geometry:
        """Return points, tree and lists, see `fmm.tree.geometry.arrange`."""
        return arrange(targets, sources, batches, work, leaf_size, smallest)

    def order(self, geometry: Geometry, moments: Any, dtype: np.dtype) -> Any:
        """Return moments in the order of the tree."""
        return moments[geometry.tree.source_order].astype(dtype, copy=False)

    def near(
        self, geometry: Geometry, moments: Any, order: int, kernel: Kernel, reach: float
    ) -> Any:
        """Return the near field, in the order of the tree."""
        targets, sources = geometry.points(moments.dtype)
        shape = len(targets), moments.shape[1], indexing.n_components(order)
        out = np.empty(shape, moments.dtype)
        near_field(
            targets, sources, moments, order, *geometry.near, out, kernel=kernel, reach=reach
        )
        return out

    def probe(self, *args: Any) -> Probe:
        """Return the field at sampled targets; arguments are those of `Probe`."""
        return Probe(*args)

    def held(self, geometry: Geometry, moments: Any, harmonic: Any, source_order: int) -> Held:
        """Return what boxes hold of the moments."""
        return Held(harmonic, source_order)

    def harmonic(self, moments: Any, source_order: int) -> Any:
        """Return moments by harmonics, as the far field takes them."""
        wide = moments.astype(np.float64, copy=False)
        return np.ascontiguousarray(wide @ harmonics.cartesian_map(source_order).T)

    def far(
        self,
        geometry: Geometry,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
    ) -> Callable[[Any, dict[str, float]], Any]:
        """Return what computes the far field of harmonic moments."""
        return FarField(geometry, degrees, source_order, order, dtype)

    def total(self, near: Any, local: Any, order: int) -> Any:
        """Return the near field and the derivatives that local expansions give."""
        out = local @ harmonics.cartesian_map(order)
        out += near
        return out

    def unorder(self, geometry: Geometry, out: Any, dtype: np.dtype) -> Any:
        """Return a field in the order in which targets were given."""
        result = np.empty(out.shape, dtype)
        result[geometry.tree.target_order] = out
        return result

    def give(self, out: Any, had_channels: bool) -> Any:
        """Return a field as the caller gets it."""
        return out if had_channels else out[:, 0, :]
