"""Fields, energies and strains of systems in cells: units, systems of a batch, and what is added.

Between the public functions, which check, and the Ewald sum, which knows one cell in units of its
own: lengths are brought to about one by a power of two, and every system of a batch has its cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from multipoles import checks, indexing, scaling
from multipoles.lattice import surface
from multipoles.lattice.cell import Cell, cell_of, directions
from multipoles.lattice.ewald import Ewald, strain_of_pairs
from multipoles.lattice.search import Images
from multipoles.lattice.split import Split, check_kernel, decays, spacing
from multipoles.lattice.strain import virial
from multipoles.neighbours import PairList
from multipoles.radial import Kernel
from multipoles.sums import field_arrays

#: Relative errors that are aimed at unless a tolerance is given, by the size of a number.
TOLERANCES = {4: 1e-6, 8: 1e-13}
SURFACES = ("conductor", "vacuum")
# share by which distances of neighbours may differ for one split to serve two systems
_ALIKE = 0.03
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
class _System:
    """One system of a batch: its points, and the Ewald sum in units in which lengths are one."""

    targets: slice
    sources: slice
    plan: Ewald
    length: int
    # as they were given, in the units of the plan
    given_targets: np.ndarray
    given_sources: np.ndarray


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
    for system in _systems(targets, sources, kernel, lattice, batches, source_order, order):
        own = values[system.sources]
        check_neutral(own, system.plan.cell, lattice, kernel)
        exponent = moment_exponent(own, system.length)
        scaled = scaling.scale_moments(own, system.length, exponent)
        phi = _whole_field(system, scaled, order, lattice)
        out[system.targets] = scaling.unscale_field(phi, system.length, exponent)
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
    given = positions, positions, kernel, lattice, (batch, batch), order, order + extra
    for system in _systems(*given):
        own = values[system.sources]
        check_neutral(own, system.plan.cell, lattice, kernel)
        exponent = moment_exponent(own, system.length)
        scaled = scaling.scale_moments(own, system.length, exponent)
        pairs = _inside(scale, system.sources)
        found, strain = _of_sites(system, scaled, order + extra, lattice, pairs, strained)
        # an energy is a product of two moments over a length
        unit = system.length - 2 * exponent
        energy = 0.5 * np.einsum("ick,ick->", scaled, found[..., : moments.shape[2]])
        total += float(np.ldexp(energy, unit))
        phi[system.sources] = scaling.unscale_field(found, system.length, exponent)
        if strain is not None:
            virials[0 if batch is None else batch[system.sources.start]] = np.ldexp(strain, unit)
    phi = phi.astype(positions.dtype)
    if not strained:
        return total, phi, None
    return total, phi, virials[0] if lattice.cells.ndim == 2 and batch is None else virials


# --- one system -----------------------------------------------------------------------------------


class _Alike(NamedTuple):
    """A system before: numbers of points and unit, distance of neighbours, and how it was split."""

    key: tuple[int, int, float]
    apart: float
    split: Split

    def split_for(self, key: tuple[int, int, float], apart: float, cell: Cell) -> Split | None:
        """Return the same split for another system, None if that is too different."""
        different = key != self.key or abs(apart / self.apart - 1) > _ALIKE
        if different or cell.n_periodic < 3:
            return None
        return self.split.like(cell) if self.split.eta > 0 else self.split


def _systems(
    targets: np.ndarray,
    sources: np.ndarray,
    kernel: Kernel,
    lattice: Lattice,
    batches: tuple[np.ndarray | None, np.ndarray | None],
    source_order: int,
    order: int,
) -> Iterator[_System]:
    """Yield the systems that have targets and sources."""
    check_kernel(kernel, lattice.surface)
    tolerance = lattice.tolerance
    tolerance = TOLERANCES[targets.dtype.itemsize] if tolerance is None else tolerance
    last: _Alike | None = None
    for index, of_targets, of_sources in ranges_of_systems(
        len(targets), len(sources), lattice, batches
    ):
        x = targets[of_targets].astype(np.float64)
        s = x if sources is targets else sources[of_sources].astype(np.float64)
        rows = lattice.cells if lattice.cells.ndim == 2 else lattice.cells[index]
        name = "cell" if lattice.cells.ndim == 2 else f"cell[{index}]"
        length = length_exponent(rows, lattice.periodic, len(s))
        cell = cell_of(np.ldexp(rows, length), lattice.periodic, name)
        x = scaling.scale_points(x, length)
        s = x if sources is targets else scaling.scale_points(s, length)
        unit = float(np.ldexp(1.0, length))
        scaled = kernel.scaled(unit)
        own = (len(x), len(s), unit), spacing(len(s), cell, cell.extents(x, s))
        split = None if last is None else last.split_for(*own, cell)
        plan = Ewald(x, s, cell, scaled, tolerance, source_order, order, unit, split)
        if split is None:
            last = _Alike(*own, plan.split)
        yield _System(of_targets, of_sources, plan, length, x, s)


def ranges_of_systems(
    n_targets: int,
    n_sources: int,
    lattice: Lattice,
    batches: tuple[np.ndarray | None, np.ndarray | None],
) -> Iterator[tuple[int, slice, slice]]:
    """Yield index, targets and sources of each system that has both."""
    of_targets, of_sources = batches
    if of_targets is None or of_sources is None:
        if n_targets and n_sources:
            yield 0, slice(0, n_targets), slice(0, n_sources)
        return
    here = np.intersect1d(of_targets, of_sources)
    if lattice.cells.ndim == 3 and len(here) and here[-1] >= len(lattice.cells):
        raise ValueError(
            f"cell: got {len(lattice.cells)} cells, but there is a system {here[-1]}: expected one "
            "cell for each system of the batch"
        )
    for index in here:
        ends = [np.searchsorted(of, (index, index + 1)) for of in (of_targets, of_sources)]
        yield int(index), slice(*map(int, ends[0])), slice(*map(int, ends[1]))


def length_exponent(rows: np.ndarray, periodic: tuple[bool, bool, bool], n: int) -> int:
    """Return the power of two that brings the distance of neighbours to about one."""
    largest = np.abs(rows[list(periodic)]).max()
    if not largest > 0:
        return 0
    exponent = -scaling.exponent_of(float(largest)) + int(np.log2(max(n, 1)) / 3)
    return min(max(exponent, scaling.LEAST), scaling.GREATEST)


def moment_exponent(moments: np.ndarray, length: int) -> int:
    """Return the power of two that brings the strongest moment to about one."""
    exponents = scaling.strengths(moments, length)[moments != 0]
    return -int(exponents.max()) if exponents.size else 0


def check_neutral(moments: np.ndarray, cell: Cell, lattice: Lattice, kernel: Kernel) -> None:
    """Refuse a charged cell that is to have no background, but under kernels that need none."""
    if lattice.background or cell.n_periodic < 3 or decays(kernel):
        return
    charges = moments[:, :, 0]
    total = charges.sum(axis=0)
    limit = _NEUTRAL * np.abs(charges).sum(axis=0)
    if (np.abs(total) > limit).any():
        raise ValueError(
            f"moments: expected a neutral cell with background=False, got a total charge of "
            f"{total[np.argmax(np.abs(total))]:.6g}"
        )


def _whole_field(system: _System, moments: np.ndarray, order: int, lattice: Lattice) -> np.ndarray:
    phi = system.plan.field(moments, system.plan.factors_of(moments), order)
    if lattice.surface == "vacuum":
        given = system.given_targets, system.given_sources, moments
        phi += surface.field(*given, order, system.plan.cell.volume)
    return phi


def _of_sites(
    system: _System,
    moments: np.ndarray,
    order: int,
    lattice: Lattice,
    scale: tuple[np.ndarray, np.ndarray] | None,
    strained: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the field at the sites of one system, and the virial."""
    plan, points = system.plan, system.given_targets
    factors = plan.factors_of(moments)
    phi = plan.field(moments, factors, order)
    extra = np.zeros((3, 3))
    if scale is not None and len(scale[0]):
        images, pairs = _scaled_pairs(plan, *scale)
        moved = np.ascontiguousarray(moments[images.origin])
        phi += field_arrays(plan.targets, images.points, moved, order, plan.kernel, pairs)
        if strained:

            def of_scaled(stacked: np.ndarray, order: int) -> np.ndarray:
                ends = plan.targets, images.points
                return field_arrays(*ends, stacked, order, plan.kernel, pairs)

            given = plan.targets, images.points, moments, moved
            extra = 0.5 * strain_of_pairs(*given, of_scaled)
    strain = None
    if strained:
        along = plan.strain(moments, factors) + extra
        strain = virial(plan.cell, plan.targets, moments, lambda: phi, along)
    if lattice.surface == "vacuum":
        volume = plan.cell.volume
        phi += surface.field(points, points, moments, order, volume)
        if strain is not None:
            strain = strain + surface.strain(points, moments, volume)
    return phi, strain


def _inside(
    scale: tuple[np.ndarray, np.ndarray] | None, sites: slice
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scaled pairs of one system, numbered within it."""
    if scale is None:
        return None
    pairs, factors = scale
    own = ((pairs >= sites.start) & (pairs < sites.stop)).all(axis=1)
    return pairs[own] - sites.start, factors[own]


def _scaled_pairs(plan: Ewald, pairs: np.ndarray, factors: np.ndarray) -> tuple[Images, PairList]:
    """Return the nearest image of each partner, and pairs whose weights are factors less one."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    weights = np.tile(factors, 2) - 1.0
    receivers, senders = both.T
    steps = plan.cell.nearest(plan.targets[receivers] - plan.targets[senders])
    points = plan.targets[senders] + steps @ plan.cell.vectors
    listed = np.stack([receivers, np.arange(len(both))], axis=1)
    found = PairList(listed, len(plan.targets), len(both), weights)
    return Images(points, senders, steps.astype(np.int64)), found
