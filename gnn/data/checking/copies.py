"""Frames with the same geometry in two sets, in memory or streamed from a file.

Two frames are copies where atoms, charge, surroundings and fields are the same, wherever they lie
in space. Atoms are compared first: the surroundings, most of what a file holds, are read only for
frames whose atoms agree.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from gnn.data.streaming import Header, StreamedFrames
from gnn.data.systems import Frame

_SAME = 4  # decimals in Å to which coordinates are compared


class Copies:
    """Finds frames of geometries that were seen before."""

    def __init__(self) -> None:
        self._alike: dict[Hashable, list[tuple[Sequence[Frame], int]]] = {}
        self._whole: dict[Hashable, set[Hashable]] = {}

    def add(self, frames: Sequence[Frame]) -> None:
        """Remember the geometries of some frames."""
        for i, key in _atoms(frames):
            self._alike.setdefault(key, []).append((frames, i))

    def count(self, frames: Sequence[Frame]) -> int:
        """Return how many frames have a geometry that was seen."""
        return sum(
            _whole(frames[i]) in self._of(key) for i, key in _atoms(frames) if key in self._alike
        )

    def _of(self, key: Hashable) -> set[Hashable]:
        """Return the full geometries, with surroundings, of the frames whose atoms agree."""
        mine = self._alike[key]
        whole = self._whole.setdefault(key, set())
        whole.update(_whole(frames[i]) for frames, i in mine)
        mine.clear()
        return whole


def _atoms(frames: Sequence[Frame]) -> Iterator[tuple[int, Hashable]]:
    """Yield the index of each frame and a key of its elements, charge and centred positions."""
    if isinstance(frames, StreamedFrames):
        headers: Sequence[Frame | Header] = list(frames.headers())
        places = frames.positions()
    else:
        headers, places = frames, enumerate(f.system.positions for f in frames)
    for i, x in places:
        system = headers[i].system
        centred = _rounded(x - x.mean(axis=0, dtype=np.float64))
        yield i, (system.numbers.tobytes(), system.charge, system.n_mm, hash(centred))


def _whole(frame: Frame) -> Hashable:
    system = frame.system
    parts: list[Hashable] = [system.charge, system.periodic]
    centre = system.positions.mean(axis=0)
    for name in (field.name for field in fields(system)):
        values = getattr(system, name)
        if isinstance(values, np.ndarray):
            parts.append(_rounded(values - centre if name.endswith("positions") else values))
    return hash(tuple(parts))


def _rounded(values: NDArray[np.float64]) -> bytes:
    return (np.round(values, _SAME) + 0.0).astype(np.float64).tobytes()
