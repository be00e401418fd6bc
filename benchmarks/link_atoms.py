"""Cut bonds: side chains of alanine and serine as zones of AMP-BMS, in peptides of Amber ff14SB.

    python benchmarks/link_atoms.py WEIGHTS [--part accuracy | torsion | energy]

WEIGHTS is the file ``MIN_state_dict`` of AMP-BMS. Three questions, a table each in results/:

- accuracy: how well do models compute a zone whose link atom has charges of the frontier close by?
  Energies and forces of frames at 300 K beside PySCF, with the same link atom and charges.
- torsion: what does the frontier cost? Torsions about and next to the cut bond beside the same
  model for the whole molecule.
- energy: is the energy of a run conserved? Without a thermostat, in vacuum and in TIP4P-Ew water.

Needs the extras ``engines`` and ``data``.
"""

import argparse
import itertools
import pickle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openmm
import torch
from _output import pyplot, write_picture, write_table
from openmm import app, unit

from gnn import System, load_model
from gnn.data.making.labelling import label
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.frontier import SCHEMES
from gnn.engines.openmm import create_system
from gnn.published import load_amp_bms
from gnn.units import KJ_PER_MOL, NANOMETER

DATA = Path(__file__).resolve().parent / "data"
ZONES = {"ala": range(10, 14), "ser": range(10, 15)}
FORCE_FIELD = ("amber14-all.xml", "amber14/tip4pew.xml")
LEVELS = ("B3LYP/6-31G*", "wB97X/def2-TZVP")
TORSIONS = {  # peptide, atoms, periods in a turn
    "alanine's methyl (about the cut bond)": ("ala", (6, 8, 10, 11), 3),
    "serine's χ1 (about the cut bond)": ("ser", (6, 8, 10, 13), 1),
    "serine's χ2 (next to it)": ("ser", (8, 10, 13, 14), 1),
}
STEP = 15  # degrees


def peptide(name: str) -> app.PDBFile:
    return app.PDBFile(str(DATA / f"ace_{name}_nme.pdb"))


def context_of(system: openmm.System, positions: Any, step: float = 0.5) -> openmm.Context:
    """Return a context with positions in nm or with a unit; the integrator has steps in fs."""
    integrator = openmm.VerletIntegrator(step * unit.femtosecond)
    integrator.setConstraintTolerance(1e-8)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(positions)
    return context


def embedding_of(system: openmm.System) -> Embedding:
    """Return the zone and its surroundings in a system; a new one, to be evaluated by itself."""
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.PythonForce))
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(force))
    embedding: Embedding = pickle.loads(bytes.fromhex(root.attrib["function"])).embedding
    return embedding


# --- accuracy -------------------------------------------------------------------------------------


