"""QM/MM in OpenMM: a model for some atoms, in the charges of a classical force field.

The model computes the energy of the QM atoms, their electrostatic interaction with the charges
around them included; the force field does the rest: everything among the other atoms, and the
Lennard-Jones interaction between the two. No patched engine: the model is called through
`openmm.PythonForce`.
"""

import copy
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn.engines._models import ready_model
from gnn.engines.embedding import Embedding
from gnn.potential import Potential
from gnn.units import KJ_PER_MOL, NANOMETER

#: Bonded forces by the name of a term: how many particles it has, and which parameters make it
#: vanish when they are zero.
_BONDED = {
    "HarmonicBondForce": ("Bond", 2, slice(1, 2)),
    "HarmonicAngleForce": ("Angle", 3, slice(1, 2)),
    "PeriodicTorsionForce": ("Torsion", 4, slice(2, 3)),
    "RBTorsionForce": ("Torsion", 4, slice(0, 6)),
}
#: Terms of these may be there, but not with QM atoms.
_ELSEWHERE = {
    "CMAPTorsionForce": ("Torsion", slice(1, 9)),
    "CustomBondForce": ("Bond", slice(0, 2)),
    "CustomAngleForce": ("Angle", slice(0, 3)),
    "CustomTorsionForce": ("Torsion", slice(0, 4)),
}
_HARMLESS = ("CMMotionRemover", "AndersenThermostat", "CustomExternalForce")
_NEUTRAL = 1e-2  # largest distance in e of a total charge from a whole number


class QMMMForce:
    """What `openmm.PythonForce` calls: the model's energy and forces for one state.

    Parameters
    ----------
    embedding : Embedding
        For the particles that the force acts on, QM atoms first.
    periodic : bool
        Whether there is a box.
    """

    def __init__(self, embedding: Embedding, periodic: bool):
        self.embedding, self.periodic = embedding, periodic

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Return energy in kJ/mol and forces (particles, 3) in kJ/mol/nm."""
        positions = np.asarray(state.getPositions(asNumpy=True)._value) * NANOMETER
        box = None
        if self.periodic:
            box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) * NANOMETER
        energy, forces = self.embedding.energy_forces(positions, box)
        return energy / KJ_PER_MOL, forces * (NANOMETER / KJ_PER_MOL)


def create_system(
    topology: Any,
    mm_forcefield: Any,
    qm_atoms: Sequence[int],
    model: Potential | str | Path | None = None,
    *,
    charge: int | None = None,
    cutoff: float = 9.0,
    switch_width: float = 1.5,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Any:
    """Build an OpenMM system in which a model computes some of the atoms.

    Parameters
    ----------
    topology : openmm.app.Topology
        Of the whole system.
    mm_forcefield : openmm.app.ForceField, AmberPrmtopFile, GromacsTopFile, … or openmm.System
        The classical force field, for all atoms: what can create a system, or a system made
        already, which stays as it is.
    qm_atoms : sequence of int
        Indices of the atoms that the model computes: whole molecules.
    model : Potential, path of a checkpoint, or None
        None: the model that ships.
    charge : int, optional
        Total charge of the QM atoms in e. None: that of the force field.
    cutoff : float
        The model sees the charges of residues whose centre (of the heavy atoms) is within this
        distance in Å of a QM atom.
    switch_width : float
        Width in Å of the shell below the cutoff in which charges fade away.
    dtype : torch.dtype, optional
        Type in which the model computes. None: that of its weights.
    **options
        For ``mm_forcefield.createSystem``. Default: PME with a cutoff of 9 Å where there is a
        box, no cutoff else; rigid water; a smooth end of the Lennard-Jones interaction.

    Returns
    -------
    openmm.System
        Its `PythonForce` is in force group 1. The QM atoms keep their Lennard-Jones parameters,
        have no charge in the force field, and are free of constraints.

    Raises
    ------
    ValueError
        If `qm_atoms` are not whole molecules or not atoms of the topology, a charge is not whole,
        the model does not know an element, or a force of the force field cannot be split.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    The energy is E_MM(others) + E_LJ(QM, others) + E_model(QM | q w): see
    `gnn.engines.embedding.Embedding` for the weights w. Charges beyond the cutoff do not act on
    the QM atoms.
    """
    import openmm

    system = classical_system(topology, mm_forcefield, options)
    atoms = list(topology.atoms())
    if len(atoms) != system.getNumParticles():
        raise ValueError(
            f"expected as many particles as atoms in the topology, got {system.getNumParticles()} "
            f"and {len(atoms)}"
        )
    qm = _checked_atoms(topology, qm_atoms)
    charges = _split(system, set(qm))
    total = charges[qm].sum()
    if charge is None:
        charge = round(total)
        if abs(total - charge) > _NEUTRAL:
            raise ValueError(
                f"the force field's charges of the QM atoms add up to {total:.3f} e, no whole "
                "number: pass charge="
            )
    inside = set(qm)
    others = [atom for atom in atoms if atom.index not in inside]
    embedding = Embedding(
        ready_model(model, dtype),
        np.array([atoms[i].element.atomic_number for i in qm]),
        charge,
        charges[[atom.index for atom in others]],
        *_groups(others),
        cutoff,
        switch_width,
    )
    periodic = system.usesPeriodicBoundaryConditions()
    force = openmm.PythonForce(QMMMForce(embedding, periodic))
    force.setParticles(qm + [atom.index for atom in others])
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setForceGroup(1)
    force.setName("QMMMForce")
    system.addForce(force)
    return system


def classical_system(topology: Any, mm_forcefield: Any, options: dict[str, Any]) -> Any:
    """Build the system of a force field alone; see `create_system` for arguments and defaults."""
    import openmm
    from openmm import app, unit

    if isinstance(mm_forcefield, openmm.System):
        if options:
            raise ValueError(f"a finished system takes no options, got {', '.join(options)}")
        return copy.deepcopy(mm_forcefield)
    if not hasattr(mm_forcefield, "createSystem"):
        raise TypeError(
            "expected mm_forcefield to be a ForceField, a parameter file of openmm.app or a "
            f"System, got {type(mm_forcefield).__name__}"
        )
    defaults: dict[str, Any] = {"constraints": None, "rigidWater": True}
    if topology.getPeriodicBoxVectors() is not None:
        reach = 0.9 * unit.nanometer
        defaults |= {
            "nonbondedMethod": app.PME,
            "nonbondedCutoff": reach,
            "switchDistance": 0.8 * unit.nanometer,
        }
    needed = [topology] if isinstance(mm_forcefield, app.ForceField) else []
    return mm_forcefield.createSystem(*needed, **(defaults | options))


def _checked_atoms(topology: Any, qm_atoms: Sequence[int]) -> list[int]:
    """Return the indices sorted, after a check that they are whole molecules."""
    found = sorted(int(i) for i in qm_atoms)
    count = topology.getNumAtoms()
    if not found or len(set(found)) != len(found) or found[0] < 0 or found[-1] >= count:
        raise ValueError(
            f"expected qm_atoms to be different indices of the {count} atoms, at least one, got "
            f"{str(list(qm_atoms))[:80]}"
        )
    inside = set(found)
    for bond in topology.bonds():
        if (bond[0].index in inside) != (bond[1].index in inside):
            raise ValueError(
                f"the bond between atoms {bond[0].index} ({bond[0].name}) and {bond[1].index} "
                f"({bond[1].name}) would be cut: qm_atoms must be whole molecules"
            )
    for atom in topology.atoms():
        if atom.index in inside and atom.element is None:
            raise ValueError(f"QM atom {atom.index} ({atom.name}) has no element")
    return found


def _groups(others: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the residue of each particle, and its weight in the centre of that residue."""
    numbers: dict[int, int] = {}
    groups = np.array(
        [numbers.setdefault(atom.residue.index, len(numbers)) for atom in others], dtype=np.int64
    )
    heavy = np.array(
        [atom.element is not None and atom.element.atomic_number > 1 for atom in others]
    )
    count = np.bincount(groups, heavy, len(numbers))
    share = np.where(heavy, 1.0, 0.0)
    if (count == 0).any():  # a residue without heavy atoms: all of its particles
        share = np.where(count[groups] == 0, 1.0, share)
        count = np.bincount(groups, share, len(numbers))
    return groups, share / count[groups]


