"""How strong moments in a cell are, with what root boxes receive from all images far away."""

from itertools import product

import numpy as np

from fmm.cell.geometry import CellGeometry
from fmm.error.indicators import Boxed, HostStrengths, box_powers
from fmm.tree.lists import REACH, STRIDES


class CellStrengths(HostStrengths):
    """See `HostStrengths`: images far away count by those that are nearest."""

    def weights(self, geometry: Boxed) -> np.ndarray:
        """Return what `accuracy.predicted` asks for."""
        assert isinstance(geometry, CellGeometry)
        out = super().weights(geometry)
        powers = box_powers(geometry, self._squares)
        n, tree = int(geometry.images.own_ends[0]), geometry.tree
        targets = np.diff(tree.target_range[:n], axis=1)[:, 0] / max(len(geometry.targets), 1)
        apart = tree.anchor[:n, None] - tree.anchor[None, :n]
        around = [range(-2, 3) if period else (0,) for period in geometry.grid.periods]
        for step in product(*around):
            place = apart + np.array(step) * geometry.grid.periods
            size = np.abs(place).max(axis=2)
            rows, columns = np.nonzero((size > 1) & (size <= REACH))
            codes = (place[rows, columns] + REACH) @ STRIDES
            np.add.at(out[:, 0].T, codes, targets[rows, None] * powers[columns])
        return out
