"""The steps of a plan on the GPU, see `fmm.steps`.

The host waits for the device when it lays out a plan and when it chooses degrees, which is done
once for each pair of orders; later evaluations only launch.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fmm.cuda.curve import DeviceArray, corners, gather, occupancy, sort_points
from fmm.cuda.driver import DeviceFarField
from fmm.cuda.geometry import DeviceGeometry, along_curve
from fmm.cuda.near import near_field
from fmm.cuda.rows import move, multiply
from fmm.cuda.sampling import DeviceProbe, DeviceStrengths
from fmm.cuda.scaling import DeviceUnits, Ordered, Scaled, scaled
from fmm.error.sampling import root_mean_squares
from fmm.far import harmonics
from fmm.report import PERMUTATION, timed
from fmm.scaling import typical_extent
from fmm.steps import FarField, InFreeSpace
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches
from multipoles import checks, indexing
from multipoles.compiled.cuda_kernels import SIMULATED
from multipoles.cuda import interactions
from multipoles.cuda.device import Space, space_of
from multipoles.radial import Kernel

if not SIMULATED:
    from multipoles.cuda.graphs import Repeated


class DeviceSteps(InFreeSpace):
    """Arrays on the GPU, in the caller's library, on its stream.

    All that a plan makes knows one space, whose stream is that of the last call: on another, the
    device first waits for what was made before.

    Parameters
    ----------
    array
        One on the device.
    """

    device = True
    # matrices of the translations are dense there: 117 of them take 0.9 GB in float64
    most_degree = 30

    @property
    def probe(self) -> type[DeviceProbe]:
        """What samples the field at some targets and measures errors there."""
        return DeviceProbe

    def __init__(self, array: Any) -> None:
        self.space: Space = space_of(array)
        self._waits, self._alone = False, threading.RLock()

    def alone(self) -> AbstractContextManager[Any]:
        """Let other threads wait: what they launch would be noted with the work of this one."""
        return self._alone

    def points(
        self, sources: Any, targets: Any, source_batch: Any, target_batch: Any
    ) -> tuple[DeviceArray, DeviceArray, Batches]:
        """Return targets, sources and both batches, checked; targets are sources if None."""
        names = {"sources": sources}
        if targets is not None and targets is not sources:
            names["targets"] = targets
        space, arrays = interactions.points_of(names)
        self.space.move_to(space)
        s, x = arrays[0], arrays[-1]
        if x is s and target_batch is None:
            target_batch = source_batch
        batches = interactions.batches_of(
            self.space, target_batch, source_batch, x.shape[0], s.shape[0]
        )
        if x is s and target_batch is source_batch:
            batches = batches[1], batches[1]
        return x, s, batches

    def moments(
        self, moments: Any, n: int | None, dtype: Any
    ) -> tuple[DeviceArray, int, bool, np.dtype]:
        """Return moments with channels, their order, whether they had them, and the result's type.

        `dtype` is that of the points, if they are known.
        """
        if not checks.on_device(moments):
            raise TypeError(
                "moments: the points lie on a GPU and these on the CPU (a "
                f"{type(moments).__name__}); nothing is moved silently: put all in one place"
            )
        like = _Like(n if n is not None else moments.shape[0], dtype or np.dtype(_name(moments)))
        packed, had_channels = interactions.moments_of(self.space, moments, like)
        self.space.move_to(space_of(moments))
        return packed, indexing.order_of(packed.shape[2]), had_channels, np.dtype(packed.dtype)

    def repeated(self, work: Callable[[DeviceArray], Any]) -> Callable[[DeviceArray], Any]:
        """Return work that is noted and replayed, see `multipoles.cuda.graphs`."""
        return work if SIMULATED else Repeated(self.space, work)

    def wait(self) -> None:
        """Wait for the device while `synchronised` asks for it."""
        if self._waits:
            self.space.download(self.space.constant("nothing", lambda: np.zeros(1)))

    def synchronised(
        self, work: Callable[[DeviceArray], Any], shape: tuple[int, ...], dtype: np.dtype
    ) -> Any:
        """Return what the work makes of moments of zeros; the host waits after each step."""
        self._waits = True
        try:
            return work(self.space.zeros(shape, dtype))
        finally:
            self._waits = False

    def processor(self, dtype: np.dtype) -> str:
        """Return whose times decide about leaves."""
        return f"cuda {np.dtype(dtype).name}"

    def sort(
        self, targets: DeviceArray, sources: DeviceArray, batches: Batches, root_grid: int = 1
    ) -> SortedPoints:
        """Return points along the Morton curve, see `fmm.cuda.curve.sort_points`."""
        return sort_points(self.space, targets, sources, *batches, root_grid=root_grid)

    def occupancy(self, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and crowding of each level, on the host; waits for them."""
        return occupancy(self.space, points)

    def geometry(
        self,
        points: SortedPoints,
        targets: DeviceArray,
        sources: DeviceArray,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> DeviceGeometry:
        """Return points, tree and lists, see `DeviceGeometry`."""
        ordered = along_curve(self.space, points, targets, sources)
        return DeviceGeometry(self.space, points, *ordered, leaf_size, least, smallest)

    def to_tree(
        self, geometry: DeviceGeometry, moments: DeviceArray | Scaled, dtype: np.dtype
    ) -> DeviceArray:
        """Return moments in the order of the tree."""
        permutation = geometry.tree.source_permutation
        if isinstance(moments, Scaled):
            return moments.ordered(permutation, dtype)
        out = self.space.empty(moments.shape, dtype)
        move(self.space, permutation, moments, out)
        return out

    def near(
        self,
        geometry: DeviceGeometry,
        moments: DeviceArray,
        order: int,
        kernel: Kernel,
        reach: float,
        points: np.dtype,
    ) -> DeviceArray:
        """Return the near field; all pairs take the kernel, whatever `reach`."""
        targets, sources = geometry.points(points)
        shape = targets.shape[0], moments.shape[1], indexing.n_components(order)
        out = self.space.empty(shape, moments.dtype)
        near_field(self.space, targets, sources, moments, order, *geometry.near, out, kernel=kernel)
        return out

    def harmonic(self, moments: DeviceArray, source_order: int) -> "_Harmonic":
        """Return moments by harmonics, as the far field takes them."""
        return _Harmonic(self, moments, source_order)

    def far(
        self,
        geometry: DeviceGeometry,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
    ) -> FarField:
        """Return what computes the far field of harmonic moments."""
        far = DeviceFarField(geometry, degrees, source_order, order, dtype, self.space)

        def run(moments: "_Harmonic", seconds: dict[str, float]) -> DeviceArray:
            with timed(seconds, PERMUTATION, self.wait):
                harmonic = moments.of(np.dtype(dtype))
            return far(harmonic, lambda step: timed(seconds, step, self.wait))

        return run

    def total(self, near: DeviceArray, local: DeviceArray, order: int) -> DeviceArray:
        """Return the near field and the derivatives that local expansions give."""
        out = self.space.empty(near.shape, near.dtype)
        matrix = harmonics.cartesian_map(order)
        multiply(self.space, local, ("to cartesian", order), matrix, out, near)
        return out

    def corners(self, points: DeviceArray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of some points, on the host."""
        return corners(self.space, points)

    def typical_extent(self, points: DeviceArray) -> float:
        """Return the size of the bulk of the points, see `fmm.scaling`; waits for some of them."""
        n = points.shape[0]
        samples = self.space.upload(np.arange(0, n, 1 + n // 1000))
        some = self.space.download(gather(self.space, points, samples))
        return typical_extent(some)

    def scaled(self, values: DeviceArray, exponents: Any) -> DeviceArray:
        """Return values times powers of two, one for all or one for each column."""
        return scaled(self.space, values, exponents)

    def units(self, moments: DeviceArray, source_order: int, length: int) -> DeviceUnits:
        """Return units of moments, where lengths are counted in two to a power."""
        return DeviceUnits(self.space, moments, source_order, length)

    def from_tree(self, geometry: DeviceGeometry, field: DeviceArray, dtype: np.dtype) -> Ordered:
        """Return a field and the order of the targets; `DeviceUnits.restored` gives it the type."""
        return Ordered(field, geometry.tree.target_permutation)

    def strengths(
        self, moments: DeviceArray, harmonic: "_Harmonic", source_order: int
    ) -> DeviceStrengths:
        """Return how strong moments are; waits for it."""
        wide = harmonic.of(np.dtype(np.float64))
        return DeviceStrengths(self.space, moments, wide, source_order)

    def to_targets(self, geometry: Any, field: DeviceArray) -> DeviceArray:
        """Return a field, given in the caller's order, in that of the tree; by the host."""
        order = self.space.download(geometry.tree.target_permutation)
        return self.space.upload(self.space.download(field)[order])

    def root_mean_squares(self, field: DeviceArray, order: int) -> np.ndarray:
        """Return the root mean square of the size of each order; by the host."""
        return root_mean_squares(self.space.download(field), order)

    def are_zero(self, moments: DeviceArray) -> bool:
        """Return False: nobody looks."""
        return False

    def acts(self, moments: DeviceArray | Scaled, harmonic: "_Harmonic", source_order: int) -> bool:
        """Return whether moments have a field under 1/r; waits for it."""
        made = moments.made() if isinstance(moments, Scaled) else moments
        return bool(self.strengths(made, harmonic, source_order).mean.any())

    def give(self, out: DeviceArray, had_channels: bool) -> Any:
        """Return a field as the caller gets it."""
        return self.space.give(out if had_channels else out.reshape(out.shape[0], out.shape[2]))


class _Like:
    """Number and type of points that moments must agree with."""

    def __init__(self, n: int, dtype: np.dtype) -> None:
        self.shape, self.dtype = (n, 3), dtype


def _name(array: Any) -> str:
    """Return the name of an array's dtype, torch's too."""
    return str(array.dtype).removeprefix("torch.")


class _Harmonic:
    """Moments by harmonics, in the type of numbers of the expansions that take them."""

    def __init__(self, steps: DeviceSteps, moments: DeviceArray, source_order: int) -> None:
        self.steps, self.moments, self.source_order = steps, moments, source_order
        self._made: dict[np.dtype, DeviceArray] = {}

    def of(self, dtype: np.dtype) -> DeviceArray:
        """Return them in one type of numbers."""
        if dtype not in self._made:
            n, channels, _ = self.moments.shape
            size = harmonics.n_harmonics(self.source_order)
            out = self.steps.space.empty((n, channels, size), dtype)
            matrix = harmonics.cartesian_map(self.source_order).T
            key = ("to harmonic", self.source_order)
            multiply(self.steps.space, self.moments, key, matrix, out)
            self._made[dtype] = out
        return self._made[dtype]
