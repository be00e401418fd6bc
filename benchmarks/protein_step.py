"""What a step costs with a whole protein as the model's zone: AMP-BMS, float32, on one machine.

    python benchmarks/protein_step.py [--weights MIN_state_dict] [--system FILE.npz]

Energy, forces on atoms and charges, and potential at the charges, of 875 atoms (a bundle of three
helices of 52 residues, built by AmberTools' tleap and shaken for a moment by OpenMM) in 12 960
charges of water, and of 729 atoms on a grid in as many charges. A file holds Z, coords_qm,
coords_mm, charges_mm, mol_charge; --keep FILE.npz writes what was built.

Times are the least of many, threads take turns. With n threads the calling thread works m ms of
processor time and all others together o ms; m + o/n is the time on n free cores, up to imbalance,
which is printed beside the wall time: a busy machine disturbs the one little and the other much.
For 16 and 32 threads only the first can be had on fewer cores. Writes
benchmarks/results/protein_step.csv (threads) and protein_step_parts.csv (what one thread does).
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _output import run_alone, write_table
from published_speed import made, read

import multipoles as mp
from gnn import System, load_model
from gnn.data import collate
from gnn.operators import _dense, edge_arrays, network
from gnn.published import electrostatics, induction, load_amp_bms, pair_energies, passes

WATERS = 4320
HEPTAD = "LEU GLU ALA LEU LYS GLN SER"
ASKED = {"forces": True, "mm_forces": True, "mm_potential": True}
THREADS = (1, 2, 16, 32)
PARTS = {
    "networks": [(network, "values"), (network, "gradients")],
    "multipoles on edges": [(edge_arrays, n) for n in ("run_state", "run_pair_values", "run_pair")],
    "all charges": [(electrostatics.ChargeCoupling, n) for n in ("values", "gradients")],
    "polarisation": [(induction.TabulatedInduction, n) for n in ("values", "gradients")],
    "pairs of atoms": [(pair_energies.PairEnergies, n) for n in ("values", "gradients")],
    "search": [(passes, "near_ends")],
}


def tleap_input() -> str:
    """Return what builds three helices of 875 atoms side by side, in water."""
    sequence = HEPTAD.split() * 7 + ["LEU", "ALA", "LEU"]
    lines = ["source leaprc.protein.ff14SB", "source leaprc.water.tip3p"]
    for k, (first, last) in enumerate(((0, 17), (17, 34), (34, 52))):
        turns = '{ "N" "CA" "C" "N" -47.0 } { "C" "N" "CA" "C" -57.0 }'
        lines += [
            f"h{k} = sequence {{ ACE {' '.join(sequence[first:last])} NME }}",
            f"impose h{k} {{ {{ 1 {last - first + 2} }} }} {{ {turns} }}",
            f"alignAxes h{k}",
        ]
    return "\n".join(
        [*lines, "translate h1 { 0 9.5 0 }", "translate h2 { 0 4.75 8.2 }",
         "all = combine { h0 h1 h2 }", "solvateBox all TIP3PBOX 15.0",
         "saveamberparm all all.prmtop all.rst7", "quit"]
    )  # fmt: skip


def built() -> System:
    """Return the helices in the nearest waters, after half a picosecond."""
    import openmm
    from openmm import app, unit
    from scipy.spatial import cKDTree

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "all.leap").write_text(tleap_input())
        subprocess.run(["tleap", "-f", "all.leap"], cwd=folder, check=True, capture_output=True)
        top = app.AmberPrmtopFile(f"{folder}/all.prmtop")
        start = app.AmberInpcrdFile(f"{folder}/all.rst7")
        system = top.createSystem(app.PME, 0.8 * unit.nanometer, constraints=None)
        integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.001)
        integrator.setRandomNumberSeed(1)
        simulation = app.Simulation(top.topology, system, integrator)
        simulation.context.setPositions(start.positions)
        simulation.minimizeEnergy(maxIterations=200)
        simulation.step(500)
        state = simulation.context.getState(getPositions=True)
    x = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom).diagonal()
    atoms = list(top.topology.atoms())
    water = np.array([atom.residue.name in ("WAT", "HOH") for atom in atoms])
    zone = x[~water]
    waters = x[water].reshape(-1, 3, 3)
    waters = waters - np.round((waters[:, :1] - zone.mean(0)) / box) * box
    nearest = np.argsort(cKDTree(zone).query(waters[:, 0])[0])[:WATERS]
    numbers = [
        atom.element.atomic_number for atom, wet in zip(atoms, water, strict=True) if not wet
    ]
    charges = np.tile([-0.834, 0.417, 0.417], WATERS)
    return System(numbers, zone, 0.0, waters[nearest].reshape(-1, 3), charges)


def model_of(weights: str | None) -> Any:
    """Return AMP-BMS, of the authors' file or by its name."""
    return load_amp_bms(weights) if weights else load_model("amp-bms")


def one_peak(arguments: list) -> list[float]:
    """Return the memory in GB that a fresh process holds before and after two steps."""
    weights, path = arguments
    torch.set_num_threads(1)
    mp.set_num_threads(1)
    model, system = model_of(weights), read(Path(path))
    before = most_memory()
    for _ in range(2):
        model(collate([system], model.cutoff, torch.float32), **ASKED)
    return [before, most_memory()]


