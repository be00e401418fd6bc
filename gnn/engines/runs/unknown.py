"""What a run does where it leaves what its model knows: it warns, saves frames, or stops."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gnn.data.batching import Batch
from gnn.data.formats.by_suffix import read_frames, write_frames
from gnn.data.systems import Frame, System
from gnn.engines.embedding.embedding import Embedding, array
from gnn.engines.spread import Spread
from gnn.trust.words import grade, sentence
from gnn.units import GAS_CONSTANT, KJ_PER_MOL

#: What may be done: nothing (it is counted), a warning, frames for labelling too, an end too.
POLICIES = ("ignore", "warn", "save", "stop")
#: Most frames that are saved.
MOST = 100
_JUMP = 5.0  # times the atoms' mean kinetic energy, in one step


class LeftTraining(ValueError):
    """A run stopped because it left what its model knows."""


class Watch:
    """Looks at every evaluation of a model in a run for what the model does not know.

    That is: atoms outside of its training (novelty above 1: features, distances to atoms and
    charges, fields, bonds) or a total charge that no frame had, where the model says what it was
    trained on; a committee that disagrees by more than a limit; an energy that jumps from one
    evaluation to the next by five times the atoms' mean kinetic energy. The run itself reports
    heat and stretched bonds by `report`.

    Parameters
    ----------
    policy
        One of `POLICIES`; "stop" saves the frame, too.
    folder
        Of the run, for ``unknown.extxyz``.
    temperature
        In K, for the scale of jumps.
    spacing
        Evaluations from one frame that is saved to the next of its kind, at least.
    spread : Spread, optional
        Of a committee, which is called with what it says.
    limit
        Spread of the forces in eV/Å above which they are in doubt. None: none is.
    tell : callable
        Takes warnings.
    run : int
        Number of the run, for the frames: a split into training and test keeps them together.

    Attributes
    ----------
    counts : Counter
        Evaluations in doubt, of each kind.
    evaluations : int
        All of them.
    stopped : bool
        Whether the run was to stop here.
    step : int
        Last step that was recorded, for messages.
    """

    def __init__(
        self,
        policy: str,
        folder: Path,
        temperature: float,
        spacing: int,
        spread: Spread | None = None,
        limit: float | None = None,
        tell: Callable[[str], None] = warnings.warn,
        run: int = 0,
    ):
        if policy not in POLICIES:
            raise ValueError(f"expected one of {', '.join(POLICIES)}, got {policy!r}")
        self.policy, self.path, self.spacing = policy, folder / "unknown.extxyz", spacing
        self.spread, self.limit, self.tell, self.run = spread, limit, tell, run
        self.counts: Counter[str] = Counter()
        self.evaluations, self.step, self.stopped = 0, 0, False
        self.largest = 0.0
        self._kinetic = 1.5 * GAS_CONSTANT * temperature * KJ_PER_MOL
        self._energy: float | None = None
        self._told: dict[str, int] = {}
        self._saved_at: dict[str, int] = {}
        self._frames: list[Frame] = []
        self._model: Any = None
        self._batch: Batch | None = None

    def begin(self, resume: bool) -> None:
        """Keep the frames that a run has saved before, or forget them."""
        if not resume:
            self.path.unlink(missing_ok=True)
        elif self.path.is_file():
            self._frames = read_frames(self.path)

    def attach(self, embedding: Embedding) -> None:
        """Note what the embedding's model is given from now on."""
        evaluate, self._model = embedding.evaluate, embedding.model

        def noted(batch: Batch) -> Any:
            self._batch = batch
            return evaluate(batch)

        embedding.evaluate = noted

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Look at what the model says of what it was given.

        Raises
        ------
        LeftTraining
            If it is in doubt, and the policy is to stop.
        SpreadExceeded
            If a committee's spread is above the limit at which it stops.
        """
        self.evaluations += 1
        if self.spread is not None:
            self.spread(output)
            if self.limit is not None and self.spread.force > self.limit:
                self.report("spread", self.spread.sentence("--warn-spread", self.limit))
        self._look_at_novelty(output)
        self._look_at_energy(float(output["energy"][0].detach()))

    def _look_at_novelty(self, output: Mapping[str, Any]) -> None:
        domain = self._model.domain
        if domain is None or "novelty" not in output or self._batch is None:
            return
        novelty, charge = array(output["novelty"]), round(float(self._batch.charge[0]))
        if novelty.max() <= 1 and charge in domain.charges:
            return
        system = self.system()
        total = domain.system_novelty(system, novelty)
        self.largest = max(self.largest, total)
        said = sentence(system, domain, {"novelty": novelty, "system_novelty": total})
        self.report("novelty", said, grade(total))

    def _look_at_energy(self, energy: float) -> None:
        assert self._batch is not None  # for the type checker
        before, self._energy = self._energy, energy
        limit = _JUMP * self._kinetic * self._batch.n_atoms
        if before is not None and abs(energy - before) > limit:
            self.report(
                "energy",
                f"the model's energy went from {before:.3f} to {energy:.3f} eV in one step, more "
                f"than {_JUMP:g} times the mean kinetic energy of its atoms ({limit:.2g} eV)",
            )

    def report(self, kind: str, text: str, level: int = 1) -> None:
        """Do what the policy says about something in doubt.

        Parameters
        ----------
        kind
            Of doubt; a warning comes once of each, and again where it becomes worse.
        text
            With numbers.
        level
            How bad, the larger the worse.

        Raises
        ------
        LeftTraining
            If the policy is to stop.
        """
        self.counts[kind] += 1
        if self.policy == "ignore":
            return
        if self.policy in ("save", "stop"):
            self._save(kind)
        if self.policy == "stop":
            self.stopped = True
            kept = f"; the frame is in {self.path}" if self._frames else ""
            raise LeftTraining(f"{text} (--on-unknown stop){kept}")
        if level > self._told.get(kind, 0):
            self._told[kind] = level
            self.tell(f"after step {self.step}: {text}")

    def system(self) -> System:
        """Return what the model was given last: atoms, and the charges around them as it saw them.

        Raises
        ------
        ValueError
            If it was given nothing yet.
        """
        batch = self._batch
        if batch is None:
            raise ValueError("the model was not evaluated yet")
        origin = array(batch.origin)
        around = array(batch.mm_positions) + origin, array(batch.mm_charges)
        charge = round(float(batch.charge[0]))
        return System(batch.numbers.numpy(), array(batch.positions) + origin, charge, *around)

    def _save(self, kind: str) -> None:
        """Add a frame to the file, unless there are enough, or the last one is too near."""
        last = self._saved_at.get(kind)
        near = last is not None and self.evaluations - last < self.spacing
        if near or len(self._frames) >= MOST or self._batch is None:
            return
        self._saved_at[kind] = self.evaluations
        self._frames.append(Frame(self.system(), group=f"unknown-{kind}", run=self.run))
        write_frames(self.path, self._frames)

    def summary(self) -> str:
        """Return in one line what was in doubt; nothing if nothing was."""
        if not self.counts:
            return ""
        found = ", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items()))
        line = f"outside of what the model knows: {found} of {self.evaluations} evaluations"
        if self.largest > 0:
            line += f" (largest novelty {self.largest:.2g})"
        if self._frames:
            line += f"; {len(self._frames)} frames in {self.path}, for anisole data label"
        return line
