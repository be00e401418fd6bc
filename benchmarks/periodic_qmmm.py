"""Periodic electrostatics of a zone: ions in boxes of several sizes, drift, cost, density.

    python benchmarks/periodic_qmmm.py [ions] [drift] [cost] [density] [--ps 6] [--frames 40]

*ions*: acetate and methylammonium, frozen in cubes of TIP3P water that a classical run samples;
the shipped model gives the energy of each frame, with all charges and images and with a cutoff.
*drift*: methanol in water without a thermostat. *cost*: what a step of this box, and one of a large
zone, spend on sums over images. *density*: methanol in water at 1 bar, with the model and without.
Each part replaces its own rows of results/periodic_qmmm.csv. Needs the extra ``engines``.
"""

import argparse
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _output import pyplot, read_table, write_picture, write_table

from gnn import System, load_model
from gnn.data.shipped import load_shipped
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.topology import surroundings_of, zone_of
from gnn.engines.openmm import create_system
from gnn.engines.runs.analysis import energy_drift, read_log
from gnn.engines.runs.box import shipped_box
from gnn.engines.runs.dynamics import Run
from gnn.engines.runs.settings import Settings

NAME = "periodic_qmmm"
COLUMNS = ("part", "system", "box_angstrom", "quantity", "value", "error", "unit")
FOLDER = Path("runs/periodic_qmmm")
EDGES = (20.0, 25.0, 32.0, 45.0)  # Å
#: Lennard-Jones parameters (nm, kJ/mol) of Amber: by element, charge, and whether on the pole.
SIZES = {6: (0.340, 0.36), 7: (0.325, 0.711), 8: (0.296, 0.879), 1: (0.25, 0.066)}
POLAR = (0.107, 0.066)  # of hydrogen on nitrogen
STEP, BETWEEN, SETTLING = 0.004, 100, 1000  # ps; steps between frames, and before the first


# --- ions -----------------------------------------------------------------------------------------


def ion(name: str) -> System:
    """Return an ion by itself, as it is in the first of its frames that ship."""
    frame = load_shipped([name])[0]
    system = frame.system
    return System(system.numbers, system.positions - system.positions.mean(0), system.charge)


def box_of(alone: System, charges: np.ndarray, edge: float) -> tuple[Any, Any, np.ndarray]:
    """Return topology, system and positions (Å) of an ion that stays in the middle of water."""
    import openmm
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("ION", topology.addChain())
    for number in alone.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    atoms = list(topology.atoms())
    for i, j in combinations(range(len(atoms)), 2):
        longest = 1.3 if 1 in (alone.numbers[i], alone.numbers[j]) else 1.7
        if np.linalg.norm(alone.positions[i] - alone.positions[j]) < longest:
            topology.addBond(atoms[i], atoms[j])
    positions = (alone.positions + edge / 2) * unit.angstrom
    modeller = app.Modeller(topology, positions)
    field = app.ForceField("tip3p.xml")
    # the ion has no template: a box of water, without what is on its place
    water = app.Modeller(app.Topology(), [] * unit.angstrom)
    water.addSolvent(field, boxSize=openmm.Vec3(*[edge / 10] * 3), neutralize=False)
    places = np.array(water.positions.value_in_unit(unit.angstrom)).reshape(-1, 3, 3)
    apart = np.linalg.norm(places[:, :1] - (alone.positions + edge / 2), axis=2).min(1)
    residues = list(water.topology.residues())
    water.delete([r for r, near in zip(residues, apart < 2.6, strict=True) if near])
    system = field.createSystem(
        water.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer
    )
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    first, n_water = system.getNumParticles(), system.getNumParticles()
    for number, charge in zip(alone.numbers, charges, strict=True):
        system.addParticle(0.0)
        polar = number == 1 and alone.charge > 0
        force.addParticle(float(charge), *(POLAR if polar else SIZES[int(number)]))
    for i in range(len(charges)):
        for j in range(i):
            force.addException(first + i, first + j, 0.0, 0.1, 0.0)
    water.add(modeller.topology, modeller.positions)
    x = np.array(water.positions.value_in_unit(unit.angstrom))
    assert len(x) == n_water + len(charges)
    return water.topology, system, x


def frames_of(system: Any, positions: np.ndarray, count: int, seed: int) -> Any:
    """Yield positions in Å of a classical run at 300 K."""
    import openmm
    from openmm import unit

    integrator = openmm.LangevinMiddleIntegrator(300, 5 / unit.picosecond, STEP)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(0.1 * positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(300, seed)
    integrator.step(SETTLING)
    for _ in range(count):
        integrator.step(BETWEEN)
        yield 10 * np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)


