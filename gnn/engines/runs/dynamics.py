"""Molecular dynamics of a solute in water: set-up, the run itself, and restarts.

A run lives in one folder: its box (``system.xml``, ``topology.json``, ``coordinates.npz``), the
same equilibrated (``start.xml``), ``topology.pdb``, ``trajectory.xtc`` (or ``.dcd``), ``log.csv``
and ``checkpoint.npz``; where the run had to stop, ``failed.pdb``. The checkpoint knows how long
trajectory and log were when it was written: a run that goes on cuts both there, so that nothing is
missing and nothing comes twice.
"""

import csv
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines._models import ready_model
from gnn.engines.boxes.box import read_box
from gnn.engines.boxes.naming import is_water, name_residues
from gnn.engines.boxes.select import check_zone
from gnn.engines.devices import device_of
from gnn.engines.embedding.embedding import APART, Embedding, check_box
from gnn.engines.embedding.images import Array
from gnn.engines.openmm import INTERRUPTED, classical_system, create_system
from gnn.engines.runs.box import (
    degrees_of_freedom,
    equilibrated,
    in_angstrom,
    masses,
    platform_of,
    repartition,
    temperature,
)
from gnn.engines.runs.checkpoint import (
    check_lengths,
    check_same,
    fingerprint,
    load_state,
    named,
    read_checkpoint,
    upgraded,
    write_checkpoint,
)
from gnn.engines.runs.failure import explain, longest_bond_of, warn_of_step, write_pdb
from gnn.engines.runs.settings import Settings
from gnn.engines.runs.trajectory import Trajectory
from gnn.engines.runs.unknown import LeftTraining, Watch
from gnn.engines.runs.zone import zone_tree
from gnn.engines.sampling.bias import Bias, read_arrays
from gnn.engines.spread import SPREAD_COLUMNS, Spread, SpreadExceeded
from gnn.training.calibration import calibration_line
from gnn.training.committee import Committee
from gnn.units import GRAM_PER_ML
from multipoles.files import atomic_write

COLUMNS = (
    "step", "time_ps", "potential_kj_mol", "kinetic_kj_mol", "total_kj_mol", "temperature_k",
    "density_g_ml", "ns_per_day",
)  # fmt: skip
_HOT = 3.0  # times the temperature asked for
# may change on the way
_STILL_FREE = (
    "steps", "threads", "platform", "model_device", "equilibration", "warn_spread", "stop_spread",
    "on_unknown",
)  # fmt: skip


