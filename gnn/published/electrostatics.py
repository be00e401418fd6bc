"""Electrostatics of AMP-BMS: charges of atoms, and their multipoles with surrounding charges."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.data.batching import Batch
from gnn.layers.electrostatics import energy_in_field
from gnn.layers.surroundings import given_field
from gnn.operators.field_neighbours import neighbours_of_systems
from gnn.operators.field_operator import unchecked_field
from gnn.operators.field_torch import radial_chain
from gnn.published import _coupling, fused
from gnn.published.pairs import Pairs
from gnn.published.units import COULOMB
from gnn.units import KJ_PER_MOL
from multipoles.compiled.jit import add_up, equal_ranges, run_chunks, run_ranges
from multipoles.compiled.simd import BYTES
from multipoles.layout import aligned
from multipoles.neighbours import Slots
from multipoles.radial import Coulomb, Kernel, ReactionField

_COULOMB = Coulomb()
FIELD_ORDER = 2


def charges_of_pairs(
    distances: Tensor,
    pairs: Pairs,
    charges: Tensor,
    contact: float,
    kernel: Kernel = _COULOMB,
) -> Tensor:
    """Return the energy of charges with each other in kJ/mol, (P,), at distances (P,) in Å.

    A switching function rises from zero at distance zero to one at the distance `contact`.
    """
    (potential,) = radial_chain(kernel, distances * distances, 0)
    x = (distances / contact).clamp(max=1)
    switch = x * x * x * (10 + x * (6 * x - 15))
    product = charges.index_select(0, pairs.first) * charges.index_select(0, pairs.second)
    return COULOMB * pairs.only(product) * switch * potential


def energy_of_all(moments: Tensor, batch: Batch) -> Tensor:
    """Return the energy of packed moments (N, 10) in the field of all surroundings in kJ/mol, (N,).

    Particles act by 1/r, without a cutoff.
    """
    energy = energy_in_field(moments, given_field(batch)) / KJ_PER_MOL
    if not batch.n_mm:
        return energy
    coupling = ChargeCoupling(batch.batch, batch.mm_batch, batch.mm_moments.requires_grad)
    inputs = batch.positions, batch.mm_positions, moments, batch.mm_moments
    if batch.mm_moments.shape[1] > 1:
        return energy + coupling.twin(*inputs)
    return energy + fused.apply(coupling, *inputs)


class ChargeCoupling:
    """The energy of atoms' multipoles with all charges of their system by 1/r, fused.

    A map (`gnn.published.fused.Operator`) of atoms' positions (N, 3), particles' positions (M, 3),
    packed moments (N, 10) and charges (M, 1) in e, or for the twin moments (M, n_comp), to
    energies (N,) in kJ/mol.

    Parameters
    ----------
    batch, mm_batch : Tensor of int64
        Sorted system of each atom and particle.
    charged : bool
        Whether the gradient by the charges is wanted; without, it is zero.
    """

    def __init__(self, batch: Tensor, mm_batch: Tensor, charged: bool = True):
        self.charged, self._systems = charged, (batch, mm_batch)

    @cached_property
    def pairs(self) -> Slots:
        """All pairs of an atom and a particle of one system, for the loops."""
        batch, mm_batch = self._systems
        return Slots(len(batch), len(mm_batch), batch.numpy(), mm_batch.numpy())

    def values(
        self, atoms: NDArray, particles: NDArray, moments: NDArray, charges: NDArray
    ) -> NDArray:
        """Return the energies."""
        packed, _, ranges = self._kept = self._packed(particles, charges)
        field = np.empty_like(moments)
        run_chunks(
            lambda *part: _coupling.fields(*part, atoms, packed, ranges, field),
            len(atoms),
            self.pairs.n_pairs,
        )
        self._field = field
        return (moments * field).sum(1)

    def gradients(
        self,
        weights: NDArray,
        atoms: NDArray,
        particles: NDArray,
        moments: NDArray,
        charges: NDArray,
    ) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Return the gradients by both positions, by the moments and by the charges."""
        packed, slots, ranges = self._kept
        by_atoms = np.empty_like(atoms)

        def task(begin: int, end: int) -> NDArray:
            by_slots = np.zeros(4 * len(slots), atoms.dtype)
            _coupling.gradients(
                begin, end, atoms, moments, weights, packed, ranges, by_atoms, by_slots,
                self.charged,
            )  # fmt: skip
            return by_slots

        parts = run_ranges(task, equal_ranges(ranges[:, 1] - ranges[:, 0], 2 * self.pairs.n_pairs))
        by_particles, by_charges = np.zeros_like(particles), np.zeros_like(charges)
        unit = atoms.dtype.type(COULOMB)
        _coupling.unpack(add_up(parts), unit, slots, by_particles, by_charges)
        return by_atoms, by_particles, self._field * weights[:, None], by_charges

    def twin(self, atoms: Tensor, particles: Tensor, moments: Tensor, sources: Tensor) -> Tensor:
        """Return the energies by the field operator, which autograd differentiates."""
        sources = sources[:, None] * COULOMB
        pairs = neighbours_of_systems(atoms, *self._systems)
        field = unchecked_field(atoms, particles, sources, FIELD_ORDER, _COULOMB, pairs)
        return energy_in_field(moments, field[:, 0])

    def _packed(self, particles: NDArray, charges: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        slots, ranges = self.pairs.layout(BYTES // particles.itemsize)
        packed = aligned(4 * len(slots), particles.dtype)
        _coupling.pack(particles, charges, particles.dtype.type(COULOMB), slots, packed)
        return packed, slots, ranges


def squares_of(vectors: Tensor) -> Tensor:
    """Return the products of components xx, xy, xz, yy, yz, zz, (P, 6)."""
    x, y, z = vectors.unbind(1)
    return torch.stack([x * x, x * y, x * z, y * y, y * z, z * z], 1)


def energy_of_pairs(
    moments: Tensor,
    charges: Tensor,
    vectors: Tensor,
    pairs: Pairs,
    kernel: ReactionField,
    *,
    consistent: bool,
) -> Tensor:
    """Return the energy of packed moments (N, 10) with charges (M,) near them in kJ/mol, (P,).

    Parameters
    ----------
    vectors : Tensor
        (P, 3) from atom to charge in Å.
    kernel : ReactionField
        Potential of a charge.
    consistent : bool
        True takes the field and its gradient from the kernel's derivatives. False divides its
        value by r² instead, like those of 1/r, as the published simulations do; that is about
        half of the field at 3 Å.
    """
    r2 = (vectors * vectors).sum(1)
    if consistent:
        b0, b1, b2 = radial_chain(kernel, r2, 2)
    else:
        b0 = radial_chain(kernel, r2, 0)[0]
        b1 = b0 / r2
        b2 = 3 * b1 / r2
    own = moments.index_select(0, pairs.first)
    dipole = (own[:, 1:4] * vectors).sum(1)
    monomials = squares_of(vectors)
    quadrupole = (own[:, 4:] * monomials).sum(1)
    potential = own[:, 0] * b0 + dipole * b1 + quadrupole * b2
    return COULOMB * pairs.only(charges.index_select(0, pairs.second)) * potential
