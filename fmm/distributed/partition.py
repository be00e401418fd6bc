"""Who owns which points: every rank a stretch of the Morton curve that costs as much as others'.

Stretches end at faces of boxes as coarse as balance allows: no leaf is cut, and few boxes are
shared. All ranks know where all stretches begin, and so whose any box is.
"""

from dataclasses import dataclass, replace

import numpy as np

from fmm.distributed.ranks import Ranks
from fmm.tree.curve import SortedPoints, last_digit

# of a rank's share, by which a stretch may be longer or shorter
_UNEVEN = 0.03
_END = 1 << 62


@dataclass(frozen=True, eq=False)
class Exchange:
    """How points come to their owners, and fields back.

    Attributes
    ----------
    order : ndarray of int64
        Points that were given here, owner by owner.
    sent, received : ndarray of int64, shape (n_ranks,)
        How many go to, and come from, each rank.
    """

    ranks: Ranks
    order: np.ndarray
    sent: np.ndarray
    received: np.ndarray

    @classmethod
    def of(cls, ranks: Ranks, owners: np.ndarray) -> "Exchange":
        """Return what brings points to owners."""
        order = np.argsort(owners, kind="stable")
        sent = np.bincount(owners, minlength=ranks.size)
        _, received = ranks.deal(np.zeros((len(owners), 0), np.int8), sent)
        return cls(ranks, order, sent, received)

    def forth(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of the points that are owned here, in the order in which they come."""
        return self.ranks.deal(rows[self.order], self.sent)[0]

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of owned points on the ranks, and in the order, in which they were given."""
        out = np.empty((len(self.order), *rows.shape[1:]), rows.dtype)
        out[self.order] = self.ranks.deal(rows, self.received)[0]
        return out


@dataclass(frozen=True, eq=False)
class Domain:
    """What belongs to whom.

    Attributes
    ----------
    bounds : ndarray of int64, shape (n_ranks + 1,)
        First words of keys at which the ranks' stretches begin, and the end.
    counts, periods : ndarray of int64, shape (3,)
        Root boxes along each axis, and after how many they repeat; 0: never.
    bits, root_grid : int
        See `SortedPoints`.
    targets, sources : Exchange
        How they come to their owners.
    given : pair of ndarray
        Targets and sources as this rank's caller gave them.
    has_targets : ndarray of bool, shape (n_ranks,)
        Whether ranks own any.
    first_copy : ndarray of bool, shape (n_owned_sources,)
        Of sources in the order in which they came: whether they were given, or are copies.
    """

    ranks: Ranks
    bounds: np.ndarray
    counts: np.ndarray
    periods: np.ndarray
    bits: int
    root_grid: int
    targets: Exchange
    sources: Exchange
    given: tuple[np.ndarray, np.ndarray]
    has_targets: np.ndarray
    first_copy: np.ndarray

    @property
    def stretch(self) -> tuple[int, int]:
        """The keys of this rank."""
        return int(self.bounds[self.ranks.rank]), int(self.bounds[self.ranks.rank + 1])

    def transposed(self) -> "Domain":
        """Return the same with targets and sources exchanged, where there are no copies."""
        n = int(self.targets.received.sum())
        has = np.concatenate(self.ranks.gather(np.array([self.sources.received.sum() > 0])))
        return replace(
            self, targets=self.sources, sources=self.targets, given=self.given[::-1],
            has_targets=has, first_copy=np.ones(n, bool),
        )  # fmt: skip

    # --- boxes ------------------------------------------------------------------------------------

    def keys(self, anchor: np.ndarray, level: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first key of boxes of a level, and how many keys they have."""
        levels = np.broadcast_to(np.asarray(level, np.int64), anchor.shape[:-1])
        deep = np.maximum(levels - self.bits, 0)
        anchor, levels = anchor >> deep[..., None], levels - deep
        root = anchor >> levels[..., None]
        inside = anchor - (root << levels[..., None])
        cell = (root[..., 0] * self.root_grid + root[..., 1]) * self.root_grid + root[..., 2]
        spread = _spread(inside)
        key = spread[..., 0] << 2 | spread[..., 1] << 1 | spread[..., 2]
        shift = 3 * (self.bits - levels)
        return (cell << 3 * self.bits) + (key << shift), np.left_shift(np.int64(1), shift)

    def owners(self, keys: np.ndarray) -> np.ndarray:
        """Return the ranks in whose stretches keys lie."""
        return owners_of(self.bounds, keys)

    def is_shared(self, anchor: np.ndarray, level: int | np.ndarray) -> np.ndarray:
        """Tell which boxes reach beyond the stretch of this rank."""
        first, number = self.keys(anchor, level)
        low, high = self.stretch
        shared: np.ndarray = (first < low) | (first + number > high)
        return shared

    def users(self, anchor: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which boxes of a level below the roots others may ask for, and who (n, n_ranks).

        Those of ranks whose stretches meet the parent of the box, or a box next to it, or an image
        of one.
        """
        size, own = self.ranks.size, self.ranks.rank
        around = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        places = (anchor >> 1)[:, None] + around
        most, periods = (np.left_shift(n, level - 1) for n in (self.counts, self.periods))
        places = np.where(periods > 0, places % np.maximum(periods, 1), places)
        inside = ((places >= 0) & (places < most)).all(axis=2)
        keys, number = self.keys(np.where(inside[..., None], places, 0), level - 1)
        first, last = self.owners(keys), self.owners(keys + number - 1)
        foreign = inside & ((first != own) | (last != own))
        boxes = np.flatnonzero(foreign.any(axis=1))
        ranks = np.zeros((len(boxes), size + 1), np.int32)
        row, which = np.nonzero(foreign[boxes])
        np.add.at(ranks, (row, first[boxes[row], which]), 1)
        np.add.at(ranks, (row, last[boxes[row], which] + 1), -1)
        users = (np.cumsum(ranks[:, :-1], axis=1) > 0) & self.has_targets
        users[:, own] = False
        kept = users.any(axis=1)
        return boxes[kept], users[kept]


def _spread(i: np.ndarray) -> np.ndarray:
    """Put two zero bits behind each of 20 bits."""
    for shift, mask in (
        (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249),
    ):  # fmt: skip
        i = (i | i << shift) & mask
    return i


def owners_of(bounds: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the ranks in whose stretches, which begin at `bounds`, keys lie."""
    return np.searchsorted(bounds[1:-1], keys, side="right")


# --- where stretches begin ------------------------------------------------------------------------


def bounds_of(
    ranks: Ranks,
    keys: np.ndarray,
    weights: np.ndarray,
    bits: int,
    n_cells: int,
    deepest: int,
) -> np.ndarray:
    """Return the keys at which the stretches of ranks begin, and the end.

    Level by level, every bound goes to the face of boxes nearest to where it should be, until it is
    near enough.

    Parameters
    ----------
    keys : ndarray of int64
        First words of this rank's points, ascending.
    weights : ndarray
        What each costs, in any unit.
    bits, n_cells : int
        Levels of keys below the root cells, and the number of these.
    deepest : int
        Level whose boxes may be parted.
    """
    ends = np.append(0.0, np.cumsum(weights))
    total = float(ranks.sum(ends[-1:])[0])
    aims = total / ranks.size * np.arange(1, ranks.size)
    close = _UNEVEN * total / ranks.size
    best = np.zeros(len(aims), np.int64)
    missed = aims.copy()
    # of many root cells first the faces of eights of eights of them
    above, start, end = 0, np.zeros(len(aims), np.int64), n_cells << 3 * bits
    while 8 ** (above + 1) < n_cells:
        above += 1
    width = -(-n_cells // 8**above)
    for level in range(-above, deepest + 1):
        shift = 3 * (bits - level)
        steps = np.arange(1, width)
        candidates = np.minimum(start[:, None] + (steps << shift), end)
        before = ranks.sum(ends[np.searchsorted(keys, candidates.ravel())])
        before = before.reshape(candidates.shape)
        away = np.abs(before - aims[:, None])
        nearest = np.argmin(away, axis=1) if len(steps) else np.zeros(len(aims), int)
        if len(steps):
            rows = np.arange(len(aims))
            open_ = missed > close
            better = open_ & (away[rows, nearest] < missed)
            best[better] = candidates[rows, nearest][better]
            missed[better] = away[rows, nearest][better]
        start = start + ((before < aims[:, None]).sum(axis=1) << shift)
        width = 8
        if np.all(missed <= close):
            break
    return np.concatenate([[0], np.maximum.accumulate(best), [_END]])


def deepest_level(points: SortedPoints, halvings: np.ndarray, far: float) -> int:
    """Return the finest level whose boxes can be parted wherever they lie.

    Parameters
    ----------
    points : SortedPoints
        What is known of the keys.
    halvings : ndarray
        See `fmm.tree.build.most_halvings`.
    far : float
        Largest coordinate of all points.
    """
    digit = float(last_digit(points.edge)[0])
    # centres of children are multiples of their last digit (`fmm.tree.build.are_numbers`)
    room = 0.25 * digit / ((far + 2 * points.root_grid * float(points.edge[0])) * 2.0**-53)
    possible = int(np.floor(np.log2(room))) - 1 if np.isfinite(room) and room > 0 else points.bits
    return max(0, min(points.bits, int(halvings[0]), possible))
