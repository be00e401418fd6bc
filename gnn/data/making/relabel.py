"""Labels for frames that others made: those that a run saved because its model knew no better."""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import LABELS
from gnn.data.elements import symbol
from gnn.data.formats.by_suffix import read_frames, write_frames
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.making.finished import check_out
from gnn.data.making.labelling import FITTING_BASIS, label, level_of
from gnn.data.making.workers import Event, Here
from gnn.data.systems import Frame, System

_EVERY = 10  # frames between writing, at least, since the file is written whole


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


@dataclass(frozen=True, eq=False)
class LabelTask:
    """A frame to label: its number and what it holds."""

    index: int
    system: System

    def __str__(self) -> str:
        return f"frame {self.index}"


Work = Callable[[LabelTask], Iterator[dict[str, Any]]]


def label_frames(
    frames: Sequence[Frame],
    out: Path,
    theory: Theory,
    progress: Callable[[int, int, str], None] | None = None,
    workers: Callable[[Work], Any] = Here,
) -> tuple[int, int]:
    """Label frames by quantum chemistry, and write them to a file that is continued.

    A frame that the file holds already, with the same atoms, charges and places, keeps its labels,
    and one that occurs again among the frames gets the same. One whose self-consistent field does
    not converge, or that ends its worker, is left out, with a warning.

    The order in the file is that of the frames, behind others that it held, whoever labels them.

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
    workers
        Makes what does the work, such as `gnn.data.making.workers.Workers`, from the function that
        labels one frame; by default this process does.

    Returns
    -------
    int, int
        Frames in the file, and frames left out.

    Raises
    ------
    ValueError
        If there are no frames, the level is none that PySCF knows, a frame is in a cell or has an
        odd number of electrons; or the file holds frames of another level.
    OSError
        If the file cannot be written, or the workers are lost.
    """
    check_out(out)
    if not frames:
        raise ValueError("expected at least one frame to label, got none")
    elements = {symbol(int(z)) for frame in frames for z in frame.system.numbers}
    level_of(theory.level, elements)
    for i, frame in enumerate(frames):
        _check(i, frame.system)
    sheet = _Sheet(frames, out, theory, progress or _silence)
    try:
        with workers(partial(label_task, theory)) as team:
            for event in team.events(sheet.tasks()):
                if event.kind != "done":
                    sheet.take(event)
    finally:
        sheet.write()
    return len(sheet.others) + len(sheet.done), sheet.lost


def _silence(*_: Any) -> None:
    """Report no progress."""


class _Sheet:
    """Frames with the labels that they have so far, and the file that keeps them."""

    def __init__(
        self,
        frames: Sequence[Frame],
        out: Path,
        theory: Theory,
        progress: Callable[[int, int, str], None],
    ) -> None:
        self.frames, self.out, self.theory, self.progress = frames, out, theory, progress
        alike: dict[bytes, list[int]] = {}
        for i, frame in enumerate(frames):
            alike.setdefault(_key(frame.system), []).append(i)
        self.copies = {own[0]: own for own in alike.values()}
        self.done: dict[int, Frame] = {}
        self.lost = self.ended = self._written = 0
        self.others: list[Frame] = []  # of the file, which are not asked for
        before = _before(out, theory)
        for one in before:
            own = alike.get(_key(one.system))
            if own is None:
                self.others.append(one)
            elif own[0] not in self.done:
                self._label(own, {name: getattr(one, name) for name in LABELS}, "labelled before")
        if len(self.others) + len(self.done) == len(before):
            self._written = self.ended  # nothing is new

    def tasks(self) -> deque[LabelTask]:
        """Return what is to be labelled, of frames that are alike the first."""
        return deque(LabelTask(i, self.frames[i].system) for i in self.copies if i not in self.done)

    def take(self, event: Event) -> None:
        """Note the labels of a frame, or that it has none."""
        own = self.copies[event.task.index]
        if event.kind == "item":
            self._label(own, event.value, f"energy {event.value['energy']:.3f} eV")
        else:
            told = _left_out(event)
            self.lost += len(own)
            self._tell(own, told)
        if self.ended - self._written >= max(_EVERY, self.ended // 20):
            self.write()

    def _label(self, own: list[int], labels: dict[str, Any], told: str) -> None:
        for i in own:
            one = self.frames[i]
            self.done[i] = Frame(one.system, **labels, name=one.name, group=one.group, run=one.run)
        self._tell(own, told)

    def _tell(self, own: list[int], told: str) -> None:
        for _ in own:
            self.ended += 1
            self.progress(self.ended, len(self.frames), told)

    def write(self) -> None:
        """Write all that have labels, if any is new."""
        if self.done and self.ended > self._written:
            frames = [*self.others, *(self.done[i] for i in sorted(self.done))]
            write_frames(self.out, frames, attributes=self.theory.remarks())
            self._written = self.ended


def _left_out(event: Event) -> str:
    """Name a frame that has no labels, or raise an error that concerns all frames."""
    if isinstance(event.value, OSError | ImportError):
        raise event.value
    warnings.warn(f"{event.task} is left out: {event.value}", stacklevel=3)
    return str(event.value)


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


def label_task(theory: Theory, task: LabelTask) -> Iterator[dict[str, Any]]:
    """Yield the labels of one frame."""
    labels, _ = label(
        task.system,
        theory.level,
        grid_level=theory.grid_level,
        density_fit=theory.density_fit,
    )
    yield labels


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
