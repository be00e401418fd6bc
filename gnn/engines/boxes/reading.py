"""One door to boxes in files of several programs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gnn.engines.boxes.amber import amber_box
from gnn.engines.boxes.box import Box
from gnn.engines.boxes.charmm import charmm_box
from gnn.engines.boxes.gromacs import gromacs_box
from gnn.engines.boxes.pdb import Preparation, pdb_box
from gnn.engines.embedding.images import Array

_STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx")
_AMBER = (".prmtop", ".parm7")


def read(
    path: Path,
    coordinates: Path | None = None,
    *,
    parameters: Sequence[Path] = (),
    preparation: Preparation | None = None,
    lengths: Sequence[float] | None = None,
    say: Callable[[str], None] = print,
) -> Box:
    """Return the box of a file, or of a topology and its coordinates.

    Parameters
    ----------
    path
        A structure (``.pdb``, ``.cif``), or a topology of Amber (``.prmtop``), GROMACS (``.top``)
        or CHARMM (``.psf``).
    coordinates
        Of a topology.
    parameters
        Of CHARMM.
    preparation : Preparation, optional
        Of a structure: force field, hydrogens, water.
    lengths
        Of a rectangular box in Å, where the files have none.
    say
        Takes lines that say what was done.

    Returns
    -------
    Box
        Topology, classical system, positions and box vectors.

    Raises
    ------
    OSError, ValueError, ImportError
        If files or packages are missing, or do not fit; the message says which.
    """
    kind = _kind(path)
    vectors = None if lengths is None else _vectors(lengths)
    if kind == "structure":
        if coordinates is not None or parameters:
            raise ValueError(
                f"{path} has coordinates of its own, and its force field by --forcefield: leave "
                "out --coordinates and --parameters"
            )
        return pdb_box(path, preparation or Preparation(), vectors, say)
    if preparation is not None:
        raise ValueError(
            f"{path} comes with force field and hydrogens: --forcefield, --solvate, "
            "--ionic-strength and --ph are for PDB and mmCIF files"
        )
    if coordinates is None:
        raise ValueError(f"{path} is a topology and needs --coordinates")
    if kind == "CHARMM":
        return charmm_box(path, coordinates, parameters, vectors)
    if parameters or vectors is not None:
        raise ValueError("--parameters and --box are for CHARMM's files (.psf)")
    return amber_box(path, coordinates) if kind == "Amber" else gromacs_box(path, coordinates)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if suffix in _STRUCTURES:
        return "structure"
    if suffix in _AMBER:
        return "Amber"
    if suffix == ".psf":
        return "CHARMM"
    if suffix == ".top":  # of Amber, too, in old recipes
        with path.open("rb") as file:
            return "Amber" if file.read(8) == b"%VERSION" else "GROMACS"
    raise ValueError(
        f"{path}: expected a structure ({', '.join(_STRUCTURES)}) or a topology of Amber "
        "(.prmtop, .parm7), GROMACS (.top) or CHARMM (.psf)"
    )


def _vectors(lengths: Sequence[float]) -> Array:
    box = np.asarray(lengths, dtype=np.float64)
    if box.shape != (3,) or not (np.isfinite(box).all() and box.min() > 2.0):
        raise ValueError(f"expected --box with three lengths in Å, got {list(lengths)}")
    return np.diag(box)
