"""Training as a user sees it: progress, result files, the baselines beside the model."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gnn.data.checking.doubts import doubts
from gnn.data.streaming import StreamedFrames
from gnn.data.systems import Frame
from gnn.potential import Potential
from gnn.training import parallel
from gnn.training.checkpoint import last_of, load, load_model, save_model
from gnn.training.committee import Committee, differences, resampled
from gnn.training.config import Config
from gnn.training.frames.isolated import told as isolated_lines
from gnn.training.frames.labels import tell_without_surroundings
from gnn.training.frames.loader import Frames, take
from gnn.training.loop import Trainer, training_device
from gnn.training.parallel import Ranks
from gnn.training.report import plots, tables
from gnn.training.report.metrics import (
    Comparison,
    blind_comparison,
    compare,
    mean_baseline,
    without_surroundings,
)
from gnn.training.report.uncertainty import (
    doubt,
    has_spread,
    spread_picture,
    spread_rows,
    spread_table,
)
from gnn.training.setup import (
    LoadedData,
    build_model,
    elements_of,
    embedded,
    has_surroundings,
    load_data,
    summary,
)

Console = Any
MEAN, BLIND, AMP_NAME = "training mean", "blind to surroundings", "this model"


class Progress:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, config: Config, label: str):
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.settings, self.console, self.label = config.training, console, label
        self.shown = -math.inf
        self.notes = ""
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(label, total=1.0, note="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, row: dict[str, Any]) -> None:
        """Take a row of the trainer's history."""
        done = row["epoch"] / self.settings.epochs
        if self.settings.time_limit is not None:
            done = max(done, row["seconds"] / self.settings.time_limit)
        if row.get("validation_loss") is not None:
            shown = {
                "energy": "E {:.1f} meV",
                "forces": "F {:.1f} meV/Å",
                "mm_forces": "MM {:.1f} meV/Å",
            }
            errors = {name: row.get(f"validation_{name}_rmse") for name in shown}
            told = [shown[name].format(e) for name, e in errors.items() if e is not None]
            self.notes = f"validation RMSE: {', '.join(told)}"
        rate = row["step"] / max(row["seconds"], 1e-9)
        note = f"epoch {row['epoch']}, {rate:.0f} steps/s; {self.notes}"
        self.bar.update(self.task, completed=min(done, 1.0), note=note)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.shown > 30 or done >= 1.0):
            self.shown = now
            self.console.print(f"  {self.label} {100 * min(done, 1.0):3.0f} %  {note}")


def train(
    config: Config,
    data: LoadedData,
    console: Console,
    folder: Path,
    *,
    label: str = "training",
    resume: bool = False,
    ranks: Ranks | None = None,
    member: int | None = None,
) -> tuple[Potential, Trainer]:
    """Train a model and return its best averaged weights, with the trainer.

    Of several processes the first writes and reports; each returns the model. The constants of
    a committee's member are fitted to all training frames, whichever it learns from.
    """
    ranks = ranks or Ranks()
    training, validation, _ = data.splits
    last = last_of(folder) if resume else None
    model = build_model(config, training, last, data.isolated.energies, member or 0)
    if member is not None and config.bootstrap:
        training = take(training, resampled(training, config.training.seed))
    best = folder / "best.pt"
    with Progress(console, config, label) as progress:
        trainer = Trainer(model, config, training, validation, folder, progress, ranks)
        if resume:
            for line in trainer.resume():
                console.print(f"{label}: {line}", markup=False, soft_wrap=True)
        elif ranks.first:
            best.unlink(missing_ok=True)
        trainer.run()
    return (load_model(best) if len(validation) else trainer.average), trainer


