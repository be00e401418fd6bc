"""Which systems of a batch are summed at once, and in which units.

Lengths are brought to about one by powers of two. Systems whose neighbours are about as far apart
then share where their sums are split, and one `Ewald` sums them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from multipoles import scaling
from multipoles.lattice.cell import Cell, cells_of
from multipoles.lattice.ewald import Ewald
from multipoles.lattice.options import Lattice
from multipoles.lattice.rows import starts_of
from multipoles.lattice.split import check_kernel, spacing
from multipoles.radial import Coulomb, Kernel

# logarithm of what distances of neighbours may differ by for one split to serve two systems
_ALIKE = float(np.log(1.3))
#: More targets and sources than these are summed alone.
LARGE = 1000
# and no more than these at once
_AT_ONCE = 20_000


@dataclass(frozen=True)
class Group:
    """Systems of a batch that are summed at once, in units in which lengths are about one.

    Parameters
    ----------
    systems : ndarray of int, shape (n,)
        Their numbers in the batch.
    rows : tuple of two
        Which of all targets and sources are theirs: slices, or arrays of whole numbers.
    plan : Ewald
        Their sum.
    lengths : ndarray of int, shape (n,)
        Exponents of their units of length.
    given : tuple of two ndarrays
        Targets and sources as they were given, in the units of the plan.
    """

    systems: np.ndarray
    rows: tuple[Any, Any]
    plan: Ewald
    lengths: np.ndarray
    given: tuple[np.ndarray, np.ndarray]

    def scaled(self, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return moments in the units of the plan, and the exponents of those of each system."""
        ends = self.plan.ends[1]
        lengths = np.repeat(self.lengths, np.diff(ends))[:, None, None]
        exponents = moment_exponents(moments, lengths, ends)
        each = np.repeat(exponents, np.diff(ends))[:, None, None]
        return scaling.scale_moments(moments, lengths, each), exponents

    def unscaled(self, phi: np.ndarray, exponents: np.ndarray) -> np.ndarray:
        """Return a field in the units of the caller."""
        counts = np.diff(self.plan.ends[0])
        lengths, each = (np.repeat(n, counts)[:, None, None] for n in (self.lengths, exponents))
        return scaling.unscale_field(phi, lengths, each)


def groups_of(
    targets: np.ndarray,
    sources: np.ndarray,
    kernel: Kernel,
    lattice: Lattice,
    batches: tuple[np.ndarray | None, np.ndarray | None],
    tolerance: float,
    source_order: int,
    order: int,
) -> Iterator[Group]:
    """Yield the systems that have targets and sources, those together that are alike."""
    check_kernel(kernel, lattice.surface)
    numbers, ends = systems_of(len(targets), len(sources), lattice, batches)
    if not len(numbers):
        return
    counts = np.diff(ends[0]).ravel(), np.diff(ends[1]).ravel()
    cells, lengths = _scaled_cells(lattice, numbers, counts[1])
    # 1/r has no length of its own
    kinds = np.zeros_like(lengths) if isinstance(kernel, Coulomb) else lengths
    for own in alike(cells, counts, kinds):
        rows = rows_of(ends[0][own]), rows_of(ends[1][own])
        each = [np.repeat(lengths[own], n[own])[:, None] for n in counts]
        x = np.ldexp(targets[rows[0]].astype(np.float64), each[0])
        s = x if sources is targets else np.ldexp(sources[rows[1]].astype(np.float64), each[1])
        unit = float(np.ldexp(1.0, int(lengths[own[0]])))
        orders = source_order, order
        starts = starts_of(counts[0][own]), starts_of(counts[1][own])
        plan = Ewald(x, s, cells[own], kernel.scaled(unit), tolerance, *orders, unit, starts)
        yield Group(numbers[own], rows, plan, lengths[own], (x, s))


def _scaled_cells(
    lattice: Lattice, numbers: np.ndarray, counts: np.ndarray
) -> tuple[Cell, np.ndarray]:
    """Return the cells of systems with neighbours about one apart, and their units of length."""
    rows = lattice.cells[numbers] if lattice.cells.ndim == 3 else lattice.cells[None]
    lengths = length_exponents(rows, lattice.periodic, counts)
    rows = np.ldexp(rows, lengths[:, None, None])
    cells = cells_of(rows, lattice.periodic, lattice.name_of(numbers))
    if cells.n_periodic < 3:
        return cells, lengths
    units = lengths - np.rint(np.log2(spacing(counts, cells, np.empty(0)))).astype(np.int64)
    more = np.clip(units, scaling.LEAST, scaling.GREATEST) - lengths
    vectors = np.ldexp(cells.vectors, more[:, None, None])
    return Cell(vectors, 3, np.broadcast_to(cells.choice, vectors.shape)), lengths + more


