"""What the scripts that train many models share: one run, a table that is continued, a budget."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from _output import label_decades, read_table, write_table

from gnn import AMP
from gnn.data import load_shipped
from gnn.data.systems import Frame
from gnn.potential import Potential
from gnn.training.config import Config, parse_config
from gnn.training.loop import Trainer
from gnn.training.report.metrics import compare
from gnn.training.setup import build_model

FOUR = ("meoh", "mam", "oac", "acoh")
#: Groups of frames that a model in doubt chose (harvest.py), up to the temperature.
CHOSEN = ("hot", "torn", "beside")
QUANTITIES = ("energy", "forces", "mm_forces")
PANELS = (
    ("energy_mae", "energy, MAE / meV"),
    ("forces_rmse", "QM forces, RMSE / meV/Å"),
    ("mm_forces_rmse", "MM forces, RMSE / meV/Å"),
)
ERRORS = tuple(f"{name}_{kind}" for name in QUANTITIES for kind in ("mae", "rmse", "percent"))


def settings(steps: int, frames: int, model: dict[str, Any] | None = None, **more: Any) -> Config:
    """Return a configuration of about so many steps on so many frames."""
    training = {"threads": 1, "batch_size": min(8, frames)} | more.pop("training", {})
    per_epoch = max(1, frames // training["batch_size"])
    epochs = max(1, round(steps / per_epoch))
    training |= {"epochs": epochs, "validate_every": max(1, epochs // 10)}
    return parse_config({"model": model or {}, "training": training, **more})


def train(
    config: Config, training: Sequence[Frame], validation: Sequence[Frame] = ()
) -> tuple[Potential, Trainer]:
    """Train without writing files; return the averaged model, and the trainer."""
    torch.set_num_threads(1)
    trainer = Trainer(build_model(config, training), config, training, validation)
    return trainer.run(), trainer


def errors(results: Sequence[dict[str, Any]], frames: Sequence[Frame], name: str | None = None):
    """Return errors in meV and meV/Å, and RMSE in percent of the reference's spread."""
    comparison, row = compare(results, frames), {}
    for quantity in QUANTITIES:
        found = comparison.errors(quantity, name)
        if found is not None:
            row |= {
                f"{quantity}_mae": round(found.mae, 3),
                f"{quantity}_rmse": round(found.rmse, 3),
                f"{quantity}_percent": round(100 * found.ratio, 3),
            }
    return row


def is_chosen(frame: Frame) -> bool:
    """Tell whether a model chose the frame: it is no snapshot of a force field's dynamics."""
    return frame.group.partition("@")[0] in CHOSEN


def first_set(vacuum: bool = False) -> list[Frame]:
    """Return the 1290 frames of four solutes in water that shipped first."""
    return [frame for frame in load_shipped(FOUR, vacuum=vacuum) if frame.group == "first"]


def first_frames(vacuum: bool = False) -> list[Frame]:
    """Return those of them without the runs of acetic acid that were added later.

    The tables of these scripts were made with these 1140 frames.
    """
    return [frame for frame in first_set(vacuum) if frame.run % 100 < 10]


def thinned(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Return evenly spaced frames, so that every molecule and run stays."""
    return [frames[i * len(frames) // count] for i in range(min(count, len(frames)))]


def of_size(parameters: int, **options: Any) -> dict[str, Any]:
    """Return options whose width makes a model of about so many parameters."""

    def count(width: int) -> int:
        model = AMP.from_config(options | {"features": width, "network": {"hidden": width}})
        return sum(p.numel() for p in model.parameters())

    width = min(range(16, 161), key=lambda w: abs(count(w) - parameters))
    return options | {"features": width, "network": {"hidden": width}}


class Table:
    """Rows of a CSV file, keyed by some columns; finished rows are not computed again.

    Parameters
    ----------
    name : str
        File ``benchmarks/results/<name>.csv``.
    keys, columns : sequence of str
        Columns that tell one run from another, and those of its results.
    fresh : bool
        Forget what is there.
    """

    def __init__(self, name: str, keys: Sequence[str], columns: Sequence[str], fresh: bool):
        self.name, self.keys, self.columns = name, tuple(keys), (*keys, *columns)
        self.rows: list[dict[str, Any]] = [] if fresh else [*read_table(name)]

    def fill(self, key: tuple, compute: Callable[[], Iterable[dict[str, Any]]]) -> None:
        """Add the rows of one run, unless a row that begins with `key` is there."""
        wanted = tuple(map(str, key))
        if any(tuple(row[k] for k in self.keys[: len(key)]) == wanted for row in self.rows):
            return
        start = dict(zip(self.keys, key, strict=False))
        for row in compute():
            self.rows.append({k: str(v) for k, v in (start | row).items()})
            print("  ".join(f"{k} {v}" for k, v in self.rows[-1].items() if v != ""), flush=True)
        write_table(self.name, self.columns, self.rows)

    def value(self, column: str, **wanted: Any) -> float:
        """Return the number in the one row that has these values."""
        for row in self.rows:
            if all(row[k] == str(v) for k, v in wanted.items()):
                return float(row[column] or "nan")
        return float("nan")


def learning_curves(
    axes: Iterable[Any], frames: Sequence[int], curves: dict[str, tuple[str, Callable]]
) -> None:
    """Draw one panel of errors against the number of training frames for each of `PANELS`.

    `curves` holds per label a colour, and a function from a column to one value per number.
    """
    for axis, (column, title) in zip(axes, PANELS, strict=True):
        for label, (color, values) in curves.items():
            axis.loglog(frames, values(column), "o-", color=color, label=label)
        axis.set(title=title, xlabel="training frames")
        axis.set_xticks(frames, [str(n) for n in frames])
        axis.minorticks_off()
        label_decades(axis)
        axis.spines[["top", "right"]].set_visible(False)
