"""Training as a user sees it: progress, result files, the baselines beside the model."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gnn.data.systems import Frame
from gnn.potential import Potential
from gnn.training import plots, tables
from gnn.training.checkpoint import load_model
from gnn.training.config import Config
from gnn.training.loop import Trainer
from gnn.training.metrics import (
    Comparison,
    blind_comparison,
    compare,
    mean_baseline,
    without_surroundings,
)
from gnn.training.setup import Splits, build_model, embedded, load_splits, summary

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
            errors = (row.get(f"validation_{n}_rmse") for n in ("energy", "forces", "mm_forces"))
            shown = ["–" if e is None else f"{e:.1f}" for e in errors]
            self.notes = f"validation RMSE: E {shown[0]} meV, F {shown[1]}, MM {shown[2]} meV/Å"
        rate = row["step"] / max(row["seconds"], 1e-9)
        note = f"epoch {row['epoch']}, {rate:.0f} steps/s; {self.notes}"
        self.bar.update(self.task, completed=min(done, 1.0), note=note)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.shown > 30 or done >= 1.0):
            self.shown = now
            self.console.print(f"  {self.label} {100 * min(done, 1.0):3.0f} %  {note}")


def train(
    config: Config,
    splits: Splits,
    console: Console,
    folder: Path,
    *,
    label: str = "training",
    resume: bool = False,
) -> tuple[Potential, Trainer]:
    """Train a model and return its best averaged weights, with the trainer."""
    model = build_model(config, splits[0])
    with Progress(console, config, label) as progress:
        trainer = Trainer(model, config, splits[0], splits[1], folder, progress)
        if resume:
            trainer.resume()
        else:
            (folder / "best.pt").unlink(missing_ok=True)
        trainer.run()
    best = folder / "best.pt"
    return (load_model(best) if splits[1] else trainer.average), trainer


def train_blind(
    config: Config, splits: Splits, console: Console, folder: Path, *, resume: bool = False
) -> tuple[Potential, Trainer]:
    """Train the same model on the same frames without their surroundings."""
    training, validation, test = ([without_surroundings(f) for f in part] for part in splits)
    bare = training, validation, test
    resume = resume and (folder / "last.pt").exists()
    return train(config, bare, console, folder, label="blind twin", resume=resume)


def with_baselines(
    own: Comparison, blind: Potential | None, training: Sequence[Frame], test: Sequence[Frame]
) -> dict[str, Comparison]:
    """Return the comparisons of the training mean, of the blind model and of the model."""
    found = {MEAN: mean_baseline(training, test)}
    if blind is not None:
        bare = [without_surroundings(frame) for frame in test]
        found[BLIND] = blind_comparison(blind.evaluate(bare), test)
    return found | {AMP_NAME: own}


def write_results(
    folder: Path, history: Sequence[dict[str, Any]], comparisons: dict[str, Comparison]
) -> None:
    """Write learning curve, parity plot, bars and the tables as CSV."""
    own = comparisons[AMP_NAME]
    if history:
        plots.learning_curve(history, folder / "learning_curve.png")
    plots.parity(own, folder / "parity.png", f"{len(own.names)} test frames")
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
        Comparisons on the test frames: baselines first, the model last.

    Raises
    ------
    ValueError
        If the folder holds a run already and is not to be continued.
    """
    say = say or console.print
    folder = Path(config.output)
    if not resume and (folder / "last.pt").exists():
        raise ValueError(
            f"{folder} holds a training run already: continue it with --resume, or set another "
            "output folder"
        )
    splits = load_splits(config.data)
    for line in summary(splits):
        say(line)
    model, trainer = train(config, splits, console, folder, resume=resume)
    parameters = sum(p.numel() for p in model.parameters())
    threads = torch.get_num_threads()
    on = f"on {threads} thread{'s' if threads > 1 else ''}"
    say(f"trained {parameters} parameters: {_effort(trainer)} {on}")
    seen = embedded(splits[0], config.data)
    twin = None
    if blind is not None:
        bare = seen, *splits[1:]
        twin, other = train_blind(blind, bare, console, folder / "blind", resume=resume)
        say(f"blind twin: {_effort(other)}")
    test = splits[2] or splits[1]
    comparisons = with_baselines(compare(model.evaluate(test), test), twin, seen, test)
    write_results(folder, trainer.history, comparisons)
    return comparisons


def _effort(trainer: Trainer) -> str:
    return f"{trainer.step} steps, {trainer.epoch} epochs, {trainer.elapsed:.0f} s"
