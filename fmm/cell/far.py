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
        images = np.flatnonzero(self.geometry.images.is_image())
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
        grid, place = self.geometry.grid, self.tree.anchor[:n]
        apart = place[:, None] - place[None]
        repeats = grid.periods > 0
        apart[..., repeats] %= grid.periods[repeats]
        differences, which = np.unique(apart.reshape(-1, 3), axis=0, return_inverse=True)
        which = which.ravel()
        order = np.argsort(which, kind="stable")
        for index, pairs in enumerate(np.split(order, np.cumsum(np.bincount(which))[:-1])):
            a, b, c = differences[index].tolist()
            matrix = matrix_of(grid, (a, b, c), self.degree).astype(self.dtype, copy=False)
            # each box receives once for each difference
            receivers[pairs // n] += senders[pairs % n] @ matrix.T
