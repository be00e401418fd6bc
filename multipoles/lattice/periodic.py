"""Fields, energies and strains of systems in cells: units, systems of a batch, and what is added.

Between the public functions, which check, and the Ewald sum, which knows one cell in units of its
own: lengths are brought to about one by a power of two, and every system of a batch has its cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from multipoles import checks, indexing, scaling
from multipoles.lattice import surface
from multipoles.lattice.cell import Cell, cells_of, directions
from multipoles.lattice.ewald import Ewald, strain_of_pairs, sums_of_systems
from multipoles.lattice.search import Images
from multipoles.lattice.split import check_kernel, decays, spacing
from multipoles.lattice.strain import virial
from multipoles.neighbours import PairList
from multipoles.radial import Coulomb, Kernel
from multipoles.sums import field_arrays

#: Relative errors that are aimed at unless a tolerance is given, by the size of a number.
TOLERANCES = {4: 1e-6, 8: 1e-13}
SURFACES = ("conductor", "vacuum")
# logarithm of what distances of neighbours may differ by for one split to serve two systems
_ALIKE = float(np.log(1.3))
# targets and sources of systems that are summed alone, and of which no more are summed at once
_LARGE, _AT_ONCE = 1000, 20_000
# charges that add up to less than so many roundings of their sizes are neutral
_NEUTRAL = 1e-10


@dataclass(frozen=True)
class Lattice:
    """What repeats, and what is meant by it: the checked arguments of the public functions.

    Parameters
    ----------
    cells : ndarray, shape (n_systems, 3, 3)
        Rows are lattice vectors, float64.
    periodic : tuple of three bools
        Which directions repeat.
    tolerance : float or None
        Relative error that is aimed at.
    background : bool
        Whether charged cells get a uniform background.
    surface : str
        One of `SURFACES`.
    """

    cells: np.ndarray
    periodic: tuple[bool, bool, bool]
    tolerance: float | None
    background: bool
    surface: str


def lattice_of(
    cell: Any,
    periodic: Any,
    tolerance: float | None,
    background: bool,
    surface_of: str,
    batched: bool,
) -> Lattice:
    """Return the checked arguments.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.
    """
    repeats = directions(periodic)
    cells = checks.real(cell, "cell").astype(np.float64)
    if cells.ndim == 3 and not batched:
        raise ValueError(
            f"cell: got {len(cells)} cells, but no batch: expected shape (3, 3), or the index of "
            "the system of each point"
        )
    if cells.shape[-2:] != (3, 3) or cells.ndim not in (2, 3):
        raise ValueError(
            f"cell: expected shape (3, 3), or (n_systems, 3, 3) with a batch, got {cells.shape}"
        )
    if tolerance is not None and not (
        isinstance(tolerance, int | float | np.floating) and 1e-14 <= tolerance <= 0.1
    ):
        raise ValueError(f"tolerance: expected a number from 1e-14 to 0.1, got {tolerance!r}")
    if not isinstance(background, bool | np.bool_):
        raise TypeError(f"background: expected a bool, got {background!r}")
    if surface_of not in SURFACES:
        raise ValueError(f"surface: expected one of {SURFACES}, got {surface_of!r}")
    if surface_of == "vacuum" and not all(repeats):
        raise ValueError(
            "surface: 'vacuum' is the surface of a sphere: expected three directions that repeat"
        )
    return Lattice(
        cells, repeats, None if tolerance is None else float(tolerance), bool(background),
        surface_of,
    )  # fmt: skip


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


def field(
    targets: np.ndarray,
    sources: np.ndarray,
    moments: np.ndarray,
    order: int,
    kernel: Kernel,
    lattice: Lattice,
    batches: tuple[np.ndarray | None, np.ndarray | None],
) -> np.ndarray:
    """Return the field of moments of all images, in the dtype of the arguments."""
    dtype = targets.dtype
    out = np.zeros((len(targets), moments.shape[1], indexing.n_components(order)))
    values = moments.astype(np.float64)
    source_order = indexing.order_of(moments.shape[2])
    tolerance = tolerance_of(lattice, dtype)
    given = targets, sources, kernel, lattice, batches, tolerance, source_order, order
    for group in groups_of(*given):
        own = values[group.rows[1]]
        check_neutral(own, lattice, kernel, group.plan.ends[1])
        scaled, exponents = group.scaled(own)
        phi = group.plan.field(scaled, group.plan.factors_of(scaled), order)
        if lattice.surface == "vacuum":
            volumes, ends = group.plan.cell.volume, group.plan.ends
            phi += surface.field(*group.given, scaled, order, volumes, ends)
        out[group.rows[0]] = group.unscaled(phi, exponents)
    return out.astype(dtype)


def site_sums(
    positions: np.ndarray,
    moments: np.ndarray,
    kernel: Kernel,
    lattice: Lattice,
    batch: np.ndarray | None,
    scale: tuple[np.ndarray, np.ndarray] | None,
    extra: int,
    strained: bool = False,
) -> tuple[float, np.ndarray, np.ndarray | None]:
    """Return energy, field at all sites, and the virial (of each system) if it is asked for.

    Parameters
    ----------
    positions, moments, kernel, lattice, batch
        Checked; moments with channels.
    scale : tuple, optional
        Unordered pairs and factors: of each, the nearest image is scaled.
    extra : int
        Orders of the field beyond that of the moments; 1 for the virial.
    strained : bool
        Whether the virial is asked for.
    """
    order = indexing.order_of(moments.shape[2])
    phi = np.zeros((*moments.shape[:2], indexing.n_components(order + extra)))
    n_systems = 1 if batch is None else max(len(lattice.cells), int(batch.max(initial=-1)) + 1)
    total, virials = 0.0, np.zeros((n_systems, 3, 3))
    values = moments.astype(np.float64)
    tolerance = tolerance_of(lattice, positions.dtype)
    given = positions, positions, kernel, lattice, (batch, batch), tolerance, order, order + extra
    for group in groups_of(*given):
        own, ends = values[group.rows[1]], group.plan.ends[1]
        check_neutral(own, lattice, kernel, ends)
        scaled, exponents = group.scaled(own)
        pairs = _inside(scale, group, len(positions))
        found, strain = _of_sites(group, scaled, order + extra, lattice, pairs, strained)
        # an energy is a product of two moments over a length
        units = group.lengths - 2 * exponents
        energies = 0.5 * np.einsum("ick,ick->i", scaled, found[..., : moments.shape[2]])
        total += float(np.ldexp(sums_of_systems(energies, ends), units).sum())
        phi[group.rows[0]] = group.unscaled(found, exponents)
        if strain is not None:
            virials[group.systems] = np.ldexp(strain, units[:, None, None])
    phi = phi.astype(positions.dtype)
    if not strained:
        return total, phi, None
    return total, phi, virials[0] if lattice.cells.ndim == 2 and batch is None else virials


# --- groups of systems ----------------------------------------------------------------------------


def tolerance_of(lattice: Lattice, dtype: np.dtype) -> float:
    """Return the tolerance that was given, or that of a type of numbers."""
    return TOLERANCES[dtype.itemsize] if lattice.tolerance is None else lattice.tolerance


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

    def name_of(system: int) -> str:
        return "cell" if lattice.cells.ndim == 2 else f"cell[{numbers[system]}]"

    rows = np.ldexp(rows, lengths[:, None, None])
    cells = cells_of(rows, lattice.periodic, name_of)
    if cells.n_periodic < 3:
        return cells, lengths
    more = -np.rint(np.log2(spacing(counts, cells, np.empty(0)))).astype(np.int64)
    vectors = np.ldexp(cells.vectors, more[:, None, None])
    return Cell(vectors, 3, np.broadcast_to(cells.choice, vectors.shape)), lengths + more


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Return where each of some systems starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)])


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
    if cells.n_periodic < 3:
        return [np.array([system]) for system in range(len(cells))]
    apart, points = np.log(spacing(counts[1], cells, np.empty(0))), counts[0] + counts[1]
    order = np.lexsort((apart, points > _LARGE, kinds))
    groups, start, held = [], 0, 0
    for place, system in enumerate(order):
        first = order[start]
        other = kinds[system] != kinds[first] or apart[system] - apart[first] > _ALIKE
        if place > start and (other or points[system] > _LARGE or held > _AT_ONCE):
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


def check_neutral(
    moments: np.ndarray, lattice: Lattice, kernel: Kernel, ends: np.ndarray | None = None
) -> None:
    """Refuse charged cells that are to have no background, but under kernels that need none.

    ends: first point of each system; default: they are of one.
    """
    if lattice.background or not all(lattice.periodic) or decays(kernel) or not len(moments):
        return
    charges = moments[:, :, 0]
    ends = np.array([0, len(moments)]) if ends is None else ends
    totals = sums_of_systems(charges, ends).ravel()
    limits = _NEUTRAL * sums_of_systems(np.abs(charges), ends).ravel()
    if (np.abs(totals) > limits).any():
        total = totals[np.argmax(np.abs(totals) - limits)]
        raise ValueError(
            "moments: expected a neutral cell with background=False, got a total charge of "
            f"{total:.6g}"
        )


def _of_sites(
    group: Group,
    moments: np.ndarray,
    order: int,
    lattice: Lattice,
    scale: tuple[np.ndarray, np.ndarray] | None,
    strained: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the field at the sites of a group of systems, and their virials."""
    plan, points, ends = group.plan, group.given[0], group.plan.ends
    factors = plan.factors_of(moments)
    phi = plan.field(moments, factors, order)
    along = plan.strain(moments, factors) if strained else None
    if scale is not None and len(scale[0]):
        images, pairs = _scaled_pairs(plan, *scale)
        moved = np.ascontiguousarray(moments[images.origin])

        def of_scaled(stacked: np.ndarray, order: int) -> np.ndarray:
            return field_arrays(plan.targets, images.points, stacked, order, plan.kernel, pairs)

        phi += of_scaled(moved, order)
        if along is not None:
            extra = strain_of_pairs(plan.targets, images.points, moments, moved, of_scaled)
            along = along + 0.5 * sums_of_systems(extra, ends[0])
    if along is not None and plan.cell.n_periodic < 3:
        given = plan.cell[0], plan.targets, moments, lambda: phi, along[0]
        along = virial(*given)[None]
    if lattice.surface == "vacuum":
        phi += surface.field(points, points, moments, order, plan.cell.volume, ends)
        if along is not None:
            along = along + surface.strain(points, moments, plan.cell.volume, ends[0])
    return phi, along


