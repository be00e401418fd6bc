"""Force fields of OpenMM by name or file, and water models by name."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gnn.engines.boxes.files import parsed


class Water(NamedTuple):
    """A water model.

    Attributes
    ----------
    file
        Of OpenMM, with ions that fit.
    grid
        Water of `openmm.app.Modeller` with as many sites, from which boxes are filled.
    """

    file: str
    grid: str


#: Water models of ``--solvate``.
WATERS = {
    "tip3p": Water("amber14/tip3p.xml", "tip3p"),
    "tip3pfb": Water("amber14/tip3pfb.xml", "tip3p"),
    "spce": Water("amber14/spce.xml", "spce"),
    "opc3": Water("amber14/opc3.xml", "spce"),
    "tip4pew": Water("amber14/tip4pew.xml", "tip4pew"),
    "tip4pfb": Water("amber14/tip4pfb.xml", "tip4pew"),
    "opc": Water("amber14/opc.xml", "tip4pew"),
}
#: Force field where none is named, beside that of the water.
DEFAULT = "amber14-all.xml"
_HYDROGENS = {"H", "D"}
# what OpenMM evaluates, as an expression of Python
_SWITCHES = {"True", "False", "true", "false", "0", "1"}


def force_field(names: Sequence[str]) -> Any:
    """Return an `openmm.app.ForceField` of several files.

    Parameters
    ----------
    names
        Paths of XML files, or names that OpenMM knows, such as ``amber14/tip3pfb.xml``.

    Raises
    ------
    OSError, ValueError
        If a file is missing, no force field, or one by path that holds code; the message names it.
    """
    from openmm import app

    folder = Path(app.__file__).parent / "data"
    for name in names:
        path = Path(name)
        if not path.is_file() and not (folder / name).is_file():
            known = ", ".join(sorted(p.name for p in folder.glob("*.xml"))[:12])
            raise FileNotFoundError(
                f"no force field {name}: expected the path of an XML file, or a name that OpenMM "
                f"knows ({known}, …, amber14/tip3pfb.xml, charmm36/water.xml)"
            )
        if path.is_file():
            _check_no_code(path)
        parsed(path if path.is_file() else folder / name, app.ForceField, "force field (XML)")
    return app.ForceField(*names)


def _check_no_code(path: Path, seen: tuple[Path, ...] = ()) -> None:
    """Refuse a file with code in Python, which OpenMM would run, and those that it includes."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError):
        return  # no XML, as OpenMM will say
    code = [e.tag for tag in ("Script", "InitializationScript") for e in root.iter(tag)]
    for element in root.iter():
        value = element.get("useDispersionCorrection", "True")
        code += [f'useDispersionCorrection="{value[:40]}"'] * (value not in _SWITCHES)
    if code:
        raise ValueError(
            f"{path} holds code in Python ({code[0]}), which OpenMM would run: expected a force "
            "field of parameters only, or the name of one that comes with OpenMM; for a file that "
            "you trust, make the system with OpenMM and pass its topology"
        )
    for include in root.iter("Include"):
        other = path.parent / include.get("file", "")
        if other.is_file() and other not in seen:
            _check_no_code(other, (*seen, path))


def unmatched(field: Any, topology: Any) -> list[Any]:
    """Return the residues of which a force field has no template, its patches included."""
    found: list[Any] = field.getUnmatchedResidues(topology)
    if not found:
        return found
    try:
        field.createSystem(topology)  # the only way that tries patches: ends of chains in CHARMM
    except Exception as error:  # of many types
        named = re.search(r"residue (\d+) \(", str(error))
        residues = list(topology.residues())
        first = residues[int(named[1])] if named and int(named[1]) < len(residues) else found[0]
        return [first] + [r for r in found if r.name == first.name and r is not first]
    return []


def describe_unmatched(residues: Sequence[Any], names: Sequence[str]) -> str:
    """Return in one sentence what a force field lacks, and what to do about it.

    Parameters
    ----------
    residues
        From `unmatched`.
    names
        Of the force field's files.
    """
    first = residues[0]
    counts = Counter("site" if a.element is None else a.element.symbol for a in first.atoms())
    formula = " ".join(f"{symbol}{number}" for symbol, number in sorted(counts.items()))
    others = Counter(residue.name for residue in residues)
    told = ", ".join(f"{name} ({number})" for name, number in others.most_common(6))
    standard = _is_standard(first.name)
    if standard and _HYDROGENS.isdisjoint(counts):
        way = "it has no hydrogen: were hydrogens to be added, and failed?"
    elif standard:
        way = (
            "its name is standard, so atoms are missing or too many, or the chain is cut beside it "
            "(cap its ends with ACE and NME)"
        )
    else:
        way = (
            "a ligand needs parameters of its own: --forcefield … ligand.xml, as openmmforcefields "
            "or ParmEd write it, with bonds to it as CONECT records; or make the whole box with "
            "AmberTools and pass --prmtop and --coordinates"
        )
    return (
        f"the force field ({', '.join(names)}) has no template for {len(residues)} residues: "
        f"{told}; the first is {first.name} {first.id} in chain {first.chain.id} ({formula}): {way}"
    )


def _is_standard(name: str) -> bool:
    from openmm.app import PDBFile

    PDBFile._loadNameReplacementTables()
    return name in PDBFile._residueNameReplacements or name in PDBFile._atomNameReplacements
