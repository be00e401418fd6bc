"""The tree of one rank: its own boxes, those shared with other ranks, and those of others it meets.

A box that reaches beyond a rank's stretch of the curve is shared: every rank with points inside has
it, with a part of its sources. Shared boxes, and boxes that many ranks ask for, make the top of the
tree, which all ranks know and whose expansions are summed over ranks. Of other boxes a rank gets
those next to its own points, on every level (the local essential tree; Warren & Salmon, 1993;
Lashuk et al., Commun. ACM 55, 101 (2012)). To the lists of the tree they are boxes like others,
that send but never receive.
"""

from dataclasses import dataclass

import numpy as np

from fmm.distributed.partition import Domain
from fmm.tree.build import Tree

#: Ranks that may ask for a box before it counts to the top.
MOST_USERS = 32
#: Sources that a shared box is said to have: never so few that they are summed directly.
MANY = 1 << 40
# a box as ranks tell it: columns of whole numbers, and then the bits of its centre
_LEVEL, _PARENT, _ANCHOR, _SOURCES, _INDEX, _CENTRE, _WIDTH = 0, 1, 2, 5, 6, 7, 10


@dataclass(frozen=True, eq=False)
class Merged:
    """The tree of one rank.

    Attributes
    ----------
    tree : Tree
        Boxes of each level by parent and octant. Shared boxes are said to have `MANY` sources, and
        others of other ranks as many as there are, all from 0 on.
    own : ndarray of int32, shape (n_boxes,)
        Number among the rank's own boxes; -1: none.
    owner, index : ndarray of int32, shape (n_boxes,)
        The rank that owns a box as a whole, and its number there; -1: shared.
    top : ndarray of int64, shape (n_top,)
        Where the boxes of the top are, in the order that all ranks agree on.
    """

    tree: Tree
    own: np.ndarray
    owner: np.ndarray
    index: np.ndarray
    top: np.ndarray


@dataclass(frozen=True, eq=False)
class _Rows:
    """Boxes that are to be merged, of one kind, level by level."""

    level: np.ndarray
    parent: np.ndarray
    """Number in `parents`, the kind whose rows they are counted in."""
    in_top: np.ndarray
    """Whether the parent is counted in the top."""
    anchor: np.ndarray
    n_sources: np.ndarray
    centre: np.ndarray
    owner: np.ndarray
    index: np.ndarray


def merged(home: Tree, domain: Domain, edge: float) -> Merged:
    """Return the tree of this rank, from its own boxes; all ranks do so together.

    `edge` is that of root boxes.
    """
    n_levels = len(home.level_starts) - 1
    levels = np.repeat(np.arange(n_levels), np.diff(home.level_starts))
    shared = domain.is_shared(home.anchor, levels)
    _check_divided(home, shared, domain)
    users = [_users(home, domain, level, shared) for level in range(1, n_levels)]
    wide, asked = _sorted_out(users, domain)
    in_top = shared | (levels == 0)
    in_top[wide] = True
    top, own_of_top = _top(home, domain, levels, in_top, shared)
    top_of_own = np.full(len(levels), -1, np.int64)
    top_of_own[own_of_top[own_of_top >= 0]] = np.flatnonzero(own_of_top >= 0)
    ghosts = _told(home, domain, levels, asked, top_of_own)
    n_levels = int(domain.ranks.largest(np.array([n_levels]))[0])
    return _joined(home, levels, top, own_of_top, ghosts, n_levels, shared, domain, edge)


def _check_divided(home: Tree, shared: np.ndarray, domain: Domain) -> None:
    """Raise if a shared box is a leaf: its points would not all meet."""
    if np.any(shared & (home.n_children == 0)):
        raise RuntimeError(
            "fmm.distributed: boxes between ranks cannot be divided; this is a fault of the "
            f"library (bounds {domain.bounds.tolist()}), please report it"
        )


