"""The box that ships: methanol in water."""

import gzip
import tempfile
from pathlib import Path

from gnn.engines.boxes.amber import amber_box
from gnn.engines.boxes.box import Box
from multipoles.files import atomic_write


def shipped_box(folder: Path) -> None:
    """Put methanol in 368 TIP3P waters, equilibrated (GAFF2, AM1-BCC), into a folder.

    The files are Amber's: ``solute.prmtop`` and ``solute.rst7``.
    """
    for path in (Path(__file__).parent.parent / "methanol").glob("*.gz"):
        with atomic_write(folder / path.stem) as temporary:
            temporary.write_bytes(gzip.decompress(path.read_bytes()))


def methanol_in_water() -> Box:
    """Return the box of `shipped_box`."""
    with tempfile.TemporaryDirectory() as folder:
        shipped_box(Path(folder))
        return amber_box(Path(folder) / "solute.prmtop", Path(folder) / "solute.rst7")
