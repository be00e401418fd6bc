"""Multipoles that surrounding charges induce on atoms, of learned range."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn.operators.edges import anisotropic_state
from gnn.published.layers import ORDER, BesselBasis, perceptron
from gnn.published.pairs import Pairs


class Polarisation(nn.Module):
    """Sums over charges near an atom, sum_m q_m c_l(R) Y_l(u) / R², for dipole and quadrupole.

    c_l is a network of Bessel functions of the distance, times their envelope; u points from the
    atom to the charge.

    Parameters
    ----------
    cutoff : float
        Reach in Å.
    n_radial : int
        Number of Bessel functions.
    scaling : float
        Factor on everything.
    """

    def __init__(self, cutoff: float, n_radial: int, scaling: float):
        super().__init__()
        self.cutoff, self.scaling = cutoff, scaling
        self.radial = BesselBasis(cutoff, n_radial)
        self.network = perceptron(n_radial, n_radial, 1, ORDER)

    def forward(self, vectors: Tensor, pairs: Pairs, charges: Tensor, n_atoms: int) -> Tensor:
        """Return the sums (N, 10) for pairs (P,) of an atom and a charge and vectors (P, 3)."""
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        basis, fade = self.radial(distances)
        scale = fade * charges.index_select(0, pairs.second)[:, None] / distances.square()
        weights = functional.pad(self.network(basis) * (scale * self.scaling), (1, 0))
        directions = vectors / distances
        sums = anisotropic_state(weights[:, :, None], directions, pairs.first, n_atoms, ORDER)
        return sums[:, :, 0]
