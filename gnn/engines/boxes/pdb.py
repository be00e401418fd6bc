"""Boxes from PDB and mmCIF files: what is missing is added, and said.

OpenMM reads them and makes the force field; PDBFixer finds and places heavy atoms that are missing,
`openmm.app.Modeller` adds hydrogens, sites without mass, water and ions.
"""

import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.boxes.box import OPTIONS, Box, checked, set_vectors, vectors_of
from gnn.engines.boxes.files import in_angstrom, parsed
from gnn.engines.boxes.forcefield import DEFAULT, WATERS, describe_unmatched, force_field, unmatched
from gnn.engines.boxes.naming import is_water
from gnn.engines.embedding.images import Array
from gnn.engines.openmm import classical_system
from gnn.units import GRAM_PER_ML, NANOMETER

_EMPTY = 0.5  # g/ml, below which a box is hardly filled
_NEUTRAL = 1e-2  # e

Say = Callable[[str], None]


@dataclass(frozen=True)
class Preparation:
    """What is done to a structure.

    Attributes
    ----------
    forcefield
        Files of the force field. Empty: Amber's ff14SB with the water model.
    solvate
        Water model (`gnn.engines.boxes.forcefield.WATERS`) with which the box is filled. None: the
        box stays as it is.
    padding
        Least water in Å from the solute to the walls.
    ionic_strength
        Of added salt in mol/l, beside the ions that make the box neutral.
    ph
        For hydrogens that are added.
    seed
        Of the places of ions.
    """

    forcefield: Sequence[str] = ()
    solvate: str | None = None
    padding: float = 12.0
    ionic_strength: float = 0.0
    ph: float = 7.0
    seed: int = 0


def pdb_box(path: Path, how: Preparation, vectors: Array | None, say: Say) -> Box:
    """Return the box of a PDB or mmCIF file, completed.

    Parameters
    ----------
    path
        ``.pdb``, ``.ent``, ``.cif`` or ``.mmcif``.
    how : Preparation
        Force field, water, ions, pH.
    vectors
        Box vectors (3, 3) in Å. None: those of the file.
    say
        Takes lines that say what was added.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If the structure cannot be completed, or the force field does not know a residue.
    ImportError
        If heavy atoms are missing and PDBFixer is not installed.
    """
    from openmm import app

    _check_preparation(how)
    names = list(how.forcefield) or [DEFAULT, WATERS[how.solvate or "tip3p"].file]
    field = force_field(names)
    read = _read(path, say)
    own = read.topology.getPeriodicBoxVectors()
    if vectors is None and own is not None:
        vectors = in_angstrom(own)
    model = app.Modeller(read.topology, read.positions)
    if unmatched(field, model.topology):
        model = _completed(path, model, field, how.ph, say)
    missing = unmatched(field, model.topology)
    if missing:
        raise ValueError(f"{path}: {describe_unmatched(missing, names)}")
    if how.solvate is not None:
        _solvate(model, field, how, vectors, say)
        vectors = in_angstrom(model.topology.getPeriodicBoxVectors())
    if vectors is None or np.diag(vectors).min() < 2.0:  # 1 Å: what structures by NMR have
        raise ValueError(
            f"{path} has no box (CRYST1 record): fill one with water, --solvate tip3p, or give the "
            "lengths of what is there in Å, --box A B C"
        )
    set_vectors(model.topology, vectors)
    system = classical_system(model.topology, field, OPTIONS)
    box = checked(str(path), model.topology, system, in_angstrom(model.positions), vectors)
    _tell(box, names, say)
    return box


def _check_preparation(how: Preparation) -> None:
    if how.solvate is not None and how.solvate not in WATERS:
        raise ValueError(f"expected --solvate {', '.join(WATERS)}, got {how.solvate}")
    for name, value, most in (
        ("--padding", how.padding, 1000.0),
        ("--ph", how.ph, 14.0),
        ("--ionic-strength", how.ionic_strength, 5.0),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"expected {name} between 0 and {most:g}, got {value:g}")


# --- reading --------------------------------------------------------------------------------------