def _inside(
    scale: tuple[np.ndarray, np.ndarray] | None, group: Group, n: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scaled pairs within systems of a group, numbered within it."""
    if scale is None:
        return None
    pairs, factors = scale
    ends = group.plan.ends[0]
    system, number = np.full(n, -1), np.zeros(n, np.int64)
    system[group.rows[0]] = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    number[group.rows[0]] = np.arange(ends[-1])
    first, second = system[pairs].T
    own = (first >= 0) & (first == second)
    return number[pairs[own]], factors[own]


def _scaled_pairs(plan: Ewald, pairs: np.ndarray, factors: np.ndarray) -> tuple[Images, PairList]:
    """Return the nearest image of each partner, and pairs whose weights are factors less one."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    weights = np.tile(factors, 2) - 1.0
    receivers, senders = both.T
    systems = np.searchsorted(plan.ends[0], senders, side="right") - 1
    vectors = plan.cell.vectors[systems]
    steps = _nearest_steps(plan.cell[systems], plan.targets[receivers] - plan.targets[senders])
    points = plan.targets[senders] + (steps[:, None] @ vectors)[:, 0]
    listed = np.stack([receivers, np.arange(len(both))], axis=1)
    found = PairList(listed, len(plan.targets), len(both), weights)
    return Images(points, senders, steps.astype(np.int64), np.array([0, len(both)])), found


def _nearest_steps(cells: Cell, vectors: np.ndarray) -> np.ndarray:
    """Return the whole numbers of the lattice vectors nearest to some vectors, (n, 3)."""
    d = cells.n_periodic
    about = np.zeros_like(vectors)
    about[:, :d] = np.rint((vectors[:, None] @ cells.inverse)[:, 0, :d])
    grid = np.stack(np.meshgrid(*([-1, 0, 1] if i < d else [0] for i in range(3))), -1)
    choices = grid.reshape(-1, 3)
    rest = vectors - (about[:, None] @ cells.vectors)[:, 0]
    lengths = ((rest[:, None] - choices @ cells.vectors) ** 2).sum(axis=2)
    found: np.ndarray = about + choices[np.argmin(lengths, axis=1)]
    return found
