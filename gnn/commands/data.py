"""``anisole data generate``, ``label``, ``info`` and ``convert``."""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gnn.commands._common import add_keys, console
from gnn.progress import Bar


def register(commands: Any) -> None:
    """Add the command with its subcommands."""
    data = commands.add_parser("data", help="make, inspect and convert frames")
    actions = data.add_subparsers(required=True, metavar="ACTION")

    generate = actions.add_parser("generate", help="QM/MM frames of molecules in water")
    _generate_options(generate)
    generate.set_defaults(run=_generate)

    info = actions.add_parser("info", help="what a file holds, and which frames look wrong")
    info.add_argument("file", metavar="FILE", help="HDF5, extxyz, or shipped")
    info.add_argument("-o", "--output", type=Path, help="picture with histograms (.png)")
    add_keys(info)
    info.set_defaults(run=_info)

    convert = actions.add_parser("convert", help="from HDF5 to extxyz, or back")
    convert.add_argument("input", metavar="IN", help="HDF5 or extxyz")
    convert.add_argument("output", metavar="OUT", help="HDF5 or extxyz, as the suffix says")
    convert.add_argument(
        "--without-labels", action="store_true", help="write structures that have none, too"
    )
    add_keys(convert)
    convert.set_defaults(run=_convert)
    again = actions.add_parser("label", help="frames by quantum chemistry, as a run saves them")
    add = again.add_argument
    add("input", metavar="IN", help="HDF5 or extxyz, such as unknown.extxyz of anisole md")
    add("-o", "--output", type=Path, help="HDF5, continued (default: IN_labelled.h5)")
    _worker_options(add)
    _level_options(add)
    add_keys(again)
    again.set_defaults(run=_label)
    for action in actions.choices.values():
        action.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def _generate_options(parser: Any) -> None:
    add = parser.add_argument
    add("smiles", nargs="+", help="molecules, such as CO or C[NH3+] or CC(=O)[O-]")
    add("--name", action="append", help="in the file, once for each molecule (default: formula)")
    add("--out", type=Path, help="HDF5 file (.h5); what it holds is kept (default: NAME.h5)")
    add("--frames", type=int, default=100, help="of each molecule (default %(default)s)")
    add("--runs", type=int, default=4, help="independent MD runs (default %(default)s)")
    _worker_options(add)
    add("--mbis", action="store_true", help="add multipoles of the atoms, by MBIS")
    _level_options(add)
    add(
        "--kinds",
        nargs="+",
        default=["water"],
        metavar="KIND[@K][:SHARE]",
        help="of frames: water vacuum stretched zone1 zone2 pair; with a temperature of their own "
        "and a share, such as water:4 water@600 (default: water)",
    )
    add("--temperature", type=float, default=300.0, help="K (default %(default)s)")
    add("--equilibration", type=int, default=5000, help="steps of 1 fs (default %(default)s)")
    add("--warming", type=int, default=1000, help="steps of each run after that (%(default)s)")
    add("--interval", type=int, default=150, help="steps between frames (default %(default)s)")
    add("--cutoff", type=float, default=9.0, help="waters within, Å (default %(default)s)")
    add("--padding", type=float, default=12.0, help="water to the walls, Å (default %(default)s)")
    add("--work", type=Path, help="folder for finished frames (default OUT.work)")


def _worker_options(add: Any) -> None:
    add("--processes", type=int, default=1, help="at work at a time (default %(default)s)")
    add("--threads", type=int, default=1, help="of each process (default %(default)s)")
    add(
        "--scheduler",
        metavar="WHERE",
        help="let the workers of a Dask cluster do the work: tcp://HOST:PORT, its scheduler file "
        "(.json), jobs of a batch system (.yaml), or local",
    )


@contextmanager
def _cluster(arguments: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Any]:
    """Give the client of the cluster that is asked for, or None."""
    if arguments.processes < 1 or arguments.threads < 1:
        raise ValueError(
            f"expected at least one process of at least one thread, got {arguments.processes} and "
            f"{arguments.threads}"
        )
    if arguments.scheduler is None:
        yield None
        return
    from gnn.data.making.cluster import connected

    with connected(arguments.scheduler, arguments.processes, arguments.threads, say) as client:
        yield client


