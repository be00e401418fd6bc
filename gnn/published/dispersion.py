"""Dispersion of AMP-BMS: pairs of atomic C6 coefficients with Becke-Johnson damping."""

import torch
from torch import Tensor, nn

from gnn.published.units import BOHR, HARTREE

# parameters of the functional that the model was trained on
S8, A1, A2 = 0.7761, 0.7514, 2.7099
#: Factors on free C6 coefficients up to this count as zero: they do not change the energy, but the
#: slope of their root overflows. Networks give such factors where atoms are much too close.
LEAST = 1e-24


def root(factors: Tensor) -> Tensor:
    """Return the square roots of factors >= 0, with a slope of zero where these are zero."""
    some = factors > LEAST
    return torch.where(some, factors, torch.ones_like(factors)).sqrt() * some


class Dispersion(nn.Module):
    """-sum_(i<j) C6_ij (1/(R^6 + R0^6) + s8 s_ij^2/(R^8 + R0^8)) in atomic units.

    C6_ij = sqrt(C6_i C6_j), where a network scales the coefficients of free atoms;
    R0 = a1 s_ij + a2. The tables are zero, and so is the energy, until weights are read.

    Parameters
    ----------
    elements : int
        Rows of the tables, by atomic number.

    Attributes
    ----------
    free, radii : Tensor
        (elements,) C6 of free atoms in Hartree Bohr^6, and s_i = 3^(1/4) sqrt(r4/r2).
    """

    free: Tensor
    radii: Tensor

    def __init__(self, elements: int):
        super().__init__()
        self.register_buffer("free", torch.zeros(elements))
        self.register_buffer("radii", torch.zeros(elements))

    def coefficients(self, factors: Tensor, numbers: Tensor) -> Tensor:
        """Return C6 in kJ Å^6 / mol, (N,), from factors on those of free atoms."""
        return factors * self.free[numbers] * (HARTREE * BOHR**6)

    def forward(
        self, distances: Tensor, first: Tensor, second: Tensor, factors: Tensor, numbers: Tensor
    ) -> Tensor:
        """Return the energy of each pair in kJ/mol, (P,), at distances (P,) in Å."""
        roots = root(factors) * self.free[numbers].sqrt()
        radii = self.radii[numbers]
        c6 = roots.index_select(0, first) * roots.index_select(0, second)
        s = radii.index_select(0, first) * radii.index_select(0, second)
        r2, r0 = (distances / BOHR).square(), (A1 * s + A2).square()
        r6, r06 = r2 * r2 * r2, r0 * r0 * r0
        return -HARTREE * c6 * (1 / (r6 + r06) + S8 * s * s / (r6 * r2 + r06 * r0))
