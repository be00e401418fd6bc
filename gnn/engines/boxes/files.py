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


def in_angstrom(lengths: Any) -> Array:
    """Return lengths of OpenMM, with a unit, as an array in Å."""
    from openmm import unit

    return np.array(lengths.value_in_unit(unit.angstrom), dtype=np.float64)