def _split(system: Any, qm: set[int]) -> np.ndarray:
    """Take the classical terms among QM atoms and their charges out; return all charges in e."""
    charges = None
    for force in system.getForces():
        name = type(force).__name__
        if name == "NonbondedForce":
            charges = _split_nonbonded(force, qm)
        elif name == "CustomNonbondedForce":
            _exclude(force, qm)
        elif name in _BONDED:
            _remove_bonded(force, qm)
        elif name in _ELSEWHERE:
            _check_elsewhere(force, qm)
        elif name not in _HARMLESS and "Barostat" not in name:
            raise ValueError(
                f"the force field has a {name}, which cannot be split into QM and MM parts; "
                f"known are NonbondedForce, CustomNonbondedForce, {', '.join(_BONDED)}"
            )
    if charges is None:
        raise ValueError("the force field has no NonbondedForce, from which charges are taken")
    for i in reversed(range(system.getNumConstraints())):
        first, second, _ = system.getConstraintParameters(i)
        if first in qm and second in qm:
            system.removeConstraint(i)
    return charges


def _split_nonbonded(force: Any, qm: set[int]) -> np.ndarray:
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise ValueError("a NonbondedForce whose charges depend on parameters cannot be split")
    charges = np.zeros(force.getNumParticles())
    for i in range(len(charges)):
        charge, sigma, epsilon = force.getParticleParameters(i)
        charges[i] = charge._value
        if i in qm:
            force.setParticleParameters(i, 0.0, sigma, epsilon)
    for first, second in combinations(sorted(qm), 2):
        force.addException(first, second, 0.0, 0.1, 0.0, True)
    return charges


def _exclude(force: Any, qm: set[int]) -> None:
    known = {frozenset(force.getExclusionParticles(i)) for i in range(force.getNumExclusions())}
    for pair in combinations(sorted(qm), 2):
        if frozenset(pair) not in known:
            force.addExclusion(*pair)


def _remove_bonded(force: Any, qm: set[int]) -> None:
    """Let the terms of QM atoms vanish (a force cannot give up terms)."""
    term, particles, factor = _BONDED[type(force).__name__]
    for i in range(getattr(force, f"getNum{term}s")()):
        values = getattr(force, f"get{term}Parameters")(i)
        if not qm.isdisjoint(values[:particles]):
            parameters = values[particles:]
            for k in range(*factor.indices(len(parameters))):
                parameters[k] = 0.0 * parameters[k]
            getattr(force, f"set{term}Parameters")(i, *values[:particles], *parameters)


def _check_elsewhere(force: Any, qm: set[int]) -> None:
    term, particles = _ELSEWHERE[type(force).__name__]
    for i in range(getattr(force, f"getNum{term}s")()):
        values = getattr(force, f"get{term}Parameters")(i)
        if not qm.isdisjoint(values[particles]):
            raise ValueError(
                f"term {i} of a {type(force).__name__} acts on QM atoms and cannot be taken out"
            )
