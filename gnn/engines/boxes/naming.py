"""Residue names in output files: a solute must not bear the name of water, a protein or an ion."""

import re
from collections.abc import Iterable
from typing import Any

SOLUTE, OTHER = "LIG", "UNL"  # reserved by the Protein Data Bank

# Names that mean something to readers of PDB files, beside those in OpenMM's own table.
_WATERS = "H2O HHO OHH HOH OH2 SOL WAT SPC T3P T4P T5P T4E TIP TP3 TP4 TP5"
_IONS = "ION SOD POT CLA CAL CES LIT RUB BAR CAD"  # beside symbols of elements
_PEPTIDES = "HSE CYM LYN NLE MSE ACE NME NMA NH2 UNK"
_NUCLEOTIDES = "T DU DN RA RU RG RC RA5 RU5 RG5 RC5 RA3 RU3 RG3 RC3 ADE THY CYT GUA URA"
_KNOWN = frozenset(" ".join((_WATERS, _IONS, _PEPTIDES, _NUCLEOTIDES)).split())


def name_residues(topology: Any, qm_atoms: Iterable[int]) -> None:
    """Rename residues of a topology whose names would mislead readers of its files.

    Molecules of the model that are one residue become ``LIG`` where that has the name of a water,
    an amino acid, a nucleotide or an ion, or none. Residues in a chain keep their names, also in
    the model's zone. Others that bear the name of water become ``UNL`` where they are not.

    Parameters
    ----------
    topology : openmm.app.Topology
        Changed in place.
    qm_atoms
        Numbers of the atoms that the model computes.
    """
    inside = set(qm_atoms)
    chained = set()
    for first, second in topology.bonds():
        if first.residue is not second.residue:
            chained |= {first.residue.index, second.residue.index}
    for residue in topology.residues():
        if residue.index not in chained and any(a.index in inside for a in residue.atoms()):
            if _is_known(residue.name):
                residue.name = SOLUTE
        elif _is_named_water(residue.name) and not is_water(residue):
            residue.name = OTHER


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


def _is_named_water(name: str) -> bool:
    from openmm.app import PDBFile

    PDBFile._loadNameReplacementTables()
    plain = name.strip().upper()
    return "HOH" in (plain, PDBFile._residueNameReplacements.get(plain)) or plain in _WATERS.split()
