"""Boxes from CHARMM's files, which NAMD takes as well."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn.engines.boxes.box import OPTIONS, Box, checked, vectors_of
from gnn.engines.boxes.files import check_counts, in_angstrom, parsed
from gnn.engines.embedding.images import Array
from gnn.engines.openmm import classical_system

_COORDINATES = (".pdb", ".crd", ".cor", ".gro", ".rst7", ".inpcrd")


class _WithParameters:
    """A PSF file that makes a system like other files of parameters."""

    def __init__(self, psf: Any, parameters: Any):
        self._psf, self._parameters = psf, parameters

    def createSystem(self, **options: Any) -> Any:
        return self._psf.createSystem(self._parameters, **options)


def charmm_box(
    psf: Path, coordinates: Path, parameters: Sequence[Path], vectors: Array | None = None
) -> Box:
    """Return the box of a PSF file, its coordinates, and files of parameters.

    Parameters
    ----------
    psf, coordinates
        Such as ``box.psf`` and ``box.pdb`` (or ``.crd``, ``.gro``, ``.rst7``).
    parameters
        ``.prm``, ``.rtf`` and ``.str`` files.
    vectors
        Box vectors (3, 3) in Å. None: those of the coordinates.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is of another kind, or they do not fit; the message names the file.
    """
    from openmm import app

    if not parameters:
        raise ValueError(f"{psf} needs files of parameters: --parameters par_all36m_prot.prm …")
    for path in parameters:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    positions, own = _start(coordinates)
    vectors = own if vectors is None else vectors
    if vectors is None:
        raise ValueError(f"{coordinates} has no box: give its lengths in Å, --box A B C")
    rows = vectors_of(vectors)
    topology = parsed(
        psf, lambda name: app.CharmmPsfFile(name, periodicBoxVectors=rows), "CHARMM topology (psf)"
    )
    check_counts(coordinates, positions, psf, topology.topology)
    names = ", ".join(path.name for path in parameters)
    try:
        read = app.CharmmParameterSet(*map(str, parameters))
        system = classical_system(topology.topology, _WithParameters(topology, read), OPTIONS)
    except (OSError, ImportError):
        raise
    except Exception as error:  # of many types: what parameters lack
        raise ValueError(
            f"{psf} with the parameters {names}: {' '.join(str(error).split())} "
            f"({type(error).__name__})"
        ) from None
    return checked(str(coordinates), topology.topology, system, positions, vectors)


def _start(path: Path) -> tuple[Array, Array | None]:
    """Return positions, and the box vectors where the file has them, in Å."""
    from openmm import app

    readers = {
        ".pdb": app.PDBFile,
        ".crd": app.CharmmCrdFile,
        ".cor": app.CharmmCrdFile,
        ".gro": app.GromacsGroFile,
        ".rst7": app.AmberInpcrdFile,
        ".inpcrd": app.AmberInpcrdFile,
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected coordinates as {', '.join(_COORDINATES)}")
    read = parsed(path, readers[path.suffix.lower()], f"coordinates ({path.suffix})")
    if isinstance(read, app.PDBFile):
        vectors = read.topology.getPeriodicBoxVectors()
    elif isinstance(read, app.GromacsGroFile):
        vectors = read.getPeriodicBoxVectors()
    else:
        vectors = getattr(read, "boxVectors", None)
    return in_angstrom(read.positions), None if vectors is None else in_angstrom(vectors)
