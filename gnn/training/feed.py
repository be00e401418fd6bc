"""What the trainer is fed: which frames make each step's batch, from memory or from a file."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.batching import PreparedFrame, prepare
from gnn.data.common import LABELS
from gnn.data.streaming import Head, StreamedFrames
from gnn.data.systems import Frame
from gnn.potential import Potential

_INPUTS = (
    "numbers", "positions", "mm_positions", "mm_moments", "uniform_field", "external_field",
)  # fmt: skip

Frames = Sequence[Frame] | StreamedFrames


class Feed:
    """Training frames for a model, each ready for a batch.

    Parameters
    ----------
    frames : sequence of Frame
        A list is prepared once; frames in a file are prepared whenever they are asked for.
    model : Potential
        Whose cutoff and floating-point type it is prepared for.
    """

    def __init__(self, frames: Frames, model: Potential):
        cutoff, dtype = model.cutoff, model.dtype

        def ready(frame: Frame) -> PreparedFrame:
            return prepare(frame, cutoff, dtype)

        self.frames: StreamedFrames | list[PreparedFrame]
        if isinstance(frames, StreamedFrames):
            self.frames, self.fingerprint = frames.map(ready), frames.fingerprint()
        else:
            self.frames = [ready(frame) for frame in frames]
            self.fingerprint = _checksum(self.frames)
        _, kinds = np.unique(label_table(frames), axis=0, return_inverse=True)
        self._kinds = kinds.ravel()

    def __getitem__(self, indices: Any) -> list[PreparedFrame]:
        return [self.frames[i] for i in indices]

    def batches(self, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return the frames of each step of an epoch, full batches only.

        A batch keeps the labels that all its frames have: frames are batched with their like, or
        a label that some lack would hardly ever be trained on.
        """
        if isinstance(self.frames, StreamedFrames):
            parts = self.frames.order(rng)
        else:
            parts = [rng.permutation(len(self.frames))]
        return [batch for part in parts for batch in self._batches_of(part, size, rng)]

    def _batches_of(
        self, order: NDArray[np.int64], size: int, rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        groups: dict[int, list[int]] = {}
        for i in order:
            groups.setdefault(self._kinds[i], []).append(i)
        batches = []
        for group in groups.values():
            step = min(size, len(group))
            whole = range(0, len(group) - step + 1, step)
            batches += [np.array(group[i : i + step]) for i in whole]
        if len(groups) == 1:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]


def label_table(frames: Frames) -> NDArray[np.bool_]:
    """Return which labels each frame has, (n, 4), in the order of `LABELS`."""
    if isinstance(frames, StreamedFrames):
        return frames.labels()
    rows = [[getattr(frame, name) is not None for name in LABELS] for frame in frames]
    return np.array(rows, dtype=bool).reshape(len(rows), len(LABELS))


def heads(frames: Frames) -> Iterator[Frame | Head]:
    """Yield what is known of frames without reading their coordinates."""
    return frames.heads() if isinstance(frames, StreamedFrames) else iter(frames)


def take(frames: Frames, indices: Sequence[int]) -> Frames:
    """Return some of the frames, in the order of the indices."""
    if isinstance(frames, StreamedFrames):
        return frames.take(indices)
    return [frames[i] for i in indices]


def _checksum(frames: Sequence[PreparedFrame]) -> int:
    """Return a checksum of prepared frames and their labels, in their order."""
    checksum = 0
    for frame in frames:
        for name in (*_INPUTS, *LABELS):
            part = getattr(frame, name)
            if part is not None:
                checksum = zlib.crc32(part.numpy().tobytes(), checksum)
    return checksum
