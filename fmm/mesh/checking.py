"""The error of a mesh as measured: at a few targets, against sums without grid and windows.

What a grid loses is lost near strong moments: half of the targets are drawn where these are, half
evenly (`fmm.error.sampling`, `fmm.error.in_cell`).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fmm.error.evidence import Evidence
from fmm.error.indicators import Where
from fmm.error.sampling import Probe
from fmm.error.verdict import Verdict
from fmm.mesh.plan import MeshSum
from fmm.setting import alike, signs_of
from multipoles import indexing
from multipoles.neighbours import PairList

# targets that are drawn at first, and where earlier evaluations tell of the error; so many are all
_FIRST, _LATER, _ALL = 32, 8, 100
_TINY = np.finfo(np.float64).tiny


class Known(NamedTuple):
    """What an evaluation showed, for moments like its own."""

    signs: np.ndarray
    """By what moments are told apart, see `fmm.setting.signs_of`."""
    lost: np.ndarray
    """Terms of the sum over the field."""
    evidence: Evidence | None
    """What was seen of the error; None if the tolerance was missed."""
    in_vain: bool
    """Whether no mesh keeps the tolerance."""
    share: float
    """Of the tolerance: what the error may be at most."""


class _Boxes(NamedTuple):
    """Ranges of sorted targets that count as alike within."""

    target_range: np.ndarray
    centre: np.ndarray
    edge: np.ndarray


class Placed:
    """What a `Probe` asks of points: those of a mesh, each tile of near pairs being a leaf."""

    def __init__(self, total: MeshSum) -> None:
        self.order, self.coincidence = total.near.targets.order, total.coincidence
        self.targets, self.sources = total.near.targets.points, total.sources
        pairs = total.near.pairs
        every = np.arange(len(self.targets))
        each = np.stack([every, every + 1], axis=1)
        spans = each if isinstance(pairs, PairList) else pairs[0]
        n = len(spans)
        # errors do not rise towards corners
        self.tree = _Boxes(spans, np.zeros((n, 3)), np.ones(n))
        self.target_leaves = np.arange(n)
        ends = (np.array([[0, len(points)]]) for points in (self.targets, self.sources))
        self.roots = (np.zeros(1, np.int64), *ends)

    def points(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return sorted targets, and sources."""
        return self.targets.astype(dtype, copy=False), self.sources.astype(dtype, copy=False)


class Strengths:
    """How strong moments are; a derivative counts as the shortest waves have it.

    Parameters
    ----------
    total : MeshSum
        What they are moments of.
    moments : ndarray, shape (n_sources, channels, n_components(K))
    """

    def __init__(self, total: MeshSum, moments: np.ndarray) -> None:
        self._total = total
        order = indexing.order_of(moments.shape[2])
        starts = [indexing.order_slice(k).start for k in range(order + 1)]
        squares = np.add.reduceat(np.einsum("nck,nck->nk", moments, moments), starts, axis=1)
        squares *= total.setting.longest ** (2.0 * np.arange(order + 1))
        self.mean = squares.mean(axis=0)
        self._sizes = squares.sum(axis=1)
        mean = float(self._sizes.mean())
        self.spread = mean**2 / max(float((self._sizes**2).mean()), _TINY)

    @cached_property
    def where(self) -> Where:
        """Where errors are expected: near strong moments."""
        near = self._total.near
        sizes = _sums(self._sizes[near.origin])
        if isinstance(near.pairs, PairList):
            starts, sources, _ = near.pairs.rows
            of_runs = np.diff(sizes)[sources]
        else:
            _, starts, runs = near.pairs
            of_runs = sizes[runs[:, 1]] - sizes[runs[:, 0]]
        errors = np.maximum(np.diff(_sums(of_runs)[starts]), 0.0)
        return Where(np.arange(len(errors)), errors, 0)


def _sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1), np.cumsum(values)])