def _level_options(add: Any) -> None:
    add("--level", default="B3LYP/6-31G*", help="METHOD/BASIS (default %(default)s)")
    add("--grid-level", type=int, default=2, help="DFT grid of PySCF, 0-9 (default %(default)s)")
    add("--density-fit", action="store_true", help="fit Coulomb and exchange: faster")


def _generate(arguments: argparse.Namespace) -> int:
    names = arguments.name or [None] * len(arguments.smiles)
    if len(names) != len(arguments.smiles):
        raise ValueError(
            f"expected one --name for each of the {len(arguments.smiles)} molecules, got "
            f"{len(names)}"
        )
    try:
        recipes = [_recipe(*pair, arguments) for pair in zip(arguments.smiles, names, strict=True)]
        if len({recipe.name for recipe in recipes}) < len(recipes):
            raise ValueError("two molecules have one name: give each its own by --name")
        with _cluster(arguments, _plain_say(console())) as client:
            for recipe in recipes:
                _generate_one(recipe, arguments, client)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return 0


def _recipe(smiles: str, name: str | None, arguments: argparse.Namespace) -> Any:
    from gnn.data.making.generate import Recipe
    from gnn.data.making.sampling import Dynamics
    from gnn.data.making.topology import check_installed, molecule

    check_installed()
    from rdkit.Chem import GetFormalCharge
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    mol = molecule(smiles)
    return Recipe(
        smiles=smiles,
        name=CalcMolFormula(mol) if name is None else name,
        charge=GetFormalCharge(mol),
        level=arguments.level,
        grid_level=arguments.grid_level,
        padding=arguments.padding,
        density_fit=arguments.density_fit,
        mbis=arguments.mbis,
        kinds=_kinds(arguments.kinds),
        dynamics=Dynamics(**{key: getattr(arguments, key) for key in Dynamics.model_fields}),
    )


def _kinds(words: list[str]) -> dict[str, float]:
    """Return the share of each kind of frames from words such as water@600:2."""
    shares: dict[str, float] = {}
    for word in words:
        kind, colon, share = word.partition(":")
        try:
            value = float(share) if colon else 1.0
        except ValueError:
            raise ValueError(f"--kinds: expected a number behind the colon, got {word!r}") from None
        if kind in shares:
            raise ValueError(f"--kinds: {kind} is named twice")
        shares[kind] = value
    return shares


def _plain_say(screen: Any) -> Callable[[str], None]:
    return partial(screen.print, markup=False, soft_wrap=True)  # brackets of SMILES are no markup


def _generate_one(recipe: Any, arguments: argparse.Namespace, client: Any) -> None:
    from gnn.data.making.generate import generate

    out = arguments.out or Path(f"{recipe.name}.h5")
    work = None if arguments.work is None else arguments.work / recipe.name
    screen = console()
    say = _plain_say(screen)
    start = time.monotonic()
    with _Progress(screen, "force field, molecular dynamics") as progress:
        try:
            generate(
                recipe,
                arguments.frames,
                out,
                runs=arguments.runs,
                processes=arguments.processes,
                client=client,
                work=work,
                say=say,
                progress=progress,
            )
        except KeyboardInterrupt:
            screen.print("interrupted: the same command goes on from here")
            raise
    screen.print(f"{progress.done} frames labelled in {_time(time.monotonic() - start)}")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


class _Progress(Bar):
    """A bar on a terminal, a line for each frame elsewhere; frames per second and time left."""

    def __init__(self, screen: Any, note: str = "") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn

        columns = BarColumn(), MofNCompleteColumn()
        super().__init__(screen, *columns, note=note)
        self.done, self._start = 0, time.monotonic()

    def __call__(self, done: int, total: int, line: str) -> None:
        self.done = done
        rate = done / (time.monotonic() - self._start)
        pace = f"{rate:.2f} frames/s, {_time((total - done) / rate)} left"
        self.update(done, f"{pace}; {line}", total)
        if not self.console.is_terminal:
            self.console.print(f"{line}; {pace}", markup=False, soft_wrap=True)


