"""The model under examination, with molecules to examine it on."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gnn.data.batching import collate
from gnn.data.checking.atoms import RADII
from gnn.data.elements import symbol
from gnn.data.extent import Extent, extent_of
from gnn.data.parts import derived_charges
from gnn.data.shipped import load_shipped
from gnn.data.systems import Frame, System
from gnn.doctor.knowledge import extent_of_model
from gnn.potential import Potential
from gnn.training.report.metrics import frame_name

Array = NDArray[np.float64]

_AT_ONCE = 64
_FEW, _MANY = 4, 12  # molecules examined in the quick and in the full examination
_CONTACT = 0.7  # times the sum of covalent radii: shorter than any bond
_APART = 0.9  # Å beyond covalent radii: farther away, atoms and charges may attract


@dataclass(frozen=True, eq=False)
class Patient:
    """A model, and what it is examined on.

    Attributes
    ----------
    model
        As it is used.
    exact
        The same in float64, so that figures are the model's and not those of rounding.
    frames
        One frame of each molecule: neutral ones first, then ions.
    elements
        Atomic numbers that are examined.
    extent
        How far the data reached that the model was trained on, or those at hand; None: unknown.
    full
        Whether to take the time for more molecules, directions and steps.
    """

    model: Potential
    exact: Potential
    frames: list[Frame]
    elements: list[int]
    extent: Extent | None
    full: bool = False

    def nearest(self, first: int, second: int) -> float:
        """Return the distance in Å of two elements below which the energy should rise.

        The shortest that is known, if it is not far beyond a bond; where none is known, 0.7 times
        the sum of the covalent radii.
        """
        radii = float(RADII[first] + RADII[second])
        if self.extent is not None and np.isfinite(known := self.extent.pairs[first, second]):
            return float(min(known, radii + _APART))
        return _CONTACT * radii

    def nearest_charge(self, element: int) -> float:
        """Return the distance in Å of a charge to an element below which the energy should rise.

        The shortest that is known, and at most 0.9 Å beyond the covalent radius.
        """
        largest = float(RADII[element]) + _APART
        return largest if self.extent is None else float(min(self.extent.charges[element], largest))


def admitted(model: Potential, data: Sequence[Frame] = (), full: bool = False) -> Patient:
    """Return a model with molecules to examine it on.

    Parameters
    ----------
    model
        Any potential.
    data
        Frames of the user. Of none, those that ship with the package and hold only elements that
        the model knows; else pairs of atoms.
    full
        As in `Patient`.

    Raises
    ------
    ValueError
        If the data hold an element that the model does not know.
    """
    known = set(model.elements)
    for frame in data:
        if known and (foreign := set(frame.system.numbers.tolist()) - known):
            names = ", ".join(symbol(z) for z in sorted(foreign))
            raise ValueError(f"the data hold {names}, of which the model knows nothing")
    frames = list(data) or [
        f for f in load_shipped() if not known or set(f.system.numbers.tolist()) <= known
    ]
    # what is turned, torn and scanned are molecules
    molecules = _molecules([f for f in frames if not f.system.in_cell])
    molecules = molecules or _diatomics(sorted(known))
    elements = sorted(known or {int(z) for f in molecules for z in f.system.numbers})
    model = copy.deepcopy(model).eval().requires_grad_(False)
    extent = extent_of_model(model)
    if extent is None and data:
        extent = extent_of(data)
    chosen = _chosen(molecules, _MANY if full else _FEW)
    if model.charges == "local":  # bonds tell charges as long as they are not stretched
        chosen = [replace(frame, system=_told(frame.system)) for frame in chosen]
    return Patient(model, copy.deepcopy(model).double(), chosen, elements, extent, full)


def _told(system: System) -> System:
    """Return a system that keeps the charges of its parts when its atoms move."""
    if system.charges is not None:
        return system
    charges = derived_charges(system.numbers, system.positions, system.charge)
    return system.with_charges(charges)


def _molecules(frames: Sequence[Frame]) -> list[Frame]:
    """Return the first frame of each molecule."""
    first: dict[str, Frame] = {}
    for frame in frames:
        first.setdefault(frame_name(frame), frame)
    return list(first.values())


def _chosen(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Return the smallest molecule of each charge, then the smallest of the rest."""
    ordered = sorted(frames, key=lambda f: (abs(f.system.charge), f.system.n_atoms))
    first: dict[int, Frame] = {}
    for frame in ordered:
        first.setdefault(frame.system.charge, frame)
    rest = [f for f in ordered if f not in first.values()]
    return [*first.values(), *rest][:count]


