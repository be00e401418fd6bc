"""The training loop: steps, averaging, validation, checkpoints, exact resume."""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnn.data.batching import collate
from gnn.data.common import LABELS
from gnn.potential import Potential
from gnn.training import checkpoint
from gnn.training.config import Config
from gnn.training.frames.labels import labels_to_validate, with_weighted_labels
from gnn.training.frames.loader import Frames, Loader
from gnn.training.loss import label_counts, weighted_loss
from gnn.training.optimizer import optimizer_of
from gnn.training.parallel import Ranks, training_device
from gnn.training.report.board import Board
from gnn.training.report.log import COLUMNS, Log
from gnn.training.resume import agree
from gnn.training.schedule import learning_rate, reasons_to_end, share_of_time
from gnn.training.sharing import Shares
from gnn.training.stopping import Stopped
from gnn.training.validation import validation_loss, validation_rmse

MAX_SKIPPED = 20  # steps in a row whose loss or gradient is not finite
#: Kept in last.pt: how far the run is, and of the epoch that it is in (older ones end an epoch).
_COUNTERS = ("epoch", "step", "skipped", "stale", "elapsed", "best")
_WITHIN = ("position", "losses")
Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Train a model on frames, as a configuration says.

    Everything that decides the next step is in the checkpoint ``last.pt``: parameters, their
    average, the optimiser, the counters, the clock and the place in the epoch. The order of the
    data depends on seed and epoch alone. A run that was killed continues from the last checkpoint,
    on as many processes as there are then, to the same weights.

    Parameters
    ----------
    model : Potential
        Changed in place.
    config : Config
        Weights of the loss and settings of the training.
    training, validation : sequence of Frame
        Labelled frames, in memory or streamed from a file; validation may be empty. Each label
        of each frame counts; training frames without any that has a weight are left out, with a
        warning.
    folder : path-like, optional
        For ``last.pt``, ``best.pt`` and ``log.csv``; None writes nothing.
    report : callable, optional
        Called after every epoch with a row of the history.
    ranks : Ranks, optional
        The processes that train together, each called with the same arguments.
    shares : Shares, optional
        Which of them works on which frames; by default decided here.
    """

    def __init__(
        self,
        model: Potential,
        config: Config,
        training: Frames,
        validation: Frames = (),
        folder: str | Path | None = None,
        report: Report | None = None,
        ranks: Ranks | None = None,
        shares: Shares | None = None,
    ):
        self.settings, self.ranks = config.training, ranks or Ranks()
        self.validated = labels_to_validate(training, validation, config.loss)
        training = with_weighted_labels(training, config.loss)
        self.device = training_device(self.settings.device)
        self.model, self.config = model.to(self.device), config
        self.ranks.copy_from_first(model.state_dict().values())
        self.validation = validation
        self.shares = shares or Shares(self.ranks, training)
        self._owner = self.shares.owner_of(training)
        self.remarks = self.shares.lines(training, self.settings.batch_size)
        self.folder = None if folder is None else Path(folder)
        self.report = report
        self.loader = Loader(training, model)
        self.average = copy.deepcopy(model).eval()
        self.optimizer = optimizer_of(model, self.settings)
        # of steps on the small tensors of these models, most is the cost of calls
        self._pairs: list[list[Tensor]] = [[*self.average.parameters()], [*model.parameters()]]
        self.epoch = self.step = self.skipped = self.stale = self.position = 0
        self.losses: list[float] = []  # of this epoch's steps, of which there are `position`
        self._saved_at = time.perf_counter()
        self.elapsed = 0.0
        self.best = math.inf
        self.history: list[dict[str, Any]] = []
        self._log: Log | None = None
        self._board: Board | None = None
        if self.folder is not None and self.ranks.first:
            self._log = Log(self.folder / "log.csv")
            if self.settings.tensorboard:
                self._board = Board(self.folder / "tensorboard")

    # --- running ----------------------------------------------------------------------------------

    def run(self, max_epochs: int | None = None) -> Potential:
        """Train to the end (or `max_epochs` more epochs) and return the averaged model.

        Raises
        ------
        Stopped
            If a signal told any of the processes to stop; ``last.pt`` is that of the step.
        """
        if self.folder is not None and self.ranks.first:
            checkpoint.check_folder(self.folder)  # fail now rather than after the first epochs
        stop_at = self.settings.epochs
        if max_epochs is not None:
            stop_at = min(stop_at, self.epoch + max_epochs)
        with self.ranks.signals.noted():
            while self.epoch < stop_at and not self.finished:
                self._run_epoch()
        if self.folder is not None and self.ranks.first:
            self.save()
            if not (self.folder / "best.pt").exists():
                self._save_best(epoch=self.epoch)
        self.ranks.wait()  # until the files are written
        return self.average

    @property
    def finished(self) -> bool:
        """True once epochs, time or patience are used up."""
        return bool(self._reasons_to_end())

    def _reasons_to_end(self) -> list[str]:
        return reasons_to_end(self.settings, self.epoch, self.elapsed, self.stale)

    def _run_epoch(self) -> None:
        started, before = time.perf_counter(), self.elapsed
        batches = self._batches()
        for indices in batches[self.position :]:
            progress = (self.step + 1) / (self.settings.epochs * len(batches))
            progress = max(progress, share_of_time(self.settings, self.elapsed))
            self.losses.append(self._train_step(indices, progress))
            self.position += 1
            self.elapsed = self.ranks.from_first(before + time.perf_counter() - started)
            if share_of_time(self.settings, self.elapsed) >= 1.0:
                break
            self._after_step()
        losses, self.losses, self.position = self.losses, [], 0
        self.epoch += 1
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"epoch": self.epoch, "step": self.step}
        row |= {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        row["train_loss"] = float(np.nanmean(losses)) if np.isfinite(losses).any() else math.nan
        due = self.epoch % self.settings.validate_every == 0 or self.finished
        if self.validated and due:
            row |= self._validate()
        self.elapsed = self.ranks.from_first(before + time.perf_counter() - started)
        row["seconds"] = round(self.elapsed, 3)
        self.history.append(row)
        if self.ranks.first:
            self._record(row)
        self._after_step()

    def _after_step(self) -> None:
        """Save where it is due within an epoch, and leave where one of the processes is told to."""
        told = self.ranks.sum(np.array([bool(self.ranks.signals.name)], dtype=float))[0]
        seconds, since = self.settings.checkpoint_seconds, time.perf_counter() - self._saved_at
        due = seconds is not None and since >= seconds
        if self.folder is not None and self.ranks.first and (told or due):
            self.save()
        if told:
            self.ranks.wait()  # until the file is written
            raise Stopped(self.place())

    def place(self) -> str:
        """Return in words how far the training is."""
        steps = len(self._batches())
        return f"epoch {self.epoch + 1}, after {self.position} of its {steps} steps"

    def _record(self, row: dict[str, Any]) -> None:
        """Write checkpoint and logs where they are due, and report the epoch."""
        if self.folder is not None and self.epoch % self.settings.checkpoint_every == 0:
            self.save()
        if self._log is not None:
            self._log.add(self.history)
        if self._board is not None:
            self._board.add(self.history)
        if self.report is not None:
            self.report(row)

    def _batches(self) -> list[np.ndarray]:
        """Return the frames of each step of this epoch."""
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        return self.loader.batches(self.settings.batch_size, rng)

    def _train_step(self, indices: np.ndarray, progress: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step, progress)
        self.optimizer.zero_grad()
        part = self._loss(self.shares.of_batch(indices, self._owner))
        if part.requires_grad:
            part.backward()
        self.ranks.add_gradients(self.model.parameters())
        loss = self.ranks.sum(np.array([part.item()]))[0]
        norm = nn.utils.clip_grad_norm_(self._pairs[1], self.settings.clip, foreach=True)
        self.step += 1
        if not math.isfinite(loss) or not torch.isfinite(norm):
            self._skip()
            return math.nan
        self.skipped = 0
        self.optimizer.step()
        self._update_average()
        return float(loss)

    def _loss(self, indices: np.ndarray) -> Tensor:
        """Return the contribution of this process to the loss of a batch."""
        batch = collate(self.loader[indices]).to(self.device) if len(indices) else None
        counts = label_counts(batch)
        if self.ranks.size > 1:
            totals = self.ranks.sum(np.array([counts[name] for name in LABELS], dtype=float))
            counts = dict(zip(LABELS, totals, strict=True))
        if batch is None:
            return torch.zeros(())
        with_mm = "mm_forces" in batch.labels and self.config.loss.mm_forces > 0
        asked = {"forces": True, "mm_forces": with_mm, "create_graph": True}
        if "stress" in batch.labels and self.config.loss.stress > 0:
            asked["stress"] = True
        output = self.model(batch, **asked)
        return weighted_loss(output, batch, self.config.loss, counts)

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
        means, values = self._pairs
        torch._foreach_lerp_(means, values, 1 - decay)

    def _validate(self) -> dict[str, Any]:
        """Validate the averaged weights, and save them if they are the best so far."""
        share = self.shares.mine(self.validation)
        rmse = validation_rmse(self.average, self.validation, self.validated, self.ranks, share)
        loss = validation_loss(rmse, self.config.loss)
        if loss < self.best:
            self.best, self.stale = loss, 0
            if self.folder is not None and self.ranks.first:
                self._save_best(epoch=self.epoch, validation_loss=loss)
        else:
            self.stale += 1
        return {f"validation_{k}_rmse": v for k, v in rmse.items()} | {"validation_loss": loss}

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
            "frames": self.loader.fingerprint,
            "history": self.history,
            **{name: getattr(self, name) for name in (*_COUNTERS, *_WITHIN)},
        }
        content = checkpoint.model_state(self.average) | {"data": state["config"]["data"]}
        checkpoint.save(self.folder / "last.pt", content | {"trainer": state})
        self._saved_at = time.perf_counter()

    def _save_best(self, **remarks: Any) -> None:
        assert self.folder is not None  # the caller asked
        data = self.config.data.model_dump()
        checkpoint.save_model(self.folder / "best.pt", self.average, data=data, **remarks)

    def resume(self, path: str | Path | None = None) -> list[str]:
        """Continue from a checkpoint, by default ``last.pt`` of this trainer's folder.

        A run that is given more epochs or more time follows the schedule of its new length from
        where it stands.

        Returns
        -------
        list of str
            Lines that say what has changed since, and what that means.

        Raises
        ------
        ValueError
            If it was written under another configuration (but for how long a run lasts and what
            is harmless) or from another start, or on other frames.
        """
        if path is None:
            if self.folder is None:
                raise ValueError("this trainer has no folder: give the path of a checkpoint")
            path = self.folder / "last.pt"
            if self.ranks.first:
                checkpoint.last_of(self.folder)
        with self.ranks.file_of_first(Path(path)) as own:
            content = checkpoint.load(own)
        state = content.get("trainer")
        if state is None:
            raise ValueError(f"{path} holds a model but no training state: resume from last.pt")
        lines = agree(state["config"], self.config, path)
        if state["frames"] != self.loader.fingerprint:
            raise ValueError(
                f"{path} was written on other training frames: the data have changed since; "
                "start in a new folder"
            )
        self.average.load_state_dict(content["state_dict"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.history = state["history"]
        for name in (*_COUNTERS, *(one for one in _WITHIN if one in state)):
            setattr(self, name, state[name])
        if self._board is not None:
            self._board.forget_after(self.step)
        if reasons := self._reasons_to_end():
            told = " and ".join(reasons)
            return [*lines, f"nothing is left to train: {told}; raise what ended it to go on"]
        return [*lines, *self._schedule_lines(state["config"]["training"])]

    def _schedule_lines(self, old: dict[str, Any]) -> list[str]:
        """Say how the learning rate continues, if the length of the run has changed."""
        settings = self.settings
        if (old["epochs"], old["time_limit"]) == (settings.epochs, settings.time_limit):
            return []
        before = self.optimizer.param_groups[0]["lr"]
        progress = max(self.epoch / settings.epochs, share_of_time(settings, self.elapsed))
        now = learning_rate(settings, self.step, progress)
        return [
            f"the learning rate follows the new length: at epoch {self.epoch} it goes from "
            f"{before:.2g} to {now:.2g} ({100 * progress:.0f} % of the schedule)"
        ]
