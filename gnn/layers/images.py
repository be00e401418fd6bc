"""Surrounding particles near the atoms of a batch, with their images where there are cells."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnn.data.batching import Batch
from multipoles.lattice.cell import cell_of
from multipoles.lattice.search import images_within

_SLACK = 1e-3  # Å, more than float32 rounds coordinates in a cell by


class Around(NamedTuple):
    """Atoms, and the particles near them as if in free space.

    Attributes
    ----------
    atoms : Tensor
        (N, 3) positions in Å, those of systems in a cell moved into it.
    particles : Tensor
        (M, 3) positions of particles and images.
    moments : Tensor
        (M, k) of these, in e Å^k.
    systems : tuple of Tensor
        Sorted system of each atom, and of each particle.
    """

    atoms: Tensor
    particles: Tensor
    moments: Tensor
    systems: tuple[Tensor, Tensor]


def around(batch: Batch, reach: float | Tensor) -> Around:
    """Return the particles of a batch, of systems in cells all images within reach of an atom.

    Parameters
    ----------
    batch : Batch
        With surrounding particles.
    reach : float or Tensor
        Distance in Å from any atom, or from each, within which no image may be missing.
    """
    if batch.cell is None or batch.periodic is None:
        index = batch.batch, batch.mm_batch
        return Around(batch.positions, batch.mm_positions, batch.mm_moments, index)
    x, s = (p.detach().double().numpy() for p in (batch.positions, batch.mm_positions))
    of_atoms, of_particles = batch.batch.numpy(), batch.mm_batch.numpy()
    cells, radius = batch.cell.detach().double().numpy(), float(torch.as_tensor(reach).max())
    moves = np.zeros((len(x), 3))
    origins, shifts = [], []
    for number, periodic in enumerate(batch.periodic.tolist()):
        mine = np.flatnonzero(of_particles == number)
        if not any(periodic):
            origins.append(mine)
            shifts.append(np.zeros((len(mine), 3)))
            continue
        lattice = cell_of(cells[number], periodic)
        d = lattice.n_periodic
        atoms = of_atoms == number
        outward, inward = lattice.images(x[atoms]), lattice.images(s[mine])
        moves[atoms] = outward[:, :d] @ lattice.choice
        images = images_within(s[mine] + inward @ lattice.vectors, lattice, radius)
        # of a molecule in a wide cell most images are far from every atom
        inside, slack = x[atoms] + outward @ lattice.vectors, radius + _SLACK
        low, high = inside.min(axis=0) - slack, inside.max(axis=0) + slack
        near = ((images.points >= low) & (images.points <= high)).all(axis=1)
        origin = images.origin[near]
        origins.append(mine[origin])
        shifts.append((images.steps[near] + inward[origin])[:, :d] @ lattice.choice)
    origin = torch.from_numpy(np.concatenate(origins))
    index = batch.batch, batch.mm_batch.index_select(0, origin)
    particles = _moved(
        batch.mm_positions.index_select(0, origin), np.concatenate(shifts), batch.cell, index[1]
    )
    atoms_inside = _moved(batch.positions, moves, batch.cell, index[0])
    return Around(atoms_inside, particles, batch.mm_moments.index_select(0, origin), index)


def _moved(points: Tensor, shifts: np.ndarray, cells: Tensor, index: Tensor) -> Tensor:
    """Return points moved by lattice vectors of their systems."""
    numbers = torch.from_numpy(shifts).to(points.dtype)
    return points + (numbers[:, :, None] * cells.index_select(0, index)).sum(1)
