"""The progress of a training run: a bar on a terminal, a line now and then elsewhere."""

import math
import time
from typing import Any

from gnn.progress import Bar
from gnn.training.config import TrainingConfig

_SECONDS = 30  # between two lines
_SHOWN = {"energy": "E {:.1f} meV", "forces": "F {:.1f} meV/Å", "mm_forces": "MM {:.1f} meV/Å"}


class Progress(Bar):
    """Shows epoch, speed and the last errors of validation, and how long it will take.

    Parameters
    ----------
    console : rich.console.Console
        Where it is shown.
    settings : TrainingConfig
        How long the run lasts.
    label : str
        What is trained.
    """

    def __init__(self, console: Any, settings: TrainingConfig, label: str):
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        self.settings, self.label = settings, label
        self.errors, self._printed = "", -math.inf
        percent = TextColumn("{task.percentage:3.0f} %")
        columns = (TextColumn(label), BarColumn(bar_width=24), percent, TimeRemainingColumn())
        super().__init__(console, *columns, total=1.0, transient=True)

    def __call__(self, row: dict[str, Any]) -> None:
        """Take a row of the trainer's history."""
        share = row["epoch"] / self.settings.epochs
        if self.settings.time_limit is not None:
            share = max(share, row["seconds"] / self.settings.time_limit)
        share = min(share, 1.0)
        if row.get("validation_loss") is not None:
            errors = {name: row.get(f"validation_{name}_rmse") for name in _SHOWN}
            texts = [_SHOWN[name].format(e) for name, e in errors.items() if e is not None]
            self.errors = f"validation RMSE: {', '.join(texts)}"
        rate = row["step"] / max(row["seconds"], 1e-9)
        note = "; ".join(filter(None, (f"epoch {row['epoch']}, {rate:.0f} steps/s", self.errors)))
        self.update(share, note)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self._printed > _SECONDS or share == 1.0):
            self._printed = now
            self.console.print(f"  {self.label} {100 * share:3.0f} %  {note}")
