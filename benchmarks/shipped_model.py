"""The model that ships on frames that it was not trained on, beside other models.

    python benchmarks/shipped_model.py --model runs/shipped/best.pt --former former.pt
    python benchmarks/shipped_model.py --published amp-bms --finetuned tuned.pt  # with these

Frames and split are those of shipped_model.yaml. Errors on held-out molecular-dynamics runs, for
each molecule and each kind of frame, and on held-out molecules, of which no frame was trained on.
Frames that are no snapshots of a force field's dynamics (a bond is stretched, or a model chose
them) stand by themselves.
Beside it: the former model, on the frames of the four molecules that it knows; the published
AMP-BMS model with constants for elements and charge fitted to the training frames; and the same
fine-tuned (published_finetuned.yaml). What is not named, or refuses a frame, is left open.

Energies are compared as they are, and after a constant: the mean error of the other frames of the
same composition. In the tables a molecule with waters beside it counts as that molecule. Prints
tables, with targets beside what was measured; writes benchmarks/results/shipped_model_{errors,
kinds,unseen,beside,targets}.csv and shipped_model_parity.png.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _experiments import FOUR, is_chosen
from _output import RESULTS, write_table

from gnn import Frame, load_model
from gnn.commands._common import console
from gnn.data import shipped_path
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.splits import is_of
from gnn.potential import Potential
from gnn.training.config import DataConfig, load_config
from gnn.training.frames.load import load_splits
from gnn.training.frames.sources import SHIPPED, with_vacuum
from gnn.training.report.metrics import compare
from gnn.training.report.plots import parity
from gnn.training.report.tables import escape, plain_table

CONFIG = Path(__file__).with_name("shipped_model.yaml")
OURS, FORMER, PUBLISHED, FINETUNED = (
    "this model", "former model", "AMP-BMS as published", "AMP-BMS fine-tuned",
)  # fmt: skip
RUNS, UNSEEN, WITHOUT = "held-out runs", "held-out molecules", "water taken away"
DYNAMICS = "snapshots of the force field's dynamics"
KINDS = {
    "": "in water, 300 K", "first": "in water, 300 K", "water": "in water, 300 K",
    "water@": "in water, hot", "stretched": "in water, a bond stretched",
    "zone1": "one or two waters in the zone", "zone2": "one or two waters in the zone",
    "vacuum": "vacuum", "pair": "a water beside it, vacuum",
    "hot": "vacuum, 800 K on a model's forces", "torn": "vacuum, a bond torn",
    "beside": "a water beside it, on a model's forces",
    "near": "in water, charges pulled near",
}  # fmt: skip
ERRORS = (
    "energy_mae", "energy_rmse", "energy_constant_mae", "forces_mae", "forces_rmse",
    "forces_ratio", "mm_forces_mae", "mm_forces_rmse", "mm_forces_ratio", "dipole_mae",
)  # fmt: skip
SHOWN = {
    "energy_mae": "energy MAE", "energy_constant_mae": "after a constant",
    "forces_rmse": "forces RMSE", "mm_forces_rmse": "MM forces RMSE",
}  # fmt: skip
#: Largest mean energy error in meV and root mean square force error in meV/Å.
TARGETS = {RUNS: ("energy_mae", 4.0, 30.0), UNSEEN: ("energy_constant_mae", 25.0, 120.0)}
_FITTED = 400  # frames that constants of the published model are fitted to

Row = dict[str, Any]


# --- errors -------------------------------------------------------------------------------------


def solute(frame: Frame) -> str:
    """Return the molecule of a frame, whatever waters are beside it."""
    return frame.name.partition("+")[0]


def kind(frame: Frame) -> str:
    """Return in words what sort of frame it is."""
    sort, hot, _ = frame.group.partition("@")
    return KINDS.get(sort + hot) or KINDS.get(sort) or frame.group


def answers(model: Potential, frames: Sequence[Frame]) -> list[dict[str, Any] | None]:
    """Return the model's results, None where it refuses a frame."""
    if not frames:
        return []
    try:
        return list(model.evaluate(frames, unknown="ignore"))
    except ValueError:
        if len(frames) == 1:
            return [None]
    half = len(frames) // 2
    return answers(model, frames[:half]) + answers(model, frames[half:])


