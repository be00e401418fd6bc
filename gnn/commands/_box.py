"""The box of ``anisole md``: where it comes from, and the zone that the model computes."""

import argparse
from pathlib import Path
from typing import Any

_AMBER = "solute.prmtop", "solute.rst7"  # in folders of --smiles, and of older versions


def add_box(parser: Any) -> None:
    """Add the options that name a box."""
    add = parser.add_argument
    add(
        "--smiles",
        help="such as CC[NH3+]; needs AmberTools (extra 'data'). Default: the methanol "
        "in water that ships",
    )
    add("--solvent", choices=["water"], default="water", help="TIP3P (default)")
    add("--prmtop", help="instead of --smiles: an Amber topology, and …")
    add("--coordinates", metavar="RST7", help="… its coordinates, with a box")
    add("--qm-residue", type=int, help="number from 0 of the residue that the model computes")
    add("--padding", type=float, default=12.0, help="water to the walls, Å (%(default)s)")


def made_here(arguments: argparse.Namespace) -> bool:
    """Return whether the options name another box than the one that ships."""
    return arguments.smiles is not None or arguments.prmtop is not None


def prepare(arguments: argparse.Namespace, folder: Path, screen: Any) -> list[int]:
    """Put the box into the folder, unless it is there; return the atoms that the model computes."""
    from gnn.engines.boxes.box import has_box, write_box
    from gnn.engines.boxes.origin import check_files, read_origin, write_origin

    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        _check_new(folder)
    files = _files(arguments)
    if arguments.resume and has_box(folder):
        check_files(folder, files)
        screen.print(f"going on with the box in {folder}")
        noted = read_origin(folder)
        if arguments.qm_residue is None and noted:
            return list(noted["atoms"])
        return _zone(arguments, folder)
    box = _box(arguments, folder, screen)
    write_box(folder, box)
    atoms = _zone(arguments, folder)
    write_origin(folder, files, f"resindex {arguments.qm_residue or 0}", atoms)
    return atoms


def _check_new(folder: Path) -> None:
    """Refuse a folder with a run in it."""
    if (folder / "checkpoint.npz").is_file():
        raise ValueError(
            f"{folder} holds a run already: continue it with --resume, or name another folder"
        )
    (folder / "start.xml").unlink(missing_ok=True)  # of a run that never began


def _files(arguments: argparse.Namespace) -> list[Path]:
    """Return the files that the options name, after a check that they go together."""
    prmtop, coordinates = arguments.prmtop, arguments.coordinates
    if arguments.smiles is not None and (prmtop is not None or coordinates is not None):
        raise ValueError("expected either --smiles, or --prmtop and --coordinates, got both")
    if (prmtop is None) != (coordinates is None):
        raise ValueError("--prmtop and --coordinates need each other, got one of them")
    files = [Path(name) for name in (prmtop, coordinates) if name is not None]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    return files


def _box(arguments: argparse.Namespace, folder: Path, screen: Any) -> Any:
    """Read or make the box that the options name."""
    from gnn.engines.boxes.amber import amber_box
    from gnn.engines.boxes.shipped import methanol_in_water

    own = folder / _AMBER[0], folder / _AMBER[1]
    if arguments.resume and all(path.is_file() for path in own):
        screen.print(f"going on with the box in {folder}, which an older version began")
        for path, mine in zip(_files(arguments), own, strict=False):
            if path.read_bytes() != mine.read_bytes():
                raise ValueError(f"{folder} was begun with another file than {path}")
        return amber_box(*own)
    if arguments.prmtop is not None:
        return amber_box(Path(arguments.prmtop), Path(arguments.coordinates))
    if arguments.smiles is None:
        screen.print("no molecule named: methanol in water, the box that ships")
        return methanol_in_water()
    _parametrise(arguments, folder, screen)
    return amber_box(*own)


def _zone(arguments: argparse.Namespace, folder: Path) -> list[int]:
    from gnn.engines.boxes.box import read_box

    residues = list(read_box(folder).topology.residues())
    number = arguments.qm_residue or 0
    if not 0 <= number < len(residues):
        raise ValueError(
            f"expected a residue (--qm-residue) from 0 to {len(residues) - 1}, got {number}"
        )
    return [atom.index for atom in residues[number].atoms()]


def _parametrise(arguments: argparse.Namespace, folder: Path, screen: Any) -> None:
    """Make the Amber files of a molecule in water in the folder, unless they are there."""
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


def _check_same(mol: Any, folder: Path, screen: Any) -> None:
    """Refuse a folder that holds the box of another molecule."""
    from gnn.engines.boxes.amber import read_amber

    files = [folder / name for name in _AMBER]
    if not all(path.is_file() for path in files):
        return
    residue = next(read_amber(*files)[0].topology.residues())
    there = sorted(atom.element.symbol for atom in residue.atoms() if atom.element is not None)
    if there != sorted(atom.GetSymbol() for atom in mol.GetAtoms()):
        raise ValueError(f"{folder} holds the box of another molecule: name another folder")
    screen.print(f"the box in {folder} is used")
