"""``anisole md``: QM/MM molecular dynamics in OpenMM."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnn.commands._box import add_box, made_here, prepare
from gnn.commands._common import add_policy, console, count, load_with_policy
from gnn.commands._replicas import (
    add_sampling,
    bias_plan,
    check_new_replicas,
    number_of,
    run_replicas,
)
from gnn.progress import StepBar


def register(commands: Any) -> None:
    """Add the command."""
    md = commands.add_parser("md", help="QM/MM molecular dynamics of a molecule in water")
    add = md.add_argument
    add_box(md)
    add("--model", metavar="CHECKPOINT", help="or a name: amp-bms (default: the one that ships)")
    add("--steps", type=int, required=True, help="in all")
    add("--timestep", type=float, default=0.5, help="fs (%(default)s)")
    add("--hydrogen-mass", type=float, metavar="DA", help="3 allows steps of 1.5 fs (1.008)")
    add("--ensemble", choices=["nvt", "npt", "nve"], default="nvt")
    add("--temperature", type=float, default=300.0, help="K (%(default)s)")
    add("--friction", type=float, default=1.0, help="1/ps (%(default)s)")
    add("--cutoff", type=float, default=9.0, help="charges seen one by one, Å (%(default)s)")
    kinds = "periodic", "cutoff", "reaction-field", "reaction-field-published"
    add(
        "--electrostatics",
        choices=kinds,
        default=kinds[0],
        help="of charges beyond: all of them, periodic (default); none; or, with AMP-BMS, as in "
        "its publication",
    )
    add("--charge", type=int, help="of the zone, e (that of the force field)")
    add(
        "--link-scheme",
        choices=["shift", "rcd", "delete", "refuse"],
        default="shift",
        help="where bonds are cut: what becomes of the charge there (default: shift)",
    )
    add("--precision", choices=["float32", "float64"], default="float32", help="of the model")
    add("--classical", action="store_true", help="the force field alone, for comparison")
    add("--interval", type=int, default=100, help="steps between frames (%(default)s)")
    add("--checkpoint-interval", type=int, default=1000, help="steps (%(default)s)")
    add("--trajectory", choices=["xtc", "dcd"], default="xtc")
    add("--equilibration", type=float, help="classical, ps (10; 0 for the box that ships)")
    add("--seed", type=int, default=0)
    add("--platform", help="of OpenMM: CPU, CUDA, Reference, … (default: the fastest)")
    add("--threads", type=int, help="of OpenMM's CPU platform (default: all cores)")
    add(
        "--model-device",
        choices=["auto", "cpu"],
        default="auto",
        help="auto: with OpenMM, where its platform is CUDA",
    )
    add("--model-threads", type=count, default=1, help="for the model (%(default)s)")
    limit = {"type": float, "metavar": "EV_PER_ANGSTROM"}
    about = "the spread of a committee's forces is above this, eV/Å"
    add("--warn-spread", help=f"warn once where {about}", **limit)
    add("--stop-spread", help=f"stop, with exit status 1, where {about}", **limit)
    add("--output", default="runs/md", help="folder (%(default)s)")
    add("--resume", action="store_true", help="continue from the last checkpoint")
    add_sampling(md)
    add_policy(md, save="frames for labelling, too")
    md.set_defaults(run=_md)


def _md(arguments: argparse.Namespace) -> int:
    from gnn.engines.runs.settings import Settings

    if arguments.equilibration is None:
        arguments.equilibration = 10.0 if made_here(arguments) else 0.0
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.model_fields})
    folder, screen = Path(arguments.output), console()
    if not arguments.resume:
        check_new_replicas(folder)
    atoms = prepare(arguments, folder, screen)
    model = None if settings.classical else load_with_policy(arguments.model, arguments)
    plan = bias_plan(arguments, folder)
    number = number_of(arguments, plan)
    if number:
        with _threads(arguments.model_threads):
            return run_replicas(number, settings, model, atoms, plan, arguments, screen)
    return _alone(settings, model, atoms, plan, arguments, screen)


def _alone(
    settings: Any,
    model: Any,
    atoms: list[int],
    plan: Any,
    arguments: argparse.Namespace,
    screen: Any,
) -> int:
    """Do one run; return the exit status."""
    from gnn.engines.runs.dynamics import Run
    from gnn.engines.runs.unknown import LeftTraining
    from gnn.engines.sampling.bias import Bias
    from gnn.engines.spread import SpreadExceeded

    folder = Path(arguments.output)
    run = Run(folder, settings, model, atoms, say=screen.print)
    if plan is not None:
        run.bias = Bias(plan, run.topology, *run.last_frame)
    kind = "classical" if settings.classical else "QM/MM"
    screen.print(
        f"{kind} molecular dynamics: {len(run.qm_atoms)} solute atoms, "
        f"{run.topology.getNumAtoms()} in all, {settings.steps} steps of {settings.timestep:g} fs, "
        f"{settings.ensemble.upper()}"
    )
    status = 0
    try:
        with _threads(arguments.model_threads), _Progress(screen, run) as progress:
            run.run(arguments.resume, progress)
    except (LeftTraining, SpreadExceeded) as stopped:
        print(f"anisole: {stopped}", file=sys.stderr)
        status = 1
    if status == 0 or run.checkpoint.is_file():  # else it stopped before there was anything
        _summary(run, kind, screen)
    return status


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let the model use a number of threads, on which the last digits of a run depend."""
    import torch

    import multipoles

    before = torch.get_num_threads(), multipoles.get_num_threads()
    torch.set_num_threads(number)
    multipoles.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        multipoles.set_num_threads(before[1])


class _Progress(StepBar):
    """Shows a run."""

    def __init__(self, screen: Any, run: Any):
        self.run = run
        super().__init__(screen, run.settings.steps)

    def __call__(self, step: int, speed: float) -> None:
        note = f"step {step}, {speed:.2f} ns/day"
        if self.run.spread is not None:
            note += f", spread {self.run.spread.force:.2g} eV/Å"
        self.show(step, note)


def _summary(run: Any, kind: str, screen: Any) -> None:
    import numpy as np

    from gnn.engines.runs.analysis import energy_drift, picture, read_log, temperature_line
    from gnn.engines.spread import SPREAD_COLUMNS

    log, settings = read_log(run.log), run.settings
    speed = np.nanmedian(log["ns_per_day"])
    screen.print(
        f"{temperature_line(log)}; "
        f"median speed {speed:.2f} ns/day ({1e-6 * settings.timestep * 8.64e7 / speed:.1f} ms/step)"
    )
    if SPREAD_COLUMNS[0] in log:
        energy, force = (log[name] for name in SPREAD_COLUMNS)
        screen.print(
            f"spread of the committee, median and largest: energy {np.nanmedian(energy):.2g} and "
            f"{np.nanmax(energy):.2g} eV, forces {np.nanmedian(force):.2g} and "
            f"{np.nanmax(force):.2g} eV/Å"
        )
    if unknown := run.watch.summary():
        screen.print(unknown)
    if settings.ensemble == "nve" and len(log["step"]) > 2:
        drift, error = energy_drift(log, run.degrees_of_freedom, settings.temperature)
        screen.print(f"energy drift {drift:.1e} ± {error:.0e} kT per degree of freedom and ns")
    picture(run.folder, run.topology, run.qm_atoms, f"{kind}, {settings.ensemble.upper()}")
    screen.print(f"trajectory, log, picture: {run.trajectory}, {run.log}, {run.folder / 'md.png'}")