def _read(path: Path, say: Say) -> Any:
    """Return the file as OpenMM reads it; say what it leaves out."""
    from openmm import app

    if path.suffix.lower() in (".cif", ".mmcif", ".pdbx"):
        read = parsed(path, app.PDBxFile, "mmCIF")
        told = _told_of_cif(path)
    else:
        read = parsed(path, app.PDBFile, "PDB")
        told = _told_of_pdb(path, read.topology.getNumAtoms())
    if not read.topology.getNumAtoms():
        raise ValueError(f"{path} holds no atom")
    if read.getNumFrames() > 1:
        told.append(f"{read.getNumFrames()} models: the first is taken")
    for line in told:
        say(f"{path.name}: {line}")
    return read


def _told_of_pdb(path: Path, count: int) -> list[str]:
    """Return remarks on alternate locations; refuse atoms that the reader dropped."""
    atoms, alternates = 0, 0
    taken: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("ENDMDL"):
            break
        if line.startswith(("ATOM  ", "HETATM")):
            letter, place = line[16:17], line[12:16] + line[17:27]
            if letter != " " and taken.setdefault(place, letter) != letter:
                alternates += 1
            else:
                atoms += 1
    if atoms != count:
        raise ValueError(
            f"{path} has {atoms} atoms, of which {count} were read: atoms of a residue need "
            "different names, and residues that follow each other different numbers"
        )
    return _told_of_alternates(alternates)


def _told_of_cif(path: Path) -> list[str]:
    """Return remarks on alternate locations."""
    from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

    blocks: list[Any] = []
    with path.open(encoding="utf-8") as file:
        PdbxReader(file).read(blocks)
    sites = blocks[0].getObj("atom_site")
    column = sites.getAttributeIndex("label_alt_id")
    if column < 0:
        return []
    letters = Counter(row[column] for row in sites.getRowList())
    others = sorted(letter for letter in letters if letter not in ".?")[1:]
    return _told_of_alternates(sum(letters[letter] for letter in others))


def _told_of_alternates(number: int) -> list[str]:
    return [f"{number} alternate locations: the first of each is taken"] if number else []


# --- completing -----------------------------------------------------------------------------------


def _completed(path: Path, model: Any, field: Any, ph: float, say: Say) -> Any:
    """Return a structure with its missing heavy atoms, hydrogens and sites."""
    before = _kinds(model.topology)
    if _lacks_heavy(model.topology):
        model = _with_heavy_atoms(path, say)
    heavy = _kinds(model.topology)
    try:
        model.addHydrogens(pH=ph)
    except Exception as error:  # of many types
        raise ValueError(
            f"{path}: hydrogens cannot be added ({' '.join(str(error).split())})"
        ) from None
    with suppress(ValueError):  # of residues without template, which are described later
        model.addExtraParticles(field)
    after = _kinds(model.topology)
    hydrogens = after["H"] - heavy["H"]
    if hydrogens:
        say(f"{path.name}: {hydrogens:+d} hydrogens, for pH {ph:g} ({before['H']} were there)")
    if after["site"] != before["site"]:
        say(f"{path.name}: {after['site'] - before['site']:+d} sites without mass")
    return model


def _kinds(topology: Any) -> Counter[str]:
    """Return the numbers of hydrogens, sites without element, and others."""
    return Counter(
        "site" if a.element is None else "H" if a.element.symbol in "HD" else "heavy"
        for a in topology.atoms()
    )


def _lacks_heavy(topology: Any) -> bool:
    """Return whether a residue may lack heavy atoms: there are others than water and ions."""
    return any(
        not is_water(residue) and sum(1 for _ in residue.atoms()) > 1
        for residue in topology.residues()
    )


def _with_heavy_atoms(path: Path, say: Say) -> Any:
    """Return a structure with the heavy atoms that its residues and ends of chains lack."""
    from openmm import app

    try:
        from pdbfixer import PDBFixer
    except ImportError as error:
        raise ModuleNotFoundError(
            "completing structures needs the package pdbfixer", name=error.name or "pdbfixer"
        ) from None

    fixer = PDBFixer(filename=str(path))
    fixer.findMissingResidues()
    _check_chains(path, fixer, say)
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    found = {
        residue: [atom.name for atom in atoms] for residue, atoms in fixer.missingAtoms.items()
    }
    for residue, names in fixer.missingTerminals.items():
        found.setdefault(residue, []).extend(names)
    if found:
        fixer.addMissingAtoms(seed=0)
        told = [f"{r.name} {r.id} ({' '.join(names)})" for r, names in found.items()]
        more = f", … ({len(told)} residues)" if len(told) > 6 else ""
        number = sum(map(len, found.values()))
        say(f"{path.name}: +{number} heavy atoms: {', '.join(told[:6])}{more}")
    return app.Modeller(fixer.topology, fixer.positions)


