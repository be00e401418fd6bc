"""Energies that a batch brings beside those of its model, on a tape."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gnn.data.batching import Batch
from gnn.layers.electrostatics import full_quadrupoles
from gnn.outputs import Between, energy_between
from gnn.passes.operators import ByTorch, applied
from gnn.passes.tape import Tape, Value


def between(tape: Tape, batch: Batch, positions: Value, moments: Value) -> Value:
    """Return the energies (B,) in eV of `Batch.between`, of moments (N, 10) at positions."""
    if all(isinstance(of, Between) for of in batch.between):
        return applied(tape, _OfArrays(batch), positions, moments)

    def of_tensors(positions: Tensor, moments: Tensor) -> Tensor:
        multipoles = {
            "charges": moments[:, 0],
            "dipoles": moments[:, 1:4],
            "quadrupoles": full_quadrupoles(moments[:, 4:]),
        }
        return energy_between(replace(batch, positions=positions), multipoles)

    return applied(tape, ByTorch(of_tensors, tape.records), positions, moments)


class _OfArrays:
    """Energies that come with their derivatives, as an operator."""

    def __init__(self, batch: Batch):
        self._batch = batch

    def values(self, positions: NDArray, moments: NDArray) -> NDArray:
        index = self._batch.batch.numpy()
        counts = np.bincount(index, minlength=self._batch.n_systems).cumsum()[:-1]
        own = (np.split(array.astype(np.float64), counts) for array in (positions, moments))
        functions: tuple[Any, ...] = self._batch.between
        found = [of.arrays(*one) for of, *one in zip(functions, *own, strict=True)]
        energies, *self._derivatives = zip(*found, strict=True)
        return np.array(energies, positions.dtype)

    def gradients(self, weights: NDArray, *_: NDArray) -> list[NDArray]:
        of_atoms = weights[self._batch.batch.numpy(), None]
        return [
            (np.concatenate(parts) * of_atoms).astype(weights.dtype) for parts in self._derivatives
        ]
