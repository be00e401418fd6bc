"""Train one model."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from gnn.data.extent import Extent, extent_of
from gnn.data.streaming import StreamedFrames
from gnn.model import AMP
from gnn.potential import Potential
from gnn.training.checkpoint import add_domain, last_of, load_model
from gnn.training.config import Config
from gnn.training.frames.load import LoadedData
from gnn.training.frames.loader import Frames, take
from gnn.training.frames.rest import pairs_at_rest
from gnn.training.frames.sources import level_of
from gnn.training.loop import Trainer
from gnn.training.parallel import Ranks
from gnn.training.report.progress import Progress
from gnn.training.setup import build_model


def fit(
    config: Config,
    data: LoadedData,
    console: Any,
    folder: Path,
    *,
    label: str = "training",
    resume: bool = False,
    ranks: Ranks | None = None,
    member: int = 0,
    chosen: Sequence[int] | None = None,
) -> tuple[Potential, Trainer]:
    """Train a model and return its best averaged weights, with the trainer.

    Of several processes the first writes and reports; each returns the model.

    Parameters
    ----------
    config, data
        The run and its frames.
    console : rich.console.Console
        For progress.
    folder
        Takes checkpoints and log.
    label
        What is trained, for the console.
    resume
        Continue from ``last.pt`` of the folder.
    ranks
        The processes that train together.
    member
        Number of the committee's member.
    chosen
        Indices of the training frames that the model learns from, None for all. The constants of
        its energy are fitted to all of them.
    """
    ranks = ranks or Ranks()
    training, validation, _ = data.splits
    last = last_of(folder) if resume else None
    extent = cache(partial(extent_of, training))  # for walls and domain: all frames are read
    model = build_model(config, training, last, data.isolated.energies, member, extent)
    if chosen is not None:
        training = take(training, chosen)
        extent = cache(partial(extent_of, training))
    lessons = training
    if isinstance(model, AMP) and model.border is not None:
        say = partial(_say, console, label)
        validation = _within(validation, extent(model.damping), model.damping, say)
        if config.data.pairs_at_rest:
            if isinstance(training, StreamedFrames):
                raise ValueError("data.pairs_at_rest: expected frames in memory, got data.stream")
            lessons = [*training, *pairs_at_rest(model.border, training)]
    best = folder / "best.pt"
    with Progress(console, config.training, label) as progress:
        trainer = Trainer(model, config, lessons, validation, folder, progress, ranks)
        if resume:
            for line in trainer.resume():
                _say(console, label, line)
        elif ranks.first:
            best.unlink(missing_ok=True)
        trainer.run()
    fitted = load_model(best) if len(validation) else trainer.average
    if ranks.first:
        fitted.set_domain(training, level_of(config.data), extent(fitted.damping))
        add_domain(best, fitted)
    return fitted, trainer


def _within(
    validation: Frames, extent: Extent, damping: float, say: Callable[[str], None]
) -> Frames:
    """Return the validation frames that reach no farther than training; all, if that is none.

    Beyond it walls act. Their forces are large, and would choose the best weights alone.
    """
    inside = [i for i, frame in enumerate(validation) if extent.holds(extent_of([frame], damping))]
    if not inside or len(inside) == len(validation):
        return validation
    say(
        f"{len(validation) - len(inside)} of {len(validation)} validation frames reach beyond the "
        "training frames (atoms or charges nearer, fields stronger): the best weights are not "
        "chosen by them"
    )
    return take(validation, inside)


def _say(console: Any, label: str, line: str) -> None:
    console.print(f"{label}: {line}", markup=False, soft_wrap=True)
