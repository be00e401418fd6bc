"""``anisole md``: QM/MM molecular dynamics in OpenMM."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnn.commands._common import add_policy, console, count, load_with_policy
from gnn.progress import Bar


def register(commands: Any) -> None:
    """Add the command."""
    md = commands.add_parser("md", help="QM/MM molecular dynamics of a molecule in water")
    add = md.add_argument
    add(
        "--smiles",
        help="such as CC[NH3+]; needs AmberTools (extra 'data'). Default: the methanol "
        "in water that ships",
    )
    add("--solvent", choices=["water"], default="water", help="TIP3P (default)")
    add("--prmtop", help="instead of --smiles: an Amber topology, and …")
    add("--coordinates", metavar="RST7", help="… its coordinates, with a box")
    add("--qm-residue", type=int, default=0, help="with --prmtop: residue that the model computes")
    add("--model", metavar="CHECKPOINT", help="or a name: amp-bms (default: the one that ships)")
    add("--steps", type=int, required=True, help="in all")
    add("--timestep", type=float, default=0.5, help="fs (%(default)s)")
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
    add("--padding", type=float, default=12.0, help="water to the walls, Å (%(default)s)")
    add("--precision", choices=["float32", "float64"], default="float32", help="of the model")
    add("--classical", action="store_true", help="the force field alone, for comparison")
    add("--interval", type=int, default=100, help="steps between frames (%(default)s)")
    add("--checkpoint-interval", type=int, default=1000, help="steps (%(default)s)")
    add("--trajectory", choices=["xtc", "dcd"], default="xtc")
    add("--equilibration", type=float, help="classical, ps (10; 0 for the box that ships)")
    add("--seed", type=int, default=0)
    add("--platform", help="of OpenMM: CPU, CUDA, Reference, … (default: the fastest)")
    add("--threads", type=int, help="of OpenMM's CPU platform (default: all cores)")
    add("--model-threads", type=count, default=1, help="for the model (%(default)s)")
    limit = {"type": float, "metavar": "EV_PER_ANGSTROM"}
    about = "the spread of a committee's forces is above this, eV/Å"
    add("--warn-spread", help=f"warn once where {about}", **limit)
    add("--stop-spread", help=f"stop, with exit status 1, where {about}", **limit)
    add("--output", default="runs/md", help="folder (%(default)s)")
    add("--resume", action="store_true", help="continue from the last checkpoint")
    add_policy(md)
    md.set_defaults(run=_md)


def _md(arguments: argparse.Namespace) -> int:
    from gnn.engines.runs.dynamics import Run
    from gnn.engines.runs.settings import Settings
    from gnn.engines.spread import SpreadExceeded

    if arguments.equilibration is None:
        made_here = arguments.smiles is not None or arguments.prmtop is not None
        arguments.equilibration = 10.0 if made_here else 0.0
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.model_fields})
    folder, screen = Path(arguments.output), console()
    _files(arguments, folder, screen)
    model = None if settings.classical else load_with_policy(arguments.model, arguments)
    run = Run(folder, settings, model, arguments.qm_residue, say=screen.print)
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
    except SpreadExceeded as stopped:
        print(f"anisole: {stopped}", file=sys.stderr)
        status = 1
    if status == 0 or run.checkpoint.is_file():  # else it stopped before there was anything
        _summary(run, kind, screen)
    return status


def _files(arguments: argparse.Namespace, folder: Path, screen: Any) -> None:
    """Put topology and coordinates of the box into the folder, unless they are there."""
    from gnn.engines.runs.box import shipped_box

    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        _check_new(folder)
    prmtop, coordinates = arguments.prmtop, arguments.coordinates
    if arguments.smiles is not None and (prmtop is not None or coordinates is not None):
        raise ValueError("expected either --smiles, or --prmtop and --coordinates, got both")
    if (prmtop is None) != (coordinates is None):
        raise ValueError("--prmtop and --coordinates need each other, got one of them")
    if prmtop is not None:
        _copy(Path(prmtop), Path(coordinates), folder, arguments.resume)
        return
    if arguments.resume and (folder / "solute.prmtop").is_file():
        screen.print(f"going on with the box in {folder}")
        return
    if arguments.smiles is None:
        screen.print("no molecule named: methanol in water, the box that ships")
        shipped_box(folder)
        return
    if not 0 < arguments.padding < 1000:
        raise ValueError(f"expected --padding of some Å, got {arguments.padding:g}")
    from gnn.data.making.topology import molecule, parametrise

    line = f"force field of {arguments.smiles} (GAFF2, AM1-BCC charges) in TIP3P water"
    screen.print(line, markup=False)  # rich would take [nH] for markup
    try:
        mol = molecule(arguments.smiles)
        _check_same(mol, folder, screen)
        charge = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
        parametrise(mol, charge, arguments.padding, folder)
    except RuntimeError as error:  # from AmberTools, with the last lines of its output
        raise OSError(str(error)) from error


def _check_new(folder: Path) -> None:
    """Refuse a folder with a run in it."""
    if (folder / "checkpoint.npz").is_file():
        raise ValueError(
            f"{folder} holds a run already: continue it with --resume, or name another folder"
        )
    (folder / "start.xml").unlink(missing_ok=True)  # of a run that never began


def _check_same(mol: Any, folder: Path, screen: Any) -> None:
    """Refuse a folder that holds the box of another molecule."""
    from gnn.engines.runs.box import read_amber

    files = folder / "solute.prmtop", folder / "solute.rst7"
    if not all(path.is_file() for path in files):
        return
    residue = next(read_amber(*files)[0].topology.residues())
    there = sorted(atom.element.symbol for atom in residue.atoms() if atom.element is not None)
    if there != sorted(atom.GetSymbol() for atom in mol.GetAtoms()):
        raise ValueError(f"{folder} holds the box of another molecule: name another folder")
    screen.print(f"the box in {folder} is used")


def _copy(prmtop: Path, coordinates: Path, folder: Path, resume: bool) -> None:
    """Check a user's files and put them into the folder of the run; compare them, with `resume`."""
    from shutil import copyfile

    from gnn.engines.runs.box import read_amber
    from multipoles.files import atomic_write

    read_amber(prmtop, coordinates)
    for source, name in ((prmtop, "solute.prmtop"), (coordinates, "solute.rst7")):
        own = folder / name
        if resume and own.is_file():
            if own.read_bytes() != source.read_bytes():
                raise ValueError(f"{folder} was begun with another file than {source}")
            continue
        with atomic_write(own) as temporary:
            copyfile(source, temporary)


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


