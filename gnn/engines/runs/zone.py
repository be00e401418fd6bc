"""The model's zone in a run: its residues, and what keeps it in one image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gnn.data.parts import connected
from gnn.engines.embedding.images import Tree


def check_zone(topology: Any, atoms: Sequence[int]) -> list[Any]:
    """Return the residues that hold a zone's atoms.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of all atoms.
    atoms
        Numbers of the zone's atoms, sorted.

    Raises
    ------
    ValueError
        If there are none, they repeat or are beyond the atoms of the topology.
    """
    count = topology.getNumAtoms()
    if not len(atoms) or len(set(atoms)) < len(atoms) or atoms[0] < 0 or atoms[-1] >= count:
        raise ValueError(
            f"expected the model's atoms as different numbers from 0 to {count - 1}, at least one, "
            f"got {str(list(atoms))[:60]}"
        )
    inside = set(atoms)
    return [r for r in topology.residues() if any(atom.index in inside for atom in r.atoms())]


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
