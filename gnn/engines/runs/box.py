"""The box of a molecular-dynamics run: its files, the one that ships, equilibration, platform."""

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.embedding.images import Array, Tree, nearest_image
from gnn.engines.runs.naming import is_water
from gnn.engines.runs.settings import Settings
from gnn.units import BOLTZMANN, GAS_CONSTANT, GRAM_PER_ML, NANOMETER
from multipoles.files import atomic_write

_BONDS = (0.5, 3.5)  # Å; shortest and longest equilibrium bond of a force field
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


def degrees_of_freedom(system: Any) -> int:
    """Return 3 for each particle with mass, less the constraints and the motion of the centre."""
    import openmm

    massive = int((masses(system) > 0).sum())
    centre = any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    return 3 * massive - system.getNumConstraints() - 3 * centre


def temperature(kinetic: float, degrees: int) -> float:
    """Return the temperature in K of a kinetic energy in kJ/mol in so many degrees of freedom."""
    return 2 * kinetic / (degrees * GAS_CONSTANT)


def read_amber(prmtop: Path, coordinates: Path) -> tuple[Any, Any]:
    """Read topology and coordinates of a periodic box from Amber's files.

    Parameters
    ----------
    prmtop, coordinates
        Such as ``box.prmtop`` and ``box.rst7``.

    Returns
    -------
    openmm.app.AmberPrmtopFile, openmm.app.AmberInpcrdFile
        The topology has the box of the coordinates.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If a file is of another kind, or the two do not fit; the message names the file.

    Notes
    -----
    Molecules that a program has cut at the walls of the box come back whole: constraints and
    bonds of OpenMM know no images.
    """
    from openmm import app, unit

    topology = _parsed(prmtop, app.AmberPrmtopFile, "Amber topology (prmtop)")
    start = _parsed(coordinates, app.AmberInpcrdFile, "Amber coordinates (rst7, inpcrd)")
    count = topology.topology.getNumAtoms()
    if len(start.positions) != count:
        raise ValueError(
            f"{coordinates} has {len(start.positions)} atoms, {prmtop} has {count}: they are not "
            "of the same box"
        )
    if start.boxVectors is None:
        raise ValueError(
            f"{coordinates} has no box: a run needs a periodic box of solvent (as tleap's "
            "solvateBox makes it), whose lengths stand in the last line of the file"
        )
    _check_start(coordinates, topology.topology, *start_of(start))
    topology.topology.setPeriodicBoxVectors(start.boxVectors)
    start.positions = unit.Quantity(whole(topology.topology, *start_of(start)), unit.angstrom)
    return topology, start


def start_of(coordinates: Any) -> tuple[Array, Array]:
    """Return positions (n, 3) and box vectors (3, 3) of an AmberInpcrdFile in Å."""
    from openmm import unit

    positions = np.array(coordinates.positions.value_in_unit(unit.angstrom), dtype=float)
    return positions, np.array(coordinates.boxVectors.value_in_unit(unit.angstrom), dtype=float)


def whole(topology: Any, positions: Array, box: Array) -> Array:
    """Return positions (n, 3) in Å, with atoms that are bonded in one image.

    Parameters
    ----------
    topology : openmm.app.Topology
        Its bonds.
    positions, box
        (n, 3) and (3, 3) in Å.
    """
    bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    return Tree(bonds, len(positions)).whole(positions, box)


def in_angstrom(state: Any) -> tuple[Array, Array]:
    """Return positions (n, 3) and box vectors (3, 3) of an OpenMM state in Å."""
    positions = np.asarray(state.getPositions(asNumpy=True)._value) * NANOMETER
    return positions, np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) * NANOMETER


def _parsed(path: Path, reader: Callable[[str], Any], kind: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return reader(str(path))
    except (OSError, ImportError):
        raise
    except Exception as error:  # OpenMM's readers raise errors of many types
        with open(path, "rb") as file:
            start = " ".join(file.read(200).decode("ascii", "replace").split())
        shown = "".join(c for c in start if c.isprintable())[:40]
        raise ValueError(
            f"{path} does not read as {kind}: {f'it begins {shown!r}' if shown else 'it is empty'} "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None


def _check_start(path: Path, topology: Any, positions: Array, box: Array) -> None:
    """Refuse coordinates that are NaN, velocities or in other units, and a box without volume."""
    wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(wrong):
        raise ValueError(f"{path}: positions of {len(wrong)} atoms are NaN (first: {wrong[0]})")
    if not (np.isfinite(box).all() and np.diag(box).min() > 1.0):
        lengths = ", ".join(f"{length:g}" for length in np.diag(box))
        raise ValueError(f"{path}: expected a box of some volume, got {lengths} Å")
    real = (b for b in topology.bonds() if all(atom.element is not None for atom in b))
    bonds = np.array([(bond[0].index, bond[1].index) for bond in real], dtype=int)
    if not len(bonds):
        return
    lengths = np.linalg.norm(
        nearest_image(positions[bonds[:, 0]] - positions[bonds[:, 1]], box), axis=1
    )
    odd = np.flatnonzero((lengths < _BONDS[0]) | (lengths > _BONDS[1]))
    if len(odd):
        atoms = list(topology.atoms())
        first, second = (atoms[i] for i in bonds[odd[0]])
        raise ValueError(
            f"{path}: {len(odd)} of {len(bonds)} bonds are shorter than {_BONDS[0]} Å or longer "
            f"than {_BONDS[1]} Å (first: {first.name}–{second.name}, atoms {first.index} and "
            f"{second.index}, {lengths[odd[0]]:.2f} Å): these are not coordinates in Å of the "
            "topology's atoms (velocities, another unit or order?)"
        )


def equilibrated(
    path: Path, prmtop: Any, start: Any, settings: Settings, say: Callable[[str], None]
) -> str:
    """Return the state (XML) of a box after classical equilibration, kept in a file.

    Warns where the density has not settled, or is not that of water in a box of water.

    Parameters
    ----------
    path : Path
        Read where it exists, else written.
    prmtop, start : openmm.app.AmberPrmtopFile, openmm.app.AmberInpcrdFile
        Force field and coordinates of the box.
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
    simulation = _equilibration(prmtop, start, settings)
    try:
        densities = _settle(simulation, settings)
    except openmm.OpenMMException as error:
        step = simulation.context.getStepCount()
        raise ValueError(
            f"the classical equilibration failed at step {step} of 1 fs ({error}): atoms too close "
            "at the start, or a box too small?"
        ) from None
    warn_of_density(densities, prmtop.topology, settings)
    state = simulation.context.getState(positions=True, velocities=True)
    text = openmm.XmlSerializer.serialize(state)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _equilibration(prmtop: Any, start: Any, settings: Settings) -> Any:
    """Return the simulation of a box with the force field at constant pressure."""
    import openmm
    from openmm import app, unit

    system = prmtop.createSystem(
        nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, rigidWater=True
    )
    kelvin = settings.temperature * unit.kelvin
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, kelvin)
    barostat.setRandomNumberSeed(settings.seed + 1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 2 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(settings.seed + 1)
    fastest = settings.model_copy(update={"platform": None})
    simulation = app.Simulation(prmtop.topology, system, integrator, *platform_of(fastest))
    simulation.context.setPositions(start.positions)
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


def shipped_box(folder: Path) -> None:
    """Put methanol in 368 TIP3P waters, equilibrated (GAFF2, AM1-BCC), into a folder."""
    for path in (Path(__file__).parent.parent / "methanol").glob("*.gz"):
        with atomic_write(folder / path.stem) as temporary:
            temporary.write_bytes(gzip.decompress(path.read_bytes()))
