"""A training run as a user sees it: from a configuration to tables and pictures in a folder."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn.data.checking.doubts import doubts
from gnn.potential import Potential
from gnn.training import parallel
from gnn.training.blind import fit_blind, pointless
from gnn.training.checkpoint import last_of, load
from gnn.training.config import Config, changed
from gnn.training.fit import fit
from gnn.training.frames.isolated import isolated_lines
from gnn.training.frames.labels import has_stress
from gnn.training.frames.load import LoadedData, elements_of, embedded, load_data, summary
from gnn.training.frames.loader import Frames
from gnn.training.loop import Trainer
from gnn.training.members import differences, fit_committee
from gnn.training.parallel import Ranks
from gnn.training.report.metrics import Comparison, compare
from gnn.training.report.uncertainty import has_spread
from gnn.training.results import report_spread, with_baselines, write_results
from gnn.training.stopping import Stopped

Console = Any
_NOTE = "unfinished"  # file that a run leaves behind which a signal ended


def run_training(
    config: Config,
    console: Console,
    *,
    resume: bool | None = False,
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
        Continue from ``last.pt`` of the folder; None: if it is there. A process that ``torchrun``
        started anew, since another was lost, continues in any case.
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
    ConnectionError
        If one of several processes is lost.
    Stopped
        If a signal told the run to stop. The folder then holds a file ``unfinished``, until the run
        is continued.
    """
    device, timeout = (
        parallel.training_device(config.training.device),
        config.training.collective_timeout,
    )
    with parallel.start(device, timeout) as ranks:
        if not ranks.first:
            from rich.console import Console as Screen

            console, say = Screen(quiet=True), _silence
            warnings.simplefilter("ignore")  # the first one's are the same
        run = _Run(config, console, say or console.print, resume, ranks)
        with ranks.signals.heard():
            return run.run(blind)


def _silence(_: str) -> None:
    """Print nothing: the first of several processes does."""


@dataclass
class _Run:
    """One call of `run_training` in one of the processes that train together."""

    config: Config
    console: Console
    say: Callable[[str], None]
    resume: bool | None
    ranks: Ranks

    def run(self, blind: Config | None) -> dict[str, Comparison]:
        """Do all of it, or leave a note of how far a signal let it come."""
        try:
            return self._run(blind)
        except Stopped as stop:
            if self.ranks.first and self.folder.is_dir():
                name = self.ranks.signals.name or "a signal to another process"
                (self.folder / _NOTE).write_text(f"{name}: {stop}\n", encoding="utf-8")
            raise

    def _run(self, blind: Config | None) -> dict[str, Comparison]:
        self.resume = _to_resume(self.resume, self.folder, self.ranks)
        self.config = _ready(self.config, self.folder, self.resume, self.ranks)
        if self.ranks.first:
            (self.folder / _NOTE).unlink(missing_ok=True)
        data = load_data(self.config.data, check=self.ranks.first)
        self._introduce(data)
        model, history = self._train(data)
        seen = embedded(data.splits[0], self.config.data)
        twin = None if blind is None else self._train_blind(blind, data, seen)
        return self._results(data, seen, model, twin, history) if self.ranks.first else {}

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    def _introduce(self, data: LoadedData) -> None:
        """Say what is trained on, and what looks wrong with it."""
        if self.ranks.size > 1:
            self.say(f"{self.ranks.size} processes train together")
        for line in [*data.lines, *_about(self.config, data), *summary(data.splits)]:
            self.say(line)
        for remark in doubts(data.splits[0]) if self.ranks.first else ():
            self.say(f"doubt: {remark}")

    def _train(self, data: LoadedData) -> tuple[Potential, Sequence[dict[str, Any]]]:
        """Train the model, or a committee, which has no history."""
        where, options = (self.console, self.folder), self._options
        members = self.config.committee.members
        if members > 1:
            committee = fit_committee(self.config, data, *where, **options)
            self.say(f"trained {members} models: {self.folder}/committee.pt")
            return committee, []
        model, trainer = fit(self.config, data, *where, **options)
        parameters = sum(p.numel() for p in model.parameters())
        threads = torch.get_num_threads()
        on = f"on {threads} thread{'s' if threads > 1 else ''}"
        self.say(f"trained {parameters} parameters: {_effort(trainer)} {on}")
        return model, trainer.history

    def _train_blind(self, config: Config, data: LoadedData, seen: Frames) -> Potential | None:
        """Train the blind twin, unless there is nothing that it could lack."""
        _, validation, test = data.splits
        if reason := pointless(seen, validation, config):
            self.say(f"no blind twin: {reason}")
            return None
        data = replace(data, splits=(seen, validation, test))
        twin, trainer = fit_blind(
            config, data, self.console, self.folder / "blind", **self._options
        )
        self.say(f"blind twin: {_effort(trainer)}")
        return twin

    @property
    def _options(self) -> dict[str, Any]:
        return {"resume": self.resume, "ranks": self.ranks}

    def _results(
        self,
        data: LoadedData,
        seen: Frames,
        model: Potential,
        twin: Potential | None,
        history: Sequence[dict[str, Any]],
    ) -> dict[str, Comparison]:
        """Compare the model and the baselines on the test frames, and write what comes out."""
        _, validation, test = data.splits
        test = test if len(test) else validation
        results = model.evaluate(test, stress=has_stress(test))
        if has_spread(results):
            report_spread(results, test, self.folder, self.console)
        comparisons = with_baselines(compare(results, test), twin, seen, test)
        write_results(self.folder, history, comparisons)
        return comparisons


def _effort(trainer: Trainer) -> str:
    return f"{trainer.step} steps, {trainer.epoch} epochs, {trainer.elapsed:.0f} s"


def _begun(folder: Path, ranks: Ranks) -> bool:
    """Tell whether the folder holds a run, as the first process sees it."""
    runs = [folder / "last.pt", folder / "member_0" / "last.pt"]
    return bool(ranks.from_first(any(path.exists() for path in runs)))


def _to_resume(resume: bool | None, folder: Path, ranks: Ranks) -> bool:
    """Decide, alike in all processes, whether a run goes on."""
    anew = ranks.sum(np.array([parallel.restarted()], dtype=float))[0] > 0
    return _begun(folder, ranks) if resume is None or anew else resume


def _ready(config: Config, folder: Path, resume: bool, ranks: Ranks) -> Config:
    """Check that the folder is there to begin or to go on in.

    Of a run that goes on, return the configuration with the checkpoint that it started from.
    """
    if not resume:
        if _begun(folder, ranks):
            raise ValueError(
                f"{folder} holds a training run already: continue it with --resume (--go-on, where "
                "the same command may begin it too), or set another output folder"
            )
        return config
    committee = bool(ranks.from_first((folder / "member_0" / "last.pt").is_file()))
    if committee and config.committee.members == 1:
        raise ValueError(f"{folder} holds a committee: say of how many models (--committee N)")
    single = bool(ranks.from_first((folder / "last.pt").is_file()))
    if not committee and config.committee.members > 1 and single:
        raise ValueError(f"{folder} holds a run of one model: continue it without a committee")
    own = folder / "member_0" if committee else folder
    last = last_of(own) if ranks.first else own / "last.pt"
    with ranks.file_of_first(last) as path:
        state = load(path).get("trainer") or {"config": {}}
    start = state["config"].get("start") if config.start is None else config.start
    return changed(config, {"start": start})


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
