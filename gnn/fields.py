"""How a model sums fields at its atoms: of each other, of what surrounds them, of all images."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnn.data.batching import Batch
from gnn.layers.images import around
from gnn.layers.long_range import FieldOfAtoms
from gnn.layers.surroundings import FIELD_ORDER, given_field
from gnn.layers.walls import Border
from gnn.operators import field_torch
from gnn.operators.cells import Cells, FieldInCells
from gnn.operators.field_neighbours import all_pairs, neighbours_of_systems, neighbours_within
from gnn.operators.field_operator import FieldOf, unchecked_field
from gnn.operators.fixed_pairs import any_within, fixed_pairs
from gnn.operators.gpu import on_gpu
from gnn.operators.room import pairs_of
from gnn.options import Dispersion, Surroundings
from gnn.potential import Potential
from gnn.units import COULOMB
from multipoles.radial import Erf, Kernel

# a r beyond which erf(a r) and its derivatives are those of 1 to the last digit
DECAYED = {"float64": 6.0, "float32": 4.5}


class SurroundedPotential(Potential):
    """A potential whose atoms feel the fields of each other and of surrounding particles.

    Attributes
    ----------
    kernel, smeared_kernels
        Of the surroundings: as they act, and smeared by wider Gaussians.
    border : Border or None
        Where training ended.
    method, tolerance, backend
        How fields are summed in free space, see `gnn.AMP`.
    """

    takes_cells: ClassVar[bool] = True
    kernel: Kernel
    smeared_kernels: list[Erf]
    surroundings: Surroundings
    dispersion: Dispersion | None
    border: Border | None
    method: str
    tolerance: float
    backend: str

    def _check_batch(self, batch: Batch, stress: bool) -> None:
        super()._check_batch(batch, stress)
        if batch.cell is None:
            return
        if self.dispersion is not None:
            raise ValueError(
                "the dispersion of a model is computed in free space, got a system in a cell: "
                "use a model without it (dispersion: null)"
            )
        if self.method == "fmm" or self.backend != "compiled":
            raise ValueError(
                "systems in cells are summed by Ewald's method: expected a model of method 'auto' "
                f"or 'direct' and backend 'compiled', got {self.method!r} and {self.backend!r}"
            )

    def _outer_fields(self, batch: Batch) -> Tensor:
        """Return the fields of `SurroundingsField` at the atoms, (N, F, 10) in V/Å^k."""
        given = given_field(batch)
        if batch.n_mm == 0:
            rest = given.new_zeros(len(given), len(self.smeared_kernels), given.shape[1])
            return torch.cat([given[:, None], rest], dim=1)
        points, index = (batch.positions, batch.mm_positions), (batch.batch, batch.mm_batch)
        field_of = self._field_of(batch, *points, FIELD_ORDER, self.kernel, index)
        fields = [field_of(batch.mm_moments[:, None] * COULOMB) + given[:, None]]
        if not self.smeared_kernels:
            return fields[0]
        decayed = DECAYED[str(batch.positions.dtype).removeprefix("torch.")]
        # the difference of two kernels decays, so that near particles and images are all of it
        reach = decayed / min(kernel.alpha for kernel in self.smeared_kernels)
        atoms, particles, moments, index = around(batch, reach)
        moments = moments[:, None] * COULOMB
        for number, kernel in enumerate(self.smeared_kernels):
            points, within = (atoms, particles), decayed / kernel.alpha
            near = self._near(batch, f"smeared {number}", points, index, within)
            smeared, sharp = (
                unchecked_field(
                    atoms, particles, moments, FIELD_ORDER, k, near, backend=self.backend
                )
                for k in (kernel, self.kernel)
            )
            fields.append(smeared - sharp)
        return torch.cat(fields, dim=1)

    @staticmethod
    def _near(
        batch: Batch,
        name: str,
        points: tuple[Tensor, Tensor],
        index: tuple[Tensor, Tensor],
        reach: float,
    ) -> Any:
        """Return the pairs of an atom and a particle within a distance, as sums take them."""
        if batch.room is None and not on_gpu(points[0]):
            return neighbours_within(*points, *index, reach)
        pairs = pairs_of(batch.room, name, *points, index, reach)
        return pairs.neighbours(points[0], len(points[1]))

    def _field_of_atoms(self, batch: Batch, kernel: Kernel, order: int) -> FieldOfAtoms:
        """Return the map of moments (N, channels, n_comp) on all atoms to their field there."""
        points, index = batch.positions, batch.batch
        return self._field_of(batch, points, points, order, kernel, (index, index))

    def _field_of(
        self,
        batch: Batch,
        targets: Tensor,
        sources: Tensor,
        order: int,
        kernel: Kernel,
        index: tuple[Tensor, Tensor],
    ) -> Callable[[Tensor], Tensor]:
        """Return the map of moments to their field; `index` names each point's system."""

        def in_free_space(x: Tensor, s: Tensor, of: tuple[Tensor, Tensor]) -> FieldOf:
            neighbours = neighbours_of_systems(x, *of, single=batch.n_systems == 1)
            how = self.method, self.tolerance, self.backend
            return FieldOf(x, s, order, kernel, neighbours, *how)

        if batch.cell is None or batch.periodic is None:
            return in_free_space(targets, sources, index)
        cells = Cells(batch.cell, batch.periodic)
        return FieldInCells(targets, sources, order, kernel, index, cells, in_free_space)

    def _bounded_fields(self, batch: Batch, fields: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return fields of charges that are nowhere too close, and the repulsion of each atom."""
        border = self.border
        assert border is not None
        surrounded = self.surroundings.in_messages or self.surroundings.in_energy
        close = self._close_particles(batch) if surrounded and batch.n_mm else None
        if close is None:
            return fields, None
        atoms, moments, vectors = close
        distances = torch.linalg.vector_norm(vectors, dim=1)
        seen, repulsion = border.pressed_by_charges(batch, atoms, distances, moments)
        shown = vectors * (seen / distances)[:, None]
        moments = moments[:, None] * COULOMB
        sharp, *smeared = (
            _of_pairs(shown, moments, kernel) - _of_pairs(vectors, moments, kernel)
            for kernel in (self.kernel, *self.smeared_kernels)
        )
        change = torch.cat([sharp, *(field - sharp for field in smeared)], dim=1)
        return fields.index_add(0, atoms, change), repulsion

    def _close_particles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return pairs of atoms and particles within their walls: atom, moments, vector between.

        None if there are no such pairs.
        """
        assert self.border is not None
        reach = self.border.shortest_to_charges(batch.numbers)
        atoms, particles, moments, index = around(batch, reach)
        if batch.room is not None:
            batch.room.doubt(any_within(atoms, particles, index, reach))
            return None
        if on_gpu(atoms):
            near = fixed_pairs(atoms, particles, index, reach)
            targets, sources = near.first, near.second
        else:
            pairs = all_pairs(neighbours_within(atoms, particles, *index, reach), atoms.device)
            targets, sources = pairs.unbind(1)
        if not len(targets):
            return None
        vectors = atoms.index_select(0, targets) - particles.index_select(0, sources)
        return targets, moments.index_select(0, sources), vectors


def _of_pairs(vectors: Tensor, moments: Tensor, kernel: Kernel) -> Tensor:
    """Return the field (P, channels, 10) of each pair at the end of its vector (P, 3)."""
    if not on_gpu(vectors):
        return field_torch.of_pairs(vectors, moments, FIELD_ORDER, kernel)
    # one kernel in place of hundreds: each pair is a system of its own
    own = torch.arange(len(vectors), device=vectors.device)
    neighbours = neighbours_of_systems(vectors, own, own)
    origins = torch.zeros_like(vectors)
    return unchecked_field(vectors, origins, moments, FIELD_ORDER, kernel, neighbours)
