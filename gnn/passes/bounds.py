"""Whether a pass stays inside of what a model was trained on: walls are for autograd's graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gnn.data.batching import Batch
from gnn.data.extent import BOND_DECAY
from gnn.layers import walls
from gnn.operators.borders import any_exceeding, crowded, too_strong
from gnn.operators.gpu import on_gpu
from multipoles.compiled.jit import jit

# all numbers of a batch that an energy depends on
_NUMBERS = (
    "positions", "mm_positions", "mm_moments", "uniform_field", "external_field", "charge",
    "formal",
)  # fmt: skip


class Beyond(Exception):
    """Something lies beyond the walls, or for another reason takes autograd's graph."""


def suits(batch: Batch, dtype: torch.dtype, constant: Sequence[str] = ()) -> bool:
    """Return whether a batch is in free space, on the CPU, and its numbers all of one type.

    Nobody may ask for derivatives by charges of parts and systems, nor by any of `constant`.
    """
    if batch.cell is not None or on_gpu(batch.positions):
        return False
    given = [getattr(batch, name) for name in _NUMBERS]
    if any(numbers is not None and numbers.dtype != dtype for numbers in given):
        return False
    constants = batch.charge, batch.formal, *(getattr(batch, name) for name in constant)
    return not any(numbers is not None and numbers.requires_grad for numbers in constants)


class Inside:
    """The checks of a model's border for one batch; without a border nothing is beyond.

    Parameters
    ----------
    border : gnn.layers.walls.Border or None
        The model's.
    numbers : ndarray of int64, shape (N,)
        Elements of the atoms.
    """

    def __init__(self, border: Any, numbers: NDArray[np.int64]):
        self.border, self.numbers = border, numbers
        self._outputs: list[tuple[int, NDArray, NDArray]] = []

    def edges(self, lengths: NDArray, ends: tuple[NDArray, NDArray], cutoff: float) -> None:
        """Refuse atoms that are too close or too crowded."""
        border = self.border
        if border is None:
            return
        tables = (t.numpy() for t in (border.pairs, border.valence, border.radii))
        limits = walls.SPARE, walls.CONTACT, cutoff, BOND_DECAY
        if crowded(lengths, *ends, self.numbers, *tables, *limits):
            raise Beyond

    def fields(self, fields: NDArray) -> None:
        """Refuse fields (N, F, 10) that saturate."""
        border = self.border
        if border is None:
            return
        tables = border.field.numpy(), border.curvature.numpy()
        if too_strong(fields, self.numbers, *tables, walls.FIELD, walls.CURVATURE):
            raise Beyond

    def output(self, index: int, values: NDArray, numbers: NDArray | None = None) -> None:
        """Note an output (N, …) that is to be no longer than in training."""
        if self.border is not None and len(values):
            rows = np.ascontiguousarray(values).reshape(len(values), -1)
            self._outputs.append((index, rows, self.numbers if numbers is None else numbers))

    def check_outputs(self) -> None:
        """Refuse outputs that are longer than any in training."""
        border = self.border
        if border is None:
            return
        if border._noted is not None:  # largest outputs are being collected
            raise Beyond
        places, rows, numbers = zip(*self._outputs, strict=True)
        if any_exceeding(rows, numbers, border.outputs.numpy(), np.array(places)):
            raise Beyond

    def reach(self) -> NDArray | None:
        """Return the distances (N,) from which on particles are too close; None without walls."""
        if self.border is None:
            return None
        trained = self.border.charges.numpy()[self.numbers]
        radii = self.border.radii.numpy()[self.numbers]
        seen = np.minimum(trained, radii + walls.FAR_CONTACT)
        return np.where(np.isinf(trained), radii + walls.CONTACT, seen)

    def particles(self, x: NDArray, s: NDArray, pairs: NDArray[np.int64], reach: NDArray) -> None:
        """Refuse particles that are closer than that among some pairs."""
        if _any_within(x, s, pairs, reach):
            raise Beyond


@jit
def _any_within(x, s, pairs, reach):
    for p in range(len(pairs)):
        i, j = pairs[p, 0], pairs[p, 1]
        a, b, c = x[i, 0] - s[j, 0], x[i, 1] - s[j, 1], x[i, 2] - s[j, 2]
        if a * a + b * b + c * c <= reach[i] * reach[i]:
            return True
    return False
