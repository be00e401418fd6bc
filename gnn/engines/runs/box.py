"""The box of a molecular-dynamics run: equilibration, density, platform."""

import copy
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.boxes.box import Box
from gnn.engines.boxes.naming import is_water
from gnn.engines.embedding.images import Array
from gnn.engines.runs.settings import Settings
from gnn.units import BOLTZMANN, GAS_CONSTANT, GRAM_PER_ML, NANOMETER
from multipoles.files import atomic_write

_TOLERANCE = 5e-4  # of Ewald sums in the equilibration: OpenMM's own
_PARTS = 20  # of the equilibration, after each of which the density is measured
_SETTLED = 0.02  # largest relative change of the mean density between its third and last quarter,
_COMPRESSIBILITY = 4.6e-10  # 1/Pa, of water: fluctuations of small boxes follow from it
_WATER = (0.93, 1.06)  # g/ml; TIP3P has 0.98 at 300 K, small boxes fluctuate by 0.01 to 0.02


def platform_of(settings: Settings) -> tuple[Any, ...]:
    """Return the platform that the settings name, with its properties.

    Raises
    ------
    ValueError
        If OpenMM has no such platform.
    """
    import openmm

    if settings.platform is None:
        count = openmm.Platform.getNumPlatforms()
        platforms = [openmm.Platform.getPlatform(i) for i in range(count)]
        platform = max(platforms, key=lambda found: found.getSpeed())
    else:
        try:
            platform = openmm.Platform.getPlatformByName(settings.platform)
        except openmm.OpenMMException as error:
            raise ValueError(f"platform: {error}") from None
    if platform.getName() != "CPU":
        return (platform,)
    properties = {"DeterministicForces": "true"}
    if settings.threads is not None:
        properties["Threads"] = str(settings.threads)
    return platform, properties


def masses(system: Any) -> Array:
    """Return the masses of all particles in Da, (n,)."""
    return np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])


def repartition(system: Any, topology: Any, zone: Iterable[int], mass: float) -> None:
    """Move mass to hydrogens from the atoms they are bonded to; totals stay.

    Averages stay as they are, and the fastest vibrations are slower. Water outside of the zone
    keeps its masses: it is rigid as a rule.

    Parameters
    ----------
    system : openmm.System
        Changed in place.
    topology : openmm.app.Topology
        Its bonds.
    zone
        Numbers of the model's atoms.
    mass
        Of a hydrogen in Da.

    Raises
    ------
    ValueError
        If a heavy atom would be left with less.
    """
    inside = set(zone)
    for bond in topology.bonds():
        light, heavy = sorted(bond, key=lambda a: a.element is None or a.element.symbol != "H")
        symbols = [None if a.element is None else a.element.symbol for a in (light, heavy)]
        if symbols[0] != "H" or symbols[1] in (None, "H"):
            continue
        if is_water(light.residue) and light.index not in inside:
            continue
        ours, theirs = (system.getParticleMass(a.index)._value for a in (light, heavy))
        if ours == 0:  # held fixed
            continue
        if theirs - (mass - ours) < mass:
            raise ValueError(
                f"--hydrogen-mass {mass:g} would leave {theirs - mass + ours:.2f} Da of atom "
                f"{heavy.index} ({heavy.name}): take less"
            )
        system.setParticleMass(light.index, mass)
        system.setParticleMass(heavy.index, theirs - (mass - ours))


def degrees_of_freedom(system: Any) -> int:
    """Return 3 for each particle with mass, less the constraints and the motion of the centre."""
    import openmm

    massive = int((masses(system) > 0).sum())
    centre = any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    return 3 * massive - system.getNumConstraints() - 3 * centre


def temperature(kinetic: float, degrees: int) -> float:
    """Return the temperature in K of a kinetic energy in kJ/mol in so many degrees of freedom."""
    return 2 * kinetic / (degrees * GAS_CONSTANT)


def in_angstrom(state: Any) -> tuple[Array, Array]:
    """Return positions (n, 3) and box vectors (3, 3) of an OpenMM state in Å."""
    positions = np.asarray(state.getPositions(asNumpy=True)._value) * NANOMETER
    return positions, np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) * NANOMETER


