"""The training loop: steps, schedule, averaging, validation, checkpoints, exact resume."""

import copy
import csv
import math
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gnn.data.batching import collate, prepare
from gnn.data.systems import Frame
from gnn.potential import Potential
from gnn.training import checkpoint
from gnn.training.config import Config, TrainingConfig
from gnn.training.loss import weighted_loss
from gnn.training.metrics import QUANTITIES, compare

MAX_SKIPPED = 20  # steps in a row whose loss or gradient is not finite
COLUMNS = (
    "epoch", "step", "seconds", "learning_rate", "train_loss", "validation_loss",
    *(f"validation_{name}_rmse" for name in QUANTITIES),
)  # fmt: skip

Report = Callable[[dict[str, Any]], None]


def learning_rate(settings: TrainingConfig, step: int, progress: float) -> float:
    """Return the rate of a step; `progress` runs from 0 to 1 over the whole training.

    Progress is by steps or, where time is limited, by time if that is further, so that a run cut
    short by the clock has still annealed.
    """
    high, low = settings.learning_rate, settings.min_learning_rate
    progress = min(max(progress, 0.0), 1.0)
    if settings.schedule == "cosine":
        rate = low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.schedule == "exponential":
        rate = high * (max(low, 1e-12) / high) ** progress
    else:
        rate = high
    return rate * min(1.0, (step + 1) / max(settings.warmup_steps, 1))


