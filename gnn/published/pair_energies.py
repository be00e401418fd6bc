"""Energies of pairs of atoms beside the network: charges, dispersion and repulsion, fused."""

from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.data.batching import Batch
from gnn.operators.gpu import on_gpu
from gnn.published import _pair_loops, dispersion, repulsion
from gnn.published.dispersion import Dispersion
from gnn.published.electrostatics import charges_of_pairs
from gnn.published.layers import per_system
from gnn.published.pairs import Pairs, pairs_among
from gnn.published.units import BOHR, COULOMB, HARTREE
from multipoles.compiled.jit import add_up, equal_ranges, run_ranges
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
    derived : bool
        Whether gradients will be asked for: they are taken with the values.
    """

    def __init__(
        self,
        batch: Batch,
        tables: Dispersion,
        kernel: ReactionField,
        contact: float,
        box: Tensor | None = None,
        derived: bool = True,
    ):
        self.batch, self.tables, self.kernel = batch, tables, kernel
        self.contact, self.box = contact, box
        self.derived = derived
        self._constants = (float(contact), kernel.parameter_array, _DAMPING, _ZBL)

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return self.batch.numbers.numpy()

    @cached_property
    def _systems(self) -> NDArray[np.int64]:
        return self.batch.batch.numpy()

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.searchsorted(self._systems, np.arange(self.batch.n_systems + 1))

    def values(self, positions: NDArray, charges: NDArray, factors: NDArray) -> NDArray:
        """Return the energies."""
        inputs = positions, charges, factors
        sums, self._slopes = self._sums_and_slopes(*inputs, derived=self.derived)
        return sums * _UNITS

    def gradients(
        self, weights: NDArray, positions: NDArray, charges: NDArray, factors: NDArray
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return the gradients by all inputs."""
        if not self.derived:
            _, self._slopes = self._sums_and_slopes(positions, charges, factors, derived=True)
        found = np.empty_like(positions), np.empty_like(charges), np.empty_like(factors)
        kept = self._atoms, factors, self._slopes
        _pair_loops.gradients(weights * _UNITS, self._systems, *kept, *found)
        return found

    def twin(self, positions: Tensor, charges: Tensor, factors: Tensor) -> Tensor:
        """Return the energies in torch operations on a list of pairs."""
        batch = self.batch
        pairs = pairs_among(positions, batch.batch, self.kernel.cutoff, self.box, batch.room)
        first, second = pairs.first, pairs.second
        distances = torch.linalg.vector_norm(pairs.vectors(positions, positions), dim=1)
        charged = charges_of_pairs(distances, pairs, charges, self.contact, self.kernel)
        dispersed = self.tables(distances, first, second, factors, batch.numbers)
        system = batch.batch.index_select(0, pairs.first)
        energies = [
            per_system(charged, system, batch),
            per_system(pairs.only(dispersed), system, batch),
            self._repulsion(distances, pairs, system),
        ]
        return torch.stack(energies, 1)

    def _repulsion(self, distances: Tensor, pairs: Pairs, system: Tensor) -> Tensor:
        """Return the energies of repulsion, (B,), by pairs (P,) of which few are close."""
        ends, numbers = (pairs.first, pairs.second), self.batch.numbers
        if self.batch.room is not None or on_gpu(distances):  # zero of others, and so its slope
            near = distances.clamp(max=repulsion.OUTER)
            energies = pairs.only(repulsion.zbl(near, *ends, numbers))
            return per_system(energies, system, self.batch)
        close = torch.nonzero(distances.detach() < repulsion.OUTER)[:, 0]
        first, second, short = (t.index_select(0, close) for t in (*ends, distances))
        repelled = repulsion.zbl(short, first, second, numbers)
        return per_system(repelled, system.index_select(0, close), self.batch)

    def _sums_and_slopes(
        self, positions: NDArray, charges: NDArray, factors: NDArray, *, derived: bool
    ) -> tuple[NDArray, NDArray]:
        """Return the sums without units, and the derivatives by pairs if they are wanted."""
        tables = self.tables.free.numpy(), self.tables.radii.numpy()
        atoms, systems = np.empty((len(self._numbers), 5)), self._systems
        given = *tables, _powers(len(tables[0])), charges, factors, dispersion.LEAST
        _pair_loops.fill_atoms(self._numbers, *given, atoms)
        self._atoms = atoms
        box = np.zeros(3) if self.box is None else self.box.numpy()
        arguments = positions, atoms, systems, self._ends, box, self._constants

        def task(begin: int, end: int) -> tuple[NDArray, NDArray]:
            sums = np.zeros((self.batch.n_systems, 3))
            slopes = np.zeros((len(atoms) if derived else 0, 11))
            _pair_loops.energies(begin, end, *arguments, np.empty(6), sums, slopes)
            return sums, slopes

        partners = self._ends[1:][systems] - np.arange(len(systems))
        # one pair takes as long as ten of point charges
        parts = run_ranges(task, equal_ranges(partners, 10.0 * partners.sum()))
        sums, slopes = zip(*parts, strict=True)
        return add_up(sums), add_up(slopes)


@lru_cache
def _powers(elements: int) -> NDArray[np.float64]:
    """Return the powers of nuclear charges in the rate of screening, over its length."""
    return np.array(np.arange(elements) ** 0.23 / repulsion.LENGTH, np.float64)
