"""Whether the energy is invariant, and forces are its gradient and balance."""

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gnn.data.systems import System
from gnn.doctor.findings import Finding, judged
from gnn.doctor.patient import Array, Patient, changed, derivatives, energies, permuted, surrounded
from gnn.training.report.metrics import frame_name

INVARIANT = {"float32": 2e-3, "float64": 1e-7}  # eV and eV/Å
GRADIENT = 1e-5  # eV/Å
BALANCE = 1e-6  # eV/Å, and eV for torques
_SHIFT = 1e-4  # Å, of finite differences
_DIRECTIONS = 4


# --- invariance -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Change:
    """A change of a system that must not change its energy: how atoms are ordered and turned."""

    name: str
    system: System
    order: NDArray[np.int64]
    turn: Array


def invariance(patient: Patient, dtype: str) -> Finding:
    """Return how much random rotations, translations and permutations change energy or forces."""
    model = patient.exact if dtype == "float64" else copy.deepcopy(patient.model).float()
    random = np.random.default_rng(2)
    worst, where = 0.0, "no change at all"
    for frame in patient.frames:
        base = surrounded(frame.system)
        changes = [c for _ in range(8 if patient.full else 3) for c in _changes(base, random)]
        (e, f, g), *found = derivatives(model, [base, *(change.system for change in changes)])
        for change, (energy, forces, on_charges) in zip(changes, found, strict=True):
            off = np.array(
                [
                    abs(energy - e),
                    abs(forces - f[change.order] @ change.turn.T).max(),
                    abs(on_charges - g @ change.turn.T).max(),
                ]
            ).max()
            if not off <= worst:
                worst, where = off, f"{change.name} of {frame_name(frame)}"
    return judged(f"invariance, {dtype}", worst, "eV, eV/Å", INVARIANT[dtype], where)


def _changes(system: System, random: np.random.Generator) -> list[_Change]:
    order, still = np.arange(system.n_atoms), np.eye(3)
    turn = Rotation.from_quat(random.normal(size=4)).as_matrix()
    mixed = random.permutation(system.n_atoms)
    return [
        _Change("rotation", _turned(system, turn), order, turn),
        _Change("translation", _moved(system, 30 * random.standard_normal(3)), order, still),
        _Change("permutation", permuted(system, mixed), mixed, still),
    ]


def _turned(system: System, turn: Array) -> System:
    dipoles, quadrupoles = system.mm_dipoles, system.mm_quadrupoles
    return changed(
        system,
        positions=system.positions @ turn.T,
        mm_positions=system.mm_positions @ turn.T,
        mm_dipoles=None if dipoles is None else dipoles @ turn.T,
        mm_quadrupoles=None if quadrupoles is None else turn @ quadrupoles @ turn.T,
    )


def _moved(system: System, shift: Array) -> System:
    return changed(
        system, positions=system.positions + shift, mm_positions=system.mm_positions + shift
    )


# --- forces ---------------------------------------------------------------------------------------


def gradient(patient: Patient) -> Finding:
    """Return how far forces are from finite differences of the energy.

    Along random directions in which all atoms and charges move at once.
    """
    random = np.random.default_rng(3)
    worst, where = 0.0, ""
    for frame in patient.frames:
        base = surrounded(frame.system)
        steps = [
            (_unit(random, base.n_atoms), _unit(random, base.n_mm)) for _ in range(_DIRECTIONS)
        ]
        displaced = [_displaced(base, u, s) for u in steps for s in (_SHIFT, -_SHIFT)]
        e = energies(patient.exact, displaced).reshape(-1, 2)
        ((_, forces, on_charges),) = derivatives(patient.exact, [base])
        for (atoms, charges), (ahead, back) in zip(steps, e, strict=True):
            work = (forces * atoms).sum() + (on_charges * charges).sum()
            off = abs(work + (ahead - back) / (2 * _SHIFT))
            if not off <= worst:
                worst, where = off, frame_name(frame)
    return judged("forces, finite differences", worst, "eV/Å", GRADIENT, where)


def _unit(random: np.random.Generator, count: int) -> Array:
    drawn: Array = random.standard_normal((count, 3))
    return drawn / np.linalg.norm(drawn)


def _displaced(system: System, step: tuple[Array, Array], size: float) -> System:
    return changed(
        system,
        positions=system.positions + size * step[0],
        mm_positions=system.mm_positions + size * step[1],
    )


def balance(patient: Patient) -> Finding:
    """Return the largest net force or torque on molecules and the charges around them."""
    worst, where = 0.0, ""
    systems = [surrounded(frame.system) for frame in patient.frames]
    found = derivatives(patient.exact, systems)
    for frame, system, (_, forces, on_charges) in zip(patient.frames, systems, found, strict=True):
        origin = system.positions.mean(0)
        places = np.concatenate([system.positions, system.mm_positions]) - origin
        everything = np.concatenate([forces, on_charges])
        net = [("net force", everything.sum(0))]
        if system.mm_dipoles is None and system.mm_quadrupoles is None:  # these take up torque
            net.append(("net torque", np.cross(places, everything).sum(0)))
        for name, vector in net:
            if not (size := float(np.linalg.norm(vector))) <= worst:
                worst, where = size, f"{name} of {frame_name(frame)} and its surroundings"
    return judged("Newton's third law", worst, "eV/Å, eV", BALANCE, where)
