"""What ranks send each other in every evaluation: moments of near sources, expansions of boxes."""

from dataclasses import dataclass

import numpy as np

from fmm.distributed.boxes import Merged
from fmm.distributed.partition import Domain
from fmm.distributed.ranks import Pending, Ranks


@dataclass(frozen=True, eq=False)
class Link:
    """Rows that other ranks have asked for, and that this rank has asked them for.

    Attributes
    ----------
    rows : ndarray of int64
        Numbers of this rank's rows, one asking rank after the other.
    sent, received : ndarray of int64, shape (n_ranks,)
        How many rows go to, and come from, each.
    """

    ranks: Ranks
    rows: np.ndarray
    sent: np.ndarray
    received: np.ndarray

    def post(self, values: np.ndarray) -> Pending:
        """Begin to send values of the rows; what comes is in the order in which it was asked."""
        return self.ranks.post(values[self.rows], self.sent, self.received)


def boxes_link(domain: Domain, merged: Merged, needed: np.ndarray) -> tuple[Link, np.ndarray]:
    """Return what exchanges values of whole boxes, and the boxes for which they come.

    Parameters
    ----------
    merged : Merged
        Boxes of this rank and of others.
    needed : ndarray
        Numbers of boxes of others.
    """
    needed = needed[np.argsort(merged.owner[needed], kind="stable")]
    counts = np.bincount(merged.owner[needed], minlength=domain.ranks.size)
    asked, sent = domain.ranks.deal(merged.index[needed].astype(np.int64), counts)
    here = np.full(int(merged.own.max(initial=-1)) + 1, -1, np.int64)
    own = np.flatnonzero(merged.own >= 0)
    here[merged.own[own]] = own
    return Link(domain.ranks, here[asked], sent, counts), needed


def sources_link(
    domain: Domain, merged: Merged, needed: np.ndarray, source_range: np.ndarray
) -> tuple[Link, np.ndarray, np.ndarray]:
    """Return what exchanges values of the sources of boxes, the boxes, and how many each has.

    Parameters
    ----------
    merged, needed
        See `boxes_link`.
    source_range : ndarray, shape (n_own, 2)
        Sources of this rank's own boxes.
    """
    needed = needed[np.argsort(merged.owner[needed], kind="stable")]
    asking = np.bincount(merged.owner[needed], minlength=domain.ranks.size)
    asked, answered = domain.ranks.deal(merged.index[needed].astype(np.int64), asking)
    ranges = source_range[asked]
    lengths = ranges[:, 1] - ranges[:, 0]
    rows = np.arange(lengths.sum()) + np.repeat(
        ranges[:, 0] - (np.cumsum(lengths) - lengths), lengths
    )
    counts, _ = domain.ranks.deal(lengths, answered)
    sent = _by_rank(lengths, answered)
    received = _by_rank(counts, asking)
    return Link(domain.ranks, rows, sent, received), needed, counts


def _by_rank(lengths: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the sums over the boxes of each rank."""
    rank = np.repeat(np.arange(len(boxes)), boxes)
    return np.bincount(rank, lengths, minlength=len(boxes)).astype(np.int64)
