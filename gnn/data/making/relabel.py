"""Labels for frames that others made: those that a run saved because its model knew no better."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnn.data.elements import symbol
from gnn.data.formats.by_suffix import read_frames, write_frames
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.making.finished import check_out
from gnn.data.making.labelling import FITTING_BASIS, NotConverged, label, level_of
from gnn.data.systems import Frame, System

_EVERY = 10  # frames between writing, since the file is written whole


@dataclass(frozen=True)
class Theory:
    """How frames are labelled: arguments of `gnn.data.making.labelling.label`.

    Parameters
    ----------
    level, grid_level, density_fit
        As there.
    """

    level: str = "B3LYP/6-31G*"
    grid_level: int = 2
    density_fit: bool = False

    def remarks(self) -> dict[str, str]:
        """Return what the file says of it."""
        fitting = FITTING_BASIS if self.density_fit else "none"
        return {"level": self.level, "density_fit": fitting, "grid_level": str(self.grid_level)}


def label_frames(
    frames: Sequence[Frame],
    out: Path,
    theory: Theory,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[int, int]:
    """Label frames by quantum chemistry, and write them to a file that is continued.

    A frame that the file holds already, with the same atoms, charges and places, keeps its labels.
    One whose self-consistent field does not converge is left out, with a warning.

    Parameters
    ----------
    frames
        Their own labels are not used.
    out
        HDF5 file, which keeps the level.
    theory
        Of the labels.
    progress
        Called with the number of frames done, of all, and a line.

    Returns
    -------
    int, int
        Frames in the file, and frames left out.

    Raises
    ------
    ValueError
        If there are no frames, the level is none that PySCF knows, a frame is in a cell or has an
        odd number of electrons; or the file holds frames of another level.
    """
    check_out(out)
    if not frames:
        raise ValueError("expected at least one frame to label, got none")
    elements = {symbol(int(z)) for frame in frames for z in frame.system.numbers}
    level_of(theory.level, elements)
    for i, frame in enumerate(frames):
        _check(i, frame.system)
    there = {_key(one.system): one for one in _before(out, theory)}
    done: list[Frame] = []
    lost = 0
    for i, frame in enumerate(frames):
        labelled = there.pop(_key(frame.system), None)
        told = "labelled before"
        if labelled is None:
            labelled, told = _labelled(i, frame, theory)
        lost += labelled is None
        done += [labelled] if labelled is not None else []
        if done and (i % _EVERY == _EVERY - 1 or i == len(frames) - 1):
            write_frames(out, [*there.values(), *done], attributes=theory.remarks())
        if progress is not None:
            progress(i + 1, len(frames), told)
    return len(there) + len(done), lost


def _before(out: Path, theory: Theory) -> list[Frame]:
    """Return the frames of a file that is continued."""
    if not out.is_file():
        return []
    remarks, _, _ = read_remarks(out)
    for name, value in theory.remarks().items():
        if (found := remarks.get(name, "unknown")) != value:
            raise ValueError(
                f"{out} holds frames of {name} {found}, not {value}: name another file by --output"
            )
    return read_frames(out)


def _labelled(i: int, frame: Frame, theory: Theory) -> tuple[Frame | None, str]:
    try:
        labels, _ = label(
            frame.system,
            theory.level,
            grid_level=theory.grid_level,
            density_fit=theory.density_fit,
        )
    except NotConverged as error:
        warnings.warn(f"frame {i} is left out: {error}", stacklevel=2)
        return None, str(error)
    made = Frame(frame.system, **labels, name=frame.name, group=frame.group, run=frame.run)
    return made, f"energy {labels['energy']:.3f} eV"


def _check(i: int, system: System) -> None:
    """Refuse what PySCF would compute as something else, or not at all."""
    if system.in_cell:
        raise ValueError(f"frame {i} is in a cell: labels are made of molecules among charges")
    electrons = int(system.numbers.sum()) - int(system.charge)
    if electrons % 2:
        raise ValueError(
            f"frame {i} has {electrons} electrons (charge {system.charge:+d} e): expected an even "
            "number, labels are those of closed shells"
        )


def _key(system: System) -> bytes:
    """Return what tells a system from others: extxyz keeps eight decimals."""
    places = [np.round(x, 6) + 0.0 for x in (system.positions, system.mm_positions)]
    parts = [system.numbers.tobytes(), str(system.charge).encode(), *(x.tobytes() for x in places)]
    return b"|".join(parts)
