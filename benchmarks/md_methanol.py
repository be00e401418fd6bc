"""Molecular dynamics of methanol in water: drift, stability, structure, and what bounds the speed.

    python benchmarks/md_methanol.py [--ps 20] [--nve-ps 6] [--threads 1]

Three runs of the box that ships (methanol in 368 TIP3P waters, steps of 0.5 fs): QM/MM without a
thermostat in float64, QM/MM at 300 K, and the classical force field (GAFF2) at 300 K. They live
in runs/md_methanol and go on where they were stopped. Needs the extra ``engines``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _output import pyplot, write_picture, write_table

from gnn import load_model
from gnn.engines.boxes.box import has_box, write_box
from gnn.engines.boxes.shipped import methanol_in_water
from gnn.engines.embedding.embedding import Embedding
from gnn.engines.embedding.topology import surroundings_of, zone_of
from gnn.engines.openmm import create_system
from gnn.engines.runs.analysis import energy_drift, radial_distribution, read_log, read_trajectory
from gnn.engines.runs.dynamics import Run
from gnn.engines.runs.settings import Settings

FOLDER = Path("runs/md_methanol")
COLUMNS = ("quantity", "value", "unit")
PAIRS = {  # of methanol, to the oxygens of water
    "O–O(water)": [1],
    "H(O)–O(water)": [5],
    "C–O(water)": [0],
}
N = 6


def simulate(name: str, settings: Settings) -> Run:
    """Do a run, or what is missing of it."""
    folder = FOLDER / name
    if not has_box(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_box(folder, methanol_in_water())
    run = Run(folder, settings)
    shown = [0]

    def progress(step: int, speed: float) -> None:
        if 10 * step // settings.steps > shown[0]:
            shown[0] = 10 * step // settings.steps
            print(f"  {name}: {100 * step // settings.steps} %, {speed:.2f} ns/day", flush=True)

    begun = run.checkpoint.is_file()
    run.run(resume=begun, progress=progress)
    return run


def parts_of_a_step(run: Run, threads: int) -> dict[str, float]:
    """Return the least time in ms of the model, of the bookkeeping around it, and of the rest."""
    import openmm
    from openmm import unit

    positions, boxes = read_trajectory(run.trajectory)
    system = create_system(run.topology, run.box.system, run.qm_atoms, load_model())
    waters = (run.topology.getNumAtoms() - N) // 3
    charges = np.concatenate([np.zeros(N), np.tile([-0.834, 0.417, 0.417], waters)])
    embedding = Embedding(
        load_model().requires_grad_(False),
        zone_of(run.topology, run.qm_atoms, 0, None, local=True),
        surroundings_of(run.topology, set(run.qm_atoms), charges),
    )
    inner = embedding.evaluate
    spent = [0.0]

    def timed(*arguments):
        start = time.perf_counter()
        found = inner(*arguments)
        spent[0] += time.perf_counter() - start
        return found

    embedding.evaluate = timed
    model, whole = [], []
    for _ in range(3):
        for x, box in zip(positions[-50:].astype(float), boxes[-50:], strict=True):
            spent[0], start = 0.0, time.perf_counter()
            embedding.energy_forces(x, np.diag(box).astype(float))
            whole.append(time.perf_counter() - start)
            model.append(spent[0])
    properties = {"Threads": str(threads)}
    platform = openmm.Platform.getPlatformByName("CPU")
    steps = {}
    for name, changed in (("whole", system), ("without", None)):
        if changed is None:
            for i in range(system.getNumForces()):
                if isinstance(system.getForce(i), openmm.PythonForce):
                    system.removeForce(i)
                    break
        integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.5 * unit.femtosecond)
        context = openmm.Context(system, integrator, platform, properties)
        context.setPositions(0.1 * positions[-1])
        context.setPeriodicBoxVectors(*(0.1 * np.diag(boxes[-1])))
        context.setVelocitiesToTemperature(300)
        integrator.step(20)
        found = []
        for _ in range(10):
            start = time.perf_counter()
            integrator.step(20)
            found.append((time.perf_counter() - start) / 20)
        steps[name] = min(found)
    return {
        "one step": 1e3 * steps["whole"],
        "model, energy and gradient": 1e3 * min(model),
        "images, weights, chain rule": 1e3 * (min(whole) - min(model)),
        "all that is classical": 1e3 * steps["without"],
    }


def distributions(run: Run) -> dict[str, np.ndarray]:
    """Return radii and g(r) of the solute's atoms and of water, from the second quarter on."""
    positions, boxes = read_trajectory(run.trajectory)
    start = len(positions) // 4
    positions, boxes = positions[start:], boxes[start:]
    oxygens = [a.index for a in run.topology.atoms() if a.index >= N and a.element.symbol == "O"]
    found = {}
    for name, solute in PAIRS.items():
        found["r"], found[name] = radial_distribution(positions, boxes, solute, oxygens, 8.0, 0.2)
    thin = slice(None, None, 4)
    curve = radial_distribution(positions[thin], boxes[thin], oxygens, oxygens, 8.0, 0.2)
    found["O(water)–O(water)"] = curve.g
    return found