def train_committee(
    config: Config,
    data: LoadedData,
    console: Console,
    folder: Path,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
) -> Committee:
    """Train the members one after the other, each in a folder of its own, and join them.

    They differ in the seed of weights and order and, with ``committee.bootstrap``, in the frames
    they learn from; those that start from a checkpoint are perturbed. Members that are there
    already are continued.
    """
    members = []
    for k in range(config.committee.members):
        mine = folder / f"member_{k}"
        changed = {"seed": config.training.seed + k}
        member = config.model_copy(
            update={"training": config.training.model_copy(update=changed), "output": str(mine)}
        )
        go_on = resume and (mine / "last.pt").is_file()
        label = f"member {k + 1} of {config.committee.members}"
        model, _ = train(
            member, data, console, mine, label=label, resume=go_on, ranks=ranks, member=k
        )
        members.append(model)
    committee = Committee(members)
    if ranks is None or ranks.first:
        save_model(folder / "committee.pt", committee, data=config.data.model_dump())
    return committee


def train_blind(
    config: Config,
    data: LoadedData,
    console: Console,
    folder: Path,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
) -> tuple[Potential, Trainer]:
    """Train the same model on the same frames without their surroundings."""
    training, validation, test = (_bare(part) for part in data.splits)
    bare = replace(data, splits=(training, validation, test))
    as_it_is = config.committee.model_copy(update={"perturbation": 0.0})
    config = config.model_copy(update={"committee": as_it_is})
    resume = resume and (folder / "last.pt").exists()
    return train(config, bare, console, folder, label="blind twin", resume=resume, ranks=ranks)


def _bare(frames: Frames) -> Frames:
    if isinstance(frames, StreamedFrames):
        return frames.map(without_surroundings)
    return [without_surroundings(frame) for frame in frames]


def with_baselines(
    own: Comparison, blind: Potential | None, training: Sequence[Frame], test: Sequence[Frame]
) -> dict[str, Comparison]:
    """Return the comparisons of the training mean, of the blind model and of the model."""
    found = {MEAN: mean_baseline(training, test)}
    if blind is not None:
        found[BLIND] = blind_comparison(blind.evaluate(_bare(test)), test)
    return found | {AMP_NAME: own}


def write_results(
    folder: Path, history: Sequence[dict[str, Any]], comparisons: dict[str, Comparison]
) -> None:
    """Write learning curve, parity plot, bars and the tables as CSV."""
    own = comparisons[AMP_NAME]
    if history:
        plots.learning_curve(history, folder / "learning_curve.png")
    plots.parity(own, folder / "parity.png", f"{len(own.names)} held-out frames")
    plots.baselines(comparisons, folder / "baselines.png")
    tables.write_csv(folder / "errors.csv", tables.error_rows(own))
    rows = [
        {"model": name} | row
        for name, comparison in comparisons.items()
        for row in tables.error_rows(comparison)
    ]
    tables.write_csv(folder / "baselines.csv", rows)


def run_training(
    config: Config,
    console: Console,
    *,
    resume: bool = False,
    blind: Config | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Comparison]:
    """Do what ``anisole train`` does: train, test beside the baselines, write the results.

    Parameters
    ----------
    config : Config
        The run; its output folder takes the results.
    console : rich.console.Console
        For progress and what is found.
    resume : bool
        Continue from ``last.pt`` of the folder.
    blind : Config, optional
        Settings under which a twin blind to its surroundings is trained; None trains none.
    say : callable, optional
        Takes the lines to print.

    Returns
    -------
    dict
        Comparisons on the test frames: baselines first, the model last. Of several processes
        (``torchrun``), the first returns them and the others nothing.

    Raises
    ------
    ValueError
        If the folder holds a run already and is not to be continued.
    """
    with parallel.start(training_device(config.training.device)) as ranks:
        if not ranks.first:
            from rich.console import Console as Screen

            console, say = Screen(quiet=True), _silence
            warnings.simplefilter("ignore")  # the first one's are the same
        return _run(config, console, say or console.print, resume, blind, ranks)