def _check_chains(path: Path, fixer: Any, say: Say) -> None:
    """Refuse gaps within chains; say what is missing at their ends."""
    chains = list(fixer.topology.chains())
    for (chain, place), names in fixer.missingResidues.items():
        letter, length = chains[chain].id, sum(1 for _ in chains[chain].residues())
        told = f"{' '.join(names[:8])}{' …' if len(names) > 8 else ''}"
        if 0 < place < length:
            before = list(chains[chain].residues())[place - 1]
            raise ValueError(
                f"{path}: {len(names)} residues ({told}) are missing behind {before.name} "
                f"{before.id} of chain {letter}, a loop without coordinates: build it first "
                "(PDBFixer, Modeller, AlphaFold), or split the chain there and cap its ends"
            )
        end = "start" if place == 0 else "end"
        say(f"{path.name}: {len(names)} residues at the {end} of chain {letter} stay away ({told})")


# --- water ----------------------------------------------------------------------------------------


def _solvate(model: Any, field: Any, how: Preparation, vectors: Array | None, say: Say) -> None:
    """Fill the box with water and ions."""
    from openmm import unit

    before = Counter(residue.name for residue in model.topology.residues())
    size: dict[str, Any] = {}
    places = in_angstrom(model.positions)
    radius = float(np.linalg.norm(places - 0.5 * (places.max(0) + places.min(0)), axis=1).max())
    length = 2 * (radius + how.padding)
    if vectors is not None and np.diag(vectors).min() > 2.0:
        lengths = " x ".join(f"{x:.1f}" for x in np.diag(vectors))
        if np.diag(vectors).min() >= length:
            say(f"the box of the file ({lengths} Å) is filled")
            size["boxVectors"] = vectors_of(vectors)
        else:
            say(
                f"the box of the file ({lengths} Å), too small for {how.padding:g} Å of water "
                "about the solute, is replaced"
            )
    if not size:
        size["boxSize"] = vectors_of(length * np.eye(3))
        size["boxSize"] = type(size["boxSize"][0])(*(length / NANOMETER,) * 3)
        say(f"a cubic box of {length:.1f} Å, {how.padding:g} Å beyond the solute on all sides")
    assert how.solvate is not None
    random.seed(how.seed)  # where ions go
    strength = how.ionic_strength * unit.molar
    model.addSolvent(field, model=WATERS[how.solvate].grid, ionicStrength=strength, **size)
    after = Counter(residue.name for residue in model.topology.residues())
    added = {name: number - before[name] for name, number in after.items()}
    told = ", ".join(f"{number} {name}" for name, number in added.items() if number)
    say(f"added: {told or 'nothing'} ({how.solvate} water)")


def _tell(box: Box, names: Sequence[str], say: Say) -> None:
    """Say what the box holds; warn of a net charge and of an empty box."""
    import openmm

    residues = list(box.topology.residues())
    waters = sum(map(is_water, residues))
    charge = sum(
        force.getParticleParameters(i)[0]._value
        for force in box.system.getForces()
        if isinstance(force, openmm.NonbondedForce)
        for i in range(force.getNumParticles())
    )
    say(
        f"{box.topology.getNumAtoms()} atoms: {waters} waters, {len(residues) - waters} other "
        f"residues, net charge {charge + 0.0:+.2f} e; force field {', '.join(names)}"
    )
    if abs(charge) > _NEUTRAL:
        warnings.warn(
            f"the box has a net charge of {charge:+.2f} e, which Ewald sums spread over a uniform "
            "background; --solvate adds ions",
            stacklevel=3,
        )
    total = sum(box.system.getParticleMass(i)._value for i in range(box.system.getNumParticles()))
    volume = float(np.linalg.det(box.vectors / NANOMETER))
    density = total / volume / GRAM_PER_ML
    if density < _EMPTY:
        warnings.warn(
            f"the box has a density of {density:.2f} g/ml: it is hardly filled; --solvate tip3p "
            "fills it with water",
            stacklevel=3,
        )