def most_memory() -> float:
    """Return the most memory in GB that this process held; getrusage begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e6


def write_system(path: Path, system: System) -> None:
    np.savez(
        path, Z=system.numbers, coords_qm=system.positions[None],
        coords_mm=system.mm_positions[None], charges_mm=system.mm_charges[None],
        mol_charge=system.charge,
    )  # fmt: skip


def in_threads(task, repeats: int) -> dict[int, dict[str, float]]:
    """Return ms of the calling thread, of all others, and by the clock, by number of threads."""
    found: dict[int, dict[str, float]] = {}
    for _ in range(repeats):
        for threads in THREADS:
            mp.set_num_threads(threads)
            for _ in range(2):
                clocks = time.thread_time, time.process_time, time.perf_counter
                start = [clock() for clock in clocks]
                task()
                own, process, wall = (
                    1e3 * (clock() - t) for clock, t in zip(clocks, start, strict=True)
                )
                least = found.setdefault(threads, {})
                new = {
                    "caller": own,
                    "others": process - own,
                    "sum": own + (process - own) / threads,
                    "wall": wall,
                }
                for name, value in new.items():
                    least[name] = min(least.get(name, np.inf), value)
    mp.set_num_threads(1)
    return found


class Timers:
    """Adds up the processor time of some functions."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.kept = []

    def __enter__(self) -> "Timers":
        for part, places in PARTS.items():
            for owner, name in places:
                before = owner.__dict__[name]
                function = before.__func__ if isinstance(before, staticmethod) else before
                timed = self.timed(part, function)
                static = isinstance(before, staticmethod)
                setattr(owner, name, staticmethod(timed) if static else timed)
                self.kept.append((owner, name, before))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, before in self.kept:
            setattr(owner, name, before)

    def timed(self, part: str, function):
        """Return a function that adds its time to a part."""

        def run(*arguments, **options):
            start = time.process_time()
            result = function(*arguments, **options)
            self.spent[part] += 1e3 * (time.process_time() - start)
            return result

        return run


def by_part(task, repeats: int) -> dict[str, float]:
    """Return ms of the parts of a call, in one thread."""
    least: dict[str, float] = {}
    for _ in range(repeats):
        with Timers() as timers:
            start = time.process_time()
            task()
            total = 1e3 * (time.process_time() - start)
        parts = timers.spent | {"rest": total - sum(timers.spent.values()), "all": total}
        least = {name: min(value, least.get(name, np.inf)) for name, value in parts.items()}
    return least


def products(task) -> float:
    """Return how many 1e9 floating-point operations the networks of a call take, both ways."""
    count = 0
    values = network.values

    def counted(of, inputs, *arguments, **options):
        nonlocal count
        count += 4 * of.work * len(inputs[0])
        return values(of, inputs, *arguments, **options)

    network.values = counted
    task()
    network.values = values
    return count / 1e9


def peak() -> float:
    """Return the GFlop/s of a product of matrices that stay in the cache."""
    rows, width = 48, 128
    x, y = (np.ones(rows * width, np.float32) for _ in range(2))
    matrix = np.full(width * width, 1e-3, np.float32)
    vectors = width // 16
    least = np.inf
    for _ in range(50):
        start = time.process_time()
        for _ in range(200):
            _dense.multiply(x, 0, width, rows, width, matrix, 0, vectors, y, 0, width)
        least = min(least, time.process_time() - start)
    return 400 * rows * width * width / least / 1e9


def measure(model, system: System, repeats: int) -> tuple[list[dict], dict]:
    batch = collate([system], model.cutoff, torch.float32)
    row = {"atoms": system.n_atoms, "charges": len(system.mm_charges), "edges": len(batch.senders)}

    def task():
        model(batch, **ASKED)

    task()
    times, parts = in_threads(task, repeats), by_part(task, repeats)
    work, rate = products(task), peak()
    limit = 1e3 * work / rate
    print("\n{atoms} atoms, {charges} charges, {edges} edges".format(**row))
    for name, value in parts.items():
        print(f"  {name:<22}{value:8.1f} ms")
    shares = limit / parts["networks"], limit / parts["all"]
    print(f"  networks: {work:.1f} GFlop at {rate:.0f} GFlop/s take {limit:.0f} ms,", end=" ")
    print("{:.0%} of their time, {:.0%} of all".format(*shares))
    one = times[1]["sum"]
    rows = []
    for threads, least in times.items():
        gain = one / least["sum"]
        own, others, both, wall = (least[name] for name in ("caller", "others", "sum", "wall"))
        print(f"  {threads:>2} threads: {own:6.1f} + {others:6.1f}/{threads:<2}", end=" ")
        print(f"= {both:6.1f} ms, {gain:4.1f} times as fast; wall {wall:6.1f} ms")
        values = {name: round(value, 1) for name, value in least.items()}
        rows.append(row | {"threads": threads} | values | {"gain": round(gain, 2)})
    serial = times[2]["caller"]
    print(f"  parallel fraction {1 - serial / one:.0%}")
    extra = {"GFlop": round(work, 1), "GFlop/s": round(rate), "limit": round(limit, 1)}
    return rows, row | {name: round(value, 1) for name, value in parts.items()} | extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--system", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import json

        print(json.dumps(one_peak(json.loads(arguments.one))))
        return
    torch.set_num_threads(1)
    protein = read(arguments.system) if arguments.system else built()
    if arguments.keep:
        write_system(arguments.keep, protein)
    model = model_of(arguments.weights)
    rows, parts = [], []
    for system in (protein, made(729, 3 * WATERS)):
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "system.npz"
            write_system(path, system)
            before, after = run_alone(__file__, [arguments.weights or "", str(path)], 1)
            times, of_parts = measure(model, system, arguments.repeats)
        print(f"  memory {after:.2f} GB, of which {before:.2f} before the first step")
        rows += times
        parts.append(of_parts | {"GB before": round(before, 2), "GB": round(after, 2)})
    write_table("protein_step", list(rows[0]), rows)
    write_table("protein_step_parts", list(parts[0]), parts)


if __name__ == "__main__":
    main()