def alike(
    cells: Cell, counts: tuple[np.ndarray, np.ndarray], kinds: np.ndarray
) -> list[np.ndarray]:
    """Return the numbers of systems that one split serves, those of each group ascending.

    Parameters
    ----------
    cells : Cell
        Of all systems.
    counts : tuple of two ndarrays of int
        Targets and sources of each.
    kinds : ndarray of int
        Only systems of one kind go together.
    """
    if cells.n_periodic < 3 or len(cells) == 1:
        return [np.array([system]) for system in range(len(cells))]
    apart, points = np.log(spacing(counts[1], cells, np.empty(0))), counts[0] + counts[1]
    order = np.lexsort((apart, points > LARGE, kinds))
    groups, start, held = [], 0, 0
    for place, system in enumerate(order):
        first = order[start]
        other = kinds[system] != kinds[first] or apart[system] - apart[first] > _ALIKE
        if place > start and (other or points[system] > LARGE or held > _AT_ONCE):
            groups.append(np.sort(order[start:place]))
            start, held = place, 0
        held += points[system]
    return [*groups, np.sort(order[start:])]


def rows_of(ranges: np.ndarray) -> Any:
    """Return the rows of ranges (n, 2): a slice where one follows the other, or their numbers."""
    if (ranges[1:, 0] == ranges[:-1, 1]).all():
        return slice(int(ranges[0, 0]), int(ranges[-1, 1]))
    return numbers_of(ranges)


def numbers_of(ranges: np.ndarray) -> np.ndarray:
    """Return all whole numbers of ranges (n, 2)."""
    counts = ranges[:, 1] - ranges[:, 0]
    first = np.repeat(ranges[:, 0] - np.cumsum(counts) + counts, counts)
    return np.arange(len(first)) + first


def systems_of(
    n_targets: int,
    n_sources: int,
    lattice: Lattice,
    batches: tuple[np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the systems that have targets and sources, and first and last of theirs, (n, 2)."""
    of_targets, of_sources = batches
    if of_targets is None or of_sources is None:
        n = int(n_targets > 0 and n_sources > 0)
        return np.arange(n), (np.array([[0, n_targets]])[:n], np.array([[0, n_sources]])[:n])
    here = np.intersect1d(of_targets, of_sources)
    if lattice.cells.ndim == 3 and len(here) and here[-1] >= len(lattice.cells):
        raise ValueError(
            f"cell: got {len(lattice.cells)} cells, but there is a system {here[-1]}: expected one "
            "cell for each system of the batch"
        )
    first, second = (
        np.stack([np.searchsorted(of, here, side) for side in ("left", "right")], axis=1)
        for of in (of_targets, of_sources)
    )
    return here, (first, second)


def length_exponents(
    rows: np.ndarray, periodic: tuple[bool, bool, bool], counts: np.ndarray
) -> np.ndarray:
    """Return the powers of two that bring the distances of neighbours to about one.

    Parameters
    ----------
    rows : ndarray, shape (n_systems, 3, 3)
        Lattice vectors.
    periodic : tuple of three bools
        Which of them repeat.
    counts : ndarray of int, shape (n_systems,)
        Sources of each.
    """
    largest = np.abs(rows[:, list(periodic)]).max(axis=(1, 2))
    exponents = (np.log2(np.maximum(counts, 1)) / 3).astype(np.int64) - np.frexp(largest)[1]
    return np.where(largest > 0, np.clip(exponents, scaling.LEAST, scaling.GREATEST), 0)


def moment_exponents(
    moments: np.ndarray, lengths: int | np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Return the powers of two that bring the strongest moment of each system to about one.

    Parameters
    ----------
    moments : ndarray, shape (n, channels, components)
        System after system.
    lengths : int or ndarray, shape (n, 1, 1)
        Exponents of the units of length.
    ends : ndarray of int, shape (n_systems + 1,)
        First point of each system, none of which is empty.
    """
    if not moments.size:
        return np.zeros(len(ends) - 1, np.int64)
    strengths = scaling.strengths(moments, lengths).reshape(len(moments), -1).max(axis=1)
    strongest = np.maximum.reduceat(strengths, ends[:-1])
    return np.where(strongest > -(2**39), -strongest, 0)
