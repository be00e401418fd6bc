"""Several replicas of one run of ``anisole md``, and biases on collective variables."""

import argparse
import sys
import threading
from pathlib import Path
from shutil import copyfile
from typing import Any

from gnn.commands._common import count
from gnn.progress import StepBar


def add_sampling(parser: Any) -> None:
    """Add the options for replicas and biases."""
    add = parser.add_argument
    add("--replicas", type=count, metavar="N", help="runs side by side, with seeds of their own")
    add("--temperatures", type=float, nargs="+", metavar="K", help="one for each replica")
    add(
        "--bias", "--umbrella", "--metadynamics", dest="bias", type=Path, metavar="YAML",
        help="collective variables and what acts on them; umbrella windows are replicas",
    )  # fmt: skip


def bias_plan(arguments: argparse.Namespace, folder: Path) -> Any:
    """Return the plan of the bias, which the folder keeps; None where there is none."""
    from gnn.engines.sampling.plan import PLAN, read_plan
    from multipoles.files import atomic_write

    own = folder / PLAN
    if arguments.bias is None:
        if not arguments.resume:
            own.unlink(missing_ok=True)
        return read_plan(own) if own.is_file() else None
    plan = read_plan(arguments.bias)
    if not arguments.resume:
        with atomic_write(own) as temporary:
            copyfile(arguments.bias, temporary)
    return plan


def number_of(arguments: argparse.Namespace, plan: Any) -> int:
    """Return how many replicas the options ask for; 0 for a run that stands alone.

    Raises
    ------
    ValueError
        If they contradict each other.
    """
    asked = {"--replicas": arguments.replicas or 0}
    asked["--temperatures"] = len(arguments.temperatures or ())
    asked["umbrella windows"] = 0 if plan is None else plan.windows
    given = {name: number for name, number in asked.items() if number}
    if len(set(given.values())) > 1:
        told = ", ".join(f"{number} {name}" for name, number in given.items())
        raise ValueError(f"expected one number of replicas, got {told}")
    if asked["--temperatures"] and asked["umbrella windows"]:
        raise ValueError("umbrella windows are all at one --temperature, got --temperatures")
    return max(given.values(), default=0)


def check_new_replicas(folder: Path) -> None:
    """Refuse a folder that holds replicas already."""
    if any(folder.glob("replica_*/checkpoint.npz")):
        raise ValueError(
            f"{folder} holds replicas already: continue them with --resume, or name another folder"
        )


def run_replicas(
    number: int,
    settings: Any,
    model: Any,
    atoms: list[int],
    plan: Any,
    arguments: argparse.Namespace,
    screen: Any,
) -> int:
    """Do all replicas; return the exit status."""
    from gnn.engines.boxes.box import read_box
    from gnn.engines.runs.box import equilibrated
    from gnn.engines.sampling.replicas import Replicas

    folder = Path(arguments.output)
    box = read_box(folder)
    equilibrated(folder / "start.xml", box, settings, screen.print)
    runs = [_run(i, folder, settings, model, atoms, plan, arguments, screen) for i in range(number)]
    replicas = Replicas(runs)
    screen.print(
        f"{number} replicas: {len(atoms)} atoms of the model, {box.topology.getNumAtoms()} in all, "
        f"{settings.steps} steps of {settings.timestep:g} fs each"
    )
    with _Progress(screen, number, settings.steps) as progress:
        replicas.run(arguments.resume, progress)
    for i, run in enumerate(runs):
        if i not in replicas.errors:
            screen.print(f"replica {i}: {_line(run)}")
    if plan is not None and plan.umbrella is not None and not replicas.errors:
        screen.print(f"free energy: anisole free-energy {folder}")
    return _status(replicas.errors)


def _run(
    i: int,
    folder: Path,
    settings: Any,
    model: Any,
    atoms: list[int],
    plan: Any,
    arguments: argparse.Namespace,
    screen: Any,
) -> Any:
    """Return one replica in a folder of its own, which begins from the common box."""
    import warnings

    from gnn.engines.boxes.box import COORDINATES, SYSTEM, TOPOLOGY
    from gnn.engines.runs.dynamics import Run
    from gnn.engines.sampling.bias import Bias

    own = folder / f"replica_{i}"
    own.mkdir(exist_ok=True)
    for name in (SYSTEM, TOPOLOGY, COORDINATES, "start.xml"):
        if not arguments.resume or not (own / name).is_file():
            copyfile(folder / name, own / name)
    changed: dict[str, Any] = {"seed": settings.seed + i}
    if arguments.temperatures is not None:
        changed["temperature"] = arguments.temperatures[i]
    if settings.threads is None:
        changed["threads"] = 1
    mine = type(settings)(**(settings.model_dump() | changed))
    say = (lambda _: None) if i else screen.print
    with warnings.catch_warnings():
        if i:  # all say the same of the box
            warnings.simplefilter("ignore")
        run = Run(own, mine, model, atoms, say=say)
    if plan is not None:
        run.bias = Bias(plan, run.topology, *run.last_frame, window=i if plan.windows else 0)
    run.tell = lambda text: warnings.warn(f"replica {i}: {text}", stacklevel=2)
    return run


def _line(run: Any) -> str:
    """Return what came of a replica."""
    import numpy as np

    from gnn.engines.runs.analysis import read_log, temperature_line

    log = read_log(run.log)
    line = f"{temperature_line(log)}, {np.nanmedian(log['ns_per_day']):.2f} ns/day"
    if run.bias is not None and run.bias.centre is not None:
        variable = run.bias[run.bias.plan.umbrella.variable]
        line += f", {variable.name} about {run.bias.centre:g} {variable.unit}"
    unknown = run.watch.summary()
    return f"{line}; {unknown}" if unknown else line


def _status(errors: dict[int, BaseException]) -> int:
    """Print the errors of replicas; return 1 where all of these stopped on request, else 2."""
    from gnn.engines.runs.unknown import LeftTraining
    from gnn.engines.spread import SpreadExceeded

    if not errors:
        return 0
    for i, error in sorted(errors.items()):
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"anisole: replica {i}: {text}", file=sys.stderr)
    asked = all(isinstance(error, LeftTraining | SpreadExceeded) for error in errors.values())
    return 1 if asked else 2


class _Progress(StepBar):
    """Shows all replicas together."""

    def __init__(self, screen: Any, replicas: int, steps: int):
        self._steps, self._speeds = [0] * replicas, [0.0] * replicas
        self._lock = threading.Lock()
        super().__init__(screen, replicas * steps)

    def __call__(self, replica: int, step: int, speed: float) -> None:
        with self._lock:
            self._steps[replica], self._speeds[replica] = step, speed
            note = f"steps {min(self._steps)} to {max(self._steps)}"
            note += f", {sum(self._speeds):.2f} ns/day in all"
            self.show(sum(self._steps), note)
