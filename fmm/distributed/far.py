"""The far field of the points of one rank: see `fmm.far.driver`.

Expansions of own boxes are on their way to other ranks while those that need no others are
translated.
"""

from collections.abc import Callable

import numpy as np

from fmm.distributed.geometry import Foreign
from fmm.far.driver import HostFarField


class SharedFarField(HostFarField):
    """Expansions for one pair of orders on the tree of a rank, see `HostFarField`."""

    geometry: Foreign

    def _coarsen(self, channels: int, multipoles: np.ndarray) -> None:
        HostFarField._coarsen(self, channels, multipoles)
        self._come = self._completed(channels, multipoles)

    def _completed(self, channels: int, multipoles: np.ndarray) -> Callable[[], None]:
        """Begin to exchange expansions; returns what waits for those of others."""
        size = (self.degree + 1) ** 2
        rows = multipoles.reshape(-1, channels, self.length)[: len(self.tree.parent), :, :size]
        first = self._merged_rows(rows)
        fill = self.geometry.completed(first)

        def come() -> None:
            fill()
            self._place(rows, first)

        return come

    def _merged_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the expansions of merged boxes, images not among them: they may be these rows."""
        return rows

    def _place(self, rows: np.ndarray, first: np.ndarray) -> None:
        """Put the expansions of merged boxes where they belong."""

    def _transfer(self, channels: int, multipoles: np.ndarray, locals_: np.ndarray) -> None:
        at_once, later = self.geometry.pairs
        self._transfer_pairs(at_once, channels, multipoles, locals_)
        come, self._come = self._come, lambda: None  # which lets go of expansions
        come()
        del come
        self._transfer_pairs(later, channels, multipoles, locals_)
