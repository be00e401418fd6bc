"""Zones by words: selections of MDAnalysis, or numbers of atoms, on a topology of OpenMM."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gnn.engines.boxes.naming import is_water
from gnn.engines.embedding.images import Array

_NUMBERS = re.compile(r"[\d\s,-]+")
_MANY = 2000  # atoms, beyond which a step takes seconds
_WORDS = "resname, resid, chainID, protein, nucleic, name, element, bonded, around, and, or, not"


def select(topology: Any, text: str, positions: Array, vectors: Array) -> list[int]:
    """Return the numbers of the atoms that a selection names, sorted.

    Parameters
    ----------
    topology : openmm.app.Topology
        Residues have the names and numbers, chains the letters of their file.
    text
        In MDAnalysis's language, such as ``resname LIG``, ``protein`` or ``chainID A and resid 57
        102``; or numbers of atoms from 0, such as ``0-5,9``.
    positions, vectors
        (n, 3) and (3, 3) in Å, for selections by distance (``around 5 resname LIG``).

    Raises
    ------
    ValueError
        If the selection is not understood, empty, all of the box, or cuts waters; with numbers.
    ImportError
        If MDAnalysis is not installed.
    """
    if _NUMBERS.fullmatch(text.strip()):
        atoms = _numbers(text, topology.getNumAtoms())
    else:
        atoms = by_words(topology, text, positions, vectors)
    _check(topology, text, atoms)
    return atoms


def check_zone(topology: Any, atoms: Sequence[int]) -> list[Any]:
    """Return the residues that hold a zone's atoms.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of all atoms.
    atoms
        Numbers of the zone's atoms, sorted.

    Raises
    ------
    ValueError
        If there are none, they repeat or are beyond the atoms of the topology.
    """
    count = topology.getNumAtoms()
    if not len(atoms) or len(set(atoms)) < len(atoms) or atoms[0] < 0 or atoms[-1] >= count:
        raise ValueError(
            f"expected the model's atoms as different numbers from 0 to {count - 1}, at least one, "
            f"got {str(list(atoms))[:60]}"
        )
    inside = set(atoms)
    return [r for r in topology.residues() if any(atom.index in inside for atom in r.atoms())]


def cut_bonds(topology: Any, atoms: Sequence[int]) -> list[str]:
    """Return the bonds between a zone and the rest in words.

    Parameters
    ----------
    topology : openmm.app.Topology
        Its bonds.
    atoms
        Numbers of the zone's atoms.
    """
    inside = set(atoms)
    cut = []
    for bond in topology.bonds():
        ends = sorted(bond, key=lambda atom: atom.index not in inside)
        if [atom.index in inside for atom in ends] == [True, False]:
            cut.append("–".join(f"{a.residue.name}{a.residue.id}:{a.name}" for a in ends))
    return cut


def universe(topology: Any, positions: Array, vectors: Array) -> Any:
    """Return an `MDAnalysis.Universe` of a topology of OpenMM: names, numbers, chains, bonds.

    `MDAnalysis.Universe(topology)` would number residues anew and drop letters of chains.
    """
    try:
        import MDAnalysis
        from MDAnalysis.lib.mdamath import triclinic_box
    except ImportError as error:
        raise ModuleNotFoundError(
            "selections need the package MDAnalysis; numbers of atoms, such as --qm 0-5, do not",
            name=error.name or "MDAnalysis",
        ) from None

    residues, chains = list(topology.residues()), list(topology.chains())
    atoms = list(topology.atoms())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on attributes that are guessed
        made = MDAnalysis.Universe.empty(
            len(atoms),
            len(residues),
            len(chains),
            atom_resindex=[atom.residue.index for atom in atoms],
            residue_segindex=[residue.chain.index for residue in residues],
            trajectory=True,
        )
        symbols = ["" if a.element is None else a.element.symbol for a in atoms]
        masses = [0.0 if a.element is None else a.element.mass._value for a in atoms]
        for name, values in {
            "names": [atom.name for atom in atoms],
            "elements": symbols,
            "types": symbols,
            "masses": masses,
            "chainIDs": [atom.residue.chain.id for atom in atoms],
            "resnames": [residue.name for residue in residues],
            "resids": [_resid(residue) for residue in residues],
            "icodes": [residue.insertionCode.strip() for residue in residues],
            "segids": [chain.id for chain in chains],
        }.items():
            made.add_TopologyAttr(name, values)
        made.add_TopologyAttr("bonds", [(b[0].index, b[1].index) for b in topology.bonds()])
    made.atoms.positions = positions
    made.dimensions = triclinic_box(*vectors)
    return made


def _resid(residue: Any) -> int:
    try:
        return int(residue.id)
    except ValueError:  # beyond 9999 some programs count in other digits
        return int(residue.index) + 1


def by_words(topology: Any, text: str, positions: Array, vectors: Array) -> list[int]:
    """Return the numbers of the atoms that a selection of MDAnalysis names; none or all, too.

    Arguments and errors are those of `select`.
    """
    made = universe(topology, positions, vectors)
    from MDAnalysis.exceptions import SelectionError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = made.select_atoms(text)
    except (SelectionError, ValueError, TypeError, AttributeError) as error:
        hint = "; chains are chosen by chainID" if re.search(r"\bchain\b", text) else ""
        raise ValueError(
            f"the selection {text!r} is not understood ({' '.join(str(error).split())}){hint}. "
            f"It is in the language of MDAnalysis, with words such as {_WORDS}; or it names atoms "
            "by numbers from 0, such as 0-5,9"
        ) from None
    return sorted(map(int, found.indices))


def _numbers(text: str, count: int) -> list[int]:
    """Return the numbers of ``0-5,9``."""
    found: set[int] = set()
    for part in re.split(r"[\s,]+", re.sub(r"\s*-\s*", "-", text.strip()).strip(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise ValueError(f"expected numbers of atoms such as 0-5,9, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise ValueError(
                f"expected numbers of atoms from 0 to {count - 1}, small before large, got {part}"
            )
        found.update(range(first, last + 1))
    return sorted(found)


def _check(topology: Any, text: str, atoms: list[int]) -> None:
    """Refuse what cannot be a zone; warn of one that is large."""
    count = topology.getNumAtoms()
    if not atoms:
        raise ValueError(
            f"the selection {text!r} names none of the {count} atoms: {there(topology)}"
        )
    if len(atoms) == count:
        raise ValueError(
            f"the selection {text!r} names all {count} atoms of the box: expected a zone with "
            f"something around it; {there(topology)}"
        )
    inside = set(atoms)
    waters = [r for r in topology.residues() if is_water(r)]
    kept = [sum(atom.index in inside for atom in r.atoms()) for r in waters]
    sizes = [sum(1 for _ in r.atoms()) for r in waters]
    cut = [r for r, k, n in zip(waters, kept, sizes, strict=True) if 0 < k < n]
    if cut:
        raise ValueError(
            f"the selection {text!r} holds parts of {len(cut)} waters (first: {cut[0].name} "
            f"{cut[0].id}): take whole ones, as 'same residue as (…)' does, or none ('… and not "
            "water')"
        )
    whole = sum(k > 0 for k in kept)
    if len(atoms) > _MANY:
        warnings.warn(
            f"the selection {text!r} names {len(atoms)} atoms, {whole} waters among them, for the "
            "model to compute: a step will take seconds, and memory about 1 MB for each atom",
            stacklevel=3,
        )


def there(topology: Any) -> str:
    """Return in words which residues and chains there are."""
    names = Counter(residue.name for residue in topology.residues()).most_common()
    told = ", ".join(f"{name} ({number})" for name, number in names[:8])
    rest = f", … ({len(names)} names)" if len(names) > 8 else ""
    chains = [chain.id for chain in topology.chains() if chain.id.strip()]
    more = ", …" if len(chains) > 8 else ""
    return f"there are residues {told}{rest}" + (
        f" in chains {', '.join(chains[:8])}{more}" if chains else ", and chains without letters"
    )
