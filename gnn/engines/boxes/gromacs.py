"""Boxes from GROMACS's files."""

import os
from pathlib import Path

from gnn.engines.boxes.box import OPTIONS, Box, checked
from gnn.engines.boxes.files import check_counts, in_angstrom, parsed
from gnn.engines.openmm import classical_system


def gromacs_box(top: Path, gro: Path) -> Box:
    """Return the box of a GROMACS topology and its coordinates.

    Files that the topology includes are looked for beside it, and in the folder that the
    environment variable GMXLIB names.

    Parameters
    ----------
    top, gro
        Such as ``box.top`` and ``box.gro``.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is of another kind, or the two do not fit; the message names the file.
    """
    from openmm import app

    start = parsed(gro, app.GromacsGroFile, "GROMACS coordinates (gro)")
    vectors = start.getPeriodicBoxVectors()
    if vectors is None:
        raise ValueError(f"{gro} has no box: its last line holds no lengths")
    folder = os.environ.get("GMXLIB")

    def read(name: str) -> app.GromacsTopFile:
        return app.GromacsTopFile(name, periodicBoxVectors=vectors, includeDir=folder)

    try:
        topology = parsed(top, read, "GROMACS topology (top)")
    except ValueError as error:
        if "#include" not in str(error):
            raise
        raise ValueError(
            f"{error}: let the environment variable GMXLIB name the folder of GROMACS's force "
            "fields (share/gromacs/top)"
        ) from None
    check_counts(gro, start.positions, top, topology.topology)
    system = classical_system(topology.topology, topology, OPTIONS)
    places = in_angstrom(start.positions), in_angstrom(vectors)
    return checked(str(gro), topology.topology, system, *places)
