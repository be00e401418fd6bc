"""Reading and writing frames: one entry for all file formats."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import LABELS
from gnn.data.systems import Frame
from multipoles.files import atomic_write

_PACKED = (".gz", ".bz2", ".xz", ".zip")


def _format_of(path: Path) -> str:
    formats = {".h5": "hdf5", ".hdf5": "hdf5", ".xyz": "extxyz", ".extxyz": "extxyz"}
    try:
        return formats[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{path}: cannot tell the format from the suffix {path.suffix!r}; expected "
            f"{', '.join(formats)}" + (": unpack it first" if path.suffix in _PACKED else "")
        ) from None


def check_required(path: Path, frames: Sequence[Frame], require: Iterable[str], hint: str) -> None:
    """Raise a ValueError naming the first frame that lacks a required label, and what was found."""
    require = tuple(require)
    unknown = sorted(set(require) - set(LABELS))
    if unknown:
        raise ValueError(f"require: unknown label {unknown[0]!r}; known are {', '.join(LABELS)}")
    for index, frame in enumerate(frames):
        missing = [name for name in require if getattr(frame, name) is None]
        if frame.system.n_mm == 0:  # no charges for forces to act on
            missing = [name for name in missing if name != "mm_forces"]
        if missing:
            found = [name for name in LABELS if getattr(frame, name) is not None]
            raise ValueError(
                f"{path}: frame {index} has no {', '.join(missing)} "
                f"(labels found: {', '.join(found) or 'none'}). {hint}"
            )


def read_frames(
    path: str | os.PathLike[str],
    *,
    require: Iterable[str] = (),
    names: Iterable[str] | None = None,
    vacuum: bool = False,
    keys: Mapping[str, str] | None = None,
    run_names: dict[str, int] | None = None,
) -> list[Frame]:
    """Read frames from HDF5 (.h5, .hdf5) or extended XYZ (.xyz, .extxyz).

    Parameters
    ----------
    path
        The file. The layouts are described in :mod:`gnn.data.formats.hdf5` and
        :mod:`gnn.data.formats.extxyz`.
    require
        Labels that every frame must have, of "energy", "forces", "mm_forces", "dipole" and
        "stress".
    names
        Only frames of molecules with these names. None: all.
    vacuum
        HDF5 only: the same geometries without point charges, with the labels computed in vacuum.
    keys
        extxyz only: other keys than the default ones, such as ``{"energy": "dft_energy"}``. One
        that is named must be there; labels and surroundings in some of the frames.
    run_names
        extxyz only: numbers of runs that have names, to which new ones are added. Given for one
        file after the other, a name means one run in all of them.

    Returns
    -------
    list of Frame
        In the order of the file; eV, Å, e.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is unknown, a unit is another, a key is missing, the total charge is
        contradictory (:func:`gnn.data.charge.find_charge`) or the content is wrong.

    Warns
    -----
    UserWarning
        Of what is there and not used: labels under names that were not mapped, keys like that of
        a charge or a unit, stress; with the number of frames.
    """
    path = Path(path)
    kind = _format_of(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} (looked in {path.resolve().parent})")
    if kind == "hdf5":
        from gnn.data.formats.hdf5 import read_hdf5

        if keys:
            raise ValueError(f"{path}: keys can be renamed for extxyz files only")
        frames = read_hdf5(path, names=names, vacuum=vacuum)
        check_required(path, frames, require, "Add these datasets to the group of the molecule.")
        return frames
    from gnn.data.formats.extxyz import read_extxyz

    if vacuum:
        raise ValueError(f"{path}: vacuum labels are kept in HDF5 files only")
    return read_extxyz(path, names=names, keys=keys, require=require, run_names=run_names)


def write_frames(
    path: str | os.PathLike[str],
    frames: Sequence[Frame],
    *,
    vacuum: Sequence[Frame] | None = None,
    attributes: Mapping[str, str] | None = None,
    dtype: Any = np.float64,
    mm_force_step: float = 0.0,
) -> None:
    """Write frames to HDF5 (.h5, .hdf5) or extended XYZ (.xyz, .extxyz), replacing the file.

    Parameters
    ----------
    path
        The file; a complete one appears at the end or, after an error, none.
    frames
        At least one.
    vacuum
        HDF5 only: for each frame the same atoms without point charges, with vacuum labels.
    attributes
        HDF5 only: remarks kept as attributes of the file, such as ``{"level": "HF/STO-3G"}``.
    dtype
        HDF5 only: np.float64, or np.float32 for positions, charges and forces (energies and
        dipoles stay float64).
    mm_force_step
        HDF5 only: forces on point charges are rounded to multiples of this, in eV/Å, which makes
        the file smaller; 0 keeps all digits.

    Raises
    ------
    ValueError
        If the suffix is unknown, there are no frames, or `vacuum` does not match them.
    """
    path = Path(path)
    kind = _format_of(path)
    frames = list(frames)
    if not frames:
        raise ValueError(f"{path}: expected at least one frame to write, got none")
    for frame in frames:
        if not isinstance(frame, Frame):
            raise TypeError(f"expected Frame objects, got {type(frame).__name__}")
    if kind == "hdf5":
        from gnn.data.formats.hdf5_writer import write_hdf5

        with atomic_write(path) as temporary:
            write_hdf5(temporary, frames, vacuum, attributes, dtype, mm_force_step)
        return
    from gnn.data.formats.extxyz import write_extxyz

    if vacuum is not None or attributes:
        raise ValueError(f"{path}: vacuum labels and attributes are kept in HDF5 files only")
    with atomic_write(path) as temporary:
        write_extxyz(temporary, frames)
