"""Repulsion of nuclei screened by their electrons (Ziegler, Biersack & Littmark 1985)."""

import torch
from torch import Tensor

from gnn.layers.walls import RATES, WEIGHTS
from gnn.operators.gpu import table
from gnn.published.units import BOHR, COULOMB

LENGTH = 0.8854 * BOHR
#: Where the repulsion begins to fade, and where it ends, in Å.
INNER, OUTER = 3.0, 4.0


def zbl(distances: Tensor, first: Tensor, second: Tensor, numbers: Tensor) -> Tensor:
    """Return the energy of each pair in kJ/mol, (P,), at distances (P,) in Å below `OUTER`."""
    charge = numbers.to(distances.dtype)
    power = charge**0.23
    rate = (power.index_select(0, first) + power.index_select(0, second)) / LENGTH
    x = -(rate * distances)[:, None] * table(RATES, distances)
    screening = torch.exp(x) @ table(WEIGHTS, distances)
    product = charge.index_select(0, first) * charge.index_select(0, second)
    t = ((distances - INNER) / (OUTER - INNER)).clamp(min=0)
    fade = 1 + t * t * t * (-10 + t * (15 - 6 * t))
    return COULOMB * product * screening * fade / distances
