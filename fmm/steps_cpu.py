"""The steps of a plan on the CPU, see `fmm.steps`; `fmm.cuda.steps` has those on a GPU."""

from typing import Any

import numpy as np

from fmm.error.indicators import HostStrengths
from fmm.error.sampling import Probe, root_mean_squares
from fmm.far import harmonics
from fmm.far.driver import HostFarField
from fmm.far.rows import scattered, with_derivatives
from fmm.near import STEEP, narrow_unit, near_field
from fmm.scaling import HostUnits, typical_extent
from fmm.steps import InFreeSpace
from fmm.tree.curve import SortedPoints, bounds, occupancy, sort_points
from fmm.tree.geometry import Batches, Geometry, along_curve
from fmm.tree.sorting import gathered
from multipoles import checks, indexing
from multipoles.indexing import order_slice
from multipoles.radial import Kernel

# what rounding leaves of moments that are all trace, relative to them
_TRACE = 1e-12


class HostSteps(InFreeSpace):
    """Arrays of NumPy, arithmetic of this machine's processor; see `fmm.steps.Steps`."""

    device = False

    @property
    def probe(self) -> Any:
        """What samples the field at some targets and measures errors there."""
        return Probe

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

    def corners(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of some points."""
        low, high = np.full((1, 3), np.inf), np.full((1, 3), -np.inf)
        bounds(points, np.empty(0, np.int64), low, high)
        return low[0], high[0]

    def typical_extent(self, points: Any) -> float:
        """Return the size of the bulk of the points, see `fmm.scaling.typical_extent`."""
        return typical_extent(points[:: 1 + len(points) // 1000])

    def scaled(self, values: Any, exponents: Any) -> Any:
        """Return values times powers of two, one for all or one for each column."""
        return np.ldexp(values, exponents)

    def units(self, moments: np.ndarray, source_order: int, length: int) -> HostUnits:
        """Return units for moments, where lengths are counted in two to the power of `length`."""
        return HostUnits(moments, source_order, length)

    def sort(
        self, targets: np.ndarray, sources: np.ndarray, batches: Batches, root_grid: int = 1
    ) -> SortedPoints:
        """Return points along the Morton curve, see `fmm.tree.curve.sort_points`."""
        return sort_points(targets, sources, *batches, root_grid=root_grid)

    def occupancy(self, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and crowding of each level, see `fmm.tree.curve.occupancy`."""
        return occupancy(points)

    def geometry(
        self,
        points: SortedPoints,
        targets: np.ndarray,
        sources: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> Geometry:
        """Return points, tree and lists, see `Geometry`."""
        ordered = along_curve(points, targets, sources)
        return Geometry(points, *ordered, leaf_size, least, smallest)

    def to_tree(self, geometry: Geometry, moments: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return moments in the order of the tree."""
        permuted = gathered(moments, geometry.tree.source_permutation)
        return permuted.astype(dtype, copy=False)

    def near(
        self,
        geometry: Geometry,
        moments: Any,
        order: int,
        kernel: Kernel,
        reach: float,
        points: np.dtype,
    ) -> Any:
        """Return the near field, in the order of the tree; None if points are too close for it."""
        targets, sources = geometry.points(points)
        source_order = indexing.order_of(moments.shape[2])
        unit = 1.0
        if points != moments.dtype and source_order + order >= STEEP:
            self._before_scaling()
            unit = narrow_unit(geometry.leaf_edges, source_order + order)
            same = targets is sources
            sources = unit * sources
            targets = sources if same else unit * targets
            moments = moments * unit ** indexing.orders(source_order).astype(moments.dtype)
        shape = len(targets), moments.shape[1], indexing.n_components(order)
        out = np.empty(shape, moments.dtype)
        given = targets, sources, moments, order, kernel, reach
        coincident = self._sum_near(geometry, *given, out)
        if points == moments.dtype:
            return out
        # in two parts of float32, each point should coincide with itself alone
        alone = len(targets) if geometry.same and moments.shape[1] else 0
        if coincident != alone:
            return None
        if unit != 1.0:
            with np.errstate(over="ignore"):  # what is beyond float32 is summed again
                out *= unit ** (1 + indexing.orders(order)).astype(out.dtype)
        return out

    def _before_scaling(self) -> None:
        """Do what is to be done before all moments are known: nothing."""

    def _sum_near(
        self, geometry: Any, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray,
        order: int, kernel: Kernel, reach: float, out: np.ndarray,
    ) -> int:  # fmt: skip
        """Write the near field, see `near_field`."""
        given = targets, sources, moments, order, geometry.near, out
        return near_field(*given, kernel=kernel, reach=reach)

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
    ) -> HostFarField:
        """Return what computes the far field of harmonic moments."""
        return HostFarField(geometry, degrees, source_order, order, dtype)

    def total(self, near: Any, local: Any, order: int) -> Any:
        """Return the near field and the derivatives that local expansions give."""
        return with_derivatives(near, local, order)

    def to_targets(self, geometry: Geometry, field: np.ndarray) -> np.ndarray:
        """Return a field, given in the caller's order, in that of the tree."""
        permuted: np.ndarray = field[geometry.tree.target_permutation]
        return permuted

    def from_tree(self, geometry: Geometry, field: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return a field in the order in which targets were given."""
        return scattered(field, geometry.tree.target_permutation, dtype)

    def strengths(
        self, moments: np.ndarray, harmonic: np.ndarray, source_order: int
    ) -> HostStrengths:
        """Return how strong moments are."""
        return HostStrengths(harmonic, source_order)

    def root_mean_squares(self, field: np.ndarray, order: int) -> np.ndarray:
        """Return the root mean square over all targets of the size of each order, all channels."""
        return root_mean_squares(field, order)

    def are_zero(self, moments: np.ndarray) -> bool:
        """Return whether all moments are zero."""
        return not moments.any()

    def acts(self, moments: np.ndarray, harmonic: np.ndarray, source_order: int) -> bool:
        """Return whether moments have a field under 1/r: more than traces and rounding."""
        orders = range(source_order + 1)
        whole = [np.abs(moments[..., order_slice(j)]).max(initial=0.0) for j in orders]
        traceless = [np.abs(harmonic[..., j * j : (j + 1) ** 2]).max(initial=0.0) for j in orders]
        most = self._overall(np.array([traceless, whole], np.float64))
        return bool(np.any(most[0] > _TRACE * most[1]))

    def _overall(self, largest: np.ndarray) -> np.ndarray:
        """Return the largest of numbers like these on all machines."""
        return largest

    def give(self, out: Any, had_channels: bool) -> Any:
        """Return a field as the caller gets it."""
        return out if had_channels else out[:, 0, :]
