"""The steps of a plan whose points lie on many ranks, see `fmm.steps`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fmm.cost import Machine, machine
from fmm.distributed import placing
from fmm.distributed.far import SharedFarField
from fmm.distributed.geometry import AllPairs, Foreign, SharedGeometry
from fmm.distributed.occupancy import occupancy
from fmm.distributed.probe import SharedProbe, SharedStrengths
from fmm.distributed.ranks import Pending, Ranks, agreed
from fmm.error.indicators import Where
from fmm.error.sampling import mean_squares, units_of
from fmm.far.rows import scattered
from fmm.near import near_field
from fmm.scaling import HostUnits, typical_extent
from fmm.steps_cpu import HostSteps
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import Batches
from fmm.tree.sorting import gathered
from multipoles import indexing
from multipoles.compiled.jit import get_num_threads
from multipoles.layout import Tiles
from multipoles.radial import Kernel

# parts of the near field between which messages are looked after
_PARTS = 8
# points of a rank from which on memory counts more than messages
_MANY = 100_000
# points of which the bulk is known
_SOME = 1000


class OverRanks(HostSteps):
    """What is the same in free space and in a cell: sums over ranks, and who owns what.

    Attributes
    ----------
    ranks : Ranks
        The ranks.
    weights : pair of ndarray or None
        What targets and sources cost that are given here, in any unit; None: all the same.
    """

    ranks: Ranks
    weights: tuple[np.ndarray, np.ndarray] | None = None

    # --- arguments and results --------------------------------------------------------------------

    def points(
        self, sources: Any, targets: Any, source_batch: Any, target_batch: Any
    ) -> tuple[Any, Any, Batches]:
        """Return targets and sources of this rank, checked; a fault of one rank is told on all."""

        def check() -> tuple[Any, Any, Batches]:
            if source_batch is not None or target_batch is not None:
                raise ValueError("expected one system on several ranks, got a batch")
            return super(OverRanks, self).points(sources, targets, None, None)

        x, s, batches = agreed(self.ranks, check)
        return *self._of_one_dtype(x, s), batches

    def _of_one_dtype(self, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and sources, with the dtype of other ranks where there are none.

        Raises
        ------
        TypeError
            On all ranks, if there are two.
        """
        arrays = [s] if x is s else [s, x]
        mine = np.array([array.itemsize if len(array) else 0 for array in arrays])
        told, found = np.array(self.ranks.gather(mine)), []
        for array, sizes in zip(arrays, told.T, strict=True):
            kinds = np.unique(sizes[sizes > 0])
            if len(kinds) > 1:
                raise TypeError(
                    "expected points of one dtype on all ranks, got float32 and float64"
                )
            to = f"f{kinds[0]}" if len(kinds) else array.dtype
            found.append(array if len(array) else array.astype(to))
        return found[-1], found[0]

    def moments(self, moments: Any, n: int | None, dtype: Any) -> tuple[Any, int, bool, np.dtype]:
        """Return moments with channels, their order, whether they had them, and the result's type.

        A fault of one rank is told on all, and all must have moments of one kind.
        """
        found = agreed(self.ranks, lambda: super(OverRanks, self).moments(moments, n, dtype))
        packed, source_order, had_channels, kind = found
        row = [packed.shape[1], source_order, had_channels, packed.itemsize, len(packed) > 0]
        rows = np.array(self.ranks.gather(np.array(row)))
        # a rank without sources goes by the others
        saying = np.flatnonzero(rows[:, 4]) if rows[:, 4].any() else np.arange(len(rows))
        first = rows[saying[0]]
        others = saying[(rows[saying] != first).any(axis=1)]
        if len(others):
            raise ValueError(
                "moments: expected the same channels, order and dtype on all ranks, got "
                f"{_kind(first)} on rank {saying[0]} and {_kind(rows[others[0]])} on rank "
                f"{others[0]}"
            )
        if len(packed):
            return packed, source_order, had_channels, kind
        channels, order, had, size, _ = first.tolist()
        none = np.zeros((0, channels, indexing.n_components(order)), f"f{size}")
        return none, order, bool(had), none.dtype if dtype is None else np.result_type(dtype, none)

    def number(self, points: Any) -> int:
        """Return how many points there are on all ranks."""
        return int(self.ranks.sum(np.array([len(points)]))[0])

    @property
    def n_threads(self) -> int:
        """How many threads share the work of every rank, as on the one with most."""
        return int(self.ranks.largest(np.array([get_num_threads()]))[0])

    @property
    def times(self) -> Machine:  # type: ignore[override]
        """Times of all ranks, on average: all decide by the same."""
        mean = self.ranks.sum(np.array(machine())) / self.ranks.size
        return Machine(*mean.tolist())

    def are_zero(self, moments: np.ndarray) -> bool:
        """Return whether all moments of all ranks are zero."""
        return not self.ranks.largest(np.array([int(moments.any())]))[0]

    def root_mean_squares(self, field: np.ndarray, order: int) -> np.ndarray:
        """Return the root mean square over all targets of the size of each order, all channels."""
        most = np.abs(field).max(axis=0, keepdims=True, initial=0.0)
        units = units_of(np.concatenate(self.ranks.gather(most)), order)
        sums = self.ranks.sum(mean_squares(field, units).sum(axis=1) * len(field))
        found: np.ndarray = np.sqrt(sums / max(self.number(field), 1)) * units
        return found

    def _overall(self, largest: np.ndarray) -> np.ndarray:
        """Return the largest of numbers like these on all ranks."""
        return self.ranks.largest(largest)

    def if_all(self, found: Where | None) -> Where | None:
        """Return what was found here if it was on all ranks, else None."""
        lacking = self.ranks.largest(np.array([int(found is None)]))[0]
        return None if lacking else found

    # --- units ------------------------------------------------------------------------------------

    def corners(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest coordinates of the points of all ranks."""
        return placing.corners(self.ranks, points)

    def typical_extent(self, points: Any) -> float:
        """Return the size of the bulk of the points of all ranks."""
        step = 1 + self.number(points) // _SOME
        return typical_extent(np.concatenate(self.ranks.gather(points[::step])))

    def units(self, moments: np.ndarray, source_order: int, length: int) -> HostUnits:
        """Return units for moments of all ranks."""

        def overall(largest: float) -> float:
            return float(self.ranks.largest(np.array([largest]))[0])

        return HostUnits(moments, source_order, length, overall)

    # --- tree -------------------------------------------------------------------------------------

    def occupancy(self, points: SortedPoints) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and crowding of each level, of the points of all ranks."""
        return occupancy(self.ranks, points)

    def sort(
        self, targets: np.ndarray, sources: np.ndarray, batches: Batches, root_grid: int = 1
    ) -> SortedPoints:
        """Return the points that this rank is to own, along the Morton curve."""
        points: SortedPoints = self._owned(targets, sources, root_grid, 0.0).points
        return points

    def _owned(
        self, targets: np.ndarray, sources: np.ndarray, root_grid: int, smallest: float
    ) -> Any:
        """Return points on the ranks that own them: those of the last call, if they are."""
        kept, key = self._kept, (root_grid, smallest)
        if kept is None or kept[0] is not targets or kept[1] is not sources or kept[2] != key:
            made = self._made_owned(targets, sources, *key)
            kept = self._kept = targets, sources, key, made
        return kept[3]

    _kept: tuple[Any, Any, tuple[int, float], Any] | None = None

    def _made_owned(
        self, targets: np.ndarray, sources: np.ndarray, root_grid: int, smallest: float
    ) -> Any:
        """Share points out anew."""
        raise NotImplementedError

    # --- evaluation -------------------------------------------------------------------------------

    def to_tree(self, geometry: Any, moments: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return moments of own sources, and room for those of others, which are on their way."""
        self._geometry = geometry
        come = self._of_owned(geometry, moments)
        out = np.empty((len(geometry.sources), *moments.shape[1:]), dtype)
        out[: geometry.n_own] = gathered(come, geometry.tree.source_permutation)
        asked = geometry.source_link.post(out[: geometry.n_own])
        self._awaited = self._filling(geometry, out, asked)
        return out

    _geometry: Foreign | None = None
    _awaited: Callable[[], None] | None = None
    _asked: Pending | None = None

    def _of_owned(self, geometry: Foreign, moments: np.ndarray) -> np.ndarray:
        """Return the moments of own sources in the order in which they come."""
        return geometry.domain.sources.forth(moments)

    def _filling(self, geometry: Any, moments: np.ndarray, asked: Pending) -> Callable[[], None]:
        """Return what fills in the moments of others when they are there."""
        self._asked = asked

        def fill() -> None:
            moments[geometry.n_own : geometry.n_first] = asked.wait()

        return fill

    def _finish(self) -> None:
        if self._awaited is not None:
            self._awaited()
            self._awaited = None

    def to_targets(self, geometry: Any, field: np.ndarray) -> np.ndarray:
        """Return a field, given in the caller's order, in that of the tree."""
        come = geometry.domain.targets.forth(field)
        permuted: np.ndarray = come[geometry.tree.target_permutation]
        return permuted

    def from_tree(self, geometry: Any, field: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return a field on the ranks, and in the order, in which targets were given."""
        back, order = geometry.domain.targets, geometry.tree.target_permutation
        columns = field.reshape(len(field), field.shape[1] * field.shape[2])
        out = np.empty((len(back.order), columns.shape[1]), dtype)
        # of many points a column at a time: what is on its way takes as much memory again, twice
        step = 1 if geometry.everywhere[0] > _MANY * self.ranks.size else columns.shape[1]
        for first in range(0, columns.shape[1], step):
            some = columns[:, first : first + step]
            out[:, first : first + step] = back.back(scattered(some, order, dtype))
        return out.reshape(len(out), *field.shape[1:])

    def near(self, geometry: Any, moments: Any, order: int, *given: Any) -> Any:
        """Return the near field; None on all ranks if on one points are too close for it."""
        found = super().near(geometry, moments, order, *given)
        self._finish()
        close = self.ranks.largest(np.array([int(found is None)]))[0]
        return None if close else found

    def _before_scaling(self) -> None:
        """Wait for the moments of others, which are to be scaled, too."""
        self._finish()

    def _sum_near(
        self, geometry: Any, targets: np.ndarray, sources: np.ndarray, moments: np.ndarray,
        order: int, kernel: Kernel, reach: float, out: np.ndarray,
    ) -> int:  # fmt: skip
        """Write the near field: of own sources while others are on their way, then of these."""
        own, others = geometry.near_parts
        given = targets, sources, moments, order
        n, coincident = len(own[0]), 0
        for part in range(_PARTS):
            some = _part(own, n * part // _PARTS, n * (part + 1) // _PARTS)
            coincident += near_field(*given, some, out, kernel=kernel, reach=reach)
            if self._asked is not None:
                self._asked.poll()
        self._finish()
        more = np.empty_like(out)
        coincident += near_field(*given, others, more, kernel=kernel, reach=reach)
        for first, last in _stretches(others[0]):
            out[first:last] += more[first:last]
        return coincident

    def far(
        self, geometry: Any, degrees: tuple[int, ...], source_order: int, order: int,
        dtype: np.dtype,
    ) -> SharedFarField:  # fmt: skip
        """Return what computes the far field of harmonic moments."""
        return SharedFarField(geometry, degrees, source_order, order, dtype)

    def strengths(
        self, moments: np.ndarray, harmonic: np.ndarray, source_order: int
    ) -> SharedStrengths:
        """Return how strong the moments are that were put in the order of a tree last."""
        assert self._geometry is not None
        return SharedStrengths(harmonic, source_order, self._geometry)


class SharedSteps(OverRanks):
    """The steps of points on many ranks in free space."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def probe(self) -> Any:
        """What samples the field at some targets of all ranks and measures errors there."""
        return SharedProbe

    def _made_owned(
        self, targets: np.ndarray, sources: np.ndarray, root_grid: int, smallest: float
    ) -> placing.Owned:
        return placing.owned(self.ranks, targets, sources, root_grid, smallest, self.weights)

    def geometry(
        self,
        points: SortedPoints,
        targets: np.ndarray,
        sources: np.ndarray,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> SharedGeometry:
        """Return own points, their tree and lists, with what they meet of other ranks."""
        return self._placed(targets, sources, points.root_grid, leaf_size, least, smallest)

    def _placed(
        self,
        targets: np.ndarray,
        sources: np.ndarray,
        root_grid: int,
        leaf_size: int,
        least: int,
        smallest: float,
    ) -> SharedGeometry:
        kind = SharedGeometry
        found = self._owned(targets, sources, root_grid, smallest)
        if found.deepest == 0:
            # one box, for the kernel is 1/r only far away: all pairs, shared out evenly
            kind, found = AllPairs, self._owned(targets, sources, root_grid, 0.0)
        domain, points, s, x, _ = found
        return kind(domain, self._placed, points, s, x, leaf_size, least, smallest)


def _kind(row: np.ndarray) -> str:
    """Return in words what moments are."""
    channels, order, had, size, _ = row.tolist()
    return f"order {order}, {channels if had else 'no'} channels, float{8 * size}"


def _part(tiles: Tiles, first: int, last: int) -> Tiles:
    """Return some of the leaves of tiles."""
    return tiles[0][first:last], tiles[1][first : last + 1], tiles[2]


def _stretches(ranges: np.ndarray) -> list[tuple[int, int]]:
    """Return ranges, ascending, with adjacent ones merged."""
    if not len(ranges):
        return []
    begins = np.append(True, ranges[1:, 0] != ranges[:-1, 1])
    ends = np.append(begins[1:], True)
    return list(zip(ranges[begins, 0].tolist(), ranges[ends, 1].tolist(), strict=True))
