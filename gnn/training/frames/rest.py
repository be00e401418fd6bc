"""Two atoms alone, at rest: what a network is to say of pairs that no training frame has."""

from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
import torch

from gnn.data.systems import Frame, System

_CHARGES = (-1, 0, 1)
_DISTANCES = np.linspace(0.0, 0.6, 7)  # Å beyond the walls


def pairs_at_rest(border: Any, training: Sequence[Frame]) -> list[Frame]:
    """Return every pair of known elements alone, with no forces on it but those of the walls.

    A network is steep where it was never asked, so that walls meet a fall that they turn only
    pretty far inside. From these frames it learns to say nothing of two atoms that it does not
    know. They are no knowledge: they count neither for the extent nor for the domain.

    Parameters
    ----------
    border : gnn.layers.walls.Border
        Walls of the model, whose extent is set.
    training : sequence of Frame
        Training frames. Pairs that are among them are left out.
    """
    known = {
        (tuple(sorted(one.system.numbers.tolist())), one.system.charge)
        for one in training
        if one.system.n_atoms == 2
    }
    elements = sorted({int(z) for one in training for z in one.system.numbers})
    frames = []
    for pair, charge in product(combinations_with_replacement(elements, 2), _CHARGES):
        if (pair, charge) in known:
            continue
        shortest = float(border.shortest(*map(torch.tensor, pair)))
        for k, distance in enumerate(shortest + _DISTANCES):
            numbers = pair if k % 2 else pair[::-1]
            places = np.array([[0.0, 0, 0], [0, 0, distance]])
            system = System(np.array(numbers), places, charge, charges=np.array([charge, 0.0]))
            frames.append(Frame(system, forces=np.zeros((2, 3)), group="pair at rest"))
    return frames
