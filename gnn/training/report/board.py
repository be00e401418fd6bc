"""What TensorBoard shows of a run: losses, errors, learning rate and speed against the step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn.training.report.metrics import QUANTITIES


class Board:
    """Write rows of a training history as TensorBoard's scalars.

    Parameters
    ----------
    folder : Path
        For the event files.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            # not ModuleNotFoundError: that would be explained by another extra
            raise ImportError(
                "training.tensorboard needs the package tensorboard: "
                "in a checkout, pip install '.[tensorboard]'"
            ) from None
        self.folder, self._make = folder, SummaryWriter
        self._purge: int | None = None
        self._writer: Any = None

    def forget_after(self, step: int) -> None:
        """Hide what a run that was killed had written beyond the step that it resumes from."""
        self._purge = step + 1

    def add(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the last row of a history, with the speed since the row before it."""
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=self._purge)
        row, before = history[-1], history[-2] if len(history) > 1 else {"step": 0, "seconds": 0.0}
        scalars = {
            "loss/training": row["train_loss"],
            "loss/validation": row["validation_loss"],
            "learning_rate": row["learning_rate"],
            "epoch": row["epoch"],
        }
        seconds = row["seconds"] - before["seconds"]
        if seconds > 0:
            scalars["speed/steps_per_second"] = (row["step"] - before["step"]) / seconds
        for name, (unit, _) in QUANTITIES.items():
            scalars[f"validation_rmse/{name} ({unit})"] = row[f"validation_{name}_rmse"]
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name.replace(" ", "_"), value, row["step"])
        self._writer.flush()  # a run that is killed has shown all its epochs
