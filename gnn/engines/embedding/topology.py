"""A zone and its surroundings from a topology of OpenMM and the charges of a force field."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnn.data.parts import connected, derived_charges, given_charges
from gnn.data.values import float_array
from gnn.engines.embedding.images import Array
from gnn.engines.embedding.zone import Sites, Surroundings, Zone


def zone_of(
    topology: Any,
    qm: Sequence[int],
    charge: int,
    charges: Mapping[int, int] | Sequence[int] | None,
    local: bool,
) -> Zone:
    """Return the zone of some atoms, whole molecules.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of all atoms.
    qm
        Their numbers, sorted.
    charge
        Their total charge in e.
    charges
        Formal charges by molecule or by atom; see `gnn.engines.openmm.create_system`.
    local
        Whether the model wants each atom's share of the charge of its molecule.

    Raises
    ------
    ValueError
        If charges do not fit.
    """
    atoms = list(topology.atoms())
    numbers = np.array([atoms[i].element.atomic_number for i in qm])
    place = {index: k for k, index in enumerate(qm)}
    bonds = np.array(
        [[place[a.index] for a in bond] for bond in topology.bonds() if bond[0].index in place],
        dtype=np.int64,
    ).reshape(-1, 2)
    molecule = connected(len(qm), bonds)
    _, first = np.unique(molecule, return_index=True)
    # molecules stay in the images that are nearest to the first one
    side_by_side = np.stack([np.full(len(first) - 1, first[0]), first[1:]], axis=1)
    held = np.asarray(qm)[np.concatenate([bonds, side_by_side])]
    formal = shares(numbers, bonds, charge, charges) if local else None
    return Zone(numbers, Sites.of_particles(qm, len(atoms)), charge, bonds, formal, held)


def shares(
    numbers: Array, bonds: Array, total: int, charges: Mapping[int, int] | Sequence[int] | None
) -> Array:
    """Return each QM atom's share of the charge of its molecule."""
    if charges is None:
        return derived_charges(numbers, np.zeros((0, 3)), total, bonds)
    if not isinstance(charges, Mapping):
        charges = float_array("charges", charges, (len(numbers),))  # type: ignore[assignment]
    found = given_charges(numbers, connected(len(numbers), bonds), charges)  # type: ignore[arg-type]
    if round(found.sum()) != total:
        raise ValueError(
            f"charges: they add up to {found.sum():g} e, but the total charge is {total}"
        )
    return found


def surroundings_of(topology: Any, qm: set[int], charges: Array) -> Surroundings:
    """Return the charges of all particles that are not QM atoms, in groups that are residues.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of all atoms.
    qm
        Numbers of QM atoms.
    charges
        Of all particles in e.
    """
    others = [atom for atom in topology.atoms() if atom.index not in qm]
    particles = [atom.index for atom in others]
    if others and not charges[particles].any():
        warnings.warn(
            f"none of the {len(others)} particles around the QM atoms has a charge: the model "
            "computes them as in vacuum",
            stacklevel=3,
        )
    sites = Sites.of_particles(particles, topology.getNumAtoms())
    return Surroundings(charges[particles], sites, *_groups(others))


def _groups(others: Sequence[Any]) -> tuple[Array, Array]:
    """Return the residue of each particle, and its weight in the centre of that residue."""
    numbers: dict[int, int] = {}
    groups = np.array(
        [numbers.setdefault(atom.residue.index, len(numbers)) for atom in others], dtype=np.int64
    )
    heavy = np.array(
        [atom.element is not None and atom.element.atomic_number > 1 for atom in others]
    )
    count = np.bincount(groups, heavy, len(numbers))
    share = np.where(heavy, 1.0, 0.0)
    if (count == 0).any():  # a residue without heavy atoms: all of its particles
        share = np.where(count[groups] == 0, 1.0, share)
        count = np.bincount(groups, share, len(numbers))
    return groups, share / count[groups]
