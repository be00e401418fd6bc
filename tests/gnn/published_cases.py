"""Systems and models for the tests of published models."""

from pathlib import Path

import numpy as np
import torch

from gnn import System
from gnn.published import AmpBms

WEIGHTS = "amp_bms_MIN_state_dict"
SMALL = {"features": 16, "edge_features": 8, "channels": 3, "hidden": 16, "readout": 8}


def small_model(seed: int = 0, **options) -> AmpBms:
    """Random weights and tables, float64."""
    torch.manual_seed(seed)
    model = AmpBms(**(SMALL | options))
    model.dispersion.free.uniform_(10, 100)
    model.dispersion.radii.uniform_(2, 3)
    return model.double().eval()


def water(n_mm: int = 12, seed: int = 0, charge: float = 0.0) -> System:
    random = np.random.default_rng(seed)
    atoms = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    atoms = atoms + 0.05 * random.normal(size=(3, 3))
    directions = random.normal(size=(n_mm, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    particles = directions * random.uniform(3, 8.5, n_mm)[:, None]
    return System([8, 1, 1], atoms, charge, particles, random.uniform(-0.8, 0.8, n_mm))


def methanol(n_mm: int = 10, seed: int = 1) -> System:
    atoms = [
        [-0.05, 0.66, 0.0], [-0.05, -0.76, 0.0], [-1.09, 0.98, 0.0], [0.88, -1.06, 0.0],
        [0.44, 1.07, 0.89], [0.44, 1.07, -0.89],
    ]  # fmt: skip
    near = water(n_mm, seed)
    return System([6, 8, 1, 1, 1, 1], np.array(atoms), 0, near.mm_positions, near.mm_charges)


def reference_systems(data) -> list[System]:
    """The systems of a reference file, one for each frame."""
    charge = float(data["mol_charge"]) if "mol_charge" in data else 0.0
    return [
        System(data["Z"], x, charge, y, q)
        for x, y, q in zip(data["coords_qm"], data["coords_mm"], data["charges_mm"], strict=True)
    ]


def moved(system: System, rotation=None, shift=0.0) -> System:
    turn = np.eye(3) if rotation is None else rotation
    return System(
        system.numbers,
        system.positions @ turn.T + shift,
        system.charge,
        system.mm_positions @ turn.T + shift,
        system.mm_charges,
    )


def reference_files(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))
