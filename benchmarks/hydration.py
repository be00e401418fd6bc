"""Hydration free energy of methanol: the shipped model taken out of its water by parameters.

    python benchmarks/hydration.py [--ps 100] [--report]

The box that ships (368 TIP3P waters) at 298.15 K and 1 bar. First the charges that the model sees
fade, then the Lennard-Jones cores; what is left is the molecule in vacuum, so that there is no
second leg. Windows take turns of 2.5 ps, and the table is written after each round: stop whenever
you like, the same command goes on. Needs the extra ``engines`` and pymbar.
Charges beyond the cutoff are left out.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _output import write_table

from gnn.engines.boxes.amber import read_amber
from gnn.engines.boxes.shipped import shipped_box
from gnn.engines.classical.softcore import ELECTROSTATICS, STERICS
from gnn.engines.openmm import create_system
from gnn.units import COULOMB, DEBYE, GAS_CONSTANT, KCAL_PER_MOL, KJ_PER_MOL
from multipoles.files import atomic_write

FOLDER = Path("runs/hydration")
CHARGES = (1.0, 0.7, 0.35, 0.0)
CORES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.15, 0.0)
WINDOWS = [(charge, 1.0) for charge in CHARGES] + [(0.0, core) for core in CORES[1:]]
N, KELVIN = 6, 298.15
STEP, EVERY, TURN = 1.5e-3, 100, 1700  # ps; steps between samples; steps of a window's turn
CUTOFF = 9.0
KCAL = KCAL_PER_MOL / KJ_PER_MOL
COLUMNS = ("quantity", "value", "error", "unit")


def box_of_solute() -> tuple[Any, Any]:
    """Return force field and coordinates of the box that ships."""
    if not (FOLDER / "solute.prmtop").is_file():
        shipped_box(FOLDER)
    return read_amber(FOLDER / "solute.prmtop", FOLDER / "solute.rst7")


class Sampler:
    """One context, in which the windows take turns."""

    def __init__(self) -> None:
        import openmm
        from openmm import unit

        self.prmtop, self.start = box_of_solute()
        self.dipole = 0.0
        system = create_system(
            self.prmtop.topology, self.prmtop, range(N), watch=self._see, cutoff=CUTOFF,
            alchemical=True, electrostatics="cutoff",
        )  # fmt: skip
        for force in system.getForces():
            if force.getName().startswith("SoftCore"):
                force.setForceGroup(2)
        self._make_heavy(system)
        system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, KELVIN * unit.kelvin))
        integrator = openmm.LangevinMiddleIntegrator(KELVIN, 1.0, STEP)
        platform = openmm.Platform.getPlatformByName("CPU")
        self.context = openmm.Context(system, integrator, platform, {"Threads": "1"})

    def _see(self, output: dict[str, torch.Tensor]) -> None:
        self.dipole = float(output["dipole"][0].norm())

    def _make_heavy(self, system: Any) -> None:
        """Move mass to the solute's hydrogens: free energies know no masses, time steps do."""
        for bond in self.prmtop.topology.bonds():
            heavy, light = sorted((a for a in bond), key=lambda a: -a.element.mass._value)
            if light.index < N and light.element.symbol == "H":
                mass = system.getParticleMass(heavy.index)._value
                moved = 3.0 - system.getParticleMass(light.index)._value
                system.setParticleMass(light.index, 3.0)
                system.setParticleMass(heavy.index, mass - moved)

    def turn(self, window: int, before: dict[str, Any] | None) -> dict[str, Any]:
        """Do one turn of a window, from its own last state or another's; return its record."""
        from openmm import XmlSerializer

        own = load(window)
        self._set(*WINDOWS[window])
        if own is not None or before is not None:
            self.context.setState(XmlSerializer.deserialize(str((own or before)["state"])))
            self._set(*WINDOWS[window])  # a state brings the parameters of its own window
        else:
            self.context.setPeriodicBoxVectors(*self.start.boxVectors)
            self.context.setPositions(self.start.positions)
            self.context.setVelocitiesToTemperature(KELVIN)
        rows = []
        for _ in range(TURN // EVERY):
            self.context.getIntegrator().step(EVERY)
            rows.append(self._sample(window))
        found = np.array(rows)
        if own is not None:
            found = np.concatenate([own["energies"], found])
        state = self.context.getState(positions=True, velocities=True, parameters=True)
        record = {"state": XmlSerializer.serialize(state), "energies": found}
        with atomic_write(path_of(window)) as temporary, temporary.open("wb") as file:
            np.savez(file, **record)
        return record

    def _set(self, charge: float, core: float) -> None:
        self.context.setParameter(ELECTROSTATICS, charge)
        self.context.setParameter(STERICS, core)

    def _sample(self, window: int) -> list[float]:
        """Return energies in kJ/mol at all charges, those at all cores, and the dipole in e Å.

        Those that a window's estimate does not need are NaN.
        """
        charge, core = WINDOWS[window]
        row = [np.nan] * (len(CHARGES) + len(CORES) + 1)
        if core == 1:
            for k, value in enumerate(CHARGES):
                self.context.setParameter(ELECTROSTATICS, value)
                row[k] = self._energy(1)
                if k == 0:
                    row[-1] = self.dipole
            self.context.setParameter(ELECTROSTATICS, charge)
        if charge == 0:
            for k, value in enumerate(CORES):
                self.context.setParameter(STERICS, value)
                row[len(CHARGES) + k] = self._energy(2)
            self.context.setParameter(STERICS, core)
        return row

    def _energy(self, group: int) -> float:
        return self.context.getState(energy=True, groups={group}).getPotentialEnergy()._value


def path_of(window: int) -> Path:
    """Return the file of a window."""
    charge, core = WINDOWS[window]
    return FOLDER / f"charges_{charge:g}_cores_{core:g}.npz"


def load(window: int) -> dict[str, Any] | None:
    """Return a window's record, or None."""
    if not path_of(window).is_file():
        return None
    with np.load(path_of(window)) as file:
        return dict(file)


def leg(windows: list[int], columns: slice) -> tuple[float, float, int]:
    """Return free energy in kJ/mol from the first to the last window, its error, and samples.

    The first tenth of each window is left out, at least one turn; of the rest, samples are taken as
    far apart as their energies are correlated.
    """
    from pymbar import MBAR
    from pymbar.timeseries import statistical_inefficiency

    kt = GAS_CONSTANT * KELVIN
    energies, counts = [], []
    for place, window in enumerate(windows):
        found = load(window)["energies"][:, columns] / kt
        found = found[max(TURN // EVERY, len(found) // 10) :]
        other = place - 1 if place else 1
        inefficiency = statistical_inefficiency(found[:, other] - found[:, place])
        found = found[:: int(np.ceil(inefficiency))]
        energies.append(found.T)
        counts.append(len(found))
    estimate = MBAR(np.concatenate(energies, axis=1), counts)
    result = estimate.compute_free_energy_differences()
    error = float(result["dDelta_f"][0, -1])
    return kt * float(result["Delta_f"][0, -1]), kt * error, sum(counts)


def beyond_the_cutoff(dipole: float) -> float:
    """Return what water beyond the cutoff adds for a dipole in e Å, in kJ/mol, after Onsager.

    A sphere of the radius at which charges have half their weight, in a dielectric of water.
    """
    epsilon, radius = 78.4, CUTOFF - 0.75
    energy = -(epsilon - 1) / (2 * epsilon + 1) * COULOMB * dipole**2 / radius**3
    return energy / KJ_PER_MOL


def report() -> None:
    """Print and write free energies from what was sampled so far."""
    found = [load(window) for window in range(len(WINDOWS))]
    if any(one is None or len(one["energies"]) < 3 * (TURN // EVERY) for one in found):
        print("no estimate before three turns of every window", flush=True)
        return
    charged = list(range(len(CHARGES)))
    cored = list(range(len(CHARGES) - 1, len(WINDOWS)))
    electric, electric_error, n = leg(charged, slice(0, len(CHARGES)))
    cores, cores_error, m = leg(cored, slice(len(CHARGES), len(CHARGES) + len(CORES)))
    dipole = float(load(0)["energies"][TURN // EVERY :, -1].mean())
    total, error = -(electric + cores), float(np.hypot(electric_error, cores_error))
    far = beyond_the_cutoff(dipole)
    times = [len(load(w)["energies"]) * EVERY * STEP for w in range(len(WINDOWS))]
    rows = [
        ("hydration free energy", total / KCAL, error / KCAL, "kcal/mol"),
        ("of it charges", -electric / KCAL, electric_error / KCAL, "kcal/mol"),
        ("of it cores", -cores / KCAL, cores_error / KCAL, "kcal/mol"),
        ("Onsager's estimate of what is beyond the cutoff", far / KCAL, np.nan, "kcal/mol"),
        ("dipole in water", dipole / DEBYE, np.nan, "D"),
        ("windows", len(WINDOWS), np.nan, ""),
        ("shortest window", min(times), np.nan, "ps"),
        ("all windows", sum(times), np.nan, "ps"),
        ("samples that are independent", n + m, np.nan, ""),
    ]
    table = [(name, f"{v:.4g}", "" if np.isnan(e) else f"{e:.2g}", u) for name, v, e, u in rows]
    for row in table:
        print(f"{row[0]:<50} {row[1]:>8} {row[2]:>8} {row[3]}", flush=True)
    print(f"written: {write_table('hydration', COLUMNS, table)}", flush=True)


def main() -> None:
    """Sample, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ps", type=float, default=100.0, help="of each window")
    parser.add_argument("--report", action="store_true", help="only what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 0 if arguments.report else int(np.ceil(arguments.ps / (TURN * STEP)))
    sampler = Sampler() if rounds else None
    for done in range(1, rounds + 1):
        record, clock = None, time.perf_counter()
        turns = 0
        for window in range(len(WINDOWS)):
            own = load(window)
            if own is not None and len(own["energies"]) >= done * (TURN // EVERY):
                record = own
                continue
            record = sampler.turn(window, record)
            turns += 1
            print(f"  {path_of(window).stem}: {done} turns", flush=True)
        if turns:
            print(f"round {done}: {time.perf_counter() - clock:.0f} s", flush=True)
            report()
    if not rounds:
        report()


if __name__ == "__main__":
    main()
