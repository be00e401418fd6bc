"""What energy and all forces of the published AMP-BMS model cost: one frame, one thread, float32.

    python benchmarks/published_speed.py --weights MIN_state_dict [--systems A.npz B.npz ...]

All surrounding charges by 1/r (mode "training"), and those within 9 Å ("simulation"). A system
file holds Z, coords_qm, coords_mm, charges_mm, mol_charge; without files, clusters of atoms in
water charges of 22 + 999, 60 + 3000 and 200 + 3000 are made. Edges and pairs are found anew in
every call of `evaluate`; the batch of "energy and forces" is prepared; "of 32" is what one of so
many frames takes in a batch, "by autograd" what both take without compiled passes. All take turns.
Minima of the process's processor time, which is the wall time of an idle machine.
Prints a table and writes benchmarks/results/published_speed.csv; --profile adds torch's profile.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from _output import write_table

import multipoles as mp
from gnn import System
from gnn.data import collate
from gnn.published import load_amp_bms

SIZES = ((22, 999), (60, 3000), (200, 3000))
MODES = ("training", "simulation")


def made(atoms: int, particles: int, seed: int = 0) -> System:
    """Return a cluster as dense as a peptide in a shell of water charges."""
    rng = np.random.default_rng(seed)
    grid = 1.9 * (np.indices((9, 9, 9)).reshape(3, -1).T - 4)
    grid = grid[np.argsort(np.linalg.norm(grid + 0.1, axis=1))][:atoms]
    positions = grid + rng.uniform(-0.3, 0.3, grid.shape)
    inner = np.linalg.norm(positions, axis=1).max() + 2.0
    outer = (inner**3 + 3 * particles / (4 * np.pi * 0.1)) ** (1 / 3)  # 0.1 sites per Å^3
    directions = rng.standard_normal((particles, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = rng.uniform(inner**3, outer**3, particles) ** (1 / 3)
    charges = np.resize([-0.834, 0.417, 0.417], particles)
    return System(rng.choice([1, 1, 6, 7, 8], atoms), positions, 0, directions * radii[:, None],
                  charges)  # fmt: skip


def read(path: Path) -> System:
    data = np.load(path)
    names = ("coords_qm", "coords_mm", "charges_mm")
    positions, particles, charges = (data[name][0] for name in names)
    return System(data["Z"], positions, float(data["mol_charge"]), particles, charges)


def best(task, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def tasks_of(model, system: System) -> dict[str, tuple]:
    """Return what is to be done, and for how many frames."""
    twin = copy.copy(model)
    twin._compiled = lambda *_: None
    batches = {count: collate([system] * count, model.cutoff, torch.float32) for count in (1, 32)}
    asked = {"forces": True, "mm_forces": True}
    return {
        "energy": (lambda: model(batches[1]), 1),
        "energy and forces": (lambda: model(batches[1], **asked), 1),
        "energy and forces, of 32": (lambda: model(batches[32], **asked), 32),
        "energy and forces by autograd": (lambda: twin(batches[1], **asked), 1),
        "energy and forces by autograd, of 32": (lambda: twin(batches[32], **asked), 32),
        "evaluate": (lambda: model.evaluate([system]), 1),
    }


def measure(models: dict, system: System, repeats: int) -> dict[str, float]:
    """Return milliseconds of each mode and task for a frame."""
    found: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(3):
            for mode, model in models.items():
                for name, (task, frames) in tasks_of(model, system).items():
                    key, runs = f"{mode}, {name}", -(-repeats // frames)
                    found[key] = min(found.get(key, np.inf), best(task, runs) / frames)
    return found


def profile(model, system: System) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    batch = collate([system], model.cutoff, torch.float32)
    with torch.no_grad(), recorder(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(10):
            model(batch, forces=True, mm_forces=True)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--systems", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mp.set_num_threads(1)
    models = {mode: load_amp_bms(arguments.weights, mode=mode) for mode in MODES}
    systems = [read(p) for p in arguments.systems] if arguments.systems else [
        made(*size) for size in SIZES
    ]  # fmt: skip
    rows = []
    for system in systems:
        edges = len(collate([system], models["training"].cutoff).senders)
        row = {"atoms": system.n_atoms, "charges": len(system.mm_charges), "edges": edges}
        row |= {k: round(v, 2) for k, v in measure(models, system, arguments.repeats).items()}
        rows.append(row)
        print(f"\n{row['atoms']} atoms, {row['charges']} charges, {edges} edges; milliseconds:")
        for key in list(row)[3:]:
            print(f"  {key:<48}{row[key]:8.2f}")
        if arguments.profile:
            profile(models["training"], system)
    write_table("published_speed", list(rows[0]), rows)


if __name__ == "__main__":
    main()
