"""The box of ``anisole md``: where it comes from, and the zone that the model computes."""

import argparse
from pathlib import Path
from typing import Any

_PREPARATION = "forcefield", "solvate", "padding", "ionic_strength", "ph"
_AMBER = "solute.prmtop", "solute.rst7"  # in folders of --smiles, and of older versions


def add_box(parser: Any) -> None:
    """Add the options that name a box and a zone."""
    box = parser.add_argument_group("box")
    add = box.add_argument
    add(
        "box",
        nargs="?",
        metavar="BOX",
        help="a structure (.pdb, .cif), or a topology of Amber (.prmtop), GROMACS (.top) or CHARMM "
        "(.psf) with --coordinates. Default: the methanol in water that ships",
    )
    add("--smiles", help="instead: such as CC[NH3+]; needs AmberTools (extra 'data')")
    add("--solvent", choices=["water"], default="water", help="of --smiles: TIP3P (default)")
    add("--prmtop", help="the same as BOX, of Amber")
    add("--coordinates", metavar="FILE", help="of a topology: .rst7, .gro, .crd, .pdb, …")
    add("--parameters", nargs="+", metavar="FILE", default=[], help="of a .psf: .prm, .rtf, .str")
    add("--box", nargs=3, type=float, metavar="Å", dest="lengths", help="lengths, where none are")
    add(
        "--forcefield",
        nargs="+",
        metavar="XML",
        default=[],
        help="of a structure: files or names of OpenMM (amber14-all.xml and the water's)",
    )
    add("--solvate", metavar="WATER", help="fill the box of a structure: tip3p, tip4pew, opc, …")
    add("--padding", type=float, help="water to the walls, Å (12)")
    add("--ionic-strength", type=float, help="of added salt, mol/l (0)")
    add("--ph", type=float, help="for hydrogens that are added (7)")
    zone = parser.add_argument_group("zone")
    add = zone.add_mutually_exclusive_group().add_argument
    add(
        "--qm",
        metavar="SELECTION",
        help="what the model computes: 'resname LIG', protein, 'chainID A and resid 57 102' "
        "(MDAnalysis), or numbers of atoms from 0: 0-5,9",
    )
    add("--qm-residue", type=int, metavar="N", help="the same: one residue, counted from 0")


def made_here(arguments: argparse.Namespace) -> bool:
    """Return whether the options name another box than the one that ships."""
    return any(getattr(arguments, name) is not None for name in ("box", "smiles", "prmtop"))


def prepare(arguments: argparse.Namespace, folder: Path, screen: Any) -> list[int]:
    """Put the box into the folder, unless it is there; return the atoms that the model computes."""
    from gnn.engines.boxes.box import has_box, read_box, write_box
    from gnn.engines.boxes.origin import check_files, read_origin, write_origin

    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        _check_new(folder)
    files = _files(arguments)
    if arguments.resume and has_box(folder):
        check_files(folder, files)
        screen.print(f"going on with the box in {folder}")
        noted = read_origin(folder)
        if arguments.qm is None and arguments.qm_residue is None and noted:
            return list(noted["atoms"])
        return _zone(arguments, read_box(folder), screen)[1]
    box = _box(arguments, folder, screen)
    zone = _zone(arguments, box, screen)
    write_box(folder, box)
    write_origin(folder, files, *zone)
    return zone[1]


def _check_new(folder: Path) -> None:
    """Refuse a folder with a run in it."""
    if (folder / "checkpoint.npz").is_file():
        raise ValueError(
            f"{folder} holds a run already: continue it with --resume, or name another folder"
        )
    (folder / "start.xml").unlink(missing_ok=True)  # of a run that never began


def _files(arguments: argparse.Namespace) -> list[Path]:
    """Return the files that the options name, after a check that they go together."""
    names = {
        "BOX": arguments.box,
        "--smiles": arguments.smiles,
        "--prmtop": arguments.prmtop,
    }
    given = [name for name, value in names.items() if value is not None]
    if arguments.smiles is not None and arguments.coordinates is not None:
        given.append("--coordinates")
    if len(given) > 1:
        raise ValueError(f"expected one box, got both {' and '.join(given)}")
    if arguments.box is None and (arguments.prmtop is None) != (arguments.coordinates is None):
        raise ValueError("--prmtop and --coordinates need each other, got one of them")
    here = [arguments.box, arguments.prmtop, arguments.coordinates, *arguments.parameters]
    files = [Path(name) for name in here if name is not None]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    return files + [Path(name) for name in arguments.forcefield if Path(name).is_file()]


