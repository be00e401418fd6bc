"""The error of a field in a cell: where it is expected, and as measured at a few targets.

It is measured against sums without expansions (`fmm.error.in_cell`).
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from fmm.cell.geometry import CellGeometry
from fmm.error.in_cell import InCell
from fmm.error.indicators import Boxed, HostStrengths, Where
from fmm.error.sampling import Probe
from fmm.tree.geometry import Outline
from fmm.tree.lists import N_CODES, REACH, STRIDES
from multipoles import indexing
from multipoles.indexing import order_slice


class CellProbe(Probe):
    """Targets at which the whole field is known, see `Probe`.

    Parameters
    ----------
    given
        See `Probe`.
    exact : InCell
        Sums in the cell.
    """

    _geometry: CellGeometry

    def __init__(self, *given: Any, exact: InCell) -> None:
        self._in_cell = exact
        super().__init__(*given)

    def _sum(self, samples: np.ndarray) -> np.ndarray:
        """Return the whole field at ascending targets, in float64."""
        own = self._geometry.one_copy
        sources = self._geometry.points(np.dtype(np.float64))[1]
        moments = np.ascontiguousarray(self._moments[own], np.float64)
        if not len(samples):
            width = indexing.n_components(self._order)
            return np.zeros((0, moments.shape[1], width))
        ends = self._places(samples), np.ascontiguousarray(sources[own])
        return self._in_cell.field(*ends, moments, self._order)

    def _term_squares(self, samples: np.ndarray) -> np.ndarray:
        """Return the size of terms, see `Probe`: with those of images, as far as they are near."""
        terms = super()._term_squares(samples)
        moments = np.asarray(self._moments[self._geometry.one_copy], np.float64)
        away = self._geometry.grid.least_height * np.array(self._geometry.grid.counts).min()
        for k in range(self._order + 1):
            for j in range(indexing.order_of(moments.shape[2]) + 1):
                square = (moments[..., order_slice(j)] ** 2).sum(axis=(0, 2))
                square = square if self._per_channel else square.sum(keepdims=True)
                n = np.arange(1, j + k + 1)
                size = float(np.prod((2 * n - 1) * n)) / away ** (2 * (j + k + 1))
                terms[k] += size * square
        return terms


class CellStrengths(HostStrengths):
    """How strong moments in a cell are, see `HostStrengths`."""

    def weights(self, geometry: Boxed) -> np.ndarray:
        """Return what `accuracy.predicted` asks for."""
        return super().weights(_estimated(geometry))

    def where(self, geometry: Boxed, degrees: tuple[int, ...], norms: np.ndarray) -> Where:
        """Return where errors are expected, of all output orders alike."""
        return super().where(_estimated(geometry), degrees, norms)


def _estimated(geometry: Boxed) -> Boxed:
    """Return boxes whose lists have the nearest of the images that root boxes meet by matrices."""
    assert isinstance(geometry, CellGeometry)
    if geometry.estimated is None:
        lists = geometry.lists
        code, receivers, senders = _root_pairs(geometry)
        # root boxes have the lowest numbers: of each code their pairs come first
        places = lists.m2l_starts[code]
        lists = replace(
            lists,
            m2l_starts=lists.m2l_starts
            + np.append(0, np.cumsum(np.bincount(code, minlength=N_CODES))),
            m2l_targets=np.insert(lists.m2l_targets, places, receivers),
            m2l_sources=np.insert(lists.m2l_sources, places, senders),
        )
        # ranges of sources in the cell alone: what is near differs from tree to tree
        geometry.estimated = Outline(
            geometry.images.tree, lists, geometry.edges, geometry.levels, geometry.targets,
            geometry.target_leaves,
        )  # fmt: skip
    found: Boxed = geometry.estimated
    return found


def _root_pairs(geometry: CellGeometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, receivers and senders of root boxes and images, sorted by code and receiver."""
    n, periods = int(geometry.images.own_ends[0]), geometry.grid.periods
    anchor = geometry.tree.anchor[:n]
    apart = anchor[:, None] - anchor[None]
    # enough images of each to be within reach of the codes
    most = [-(-2 * REACH // period) if period else 0 for period in periods.tolist()]
    near = [range(-min(m, 5), min(m, 5) + 1) for m in most]
    found = []
    for step in product(*near):
        place = apart + np.array(step) * periods
        size = np.abs(place).max(axis=2)
        receivers, senders = np.nonzero((size > 1) & (size <= REACH))
        codes = (place[receivers, senders] + REACH) @ STRIDES
        found.append(np.stack([codes, receivers, senders]))
    code, receivers, senders = np.concatenate(found, axis=1)
    order = np.lexsort((receivers, code))
    return code[order], receivers[order], senders[order]
