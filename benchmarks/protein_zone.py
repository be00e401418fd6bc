"""A whole protein as the model's zone: what a step costs, energy conservation, and a run.

    python benchmarks/protein_zone.py make | cost | nve | nvt  [--protein villin] [--model amp-bms]

``make`` makes the box, ``cost`` measures time and memory of a step part by part (with 1 and 2
threads), ``nve`` runs some hundred steps without a thermostat, ``nvt`` 10 ps at 300 K; both go on
where they were stopped. Runs live in runs/protein_zone. Proteins:

* ``villin``: the headpiece of villin (35 residues, 582 atoms), folded, in 2761 TIP3P waters: a
  structure that comes with OpenMM as its test.
* ``trp-cage``: NLYIQWLKDGGPSSGRPPPS (304 atoms) from its sequence by tleap, with the dihedrals of
  a helix, compacted in implicit solvent. It is compact, and not the native structure.
* ``chignolin``: GYDPETGTWG (138 atoms), from its sequence in the same way.

Needs the extra ``engines``; the last two need AmberTools (extra ``data``).
"""

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _output import read_table, write_table

from gnn import load_model
from gnn.engines.boxes.box import has_box, read_box, write_box
from gnn.engines.boxes.pdb import Preparation, pdb_box
from gnn.engines.boxes.select import select
from gnn.engines.embedding.embedding import Embedding, array
from gnn.engines.embedding.topology import surroundings_of, zone_of
from gnn.engines.openmm import create_system
from gnn.engines.runs.analysis import energy_drift, read_log
from gnn.engines.runs.box import equilibrated, in_angstrom
from gnn.engines.runs.dynamics import Run
from gnn.engines.runs.settings import Settings
from gnn.published import load_amp_bms

FOLDER = Path("runs/protein_zone")
COLUMNS = ("protein", "threads", "quantity", "value", "unit")
SEQUENCES = {
    "trp-cage": "ASN LEU TYR ILE GLN TRP LEU LYS ASP GLY GLY PRO SER SER GLY ARG PRO PRO PRO SER",
    "chignolin": "GLY TYR ASP PRO GLU THR GLY THR TRP GLY",
}
HELIX = {"trp-cage": (2, 9), "chignolin": (4, 7)}  # residues with the dihedral angles of a helix


# --- the box --------------------------------------------------------------------------------------


def make(protein: str, padding: float) -> Path:
    """Make the box in a folder, unless it is there; return the folder."""
    folder = FOLDER / protein / "box"
    folder.mkdir(parents=True, exist_ok=True)
    if not has_box(folder):
        if protein == "villin":
            from openmm import app

            path = Path(app.__file__).parent / "data/test.pdb"
            how = Preparation()
        else:
            path = folder / "compact.pdb"
            compact(protein, path)
            how = Preparation(solvate="tip3p", padding=padding)
        write_box(folder, pdb_box(path, how, None, print))
    relaxed = protein == "villin"  # its box comes from a simulation, with the density of water
    settings = Settings(steps=1, equilibration=1.0 if relaxed else 10.0)
    equilibrated(folder / "start.xml", read_box(folder), settings, print)
    return folder