def after_constant(errors: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return errors less the mean error of other frames of the name, NaN where there are none."""
    left = np.full(len(errors), np.nan)
    labels = np.array(names)
    for name in np.unique(labels):
        own = (labels == name) & np.isfinite(errors)
        count = np.count_nonzero(own)
        if count > 1:
            left[own] = (errors[own] - errors[own].mean()) * count / (count - 1)
    return left


@dataclass(frozen=True)
class Found:
    """Results of a model beside frames, and energy errors in eV after a constant, NaN for none."""

    frames: list[Frame]
    results: list[dict[str, Any] | None]
    constant: np.ndarray

    def part(self, chosen: Sequence[int]) -> "Found":
        """Return some of the frames, with the constants of all."""
        return Found(
            [self.frames[i] for i in chosen],
            [self.results[i] for i in chosen],
            self.constant[list(chosen)],
        )

    def of(self, key: Any) -> Iterator[tuple[str, "Found"]]:
        """Yield the frames of each value of a function of a frame, and the value."""
        values = [key(frame) for frame in self.frames]
        for value in dict.fromkeys(values):
            yield value, self.part([i for i, other in enumerate(values) if other == value])

    def answered(self) -> tuple[list[dict[str, Any]], list[Frame]]:
        """Return the results that there are, and their frames."""
        pairs = zip(self.results, self.frames, strict=True)
        known = [(result, frame) for result, frame in pairs if result is not None]
        return [result for result, _ in known], [frame for _, frame in known]

    def row(self, **first: Any) -> Row:
        """Return errors in meV, meV/Å and me Å; what there is none of is missing."""
        results, frames = self.answered()
        row = {**first, "frames": len(self.frames), "refused": len(self.frames) - len(frames)}
        comparison = compare(results, frames)
        for quantity in ("energy", "forces", "mm_forces", "dipole"):
            if (found := comparison.errors(quantity)) is not None:
                row |= {f"{quantity}_{name}": getattr(found, name) for name in ("mae", "rmse")}
                row[f"{quantity}_ratio"] = found.ratio
        if np.isfinite(self.constant).any():
            row["energy_constant_mae"] = 1e3 * float(np.nanmean(np.abs(self.constant)))
        return row


def found(model: Potential, frames: Sequence[Frame]) -> Found:
    results = answers(model, frames)
    errors = np.array(
        [
            np.nan if result is None else result["energy"] - frame.energy
            for result, frame in zip(results, frames, strict=True)
        ]
    )
    return Found(list(frames), results, after_constant(errors, [f.name for f in frames]))


# --- frames -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sets:
    """Frames that the model that ships was trained on, and those that it was not."""

    training: list[Frame]
    runs: list[Frame]
    without: list[Frame]  # those of `runs` in water, without it
    unseen: list[Frame]


def sets(data: DataConfig) -> Sets:
    training, _, test = load_splits(data.model_copy(update={"vacuum": False}))
    alone = data.split.test_molecules or ()
    runs = [frame for frame in test if not is_of(frame.name, alone)]
    unseen = [frame for frame in test if is_of(frame.name, alone)]
    return Sets(list(training), runs, with_vacuum(runs, data)[len(runs) :], unseen)


def old_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames of the four molecules in water that the former model was tested on."""
    return [frame for frame in frames if frame.name in FOUR and frame.group in ("", "first")]


def read_shifts(text: str) -> dict[str, float]:
    """Return by how much energies were shifted to another level, from the remark of a file."""
    pairs = (part.split() for part in text.split(",") if part.strip())
    return {name: float(shift) for name, shift in pairs}


def shifted_back(frames: Sequence[Frame], shifts: dict[str, float]) -> list[Frame]:
    """Return frames with the energies that the former model was trained on."""
    return [replace(f, energy=f.energy - shifts.get(f.name, 0.0)) for f in frames]


# --- tables -------------------------------------------------------------------------------------


def molecule_rows(part: Found) -> list[Row]:
    """Return a row for each molecule, and one for all."""
    rows = [own.row(molecule=name) for name, own in part.of(solute)]
    return [*sorted(rows, key=lambda row: row["molecule"]), part.row(molecule="all")]


def of_dynamics(runs: Found) -> Found:
    """Return the frames that are snapshots of dynamics, with the constants of all."""
    apart = [frame.group == "stretched" or is_chosen(frame) for frame in runs.frames]
    return runs.part([i for i, other in enumerate(apart) if not other])


def kind_rows(runs: Found, without: Found) -> list[Row]:
    """Return a row for each kind of frame of held-out runs."""
    rows = [own.row(kind=name) for name, own in runs.of(kind)]
    last = [without.row(kind=WITHOUT)] if without.frames else []
    return [*rows, *last, of_dynamics(runs).row(kind=DYNAMICS)]


def beside_rows(model: str, runs: Found | None, unseen: Found | None, old: Found) -> list[Row]:
    """Return the rows of one model in the table that holds several."""
    rows = [
        part.row(set=name, model=model)
        for name, part in ((RUNS, runs), (UNSEEN, unseen))
        if part is not None and part.frames
    ]
    return rows + [own.row(set=name, model=model) for name, own in old.of(solute)]


def target_rows(rows: Sequence[Row]) -> list[Row]:
    """Return targets beside what was measured, from the rows of all models."""
    of = {(row["set"], row["model"]): row for row in rows}
    found = []
    for name, (column, *limits) in TARGETS.items():
        row = of.get((name, OURS), {})
        for key, limit in zip((column, "forces_rmse"), limits, strict=True):
            found.append(_target(f"{name}: {SHOWN[key]}", f"<= {limit:g}", row.get(key), limit))
    for name in FOUR:
        former, ours = of.get((name, FORMER)), of.get((name, OURS))
        for key in ("energy_mae", "forces_rmse"):
            if former and ours and key in former:
                wanted = f"no worse than {former[key]:.1f}"
                found.append(_target(f"{name}: {SHOWN[key]}", wanted, ours[key], former[key]))
    return found


def _target(what: str, wanted: str, measured: float | None, limit: float) -> Row:
    reached = "" if measured is None else ("yes" if measured <= limit else "no")
    return {"what": what, "wanted": wanted, "measured": measured, "reached": reached}


def show(title: str, first: Sequence[str], columns: dict[str, str], rows: Sequence[Row]) -> None:
    """Print rows: names, then numbers with one digit behind the point."""
    table = plain_table(title)
    for column in first:
        table.add_column(column, overflow="fold")
    for column in columns.values():
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (cell(row.get(key)) for key in columns)
        table.add_row(*(escape(str(row[key])) for key in first), *numbers)
    console().print(table)


def cell(value: Any) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def write(name: str, first: Sequence[str], rows: Sequence[Row]) -> None:
    columns = (*first, "frames", "refused", *ERRORS)
    write_table(f"shipped_model_{name}", columns, rows)


# --- the models ---------------------------------------------------------------------------------


def published(path: str, training: Sequence[Frame]) -> Potential:
    """Return the published model, its constants fitted to our level of theory."""
    model = load_model(path)
    size = min(_FITTED, len(training))
    sample = [training[i * len(training) // size] for i in range(size)]
    known = [f for f, r in zip(sample, answers(model, sample), strict=True) if r is not None]
    model.refit_baseline(known)
    return model


def others(arguments: argparse.Namespace, frames: Sets, shifts: dict[str, float]) -> list[Row]:
    """Return the rows of the models beside ours."""
    rows = []
    if arguments.former:
        old = shifted_back(old_frames(frames.runs), shifts)
        rows += beside_rows(FORMER, None, None, found(load_model(arguments.former), old))
    models = {}
    if arguments.published:
        models[PUBLISHED] = published(arguments.published, frames.training)
    if arguments.finetuned:
        models[FINETUNED] = load_model(arguments.finetuned)
    for name, model in models.items():
        runs = of_dynamics(found(model, frames.runs))
        unseen = found(model, frames.unseen)
        rows += beside_rows(name, runs, unseen, old_of(runs))
    return rows


def old_of(runs: Found) -> Found:
    """Return the part of held-out runs that the former model was tested on, with its constants."""
    chosen = {id(frame) for frame in old_frames(runs.frames)}
    return runs.part([i for i, frame in enumerate(runs.frames) if id(frame) in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="CHECKPOINT", help="default: the one that ships")
    parser.add_argument("--former", metavar="CHECKPOINT", help="the one that shipped before")
    parser.add_argument("--published", metavar="CHECKPOINT", help="amp-bms")
    parser.add_argument("--finetuned", metavar="CHECKPOINT", help="of published_finetuned.yaml")
    parser.add_argument("--config", default=CONFIG, type=Path, help="whose frames and split")
    parser.add_argument("--data", metavar="FILE", help="instead of the frames that ship")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_config(arguments.config).data
    if arguments.data:
        data = data.model_copy(update={"source": arguments.data})
    remarks = read_remarks(shipped_path() if data.source == SHIPPED else Path(str(data.source)))[0]
    report(arguments, sets(data), read_shifts(remarks.get("shifts", "")))


def report(arguments: argparse.Namespace, frames: Sets, shifts: dict[str, float]) -> None:
    model = load_model(arguments.model)
    runs, unseen = found(model, frames.runs), found(model, frames.unseen)
    by_kind = kind_rows(runs, found(model, frames.without))
    runs = of_dynamics(runs)
    by_molecule = molecule_rows(runs)
    beside = beside_rows(OURS, runs, unseen, old_of(runs)) + others(arguments, frames, shifts)
    counts = {"frames": "frames", "refused": "refused"}
    show("Held-out runs, by molecule", ["molecule"], counts | SHOWN, by_molecule)
    show("Held-out runs, by kind of frame", ["kind"], counts | SHOWN, by_kind)
    write("errors", ["molecule"], by_molecule)
    write("kinds", ["kind"], by_kind)
    if unseen.frames:
        rows = molecule_rows(unseen)
        show("Held-out molecules", ["molecule"], counts | SHOWN, rows)
        write("unseen", ["molecule"], rows)
    order = list(dict.fromkeys(row["set"] for row in beside))
    beside.sort(key=lambda row: order.index(row["set"]))  # stable: models stay in their order
    show("Beside other models", ["set", "model"], counts | SHOWN, beside)
    write("beside", ["set", "model"], beside)
    targets = target_rows(beside)
    columns = {"measured": "measured, meV or meV/Å"}
    show("Targets", ["what", "wanted", "reached"], columns, targets)
    write_table("shipped_model_targets", ["what", "wanted", "measured", "reached"], targets)
    results, answered = runs.answered()
    parity(compare(results, answered), RESULTS / "shipped_model_parity.png",
           f"{len(answered)} held-out frames")  # fmt: skip
    print(f"written: {RESULTS}/shipped_model_*")


if __name__ == "__main__":
    main()
