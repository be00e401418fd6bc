"""A periodic box: topology, classical system and coordinates; checked, and kept in a folder.

Nothing here knows the program that the box came from: the force field is a system that OpenMM
serialized, with bonds, elements and names beside it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.boxes.topology import from_json, to_json
from gnn.engines.embedding.images import Array, Tree, nearest_image
from gnn.units import NANOMETER
from gnn.untrusted import read_json, read_npz
from multipoles.files import atomic_write

#: Files of a box in a folder.
SYSTEM, TOPOLOGY, COORDINATES = "system.xml", "topology.json", "coordinates.npz"
#: Options with which force fields make a system, beside `classical_system`'s own.
OPTIONS: dict[str, Any] = {"ewaldErrorTolerance": 1e-5}
_BONDS = (0.5, 3.5)  # Å; shortest and longest equilibrium bond of a force field


@dataclass
class Box:
    """A periodic box with a force field.

    Attributes
    ----------
    topology : openmm.app.Topology
        Bonds, elements, names; with the vectors of the box.
    system : openmm.System
        All of it classical.
    positions
        In Å, (n, 3); atoms that are bonded in one image.
    vectors
        Box vectors as rows in Å, (3, 3), in reduced form.
    """

    topology: Any
    system: Any
    positions: Array
    vectors: Array


def checked(source: str, topology: Any, system: Any, positions: Array, vectors: Array) -> Box:
    """Return a box with whole molecules, or refuse what is none.

    Parameters
    ----------
    source
        Of the coordinates, for messages.
    topology : openmm.app.Topology
        Gets the vectors of the box.
    system : openmm.System
        With as many particles.
    positions, vectors
        (n, 3) and (3, 3) in Å.

    Raises
    ------
    ValueError
        If positions are NaN, velocities or in other units, the box has no volume, or numbers of
        atoms differ.

    Notes
    -----
    Molecules that a program has cut at the walls of the box come back whole: constraints and
    bonds of OpenMM know no images.
    """
    count = topology.getNumAtoms()
    if not len(positions) == count == system.getNumParticles():
        raise ValueError(
            f"{source}: expected positions and particles of {count} atoms, got {len(positions)} "
            f"and {system.getNumParticles()}"
        )
    check_positions(source, topology, positions, vectors)
    set_vectors(topology, vectors)
    return Box(topology, system, whole(topology, positions, vectors), vectors)


def check_positions(source: str, topology: Any, positions: Array, box: Array) -> None:
    """Refuse coordinates that are NaN, velocities or in other units, and a box without volume.

    Parameters
    ----------
    source
        Of the coordinates, for messages.
    topology : openmm.app.Topology
        Its bonds.
    positions, box
        (n, 3) and (3, 3) in Å.
    """
    wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(wrong):
        raise ValueError(f"{source}: positions of {len(wrong)} atoms are NaN (first: {wrong[0]})")
    if not (np.isfinite(box).all() and np.diag(box).min() > 1.0):
        lengths = ", ".join(f"{length:g}" for length in np.diag(box))
        raise ValueError(f"{source}: expected a box of some volume, got {lengths} Å")
    real = (b for b in topology.bonds() if all(atom.element is not None for atom in b))
    bonds = np.array([(bond[0].index, bond[1].index) for bond in real], dtype=int)
    if not len(bonds):
        return
    lengths = np.linalg.norm(
        nearest_image(positions[bonds[:, 0]] - positions[bonds[:, 1]], box), axis=1
    )
    odd = np.flatnonzero((lengths < _BONDS[0]) | (lengths > _BONDS[1]))
    if len(odd):
        atoms = list(topology.atoms())
        first, second = (atoms[i] for i in bonds[odd[0]])
        raise ValueError(
            f"{source}: {len(odd)} of {len(bonds)} bonds are shorter than {_BONDS[0]} Å or longer "
            f"than {_BONDS[1]} Å (first: {first.name}–{second.name}, atoms {first.index} and "
            f"{second.index}, {lengths[odd[0]]:.2f} Å): these are not coordinates in Å of the "
            "topology's atoms (velocities, another unit or order?)"
        )


def whole(topology: Any, positions: Array, box: Array) -> Array:
    """Return positions (n, 3) in Å, with atoms that are bonded in one image.

    Parameters
    ----------
    topology : openmm.app.Topology
        Its bonds.
    positions, box
        (n, 3) and (3, 3) in Å.
    """
    bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    return Tree(bonds, len(positions)).whole(positions, box)


def set_vectors(topology: Any, vectors: Array) -> None:
    """Give a topology the box vectors (3, 3) in Å."""
    topology.setPeriodicBoxVectors(vectors_of(vectors))


def vectors_of(vectors: Array) -> list[Any]:
    """Return box vectors (3, 3) in Å as OpenMM has them, in nm."""
    from openmm import Vec3

    return [Vec3(*row) for row in (vectors / NANOMETER).tolist()]


# --- in a folder ----------------------------------------------------------------------------------


def has_box(folder: Path) -> bool:
    """Return whether a folder holds a box."""
    return all((folder / name).is_file() for name in (SYSTEM, TOPOLOGY, COORDINATES))


def write_box(folder: Path, box: Box) -> None:
    """Write ``system.xml``, ``topology.json`` and ``coordinates.npz`` to a folder."""
    import openmm

    text = openmm.XmlSerializer.serialize(box.system)
    with atomic_write(folder / SYSTEM) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_write(folder / TOPOLOGY) as temporary:
        temporary.write_text(json.dumps(to_json(box.topology)), encoding="utf-8")
    with atomic_write(folder / COORDINATES) as temporary:
        np.savez(temporary, positions=box.positions, vectors=box.vectors)


def read_box(folder: Path) -> Box:
    """Return the box that a folder holds.

    Raises
    ------
    OSError
        If there is none.
    ValueError
        If a file is damaged; the message names it.
    """
    import openmm

    missing = [name for name in (SYSTEM, TOPOLOGY, COORDINATES) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} holds no box: no file {', '.join(missing)}")
    path = folder / SYSTEM
    try:
        system = openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8"))
        path = folder / TOPOLOGY
        topology = from_json(read_json(path))
        path = folder / COORDINATES
        arrays = read_npz(path)
        positions, vectors = arrays["positions"], arrays["vectors"]
    except OSError:
        raise
    except Exception as error:  # of XML, JSON, zip
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())})") from None
    set_vectors(topology, vectors)
    if not len(positions) == topology.getNumAtoms() == system.getNumParticles():
        raise ValueError(
            f"{folder}: topology, coordinates and system are not of one box: "
            f"{topology.getNumAtoms()}, {len(positions)} and {system.getNumParticles()} atoms"
        )
    return Box(topology, system, positions, vectors)
