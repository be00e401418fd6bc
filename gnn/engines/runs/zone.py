"""What keeps the model's zone in one image, in a run."""

from collections.abc import Sequence
from typing import Any

from gnn.engines.embedding.images import Tree
from gnn.engines.embedding.topology import bonds_among, held_together


def zone_tree(topology: Any, atoms: Sequence[int]) -> Tree:
    """Return bonds along which a zone is made whole, its molecules near the first one."""
    return Tree(held_together(atoms, bonds_among(topology, atoms)), topology.getNumAtoms())
