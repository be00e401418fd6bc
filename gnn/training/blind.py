"""The blind twin: the same model, trained on the same frames without their surroundings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gnn.data.streaming import StreamedFrames
from gnn.potential import Potential
from gnn.training.config import Config
from gnn.training.fit import fit
from gnn.training.frames.labels import tell_without_surroundings
from gnn.training.frames.load import LoadedData, has_surroundings
from gnn.training.frames.loader import Frames
from gnn.training.loop import Trainer
from gnn.training.parallel import Ranks
from gnn.training.report.metrics import without_surroundings


def fit_blind(
    config: Config,
    data: LoadedData,
    console: Any,
    folder: Path,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
) -> tuple[Potential, Trainer]:
    """Train the twin; arguments as those of `gnn.training.fit.fit`."""
    training, validation, test = (bare(part) for part in data.splits)
    data = replace(data, splits=(training, validation, test))
    unperturbed = config.committee.model_copy(update={"perturbation": 0.0})
    config = config.model_copy(update={"committee": unperturbed})
    first = ranks or Ranks()
    resume = resume and bool(first.from_first((folder / "last.pt").exists()))
    return fit(config, data, console, folder, label="blind twin", resume=resume, ranks=ranks)


def pointless(training: Frames, validation: Frames, config: Config) -> str:
    """Return why a model blind to surroundings is not worth training, or nothing."""
    if not has_surroundings(training):
        return "no training frame has surroundings, so it would be the same model"
    if not tell_without_surroundings(training, validation, config.loss):
        return "of the weighted labels the frames have forces on charges alone"
    return ""


def bare(frames: Frames) -> Frames:
    """Return frames without their surroundings."""
    if isinstance(frames, StreamedFrames):
        return frames.map(without_surroundings)
    return [without_surroundings(frame) for frame in frames]