def draw(curves: dict[str, dict[str, np.ndarray]], log: dict[str, np.ndarray]) -> None:
    """Draw g(r) of both runs, and the energy without a thermostat."""
    plt = pyplot()
    if plt is None:
        return
    names = [name for name in next(iter(curves.values())) if name != "r"]
    figure, grid = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
    axes = grid.flat
    colours = {"QM/MM": "#0b6e8a", "classical (GAFF2)": "#b4431d"}
    for axis, name in zip(axes, names, strict=False):
        for label, found in curves.items():
            axis.plot(found["r"], found[name], label=label, color=colours[label], lw=1.4)
        axis.axhline(1, color="0.8", lw=0.8, zorder=0)
        axis.set(title=name, xlabel="r / Å", xlim=(0, 8))
    for axis in (axes[0], axes[3]):
        axis.set_ylabel("g(r)")
    axes[0].legend(frameon=False, fontsize=8)
    total, kinetic = log["total_kj_mol"], log["kinetic_kj_mol"]
    axes[4].plot(log["time_ps"], kinetic - kinetic.mean(), lw=0.5, color="0.7", label="kinetic")
    axes[4].plot(log["time_ps"], total - total[0], lw=1, color="#0b6e8a", label="total")
    axes[4].set(title="NVE, float64", xlabel="time / ps", ylabel="E − mean / kJ mol⁻¹")
    axes[4].legend(frameon=False, fontsize=8)
    axes[5].set_axis_off()
    print(f"written: {write_picture('md_methanol', figure)}")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ps", type=float, default=20.0, help="of the runs at 300 K")
    parser.add_argument("--nve-ps", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1, help="of OpenMM's CPU platform")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps, nve_steps = (round(2000 * ps) for ps in (arguments.ps, arguments.nve_ps))
    common = {"platform": "CPU", "threads": arguments.threads, "interval": 50, "equilibration": 0.0}
    nve = simulate(
        "nve",
        Settings(
            steps=nve_steps, ensemble="nve", precision="float64", platform="Reference", interval=20,
            equilibration=0.0,
        ),
    )  # fmt: skip
    runs = {
        "QM/MM": simulate("qmmm", Settings(steps=steps, **common)),
        "classical (GAFF2)": simulate("classical", Settings(steps=steps, classical=True, **common)),
    }
    log = read_log(nve.log)
    drift, error = energy_drift(log, nve.degrees_of_freedom, float(log["temperature_k"].mean()))
    rows = [
        ("NVE float64, 0.5 fs: length", f"{log['time_ps'][-1]:g}", "ps"),
        ("NVE drift of the energy", f"{drift:.1e}", "kT per degree of freedom and ns"),
        ("NVE drift, standard error", f"{error:.0e}", "kT per degree of freedom and ns"),
        ("NVE total energy, standard deviation", f"{log['total_kj_mol'].std():.2g}", "kJ/mol"),
        ("NVE kinetic energy, standard deviation", f"{log['kinetic_kj_mol'].std():.3g}", "kJ/mol"),
    ]
    for name, run in runs.items():
        log_300 = read_log(run.log)
        half = log_300["temperature_k"][len(log_300["step"]) // 2 :]
        rows += [
            (f"{name}, 300 K: length", f"{log_300['time_ps'][-1]:g}", "ps"),
            (f"{name}, 300 K: mean temperature", f"{half.mean():.1f}", "K"),
            (
                f"{name}, 300 K: speed, median",
                f"{np.nanmedian(log_300['ns_per_day']):.3g}",
                "ns/day",
            ),
        ]
    rows += [
        (f"time of {k}", f"{v:.2f}", "ms")
        for k, v in parts_of_a_step(runs["QM/MM"], arguments.threads).items()
    ]
    for row in rows:
        print(f"{row[0]:<46} {row[1]:>10} {row[2]}")
    print(f"written: {write_table('md_methanol', COLUMNS, rows)}")
    curves = {name: distributions(run) for name, run in runs.items()}
    table = [
        (name, *(f"{found[key][i]:.4f}" for key in found))
        for name, found in curves.items()
        for i in range(len(found["r"]))
    ]
    print(f"written: {write_table('md_rdf', ('run', *curves['QM/MM']), table)}")
    draw(curves, log)


if __name__ == "__main__":
    main()
