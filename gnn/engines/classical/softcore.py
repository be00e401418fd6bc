"""Lennard-Jones between the model's atoms and the others that a parameter takes away, softly."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Global parameters of a context: how much the model feels of the charges, and of the cores.
ELECTROSTATICS, STERICS = "lambda_electrostatics", "lambda_sterics"
_SOFTNESS = 0.5  # α of Beutler et al.
# σ⁶ above r⁶ and not r⁶/σ⁶ below: atoms without size or without depth are no division by zero
_ENERGY = (
    f"4*epsilon*{STERICS}*s*(s-1); s=sigma6/({_SOFTNESS}*(1-{STERICS})*sigma6+r^6);"
    "sigma6=(0.5*(sigma1+sigma2))^6; epsilon=sqrt(epsilon1*epsilon2)"
)


def soften(system: Any, qm: set[int]) -> Any:
    """Let a parameter scale the Lennard-Jones interaction between QM atoms and the others.

    Parameters
    ----------
    system : openmm.System
        Split already (`gnn.engines.classical.splitting.split`); changed in place.
    qm
        Indices of the QM atoms.

    Returns
    -------
    openmm.CustomNonbondedForce
        The new force of the system, "SoftCoreForce", with the parameter ``lambda_sterics``.

    Raises
    ------
    ValueError
        If the interaction is anywhere else than in one NonbondedForce, or has an exception.

    Notes
    -----
    The soft core of Beutler et al., Chem. Phys. Lett. 222, 529 (1994), with α = 0.5: with
    s = 1 / (α (1 − λ) + (r/σ)⁶) the energy of a pair is 4 ε λ (s² − s). At λ = 1 it is that of the
    NonbondedForce, its cutoff, switch and correction for what lies beyond included; at λ = 0 it is
    zero. The NonbondedForce's correction counts pairs of QM atoms, too (it is that of their
    images): a second force has this part, "SoftCoreTail", and fades in proportion to λ.
    """
    import openmm

    force = _holder(system, qm)
    soft = openmm.CustomNonbondedForce(_ENERGY)
    soft.setName("SoftCoreForce")
    soft.addGlobalParameter(STERICS, 1.0)
    soft.addPerParticleParameter("sigma")
    soft.addPerParticleParameter("epsilon")
    for i in range(force.getNumParticles()):
        charge, sigma, epsilon = force.getParticleParameters(i)
        soft.addParticle([sigma, epsilon])
        if i in qm:
            force.setParticleParameters(i, charge, sigma, 0.0)
    _exclude(soft, force, qm)
    others = set(range(force.getNumParticles())) - qm
    soft.addInteractionGroup(qm, others)
    _same_reach(soft, force)
    system.addForce(soft)
    if soft.getUseLongRangeCorrection():
        system.addForce(_own_tail(soft, sorted(qm)))
    return soft


def _holder(system: Any, qm: set[int]) -> Any:
    """Return the NonbondedForce that has the Lennard-Jones parameters of the QM atoms."""
    import openmm

    found = []
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            if any(force.getParticleParameters(i)[2]._value for i in qm):
                found.append(force)
        elif isinstance(force, openmm.CustomNonbondedForce) and _acts(force, qm):
            raise ValueError(
                "the Lennard-Jones interaction of QM atoms is in a CustomNonbondedForce "
                f"({force.getEnergyFunction()!r}): the soft core takes its place in a "
                "NonbondedForce only"
            )
    if len(found) != 1:
        raise ValueError(
            "expected one NonbondedForce with Lennard-Jones parameters of QM atoms, from which the "
            f"soft core takes them, got {len(found)}"
        )
    if found[0].getNonbondedMethod() == openmm.NonbondedForce.LJPME:
        raise ValueError("the soft core has a cutoff: a NonbondedForce with LJPME has none")
    return found[0]


def _acts(force: Any, qm: set[int]) -> bool:
    """Return whether a custom force may act between QM atoms and others."""
    count = force.getNumInteractionGroups()
    groups = [force.getInteractionGroupParameters(k) for k in range(count)]
    if groups:
        return any(not qm.isdisjoint(one) or not qm.isdisjoint(other) for one, other in groups)
    rows = np.array([force.getParticleParameters(i) for i in sorted(qm)], dtype=float)
    return not rows.size or bool(rows.any())


def _exclude(soft: Any, force: Any, qm: set[int]) -> None:
    """Exclude what the NonbondedForce excludes (some platforms want this of all such forces)."""
    known = set()
    for k in range(force.getNumExceptions()):
        first, second, _, _, epsilon = force.getExceptionParameters(k)
        if (first in qm) != (second in qm) and epsilon._value:
            raise ValueError(
                f"an exception of the NonbondedForce sets the Lennard-Jones interaction of atoms "
                f"{first} and {second}, one QM and one not: no parameter scales it"
            )
        known.add(frozenset((first, second)))
        soft.addExclusion(first, second)
    for pair in combinations(sorted(qm), 2):
        if frozenset(pair) not in known:
            raise ValueError(f"expected a system that is split already: atoms {pair} are not apart")


def _same_reach(soft: Any, force: Any) -> None:
    """Give a force the cutoff, the switch and the correction of another one."""
    import openmm

    theirs, ours = openmm.NonbondedForce, openmm.CustomNonbondedForce
    methods = {
        theirs.NoCutoff: ours.NoCutoff,
        theirs.CutoffNonPeriodic: ours.CutoffNonPeriodic,
    }
    method = methods.get(force.getNonbondedMethod(), ours.CutoffPeriodic)
    soft.setNonbondedMethod(method)
    soft.setCutoffDistance(force.getCutoffDistance())
    soft.setUseSwitchingFunction(force.getUseSwitchingFunction())
    soft.setSwitchingDistance(force.getSwitchingDistance())
    corrected = force.getUseDispersionCorrection() and method == ours.CutoffPeriodic
    soft.setUseLongRangeCorrection(corrected)


def _own_tail(soft: Any, qm: list[int]) -> Any:
    """Return the correction among QM atoms, as OpenMM counts pairs, each atom with itself too."""
    import openmm

    cutoff = soft.getCutoffDistance()._value
    start = soft.getSwitchingDistance()._value if soft.getUseSwitchingFunction() else cutoff
    moments = {power: _beyond(power, start, cutoff) for power in (6, 12)}
    tail = 0.0
    for k, one in enumerate(qm):
        for other in qm[: k + 1]:
            (sigma, depth), (its_sigma, its_depth) = map(soft.getParticleParameters, (one, other))
            sixth = (0.5 * (sigma + its_sigma)) ** 6
            attraction, repulsion = sixth * moments[6], sixth**2 * moments[12]
            tail += 4 * np.sqrt(depth * its_depth) * (repulsion - attraction)
    count = soft.getNumParticles()
    tail *= 4 * np.pi * count / (count + 1)
    force = openmm.CustomVolumeForce(f"{STERICS}*({float(tail)!r})/v")
    force.addGlobalParameter(STERICS, 1.0)
    force.setName("SoftCoreTail")
    return force


def _beyond(power: int, start: float, cutoff: float) -> float:
    """Return the integral of r² r^-power by r over what a cutoff and its switch leave out."""
    whole = cutoff ** (3 - power) / (power - 3)
    if start == cutoff:
        return float(whole)
    r, weights = np.polynomial.legendre.leggauss(40)
    r, weights = 0.5 * ((cutoff - start) * r + cutoff + start), 0.5 * (cutoff - start) * weights
    x = (r - start) / (cutoff - start)
    return float(whole + weights @ (x**3 * (10 - x * (15 - 6 * x)) * r ** (2 - power)))