def _run(
    config: Config,
    console: Console,
    say: Callable[[str], None],
    resume: bool,
    blind: Config | None,
    ranks: Ranks,
) -> dict[str, Comparison]:
    folder, committee = Path(config.output), config.committee.members > 1
    config = _ready(config, folder, resume, ranks)
    data = load_data(config.data)
    training, validation, test = data.splits
    if ranks.size > 1:
        say(f"{ranks.size} processes train together")
    told = [*data.lines, *_about(config, data), *summary(data.splits)]
    for line in [*told, *(f"doubt: {remark}" for remark in doubts(training))]:
        say(line)
    history: Sequence[dict[str, Any]] = []
    if committee:
        model: Potential = train_committee(
            config, data, console, folder, resume=resume, ranks=ranks
        )
        say(f"trained {config.committee.members} models: {folder}/committee.pt")
    else:
        model, trainer = train(config, data, console, folder, resume=resume, ranks=ranks)
        history = trainer.history
        parameters = sum(p.numel() for p in model.parameters())
        threads = torch.get_num_threads()
        on = f"on {threads} thread{'s' if threads > 1 else ''}"
        say(f"trained {parameters} parameters: {_effort(trainer)} {on}")
    seen = embedded(training, config.data)
    twin = None
    pointless = "" if blind is None else _pointless(seen, validation, blind)
    if pointless:
        say(f"no blind twin: {pointless}")
    elif blind is not None:
        bare = replace(data, splits=(seen, validation, test))
        twin, other = train_blind(
            blind, bare, console, folder / "blind", resume=resume, ranks=ranks
        )
        say(f"blind twin: {_effort(other)}")
    if not ranks.first:
        return {}
    test = test if len(test) else validation
    results = model.evaluate(test)
    if has_spread(results):
        report_spread(results, test, folder, console)
    comparisons = with_baselines(compare(results, test), twin, seen, test)
    write_results(folder, history, comparisons)
    return comparisons


def _pointless(training: Frames, validation: Frames, blind: Config) -> str:
    """Return why a model blind to surroundings is not worth training, or nothing."""
    if not has_surroundings(training):
        return "no training frame has surroundings, so it would be the same model"
    if not tell_without_surroundings(training, validation, blind.loss):
        return "of the weighted labels the frames have forces on charges alone"
    return ""


def _ready(config: Config, folder: Path, resume: bool, ranks: Ranks) -> Config:
    """Check that the folder is there to begin or to go on in.

    Of a run that goes on, return the configuration with the checkpoint that it started from.
    """
    if not resume:
        runs = [folder / "last.pt", folder / "member_0" / "last.pt"]
        if ranks.from_first(any(path.exists() for path in runs)):
            raise ValueError(
                f"{folder} holds a training run already: continue it with --resume, or set another "
                "output folder"
            )
        return config
    committee = (folder / "member_0" / "last.pt").is_file()
    if committee and config.committee.members == 1:
        raise ValueError(f"{folder} holds a committee: say of how many models (--committee N)")
    if not committee and config.committee.members > 1 and (folder / "last.pt").is_file():
        raise ValueError(f"{folder} holds a run of one model: continue it without a committee")
    last = last_of(folder / "member_0" if committee else folder)
    state = load(last).get("trainer") or {"config": {}}
    start = state["config"].get("start") if config.start is None else config.start
    return config.model_copy(update={"start": start})


def _about(config: Config, data: LoadedData) -> list[str]:
    """Return lines on isolated atoms and on what makes a committee's members differ."""
    lines = isolated_lines(data.isolated, elements_of(data.splits[0]), config.start)
    if config.committee.perturbation and not config.perturbation:
        lines.append(
            "committee.perturbation is not used: it is for members that start from a checkpoint"
        )
    if config.committee.bootstrap and config.committee.members == 1:
        lines.append("committee.bootstrap is not used: there is one member, which sees all frames")
    if config.committee.members > 1:
        started = config.start is not None
        lines.append(differences(data.splits[0], config.perturbation, config.bootstrap, started))
    return lines


def report_spread(
    results: Sequence[dict[str, Any]], frames: Sequence[Frame], folder: Path, console: Console
) -> None:
    """Print and write what a committee's disagreement says of its errors."""
    rows = spread_rows(results, frames)
    console.print(spread_table(rows))
    if little := doubt(rows):
        warnings.warn(little, stacklevel=2)
    tables.write_csv(folder / "spread.csv", rows)
    spread_picture(results, frames, folder / "spread.png")


def _silence(_: str) -> None:
    """Print nothing: the first of several processes does."""


def _effort(trainer: Trainer) -> str:
    return f"{trainer.step} steps, {trainer.epoch} epochs, {trainer.elapsed:.0f} s"
