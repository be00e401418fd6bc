"""From a SMILES string to a force field: RDKit, AmberTools (extra ``data``)."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PROGRAMS = ("antechamber", "parmchk2", "tleap")
_INSTALL = 'pip install ".[data]", in a checkout'
_GAFF = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)  # elements of GAFF2
_MOST_ATOMS = 200  # up to which semi-empirical charges take minutes
_MOST_LETTERS = 20 * _MOST_ATOMS  # RDKit takes a minute for a million


def program(name: str) -> str:
    """Return the path of an AmberTools program, beside this Python or on the search path.

    Raises
    ------
    RuntimeError
        If it is not installed.
    """
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        raise RuntimeError(f"the program {name} (AmberTools) is not installed: {_INSTALL}")
    return path


def check_installed(packages: Sequence[str] = ("openmm", "pyscf", "rdkit")) -> None:
    """Raise a RuntimeError naming all that is missing of the extra ``data``.

    Parameters
    ----------
    packages
        What is needed beside the programs of AmberTools.
    """
    missing = [name for name in packages if find_spec(name) is None]
    for name in _PROGRAMS:
        try:
            program(name)
        except RuntimeError:
            missing.append(f"{name} (AmberTools)")
    if missing:
        raise RuntimeError(
            "a molecule in water from its SMILES string needs packages that are not installed: "
            f"{', '.join(missing)}. Install them with: {_INSTALL}"
        )


def molecule(smiles: str, charge: int | None = None, seed: int = 1) -> Any:
    """Molecule with hydrogens and a geometry from a SMILES string.

    Parameters
    ----------
    smiles
        The molecule, with formal charges, such as ``CC(=O)[O-]``.
    charge
        Total charge in e, checked against the formal charges. None: not checked.
    seed
        Random seed of the first geometry.

    Returns
    -------
    rdkit.Chem.Mol

    Raises
    ------
    TypeError
        If the SMILES string is no string.
    ValueError
        If it is not understood, is none or several molecules, holds placeholders or elements that
        the force field lacks, is a single atom or hydrogen alone, has too many atoms, unpaired
        electrons or another charge, or no geometry is found.
    RuntimeError
        If RDKit is not installed.
    """
    if find_spec("rdkit") is None:
        check_installed(["rdkit"])
    from rdkit import Chem, rdBase
    from rdkit.Chem import AllChem

    with rdBase.BlockLogs():  # what RDKit prints is in the errors
        mol = Chem.AddHs(_parsed(smiles))
        _check_force_field(smiles, mol)
        formal = Chem.GetFormalCharge(mol)
        if charge is not None and charge != formal:
            raise ValueError(
                f"SMILES {smiles!r} has total charge {formal:+d}, but charge {charge:+d} was asked "
                "for: write the charges into the SMILES string, such as C[NH3+]"
            )
        if AllChem.EmbedMolecule(mol, randomSeed=seed) != 0:
            raise ValueError(f"no geometry found for SMILES {smiles!r}")
        if AllChem.MMFFHasAllMoleculeParams(mol):
            AllChem.MMFFOptimizeMolecule(mol)
    return mol


def _parsed(smiles: str) -> Any:
    """Return the molecule as written, without implicit hydrogens."""
    from rdkit import Chem

    if not isinstance(smiles, str):
        raise TypeError(f"expected a SMILES string, got {smiles!r}")
    if not smiles.strip():
        raise ValueError(f"expected a SMILES string such as CO or C[NH3+], got {smiles!r}: nothing")
    if len(smiles.split()) > 1 or smiles != smiles.strip():
        raise ValueError(f"SMILES {smiles!r} holds blanks; expected one molecule, such as C[NH3+]")
    if len(smiles) > _MOST_LETTERS:
        raise ValueError(
            f"SMILES {smiles[:40]!r}… has {len(smiles)} letters; expected up to {_MOST_LETTERS}, "
            f"since AM1-BCC charges are made for up to {_MOST_ATOMS} atoms"
        )
    mol = Chem.MolFromSmiles(smiles)
    if mol is not None:
        return mol
    rough = Chem.MolFromSmiles(smiles, sanitize=False)
    try:
        problems = [] if rough is None else Chem.DetectChemistryProblems(rough)
    except RuntimeError:  # of RDKit, for numbers that it cannot hold
        problems = []
    reason = f" ({'; '.join(problem.Message() for problem in problems)})" if problems else ""
    raise ValueError(
        f"SMILES {smiles!r} is not understood{reason}; expected one such as CO or C[NH3+]"
    )


def _check_force_field(smiles: str, mol: Any) -> None:
    """Refuse what GAFF2, AM1-BCC charges and closed shells cannot describe."""
    from rdkit import Chem
    from rdkit.Chem import Descriptors

    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    strange = {a.GetSymbol() for a in mol.GetAtoms() if a.GetAtomicNum() not in _GAFF}
    parts = len(Chem.GetMolFrags(mol))
    count = len(numbers)
    if 0 in numbers:
        raise ValueError(f"SMILES {smiles!r} holds a placeholder (*); expected whole molecules")
    if parts > 1:
        raise ValueError(f"SMILES {smiles!r} holds {parts} molecules; expected one")
    if strange:
        raise ValueError(
            f"SMILES {smiles!r} holds {', '.join(sorted(strange))}: GAFF2 knows H, C, N, O, F, P, "
            "S, Cl, Br and I only; give a topology of your own instead"
        )
    if count == 1 or set(numbers) == {1}:
        what = "a single atom" if count == 1 else "hydrogen alone"
        raise ValueError(f"SMILES {smiles!r} is {what}, for which GAFF2 has no parameters")
    if count > _MOST_ATOMS:
        raise ValueError(
            f"SMILES {smiles!r:.40} has {count} atoms; AM1-BCC charges are made for up to "
            f"{_MOST_ATOMS}: give a topology of your own instead"
        )
    if Descriptors.NumRadicalElectrons(mol) or sorted(numbers) == [8, 8]:
        raise ValueError(f"SMILES {smiles!r} has unpaired electrons; only closed shells are done")


def parametrise(mol: Any, charge: int, padding: float, folder: Path) -> None:
    """Write topologies to a folder: ``solute.*`` in water, ``alone.*`` without.

    GAFF2 types and AM1-BCC charges for the solute, TIP3P water; a ``.prmtop`` and a ``.rst7`` each.

    Parameters
    ----------
    mol
        From :func:`molecule`.
    charge
        Total charge in e.
    padding
        Least water in Å between the solute and the walls of the box.
    folder
        Where the files go; nothing is done when they are there.

    Raises
    ------
    RuntimeError
        If a program of AmberTools fails; the message holds the end of its output.
    """
    from rdkit import Chem

    names = ("solute.prmtop", "solute.rst7", "alone.prmtop", "alone.rst7")
    results = [folder / name for name in names]
    if all(path.is_file() for path in results):
        return
    with tempfile.TemporaryDirectory(prefix=".amber-", dir=folder) as temporary:
        work = Path(temporary)
        Chem.MolToMolFile(mol, str(work / "solute.mol"))
        _call(
            work,
            *("antechamber", "-i", "solute.mol", "-fi", "mdl", "-o", "solute.mol2", "-fo", "mol2"),
            *("-c", "bcc", "-at", "gaff2", "-nc", str(charge), "-rn", "LIG"),
        )
        _call(
            work,
            *("parmchk2", "-i", "solute.mol2", "-f", "mol2", "-o", "solute.frcmod", "-s", "gaff2"),
        )
        (work / "solute.leap").write_text(
            "source leaprc.gaff2\nsource leaprc.water.tip3p\nLIG = loadmol2 solute.mol2\n"
            "loadamberparams solute.frcmod\nsaveamberparm LIG alone.prmtop alone.rst7\n"
            f"solvateBox LIG TIP3PBOX {padding:.2f}\n"
            "saveamberparm LIG solute.prmtop solute.rst7\nquit\n"
        )
        _call(work, "tleap", "-f", "solute.leap")
        if not (work / "solute.prmtop").is_file():
            raise RuntimeError("tleap wrote no topology; is every atom type known to GAFF2?")
        for path in reversed(results):
            shutil.move(work / path.name, path)


def _call(work: Path, name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], cwd=work, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"{name} failed with exit status {done.returncode}:\n{tail}")