def frames_of(pdb: app.PDBFile, count: int) -> list[np.ndarray]:
    """Return positions in Å of a classical run at 300 K in vacuum, 2 ps apart."""
    system = app.ForceField(*FORCE_FIELD).createSystem(pdb.topology)
    integrator = openmm.LangevinMiddleIntegrator(300, 2, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(pdb.positions)
    context.setVelocitiesToTemperature(300, 1)
    found = []
    for _ in range(count):
        integrator.step(4000)
        state = context.getState(positions=True)
        found.append(state.getPositions(asNumpy=True)._value * NANOMETER)
    return found


def accuracy(models: dict[str, Any], count: int) -> list[dict[str, Any]]:
    rows = []
    for (name, zone), scheme in itertools.product(ZONES.items(), SCHEMES):
        pdb = peptide(name)
        frames = frames_of(pdb, count)
        embeddings = {}
        for called, model in models.items():
            system = create_system(
                pdb.topology, app.ForceField(*FORCE_FIELD), zone, model,
                link_scheme=scheme, dtype=torch.float64,
            )  # fmt: skip
            embeddings[called] = embedding_of(system)
        systems = [system_of(embedding, x) for x in frames for embedding in [embeddings["amp-bms"]]]
        alone = [System(s.numbers, s.positions, s.charge) for s in systems]
        for level in LEVELS:
            found = [label(s, level, density_fit=True)[0] for s in systems]
            vacuum = [label(s, level, density_fit=True)[0]["energy"] for s in alone]
            for called, embedding in embeddings.items():
                model = embedding.model
                ours = model.evaluate(systems)
                free = [one["energy"] for one in model.evaluate(alone)]
                row = errors(ours, found, free, vacuum)
                rows.append({"zone": name, "scheme": scheme, "model": called, "level": level} | row)
                print(rows[-1], flush=True)
    return rows


def system_of(embedding: Embedding, positions: np.ndarray) -> System:
    """Return the zone with its link atoms, in the charges as the model sees them."""
    atoms, near, _ = embedding.placed(positions, None)
    charges = embedding.surroundings.charges[near.sites] * near.weights
    return System(embedding.zone.numbers, atoms, embedding.zone.charge, near.points, charges)


def errors(ours: list, theirs: list, free: list, vacuum: list) -> dict[str, float]:
    """Return errors over frames: of relative energies, forces, and of what the charges do."""
    energy = np.array([a["energy"] - b["energy"] for a, b in zip(ours, theirs, strict=True)])
    shift = energy - (np.array(free) - np.array(vacuum))
    forces = np.concatenate([a["forces"] - b["forces"] for a, b in zip(ours, theirs, strict=True)])
    size = np.concatenate([b["forces"] for b in theirs])
    embedding = np.array([b["energy"] for b in theirs]) - vacuum
    return {
        "energy_rmse_kj_mol": float(np.std(energy)) / KJ_PER_MOL,
        "force_rmse_mev_angstrom": 1e3 * float(np.sqrt((forces**2).mean())),
        "force_rms_mev_angstrom": 1e3 * float(np.sqrt((size**2).mean())),
        "embedding_mean_kj_mol": float(embedding.mean()) / KJ_PER_MOL,
        "embedding_rmse_kj_mol": float(np.sqrt((shift**2).mean())) / KJ_PER_MOL,
    }


# --- torsions -------------------------------------------------------------------------------------


def relaxed(pdb: app.PDBFile, atoms: tuple[int, ...], angle: float) -> np.ndarray:
    """Return positions in nm, relaxed by the force field with a torsion held, in degrees."""
    system = app.ForceField(*FORCE_FIELD).createSystem(pdb.topology)
    hold = openmm.CustomTorsionForce("5000*(1 - cos(theta - wanted))")
    hold.addPerTorsionParameter("wanted")
    hold.addTorsion(*atoms, [np.deg2rad(angle)])
    system.addForce(hold)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(pdb.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 0.1)
    return context.getState(positions=True).getPositions(asNumpy=True)._value


def torsions(model: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, curves = [], {}
    for called, (name, atoms, periods) in TORSIONS.items():
        pdb = peptide(name)
        field = app.ForceField(*FORCE_FIELD)
        angles = np.arange(0, 360 // periods, STEP / periods)
        places = [relaxed(pdb, atoms, angle) for angle in angles]
        every = range(pdb.topology.getNumAtoms())
        systems = {"force field": field.createSystem(pdb.topology)}
        options = {"model": model, "dtype": torch.float64, "cutoff": 30.0}
        systems["whole molecule"] = create_system(pdb.topology, field, every, **options)
        for scheme in SCHEMES:
            systems[scheme] = create_system(
                pdb.topology, field, ZONES[name], link_scheme=scheme, **options
            )
        energies = {kind: scan(system, places) for kind, system in systems.items()}
        exact = reference_scan(systems["shift"], places)
        energies[f"shift, {LEVELS[0]}"] = exact
        curves[called] = (angles, energies)
        for kind, curve in energies.items():
            rows.append(
                {
                    "torsion": called,
                    "energy": kind,
                    "range_kj_mol": float(np.ptp(curve)),
                    "rms_from_whole_kj_mol": rms(curve - energies["whole molecule"]),
                    "rms_from_shift_by_pyscf_kj_mol": rms(curve - exact),
                }
            )
            print(rows[-1], flush=True)
    return rows, curves


def rms(curve: np.ndarray) -> float:
    """Return the root mean square about the mean."""
    return float(np.std(curve))


def scan(system: openmm.System, places: list[np.ndarray]) -> np.ndarray:
    context = context_of(system, places[0])
    found = []
    for place in places:
        context.setPositions(place)
        found.append(context.getState(energy=True).getPotentialEnergy()._value)
    return np.array(found)


def reference_scan(system: openmm.System, places: list[np.ndarray]) -> np.ndarray:
    """Return the same energies with quantum chemistry in place of the model."""
    embedding, context = embedding_of(system), context_of(system, places[0])
    found = []
    for place in places:
        context.setPositions(place)
        rest = context.getState(energy=True, groups={0}).getPotentialEnergy()._value
        zone = system_of(embedding, place * NANOMETER)
        labels, _ = label(zone, LEVELS[0], density_fit=True)
        found.append(rest + labels["energy"] / KJ_PER_MOL)
    return np.array(found)


def draw(curves: dict[str, Any]) -> None:
    plt = pyplot()
    if plt is None:
        return
    shown = ("whole molecule", "shift", "rcd", "force field")
    figure, axes = plt.subplots(1, len(curves), figsize=(11, 3.4), constrained_layout=True)
    for axis, (called, (angles, energies)) in zip(axes, curves.items(), strict=True):
        for kind, style in zip(shown, ("k-", "C0-", "C1--", "C7:"), strict=True):
            axis.plot(angles, energies[kind] - energies[kind].mean(), style, label=kind)
        axis.set(title=called, xlabel="degrees")
    axes[0].set_ylabel("energy less its mean (kJ/mol)")
    axes[0].legend(frameon=False, fontsize=8)
    write_picture("link_atoms", figure)


# --- conservation ---------------------------------------------------------------------------------


def conservation(model: Any, picoseconds: float) -> list[dict[str, Any]]:
    rows = []
    for called, water in (("vacuum", False), ("TIP4P-Ew water", True)):
        pdb, field = peptide("ser"), app.ForceField(*FORCE_FIELD)
        modeller = app.Modeller(pdb.topology, pdb.positions)
        options: dict[str, Any] = {"constraints": app.HBonds}
        if water:
            modeller.addSolvent(field, model="tip4pew", boxSize=openmm.Vec3(2.2, 2.2, 2.2))
            options |= {"ewaldErrorTolerance": 1e-6}
        system = create_system(
            modeller.topology, field, ZONES["ser"], model, link_scheme="shift",
            dtype=torch.float64, **options,
        )  # fmt: skip
        positions = minimised(field.createSystem(modeller.topology), modeller.positions)
        rows.append({"surroundings": called} | drift(system, positions, picoseconds))
        print(rows[-1], flush=True)
    return rows


def minimised(system: openmm.System, positions: Any) -> Any:
    context = context_of(system, positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    return context.getState(positions=True).getPositions()


def drift(system: openmm.System, positions: Any, picoseconds: float) -> dict[str, float]:
    """Return fluctuation and drift of the energy in steps of 0.5 fs, after 0.5 ps at 300 K."""
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    platform = openmm.Platform.getPlatformByName("CPU")
    warm = openmm.Context(system, integrator, platform, {"Threads": "1"})
    warm.setPositions(positions)
    warm.setVelocitiesToTemperature(300, 1)
    integrator.step(1000)
    state = warm.getState(positions=True, velocities=True)
    context = context_of(system, state.getPositions())
    context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
    context.setVelocities(state.getVelocities())
    times, energies, kinetic = [], [], []
    for _ in range(int(picoseconds * 100)):
        context.getIntegrator().step(20)
        now = context.getState(energy=True)
        times.append(now.getTime()._value)
        kinetic.append(now.getKineticEnergy()._value)
        energies.append(now.getPotentialEnergy()._value + kinetic[-1])
    free = sum(system.getParticleMass(i)._value > 0 for i in range(system.getNumParticles()))
    degrees = 3 * free - system.getNumConstraints()
    (slope, _), spread = np.polyfit(times, energies, 1, cov=True)
    scale = 1e3 / (degrees * 0.0083145 * 300)
    return {
        "ps": picoseconds,
        "degrees_of_freedom": degrees,
        "energy_std_kj_mol": np.std(energies),
        "kinetic_std_kj_mol": np.std(kinetic),
        "drift_kt_per_dof_ns": slope * scale,
        "drift_error": np.sqrt(spread[0, 0]) * scale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="the file MIN_state_dict of AMP-BMS")
    parser.add_argument("--part", choices=("accuracy", "torsion", "energy"))
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--ps", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    published, shipped = load_amp_bms(arguments.weights).double(), load_model().double()
    tables: dict[str, list[dict[str, Any]]] = {}
    if arguments.part in (None, "torsion"):
        tables["torsion"], curves = torsions(published)
        draw(curves)
    if arguments.part in (None, "accuracy"):
        both = {"amp-bms": published, "shipped": shipped}
        tables["accuracy"] = accuracy(both, arguments.frames)
    if arguments.part in (None, "energy"):
        tables["energy"] = conservation(published, arguments.ps)
    for part, rows in tables.items():
        print("written:", write_table(f"link_atoms_{part}", list(rows[0]), rows))


if __name__ == "__main__":
    main()
