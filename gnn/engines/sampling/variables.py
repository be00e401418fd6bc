"""Collective variables: what they are of positions, and as forces of OpenMM."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnn.engines.boxes.select import by_words
from gnn.engines.embedding.images import Array, nearest_image
from gnn.engines.sampling.plan import Point, VariablePlan, unit_of
from gnn.units import NANOMETER

_NO_BOX = (1e4, 1e4, 1e4)  # Å, for readers of selections
_EXPRESSIONS = {
    "distance": "distance(g1, g2)",
    "angle": "angle(g1, g2, g3)",
    "torsion": "dihedral(g1, g2, g3, g4)",
    "difference": "distance(g1, g2) - distance(g3, g4)",
}


@dataclass(frozen=True)
class Variable:
    """A collective variable of the atoms of a topology.

    Attributes
    ----------
    name, kind
        Kind: distance, angle, torsion or difference.
    groups
        Atoms of each point, with their shares in its place, which add up to 1.
    periodic
        Whether there is a box.
    """

    name: str
    kind: str
    groups: tuple[tuple[Array, Array], ...]
    periodic: bool

    @property
    def turns(self) -> bool:
        """Whether it is a torsion: -180 and 180 are the same."""
        return self.kind == "torsion"

    @property
    def unit(self) -> str:
        """In which it is given and logged."""
        return unit_of(self.kind)

    @property
    def scale(self) -> float:
        """What a value is multiplied by for OpenMM: nm of Å, radians of degrees."""
        return math.pi / 180 if self.unit == "degrees" else 1 / NANOMETER

    def force(self, energy: str, parameters: Mapping[str, float] = {}) -> Any:
        """Return a force of OpenMM whose energy is an expression in ``x``, this variable.

        Parameters
        ----------
        energy
            Such as ``"k/2*(x - c)^2"``; lengths in nm, angles in radians, kJ/mol.
        parameters
            Global parameters in it, and their values at first.
        """
        import openmm

        text = f"{energy}; x = {_EXPRESSIONS[self.kind]}"
        force = openmm.CustomCentroidBondForce(len(self.groups), text)
        for atoms, shares in self.groups:
            force.addGroup(atoms.tolist(), shares.tolist())
        force.addBond(list(range(len(self.groups))))
        for name, value in parameters.items():
            force.addGlobalParameter(name, value)
        force.setUsesPeriodicBoundaryConditions(self.periodic)
        force.setName(f"bias of {self.name}")
        return force

    def value(self, positions: Array, box: Array | None) -> float:
        """Return its value in Å or degrees at positions (n, 3) with whole molecules, in Å."""
        points = [shares @ positions[atoms] for atoms, shares in self.groups]
        box = box if self.periodic else None
        ends = np.diff(points, axis=0)
        vectors = nearest_image(ends, box)
        if self.kind == "distance":
            return float(np.linalg.norm(vectors[0]))
        if self.kind == "difference":
            return float(np.linalg.norm(vectors[0]) - np.linalg.norm(vectors[2]))
        if self.kind == "angle":
            first, second = -vectors[0], vectors[1]
            sine = np.linalg.norm(np.cross(first, second))
            return float(np.degrees(np.arctan2(sine, first @ second)))
        before, after = np.cross(vectors[0], vectors[1]), np.cross(vectors[1], vectors[2])
        sine = np.linalg.norm(vectors[1]) * (vectors[0] @ after)
        return float(np.degrees(np.arctan2(sine, before @ after)))


def variable_of(
    name: str, plan: VariablePlan, topology: Any, positions: Array, box: Array | None
) -> Variable:
    """Return a collective variable of a topology.

    Parameters
    ----------
    name, plan
        What it is called, and of what it is made.
    topology : openmm.app.Topology
        Elements, bonds, and what selections look at.
    positions, box
        (n, 3) and (3, 3) in Å, for selections by distance. Without a box distances are not between
        nearest images.

    Raises
    ------
    ValueError
        If a point is not of atoms of the topology, or of several molecules, which periodic images
        could take apart; or two points are the same.
    """
    vectors = np.diag(_NO_BOX) if box is None else box
    groups = tuple(_group(name, point, topology, positions, vectors) for point in plan.points)
    pairs = [(0, 1), (2, 3)] if plan.kind == "difference" else _all_pairs(len(groups))
    for i, j in pairs:
        if np.array_equal(groups[i][0], groups[j][0]):
            raise ValueError(f"{name}: points {i} and {j} are the same, {plan.points[i]!r}")
    return Variable(name, plan.kind, groups, box is not None)


def _all_pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _group(
    name: str, point: Point, topology: Any, positions: Array, vectors: Array
) -> tuple[Array, Array]:
    """Return the atoms of a point, and their shares by mass."""
    atoms = list(topology.atoms())
    if isinstance(point, str):
        chosen = by_words(topology, point, positions, vectors)
    else:
        chosen = [point] if isinstance(point, int) else list(point)
    wrong = [i for i in chosen if not 0 <= i < len(atoms)]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{name}: expected different atoms from 0 to {len(atoms) - 1}, got {point!r}"
        )
    if len(chosen) > 1:
        _check_one_molecule(name, point, chosen, topology)
    masses = np.array([_mass(atoms[i]) for i in chosen])
    if not masses.sum() > 0:
        raise ValueError(f"{name}: atoms of {point!r} have no mass")
    return np.array(chosen), masses / masses.sum()


def _mass(atom: Any) -> float:
    return 0.0 if atom.element is None else float(atom.element.mass._value)


def _check_one_molecule(name: str, point: Point, chosen: list[int], topology: Any) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    bonds = np.array([[b[0].index, b[1].index] for b in topology.bonds()]).reshape(-1, 2)
    count = topology.getNumAtoms()
    graph = coo_array((np.ones(len(bonds)), bonds.T), shape=(count, count))
    _, molecule = connected_components(graph, directed=False)
    found = len(set(molecule[chosen].tolist()))
    if found > 1:
        raise ValueError(
            f"{name}: {point!r} are {len(chosen)} atoms of {found} molecules, of which periodic "
            "images have no common centre: choose atoms of one molecule"
        )
