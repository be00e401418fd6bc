"""What density fitting costs in accuracy and saves in time, when labels are made.

    python benchmarks/density_fitting.py      # extra `data`; some minutes of one core

Labels frames twice, as `anisole data generate` does with and without `--density-fit`: with Coulomb
and exchange fitted, and by all integrals. The frames are some of those that ship, in water, and
shaken geometries of a force field, alone, of molecules that do not ship. A constant per molecule
does no harm to a model, so what counts of the energies is how much their differences scatter.
Prints a table; writes benchmarks/results/density_fitting.csv. Times are CPU times of one thread, of
atoms with and without their charges; their ratio is that of the least of each.
"""

import argparse
import os
import time
from typing import NamedTuple

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PySCF is imported

from _experiments import thinned
from _output import write_table
from novelty import LEVEL, moved, of_smiles

from gnn import Frame, System
from gnn.data import load_shipped
from gnn.data.making.labelling import label_both

IN_WATER = ("meoh", "acoh")
ALONE = {"formamide": "NC=O", "methanethiol": "CS", "nma": "CC(=O)NC"}  # as in molecules.yaml
SHAKEN = 0.05  # Å, normal deviate


class Twice(NamedTuple):
    """One frame labelled by all integrals and with fitting, and the seconds that took."""

    exact: Frame
    fitted: Frame
    seconds: tuple[float, float]


def systems(count: int) -> dict[str, list[System]]:
    """Return systems of each molecule."""
    rng = np.random.default_rng(16)
    found = {
        name: [frame.system for frame in thinned(load_shipped([name]), count)] for name in IN_WATER
    }
    for name, smiles in ALONE.items():
        at_rest = of_smiles(smiles)
        steps = SHAKEN * rng.standard_normal((count, *at_rest.positions.shape))
        found[name] = [moved(at_rest, at_rest.positions + step) for step in steps]
    return found


def twice(system: System, fitted_first: bool) -> Twice:
    """Label a system both ways, one of them first."""
    frames, seconds = {}, {}
    for fit in (fitted_first, not fitted_first):
        start = time.process_time()
        frames[fit], _ = label_both(system, LEVEL, density_fit=fit)
        seconds[fit] = time.process_time() - start
    return Twice(frames[False], frames[True], (seconds[False], seconds[True]))


def row(name: str, pairs: list[Twice]) -> dict[str, str]:
    """Return the differences of one molecule's labels in meV and meV/Å, and the times."""
    shifts = 1e3 * np.array([one.fitted.energy - one.exact.energy for one in pairs])

    def rms(label: str) -> str:
        parts = [getattr(one.fitted, label) - getattr(one.exact, label) for one in pairs]
        return f"{1e3 * np.sqrt((np.concatenate(parts) ** 2).mean()):.3f}"

    charges = pairs[0].exact.system.n_mm > 0
    exact, fitted = np.min([one.seconds for one in pairs], axis=0)
    return {
        "molecule": name,
        "surroundings": "water" if charges else "none",
        "frames": str(len(pairs)),
        "shift": f"{shifts.mean():.3f}",
        "spread": f"{shifts.std(ddof=1):.3f}",
        "forces": rms("forces"),
        "mm_forces": rms("mm_forces") if charges else "",
        "exact_s": f"{exact:.2f}",
        "fitted_s": f"{fitted:.2f}",
        "ratio": f"{exact / fitted:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=4, help="frames of each molecule, at least 2")
    arguments = parser.parse_args()
    rows = []
    for name, own in systems(arguments.frames).items():
        rows.append(row(name, [twice(system, i % 2 == 0) for i, system in enumerate(own)]))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    write_table("density_fitting", list(rows[0]), rows)


if __name__ == "__main__":
    main()
