"""Pairs whose interaction counts by a factor: exclusions and covalent scaling in linear time.

A fast sum knows all pairs. What a listed pair contributes too much, its own field times its factor
less one, is added afterwards, summed in float64. The list is short, so this costs little time; it
costs digits where such pairs are far closer than others; what is lost counts in a plan's error.
"""

from functools import cached_property
from typing import Any

import numpy as np

from fmm.tree.geometry import Batches
from multipoles import checks
from multipoles.lattice.cell import Cell
from multipoles.neighbours import PairList
from multipoles.radial import Kernel
from multipoles.sums import field_arrays


class Exclusions:
    """Scaled pairs, and the field by which they change a sum over all pairs.

    It holds the pairs, not the positions: points may move, and moments, orders and kernel may be
    others at every call.

    Parameters
    ----------
    listed : PairList
        (target, source) of the pairs, in both directions if the targets are the sources; weights
        are the factors less one.
    """

    def __init__(self, listed: PairList) -> None:
        self.listed = listed

    @classmethod
    def made(
        cls,
        pair_scale: Any,
        targets: np.ndarray,
        sources: np.ndarray,
        batches: Batches = (None, None),
    ) -> "Exclusions | None":
        """Return what a caller's list means for points, or None if it changes nothing.

        Parameters
        ----------
        pair_scale : tuple (pairs, factors) or None
            Pairs (P, 2), each once, and what multiplies their interaction (P,): unordered pairs
            of sites if the targets are the sources, else (target, source).
        targets, sources : ndarray, shape (n, 3)
            Checked points; one object if the targets are the sources.
        batches : tuple
            Checked system index of targets and of sources. Pairs across systems, which do not
            interact, are left out.

        Raises
        ------
        TypeError, ValueError
            See `multipoles.checks.pair_scale`; ValueError also if targets are a copy of the
            sources, which leaves open what a pair is.
        """
        if pair_scale is None:
            return None
        n_targets, n_sources = len(targets), len(sources)
        if targets is sources:
            pairs, factors = checks.pair_scale(pair_scale, n_sources)  # type: ignore[misc]
            pairs, factors = np.concatenate([pairs, pairs[:, ::-1]]), np.tile(factors, 2)
        else:
            pairs, factors = _between(pair_scale, n_targets, n_sources)
            if len(pairs) and np.array_equal(targets, sources):
                raise ValueError(
                    "pair_scale: expected targets that are the sources (one array for both, pairs "
                    "unordered) or other points (pairs of target and source), got a copy of the "
                    "sources"
                )
        kept = factors != 1
        x_batch, s_batch = batches
        if x_batch is not None and s_batch is not None:
            kept &= x_batch[pairs[:, 0]] == s_batch[pairs[:, 1]]
        if not kept.any():
            return None
        pairs = np.ascontiguousarray(pairs[kept])
        return cls(PairList(pairs, n_targets, n_sources, factors[kept] - 1))

    def field(
        self,
        targets: np.ndarray,
        sources: np.ndarray,
        moments: np.ndarray,
        order: int,
        kernel: Kernel,
        cell: Cell | None = None,
    ) -> np.ndarray:
        """Return what has to be added to a sum over all pairs.

        Parameters
        ----------
        targets, sources : ndarray, shape (n, 3)
            Where the points are now: the caller's coordinates, without loss.
        moments : ndarray, shape (n_sources, channels, n_components(K))
            Packed moments.
        order : int
            Highest derivative.
        kernel : Kernel
            That of the sum.
        cell : Cell, optional
            What repeats: a pair means the nearest image.

        Returns
        -------
        ndarray, float64, shape (n_targets, channels, n_components(order))
        """
        x, s, wide = (
            np.ascontiguousarray(array, dtype=np.float64) for array in (targets, sources, moments)
        )
        if cell is None:
            return field_arrays(x, s, wide, order, kernel, self.listed)
        receivers, senders = self.listed.pairs.T
        images = s[senders] + cell.nearest(x[receivers] - s[senders]) @ cell.vectors
        pairs = np.stack([receivers, np.arange(len(senders))], axis=1)
        listed = PairList(pairs, len(x), len(senders), self.listed.weights)
        moved = np.ascontiguousarray(wide[senders])
        return field_arrays(x, images, moved, order, kernel, listed)

    @cached_property
    def transposed(self) -> "Exclusions":
        """The same pairs with targets and sources exchanged, for the adjoint map."""
        other = Exclusions(self.listed.transposed)
        other.__dict__["transposed"] = self
        return other


def _between(pair_scale: Any, n_targets: int, n_sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Return checked (target, source) pairs, each once, and their factors."""
    if not isinstance(pair_scale, tuple | list) or len(pair_scale) != 2:
        raise TypeError(
            "pair_scale: expected a tuple (pairs of shape (P, 2), factors of shape (P,)), got "
            f"{type(pair_scale).__name__}"
        )
    pairs = checks.pair_list(pair_scale[0], n_targets, n_sources)
    if pairs is None:
        raise TypeError("pair_scale pairs: expected shape (P, 2), (target, source), got None")
    factors = checks.real(pair_scale[1], "pair_scale factors").astype(np.float64, copy=False)
    if factors.shape != (len(pairs),):
        raise ValueError(
            f"pair_scale: expected one factor per pair, shape ({len(pairs)},), got {factors.shape}"
        )
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    if len(unique) < len(pairs):
        target, source = unique[np.argmax(counts > 1)]
        raise ValueError(
            f"pair_scale: the pair of target {target} and source {source} comes more than once; "
            "give each pair once"
        )
    return pairs, factors
