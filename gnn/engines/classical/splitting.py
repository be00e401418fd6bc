"""A classical force field without what the model replaces: taken out term by term, or refused.

What can be taken out of the force field is: charges, bonded terms and constraints of the QM atoms,
and what acts among them. What remains between QM atoms and others must be Lennard-Jones alone:
any other electrostatics would act beside the model's, or hide charges from it.
"""

import copy
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.engines.classical.bonded import (
    BONDED,
    check_sites,
    hold_together,
    means_charge,
    remove_constraints,
    remove_terms,
)
from gnn.engines.classical.crossing import Bonds, Crossing

Array = NDArray[Any]

_HARMLESS = ("CMMotionRemover", "AndersenThermostat")
_NONBONDED = ("NonbondedForce", "CustomNonbondedForce", "CustomExternalForce")
_SOLVENT = (
    "implicit solvent needs the QM atoms' own charges, which the model replaces; use explicit water"
)
#: Why other forces are refused, by the beginning of their name.
_REASONS = {
    "Amoeba": "AMOEBA is polarisable: its multipoles and induced dipoles answer to the QM atoms' "
    "own, which the model replaces",
    "Hippo": "HIPPO is polarisable: its induced dipoles answer to the QM atoms' own charges, which "
    "the model replaces",
    "Drude": "Drude particles are polarisable: they answer to the QM atoms' own charges, which the "
    "model replaces",
    "GB": _SOLVENT,
    "CustomGB": _SOLVENT,
    "Python": "it is code, of which nobody knows on which atoms it acts; is this system split "
    "already?",
}
_NEAR, _FAR = 4.0, 8.0  # nm; where the decay of a custom interaction is measured
_STEEPEST = 6.5  # between the exponents of electrostatic (2 … 5) and Lennard-Jones forces (7)
_PAIRS = 4000  # largest number of pairs of particle types that are tried


def split(system: Any, topology: Any, qm: set[int], finished: bool = False) -> Array:
    """Take the classical terms among QM atoms and their charges out of a system.

    Parameters
    ----------
    system : openmm.System
        Changed in place. Bonds without strength keep the QM atoms together where OpenMM asks what
        is a molecule (images, barostats).
    topology : openmm.app.Topology
        Its bonds; where some join QM atoms and others, see `gnn.engines.classical.crossing` for the
        terms that stay.
    qm
        Indices of the QM atoms.
    finished
        Whether the system came finished, so that terms of its forces may be a user's biases.

    Returns
    -------
    array
        Charges of all particles as they were, (n,) in e.

    Raises
    ------
    ValueError
        If a force cannot be split: the message names it, and why.
    """
    _check_kinds(system)
    crossing = Crossing([[atom.index for atom in bond] for bond in topology.bonds()], qm)
    check_sites(system, crossing)
    near = crossing.pairs()
    held = []
    for force in system.getForces():
        name = type(force).__name__
        if name == "NonbondedForce":
            held.append(_split_nonbonded(force, qm, near))
        elif name == "CustomNonbondedForce":
            _check_custom(force, qm)
            _exclude(force, qm)
        elif name == "CustomExternalForce":
            _check_external(force, qm)
    charges = _summed(held)
    remove_terms(system, crossing, finished)
    hold_together(system, crossing.bonds | remove_constraints(system, crossing))
    return charges


def _check_kinds(system: Any) -> None:
    """Refuse forces that are not known here, those with a reason first."""
    names = [type(force).__name__ for force in system.getForces()]
    for name in names:
        for start, reason in _REASONS.items():
            if name.startswith(start):
                raise ValueError(
                    f"the force field has a {name}, which cannot be split into QM and MM parts: "
                    f"{reason}"
                )
    known = (*_NONBONDED, *BONDED, *_HARMLESS)
    for name in names:
        if name not in known and "Barostat" not in name:
            raise ValueError(
                f"the force field has a {name}, which cannot be split into QM and MM parts; "
                f"known are {', '.join(known)} (a bias or restraint of your own is added to the "
                "system that comes back)"
            )
    if "NonbondedForce" not in names:
        raise ValueError("the force field has no NonbondedForce, from which charges are taken")


def _summed(held: list[Array]) -> Array:
    """Return the charges of all NonbondedForces together, where each particle has one."""
    charges = np.stack(held)
    if not np.isfinite(charges).all():
        raise ValueError("a charge of the force field is NaN or infinite")
    twice = np.flatnonzero((charges != 0).sum(axis=0) > 1)
    if len(twice):
        found = ", ".join(f"{value:g}" for value in charges[:, twice[0]])
        raise ValueError(
            f"{len(twice)} particles have charges in several NonbondedForces (particle "
            f"{twice[0]}: {found} e): their interactions add up, their charges do not, and the "
            "model needs one charge for each; keep the charges in one NonbondedForce"
        )
    total: Array = charges.sum(axis=0)
    return total


def _split_nonbonded(force: Any, qm: set[int], near: Bonds) -> Array:
    """Take charges of QM atoms out; `near` are pairs across cut bonds, whose charges may scale."""
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise ValueError("a NonbondedForce whose charges depend on parameters cannot be split")
    charges = np.zeros(force.getNumParticles())
    for i in range(len(charges)):
        charge, sigma, epsilon = force.getParticleParameters(i)
        charges[i] = charge._value
        if i in qm:
            force.setParticleParameters(i, 0.0, sigma, epsilon)
    for k in range(force.getNumExceptions()):
        first, second, product, sigma, epsilon = force.getExceptionParameters(k)
        if (first in qm) == (second in qm):
            continue
        full = charges[first] * charges[second]
        scaled = abs(product._value - full) > 1e-6 + 1e-4 * abs(full)
        if scaled and frozenset((first, second)) not in near:
            raise ValueError(
                f"an exception of the NonbondedForce scales the charges of atoms {first} and "
                f"{second} ({product._value:g} in place of {full:g} e²), one QM and one not: the "
                "model sees full charges"
            )
        force.setExceptionParameters(k, first, second, 0.0, sigma, epsilon)
    for first, second in combinations(sorted(qm), 2):
        force.addException(first, second, 0.0, 0.1, 0.0, True)
    return charges


