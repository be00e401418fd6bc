"""Small crystals, slabs and wires, and a model for them."""

import numpy as np
import torch

from gnn import AMP, Frame, System
from gnn.options import LongRange, Network

MODEL = {
    "order": 2, "channels": 3, "features": 8, "steps": 2, "cutoff": 4.0,
    "network": Network(hidden=12), "long_range": LongRange(),
}  # fmt: skip
NUMBERS = np.array([8, 1, 6, 1])


def random_model(seed=0, **options):
    torch.manual_seed(seed)
    model = AMP(**MODEL | options).double()
    with torch.no_grad():  # biases and output layers off their neutral start
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def crystal(periodic, charge=0, n_mm=2, seed=0, field=False):
    """Four atoms and charges in a skewed cell smaller than the cutoff; None: in free space."""
    rng = np.random.default_rng(seed)
    cell = np.diag([3.4, 4.3, 4.9]) + 0.3 * rng.normal(size=(3, 3))
    places = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    places = places + 0.04 * rng.normal(size=(4, 3))
    particles = np.array([[0.52, 0.5, 0.47], [0.27, 0.3, 0.8]])[:n_mm]
    across = np.cross(cell[0], cell[1])
    system = System(
        NUMBERS,
        places @ cell,
        charge,
        particles @ cell,
        np.array([0.4, -0.3])[:n_mm],
        cell=None if periodic is None else cell,
        periodic=periodic,
        uniform_field=0.05 * across / np.linalg.norm(across) if field else None,
    )
    return system.with_charges(np.full(4, charge / 4))


def changed(system, **changes):
    """The system with other values, its charge spread as it was."""
    names = (
        "numbers", "positions", "charge", "mm_positions", "mm_charges", "uniform_field",
        "external_field", "cell", "periodic", "mm_dipoles", "mm_quadrupoles",
    )  # fmt: skip
    given = {name: getattr(system, name) for name in names}
    return System(**(given | changes)).with_charges(system.charges)


def energies(model):
    """Return the function from a system to its energy in eV."""
    return lambda system: model.evaluate([system], forces=False)[0]["energy"]


def frame_of(system, rng, stress=False):
    """The system with random labels."""
    matrix = rng.normal(size=(3, 3))
    return Frame(
        system,
        rng.normal(),
        rng.normal(size=(system.n_atoms, 3)),
        rng.normal(size=(system.n_mm, 3)),
        stress=0.01 * (matrix + matrix.T) if stress else None,
    )