def _labellers(
    arguments: argparse.Namespace, client: Any, say: Callable[[str], None]
) -> Callable[[Any], Any]:
    """Return what makes the workers: of a cluster, processes of this machine, or this process."""
    from gnn.data.making.workers import Here, Workers

    if client is not None:
        from gnn.data.making.cluster import ClusterWorkers

        return lambda work: ClusterWorkers(client, work, say)
    if arguments.processes > 1 or arguments.threads > 1:
        return lambda work: Workers(work, arguments.processes, arguments.threads)
    return Here


def _label(arguments: argparse.Namespace) -> int:
    from gnn.data import read_frames
    from gnn.data.making.relabel import Theory, label_frames

    source = Path(arguments.input)
    out = arguments.output or source.with_name(f"{source.stem}_labelled.h5")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the input: name another file by --output")
    frames = read_frames(source, keys=arguments.keys)
    theory = Theory(arguments.level, arguments.grid_level, arguments.density_fit)
    start = time.monotonic()
    screen = console()
    say = _plain_say(screen)
    with _cluster(arguments, say) as client, _Progress(screen) as progress:
        workers = _labellers(arguments, client, say)
        count, lost = label_frames(frames, out, theory, progress, workers)
    taken = _time(time.monotonic() - start)
    print(f"written: {out} ({count} frames at {theory.level}; {taken})")
    return 1 if lost else 0


def _info(arguments: argparse.Namespace) -> int:
    from gnn.data.checking import info

    summary = info.read_summary(arguments.file, keys=arguments.keys)
    screen = console()
    for part in info.tables(summary):
        screen.print(part)
    if arguments.output is not None:
        info.picture(summary, arguments.output)
        screen.print(f"picture: {arguments.output}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from gnn.data import read_frames, write_frames
    from gnn.data.checking.doubts import doubts
    from gnn.data.checking.info import label_counts

    source, target = Path(arguments.input), Path(arguments.output)
    if source.resolve() == target.resolve():
        raise ValueError(f"{arguments.output} is the input: name another file")
    frames = read_frames(source, keys=arguments.keys)
    counts = label_counts(frames)
    if not counts and not arguments.without_labels:
        raise ValueError(
            f"{source}: none of the {len(frames)} frames has a label (energy, forces, …), so only "
            "structures would be written: name the keys of the labels by --keys, or ask for it "
            "by --without-labels"
        )
    write_frames(target, frames, **_more(source, target))
    told = ", ".join(f"{name} {count}" for name, count in counts.items()) or "no labels"
    print(f"written: {target} ({len(frames)} frames; {told})")
    for doubt in doubts(frames):
        print(f"doubt: {doubt}")
    return 0


def _more(source: Path, target: Path) -> dict[str, Any]:
    """Return what else an HDF5 file holds, or say that the other format has no place for it."""
    from gnn.data import read_frames
    from gnn.data.common import is_hdf5
    from gnn.data.formats.hdf5 import read_remarks

    if not is_hdf5(source):
        return {}
    remarks, with_vacuum, groups = read_remarks(source)
    lost = [f"remarks ({', '.join(remarks)})"] * bool(remarks)
    if is_hdf5(target) and with_vacuum in (0, groups):
        vacuum = read_frames(source, vacuum=True) if with_vacuum else None
        return {"attributes": remarks, "vacuum": vacuum}
    if with_vacuum:
        lost.insert(0, f"vacuum labels of {with_vacuum} of {groups} groups")
    if is_hdf5(target):
        warnings.warn(f"left out: {lost[0]}: all groups must have them", stacklevel=2)
        return {"attributes": remarks}
    if lost:
        warnings.warn(f"extxyz has no place for {' and '.join(lost)}: left out", stacklevel=2)
    return {}