# --- custom forces --------------------------------------------------------------------------------


def _check_custom(force: Any, qm: set[int]) -> None:
    """Refuse a CustomNonbondedForce with charges in it; Lennard-Jones and the like may stay.

    A charge shows in one of three ways: by its name; by its sign, since parameters of
    Lennard-Jones have one and charges two; and by its reach.
    """
    expression = force.getEnergyFunction()
    advice = "charges must come in a NonbondedForce, where the model finds them"
    names = _parameters(force)
    values = np.array(
        [force.getParticleParameters(i) for i in range(force.getNumParticles())], dtype=np.float64
    ).reshape(-1, len(names))
    for name, column in zip(names, values.T, strict=True):
        if column.any() and (means_charge(name) or column.min() < 0):
            raise ValueError(
                f"the parameter {name} of the CustomNonbondedForce {expression!r} "
                f"({column.min():g} to {column.max():g}) looks like a charge: {advice}"
            )
    exponent = _decay(force, values, qm)
    if not exponent >= _STEEPEST:
        raise ValueError(
            f"the CustomNonbondedForce {expression!r} is no Lennard-Jones interaction: its force "
            f"goes with r to the power {-exponent:.1f} at long range (Lennard-Jones: -7), as of "
            f"charges or what they polarise, on which the model has its own say; {advice}"
        )


def _parameters(force: Any) -> list[str]:
    count = force.getNumPerParticleParameters()
    return [force.getPerParticleParameterName(k) for k in range(count)]


def _decay(force: Any, values: Array, qm: set[int]) -> float:
    """Return the smallest exponent with which a pair force decays; infinity without one."""
    import openmm

    rows, kind = np.unique(values, axis=0, return_inverse=True)
    ours = np.unique(kind.reshape(-1)[[i for i in sorted(qm) if i < len(values)]])
    every = np.arange(len(rows))
    pairs = np.concatenate(
        [np.stack([every, every], 1), np.stack(np.meshgrid(ours, every), -1).reshape(-1, 2)]
    )
    if len(pairs) > _PAIRS:
        pairs = pairs[np.linspace(0, len(pairs) - 1, _PAIRS).astype(int)]
    probe = _probe(force, rows[pairs.reshape(-1)])
    system = openmm.System()
    for _ in range(2 * len(pairs)):
        system.addParticle(1.0)
    system.addForce(probe)
    integrator = openmm.VerletIntegrator(1.0)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    sizes = []
    for distance in (_NEAR, _FAR):
        positions = np.zeros((2 * len(pairs), 3))
        positions[:, 1] = np.repeat(np.arange(len(pairs)), 2)
        positions[1::2, 0] = distance
        context.setPositions(positions)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        sizes.append(np.linalg.norm(forces[::2], axis=1))
    near, far = sizes
    acts = ~(far < 1e-12)  # kJ/mol/nm; NaN acts, too
    if not acts.any():
        return np.inf
    with np.errstate(divide="ignore"):
        exponents = np.log2(near[acts] / far[acts]) / np.log2(_FAR / _NEAR)
    return float(exponents.min())


def _probe(force: Any, rows: Array) -> Any:
    """Return a force with the same expression between particles 0 and 1, 2 and 3, and so on."""
    import openmm

    probe = openmm.CustomNonbondedForce(force.getEnergyFunction())
    for name in _parameters(force):
        probe.addPerParticleParameter(name)
    for k in range(force.getNumGlobalParameters()):
        name, value = force.getGlobalParameterName(k), force.getGlobalParameterDefaultValue(k)
        probe.addGlobalParameter(name, value or 1.0)  # a switch that is off may be turned on
    for k in range(force.getNumTabulatedFunctions()):
        function = copy.deepcopy(force.getTabulatedFunction(k))
        probe.addTabulatedFunction(force.getTabulatedFunctionName(k), function)
    for k in range(force.getNumComputedValues()):
        probe.addComputedValue(*force.getComputedValueParameters(k))
    for row in rows:
        probe.addParticle(row)
    for i in range(0, len(rows), 2):
        probe.addInteractionGroup([i], [i + 1])
    return probe


def _check_external(force: Any, qm: set[int]) -> None:
    """Refuse an external field that acts on charges of QM atoms."""
    names = _parameters(force)
    for k in range(force.getNumParticles()):
        particle, values = force.getParticleParameters(k)
        for name, value in zip(names, values, strict=True):
            if particle in qm and value and means_charge(name):
                raise ValueError(
                    f"the CustomExternalForce {force.getEnergyFunction()!r} acts on the charge of "
                    f"QM atom {particle} ({name} = {value:g}), which the model replaces"
                )


def _exclude(force: Any, qm: set[int]) -> None:
    known = {frozenset(force.getExclusionParticles(i)) for i in range(force.getNumExclusions())}
    for pair in combinations(sorted(qm), 2):
        if frozenset(pair) not in known:
            force.addExclusion(*pair)
