"""Fields, energies and strains of systems in cells: all of a batch, and what is added to sums.

Between the public functions, which check, and the Ewald sum, which knows units of its own.
"""

import numpy as np

from multipoles import indexing
from multipoles.lattice import surface
from multipoles.lattice.ewald import Ewald, strain_of_pairs
from multipoles.lattice.groups import Group, groups_of
from multipoles.lattice.options import Lattice, check_neutral, tolerance_of
from multipoles.lattice.rows import sums_of_systems
from multipoles.lattice.search import Images
from multipoles.lattice.strain import virial
from multipoles.neighbours import PairList
from multipoles.radial import Kernel
from multipoles.sums import field_arrays


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


# --- a group of systems ---------------------------------------------------------------------------


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
    steps = plan.cell[systems].nearest(plan.targets[receivers] - plan.targets[senders])
    points = plan.targets[senders] + (steps[:, None] @ vectors)[:, 0]
    listed = np.stack([receivers, np.arange(len(both))], axis=1)
    found = PairList(listed, len(plan.targets), len(both), weights)
    return Images(points, senders, steps.astype(np.int64), np.array([0, len(both)])), found
