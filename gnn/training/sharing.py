"""Which of the processes that train together works on which frames.

Frames that are streamed from several files are divided by file, so that a process reads its own
files alone. What a batch holds does not hang on that: the order of the frames is one for all
processes, takes from all files evenly (`gnn.data.streaming.StreamedFrames.order`), and each process
works on those frames of a batch that are its own.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnn.data.streaming import StreamedFrames
from gnn.training.frames.loader import Frames, headers
from gnn.training.parallel import Ranks

_UNEVEN = 1.25  # times the mean, beyond which a warning says that the largest share is waited for


class Shares:
    """The division of some frames, and of others that may lie in the same files.

    Parameters
    ----------
    ranks : Ranks
        The processes.
    training : sequence of Frame
        What is trained on. Its files, if there are at least as many as processes, are given to
        processes so that all get about equally many atoms.
    """

    def __init__(self, ranks: Ranks, training: Frames):
        self.ranks = ranks
        self._owner: dict[Path, int] = {}
        self._load = np.zeros(ranks.size)
        self.by_file = (
            isinstance(training, StreamedFrames)
            and ranks.size > 1
            and len(np.unique(training.file_of())) >= ranks.size
        )
        self.owner_of(training)

    def owner_of(self, frames: Frames) -> NDArray[np.int64] | None:
        """Return the process that each frame belongs to; None where they belong to none."""
        if not self.by_file or not isinstance(frames, StreamedFrames):
            return None
        file_of, files = frames.file_of(), frames.files
        atoms = [len(header.system.numbers) for header in frames.headers()]
        loads = np.bincount(file_of, weights=atoms, minlength=len(files))
        for k in np.argsort(-loads, kind="stable").tolist():  # the largest first, to the least busy
            if files[k] not in self._owner and loads[k]:
                rank = int(np.argmin(self._load))
                self._owner[files[k]] = rank
                self._load[rank] += loads[k]
        return np.array([self._owner.get(file, 0) for file in files])[file_of]

    def of_batch(
        self, indices: NDArray[np.int64], owner: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Return this process's part of a batch of frames, which belong to `owner`."""
        if owner is None:
            return self.ranks.share(indices)
        return indices[owner[indices] == self.ranks.rank]

    def mine(self, frames: Frames) -> NDArray[np.int64]:
        """Return the indices of this process's frames, in their order."""
        owner = self.owner_of(frames)
        if owner is None:
            return np.array_split(np.arange(len(frames)), self.ranks.size)[self.ranks.rank]
        return np.flatnonzero(owner == self.ranks.rank)

    def lines(self, training: Frames, batch_size: int) -> list[str]:
        """Say how frames are divided, and how many of an epoch are left out."""
        size, count = min(batch_size, len(training)), len(training)
        lines = []
        if rest := count % size:
            lines.append(
                f"an epoch is {count // size} steps of {size} frames; {rest} of {count}, others "
                "each time, are left out of it"
            )
        owner = self.owner_of(training)
        if owner is None:
            if isinstance(training, StreamedFrames) and len(training.files) > 1:
                lines += self._too_few(len(training.files))
            return lines
        atoms = np.array([len(header.system.numbers) for header in headers(training)])
        own = np.bincount(owner, weights=atoms, minlength=self.ranks.size)
        frames = np.bincount(owner, minlength=self.ranks.size)
        excess = own.max() / own.mean()
        files = len(self._owner)
        lines.append(
            f"{files} files are divided among {self.ranks.size} processes, each of which reads its "
            f"own: {frames.min()} to {frames.max()} frames, the largest share of atoms "
            f"{excess:.2f} times the mean"
        )
        if excess > _UNEVEN:
            warnings.warn(
                f"the process with the largest files has {excess:.2f} times the mean number of "
                "atoms, and the others wait for it: write files of more equal size, or more files",
                stacklevel=2,
            )
        return lines

    def _too_few(self, files: int) -> list[str]:
        if self.ranks.size == 1:
            return []
        return [
            f"{files} files cannot be divided among {self.ranks.size} processes: each reads all of "
            "them (write at least one file for each process)"
        ]
