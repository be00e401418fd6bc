"""Bonded terms and constraints of QM atoms, which the model replaces: taken out of a system."""

import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

Bonds = set[frozenset[int]]

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


def remove_terms(system: Any, bonds: Bonds, qm: set[int], finished: bool) -> None:
    """Take the terms among QM atoms out of the bonded forces.

    Parameters
    ----------
    system : openmm.System
        Changed in place.
    bonds
        Among QM atoms.
    qm
        Indices of the QM atoms.
    finished
        Whether to warn of terms that may be a user's biases and go with the others.

    Raises
    ------
    ValueError
        If a term acts on QM atoms and others.
    """
    biases: Counter[str] = Counter()
    for place, force in reversed(list(enumerate(system.getForces()))):
        name = type(force).__name__
        if name in _WEAKENED:
            gone = _weaken(force, qm)
        elif name in _MADE_ANEW:
            gone = _own_terms(force, qm)
            if gone:
                system.addForce(_without(force, gone))
                system.removeForce(place)
        else:
            continue
        biases[name] += sum(_may_be_bias(name, atoms, bonds) for atoms in gone.values())
    found = [f"{count} of a {name}" for name, count in biases.items() if count]
    if finished and found:
        warnings.warn(
            f"terms among QM atoms go with the rest of their force field, and of these may be "
            f"biases or restraints: {', '.join(found)}; add such to the system that comes back",
            stacklevel=4,
        )


def _weaken(force: Any, qm: set[int]) -> dict[int, tuple[int, ...]]:
    """Set the terms of QM atoms to zero; return the atoms of each, by the number of the term."""
    name, gone = type(force).__name__, {}
    term, particles, factor = _WEAKENED[name]
    for i in range(getattr(force, f"getNum{term}s")()):
        values = getattr(force, f"get{term}Parameters")(i)
        if not qm.isdisjoint(values[:particles]):
            _check_uncut(f"term {i} of a {name}", values[:particles], qm)
            parameters = values[particles:]
            for k in range(*factor.indices(len(parameters))):
                parameters[k] = 0.0 * parameters[k]
            getattr(force, f"set{term}Parameters")(i, *values[:particles], *parameters)
            gone[i] = tuple(values[:particles])
    return gone


def _own_terms(force: Any, qm: set[int]) -> dict[int, tuple[int, ...]]:
    """Return the atoms of terms among QM atoms by the terms' numbers."""
    name, gone = type(force).__name__, {}
    term, particles = _MADE_ANEW[name]
    for i in range(getattr(force, f"getNum{term}s")()):
        atoms = tuple(getattr(force, f"get{term}Parameters")(i)[particles])
        if qm.issuperset(atoms):
            gone[i] = atoms
        elif not qm.isdisjoint(atoms):
            raise ValueError(
                f"term {i} of a {name} acts on QM atoms and others (atoms "
                f"{', '.join(map(str, atoms))}) and cannot be taken out: qm_atoms must be whole "
                "molecules, and a bias or restraint is added to the system that comes back"
            )
    return gone


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


def check_sites(system: Any, qm: set[int]) -> None:
    """Refuse virtual sites defined by QM atoms: the model includes their charges already."""
    for i in range(system.getNumParticles()):
        if not system.isVirtualSite(i):
            continue
        site = system.getVirtualSite(i)
        parents = {site.getParticle(k) for k in range(site.getNumParticles())}
        if not qm.isdisjoint(parents):
            raise ValueError(
                f"particle {i} is a virtual site of QM atom {min(qm & parents)} (a lone pair, a "
                "TIP4P water): the model would see its charge beside its own; take a force field "
                "without virtual sites for the QM atoms"
            )


def remove_constraints(system: Any, qm: set[int]) -> Bonds:
    """Free the QM atoms; return the pairs that were constrained."""
    removed = set()
    for i in reversed(range(system.getNumConstraints())):
        first, second, _ = system.getConstraintParameters(i)
        if first in qm or second in qm:
            _check_uncut("a constraint", (first, second), qm)
            system.removeConstraint(i)
            removed.add(frozenset((first, second)))
    return removed


def _check_uncut(what: str, particles: Any, qm: set[int]) -> None:
    if not qm.issuperset(particles):
        raise ValueError(
            f"{what} holds atoms {', '.join(map(str, particles))} together, of which some are QM "
            "and some are not: qm_atoms must be whole molecules, and a bias or restraint is added "
            "to the system that comes back"
        )


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