class Run:
    """One molecular-dynamics run in a folder.

    Parameters
    ----------
    folder : Path
        Holds the box, as `gnn.engines.boxes.box.write_box` puts it there; takes all results.
    settings : Settings
        What to do.
    model : Potential or path, optional
        None: the one that ships.
    qm_atoms : sequence of int, optional
        Numbers from 0 of the atoms that the model computes. None: those of the first residue.
    say : callable
        Takes lines of progress.
    bias : Bias, optional
        What acts on collective variables, which the log then has columns of.

    Attributes
    ----------
    box : Box
        Topology, classical system and coordinates; names that would mislead readers are changed.
    spread : Spread or None
        Of a committee, once the run has begun.
    watch : Watch or None
        For what the model does not know, once the run has begun.
    tell : callable
        Takes warnings of the running simulation.
    embedded : callable or None
        Called with the `Embedding` before the run begins; it may replace its ``evaluate``.

    Raises
    ------
    OSError
        If the folder holds no box.
    ValueError
        If settings and files do not fit.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        model: Any = None,
        qm_atoms: Sequence[int] | None = None,
        say: Callable[[str], None] = print,
        bias: Bias | None = None,
    ):
        self.folder, self.settings, self.say, self.bias = folder, settings, say, bias
        self.model, self.box = model, read_box(folder)
        self.topology = self.box.topology
        self.qm_atoms = self._zone(qm_atoms)
        inside = set(self.qm_atoms)
        self.qm_bonds = [
            bond
            for bond in self.topology.bonds()
            if all(atom.index in inside and atom.element is not None for atom in bond)
        ]
        self.zone_tree = zone_tree(self.topology, self.qm_atoms)
        self.trajectory = folder / f"trajectory.{settings.trajectory}"
        self.log, self.checkpoint = folder / "log.csv", folder / "checkpoint.npz"
        self.degrees_of_freedom, self._mass = 0, 0.0
        self._frames = Trajectory(
            self.trajectory, self.topology, settings.timestep, settings.interval
        )
        self.last_frame: tuple[Array, Array] = self.box.positions, self.box.vectors
        self.spread: Spread | None = None
        self.watch: Watch | None = None
        self.tell: Callable[[str], None] = warnings.warn
        self.embedded: Callable[[Embedding], None] | None = None
        self._columns: Sequence[str] = COLUMNS
        self._saved = 0
        self._weights: str | None = None
        self._embedding: Embedding | None = None

    def _zone(self, atoms: Sequence[int] | None) -> list[int]:
        """Return the model's atoms; misleading names of residues are changed."""
        residues = list(self.topology.residues())
        zone = sorted([a.index for a in residues[0].atoms()] if atoms is None else atoms)
        chosen = check_zone(self.topology, zone)
        waters, within = sum(map(is_water, residues)), sum(map(is_water, chosen))
        if within == len(chosen) and waters < len(residues):
            names = ", ".join(str(residue.index) for residue in chosen[:5])
            warnings.warn(
                f"the model's zone is {within} of {waters} waters among {len(residues)} residues "
                f"(number {names}): is it what the model should compute?",
                stacklevel=3,
            )
        name_residues(self.topology, zone)
        return zone

    # --- the run ----------------------------------------------------------------------------------

    def run(
        self, resume: bool = False, progress: Callable[[int, float], None] | None = None
    ) -> None:
        """Do all steps; with `resume`, those after the last checkpoint.

        `progress` is called with the step and the speed in ns/day.

        Raises
        ------
        SpreadExceeded
            If the members of a committee disagree by more than ``settings.stop_spread``.
        LeftTraining
            If the run leaves what the model knows, and ``settings.on_unknown`` is "stop".
        ValueError
            If the run cannot go on, or settings do not fit the model or a run that was begun.
        """
        if self.checkpoint.is_file() and not resume:
            raise ValueError(
                f"{self.folder} holds a run already: continue it with --resume, or name another "
                "folder"
            )
        simulation = self._simulation(resume)
        try:
            with self._explained(simulation):
                step = self._restore(simulation) if resume else self._begin(simulation)
                self._advance(simulation, step, progress)
        finally:
            self._frames.close()

    @contextmanager
    def _explained(self, simulation: Any) -> Iterator[None]:
        """Turn errors of OpenMM and of the model into one that describes the failure."""
        import openmm

        try:
            yield
        except openmm.OpenMMException as error:
            if str(error) == INTERRUPTED:
                raise KeyboardInterrupt from None
            if self.spread is not None and self.spread.exceeded:
                raise explain(self, simulation, self._kept(error), SpreadExceeded) from None
            if self.watch is not None and self.watch.stopped:
                raise explain(self, simulation, self._kept(error), LeftTraining) from None
            raise explain(self, simulation, " ".join(str(error).split())) from None
        except LeftTraining as error:
            raise explain(self, simulation, self._kept(error), LeftTraining) from None
        except FloatingPointError as error:
            raise explain(self, simulation, str(error)) from None

    def _kept(self, error: Exception) -> str:
        """Return what an error says, and from where the run can go on."""
        kept = f" (step {self._saved} is kept in {self.checkpoint})"
        return str(error) + (kept if self.checkpoint.is_file() else "")

    def _advance(
        self, simulation: Any, step: int, progress: Callable[[int, float], None] | None
    ) -> None:
        """Do the remaining steps."""
        if step >= self.settings.steps:
            self.say(f"nothing to do: {step} of {self.settings.steps} steps are done")
        move = simulation.step if self.bias is None else self.bias.stepper(simulation)
        clock = time.perf_counter()
        while step < self.settings.steps:
            interval = self.settings.interval
            count = min(interval - step % interval, self.settings.steps - step)
            move(count)
            step += count
            now = time.perf_counter()
            speed = count * self.settings.timestep * 1e-6 / ((now - clock) / 86400)
            clock = now
            self._record(simulation, step, speed)
            if step % self.settings.checkpoint_interval == 0 or step == self.settings.steps:
                self._save(simulation, step)
            if progress is not None:
                progress(step, speed)

    def _system(self) -> Any:
        settings = self.settings
        model = None if settings.classical else ready_model(self.model, settings.precision)
        self._weights = fingerprint(model)
        if isinstance(model, Committee):
            self.spread = Spread(settings.stop_spread)
            self.say(f"committee of {len(model.members)}: {calibration_line(model)}")
        elif settings.warn_spread is not None or settings.stop_spread is not None:
            what = "the force field alone" if model is None else f"one {type(model).__name__}"
            raise ValueError(
                f"--warn-spread and --stop-spread need a committee as the model, got {what}: leave "
                "them out, or train one (anisole train --committee)"
            )
        self.watch = Watch(
            settings.on_unknown, self.folder, settings.temperature, settings.interval,
            self.spread, settings.warn_spread, self.tell, settings.seed,
        )  # fmt: skip
        if model is None:
            return classical_system(self.topology, self.box.system, {})
        model.unknown = "ignore"  # the watch speaks of it
        if model.domain is None:
            self.say("the model does not say what it was trained on: its novelty is not known")
        return create_system(
            self.topology,
            self.box.system,
            self.qm_atoms,
            model,
            cutoff=settings.cutoff,
            electrostatics=settings.electrostatics,
            charge=settings.charge,
            link_scheme=settings.link_scheme,
            watch=self.watch,
            prepare=self._prepare,
        )

    def _prepare(self, embedding: Embedding) -> None:
        self._embedding = embedding
        if self.embedded is not None:
            self.embedded(embedding)
        assert self.watch is not None  # for the type checker
        self.watch.attach(embedding)

    def _simulation(self, resume: bool = False) -> Any:
        import openmm
        from openmm import app, unit

        settings, system = self.settings, self._system()
        kelvin = settings.temperature * unit.kelvin
        step = settings.timestep * unit.femtosecond
        if settings.ensemble == "nve":
            integrator = openmm.VerletIntegrator(step)
        else:
            friction = settings.friction / unit.picosecond
            integrator = openmm.LangevinMiddleIntegrator(kelvin, friction, step)
            integrator.setRandomNumberSeed(settings.seed + 1)
        integrator.setConstraintTolerance(1e-8)
        if settings.ensemble == "npt":
            barostat = openmm.MonteCarloBarostat(1 * unit.bar, kelvin)
            barostat.setRandomNumberSeed(settings.seed + 1)
            system.addForce(barostat)
        if settings.hydrogen_mass is not None:
            repartition(system, self.topology, self.qm_atoms, settings.hydrogen_mass)
        if self.bias is not None:
            saved = read_arrays(self.checkpoint) if resume and self.checkpoint.is_file() else {}
            self.bias.add_to(system, settings.temperature, self.folder, saved.get("bias"))
        assert self.watch is not None  # for the type checker
        self.watch.begin(resume)
        warn_of_step(self.topology, system, settings.timestep)
        self.degrees_of_freedom = degrees_of_freedom(system)
        self._mass = float(masses(system).sum())
        simulation = app.Simulation(self.topology, system, integrator, *platform_of(settings))
        self._place(simulation.context)
        return simulation

    def _place(self, context: Any) -> None:
        """Let the model run where OpenMM does, unless it is to stay on the CPU."""
        embedding = self._embedding
        if embedding is None or self.settings.model_device == "cpu":
            return
        device = device_of(context)
        if device.type != "cpu":
            embedding.model.to(device)
            self.say(f"the model runs on {device}, with OpenMM")

    def _begin(self, simulation: Any) -> int:
        """Start from the equilibrated box, with empty trajectory and log; return step 0."""
        from openmm import XmlSerializer, unit

        if not self.settings.classical:
            positions, box = self.last_frame
            check_box(
                self.zone_tree.whole(positions, box)[self.qm_atoms], box, self.settings.cutoff
            )
        path = self.folder / "start.xml"
        state = XmlSerializer.deserialize(equilibrated(path, self.box, self.settings, self.say))
        context = simulation.context
        context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        context.setPositions(state.getPositions())
        context.setVelocitiesToTemperature(
            self.settings.temperature * unit.kelvin, self.settings.seed + 1
        )
        if self.bias is not None:
            self.bias.begin(simulation, self.settings.timestep)
        found = context.getState(positions=True, enforcePeriodicBox=True)
        self.last_frame = in_angstrom(found)
        path = self.folder / "topology.pdb"
        write_pdb(path, self.topology, *self.last_frame, self.zone_tree)
        self._frames.begin()
        self._columns = (
            *COLUMNS,
            *(SPREAD_COLUMNS if self.spread is not None else ()),
            *(self.bias.columns if self.bias is not None else ()),
        )
        with atomic_write(self.log) as temporary:
            temporary.write_text(",".join(self._columns) + "\r\n", encoding="utf-8", newline="")
        self._record(simulation, 0, float("nan"))
        self._save(simulation, 0)
        return 0

    def _record(self, simulation: Any, step: int, speed: float) -> None:
        """Append a row, and a frame if one is due: readers infer the time from the spacing."""
        from openmm import unit

        state = simulation.context.getState(positions=True, energy=True, enforcePeriodicBox=True)
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        if not np.isfinite(potential + kinetic):
            raise FloatingPointError(f"the energy is {potential + kinetic} kJ/mol")
        self.last_frame = in_angstrom(state)
        if step % self.settings.interval == 0:
            self._frames.write(state.getPositions(asNumpy=True), state.getPeriodicBoxVectors())
        volume = state.getPeriodicBoxVolume().value_in_unit(unit.nanometer**3)
        kelvin = temperature(kinetic, self.degrees_of_freedom)
        self._warn(step, kelvin)
        values = (
            step,
            f"{step * self.settings.timestep * 1e-3:.6g}",
            *(f"{energy:.10g}" for energy in (potential, kinetic, potential + kinetic)),
            f"{kelvin:.6g}",
            f"{self._mass / volume / GRAM_PER_ML:.6g}",
            f"{speed:.4g}",
        )
        row = dict(zip(COLUMNS, values, strict=True))
        if self.spread is not None:
            row |= self.spread.row()
        if self.bias is not None:
            row |= self.bias.row(*self.last_frame)
        with open(self.log, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, "nan", extrasaction="ignore").writerow(row)

    def _warn(self, step: int, kelvin: float) -> None:
        """Tell of heat and of a stretched bond of the molecule, as of all that is unknown."""
        assert self.watch is not None  # for the type checker
        self.watch.step, asked = step, self.settings.temperature
        if kelvin > _HOT * asked:
            text = f"the temperature is {kelvin:.0f} K, asked for were {asked:g} K"
            self.watch.report("heat", text)
        bond, ratio = longest_bond_of(self, *self.last_frame)
        if ratio > APART:
            text = f"the bond {bond} is {ratio:.1f} times as long as usual"
            self.watch.report("bond", f"{text}; the model may not know what it computes")

    # --- going on ---------------------------------------------------------------------------------

    def _record_of_settings(self) -> dict[str, Any]:
        return {k: v for k, v in self.settings.model_dump().items() if k not in _STILL_FREE} | {
            "model": named(self.model),
            "model_weights": self._weights,
            "qm_atoms": self.qm_atoms,
            "bias": None if self.bias is None else self.bias.record(),
        }

    def _save(self, simulation: Any, step: int) -> None:
        record = {
            "step": step,
            "trajectory_bytes": self._frames.size,
            "frames": self._frames.frames,
            "log_bytes": self.log.stat().st_size,
            "platform": simulation.context.getPlatform().getName(),
            "settings": self._record_of_settings(),
        }
        more: dict[str, Any] = {} if self.bias is None else self.bias.state()
        write_checkpoint(self.checkpoint, simulation.context, record, more)
        self._saved = step
        if record["platform"] == "CPU":
            # A run that restarts here rebuilds its neighbour lists, and sums in another order; so
            # does this one, and both give the same numbers.
            simulation.context.reinitialize(preserveState=True)

    def _restore(self, simulation: Any) -> int:
        record, state = read_checkpoint(self.checkpoint)
        now = self._record_of_settings()
        check_same(self.folder, now, upgraded(record["settings"], now, self.topology))
        load_state(simulation.context, self.checkpoint, record, state)
        check_lengths({self.trajectory: record["trajectory_bytes"], self.log: record["log_bytes"]})
        os.truncate(self.log, record["log_bytes"])
        with open(self.log, newline="", encoding="utf-8") as file:
            self._columns = next(csv.reader(file))  # fewer in the logs of older versions
        self._frames.resume(record["trajectory_bytes"], record["frames"])
        simulation.currentStep = self._saved = record["step"]
        self.say(f"going on from step {record['step']}")
        return int(record["step"])