def equilibrated(path: Path, box: Box, settings: Settings, say: Callable[[str], None]) -> str:
    """Return the state (XML) of a box after classical equilibration, kept in a file.

    Warns where the density has not settled, or is not that of water in a box of water.

    Parameters
    ----------
    path : Path
        Read where it exists, else written.
    box : Box
        Force field and coordinates.
    settings : Settings
        Temperature, time and seed.
    say : callable
        Takes a line of progress.

    Raises
    ------
    ValueError
        If the equilibration fails.
    """
    import openmm

    if path.is_file():
        return path.read_text(encoding="utf-8")
    if settings.equilibration:
        say(f"equilibrating with the force field, {settings.equilibration:g} ps at 1 bar")
    simulation = _equilibration(box, settings)
    try:
        densities = _settle(simulation, settings)
    except openmm.OpenMMException as error:
        step = simulation.context.getStepCount()
        raise ValueError(
            f"the classical equilibration failed at step {step} of 1 fs ({error}): atoms too close "
            "at the start, or a box too small?"
        ) from None
    warn_of_density(densities, box.topology, settings)
    state = simulation.context.getState(positions=True, velocities=True)
    text = openmm.XmlSerializer.serialize(state)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _equilibration(box: Box, settings: Settings) -> Any:
    """Return the simulation of a box with the force field at constant pressure."""
    import openmm
    from openmm import app, unit

    system = copy.deepcopy(box.system)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setEwaldErrorTolerance(_TOLERANCE)
    kelvin = settings.temperature * unit.kelvin
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, kelvin)
    barostat.setRandomNumberSeed(settings.seed + 1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 2 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(settings.seed + 1)
    fastest = settings.model_copy(update={"platform": None})
    simulation = app.Simulation(box.topology, system, integrator, *platform_of(fastest))
    simulation.context.setPeriodicBoxVectors(*(box.vectors / NANOMETER))
    simulation.context.setPositions(box.positions / NANOMETER)
    return simulation


def _settle(simulation: Any, settings: Settings) -> Array:
    """Do the equilibration; return the density in g/ml after each part, or at the start alone."""
    from openmm import unit

    if settings.equilibration:
        simulation.minimizeEnergy(maxIterations=300)
    kelvin = settings.temperature * unit.kelvin
    simulation.context.setVelocitiesToTemperature(kelvin, settings.seed + 1)
    steps = round(settings.equilibration * 1000)
    ends = np.unique(np.linspace(0, steps, _PARTS + 1).round().astype(int))
    densities = []
    for count in np.diff(ends) if steps else [0]:
        simulation.step(int(count))
        densities.append(density(simulation))
    return np.array(densities)


def density(simulation: Any) -> float:
    """Return the density of a simulation's box in g/ml."""
    volume = simulation.context.getState().getPeriodicBoxVolume()._value
    return float(masses(simulation.system).sum() / volume / GRAM_PER_ML)


def warn_of_density(densities: Array, topology: Any, settings: Settings) -> None:
    """Warn where the density has not settled over a time, or is not that of water.

    Parameters
    ----------
    densities
        In g/ml, equally far apart in time.
    topology : openmm.app.Topology
        Says how much of the box is water.
    settings : Settings
        Length of the equilibration, temperature.
    """
    picoseconds = settings.equilibration
    longer = f"give it more time, such as --equilibration {max(10.0, 3 * picoseconds):g} (ps)"
    quarter = max(1, len(densities) // 4)
    last = float(densities[-quarter:].mean())
    before = float(densities[-2 * quarter : -quarter].mean()) if len(densities) > 1 else last
    water, mass = _masses(topology)
    volume = mass / last / GRAM_PER_ML * 1e-27  # m³
    wavers = (BOLTZMANN * settings.temperature * _COMPRESSIBILITY / volume) ** 0.5
    if abs(last / before - 1) > max(_SETTLED, 3 * wavers):
        warnings.warn(
            f"the box has not settled: its density went from {before:.3f} to {last:.3f} g/ml "
            f"({100 * (last / before - 1):+.1f} %) over the last half of the equilibration of "
            f"{picoseconds:g} ps; {longer}",
            stacklevel=2,
        )
        return
    usual = _WATER[0] < last < _WATER[1] or not 270 < settings.temperature < 340
    if not usual and water > 0.8 * mass:
        warnings.warn(
            f"the box has a density of {last:.3f} g/ml after {picoseconds:g} ps of equilibration, "
            f"and water has 0.97 to 1.00: {longer}",
            stacklevel=2,
        )


def _masses(topology: Any) -> tuple[float, float]:
    """Return the mass of water and that of everything, in Da."""
    masses = {True: 0.0, False: 0.0}
    for residue in topology.residues():
        weights = [a.element.mass._value for a in residue.atoms() if a.element is not None]
        masses[is_water(residue)] += sum(weights)
    return masses[True], sum(masses.values())
