"""The QM/MM frames that come with the package; `README.md` beside this file describes them."""

from collections.abc import Iterable
from pathlib import Path

from gnn.data.formats.by_suffix import read_frames
from gnn.data.systems import Frame


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
        Of "meoh" (methanol, 600 frames), "mam" (methylammonium, 320), "oac" (acetate, 160) and
        "acoh" (acetic acid, 210). None: all.
    vacuum
        The same geometries without point charges, with the labels computed in vacuum.

    Returns
    -------
    list of Frame
        With energy, forces, mm_forces and dipole; `name` and `run` set. Split them by run
        (:func:`gnn.data.split_by_run`), never by frame.

    Raises
    ------
    FileNotFoundError
        If the package was installed without its data.
    ValueError
        If a molecule is not among them.
    """
    return read_frames(shipped_path(), names=molecules, vacuum=vacuum)
