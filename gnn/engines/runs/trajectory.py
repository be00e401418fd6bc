"""The trajectory of a run: one open writer, from the first frame or from a checkpoint on."""

import os
from pathlib import Path
from typing import Any, BinaryIO


class Trajectory:
    """Frames of a run in a file, XTC or DCD by its suffix.

    Opening a file for more frames counts those that are there, so it is done once for a run.

    Parameters
    ----------
    path
        ``….xtc`` or ``….dcd``.
    topology : openmm.app.Topology
        With a box.
    timestep
        In fs.
    interval
        Steps from frame to frame.
    """

    def __init__(self, path: Path, topology: Any, timestep: float, interval: int):
        self.path, self.frames = path, 0
        self._header = topology, timestep * 1e-3, 0, interval
        self._writer: Any = None
        self._stream: BinaryIO | None = None

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self.path.stat().st_size

    def begin(self) -> None:
        """Start a new file in place of an old one."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.frames = 0

    def resume(self, size: int, frames: int) -> None:
        """Continue after `frames` frames, the first `size` bytes; the rest is cut off."""
        self.close()
        os.truncate(self.path, size)
        if self.path.suffix == ".dcd":
            with open(self.path, "r+b") as stream:  # the header counts the frames
                stream.seek(8)
                stream.write(frames.to_bytes(4, "little"))
        self.frames = frames

    def write(self, positions: Any, box: Any) -> None:
        """Append a frame; it is in the file when this returns.

        Raises
        ------
        OSError
            If the file cannot be written, or did not grow.
        """
        if self._writer is None:
            self._open()
        before = self.size
        self._writer.writeModel(positions, periodicBoxVectors=box)
        if self.size == before:
            raise OSError(f"{self.path} did not grow by a frame: is the disk full?")
        self.frames += 1

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        self._writer = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self) -> None:
        from openmm import app

        append = self.frames > 0
        if self.path.suffix == ".xtc":
            self._writer = app.XTCFile(str(self.path), *self._header, append=append)
            self.path.touch()
        else:
            self._stream = self.path.open("r+b" if append else "w+b")
            self._writer = app.DCDFile(self._stream, *self._header, append=append)
