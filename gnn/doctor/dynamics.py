"""A short run of molecular dynamics at constant energy, along which the energy should stay."""

from dataclasses import dataclass

import numpy as np

from gnn.data.systems import System
from gnn.doctor.findings import FAIL, Finding, judged
from gnn.doctor.patient import Array, Patient, alone, changed, derivatives, surrounded
from gnn.training.report.metrics import frame_name
from gnn.units import GAS_CONSTANT, KJ_PER_MOL

TIMESTEP = 0.5  # fs
TEMPERATURE = 300.0  # K
DRIFT = 5.0  # meV per atom and ps
FLUCTUATION = 1.0  # meV per atom, root mean square
_STEPS, _STEPS_FULL = 400, 4000
_INERTIA = 1e4 * KJ_PER_MOL  # eV of 1 Da (Å/fs)²


@dataclass(frozen=True, eq=False)
class Run:
    """The total energy of a molecule along a run.

    Attributes
    ----------
    label
        The molecule, and whether it is alone.
    times
        In fs.
    energies
        Change of the total energy in meV per atom.
    """

    label: str
    times: Array
    energies: Array

    def drift(self) -> float:
        """Return the slope of the energy in meV per atom and ps."""
        return float(1e3 * np.polyfit(self.times, self.energies, 1)[0])

    def fluctuation(self) -> float:
        """Return the root mean square of the energy about its mean, in meV per atom."""
        return float(self.energies.std())


def runs(patient: Patient) -> list[Run]:
    """Return runs of all molecules: alone, or in their surroundings at rest if there is time."""
    prepare, where = (surrounded, "in charges") if patient.full else (alone, "alone")
    systems = [prepare(frame.system) for frame in patient.frames]
    # the energy of any masses stays; these are near the true ones
    masses = [_INERTIA * np.where(s.numbers == 1, 1.0, 2.0 * s.numbers)[:, None] for s in systems]
    random = np.random.default_rng(5)
    velocities = [_thermal(m, random) for m in masses]
    found = derivatives(patient.model, systems)
    energies = []
    for _ in range(_STEPS_FULL if patient.full else _STEPS):
        for k, system in enumerate(systems):
            velocities[k] = velocities[k] + 0.5 * TIMESTEP * found[k][1] / masses[k]
            systems[k] = _step(system, velocities[k])
        found = derivatives(patient.model, systems)
        for k, mass in enumerate(masses):
            velocities[k] = velocities[k] + 0.5 * TIMESTEP * found[k][1] / mass
        kinetic = [0.5 * (m * v**2).sum() for m, v in zip(masses, velocities, strict=True)]
        energies.append([e + t for (e, _, _), t in zip(found, kinetic, strict=True)])
    total: Array = 1e3 * (np.array(energies) - energies[0]).T
    times: Array = TIMESTEP * np.arange(1.0, len(energies) + 1)
    return [
        Run(f"{frame_name(frame)} {where}", times, energy / frame.system.n_atoms)
        for frame, energy in zip(patient.frames, total, strict=True)
    ]


def _thermal(masses: Array, random: np.random.Generator) -> Array:
    """Return velocities in Å/fs at the temperature, without a total momentum."""
    thermal = GAS_CONSTANT * KJ_PER_MOL * TEMPERATURE
    drawn = random.standard_normal((len(masses), 3)) * np.sqrt(thermal / masses)
    return np.asarray(drawn - (masses * drawn).sum(0) / masses.sum())


def _step(system: System, velocities: Array) -> System:
    return changed(system, positions=system.positions + TIMESTEP * velocities)


def conservation(found: list[Run]) -> list[Finding]:
    """Return the worst drift and the worst fluctuation of some runs."""
    findings = []
    for check, unit, limit, measure in (
        ("energy drift in MD", "meV/atom/ps", DRIFT, Run.drift),
        ("energy fluctuation in MD", "meV/atom", FLUCTUATION, Run.fluctuation),
    ):
        worst = max(found, key=lambda run: np.nan_to_num(abs(measure(run)), nan=np.inf))
        remark = f"{worst.label}, {worst.times[-1]:g} fs at {TIMESTEP:g} fs"
        findings.append(judged(check, abs(measure(worst)), unit, limit, remark, FAIL))
    return findings
