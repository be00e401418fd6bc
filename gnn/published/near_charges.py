"""The energy of atoms' multipoles with charges near them, in a reaction field."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gnn.published import _near_loops
from gnn.published.electrostatics import energy_of_pairs
from gnn.published.pairs import Pairs, ranges_of_atoms
from gnn.published.units import COULOMB
from multipoles.compiled.jit import add_up, run_ranges
from multipoles.radial import ReactionField

# a pair takes as long as so many of point charges
_COST = 10.0


class NearCoupling:
    """These energies, fused: a `gnn.published.fused.Operator`.

    Maps positions of atoms (N, 3) and particles (M, 3), packed moments (N, 10) and charges (M,) in
    e to energies (N,) in kJ/mol. Loops compute in float64.

    Parameters
    ----------
    pairs : Pairs
        Pairs of an atom and a particle: at least all that the potential reaches.
    kernel : ReactionField
        Potential of a charge, of powers 4 and 6.
    consistent : bool
        See `gnn.published.electrostatics.energy_of_pairs`.
    """

    def __init__(self, pairs: Pairs, kernel: ReactionField, consistent: bool):
        self._pairs, self._kernel, self._consistent = pairs, kernel, consistent

    @cached_property
    def _constants(self) -> tuple[Any, ...]:
        pairs = self._pairs
        shift = np.empty((0, 3)) if pairs.shift is None else pairs.shift.double().numpy()
        ends = pairs.first.numpy(), pairs.second.numpy()
        return ends, shift, self._kernel.parameter_array, self._consistent

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        return ranges_of_atoms(self._pairs.first.numpy(), _COST)

    def values(self, *inputs: NDArray) -> NDArray:
        """Return the energies."""
        energies = np.zeros(len(inputs[0]))
        arguments = *inputs, *self._constants, energies
        run_ranges(lambda *part: _near_loops.energies(*part, *arguments), self._ranges)
        return (COULOMB * energies).astype(inputs[0].dtype)

    def gradients(self, weights: NDArray, *inputs: NDArray) -> tuple[NDArray, ...]:
        """Return the gradients by all inputs."""
        atoms, particles, moments, _ = inputs
        by_atoms, by_moments = np.zeros(atoms.shape), np.zeros(moments.shape)
        weights = COULOMB * weights.astype(np.float64)
        arguments = *inputs, *self._constants, weights, by_atoms, by_moments

        def task(begin: int, end: int) -> NDArray:
            by_particles = np.zeros((len(particles), 4))
            _near_loops.gradients(begin, end, *arguments, by_particles)
            return by_particles

        by_particles = add_up(run_ranges(task, self._ranges))
        found = by_atoms, by_particles[:, :3], by_moments, by_particles[:, 3]
        return tuple(array.astype(atoms.dtype) for array in found)

    def twin(self, atoms: Tensor, particles: Tensor, moments: Tensor, charges: Tensor) -> Tensor:
        """Return the energies in torch operations."""
        vectors = self._pairs.vectors(atoms, particles)
        energies = energy_of_pairs(
            moments, charges, vectors, self._pairs, self._kernel, consistent=self._consistent
        )
        return moments.new_zeros(len(moments)).index_add(0, self._pairs.first, energies)
