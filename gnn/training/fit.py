"""Train one model."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

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
from gnn.training.sharing import Shares


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

    Of several processes the first writes and reports, and returns the model; the others return
    what they have at the end, which need not be the best.

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
    shares = Shares(ranks, training)
    extent = cache(partial(_extent, training, shares))  # for walls and domain: all frames are read
    model = _built(config, training, folder, resume, data, member, extent, ranks)
    if chosen is not None:
        training = take(training, chosen)
        extent = cache(partial(_extent, training, shares))
    lessons = training
    if isinstance(model, AMP) and model.border is not None:
        say = partial(_say, console, label)
        validation = _within(validation, extent(model.damping), model.damping, say, shares)
        if config.data.pairs_at_rest:
            if isinstance(training, StreamedFrames):
                raise ValueError("data.pairs_at_rest: expected frames in memory, got data.stream")
            lessons = [*training, *pairs_at_rest(model.border, training)]
    best = folder / "best.pt"
    with Progress(console, config.training, label) as progress:
        trainer = Trainer(model, config, lessons, validation, folder, progress, ranks, shares)
        for line in [*trainer.remarks, *(trainer.resume() if resume else [])]:
            _say(console, label, line)
        if resume and not trainer.finished:
            _say(console, label, f"goes on in {trainer.place()}; what followed is done again")
        if not resume and ranks.first:
            best.unlink(missing_ok=True)
        trainer.run()
    fitted = load_model(best) if len(validation) and ranks.first else trainer.average
    reach = extent(fitted.damping)
    if ranks.first:
        fitted.set_domain(training, level_of(config.data), reach)
        add_domain(best, fitted)
    return fitted, trainer


def _built(
    config: Config,
    training: Frames,
    folder: Path,
    resume: bool,
    data: LoadedData,
    member: int,
    extent: Callable[[float], Extent],
    ranks: Ranks,
) -> Potential:
    """Build the model, of a run that goes on from the first process's checkpoint."""
    build = partial(
        build_model, config, training,
        isolated=data.isolated.energies, member=member, extent=extent, fitted=ranks.first,
    )  # fmt: skip
    if not resume:
        return build()
    last = last_of(folder) if ranks.first else folder / "last.pt"
    with ranks.file_of_first(last) as own:
        return build(last=own)


def _extent(frames: Frames, shares: Shares, damping: float) -> Extent:
    """Return the extent of some frames, of which each process reads its share."""
    own = extent_of((frames[i] for i in shares.mine(frames)), damping)
    if shares.ranks.size == 1:
        return own
    sign = {one.name: 1.0 if one.name in ("pairs", "charges") else -1.0 for one in fields(own)}
    shapes = {name: getattr(own, name).shape for name in sign}
    flat = np.concatenate([sign[name] * getattr(own, name).ravel() for name in sign])
    parts = np.split(
        shares.ranks.smallest(flat), np.cumsum([np.prod(s) for s in shapes.values()])[:-1]
    )
    return Extent(
        **{
            name: sign[name] * part.reshape(shape) + 0.0
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
    )


def _within(
    validation: Frames, extent: Extent, damping: float, say: Callable[[str], None], shares: Shares
) -> Frames:
    """Return the validation frames that reach no farther than training; all, if that is none.

    Beyond it walls act. Their forces are large, and would choose the best weights alone.
    """
    mine, held = shares.mine(validation), np.zeros(len(validation))
    held[mine] = [extent.holds(extent_of([validation[i]], damping)) for i in mine]
    inside = np.flatnonzero(shares.ranks.sum(held)).tolist()
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