def _diatomics(elements: Sequence[int]) -> list[Frame]:
    """Return pairs of atoms at the length of a single bond."""
    pairs = [(a, b) for i, a in enumerate(elements) for b in elements[i:]]
    return [Frame(pair(a, b, float(RADII[a] + RADII[b]))) for a, b in pairs]


# --- systems --------------------------------------------------------------------------------------


def pair(first: int, second: int, distance: float) -> System:
    """Return two neutral atoms at a distance in Å."""
    system = System(np.array([first, second]), np.array([[0, 0, 0], [0, 0, distance]]))
    return system.with_charges(np.zeros(2))


def changed(system: System, **changes: Any) -> System:
    """Return a system with some of its fields changed; given charges stay where they are."""
    charges = changes.pop("charges", system.charges)
    other = replace(system, charges=None, **changes)
    return other if charges is None else other.with_charges(charges)


def alone(system: System) -> System:
    """Return a system without its surroundings."""
    around = ("mm_positions", "mm_charges", "mm_dipoles", "mm_quadrupoles")
    return changed(system, **dict.fromkeys((*around, "uniform_field", "external_field")))


def surrounded(system: System) -> System:
    """Return a system with charges around it: its own, or a few where it has none.

    Without fields, which are tied to a place and a direction.
    """
    if system.n_mm:
        return changed(system, uniform_field=None, external_field=None)
    directions = np.random.default_rng(0).standard_normal((6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centre = system.positions.mean(0)
    reach = np.linalg.norm(system.positions - centre, axis=1).max() + 3.0
    charges = np.array([-0.8, 0.4, 0.4, -0.8, 0.4, 0.4])
    return changed(alone(system), mm_positions=centre + reach * directions, mm_charges=charges)


def joined(parts: Sequence[System]) -> System:
    """Return molecules without surroundings as one system, each with the charge it has."""
    system = System(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
        sum(part.charge for part in parts),
    )
    return system.with_charges(np.concatenate([_shares(part) for part in parts]))


def _shares(system: System) -> Array:
    """Return the charges of the atoms of one molecule: an even share, if none are given."""
    if system.charges is not None:
        return system.charges
    return np.full(system.n_atoms, system.charge / system.n_atoms)


def permuted(system: System, order: NDArray[np.int64]) -> System:
    """Return a system with its atoms in another order."""
    others = "mm_", "uniform", "cell", "periodic"
    names = (one.name for one in fields(system) if not one.name.startswith(others))
    per_atom = [name for name in names if np.ndim(getattr(system, name))]
    return changed(system, **{name: getattr(system, name)[order] for name in per_atom})


# --- results, unchecked: here NaN is a finding ----------------------------------------------------


def energies(model: Potential, systems: Sequence[System]) -> Array:
    """Return the energies of systems in eV, whatever they are."""
    found = [_raw(model, systems[i : i + _AT_ONCE])["energy"] for i in _starts(systems)]
    return np.concatenate([np.zeros(0), *found])


def derivatives(model: Potential, systems: Sequence[System]) -> list[tuple[float, Array, Array]]:
    """Return energy, forces on atoms and forces on charges of systems, whatever they are."""
    results: list[tuple[float, Array, Array]] = []
    for start in _starts(systems):
        part = systems[start : start + _AT_ONCE]
        found = _raw(model, part, forces=True, mm_forces=True)
        atoms = np.cumsum([s.n_atoms for s in part])[:-1]
        charges = np.cumsum([s.n_mm for s in part])[:-1]
        results += zip(
            found["energy"].tolist(),
            np.split(found["forces"], atoms),
            np.split(found["mm_forces"], charges),
            strict=True,
        )
    return results


def _starts(systems: Sequence[System]) -> range:
    return range(0, len(systems), _AT_ONCE)


def _raw(model: Potential, systems: Sequence[System], **asked: bool) -> dict[str, Any]:
    local = model.charges == "local"
    with torch.no_grad():
        batch = collate(systems, model.cutoff, dtype=model.dtype, local_charges=local)
        output = model(batch, **asked)
    return {name: value.detach().double().numpy() for name, value in output.items()}
