"""Diagnosis of runs that fail, and warnings before: broken molecules, too long a time step."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.boxes.box import set_vectors
from gnn.engines.embedding.embedding import APART, longest_bond
from gnn.engines.embedding.images import Array, Tree, nearest_image
from gnn.engines.runs.box import in_angstrom, masses, temperature
from multipoles.files import atomic_write

_HYDROGEN = 9.0, 16 / 17  # fs and Da: period and reduced mass of the fastest X–H stretch (O–H)
_HEAVY = 19.0, 48 / 7  # the same of a fast bond without hydrogen (C=O)
_STEPS_PER_PERIOD = 8


def longest_bond_of(run: Any, positions: Array, box: Array) -> tuple[str, float]:
    """Return the most stretched bond of the solute, in words, and its length over the usual one.

    Parameters
    ----------
    run : gnn.engines.runs.dynamics.Run
        Knows the bonds.
    positions, box
        (n, 3) and (3, 3) in Å.
    """
    if not run.qm_bonds:
        return "", 0.0
    ends = np.array([(first.index, second.index) for first, second in run.qm_bonds])
    numbers = np.array([[atom.element.atomic_number for atom in bond] for bond in run.qm_bonds])
    vectors = nearest_image(positions[ends[:, 0]] - positions[ends[:, 1]], box)
    length, ratio, k = longest_bond(numbers, np.stack([vectors, np.zeros_like(vectors)], 1))
    first, second = run.qm_bonds[k]
    name = f"{first.name}–{second.name} (atoms {first.index} and {second.index})"
    return f"{name} of {length:.2f} Å", ratio


def explain(
    run: Any, simulation: Any, reason: str, kind: type[ValueError] = ValueError
) -> ValueError:
    """Return the error of a run that cannot go on, in one line; its last frame is in a file.

    Parameters
    ----------
    run : gnn.engines.runs.dynamics.Run
        With the positions (n, 3) and box (3, 3) in Å recorded last.
    simulation : openmm.app.Simulation
        As it was left.
    reason
        What OpenMM, the model or the run itself complained of.
    kind
        Of the error.
    """
    state = simulation.context.getState(positions=True, velocities=True, enforcePeriodicBox=True)
    positions, box = in_angstrom(state)
    velocities = np.asarray(state.getVelocities(asNumpy=True)._value)
    step = simulation.context.getStepCount()
    notes, which = [f"step {step}"], f"step {step}"
    if np.isfinite(velocities).all() and velocities.any():
        # Da nm²/ps² are kJ/mol
        kinetic = 0.5 * float(masses(simulation.system) @ (velocities**2).sum(axis=1))
        notes.append(f"{temperature(kinetic, run.degrees_of_freedom):.0f} K")
    lost = not np.isfinite(positions).all()
    if lost:
        which = "the frame recorded last"
        positions, box = run.last_frame
    bond, ratio = longest_bond_of(run, positions, box)
    broken = ratio > APART
    if bond:
        notes.append(f"longest bond of the molecule {bond}")
    if broken:
        reason = "the molecule has fallen apart"
    if broken or lost:
        reason += (
            f" (a time step of {run.settings.timestep:g} fs too long, a start structure under "
            "strain, or a geometry that the model does not know?)"
        )
    path = run.folder / "failed.pdb"
    write_pdb(path, run.topology, positions, box, run.zone_tree)
    return kind(f"the run stopped at {', '.join(notes)}: {reason}; {which} is in {path}")


def write_pdb(path: Path, topology: Any, positions: Array, box: Array, tree: Tree) -> None:
    """Write positions (n, 3) and box in Å to a PDB file, whole along a tree of bonds."""
    from openmm import app

    moved = positions.copy()
    if np.isfinite(positions).all():
        moved = tree.whole(positions, box)
    moved = np.clip(moved, -999.0, 9999.0)  # the range of the format
    set_vectors(topology, box)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        app.PDBFile.writeFile(topology, moved, file, keepIds=True)


# --- before it goes wrong -------------------------------------------------------------------------


def longest_step(topology: Any, system: Any) -> tuple[float, float] | None:
    """Return the longest time step and the period of the fastest bond in fs; None without bonds.

    Bonds that are constrained do not count; masses are those of the system, so that repartitioned
    hydrogen counts with what it weighs.

    Parameters
    ----------
    topology : openmm.app.Topology
        Its bonds.
    system : openmm.System
        Its masses and constraints.
    """
    fixed = set()
    for i in range(system.getNumConstraints()):
        fixed.add(frozenset(system.getConstraintParameters(i)[:2]))
    periods = []
    for first, second in topology.bonds():
        ends = [system.getParticleMass(atom.index)._value for atom in (first, second)]
        if frozenset((first.index, second.index)) in fixed or min(ends) <= 0:
            continue
        reduced = ends[0] * ends[1] / sum(ends)
        light = any(a.element is not None and a.element.symbol in "HD" for a in (first, second))
        period, usual = _HYDROGEN if light else _HEAVY
        periods.append(period * np.sqrt(reduced / usual))
    return (min(periods) / _STEPS_PER_PERIOD, min(periods)) if periods else None


def warn_of_step(topology: Any, system: Any, timestep: float) -> None:
    """Warn where the time step in fs is too long for the fastest bond that is free to stretch."""
    limits = longest_step(topology, system)
    if limits is None or timestep <= limits[0] * 1.005:
        return
    limit, period = limits
    warnings.warn(
        f"a time step of {timestep:g} fs is too long: the fastest bond stretches with a period of "
        f"about {period:.1f} fs (hydrogen of QM atoms is never constrained), which wants "
        f"{_STEPS_PER_PERIOD} steps or more; use --timestep {np.floor(10 * limit) / 10:g} or less, "
        "or heavier hydrogen (--hydrogen-mass 3)",
        stacklevel=2,
    )
