"""The history of a run on disk: a row for each epoch in ``log.csv``."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn.training.checkpoint import writing
from gnn.training.report.metrics import QUANTITIES
from gnn.training.report.tables import write_csv

COLUMNS = (
    "epoch", "step", "seconds", "learning_rate", "train_loss", "validation_loss",
    *(f"validation_{name}_rmse" for name in QUANTITIES),
)  # fmt: skip


class Log:
    """A CSV file of the rows of a history.

    Parameters
    ----------
    path : Path
        The first row that is added writes the file anew, with the rows before it: a run that was
        killed may have logged epochs that are trained again.
    """

    def __init__(self, path: Path):
        self.path, self._written = path, False

    def add(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the last row of a history."""
        with writing(self.path):
            if self._written:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, COLUMNS).writerow(history[-1])
            else:
                write_csv(self.path, history, COLUMNS)
                self._written = True
