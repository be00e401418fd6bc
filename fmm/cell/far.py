"""The far field in a cell: that of a tree, expansions of images, and what lies beyond them."""

import numpy as np

from fmm.cell.geometry import CellGeometry
from fmm.cell.sums import matrix_of
from fmm.far.driver import HostFarField


class CellFarField(HostFarField):
    """Expansions for one pair of orders on the tree of a cell, see `HostFarField`."""

    geometry: CellGeometry

    def _coarsen(self, channels: int, multipoles: np.ndarray) -> None:
        super()._coarsen(channels, multipoles)
        rows = multipoles.reshape(-1, channels * self.length)
        images = np.flatnonzero(self.geometry.images.is_image)
        rows[images] = rows[self.geometry.images.original[images]]

    def _transfer(self, channels: int, multipoles: np.ndarray, locals_: np.ndarray) -> None:
        super()._transfer(channels, multipoles, locals_)
        self._transfer_roots(channels, multipoles, locals_)

    def _transfer_roots(self, channels: int, multipoles: np.ndarray, locals_: np.ndarray) -> None:
        """Add the field of all images that do not touch, between root boxes."""
        n, size = int(self.geometry.images.own_ends[0]), (self.degree + 1) ** 2
        senders, receivers = (
            rows.reshape(-1, channels, self.length)[:n, :, :size] for rows in (multipoles, locals_)
        )
        for apart, to, of in self.geometry.root_pairs:
            matrix = matrix_of(self.geometry.grid, apart, self.degree, self.dtype)
            # each box receives once for each difference
            receivers[to] += senders[of] @ matrix.T
