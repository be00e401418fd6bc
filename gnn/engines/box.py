"""The box of a molecular-dynamics run: the one that ships, its equilibration, where it runs."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gnn.data.common import write_atomically
from gnn.engines.settings import Settings


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


def degrees_of_freedom(system: Any) -> int:
    """Return 3 for each particle with mass, less the constraints and the motion of the centre."""
    import openmm

    massive = sum(system.getParticleMass(i)._value > 0 for i in range(system.getNumParticles()))
    centre = any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    return 3 * massive - system.getNumConstraints() - 3 * centre


def equilibrated(
    path: Path, prmtop: Any, start: Any, settings: Settings, say: Callable[[str], None]
) -> str:
    """Return the state (XML) of a box after classical equilibration, kept in a file.

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
    """
    import openmm
    from openmm import app, unit

    if path.is_file():
        return path.read_text(encoding="utf-8")
    if settings.equilibration:
        say(f"equilibrating with the force field, {settings.equilibration:g} ps at 1 bar")
    system = prmtop.createSystem(
        nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, rigidWater=True
    )
    kelvin = settings.temperature * unit.kelvin
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, kelvin)
    barostat.setRandomNumberSeed(settings.seed + 1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 2 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(settings.seed + 1)
    fastest = replace(settings, platform=None)
    simulation = app.Simulation(prmtop.topology, system, integrator, *platform_of(fastest))
    simulation.context.setPositions(start.positions)
    if settings.equilibration:
        simulation.minimizeEnergy(maxIterations=300)
    simulation.context.setVelocitiesToTemperature(kelvin, settings.seed + 1)
    simulation.step(round(settings.equilibration * 1000))
    state = simulation.context.getState(positions=True, velocities=True)
    text = openmm.XmlSerializer.serialize(state)
    write_atomically(path, partial(_write_bytes, text.encode()))
    return text


def shipped_box(folder: Path) -> None:
    """Put methanol in 368 TIP3P waters, equilibrated (GAFF2, AM1-BCC), into a folder."""
    for path in (Path(__file__).parent / "methanol").glob("*.gz"):
        content = gzip.decompress(path.read_bytes())
        write_atomically(folder / path.stem, partial(_write_bytes, content))


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
