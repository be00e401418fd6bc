"""What ranks would own, send and wait for: evenly spread points, any number of ranks, no machine.

Points that fill a cube evenly fill a grid of ``g = root 2^depth`` leaves along an axis, of ``m``
points each, along a Morton curve. A rank owns a stretch of ``V = g^3 / P`` leaves. What it needs of
others follows from the surface of the stretch (Warren and Salmon, Proc. Supercomputing '93, 12;
Lashuk et al., Commun. ACM 55, 101 (2012)); were it a cube of edge ``s = V^(1/3)``:

* sources next to it: ``((s + 2)^3 - s^3) m``, a layer of one leaf;
* on each level, where its edge is ``s_l = s / 2^(depth - l)``, expansions of the children of
  boxes next to the parents of its own: a layer of two boxes, ``(s_l + 4)^3 - s_l^3``. The finest
  level rules the sum, so that both grow as ``(N/P)^(2/3)``; coarser ones than ``s_l = 1``, about
  ``log8 P`` of them, are shared;
* few neighbours: 26 cubes touch one cube, whatever ``P``.

Stretches of a Morton curve are no cubes, and at the surface of the whole there is nothing to ask
for. So boxes are counted: the stretch of a rank is laid out on the grid, as `partition` would cut
it (at faces of boxes as coarse as balance allows), and its halos are listed on every level. Boxes
that ranks share, and those that very many ask for, are summed over all ranks (Yokota and Barba,
Int. J. High Perform. Comput. Appl. 26, 337 (2012), on the cost of the top of the tree).

Time is that of arithmetic, as measured on one rank or as `fmm.cost` knows it, and of messages: a
latency for each and their bytes over a bandwidth (the model of Hockney), trees of ``log2 P`` steps
for what is summed over all ranks; what neighbours send travels while own pairs are summed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmm.cost import SINGLE, Work, expected_work, seconds_per_point
from fmm.distributed.boxes import MOST_USERS
from fmm.leaves import choose_leaves
from fmm.tree.curve import SortedPoints, crowding

#: Ranks whose stretches are laid out, at most; others are like these.
_SAMPLED = 32
#: Of a rank's share, by which bounds may be off, see `partition`.
_UNEVEN = 0.03
#: Sums over all ranks, or short words to all of them, in an evaluation; as counted.
REDUCTIONS = 22
_AROUND = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
_OCTANTS = np.stack(np.meshgrid(*[(0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)


class Network(NamedTuple):
    """Seconds of a message, and bytes per second that a rank sends or receives."""

    latency: float = 1.5e-6
    bandwidth: float = 12e9


class Grid(NamedTuple):
    """Boxes of the coarsest level along an axis, halvings below, and points in a leaf."""

    root: int
    depth: int
    occupancy: float

    def boxes(self, level: int) -> int:
        """Return how many boxes a level has."""
        return int((self.root << level) ** 3)


@dataclass(frozen=True)
class Prediction:
    """What is expected of a field of charges, potential and gradient.

    Attributes
    ----------
    n, ranks : int
        Points of all ranks, and how many these are.
    work : Work
        What is computed.
    grid : Grid
        The tree.
    owned, ghosts : ndarray, shape (n_sampled,)
        Points that ranks own, and sources of others beside them.
    boxes : ndarray, shape (n_sampled, depth + 1)
        Boxes of others on each level whose expansions come.
    neighbours : ndarray, shape (n_sampled, 2)
        Ranks from which sources, and from which expansions come.
    top : int
        Boxes that are summed over all ranks.
    """

    n: int
    ranks: int
    work: Work
    grid: Grid
    owned: np.ndarray
    ghosts: np.ndarray
    boxes: np.ndarray
    neighbours: np.ndarray
    top: int

    @property
    def cube(self) -> float:
        """Sources beside a stretch that is a cube, and not at the surface of the whole."""
        edge = (self.grid.boxes(self.grid.depth) / self.ranks) ** (1 / 3)
        return float(((edge + 2) ** 3 - edge**3) * self.grid.occupancy) * (self.ranks > 1)

    @property
    def row(self) -> int:
        """Bytes of an expansion."""
        return (self.work.degree + 1) ** 2 * (4 if self.work.single else 8)

    @property
    def moments(self) -> np.ndarray:
        """Bytes of moments that come from neighbours."""
        return 8.0 * self.ghosts

    @property
    def expansions(self) -> np.ndarray:
        """Bytes of expansions that come from neighbours."""
        total: np.ndarray = float(self.row) * self.boxes.sum(axis=1)
        return total

    @property
    def summed(self) -> float:
        """Bytes of the expansions that are summed over ranks."""
        return float(self.top * self.row) * (self.ranks > 1)

    @property
    def dealt(self) -> np.ndarray:
        """Bytes of moments and fields between callers and owners, if points lie anywhere."""
        return 8.0 * 5 * self.owned * (1 - 1 / self.ranks)

    @property
    def messages(self) -> np.ndarray:
        """Messages to neighbours, and to all ranks: two, of moments and of fields."""
        found: np.ndarray = self.neighbours.sum(axis=1) + 2 * (self.ranks - 1)
        return found

    def busy(self, per_point: float | None = None) -> np.ndarray:
        """Return seconds of arithmetic.

        Parameters
        ----------
        per_point : float, optional
            Seconds of a point, as one rank has taken; default: what `fmm.cost` knows.
        """
        if per_point is None:
            occupancy = self.grid.occupancy
            per_point = seconds_per_point(self.work, 3.0, occupancy, n=self.n / self.ranks)
            per_point += float(self.work.harmonics()[self.work.degree])
        return self.owned * per_point

    def waiting(self, network: Network, per_point: float | None = None) -> dict[str, float]:
        """Return seconds of the busiest rank that messages take, and that are not hidden."""
        latency, bandwidth = network
        steps = 2 * np.ceil(np.log2(self.ranks)) if self.ranks > 1 else 0.0
        near = 27 * self.grid.occupancy * self.work.seconds_per_pair() * self.owned
        near = np.minimum(near, self.busy(per_point))
        halo = self.neighbours.sum(axis=1) * latency + (self.moments + self.expansions) / bandwidth
        return {
            "halo": float(halo.max()),
            "halo, not hidden": float(np.maximum(halo - near, 0.0).max()),
            "top": float(steps * latency + 2 * self.summed / bandwidth),
            "reductions": float(REDUCTIONS * steps * latency),
            "callers": float((2 * (self.ranks - 1) * latency + self.dealt / bandwidth).max()),
        }

    def seconds(self, network: Network, per_point: float | None = None) -> float:
        """Return the seconds of an evaluation on the slowest rank."""
        waiting = self.waiting(network, per_point)
        del waiting["halo"]
        return float(self.busy(per_point).max() + sum(waiting.values()))


def predict(n: int, ranks: int, tolerance: float, grid: Grid | None = None) -> Prediction:
    """Return what is expected of points that fill a cube evenly.

    Parameters
    ----------
    n : int
        Points of all ranks.
    ranks : int
        Their number.
    tolerance : float
        Of charges to potential and gradient.
    grid : Grid, optional
        The tree; default: that which a plan would choose here.

    Raises
    ------
    ValueError
        If there are too few points for a far field on so many ranks, or numbers are out of range.
    """
    if ranks < 1 or not n >= ranks:
        raise ValueError(f"expected at least one rank, and a point of each, got {ranks} and {n}")
    work = expected_work(n, tolerance, 0, 1, 1)._replace(single=tolerance >= SINGLE)
    grid = even_grid(n, work) if grid is None else grid
    if grid.boxes(grid.depth) < max(64, ranks):
        raise ValueError(
            f"expected points for a leaf of each rank, and for a far field, got {n} points on "
            f"{ranks} ranks, which make {grid.boxes(grid.depth)} leaves"
        )
    bounds = _bounds(grid, ranks)
    wide = [_wide(grid, bounds, level) for level in range(grid.depth + 1)]
    some = np.unique(np.linspace(0, ranks - 1, min(ranks, _SAMPLED)).round().astype(int))
    found = [_of_rank(grid, bounds, rank, wide) for rank in some]
    sources, boxes, neighbours = (np.array(column) for column in zip(*found, strict=True))
    owned = np.diff(bounds)[some] * grid.occupancy
    top = grid.root**3 + _cut(grid, bounds) + sum(len(keys) for keys in wide[1:])
    return Prediction(
        n, ranks, work, grid, owned, sources * grid.occupancy, boxes, neighbours, top
    )  # fmt: skip


def even_grid(n: int, work: Work) -> Grid:
    """Return the tree that a plan chooses for evenly spread points, see `fmm.leaves`."""
    cells = 8.0 ** np.arange(3 + int(np.log(max(n, 8)) / np.log(8)))
    filling = crowding(cells * -np.expm1(-n / cells), n + n**2 / cells, n)
    nothing = np.empty((1, 0), np.int64)
    like = SortedPoints(
        nothing, nothing, nothing, nothing, 20, 1, np.zeros((1, 3)), np.ones(1)
    )  # fmt: skip
    root, leaf_size = choose_leaves(like, (n, n), filling, work)
    depth = max(0, int(np.ceil(np.log2(max(n / leaf_size, 1.0)) / 3 - np.log2(root) - 1e-9)))
    return Grid(root, depth, n / (root << depth) ** 3)


# --- stretches of the curve -----------------------------------------------------------------------


def _bounds(grid: Grid, ranks: int) -> np.ndarray:
    """Return the leaves at which stretches begin, and the end: on faces of coarse boxes."""
    total = grid.boxes(grid.depth)
    aims = total / ranks * np.arange(1, ranks)
    bounds, missed = np.zeros(len(aims)), np.full(len(aims), np.inf)
    for level in range(grid.depth + 1):
        size = 8.0 ** (grid.depth - level)
        near = np.round(aims / size) * size
        better = (missed > _UNEVEN * total / ranks) & (np.abs(near - aims) < missed)
        bounds[better], missed[better] = near[better], np.abs(near - aims)[better]
    return np.concatenate([[0], np.maximum.accumulate(bounds), [total]]).astype(np.int64)


def _anchors(grid: Grid, keys: np.ndarray, level: int) -> np.ndarray:
    """Return where boxes are whose numbers along the curve are known."""
    cell = keys >> 3 * level
    root = grid.root
    anchor = np.stack([cell // root**2, cell // root % root, cell % root], axis=-1)
    for bit in range(level - 1, -1, -1):
        octant = keys >> 3 * bit
        anchor = anchor << 1 | np.stack([octant >> 2 & 1, octant >> 1 & 1, octant & 1], axis=-1)
    return anchor


def _keys(grid: Grid, anchor: np.ndarray, level: int) -> np.ndarray:
    """Return the numbers of boxes along the curve."""
    cell = anchor >> level
    key = (cell[..., 0] * grid.root + cell[..., 1]) * grid.root + cell[..., 2]
    for bit in range(level - 1, -1, -1):
        octant = anchor >> bit & 1
        key = key << 3 | octant[..., 0] << 2 | octant[..., 1] << 1 | octant[..., 2]
    return key


def _inside(grid: Grid, anchor: np.ndarray, level: int) -> np.ndarray:
    inside: np.ndarray = np.all((anchor >= 0) & (anchor < grid.root << level), axis=-1)
    return inside


def _owners(grid: Grid, bounds: np.ndarray, keys: np.ndarray, level: int) -> tuple[np.ndarray, ...]:
    """Return the ranks that own the first and the last leaf of boxes."""
    shift = 3 * (grid.depth - level)
    ends = keys << shift, ((keys + 1) << shift) - 1
    return tuple(np.searchsorted(bounds[1:-1], leaf, side="right") for leaf in ends)


def _cut(grid: Grid, bounds: np.ndarray) -> int:
    """Return how many boxes below the roots are shared between ranks."""
    number = 0
    for level in range(1, grid.depth):
        size = np.int64(8) ** (grid.depth - level)
        number += len(np.unique(bounds[bounds % size > 0] // size))
    return number


def _wide(grid: Grid, bounds: np.ndarray, level: int) -> np.ndarray:
    """Return boxes of a level of one rank that more than `MOST_USERS` others ask for."""
    ranks, n = len(bounds) - 1, grid.boxes(level)
    # 27 boxes of the level above hold 216 of this one
    if level == 0 or ranks <= MOST_USERS or n > 216 * ranks:
        return np.empty(0, np.int64)
    found = []
    for begin in range(0, n, 1 << 14):
        keys = np.arange(begin, min(n, begin + (1 << 14)))
        first, last = _owners(grid, bounds, keys, level)
        keys, owner = keys[first == last], first[first == last]
        above = (_anchors(grid, keys, level) >> 1)[:, None] + _AROUND
        inside = _inside(grid, above, level - 1)
        ends = _owners(grid, bounds, _keys(grid, above * inside[..., None], level - 1), level - 1)
        marks = np.zeros((len(keys), ranks + 1), np.int16)
        row, which = np.nonzero(inside)
        np.add.at(marks, (row, ends[0][row, which]), 1)
        np.add.at(marks, (row, ends[1][row, which] + 1), -1)
        users = np.cumsum(marks[:, :-1], axis=1) > 0
        users[np.arange(len(keys)), owner] = False
        found.append(keys[users.sum(axis=1) > MOST_USERS])
    return np.concatenate(found)


def _of_rank(
    grid: Grid, bounds: np.ndarray, rank: int, wide: list[np.ndarray]
) -> tuple[int, list[int], tuple[int, int]]:
    """Return leaves beside a stretch, boxes of each level that come, and ranks they come from."""
    sources, boxes, far = 0, [0], np.empty(0, np.int64)
    near = far
    if bounds[rank] == bounds[rank + 1]:
        return 0, [0] * (grid.depth + 1), (0, 0)
    for level in range(1, grid.depth + 1):
        shift = 3 * (grid.depth - level)
        own = np.arange(bounds[rank] >> shift, ((bounds[rank + 1] - 1) >> shift) + 1)
        places = _anchors(grid, own, level)
        others = 2 * ((places >> 1)[:, None] + _AROUND)[:, :, None] + _OCTANTS
        others = others.reshape(len(own), -1, 3)
        adjacent = np.abs(others - places[:, None]).max(axis=-1) <= 1
        inside = _inside(grid, others, level)
        keys = _keys(grid, np.where(inside[..., None], others, 0), level)
        outside = inside & ((keys < own[0]) | (keys > own[-1]))
        come = np.unique(keys[outside & ~adjacent])
        first, last = _owners(grid, bounds, come, level)
        asked = (first == last) & ~np.isin(come, wide[level])
        boxes.append(int(asked.sum()))
        far = np.union1d(far, first[asked])
        if level == grid.depth:
            beside = np.unique(keys[outside & adjacent])
            sources = len(beside)
            near = np.unique(_owners(grid, bounds, beside, level)[0])
    return sources, boxes, (len(near), len(far))


# --- what is printed ------------------------------------------------------------------------------


def details(found: Prediction, network: Network, per_point: float | None = None) -> str:
    """Return a prediction in words."""
    grid, waiting = found.grid, found.waiting(network, per_point)
    busy, total = found.busy(per_point), found.seconds(network, per_point)
    levels = "  ".join(f"{level}: {m:.0f}" for level, m in enumerate(found.boxes.mean(axis=0)))
    return "\n".join((
        f"{found.n:.4g} points on {found.ranks} ranks, degree {found.work.degree}: "
        f"{grid.root << grid.depth} leaves along an axis, {grid.occupancy:.0f} points in each, "
        f"{grid.depth + 1} levels",
        f"a rank owns {found.owned.mean():.4g} points (at most {found.owned.max():.4g}), sums "
        f"{found.ghosts.mean():.4g} of others beside them (at most {found.ghosts.max():.4g}; "
        f"beside a cube {found.cube:.4g})",
        f"expansions of others on each level  {levels}; at the top {found.top}",
        f"MB of a field: moments {_most(found.moments)}, expansions {_most(found.expansions)}, "
        f"callers {_most(found.dealt)}, summed over ranks {found.summed / 1e6:.3g}",
        f"messages {found.messages.mean():.0f} (at most {found.messages.max():.0f}), of which "
        f"{found.neighbours.sum(axis=1).max()} to neighbours",
        f"seconds: {total:.4g}, of which arithmetic {busy.max():.4g}; "
        + ", ".join(f"{name} {seconds:.2g}" for name, seconds in waiting.items()),
        f"efficiency {busy.mean() / total:.3f} with messages of {1e6 * network.latency:g} us and "
        f"{network.bandwidth / 1e9:g} GB/s",
    ))  # fmt: skip


def _most(values: np.ndarray) -> str:
    return f"{values.mean() / 1e6:.3g} (at most {values.max() / 1e6:.3g})"
