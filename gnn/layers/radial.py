"""Radial basis of the edges: Bessel functions under an envelope that is smooth at the cutoff."""

import math

import torch
from torch import Tensor, nn


def envelope(distances: Tensor, cutoff: float) -> Tensor:
    """Return a polynomial that falls from 1 to 0 at the cutoff, with two vanishing derivatives.

    ``1 - 28 x^6 + 48 x^7 - 21 x^8`` with x = r / cutoff (Gasteiger et al. 2020, eq. 8 with p = 6,
    without its 1/x, so that it stays bounded at short range), and zero beyond the cutoff. At the
    cutoff it goes to zero as (1 - x)^3: energies built from it are twice continuously
    differentiable.
    """
    x = distances / cutoff
    x2 = x * x
    x6 = x2 * x2 * x2
    value = 1 + x6 * (-28 + x * (48 - 21 * x))
    return value * (x < 1)


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
        self.cutoff = cutoff
        frequencies = torch.arange(1, size + 1, dtype=torch.float64) * (math.pi / cutoff)
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()))

    def forward(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the basis (E, size) and the envelope (E, 1) at distances of shape (E, 1)."""
        fade = envelope(distances, self.cutoff)
        waves = torch.sin(distances * self.frequencies)
        return waves * (fade * math.sqrt(2 / self.cutoff) / distances), fade
