"""Generation of frames with dynamics and labels that cost nothing.

As a script, with the output file as argument: the real bookkeeping in real processes, slowly
enough to be killed.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gnn.data import Frame, System
from gnn.data.making import generate
from gnn.data.making.sampling import snapshot_path, store


def run_dynamics(folder, kind, run, count, settings):
    (folder / "snapshots").mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng([run, i])
        if not snapshot_path(folder, run, i).is_file():
            waters = 0 if kind.in_vacuum else 2
            shot = {
                "numbers": np.array([6, 8]),
                "positions": [[0, 0, 0], [1.1, 0, 0]] + 0.1 * rng.random((2, 3)).astype("f4"),
                "bonds": np.array([[0, 1]]),
                "mm_positions": (5 + rng.random((3 * waters, 3))).astype(np.float32),
                "mm_charges": np.array([-0.8, 0.4, 0.4] * waters, dtype=np.float32),
            }
            store(snapshot_path(folder, run, i), shot)
        yield i


def label_both(system, level, grid_level, density_fit, multipoles):
    energy = float(system.positions.sum())
    alone = System(system.numbers, system.positions, system.charge)
    zeros = np.zeros_like(system.positions)
    vacuum = Frame(alone, energy + 1, zeros, None, np.zeros(3))
    if not system.n_mm:
        return Frame(system, energy + 1, zeros, None, np.zeros(3)), vacuum
    return Frame(system, energy, zeros, system.mm_positions / 7, np.ones(3)), vacuum


def replace_the_costly(patch=setattr):
    """Put what costs nothing in the place of dynamics and quantum chemistry."""
    carbon = SimpleNamespace(GetAtoms=lambda: [])
    for name in ("check_installed", "level_of", "parametrise"):
        patch(generate, name, lambda *arguments: None)
    patch(generate, "molecule", lambda *arguments: carbon)
    patch(generate, "run_dynamics", run_dynamics)
    patch(generate, "label_both", label_both)


real_do = generate._do


def slow_do(recipe, work, task):
    """Carry out a task in a worker, where nothing is replaced yet."""
    replace_the_costly()
    if task.index is not None:
        time.sleep(0.15)
    yield from real_do(recipe, work, task)


if __name__ == "__main__":
    replace_the_costly()
    generate._do = slow_do
    generate.generate(
        generate.Recipe(smiles="[C-]#[O+]", name="co", charge=0),
        16,
        Path(sys.argv[1]),
        runs=4,
        processes=2,
    )
