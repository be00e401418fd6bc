"""Batches for the trainer, of frames in memory or in a file."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.common import LABELS
from gnn.data.prepared import PreparedFrame, prepare
from gnn.data.streaming import Header, StreamedFrames
from gnn.data.systems import Frame
from gnn.potential import Potential

_INPUTS = (
    "numbers", "positions", "mm_positions", "mm_moments", "uniform_field", "external_field",
    "cell", "periodic",
)  # fmt: skip

Frames = Sequence[Frame] | StreamedFrames


class Loader:
    """Training frames for a model, each ready for a batch.

    Parameters
    ----------
    frames : sequence of Frame
        A list is prepared once; frames in a file are prepared whenever they are asked for.
    model : Potential
        Whose cutoff, floating-point type and kind of charges it is prepared for.
    """

    def __init__(self, frames: Frames, model: Potential):
        cutoff, dtype, local = model.cutoff, model.dtype, model.charges == "local" or None

        def ready(frame: Frame) -> PreparedFrame:
            try:
                return prepare(frame, cutoff, dtype, local_charges=local)
            except ValueError as error:
                raise ValueError(f"a frame of run {frame.run}, {frame.name!r}: {error}") from None

        self.frames: StreamedFrames | list[PreparedFrame]
        if isinstance(frames, StreamedFrames):
            self.frames, self.fingerprint = frames.map(ready), frames.fingerprint()
        else:
            self.frames = [ready(frame) for frame in frames]
            self.fingerprint = _checksum(self.frames)

    def __getitem__(self, indices: Any) -> list[PreparedFrame]:
        return [self.frames[i] for i in indices]

    def batches(self, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return the frames of each step of an epoch, in random order, full batches only."""
        if isinstance(self.frames, StreamedFrames):
            order = np.concatenate(self.frames.order(rng))
        else:
            order = rng.permutation(len(self.frames))
        size = min(size, len(order))
        return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]


def headers(frames: Frames) -> Iterator[Frame | Header]:
    """Yield the headers of frames: all but arrays, without reading these."""
    return frames.headers() if isinstance(frames, StreamedFrames) else iter(frames)


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
