"""Residue names in output files: a solute must not bear the name of water, a protein or an ion."""

import re
from typing import Any

SOLUTE, OTHER = "LIG", "UNL"  # reserved by the Protein Data Bank

# Names that mean something to readers of PDB files, beside those in OpenMM's own table.
_WATERS = "H2O HHO OHH HOH OH2 SOL WAT SPC T3P T4P T5P T4E TIP TP3 TP4 TP5"
_IONS = "ION SOD POT CLA CAL CES LIT RUB BAR CAD"  # beside symbols of elements
_PEPTIDES = "HSE CYM LYN NLE MSE ACE NME NMA NH2 UNK"
_NUCLEOTIDES = "T DU DN RA RU RG RC RA5 RU5 RG5 RC5 RA3 RU3 RG3 RC3 ADE THY CYT GUA URA"
_KNOWN = frozenset(" ".join((_WATERS, _IONS, _PEPTIDES, _NUCLEOTIDES)).split())


def name_residues(prmtop: Any, qm_residue: int) -> None:
    """Rename residues of an Amber topology whose names would mislead readers of its files.

    The residue of the model becomes ``LIG`` where it has the name of a water, an amino acid, a
    nucleotide or an ion, or none. Others that OpenMM took for water by their label (``SOL`` is one
    of water in some programs and of any solute in others) become ``UNL`` where they are not. Atoms
    of renamed residues have the names that the file gives them.

    Parameters
    ----------
    prmtop : openmm.app.AmberPrmtopFile
        Its topology is changed.
    qm_residue
        Number of the residue that the model computes.
    """
    labels = prmtop._prmtop._raw_data["ATOM_NAME"]
    for residue in prmtop.topology.residues():
        if residue.index == qm_residue:
            if not _is_known(residue.name):
                continue
            residue.name = SOLUTE
        elif residue.name == "HOH" and not is_water(residue):
            residue.name = OTHER
        else:
            continue
        for atom in residue.atoms():
            atom.name = labels[atom.index].strip() or atom.name


def is_water(residue: Any) -> bool:
    """Return whether a residue is one oxygen and two hydrogens, sites without mass aside."""
    symbols = [atom.element.symbol for atom in residue.atoms() if atom.element is not None]
    return sorted(symbols) == ["H", "H", "O"]


def _is_known(name: str) -> bool:
    from openmm.app import Element, PDBFile

    PDBFile._loadNameReplacementTables()
    bare = re.sub(r"[^A-Za-z]", "", name).upper()
    if not bare or bare in {symbol.upper() for symbol in Element._elements_by_symbol}:
        return True
    short = {name.strip().upper(), name.strip().upper()[:3]}  # a PDB file has three letters
    return not short.isdisjoint(_KNOWN | PDBFile._residueNameReplacements.keys())
