"""Results that no model may give: not finite, or energies that no nuclei and electrons have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from gnn.data.images import farthest, surrounded
from gnn.data.systems import Frame, System
from gnn.units import COULOMB

_LARGEST = 1e6  # eV per atom beyond which an energy is an error: uranium has 0.76e6


def check_results(
    results: Sequence[dict[str, Any]], systems: Sequence[System | Frame], start: int
) -> None:
    """Refuse results that are not finite, and energies that no nuclei and electrons have."""
    for i, item in enumerate(systems, start):
        system = item.system if isinstance(item, Frame) else item
        for name, value in results[i].items():
            if not np.isfinite(value).all():
                raise ValueError(
                    f"system {i}: the {name} came out as NaN or infinity: {_extremes(system)}"
                )
        energy = results[i]["energy"]
        size = _LARGEST * system.n_atoms
        if abs(energy) > size and (energy < 0 or energy > size + _bare_repulsion(system)):
            raise ValueError(
                f"system {i}: the energy came out as {energy:.3g} eV, which no nuclei and "
                f"electrons have: {_extremes(system)}"
            )


def _bare_repulsion(system: System) -> float:
    """Return the energy in eV of the nuclei without electrons."""
    if system.n_atoms < 2:
        return 0.0
    first, second = np.triu_indices(system.n_atoms, 1)
    z = system.numbers.astype(np.float64)
    return COULOMB * float((z[first] * z[second] / pdist(system.positions)).sum())


def _extremes(system: System) -> str:
    """Describe the extremes of a system, which may be beyond a model."""
    remarks = []
    lattice, reach = system.lattice, farthest(system.lattice)
    atoms, images, origin = surrounded(system.positions, system.positions, lattice, reach)
    tree = cKDTree(images)
    if len(images) > 1:
        distances, others = tree.query(atoms, k=2)
        i = int(distances[:, 1].argmin())
        pair = sorted((i, int(origin[others[i, 1]])))
        numbers = " and ".join(str(z) for z in system.numbers[pair])
        remarks.append(
            f"the nearest atoms {pair[0]} and {pair[1]} (atomic numbers {numbers}) are "
            f"{distances[i, 1]:.3g} Å apart"
        )
    if system.n_mm:
        particles = system.mm_positions if lattice is None else lattice.wrapped(system.mm_positions)
        distances, nearest = tree.query(particles)
        j = int(distances.argmin())
        remarks.append(
            f"charge {j} is {distances[j]:.3g} Å from atom {origin[nearest[j]]}, and the largest "
            f"is {abs(system.mm_charges).max():.3g} e"
        )
    if system.charge:
        remarks.append(f"the total charge is {system.charge} e")
    if system.uniform_field is not None and system.uniform_field.any():
        strength = float(abs(system.uniform_field).max())
        remarks.append(f"the uniform field goes up to {strength:.3g} V/Å")
    size = max(float(abs(x).max(initial=0)) for x in (system.positions, system.mm_positions))
    remarks.append(f"coordinates go up to {size:.3g} Å")
    return ", ".join(remarks) + "; one of these is beyond what the model or its precision can do"
