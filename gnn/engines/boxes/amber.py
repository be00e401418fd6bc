"""Boxes from Amber's files."""

from pathlib import Path
from typing import Any

from gnn.engines.boxes.box import OPTIONS, Box, check_positions, set_vectors, whole
from gnn.engines.boxes.files import check_counts, in_angstrom, parsed
from gnn.engines.boxes.naming import is_water
from gnn.engines.embedding.images import Array
from gnn.engines.openmm import classical_system


def amber_box(prmtop: Path, coordinates: Path) -> Box:
    """Return the box of an Amber topology and its coordinates.

    Residues and atoms have the names of the file, waters those of the Protein Data Bank.

    Parameters
    ----------
    prmtop, coordinates
        Such as ``box.prmtop`` and ``box.rst7``.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is of another kind, or the two do not fit; the message names the file.
    """
    topology, start = read_amber(prmtop, coordinates)
    system = classical_system(topology.topology, topology, OPTIONS)
    _restore_names(topology)
    return Box(topology.topology, system, *start_of(start))


def read_amber(prmtop: Path, coordinates: Path) -> tuple[Any, Any]:
    """Read topology and coordinates of a periodic box from Amber's files.

    Parameters
    ----------
    prmtop, coordinates
        Such as ``box.prmtop`` and ``box.rst7``.

    Returns
    -------
    openmm.app.AmberPrmtopFile, openmm.app.AmberInpcrdFile
        The topology has the box of the coordinates; molecules are whole.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is of another kind, or the two do not fit; the message names the file.
    """
    from openmm import app, unit

    topology = parsed(prmtop, app.AmberPrmtopFile, "Amber topology (prmtop)")
    start = parsed(coordinates, app.AmberInpcrdFile, "Amber coordinates (rst7, inpcrd)")
    check_counts(coordinates, start.positions, prmtop, topology.topology)
    if start.boxVectors is None:
        raise ValueError(
            f"{coordinates} has no box: a run needs a periodic box of solvent (as tleap's "
            "solvateBox makes it), whose lengths stand in the last line of the file"
        )
    positions, vectors = start_of(start)
    check_positions(str(coordinates), topology.topology, positions, vectors)
    set_vectors(topology.topology, vectors)
    start.positions = unit.Quantity(whole(topology.topology, positions, vectors), unit.angstrom)
    return topology, start


def start_of(coordinates: Any) -> tuple[Array, Array]:
    """Return positions (n, 3) and box vectors (3, 3) of an AmberInpcrdFile in Å."""
    return in_angstrom(coordinates.positions), in_angstrom(coordinates.boxVectors)


def _restore_names(prmtop: Any) -> None:
    """Give residues and atoms the names of the file, which OpenMM's reader replaces by label.

    What a label means elsewhere (``SOL``: water in some programs, any solute in others) says
    nothing about the atoms. Waters keep the names that readers of PDB files know.
    """
    labels = prmtop._prmtop._raw_data["ATOM_NAME"]
    for residue in prmtop.topology.residues():
        first = next(residue.atoms()).index
        if is_water(residue):
            continue
        residue.name = prmtop._prmtop.getResidueLabel(iAtom=first).strip()
        for atom in residue.atoms():
            atom.name = labels[atom.index].strip() or atom.name