def _users(
    home: Tree, domain: Domain, level: int, shared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return whole boxes of a level with sources that others may ask for, and who."""
    first, last = home.level_starts[level : level + 2]
    boxes = np.arange(first, last)
    holds = home.source_range[first:last, 1] > home.source_range[first:last, 0]
    boxes = boxes[holds & ~shared[first:last]]
    chosen, users = domain.users(home.anchor[boxes], level)
    return boxes[chosen], users


def _sorted_out(
    users: list[tuple[np.ndarray, np.ndarray]], domain: Domain
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return boxes that many ask for, and those that each rank is told of."""
    none = np.empty(0, np.int64), np.zeros((0, domain.ranks.size), bool)
    boxes = np.concatenate([boxes for boxes, _ in (none, *users)])
    ranks = np.concatenate([ranks for _, ranks in (none, *users)])
    is_wide = ranks.sum(axis=1) > MOST_USERS
    asked = [boxes[ranks[:, rank] & ~is_wide] for rank in range(domain.ranks.size)]
    return boxes[is_wide], asked


# --- what ranks tell each other -------------------------------------------------------------------


def _described(
    home: Tree, boxes: np.ndarray, levels: np.ndarray, parent: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Return boxes as ranks tell them."""
    rows = np.empty((len(boxes), _WIDTH), np.int64)
    rows[:, _LEVEL], rows[:, _PARENT], rows[:, _INDEX] = levels[boxes], parent, index
    rows[:, _ANCHOR : _ANCHOR + 3] = home.anchor[boxes]
    rows[:, _SOURCES] = home.source_range[boxes, 1] - home.source_range[boxes, 0]
    rows[:, _CENTRE:] = np.ascontiguousarray(home.centre[boxes]).view(np.int64)
    return rows


def _rows_of(told: np.ndarray, in_top: np.ndarray, owner: np.ndarray) -> _Rows:
    return _Rows(
        told[:, _LEVEL], told[:, _PARENT], in_top, told[:, _ANCHOR : _ANCHOR + 3],
        told[:, _SOURCES], np.ascontiguousarray(told[:, _CENTRE:]).view(np.float64), owner,
        told[:, _INDEX],
    )  # fmt: skip


def _top(
    home: Tree, domain: Domain, levels: np.ndarray, in_top: np.ndarray, shared: np.ndarray
) -> tuple[_Rows, np.ndarray]:
    """Return the top, which all ranks make alike, and which own box each of its boxes is (or -1).

    Parents are counted within the top.
    """
    boxes = np.flatnonzero(in_top)
    index = np.where(shared[boxes], -1, boxes)
    told = domain.ranks.gather(_described(home, boxes, levels, np.zeros_like(boxes), index))
    rank = np.repeat(np.arange(len(told)), [len(rows) for rows in told])
    mine = np.concatenate([np.full(len(rows), -1) for rows in told])
    mine[rank == domain.ranks.rank] = boxes
    rows = np.concatenate(told)
    # by anchors: first words of keys do not tell boxes apart that are deeper
    names = np.concatenate([rows[:, [_LEVEL]], rows[:, _ANCHOR : _ANCHOR + 3]], axis=1)
    order = np.lexsort((mine < 0, *names.T))
    rows, names, rank, mine = rows[order], names[order], rank[order], mine[order]
    new = np.append(True, np.diff(names, axis=0).any(axis=1))[: len(rows)]
    first = np.flatnonzero(new)
    sources = np.add.reduceat(rows[:, _SOURCES], first) if len(first) else rows[:, _SOURCES]
    rows, names, mine, rank = rows[first], names[first], mine[first], rank[first]
    rows[:, _SOURCES] = np.where(rows[:, _INDEX] < 0, MANY * (sources > 0), sources)
    number = {tuple(name): i for i, name in enumerate(names.tolist())}
    above = np.concatenate([names[:, :1] - 1, names[:, 1:] >> 1], axis=1)
    rows[:, _PARENT] = [number.get(tuple(name), -1) for name in above.tolist()]
    owner = np.where(rows[:, _INDEX] < 0, -1, rank)
    return _rows_of(rows, np.ones(len(rows), bool), owner), mine


def _told(
    home: Tree,
    domain: Domain,
    levels: np.ndarray,
    asked: list[np.ndarray],
    top_of_own: np.ndarray,
) -> _Rows:
    """Return the boxes that other ranks tell of; parents are numbers in these, or in the top."""
    parts = []
    for boxes in asked:
        # parents of boxes that a rank is told of are told, too, or at the top
        place = np.full(len(levels), -1, np.int64)
        place[boxes] = np.arange(len(boxes))
        above = home.parent[boxes]
        parent = np.where(top_of_own[above] >= 0, -1 - top_of_own[above], place[above])
        parts.append(_described(home, boxes, levels, parent, boxes))
    rows, counts = domain.ranks.deal(np.concatenate(parts), np.array([len(part) for part in parts]))
    begin = np.repeat(np.cumsum(counts) - counts, counts)
    in_top = rows[:, _PARENT] < 0
    rows[:, _PARENT] = np.where(in_top, -1 - rows[:, _PARENT], rows[:, _PARENT] + begin)
    return _rows_of(rows, in_top, np.repeat(np.arange(len(counts)), counts))


# --- one tree -------------------------------------------------------------------------------------


def _joined(
    home: Tree,
    levels: np.ndarray,
    top: _Rows,
    own_of_top: np.ndarray,
    ghosts: _Rows,
    n_levels: int,
    shared: np.ndarray,
    domain: Domain,
    edge: float,
) -> Merged:
    """Return own boxes, the rest of the top and those of others in one tree."""
    n_own, n_top = len(levels), len(own_of_top)
    foreign = own_of_top < 0
    # all boxes, one kind after the other: own, top, of others
    where_top = np.where(foreign, n_own + np.arange(n_top), own_of_top)
    where_ghost = n_own + n_top + np.arange(len(ghosts.level))
    rank = domain.ranks.rank
    level = np.concatenate([levels, np.where(foreign, top.level, -1), ghosts.level])
    of_top = np.where(top.parent < 0, -1, where_top[np.maximum(top.parent, 0)])
    of_ghost = ghosts.parent.copy()
    of_ghost[ghosts.in_top] = where_top[ghosts.parent[ghosts.in_top]]
    of_ghost[~ghosts.in_top] = where_ghost[ghosts.parent[~ghosts.in_top]]
    parent = np.concatenate([home.parent.astype(np.int64), of_top, of_ghost])
    anchor = np.concatenate([home.anchor, top.anchor, ghosts.anchor])
    centre = np.concatenate([home.centre, top.centre, ghosts.centre])
    owner = np.concatenate([np.where(shared, -1, rank), top.owner, ghosts.owner])
    index = np.concatenate([np.where(shared, -1, np.arange(n_own)), top.index, ghosts.index])
    nothing = np.zeros((n_top + len(ghosts.level), 2), np.int64)
    targets = np.concatenate([home.target_range, nothing])
    sources = np.concatenate([home.source_range, nothing])
    sources[n_own : n_own + n_top, 1] = top.n_sources
    sources[n_own + n_top :, 1] = ghosts.n_sources
    # of shared boxes, the sources of all ranks
    mine = own_of_top[~foreign]
    is_shared = shared[mine]
    sources[mine[is_shared]] = np.stack(
        [np.zeros(is_shared.sum(), np.int64), top.n_sources[~foreign][is_shared]], axis=1
    )
    order, starts = _by_parents(level, parent, anchor, domain, n_levels)
    number = np.full(len(level), -1, np.int64)
    number[order] = np.arange(len(order))
    parent = np.where(parent[order] < 0, -1, number[parent[order]])
    n_children = np.bincount(parent[parent >= 0], minlength=len(order))
    first_child = np.zeros(len(order), np.int64)
    children = np.flatnonzero(parent >= 0)
    having, begin = np.unique(parent[children], return_index=True)
    first_child[having] = children[begin]
    by_level = np.repeat(np.arange(n_levels), np.diff(starts))
    edges = np.ldexp(edge, -by_level)
    tree = Tree(
        home.target_permutation, home.source_permutation, starts, anchor[order],
        parent.astype(np.int32), first_child.astype(np.int32), n_children.astype(np.int32),
        np.zeros(len(order), np.int32), targets[order], sources[order], centre[order], edges,
    )  # fmt: skip
    own = np.where(order < n_own, order, -1)
    return Merged(tree, own, owner[order], index[order], number[where_top])


def _by_parents(
    level: np.ndarray, parent: np.ndarray, anchor: np.ndarray, domain: Domain, n_levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes level by level, each level by parent and octant, and where levels start."""
    orders, starts = [], [0]
    place = np.full(len(level), -1, np.int64)
    for now in range(n_levels):
        boxes = np.flatnonzero(level == now)
        if now:
            odd = anchor[boxes] & 1
            by = place[parent[boxes]] * 8 + 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
        else:
            by, _ = domain.keys(anchor[boxes], 0)
        boxes = boxes[np.argsort(by, kind="stable")]
        place[boxes] = starts[-1] + np.arange(len(boxes))
        orders.append(boxes)
        starts.append(starts[-1] + len(boxes))
    return np.concatenate(orders), np.array(starts)
