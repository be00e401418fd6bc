"""Bonded terms and constraints of QM atoms, which the model replaces: taken out of a system."""

import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from gnn.engines.classical.crossing import Bonds, Crossing

#: Forces that vanish, term by term, with some of their parameters: name of a term, how many
#: particles it has, and which parameters these are.
_WEAKENED = {
    "HarmonicBondForce": ("Bond", 2, slice(1, 2)),
    "HarmonicAngleForce": ("Angle", 3, slice(1, 2)),
    "PeriodicTorsionForce": ("Torsion", 4, slice(2, 3)),
    "RBTorsionForce": ("Torsion", 4, slice(0, 6)),
}
#: Forces of which nobody knows how a term vanishes: name of a term, place of its particles.
_MADE_ANEW = {
    "CMAPTorsionForce": ("Torsion", slice(1, 9)),
    "CustomBondForce": ("Bond", slice(0, 2)),
    "CustomAngleForce": ("Angle", slice(0, 3)),
    "CustomTorsionForce": ("Torsion", slice(0, 4)),
}
BONDED = (*_WEAKENED, *_MADE_ANEW)
_NEAR = 3  # bonds between the ends of what a force field calls bonded (1-4 pairs)


def remove_terms(system: Any, crossing: Crossing, finished: bool) -> None:
    """Take the terms that the model replaces out of the bonded forces.

    Parameters
    ----------
    system : openmm.System
        Changed in place.
    crossing : Crossing
        Tells which terms these are.
    finished
        Whether to warn of terms that may be a user's biases and go with the others.

    Raises
    ------
    ValueError
        If a term acts on QM atoms and others without bonds between them, or on charges across a
        cut bond.
    """
    biases: Counter[str] = Counter()
    for place, force in reversed(list(enumerate(system.getForces()))):
        name = type(force).__name__
        if name in _WEAKENED:
            gone = _weaken(force, crossing)
        elif name in _MADE_ANEW:
            gone = _own_terms(force, crossing)
            if gone:
                system.addForce(_without(force, gone))
                system.removeForce(place)
        else:
            continue
        biases[name] += sum(_may_be_bias(name, atoms, crossing.bonds) for atoms in gone.values())
    found = [f"{count} of a {name}" for name, count in biases.items() if count]
    if finished and found:
        warnings.warn(
            f"terms among QM atoms go with the rest of their force field, and of these may be "
            f"biases or restraints: {', '.join(found)}; add such to the system that comes back",
            stacklevel=4,
        )


def _weaken(force: Any, crossing: Crossing) -> dict[int, tuple[int, ...]]:
    """Set the model's terms to zero; return the atoms of each, by the number of the term."""
    name, gone = type(force).__name__, {}
    term, particles, factor = _WEAKENED[name]
    for i in range(getattr(force, f"getNum{term}s")()):
        values = getattr(force, f"get{term}Parameters")(i)
        if crossing.is_models(f"term {i} of a {name}", values[:particles]):
            parameters = values[particles:]
            for k in range(*factor.indices(len(parameters))):
                parameters[k] = 0.0 * parameters[k]
            getattr(force, f"set{term}Parameters")(i, *values[:particles], *parameters)
            gone[i] = tuple(values[:particles])
    return gone


def _own_terms(force: Any, crossing: Crossing) -> dict[int, tuple[int, ...]]:
    """Return the atoms of the model's terms by the terms' numbers."""
    name, gone = type(force).__name__, {}
    term, particles = _MADE_ANEW[name]
    for i in range(getattr(force, f"getNum{term}s")()):
        values = getattr(force, f"get{term}Parameters")(i)
        atoms = tuple(values[particles])
        if crossing.is_models(f"term {i} of a {name}", atoms):
            gone[i] = atoms
        elif name == "CustomBondForce" and not crossing.qm.isdisjoint(atoms):
            _check_uncharged(force, i, values[-1], atoms)
    return gone