class _Progress(Bar):
    """A bar on a terminal, a line for every tenth elsewhere."""

    def __init__(self, screen: Any, run: Any):
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        percent = TextColumn("{task.percentage:3.0f} %")
        self.run, self.steps, self._tenths = run, run.settings.steps, 0
        super().__init__(screen, BarColumn(), percent, TimeRemainingColumn(), total=self.steps)

    def __call__(self, step: int, speed: float) -> None:
        note = f"step {step}, {speed:.2f} ns/day"
        if self.run.spread is not None:
            note += f", spread {self.run.spread.force:.2g} eV/Å"
        self.update(step, note)
        tenths = 10 * step // self.steps
        if not self.console.is_terminal and tenths > self._tenths:
            self.console.print(f"  {100 * step // self.steps:3d} %  {note}")
            self._tenths = tenths


def _summary(run: Any, kind: str, screen: Any) -> None:
    import numpy as np

    from gnn.engines.runs.analysis import energy_drift, picture, read_log
    from gnn.engines.spread import SPREAD_COLUMNS

    log, settings = read_log(run.log), run.settings
    temperature = log["temperature_k"][len(log["temperature_k"]) // 2 :]
    speed = np.nanmedian(log["ns_per_day"])
    screen.print(
        f"temperature {temperature.mean():.0f} ± {temperature.std():.0f} K in the second half; "
        f"median speed {speed:.2f} ns/day ({1e-6 * settings.timestep * 8.64e7 / speed:.1f} ms/step)"
    )
    if SPREAD_COLUMNS[0] in log:
        energy, force = (log[name] for name in SPREAD_COLUMNS)
        screen.print(
            f"spread of the committee, median and largest: energy {np.nanmedian(energy):.2g} and "
            f"{np.nanmax(energy):.2g} eV, forces {np.nanmedian(force):.2g} and "
            f"{np.nanmax(force):.2g} eV/Å"
        )
    if settings.ensemble == "nve" and len(log["step"]) > 2:
        drift, error = energy_drift(log, run.degrees_of_freedom, settings.temperature)
        screen.print(f"energy drift {drift:.1e} ± {error:.0e} kT per degree of freedom and ns")
    picture(run.folder, run.topology, run.qm_atoms, f"{kind}, {settings.ensemble.upper()}")
    screen.print(f"trajectory, log, picture: {run.trajectory}, {run.log}, {run.folder / 'md.png'}")
