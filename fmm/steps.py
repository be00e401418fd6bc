"""What a plan asks of the place where its points lie: one contract for CPU and GPU.

`fmm.steps_cpu.HostSteps` and `fmm.cuda.steps.DeviceSteps` fulfil it, and nothing above them knows
which of the two it holds, but for what `Steps.device` tells.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from fmm.cost import Machine
from fmm.error.indicators import Where
from fmm.error.sampling import Probe
from fmm.far.truncation import MAX_DEGREE
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches, Geometry
from multipoles.compiled.jit import get_num_threads
from multipoles.lattice.cell import Cell
from multipoles.radial import Kernel

ROOT_GRIDS = (1, 3, 5)
"""Boxes along the coarsest level; with halving, leaf grids of 2^k, 3 2^k and 5 2^k."""
Array = Any
"""An array of NumPy on the CPU, of `numba.cuda` on a GPU, which has no types."""
Harmonic = Any
"""Moments by harmonics as `Steps.harmonic` returns them, only ever handed back to the steps."""
FarField = Callable[[Harmonic, dict[str, float]], Array]
"""Returns local expansions about every target (n_targets, channels, (order + 1)^2); adds the time
of every step to a dictionary."""


class Units(Protocol):
    """Units of one set of moments, in which numbers are ordinary; see `fmm.scaling`."""

    def scaled(self, moments: Array) -> Array:
        """Return moments in these units."""

    def kept(self, dtype: np.dtype) -> np.dtype:
        """Return the type that a field has in these units: in others it may not fit float32."""

    def restored(self, field: Array, order: int, dtype: np.dtype) -> Array:
        """Return a field, which may be overwritten, in the caller's units and type."""


class Strengths(Protocol):
    """How strong one set of moments is: over all sources, and box by box.

    Attributes
    ----------
    mean : ndarray, shape (K + 1,)
        Mean over the sources of the square of the moments of each order, without their traces.
    spread : float
        How many sources of one size would make these means: few if few are strong.
    """

    mean: np.ndarray
    spread: float

    def weights(self, geometry: Any) -> np.ndarray:
        """Return the weights that `fmm.error.accuracy.predicted` asks for."""

    def where(self, geometry: Any, degrees: tuple[int, ...], norms: np.ndarray) -> Where:
        """Return where errors are expected.

        Parameters
        ----------
        geometry : Geometry
            Points, tree and lists.
        degrees : tuple of int
            Of every level.
        norms : ndarray, shape (order + 1,)
            By which errors of each output order are divided.
        """


