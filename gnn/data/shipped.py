"""The QM/MM frames that come with the package; `README.md` beside this file describes them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gnn.data.formats.by_suffix import read_frames
from gnn.data.splits import Split, is_of, split_by_run
from gnn.data.systems import Frame

#: Molecules of which the model that ships saw no frame.
UNSEEN = ("nma", "ethanol", "acetaldehyde", "dimethylamine", "ethylammonium")
#: Blocks of runs of all others that it was trained on, chosen by, and tested on.
BLOCKS: dict[str, Any] = {"train": [1, 2, 3], "validation": [5], "test": [4]}


def shipped_path() -> Path:
    """Path of the shipped data, an HDF5 file (layout: :mod:`gnn.data.formats.hdf5`).

    Raises
    ------
    FileNotFoundError
        If the package was installed without its data.
    """
    path = Path(__file__).with_name("qmmm.h5")
    if not path.is_file():
        raise FileNotFoundError(
            f"the shipped data {path} is missing: reinstall anisole (in a clone: git checkout "
            "gnn/data/qmmm.h5)"
        )
    return path


def load_shipped(molecules: Iterable[str] | None = None, vacuum: bool = False) -> list[Frame]:
    """Read the shipped QM/MM frames.

    Parameters
    ----------
    molecules
        Names of molecules as `anisole data info shipped` lists them, such as "meoh" (methanol) or
        "h2o+2h2o" (water with two more waters). None: all.
    vacuum
        The same geometries without point charges, with the labels computed in vacuum.

    Returns
    -------
    list of Frame
        With energy, forces, mm_forces and dipole; `name`, `run` and `group` set. Split them with
        :func:`split_shipped`, never by frame.

    Raises
    ------
    FileNotFoundError
        If the package was installed without its data.
    ValueError
        If a molecule is not among them.
    """
    return read_frames(shipped_path(), names=molecules, vacuum=vacuum)


def split_shipped(frames: Sequence[Frame]) -> Split:
    """Split shipped frames as for the model that ships.

    Parameters
    ----------
    frames
        Of :func:`load_shipped`.

    Returns
    -------
    train, validation, test : lists of Frame
        Blocks 1 to 3, block 5 and block 4 of the molecular-dynamics runs. Frames of the molecules
        in `UNSEEN` are in none of them.

    Raises
    ------
    ValueError
        If a set is empty.
    """
    known = [frame for frame in frames if not is_of(frame.name, UNSEEN)]
    return split_by_run(known, **BLOCKS, by="block")
