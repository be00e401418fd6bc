"""Can a proton be handed over? H3O+ and H2O with charges that are local.

    python benchmarks/proton_transfer.py generate   # labels by PySCF (extra `data`), half an hour
    python benchmarks/proton_transfer.py            # train and test; the labels are here

Frames of H3O+ and H2O at B3LYP/6-31G*, the proton anywhere between the two oxygens or the two far
apart, with isolated monomers. One small model with local charges learns them. Along a path at a
fixed distance of the oxygens the proton goes from one water to the other: printed are energies,
the charges of the two moieties, and how far the answer depends on which of the two molecules the
charge was given to. Writes benchmarks/results/proton_transfer{,_path}.csv and the picture.
"""

import argparse
from pathlib import Path

import numpy as np
from _experiments import Table, errors, settings, train
from _output import pyplot, write_picture

from gnn import Frame, System
from gnn.data import read_frames, write_frames

DATA = Path(__file__).parent / "data" / "proton_transfer.h5"
LEVEL = "B3LYP/6-31G*"
TRAINING, TEST, PATH = 100, 200, 300  # run numbers
NUMBERS = [8, 1, 1, 8, 1, 1, 1]  # a water, a water, and the proton between them
PATH_DISTANCE = 2.8  # Å, of the oxygens along the path
BOND = 0.98  # Å


# --- labels -------------------------------------------------------------------------------------


def geometry(distance: float, place: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return positions of two waters and a proton between their oxygens.

    `place` goes from 0, the proton at the first oxygen, to 1, at the second. With a generator the
    waters are turned about the axis, and all atoms displaced at random.
    """
    turns = (0.0, 0.5 * np.pi) if rng is None else rng.uniform(0, 2 * np.pi, 2)
    axis = np.array([0, 0, 1.0])
    made = []
    for oxygen, inwards, turn in ((0.0, 1, turns[0]), (distance, -1, turns[1])):
        away = np.deg2rad(115.0)  # angle of O-H to the axis inwards
        made.append([0, 0, oxygen])
        for phase in (turn, turn + np.deg2rad(125.0)):
            sideways = np.array([np.cos(phase), np.sin(phase), 0])
            bond = np.sin(away) * sideways + np.cos(away) * inwards * axis
            made.append([0, 0, oxygen] + BOND * bond)
    made.append([0, 0, BOND + place * (distance - 2 * BOND)])
    positions = np.array(made)
    return positions if rng is None else positions + 0.04 * rng.standard_normal(positions.shape)


def dimer(distance: float, place: float, rng: np.random.Generator | None = None) -> System:
    return System(NUMBERS, geometry(distance, place, rng), 1)


def monomers(rng: np.random.Generator) -> list[System]:
    """Return H3O+ and H2O apart."""
    positions = geometry(5.0, 0.0, rng)
    ion, water = [0, 1, 2, 6], [3, 4, 5]
    return [System([8, 1, 1, 1], positions[ion], 1), System([8, 1, 1], positions[water], 0)]


def generate() -> None:
    from gnn.data.making.labelling import label

    rng = np.random.default_rng(20261128)
    made: list[tuple[System, str, int]] = []
    for run, near, far in ((TRAINING, 100, 14), (TEST, 24, 6)):
        for place in rng.permutation(200)[:near]:
            made.append((dimer(rng.uniform(2.3, 3.4), (place + 0.5) / 200, rng), "near", run))
        for _ in range(far):
            made.append((dimer(1 / rng.uniform(1 / 9.0, 1 / 3.4), 0.0, rng), "far", run))
        for _ in range(far // 2):
            made += zip(monomers(rng), ("H3O", "H2O"), (run, run), strict=True)
    made += [(dimer(PATH_DISTANCE, p), "path", PATH) for p in np.linspace(0.0, 1.0, 13)]
    frames = read_frames(DATA) if DATA.exists() else []
    for system, name, run in made[len(frames) :]:
        labels, _ = label(system, LEVEL)
        labels.pop("mm_forces")
        frames.append(Frame(system, **labels, name=name, run=run))
        if len(frames) % 10 == 0 or len(frames) == len(made):
            print(f"{len(frames)} of {len(made)} frames", flush=True)
            write_frames(DATA, frames)


if __name__ == "__main__":
    generate()
