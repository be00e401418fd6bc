"""A zone and its surroundings from a topology of OpenMM and the charges of a force field."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from gnn.data.parts import connected, derived_charges, given_charges
from gnn.data.values import float_array
from gnn.engines.embedding.frontier import Link
from gnn.engines.embedding.images import Array
from gnn.engines.embedding.redistribution import Frontier
from gnn.engines.embedding.zone import Sites, Surroundings, Zone


def bonds_among(topology: Any, qm: Sequence[int]) -> Array:
    """Return the bonds among some atoms, by their places in `qm`, (b, 2)."""
    place = {index: k for k, index in enumerate(qm)}
    return np.array(
        [
            [place[a.index] for a in bond]
            for bond in topology.bonds()
            if bond[0].index in place and bond[1].index in place
        ],
        dtype=np.int64,
    ).reshape(-1, 2)


def held_together(atoms: Sequence[int], bonds: Array) -> Array:
    """Return pairs of particles (h, 2) along which a zone is made whole.

    These are its bonds, and one pair for each further molecule, which so stays in the image that is
    nearest to the first one.

    Parameters
    ----------
    atoms
        Numbers of its atoms.
    bonds
        Among them, by their places in `atoms`, (b, 2).
    """
    _, first = np.unique(connected(len(atoms), bonds), return_index=True)
    side_by_side = np.stack([np.full(len(first) - 1, first[0]), first[1:]], axis=1)
    held: Array = np.asarray(atoms)[np.concatenate([bonds, side_by_side])]
    return held


def zone_of(
    topology: Any,
    qm: Sequence[int],
    charge: int,
    charges: Mapping[int, int] | Sequence[int] | None,
    local: bool,
    links: Sequence[Link] = (),
) -> Zone:
    """Return the zone of some atoms: whole molecules, or parts with link atoms.

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
    links
        Cut bonds. Their hydrogen atoms come last, in this order.

    Raises
    ------
    ValueError
        If charges do not fit.
    """
    atoms = list(topology.atoms())
    numbers = np.array([*(atoms[i].element.atomic_number for i in qm), *(1 for _ in links)])
    bonds = bonds_among(topology, qm)
    inner, outer = (np.array([pair[k] for pair in _ends(links)], dtype=np.int64) for k in (0, 1))
    beyond = [(link.outer, other) for link in links for other in link.others]
    held = np.concatenate(
        [
            held_together(qm, bonds),
            np.stack([inner, outer], axis=1),
            np.array(beyond, dtype=np.int64).reshape(-1, 2),
        ]
    )
    hydrogens = np.arange(len(qm), len(numbers))
    to_links = np.stack([np.searchsorted(qm, inner), hydrogens], axis=1)
    bonds = np.concatenate([bonds, to_links])
    formal = shares(numbers, bonds, charge, charges, len(qm)) if local else None
    return Zone(numbers, _places(qm, links, len(atoms)), charge, bonds, formal, held)


def _ends(links: Sequence[Link]) -> list[tuple[int, int]]:
    return [(link.inner, link.outer) for link in links]


def _places(qm: Sequence[int], links: Sequence[Link], particles: int) -> Sites:
    """Return where QM atoms and link atoms are."""
    atoms = Sites.of_particles(qm, particles)
    if not links:
        return atoms
    rows = np.repeat(np.arange(len(links)), 2)
    ratios = np.array([link.ratio for link in links])
    values = np.stack([1 - ratios, ratios], axis=1).ravel()
    shape = (len(links), particles)
    hydrogens = csr_array((values, (rows, np.array(_ends(links)).ravel())), shape=shape)
    return Sites(vstack([atoms.weights, hydrogens]))


def shares(
    numbers: Array,
    bonds: Array,
    total: int,
    charges: Mapping[int, int] | Sequence[int] | None,
    atoms: int | None = None,
) -> Array:
    """Return each atom's share of the charge of its molecule; the first `atoms` are no links."""
    atoms = len(numbers) if atoms is None else atoms
    if charges is None:
        return derived_charges(numbers, np.zeros((0, 3)), total, bonds)
    if not isinstance(charges, Mapping):
        given = float_array("charges", charges, (atoms,))
        charges = np.concatenate([given, np.zeros(len(numbers) - atoms)])  # type: ignore[assignment]
    found = given_charges(numbers, connected(len(numbers), bonds), charges)  # type: ignore[arg-type]
    if round(found.sum()) != total:
        raise ValueError(
            f"charges: they add up to {found.sum():g} e, but the total charge is {total}"
        )
    return found


def surroundings_of(
    topology: Any,
    qm: set[int],
    charges: Array,
    frontier: Frontier | None = None,
    links: Sequence[Link] = (),
) -> Surroundings:
    """Return the charges of all particles that are not QM atoms, in groups that are residues.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of all atoms.
    qm
        Numbers of QM atoms.
    charges
        Of all particles in e.
    frontier : Frontier, optional
        The charges near cut bonds, which go in place of these.
    links
        Cut bonds. The centre of a group at one of them is an atom there, so that it never fades.
    """
    others = [atom for atom in topology.atoms() if atom.index not in qm]
    particles = np.array([atom.index for atom in others], dtype=np.int64)
    if others and not charges[particles].any():
        warnings.warn(
            f"none of the {len(others)} particles around the QM atoms has a charge: the model "
            "computes them as in vacuum",
            stacklevel=3,
        )
    sites = Sites.of_particles(particles, topology.getNumAtoms())
    groups, centres = _groups(others)
    if frontier is None:
        return Surroundings(charges[particles], sites, groups, centres)
    _hold_near(particles, groups, centres, links)
    groups = np.concatenate([groups, groups[np.searchsorted(particles, frontier.hosts)]])
    order = np.argsort(groups, kind="stable")
    values = np.concatenate([frontier.charges[particles], frontier.extra])
    weights = vstack([sites.weights, frontier.weights]).tocsr()[order]
    centres = np.concatenate([centres, np.zeros(len(frontier.extra))])
    return Surroundings(values[order], Sites(weights), groups[order], centres[order])


def _hold_near(particles: Array, groups: Array, centres: Array, links: Sequence[Link]) -> None:
    """Move the centres of groups at cut bonds to an atom there, M1 before M2."""
    near = [link.outer for link in links] + [k for link in links for k in link.others]
    places = np.searchsorted(particles, near)
    found, first = np.unique(groups[places], return_index=True)
    centres[np.isin(groups, found)] = 0.0
    centres[places[first]] = 1.0


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