class MeshProbe(Probe):
    """Targets at which the whole field of a mesh is known.

    Parameters
    ----------
    placed : Placed
        Points.
    moments : ndarray
        Of the sources.
    field : ndarray, shape (n_targets, channels, n_components(order))
        As the mesh found it, in the caller's order.
    order : int
        Highest derivative.
    exact : callable
        Takes indices of targets to their exact field.
    where : Where
        Where errors are expected.
    kernel, reach, past
        See `Probe`.
    """

    def __init__(
        self, placed: Placed, moments: np.ndarray, field: np.ndarray, order: int,
        exact: Callable[[np.ndarray], np.ndarray], where: Where, kernel: Any, reach: float,
        past: Evidence | None,
    ) -> None:  # fmt: skip
        self._exact_at, self._placed = exact, placed
        # errors of a mesh are much the same everywhere; few targets are looked at all
        n = len(placed.targets)
        self.first, self.later = (n, n) if n <= _ALL else (_FIRST, _LATER)
        points: Any = placed
        super().__init__(
            points, moments, field, order, kernel, reach, lambda _: where, past=past
        )  # fmt: skip

    def _at(self, field: np.ndarray, samples: np.ndarray | None = None) -> np.ndarray:
        some = self.samples if samples is None else samples
        values: np.ndarray = field[self._placed.order[some]]
        return values

    def _some(self, samples: np.ndarray, senders: np.ndarray) -> tuple[np.ndarray, ...]:
        targets, sources, moments = super()._some(samples, senders)
        # points at one place, but for rounding, are one
        for target in targets:
            sources[np.abs(sources - target).max(axis=1) <= self._placed.coincidence] = target
        return targets, sources, moments

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        return self._exact_at(self._placed.order[samples])


def judged(
    total: MeshSum,
    moments: np.ndarray,
    field: np.ndarray,
    exact: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    last: float,
    known: Known | None,
) -> tuple[Verdict, int, Known]:
    """Return what is known of the error of a field, by how many targets, and what follows from it.

    Parameters
    ----------
    total : MeshSum
        What summed it.
    moments : ndarray, shape (n_sources, channels, n_components(K))
        Not all zero.
    field : ndarray, shape (n_targets, channels, n_components(order))
    exact : callable
        Takes indices of targets to their exact field.
    tolerance, last : float
        What is asked, and the relative error by which the result is rounded.
    known : Known or None
        Of earlier evaluations of these orders.
    """
    order = indexing.order_of(field.shape[2])
    placed, strengths = Placed(total), Strengths(total, moments)
    given = placed, moments, field, order, exact
    kernel = total.kernel, total.setting.reach
    past = known.evidence if known is not None else None
    if past is not None and not past.serves(order, 1):
        past = None
    where = past.where(placed, (0,)) if past is not None else None  # type: ignore[arg-type]
    probe = MeshProbe(*given, where or strengths.where, *kernel, past)
    norms = np.sqrt(probe.squares(field))
    signs = signs_of(strengths, probe.overall(norms))  # type: ignore[arg-type]
    is_alike = known is not None and alike(signs, known.signs)
    if past is not None and not is_alike:
        probe = MeshProbe(*given, strengths.where, *kernel, None)
        norms = np.sqrt(probe.squares(field))
    is_known = known is not None and is_alike and known.lost.shape == norms.shape
    terms = known.lost * norms if known is not None and is_known else probe.terms()

    def verdict() -> Verdict:
        return Verdict(*probe.errors(field), norms, terms, tolerance, last)

    found = verdict()
    if found.typical <= 1.0 < found.worst and not probe.enlarged:
        probe.enlarge()
        found = verdict()
    lost = terms / np.where(norms > 0, norms, np.inf)
    evidence = probe.evidence(field) if found.kept else None
    in_vain = known is not None and is_alike and known.in_vain
    return found, probe.size, Known(signs, lost, evidence, in_vain, found.worst)