def compact(protein: str, path: Path) -> None:
    """Write a compact structure of a sequence: tleap, then 20 ps in implicit solvent."""
    import openmm
    from openmm import app, unit

    from gnn.data.making.topology import program

    first, last = HELIX[protein]
    names = SEQUENCES[protein].split()
    names = [f"N{names[0]}", *names[1:-1], f"C{names[-1]}"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "leap.in").write_text(
            f"source leaprc.protein.ff14SB\nm = sequence {{ {' '.join(names)} }}\n"
            f'impose m {{ {{ {first} {last} }} }} {{ {{ "N" "CA" "C" "N" -45.0 }} '
            '{ "C" "N" "CA" "C" -60.0 } }\n'
            "savepdb m extended.pdb\nquit\n"
        )
        subprocess.run(
            [program("tleap"), "-f", "leap.in"], cwd=folder, check=True, capture_output=True
        )
        start = app.PDBFile(f"{folder}/extended.pdb")
    field = app.ForceField("amber14-all.xml", "implicit/gbn2.xml")
    system = field.createSystem(start.topology, constraints=app.HBonds)
    inward = openmm.CustomExternalForce("k*(x*x+y*y+z*z)")  # towards the middle, weakly
    inward.addGlobalParameter("k", 3.0)
    for atom in start.topology.atoms():
        if atom.element.symbol != "H":
            inward.addParticle(atom.index)
    system.addForce(inward)
    integrator = openmm.LangevinMiddleIntegrator(
        320 * unit.kelvin, 2 / unit.picosecond, 2 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(start.topology, system, integrator)
    places = np.array(start.positions.value_in_unit(unit.nanometer))
    simulation.context.setPositions(places - places.mean(axis=0))
    simulation.minimizeEnergy(maxIterations=500)
    simulation.step(5_000)
    simulation.context.setParameter("k", 0.0)
    simulation.step(5_000)
    simulation.minimizeEnergy(maxIterations=500)
    state = simulation.context.getState(positions=True)
    with path.open("w") as file:
        app.PDBFile.writeFile(start.topology, state.getPositions(), file)
    places = np.array(state.getPositions(asNumpy=True)._value) * 10
    radius = np.sqrt(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean())
    print(f"{protein}: radius of gyration {radius:.1f} Å after 20 ps in implicit solvent")


def model_of(name: str) -> Any:
    """Return a model by name, or of a file: the authors' weights of AMP-BMS, or a checkpoint."""
    if Path(name).is_file():
        try:
            return load_amp_bms(name)
        except ValueError:
            pass
    return load_model(name)


# --- cost -----------------------------------------------------------------------------------------


def cost(protein: str, model: Any, threads: int, repeats: int) -> list[tuple[str, float, str]]:
    """Return what a step costs, part by part: the least of some repeats."""
    import openmm
    from openmm import unit

    folder = FOLDER / protein / "box"
    box = read_box(folder)
    state = openmm.XmlSerializer.deserialize((folder / "start.xml").read_text())
    positions, vectors = in_angstrom(state)
    atoms = select(box.topology, "protein", box.positions, box.vectors)
    before = time.perf_counter()
    system = create_system(box.topology, box.system, atoms, model, charge=charge_of(box, atoms))
    rows = [("atoms of the zone", len(atoms), ""),
            ("other particles", box.topology.getNumAtoms() - len(atoms), ""),
            ("create_system", time.perf_counter() - before, "s")]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows += of_the_embedding(box, atoms, model, positions, vectors, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows += [("peak memory before the first evaluation", before, "MB"), ("peak memory", peak, "MB")]
    platform = openmm.Platform.getPlatformByName("CPU")
    python = [f for f in system.getForces() if isinstance(f, openmm.PythonForce)]
    assert len(python) == 1
    bare = openmm.XmlSerializer.clone(box.system)
    system.removeForce(system.getNumForces() - 1)
    for name, one in (("force field of a step, as it is", bare),
                      ("force field of a step, without the zone's own", system)):  # fmt: skip
        integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.5 * unit.femtosecond)
        before = time.perf_counter()
        context = openmm.Context(one, integrator, platform, {"Threads": str(threads)})
        context.setPositions(0.1 * positions)
        context.setPeriodicBoxVectors(*(0.1 * vectors))
        made = time.perf_counter() - before
        found = []
        for _ in range(repeats + 1):
            before = time.perf_counter()
            integrator.step(5)
            found.append((time.perf_counter() - before) / 5)
        rows += [(name, 1e3 * min(found), "ms"), (f"{name}: context", made, "s")]
    return rows


def of_the_embedding(
    box: Any, atoms: list[int], model: Any, positions: Any, vectors: Any, repeats: int
) -> list[tuple[str, float, str]]:
    """Return the parts of an evaluation."""
    embedding = Embedding(
        model.requires_grad_(False),
        zone_of(box.topology, atoms, charge_of(box, atoms), None, local=False),
        surroundings_of(box.topology, set(atoms), charges_of(box)),
        periodic=True,
    )
    assert embedding.far is not None
    embedding.far.choose(len(atoms), vectors)
    parts: dict[str, list[float]] = {}

    def timed(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
        before = time.perf_counter()
        found = function(*arguments, **options)
        parts.setdefault(name, []).append(time.perf_counter() - before)
        return found

    for _ in range(repeats):
        timed("evaluation, all of it", embedding.energy_forces, positions, vectors)
        placed = timed("places, charges near, weights", embedding.placed, positions, vectors)
        near = placed.near
        seen = embedding.surroundings.charges[near.sites] * near.weights
        far = embedding._around(placed, seen, vectors)
        batch = timed("edges, batch, field of all images", embedding._batch, placed, seen, far)
        with torch.no_grad():
            timed("model, energy alone, and own images", model, batch)
        output = timed("model and own images, energy and gradient", embedding.evaluate, batch)
        timed("reaction on all charges", far.reaction, array(output["field_response"]))
        on_points, on_weights = array(output["mm_forces"]), array(output["mm_potential"])
        given = near, on_points, on_weights, len(atoms)
        timed("chain rule", embedding.groups.forces, *given)
    rows = [(name, 1e3 * min(found), "ms") for name, found in parts.items()]
    return [
        ("charges near the zone", len(near.sites), ""),
        ("edges", len(batch.senders), ""),
        *rows,
    ]


def charges_of(box: Any) -> np.ndarray:
    """Return the charges of the force field in e."""
    import openmm

    (force,) = (f for f in box.system.getForces() if isinstance(f, openmm.NonbondedForce))
    return np.array(
        [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    )


def charge_of(box: Any, atoms: list[int]) -> int:
    """Return the whole charge of the zone in e."""
    return round(charges_of(box)[atoms].sum())


# --- runs -----------------------------------------------------------------------------------------


def run(protein: str, model: Any, settings: Settings, name: str) -> Run:
    """Do a run, or what is missing of it."""
    source, folder = FOLDER / protein / "box", FOLDER / protein / name
    folder.mkdir(parents=True, exist_ok=True)
    if not has_box(folder):
        write_box(folder, read_box(source))
        (folder / "start.xml").write_bytes((source / "start.xml").read_bytes())
    box = read_box(folder)
    zone = select(box.topology, "protein", box.positions, box.vectors)
    dynamics = Run(folder, settings, model, zone)
    last = [time.monotonic()]

    def progress(step: int, speed: float) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            print(f"{name}: step {step} of {settings.steps}, {speed:.3f} ns/day", flush=True)

    dynamics.run(resume=dynamics.checkpoint.is_file(), progress=progress)
    return dynamics


def conservation(dynamics: Run) -> list[tuple[str, float, str]]:
    """Return how well a run keeps its energy."""
    log = read_log(dynamics.log)
    kelvin = float(log["temperature_k"].mean())
    drift, error = energy_drift(log, dynamics.degrees_of_freedom, kelvin)
    label = f"NVE {dynamics.settings.precision}, {dynamics.settings.timestep:g} fs"
    return [
        (f"{label}: length", log["time_ps"][-1], "ps"),
        (f"{label}: drift", drift, "kT per degree of freedom and ns"),
        (f"{label}: drift, standard error", error, "kT per degree of freedom and ns"),
        (f"{label}: total energy, standard deviation", log["total_kj_mol"].std(), "kJ/mol"),
        (f"{label}: kinetic energy, standard deviation", log["kinetic_kj_mol"].std(), "kJ/mol"),
    ]


def of_the_run(dynamics: Run) -> list[tuple[str, float, str]]:
    """Return what a run at 300 K has to say."""
    log = read_log(dynamics.log)
    half = log["temperature_k"][len(log["step"]) // 2 :]
    speed = np.nanmedian(log["ns_per_day"])
    label = f"NVT, {dynamics.settings.timestep:g} fs"
    return [
        (f"{label}: length", log["time_ps"][-1], "ps"),
        (f"{label}: mean temperature", half.mean(), "K"),
        (f"{label}: a step, median", dynamics.settings.timestep * 86.4 / speed, "ms"),
        (f"{label}: peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB"),
    ]


def keep(protein: str, threads: int, rows: list[tuple[str, float, str]]) -> None:
    """Print rows, and put them into the table in place of older ones."""
    kept = [
        row for row in read_table("protein_zone")
        if (row["protein"], row["threads"]) != (protein, str(threads))
        or row["quantity"] not in {r[0] for r in rows}
    ]  # fmt: skip
    for name, value, unit in rows:
        print(f"{name:<50} {value:>12.4g} {unit}")
        kept.append(
            {"protein": protein, "threads": threads, "quantity": name, "value": f"{value:.4g}",
             "unit": unit}
        )  # fmt: skip
    print(f"written: {write_table('protein_zone', COLUMNS, kept)}")


def main() -> None:
    """Do one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["make", "cost", "nve", "nvt"])
    parser.add_argument("--protein", choices=["villin", *SEQUENCES], default="villin")
    parser.add_argument("--model", default="amp-bms", help="name, or file of weights")
    parser.add_argument("--threads", type=int, default=1, help="of the model and of OpenMM's CPU")
    parser.add_argument("--padding", type=float, default=10.0, help="water to the walls, Å")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nve-steps", type=int, default=300)
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--timestep", type=float, help="fs; 0.5 of nve, 1.5 of nvt")
    parser.add_argument("--ps", type=float, default=10.0, help="of nvt")
    arguments = parser.parse_args()
    import multipoles

    torch.set_num_threads(arguments.threads)
    multipoles.set_num_threads(arguments.threads)
    make(arguments.protein, arguments.padding)
    if arguments.part == "make":
        return
    model = model_of(arguments.model)
    common: dict[str, Any] = {"platform": "CPU", "threads": arguments.threads, "equilibration": 0.0}
    if arguments.part == "cost":
        rows = cost(arguments.protein, model, arguments.threads, arguments.repeats)
    elif arguments.part == "nve":
        settings = Settings(
            steps=arguments.nve_steps, ensemble="nve", precision=arguments.precision,
            timestep=arguments.timestep or 0.5, interval=5, checkpoint_interval=25, **common,
        )  # fmt: skip
        rows = conservation(run(arguments.protein, model, settings, f"nve-{settings.precision}"))
    else:
        timestep = arguments.timestep or 1.5
        settings = Settings(
            steps=round(arguments.ps * 1000 / timestep), timestep=timestep, hydrogen_mass=3.0,
            interval=20, checkpoint_interval=100, **common,
        )  # fmt: skip
        rows = of_the_run(run(arguments.protein, model, settings, "nvt"))
    keep(arguments.protein, arguments.threads, rows)


if __name__ == "__main__":
    main()
