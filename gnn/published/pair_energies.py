"""Energies of pairs of atoms beside the network: charges, dispersion and repulsion, fused."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.data.batching import Batch
from gnn.published import _pair_loops, dispersion, repulsion
from gnn.published.dispersion import Dispersion
from gnn.published.electrostatics import charges_of_pairs
from gnn.published.layers import per_system
from gnn.published.pairs import pairs_among
from gnn.published.units import BOHR, COULOMB, HARTREE
from multipoles.radial import ReactionField

_DAMPING = np.array([dispersion.S8, dispersion.A1, dispersion.A2, BOHR])
_ZBL = np.array([*repulsion.WEIGHTS, *repulsion.RATES, repulsion.INNER, repulsion.OUTER])
_UNITS = np.array([COULOMB, HARTREE, COULOMB])


class PairEnergies:
    """Energies of pairs of atoms of each system, (B, 3) float64 in kJ/mol.

    A map (`gnn.published.fused.Operator`) of positions (N, 3), charges (N,) and factors on free
    C6 coefficients (N,) to the sums of `charges_of_pairs`, `Dispersion` and `zbl`. The compiled
    loop computes in float64 whatever the type of its inputs.

    Parameters
    ----------
    batch : Batch
        Numbers and systems of the atoms.
    tables : Dispersion
        C6 coefficients and radii of free atoms.
    kernel : ReactionField
        Potential of the charges, of powers 4 and 6; its cutoff is that of the dispersion, too.
    contact : float
        Distance in Å from which the charges interact fully.
    box : Tensor, optional
        (3,) edges of an orthorhombic box in Å.
    """

    def __init__(
        self,
        batch: Batch,
        tables: Dispersion,
        kernel: ReactionField,
        contact: float,
        box: Tensor | None = None,
    ):
        self.batch, self.tables, self.kernel = batch, tables, kernel
        self.contact, self.box = contact, box
        self._constants = (float(contact), kernel.parameter_array, _DAMPING, _ZBL)
        self._ends = np.searchsorted(batch.batch.numpy(), np.arange(batch.n_systems + 1))

    def values(self, positions: NDArray, charges: NDArray, factors: NDArray) -> NDArray:
        """Return the energies."""
        sums = np.zeros((self.batch.n_systems, 3))
        _pair_loops.energies(*self._arguments(positions, charges, factors), sums)
        return sums * _UNITS

    def gradients(
        self, weights: NDArray, positions: NDArray, charges: NDArray, factors: NDArray
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return the gradients by all inputs."""
        by_atoms = np.zeros((len(positions), 5))
        arguments = self._arguments(positions, charges, factors)
        _pair_loops.gradients(*arguments, weights * _UNITS, by_atoms)
        # the slope of sqrt(C6) by the factor is sqrt(C6) / (2 factor), and zero where C6 is
        some = factors > dispersion.LEAST
        by_factors = 0.5 * by_atoms[:, 4] * arguments[1][:, 1] / np.where(some, factors, 1)
        parts = by_atoms[:, :3], by_atoms[:, 3], by_factors
        by_positions, by_charges, by_factors = (part.astype(positions.dtype) for part in parts)
        return by_positions, by_charges, by_factors

    def twin(self, positions: Tensor, charges: Tensor, factors: Tensor) -> Tensor:
        """Return the energies in torch operations on a list of pairs."""
        batch = self.batch
        pairs = pairs_among(positions, batch.batch, self.kernel.cutoff, self.box)
        first, second = pairs.first, pairs.second
        distances = torch.linalg.vector_norm(pairs.vectors(positions, positions), dim=1)
        charged = charges_of_pairs(distances, pairs, charges, self.contact, self.kernel)
        dispersed = self.tables(distances, first, second, factors, batch.numbers)
        close = torch.nonzero(distances.detach() < repulsion.OUTER)[:, 0]
        first, second, short = (t.index_select(0, close) for t in (first, second, distances))
        repelled = repulsion.zbl(short, first, second, batch.numbers)
        system = batch.batch.index_select(0, pairs.first)
        energies = [
            per_system(charged, system, batch),
            per_system(dispersed, system, batch),
            per_system(repelled, system.index_select(0, close), batch),
        ]
        return torch.stack(energies, 1)

    def _arguments(self, positions: NDArray, charges: NDArray, factors: NDArray) -> tuple:
        numbers = self.batch.numbers
        free, radii = (t[numbers].double().numpy() for t in (self.tables.free, self.tables.radii))
        z = numbers.numpy().astype(np.float64)
        roots = np.sqrt(free * np.where(factors > dispersion.LEAST, factors, 0))
        atoms = np.stack([charges, roots, radii, z, z**0.23 / repulsion.LENGTH], 1)
        box = np.zeros(3) if self.box is None else self.box.numpy()
        return positions, atoms, self._ends, box, self._constants, np.empty(6)