class Steps(Protocol):
    """Arrays and arithmetic of one place, in the steps of a plan.

    Moments are (n_sources, channels, n_components(source_order)), fields (n_targets, channels,
    n_components(order)), both in the order of the tree unless said otherwise.
    """

    @property
    def device(self) -> bool:
        """Whether arrays lie on a GPU: then values are not checked, and reading them waits."""

    @property
    def cell(self) -> Cell | None:
        """What repeats, in the units of the points; None in free space."""

    @property
    def unmeasured(self) -> int:
        """How many evaluations may follow a measured one that bears out the one before.

        Where measuring is a large part of an evaluation.
        """

    @property
    def images(self) -> int:
        """How many images of the sources are near: one, but in a cell."""

    @property
    def most_degree(self) -> int:
        """Highest degree of expansions; what needs more is summed directly."""

    @property
    def probe(self) -> Callable[..., Probe]:
        """What samples the field at some targets and measures errors there."""

    # --- arguments and results --------------------------------------------------------------------

    def points(
        self, sources: Any, targets: Any, source_batch: Any, target_batch: Any
    ) -> tuple[Array, Array, Batches]:
        """Return targets, sources and both batches, checked; targets are sources if None."""

    def moments(self, moments: Any, n: int | None, dtype: Any) -> tuple[Array, int, bool, np.dtype]:
        """Return moments with channels, their order, whether they had them, and the result's type.

        `n` and `dtype` are number and type of the sources, if they are known.
        """

    def give(self, out: Array, had_channels: bool) -> Any:
        """Return a field as the caller gets it."""

    def repeated(self, work: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """Return work that is done again and again as it costs least, see `Layout.repeated`."""

    def alone(self) -> AbstractContextManager[Any]:
        """Let other threads wait that use what these steps share: a stream, work that is noted."""

    def wait(self) -> None:
        """Wait until all is done, while `synchronised` asks for it."""

    def synchronised(
        self, work: Callable[[Array], Any], shape: tuple[int, ...], dtype: np.dtype
    ) -> Any:
        """Return what the work makes of moments of zeros, with a wait after each of its steps."""

    # --- units ------------------------------------------------------------------------------------

    def in_units(self, exponent: int) -> "Steps":
        """Return the steps for points whose lengths are counted in two to a power."""

    @property
    def n_threads(self) -> int:
        """How many threads share the work; on all machines alike."""

    @property
    def times(self) -> Machine | None:
        """Times by which all machines decide, see `fmm.cost.Work`; None: those of this one."""

    def number(self, points: Array) -> int:
        """Return how many points there are, on all machines together."""

    def corners(self, points: Array) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of points; infinities if there are none."""

    def typical_extent(self, points: Array) -> float:
        """Return the size of the bulk of the points, see `fmm.scaling.typical_extent`."""

    def scaled(self, values: Array, exponents: Any) -> Array:
        """Return values times powers of two, one for all or one for each column."""

    def units(self, moments: Array, source_order: int, length: int) -> Units:
        """Return units for moments, where lengths are counted in two to the power of `length`."""

    # --- tree -------------------------------------------------------------------------------------

    def root_grids(self, degree: int, n: int) -> tuple[int, ...]:
        """Return how many times the least number of boxes may lie along the coarsest level.

        Parameters
        ----------
        degree : int
            Of expansions, as expected.
        n : int
            Number of points.
        """

    def least_edge(self, reach: float) -> float:
        """Return the least edge of boxes, as trees count it, that are so far apart.

        Boxes that do not touch, the smaller of which has this edge.
        """

    def processor(self, dtype: np.dtype) -> str:
        """Return whose times decide about leaves, see `fmm.cost.Work`."""

    def sort(
        self, targets: Array, sources: Array, batches: Batches, root_grid: int = 1
    ) -> SortedPoints:
        """Return points along the Morton curve, see `fmm.tree.curve.sort_points`."""

    def occupancy(self, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and crowding of each level, see `fmm.tree.curve.occupancy`."""

    def geometry(
        self,
        points: SortedPoints,
        targets: Array,
        sources: Array,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> Geometry:
        """Return points, tree and lists, see `Geometry`; points as they were given to `sort`."""

    # --- evaluation -------------------------------------------------------------------------------

    def to_tree(self, geometry: Any, moments: Array, dtype: np.dtype) -> Array:
        """Return moments, given in the caller's order, in that of the tree."""

    def to_targets(self, geometry: Any, field: Array) -> Array:
        """Return a field, given in the caller's order, in that of the tree."""

    def from_tree(self, geometry: Any, field: Array, dtype: np.dtype) -> Array:
        """Return a field in the caller's order."""

    def near(
        self,
        geometry: Any,
        moments: Array,
        order: int,
        kernel: Kernel,
        reach: float,
        points: np.dtype,
    ) -> Array | None:
        """Return the near field; the kernel may be taken for 1/r from `reach` on.

        `points` is the type of coordinates: float64 with moments in float32 asks for sums in
        float32 that lose nothing of the coordinates. None: points are too close for that.
        """

    def harmonic(self, moments: Array, source_order: int) -> Harmonic:
        """Return moments by harmonics, as the far field takes them."""

    def far(
        self,
        geometry: Any,
        degrees: tuple[int, ...],
        source_order: int,
        order: int,
        dtype: np.dtype,
    ) -> FarField:
        """Return what computes the far field; degrees of every level, `dtype` of expansions."""

    def total(self, near: Array, local: Array, order: int) -> Array:
        """Return the near field and the derivatives that local expansions give."""

    def not_harmonic(self, geometry: Any, moments: Array, order: int) -> Array | None:
        """Return the part of a field that pairs and expansions do not have; None if there is none.

        That of the background of a cell.
        """

    def of_surface(
        self, targets: Array, sources: Array, moments: Array, order: int
    ) -> Array | None:
        """Return the field of the surface around a crystal; None if there is none.

        Of points in the caller's order, coordinates and units, moments in those of the tree.
        """

    def refuse(self, moments: Array, kernel: Kernel) -> None:
        """Refuse moments, with channels, that have no field: of a charged cell, see `FMM`."""

    # --- error ------------------------------------------------------------------------------------

    def if_all(self, found: Where | None) -> Where | None:
        """Return what was found here if it was on all machines, else None."""

    def strengths(self, moments: Array, harmonic: Harmonic, source_order: int) -> Strengths:
        """Return how strong moments are; `harmonic` are the same."""

    def are_zero(self, moments: Array) -> bool:
        """Return whether all moments are zero; False on a GPU, where nobody looks."""

    def root_mean_squares(self, field: Array, order: int) -> np.ndarray:
        """Return the root mean square over all targets of the size of each order, all channels."""

    def acts(self, moments: Array, harmonic: Harmonic, source_order: int) -> bool:
        """Return whether moments have a field under 1/r: more than traces and rounding.

        `harmonic` are the same moments; the order of the sources does not matter.
        """


class InFreeSpace:
    """What `Steps` are where nothing repeats, and all points are here."""

    images = 1
    unmeasured = 0
    times: Machine | None = None
    most_degree = MAX_DEGREE
    cell: Cell | None = None

    def in_units(self, exponent: int) -> Any:
        """Return these steps: they know no lengths."""
        return self

    def alone(self) -> AbstractContextManager[Any]:
        """Return what lets nobody wait: nothing is shared."""
        return nullcontext()

    def repeated(self, work: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """Return the work itself."""
        return work

    def wait(self) -> None:
        """Wait for nothing: all is done."""

    def synchronised(
        self, work: Callable[[Array], Any], shape: tuple[int, ...], dtype: np.dtype
    ) -> Any:
        """Return what the work makes of moments of zeros."""
        return work(np.zeros(shape, dtype))

    @property
    def n_threads(self) -> int:
        """How many threads share the work."""
        return get_num_threads()

    def number(self, points: Array) -> int:
        """Return how many points there are."""
        return int(points.shape[0])

    def if_all(self, found: Where | None) -> Where | None:
        """Return what was found: there is no other machine."""
        return found

    def root_grids(self, degree: int, n: int) -> tuple[int, ...]:
        """Return how many boxes there may be along the coarsest level, see `fmm.leaves`."""
        return ROOT_GRIDS

    def least_edge(self, reach: float) -> float:
        """Return the least edge of boxes of which those that do not touch are so far apart."""
        return reach

    def not_harmonic(self, geometry: Any, moments: Array, order: int) -> Array | None:
        """Return the part of a field that is not harmonic; None, there is no background."""
        return None

    def of_surface(
        self, targets: Array, sources: Array, moments: Array, order: int
    ) -> Array | None:
        """Return the field of the surface around a crystal; None, there is none."""
        return None

    def refuse(self, moments: Array, kernel: Kernel) -> None:
        """Refuse moments that a cell cannot hold: there is none."""
