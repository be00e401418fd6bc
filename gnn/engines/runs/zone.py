"""What keeps the model's zone in one image, in a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gnn.data.parts import connected
from gnn.engines.embedding.images import Tree


def zone_tree(topology: Any, atoms: Sequence[int]) -> Tree:
    """Return bonds along which a zone is made whole, its molecules near the first one."""
    place = {index: k for k, index in enumerate(atoms)}
    bonds = np.array(
        [
            [place[atom.index] for atom in bond]
            for bond in topology.bonds()
            if all(atom.index in place for atom in bond)
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    _, first = np.unique(connected(len(atoms), bonds), return_index=True)
    beside = np.stack([np.full(len(first) - 1, first[0]), first[1:]], axis=1)
    held = np.asarray(atoms)[np.concatenate([bonds, beside])]
    return Tree(held, topology.getNumAtoms())