def energies(embedding: Embedding, x: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """Return the energy of a frame in eV, and what of it is of the zone with its own images."""
    placed = embedding.placed(x, box)
    seen = embedding.surroundings.charges[placed.near.sites] * placed.near.weights
    far = embedding._around(placed, seen, box)
    batch = embedding._batch(placed, seen, far)
    output = embedding.evaluate(batch)
    if far is None:
        return float(output["energy"].detach()), 0.0
    from gnn.outputs import energy_between

    return float(output["energy"].detach()), float(energy_between(batch, output).detach())


def ions(frames: int) -> list[tuple]:
    """Return the solvation energies of two ions in boxes of several sizes."""
    rows, model = [], load_model().double().requires_grad_(False)
    for name in ("oac", "mam"):
        alone = ion(name)
        vacuum = model.evaluate([alone])[0]
        for edge in EDGES:
            topology, system, start = box_of(alone, vacuum["charges"], edge)
            n, box = len(start) - len(alone.numbers), edge * np.eye(3)
            qm = list(range(n, len(start)))
            zone = zone_of(topology, qm, alone.charge, None, local=True)
            charges = np.concatenate([np.tile([-0.834, 0.417, 0.417], n // 3), vacuum["charges"]])
            around = surroundings_of(topology, set(qm), charges)
            all_of, cut = (Embedding(model, zone, around, 8.0, periodic=p) for p in (True, False))
            found = np.array(
                [
                    (*energies(all_of, x, box), energies(cut, x, box)[0])
                    for x in frames_of(system, start, frames, seed=1)
                ]
            )
            found[:, (0, 2)] -= vacuum["energy"]
            water, images = found[:, 0] - found[:, 1], found[:, 1]
            error = 0.5 * deviation_of_mean(water)
            for quantity, values, e in (
                ("solvation, all charges and images", 0.5 * water + images, error),
                ("solvation, all charges, own images left out", 0.5 * water, error),
                ("solvation, cutoff", 0.5 * found[:, 2], 0.5 * deviation_of_mean(found[:, 2])),
            ):
                rows.append(
                    ("ions", name, edge, quantity, f"{values.mean():.4f}", f"{e:.4f}", "eV")
                )
                print(*rows[-1], flush=True)
    return rows


def deviation_of_mean(values: np.ndarray, blocks: int = 8) -> float:
    """Return the standard deviation of a mean, from means of blocks."""
    means = [block.mean() for block in np.array_split(values, blocks)]
    return float(np.std(means, ddof=1) / np.sqrt(blocks))


# --- methanol in water ----------------------------------------------------------------------------


def run_of(name: str, settings: Settings) -> Run:
    """Do a run of the box that ships, or what is missing of it."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "solute.prmtop").is_file():
        shipped_box(folder)
    run = Run(folder, settings)
    run.run(resume=run.checkpoint.is_file())
    return run


def drift(ps: float) -> list[tuple]:
    """Return the drift of the energy without a thermostat."""
    steps = int(2000 * ps)
    settings = Settings(
        steps=steps, ensemble="nve", precision="float64", interval=20, checkpoint_interval=200,
        equilibration=0, threads=1,
    )  # fmt: skip
    run = run_of("nve", settings)
    log = read_log(run.log)
    slope, error = energy_drift(log, run.degrees_of_freedom, 300.0)
    late = log["total_kj_mol"][len(log["total_kj_mol"]) // 10 :]
    system = "methanol in 368 waters", ""
    return [
        ("drift", *system, f"drift in {ps:g} ps", f"{slope:.2e}", f"{error:.1e}", "kT/dof/ns"),
        ("drift", *system, "standard deviation", f"{late.std():.3g}", "", "kJ/mol"),
    ]


def density(ps: float) -> list[tuple]:
    """Return the density at 1 bar with the model and with the force field."""
    rows = []
    for name in ("qmmm", "classical"):
        settings = Settings(
            steps=int(1000 * ps), timestep=1.0, ensemble="npt", classical=name == "classical",
            interval=50, checkpoint_interval=500, equilibration=0, threads=1,
        )  # fmt: skip
        values = read_log(run_of(f"npt_{name}", settings).log)["density_g_ml"]
        late = values[len(values) // 3 :]
        mean, error = f"{late.mean():.4f}", f"{deviation_of_mean(late, 5):.4f}"
        rows.append(("density", "methanol in 368 waters", "", name, mean, error, "g/ml"))
        print(*rows[-1], flush=True)
    return rows


# --- cost -----------------------------------------------------------------------------------------


def cost() -> list[tuple]:
    """Return what a step spends on sums over images: of methanol, and of a large zone."""
    import openmm
    from openmm import app, unit

    folder = Path(tempfile.mkdtemp())
    shipped_box(folder)
    prmtop = app.AmberPrmtopFile(str(folder / "solute.prmtop"))
    start = app.AmberInpcrdFile(str(folder / "solute.rst7"))
    prmtop.topology.setPeriodicBoxVectors(start.boxVectors)
    contexts = {}
    for kind in ("periodic", "cutoff"):
        system = create_system(
            prmtop.topology, prmtop, range(6), load_model(), electrostatics=kind,
            ewaldErrorTolerance=1e-5,
        )  # fmt: skip
        integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.5 * unit.femtosecond)
        platform = openmm.Platform.getPlatformByName("CPU")
        context = openmm.Context(system, integrator, platform, {"Threads": "1"})
        context.setPeriodicBoxVectors(*start.boxVectors)
        context.setPositions(start.positions)
        context.setVelocitiesToTemperature(300, 1)
        integrator.step(20)
        contexts[kind] = integrator, context
    times: dict[str, list[float]] = {kind: [] for kind in contexts}
    for _ in range(60):  # by turns: whatever else the machine does happens to both
        for kind, (integrator, _) in contexts.items():
            begun = time.perf_counter()
            integrator.step(5)
            times[kind].append(200 * (time.perf_counter() - begun))
    found = {kind: float(np.median(values)) for kind, values in times.items()}
    rows = [
        ("cost", "methanol in 368 waters", "", f"step, {kind}", f"{ms:.2f}", "", "ms")
        for kind, ms in found.items()
    ]
    share = np.median(1 - np.array(times["cutoff"]) / np.array(times["periodic"]))
    rows.append(("cost", "methanol in 368 waters", "", "share", f"{100 * share:.0f}", "", "%"))
    return [*rows, *large_zone(600, 13_000)]


def large_zone(atoms: int, charges: int) -> list[tuple]:
    """Return the time of the sums for a zone as large as a small protein, in water."""
    from gnn.engines.embedding.periodic import FarField

    rng = np.random.default_rng(0)
    edge = (charges / 0.1) ** (1 / 3)
    radius = (3 * atoms / (4 * np.pi * 0.1)) ** (1 / 3)
    sites = rng.uniform(-edge / 2, edge / 2, (charges, 3))
    x = rng.standard_normal((atoms, 3))
    x *= (radius * rng.random(atoms) ** (1 / 3) / np.linalg.norm(x, axis=1))[:, None]
    q = np.tile([-0.8, 0.4, 0.4], charges // 3 + 1)[:charges]
    near = np.flatnonzero(np.linalg.norm(sites, axis=1) < radius + 9)
    far, box = FarField(q), edge * np.eye(3)
    moments, times = 0.1 * rng.standard_normal((atoms, 10)), []
    for _ in range(8):
        begun = time.perf_counter()
        around = far.around(x, sites, (sites[near], q[near]), box)
        around.field()
        first = time.perf_counter()
        around.of_images(x, moments)
        second = time.perf_counter()
        around.reaction(moments)
        times.append(np.diff([begun, first, second, time.perf_counter()]))
    least = 1e3 * np.min(times, axis=0)
    system = f"{atoms} atoms, {charges} charges"
    return [
        ("cost", system, f"{edge:.0f}", quantity, f"{ms:.0f}", "", "ms")
        for quantity, ms in zip(("field", "own images", "reaction"), least, strict=True)
    ]


def picture() -> None:
    """Draw the ions' energies over the size of the box."""
    plt = pyplot()
    rows = [row for row in read_table(NAME) if row["part"] == "ions"]
    if plt is None or not rows:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    titles = {"oac": "acetate", "mam": "methylammonium"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for quantity in dict.fromkeys(row["quantity"] for row in rows):
            chosen = [r for r in rows if r["system"] == name and r["quantity"] == quantity]
            x, y, e = (
                [float(r[key]) for r in chosen] for key in ("box_angstrom", "value", "error")
            )
            label = quantity.removeprefix("solvation, ")
            axis.errorbar(x, y, e, marker="o", capsize=3, label=label)
        axis.set(title=title, xlabel="edge of the box / Å", ylabel="solvation energy / eV")
    labels = axes[0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(*labels, fontsize=8, loc="lower center", ncols=3)
    write_picture(NAME, figure)


def main() -> None:
    """Do the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--ps", type=float, default=6.0)
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers = {
        "ions": lambda: ions(arguments.frames),
        "drift": lambda: drift(arguments.ps),
        "cost": cost,
        "density": lambda: density(arguments.ps),
    }
    for part in arguments.parts or makers:
        new = makers[part]()
        kept = [row for row in read_table(NAME) if row["part"] != part]
        write_table(NAME, COLUMNS, [*kept, *(dict(zip(COLUMNS, row, strict=True)) for row in new)])
        for row in new:
            print(*row)
    picture()


if __name__ == "__main__":
    main()
