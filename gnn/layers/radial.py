"""Radial basis of the edges: Bessel functions under an envelope that is smooth at the cutoff."""

import math

import torch
from torch import Tensor, nn

from gnn.operators.fused import bessel, edge_geometry


class RadialBasis(nn.Module):
    """Bessel basis sqrt(2/c) sin(n pi r/c) / r times the envelope.

    Parameters
    ----------
    cutoff : float
        Cutoff radius c in Å.
    size : int
        Number of functions, n = 1 … size.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, size: int):
        super().__init__()
        self.cutoff, self.scale = cutoff, math.sqrt(2 / cutoff)
        frequencies = torch.arange(1, size + 1, dtype=torch.float64) * (math.pi / cutoff)
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()))

    def forward(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the basis (E, size) and the envelope (E, 1) at distances of shape (E, 1)."""
        return bessel(distances, self.frequencies, self.cutoff, self.scale)

    def of_edges(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return lengths (E,), directions (E, 3), envelope and basis of vectors (E, 3)."""
        return edge_geometry(vectors, self.frequencies, self.cutoff, self.scale)