def _box(arguments: argparse.Namespace, folder: Path, screen: Any) -> Any:
    """Read or make the box that the options name."""
    from gnn.engines.boxes.amber import amber_box
    from gnn.engines.boxes.reading import read
    from gnn.engines.boxes.shipped import methanol_in_water

    own = folder / _AMBER[0], folder / _AMBER[1]
    if arguments.resume and all(path.is_file() for path in own):
        screen.print(f"going on with the box in {folder}, which an older version began")
        for path, mine in zip(_files(arguments), own, strict=False):
            if path.read_bytes() != mine.read_bytes():
                raise ValueError(f"{folder} was begun with another file than {path}")
        return amber_box(*own)
    if arguments.prmtop is not None:
        _refuse_preparation(arguments, "--prmtop")
        return amber_box(Path(arguments.prmtop), Path(arguments.coordinates))
    if arguments.box is not None:
        coordinates = None if arguments.coordinates is None else Path(arguments.coordinates)
        return read(
            Path(arguments.box),
            coordinates,
            parameters=[Path(name) for name in arguments.parameters],
            preparation=_preparation(arguments),
            lengths=arguments.lengths,
            say=lambda line: screen.print(line, markup=False),
        )
    if arguments.smiles is None:
        _refuse_preparation(arguments, "the box that ships")
        screen.print("no molecule named: methanol in water, the box that ships")
        return methanol_in_water()
    _refuse_preparation(arguments, "--smiles", "padding")
    _parametrise(arguments, folder, screen)
    return amber_box(*own)


def _preparation(arguments: argparse.Namespace) -> Any:
    """Return what is asked to be done to a structure; None where nothing is."""
    from gnn.engines.boxes.pdb import Preparation

    given = {
        name: getattr(arguments, name)
        for name in _PREPARATION
        if getattr(arguments, name) not in (None, [])
    }
    return Preparation(**given, seed=arguments.seed) if given else None


def _refuse_preparation(arguments: argparse.Namespace, what: str, *but: str) -> None:
    """Refuse options that are for structures alone."""
    others = (*_PREPARATION, "parameters", "lengths")
    given = [name for name in others if getattr(arguments, name) not in (None, [])]
    wrong = [name for name in given if name not in but]
    if wrong:
        option = "--box" if wrong[0] == "lengths" else f"--{wrong[0].replace('_', '-')}"
        raise ValueError(f"{option} does not go with {what}: it is for files given as BOX")


def _zone(arguments: argparse.Namespace, box: Any, screen: Any) -> tuple[str, list[int]]:
    """Return the zone in words, and its atoms; say what it is."""
    from gnn.engines.boxes.select import check_zone, cut_bonds, select, there

    text, number = arguments.qm, arguments.qm_residue
    if text is not None:
        atoms = select(box.topology, text, box.positions, box.vectors)
    else:
        if number is None and arguments.box is not None:
            raise ValueError(
                "what should the model compute? Say so: --qm 'resname LIG', --qm protein, --qm "
                f"0-5, …; {there(box.topology)}"
            )
        residues = list(box.topology.residues())
        number = number or 0
        if not 0 <= number < len(residues):
            raise ValueError(
                f"expected a residue (--qm-residue) from 0 to {len(residues) - 1}, got {number}"
            )
        text = f"resindex {number}"
        atoms = [atom.index for atom in residues[number].atoms()]
    cut = cut_bonds(box.topology, atoms)
    if text is not None and arguments.qm is not None:
        names = [residue.name for residue in check_zone(box.topology, atoms)]
        told = " ".join(names[:12]) + (" …" if len(names) > 12 else "")
        screen.print(f"the zone, {text}: {len(atoms)} atoms of {told}", markup=False)
    if cut and not arguments.classical:
        told = ", ".join(cut[:6]) + (", …" if len(cut) > 6 else "")
        kept = f"a hydrogen ends each, charges by {arguments.link_scheme!r}"
        if arguments.link_scheme == "refuse":
            kept = "which --link-scheme refuse does not allow"
        bonds = "a bond" if len(cut) == 1 else f"{len(cut)} bonds"
        screen.print(f"it cuts {bonds}: {told}; {kept}", markup=False)
    return text, atoms


def _parametrise(arguments: argparse.Namespace, folder: Path, screen: Any) -> None:
    """Make the Amber files of a molecule in water in the folder, unless they are there."""
    padding = 12.0 if arguments.padding is None else arguments.padding
    if not 0 < padding < 1000:
        raise ValueError(f"expected --padding of some Å, got {padding:g}")
    from gnn.data.making.topology import molecule, parametrise

    line = f"force field of {arguments.smiles} (GAFF2, AM1-BCC charges) in TIP3P water"
    screen.print(line, markup=False)  # rich would take [nH] for markup
    try:
        mol = molecule(arguments.smiles)
        _check_same(mol, folder, screen)
        charge = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
        parametrise(mol, charge, padding, folder)
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