class Trainer:
    """Train a model on frames, as a configuration says.

    Everything that decides the next step is in the checkpoint ``last.pt``: parameters, their
    average, the optimiser, the counters and the clock. The order of the data depends on seed and
    epoch alone. A run that was killed continues from the last checkpoint to the same weights.

    Parameters
    ----------
    model : Potential
        Changed in place.
    config : Config
        Weights of the loss and settings of the training.
    training, validation : sequence of Frame
        Labelled frames; validation may be empty.
    folder : path-like, optional
        For ``last.pt``, ``best.pt`` and ``log.csv``; None writes nothing.
    report : callable, optional
        Called after every epoch with a row of the history.
    """

    def __init__(
        self,
        model: Potential,
        config: Config,
        training: Sequence[Frame],
        validation: Sequence[Frame] = (),
        folder: str | Path | None = None,
        report: Report | None = None,
    ):
        if not training:
            raise ValueError("expected at least one training frame, got none")
        bare = sum(not _comparable([frame], config) for frame in training)
        if bare:
            raise ValueError(
                f"nothing to train on in {bare} of {len(training)} training frames: they have "
                "none of the labels with a weight in the loss"
            )
        if validation and not _comparable(validation, config):
            raise ValueError(
                "the validation frames have none of the labels with a weight in the loss "
                "(a label counts where all of them have it)"
            )
        self.settings = config.training
        self.device = training_device(self.settings.device)
        self.model, self.config = model.to(self.device), config
        self.validation = list(validation)
        self.folder = None if folder is None else Path(folder)
        self.report = report
        self.frames = [prepare(frame, model.cutoff, model.dtype) for frame in training]
        self.average = copy.deepcopy(model).eval()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, weight_decay=self.settings.weight_decay
        )
        self.epoch = self.step = self.skipped = self.stale = 0
        self.elapsed = 0.0
        self.best = math.inf
        self.history: list[dict[str, Any]] = []
        self._logged = False

    # --- running ----------------------------------------------------------------------------------

    def run(self, max_epochs: int | None = None) -> Potential:
        """Train to the end (or `max_epochs` more epochs) and return the averaged model."""
        stop_at = self.settings.epochs
        if max_epochs is not None:
            stop_at = min(stop_at, self.epoch + max_epochs)
        while self.epoch < stop_at and not self.finished:
            self._run_epoch()
        if self.folder is not None:
            self.save()
            if not (self.folder / "best.pt").exists():
                self._save_best(epoch=self.epoch)
        return self.average

    @property
    def finished(self) -> bool:
        """True once epochs, time or patience are used up."""
        patience = self.settings.patience
        out_of_time = self._progress_of_time() >= 1.0
        out_of_patience = patience is not None and self.stale >= patience
        return self.epoch >= self.settings.epochs or out_of_time or out_of_patience

    def _progress_of_time(self) -> float:
        limit = self.settings.time_limit
        return 0.0 if limit is None else self.elapsed / limit

    def _run_epoch(self) -> None:
        started, before = time.perf_counter(), self.elapsed
        losses = []
        batches = self._batches()
        for indices in batches:
            progress = (self.step + 1) / (self.settings.epochs * len(batches))
            progress = max(progress, self._progress_of_time())
            losses.append(self._train_step(indices, progress))
            self.elapsed = before + time.perf_counter() - started
            if self._progress_of_time() >= 1.0:
                break
        self.epoch += 1
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"epoch": self.epoch, "step": self.step}
        row |= {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        row["train_loss"] = float(np.nanmean(losses)) if np.isfinite(losses).any() else math.nan
        due = self.epoch % self.settings.validate_every == 0 or self.finished
        if self.validation and due:
            row |= self._validate()
        self.elapsed = before + time.perf_counter() - started
        row["seconds"] = round(self.elapsed, 3)
        self.history.append(row)
        if self.folder is not None:
            if self.epoch % self.settings.checkpoint_every == 0:
                self.save()
            self._write_log()
        if self.report is not None:
            self.report(row)

    def _batches(self) -> list[np.ndarray]:
        """Return the frames of each step of this epoch, full batches only.

        A batch keeps the labels that all its frames have: frames are batched with their like, or
        a label that some lack would hardly ever be trained on.
        """
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        groups: dict[tuple[bool, ...], list[int]] = {}
        for i in rng.permutation(len(self.frames)):
            labels = tuple(getattr(self.frames[i], name) is not None for name in QUANTITIES)
            groups.setdefault(labels, []).append(i)
        batches = []
        for group in groups.values():
            size = min(self.settings.batch_size, len(group))
            whole = range(0, len(group) - size + 1, size)
            batches += [np.array(group[i : i + size]) for i in whole]
        if len(groups) == 1:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def _train_step(self, indices: np.ndarray, progress: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step, progress)
        batch = collate([self.frames[i] for i in indices]).to(self.device)
        with_mm = batch.mm_forces is not None and self.config.loss.mm_forces > 0
        with_mm = with_mm and batch.n_mm > 0
        output = self.model(batch, forces=True, mm_forces=with_mm, create_graph=True)
        loss = weighted_loss(output, batch, self.config.loss)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.step += 1
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            self._skip()
            return math.nan
        self.skipped = 0
        self.optimizer.step()
        self._update_average()
        return loss.item()

    def _skip(self) -> None:
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"the loss was not finite in {MAX_SKIPPED} steps in a row (step {self.step}); "
                "lower training.learning_rate, or look for extreme frames in the data"
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        # short memory at first, so that the random start is forgotten
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def _validate(self) -> dict[str, Any]:
        comparison = compare(self.average.evaluate(self.validation), self.validation)
        weights, total, row = self.config.loss, 0.0, {}
        for name, (_, factor) in QUANTITIES.items():
            errors = comparison.errors(name)
            if errors is None:
                continue
            row[f"validation_{name}_rmse"] = errors.rmse
            total += getattr(weights, name) * (errors.rmse / factor) ** 2
        row["validation_loss"] = total
        if total < self.best:
            self.best, self.stale = total, 0
            if self.folder is not None:
                self._save_best(epoch=self.epoch, validation_loss=total)
        else:
            self.stale += 1
        return row

    # --- saving and resuming ----------------------------------------------------------------------

    def save(self) -> None:
        """Write ``last.pt``: a loadable model (the average) and all that resuming needs."""
        if self.folder is None:
            raise ValueError("this trainer has no folder to save to")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "config": self.config.model_dump(),
            "frames": self._fingerprint(),
            "history": self.history,
            **{name: getattr(self, name) for name in _COUNTERS},
        }
        content = checkpoint.model_state(self.average) | {"data": state["config"]["data"]}
        checkpoint.save(self.folder / "last.pt", content | {"trainer": state})

    def _save_best(self, **remarks: Any) -> None:
        assert self.folder is not None  # the caller asked
        data = self.config.data.model_dump()
        checkpoint.save_model(self.folder / "best.pt", self.average, data=data, **remarks)

    def resume(self, path: str | Path | None = None) -> None:
        """Continue from a checkpoint, by default ``last.pt`` of this trainer's folder.

        Raises
        ------
        ValueError
            If it was written under another configuration of data, model, loss or training, or
            on other frames.
        """
        if path is None:
            if self.folder is None:
                raise ValueError("this trainer has no folder: give the path of a checkpoint")
            path = self.folder / "last.pt"
            if not path.is_file():
                raise FileNotFoundError(f"nothing to resume in {self.folder}: leave out --resume")
        content = checkpoint.load(path)
        state = content.get("trainer")
        if state is None:
            raise ValueError(f"{path} holds a model but no training state: resume from last.pt")
        mine = self.config.model_dump()
        for section in ("data", "model", "loss", "training"):
            changes = _changes(state["config"][section], mine[section])
            if changes:
                raise ValueError(
                    f"{path} was written with another configuration (section '{section}': "
                    f"{changes}); resume with the same, or start in a new folder"
                )
        if state["frames"] != self._fingerprint():
            raise ValueError(
                f"{path} was written on other training frames: the data have changed since; "
                "start in a new folder"
            )
        self.average.load_state_dict(content["state_dict"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.history = state["history"]
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def _fingerprint(self) -> int:
        """Return a checksum of the training frames and their labels, in their order."""
        checksum = 0
        for frame in self.frames:
            for name in (*_INPUTS, *QUANTITIES):
                part = getattr(frame, name)
                if part is not None:
                    checksum = zlib.crc32(part.numpy().tobytes(), checksum)
        return checksum

    def _write_log(self) -> None:
        assert self.folder is not None  # the caller asked
        path = self.folder / "log.csv"
        # the first row of a process rewrites the file: a killed run may have logged epochs that
        # are trained again
        fresh, self._logged = not self._logged, True
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = self.history if fresh else self.history[-1:]
        with open(path, "w" if fresh else "a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if fresh:
                writer.writeheader()
            writer.writerows(rows)


def training_device(name: str) -> torch.device:
    """Return the device that the setting names.

    Raises
    ------
    ValueError
        If a GPU is asked for where torch sees none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError(
            "training.device: cuda was asked for, but torch sees no GPU here; use cpu, or auto"
        )
    return torch.device("cuda" if name != "cpu" and found else "cpu")


_INPUTS = (
    "numbers", "positions", "mm_positions", "mm_moments", "uniform_field", "external_field",
)  # fmt: skip
_COUNTERS = ("epoch", "step", "skipped", "stale", "elapsed", "best")


def _comparable(frames: Sequence[Frame], config: Config) -> bool:
    """Tell whether a quantity with a weight in the loss can be compared on these frames."""
    weighted = [name for name in QUANTITIES if getattr(config.loss, name) > 0]
    return any(all(getattr(frame, name) is not None for frame in frames) for name in weighted)


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return in words which values differ, or nothing."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} is {new.get(key)}, was {old.get(key)}" for key in keys)