def _check_uncharged(force: Any, i: int, values: Any, atoms: tuple[int, ...]) -> None:
    """Refuse a pair across a cut bond (1-4) that acts on charges, which the model sees."""
    for k, value in enumerate(values):
        name = force.getPerBondParameterName(k)
        if value and means_charge(name):
            raise ValueError(
                f"term {i} of the CustomBondForce {force.getEnergyFunction()!r} acts on the "
                f"charges of atoms {atoms[0]} and {atoms[1]} ({name} = {value:g}), of which "
                "one is QM: the model sees full charges"
            )


def means_charge(name: str) -> bool:
    """Return whether a parameter is a charge, going by its name."""
    plain = name.lower()
    return plain.startswith("q") or "charge" in plain or "chg" in plain


def _without(force: Any, gone: Iterable[int]) -> Any:
    """Return a force like this one that lacks some terms."""
    import openmm

    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(force))
    (terms,) = root.findall(f"{_MADE_ANEW[type(force).__name__][0]}s")
    for i in sorted(gone, reverse=True):
        terms.remove(terms[i])
    return openmm.XmlSerializer.deserialize(ElementTree.tostring(root, encoding="unicode"))


def _may_be_bias(name: str, atoms: tuple[int, ...], bonds: Bonds) -> bool:
    """Return whether a term may be a user's bias: a distant pair, or a custom term along bonds."""
    if not bonds:
        return False
    if len(atoms) == 2:
        return not _is_near(*atoms, bonds)
    along = all(frozenset(pair) in bonds for pair in pairwise(atoms))
    return name == "CustomTorsionForce" and along  # impropers are not along bonds


def _is_near(first: int, second: int, bonds: Bonds) -> bool:
    reached = {first}
    for _ in range(_NEAR):
        reached.update(*(bond for bond in bonds if not reached.isdisjoint(bond)))
    return second in reached


# --- molecules ------------------------------------------------------------------------------------


def check_sites(system: Any, crossing: Crossing) -> None:
    """Refuse virtual sites among or defined by QM atoms, or by those whose charge is moved.

    The model includes the charges of the former already, and sees those of the latter too near.
    """
    qm, cut = crossing.qm, crossing.cut()
    for i in range(system.getNumParticles()):
        if not system.isVirtualSite(i):
            continue
        if i in qm:
            raise ValueError(
                f"QM atom {i} is a virtual site, no atom: a model computes atoms; leave it out, "
                "and take a force field without virtual sites for the QM atoms"
            )
        site = system.getVirtualSite(i)
        parents = {site.getParticle(k) for k in range(site.getNumParticles())}
        if not qm.isdisjoint(parents):
            raise ValueError(
                f"particle {i} is a virtual site of QM atom {min(qm & parents)} (a lone pair, a "
                "TIP4P water): the model would see its charge beside its own; take a force field "
                "without virtual sites for the QM atoms"
            )
        if not cut.isdisjoint(parents):
            raise ValueError(
                f"particle {i} is a virtual site of atom {min(cut & parents)}, whose bond to a QM "
                "atom is cut and whose charge is moved: cut another bond"
            )


def remove_constraints(system: Any, crossing: Crossing) -> Bonds:
    """Free the QM atoms; return the pairs that were constrained."""
    removed, qm = set(), crossing.qm
    for i in reversed(range(system.getNumConstraints())):
        first, second, _ = system.getConstraintParameters(i)
        if (first in qm) != (second in qm):
            raise ValueError(
                f"a constraint holds atoms {first} and {second} together, of which one is QM and "
                "one is not: qm_atoms must be whole molecules, or (constraints=None or HBonds) "
                "bonds and angles that are cut be flexible; a bias or restraint is added to the "
                "system that comes back"
            )
        if first in qm:
            system.removeConstraint(i)
            removed.add(frozenset((first, second)))
    return removed


def hold_together(system: Any, pairs: Bonds) -> None:
    """Add bonds of zero strength, by which OpenMM recognises molecules.

    Without them each QM atom whose bond was a constraint would be moved into the box by itself
    when positions are written, and moved by itself by a barostat.
    """
    import openmm

    if not pairs:
        return
    force = openmm.HarmonicBondForce()
    force.setName("QMMolecules")
    for pair in sorted(map(sorted, pairs)):
        force.addBond(*pair, 0.1, 0.0)
    system.addForce(force)
