"""Reading files by OpenMM's own readers, whose errors become one line that names the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.embedding.images import Array


def parsed(path: Path, reader: Callable[[str], Any], kind: str) -> Any:
    """Return what a reader makes of a file.

    Parameters
    ----------
    path, reader
        The reader is called with the path's text.
    kind
        What the file should be, for messages.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return reader(str(path))
    except (OSError, ImportError):
        raise
    except Exception as error:  # OpenMM's readers raise errors of many types
        with open(path, "rb") as file:
            start = " ".join(file.read(200).decode("ascii", "replace").split())
        shown = "".join(c for c in start if c.isprintable())[:40]
        raise ValueError(
            f"{path} does not read as {kind}: {f'it begins {shown!r}' if shown else 'it is empty'} "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None


def check_counts(coordinates: Path, positions: Any, path: Path, topology: Any) -> None:
    """Refuse coordinates of another number of atoms than a topology of OpenMM has.

    Parameters
    ----------
    coordinates, path
        Files of both, for the message.
    positions
        As many as atoms, hopefully.
    topology : openmm.app.Topology
        Of all atoms.
    """
    count = topology.getNumAtoms()
    if len(positions) != count:
        raise ValueError(
            f"{coordinates} has {len(positions)} atoms, {path} has {count}: they are not of the "
            "same box"
        )


def in_angstrom(lengths: Any) -> Array:
    """Return lengths of OpenMM, with a unit, as an array in Å."""
    from openmm import unit

    return np.array(lengths.value_in_unit(unit.angstrom), dtype=np.float64)
