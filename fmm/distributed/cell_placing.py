"""Points of a cell on their way to the ranks that own them."""

from typing import NamedTuple

import numpy as np

from fmm.cell.geometry import sort_in_cell
from fmm.cell.grid import CellGrid
from fmm.cell.placing import Placed, unite
from fmm.distributed.partition import Domain
from fmm.distributed.placing import shared_out
from fmm.distributed.ranks import Ranks
from fmm.tree.curve import SortedPoints
from fmm.tree.geometry import along_curve
from multipoles.lattice.cell import Cell


class OwnedInCell(NamedTuple):
    """Points of a cell that this rank owns, and what belongs to whom."""

    domain: Domain
    grid: CellGrid
    points: SortedPoints
    sources: np.ndarray
    targets: np.ndarray


def extremes(ranks: Ranks, cell: Cell, *points: np.ndarray) -> list[np.ndarray]:
    """Return points of all ranks that reach as far along what is free as any."""
    across = cell.vectors[cell.n_periodic :]
    found = [np.zeros((0, 3))]
    for array in points:
        if len(array) and len(across):
            along = array @ across.T
            found.append(array[np.concatenate([along.argmin(axis=0), along.argmax(axis=0)])])
    told = np.concatenate(ranks.gather(np.concatenate(found).astype(np.float64)))
    return [told] if len(told) else []


def owned_in_cell(
    ranks: Ranks,
    grid: CellGrid,
    targets: np.ndarray,
    sources: np.ndarray,
    smallest: float,
    weights: tuple[np.ndarray, np.ndarray] | None,
) -> OwnedInCell:
    """Return the points of a cell that this rank is to own; see `fmm.distributed.placing.owned`."""
    n_copies = len(grid.copies)
    same = targets is sources and n_copies == 1
    copies = sources if same else np.concatenate([sources + copy for copy in grid.copies])
    kinds = [copies] if same else [copies, targets]
    inside = [grid.placed(array) for array in kinds]
    moved = bool(ranks.largest(np.array([int(any(moved for *_, moved in inside))]))[0])
    counts = np.array(grid.counts)
    scaled = [fraction * counts for _, fraction, _ in inside]
    costs = None
    if weights is not None:
        costs = [np.tile(weights[1], n_copies), weights[0]][: len(kinds)]
    known = np.zeros((1, 3)), np.ones(1)
    root_grid = max(grid.counts)
    starts, bits, exchanges, _ = shared_out(
        ranks, scaled, float(root_grid), known, root_grid, smallest * grid.multiple, costs
    )
    first = np.repeat(np.arange(n_copies) == 0, len(sources))
    come = [
        exchange.forth(np.concatenate([place, fraction], axis=1))
        for exchange, (place, fraction, _) in zip(exchanges, inside, strict=True)
    ]
    here = [(np.ascontiguousarray(c[:, :3]), np.ascontiguousarray(c[:, 3:])) for c in come]
    if moved:
        here = _united(grid, here)
    (s, u), (x, v) = here[0], here[-1]
    points = sort_in_cell(grid, Placed(x, s, v, u))
    has = np.concatenate(ranks.gather(np.array([len(x) > 0])))
    domain = Domain(
        ranks, starts, counts, grid.periods, bits, root_grid, exchanges[-1], exchanges[0],
        (targets, sources), has, exchanges[0].forth(first),
    )  # fmt: skip
    return OwnedInCell(domain, grid, points, *along_curve(points, x, s))


def _united(
    grid: CellGrid, kinds: list[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return points with those that are one, but for rounding, at one place."""
    points, fractions = (np.concatenate(parts) for parts in zip(*kinds, strict=True))
    unite(grid, points, fractions)
    if len(kinds) == 1:
        return [(points, fractions)]
    n = len(kinds[0][0])
    return [(points[:n], fractions[:n]), (points[n:], fractions[n:])]
