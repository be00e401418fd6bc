"""What happens to energy, force and curvature when an atom or a charge crosses a cutoff."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gnn.data.systems import Frame, System
from gnn.doctor.findings import Finding, judged
from gnn.doctor.patient import Array, Patient, alone, changed, derivatives, joined
from gnn.training.report.metrics import frame_name

#: Jumps in eV, eV/Å and eV/Å² below which an energy is smooth to its second derivative.
JUMPS = {"energy": 1e-8, "force": 1e-7, "curvature": 1e-4}
_UNITS = ("eV", "eV/Å", "eV/Å²")
_STEP = 4e-6  # Å: so small that third derivatives count for nothing
_OFFSETS = _STEP * np.array([-1.5, -0.5, 0.5, 1.5])


def smoothness(patient: Patient) -> Finding:
    """Return the largest jump of the energy's second derivative at a cutoff.

    Of the energy itself, or of its first derivative, where these jump.
    """
    crossings = [
        crossing
        for cutoff in cutoffs(patient.model.config())
        for crossing in _crossings(patient, cutoff)
    ]
    found = derivatives(patient.exact, [s for _, systems, _, _ in crossings for s in systems])
    worst: dict[str, tuple[float, str]] = dict.fromkeys(JUMPS, (0.0, ""))
    for k, (label, _, moving, line) in enumerate(crossings):
        part = found[4 * k : 4 * k + 4]
        energies = np.array([energy for energy, _, _ in part])
        forces = np.array([np.concatenate([f, g])[moving].sum(0) for _, f, g in part])
        for name, jump in zip(JUMPS, _jumps(energies, -forces @ line), strict=True):
            if not jump <= worst[name][0]:
                worst[name] = (jump, label)
    told = ", ".join(f"{name} {jump:.1e}" for name, (jump, _) in worst.items())
    for (name, (jump, label)), unit in zip(worst.items(), _UNITS, strict=True):
        if not jump <= JUMPS[name] or name == "curvature":
            return judged("smooth at cutoffs", jump, unit, JUMPS[name], f"{label} ({told})")
    raise AssertionError("unreachable: the curvature is always reported")


def cutoffs(config: Mapping[str, Any]) -> list[float]:
    """Return the lengths in Å at which something ends, of a model or of a committee's members."""
    configs = [config, *(member["config"] for member in config.get("members", ()))]
    named = [value for c in configs for name, value in c.items() if name.startswith("cutoff")]
    return sorted({float(value) for value in named})


def _jumps(energies: Array, slopes: Array) -> Array:
    """Return the jumps of energy, slope and curvature in the middle of four equal steps.

    What is left of the differences of values next to the middle when what a smooth function
    changes between them is subtracted.
    """
    left, right = (slopes[1] - slopes[0]) / _STEP, (slopes[3] - slopes[2]) / _STEP
    energy = energies[2] - energies[1] - _STEP * (slopes[1] + slopes[2]) / 2
    slope = slopes[2] - slopes[1] - _STEP * (left + right) / 2
    return np.abs([energy, slope, right - left])


def _crossings(patient: Patient, cutoff: float) -> Iterator[tuple[str, list[System], slice, Array]]:
    """Yield what crosses a cutoff: label, four systems, which rows of all forces move, the line."""
    random = np.random.default_rng(4)
    first = patient.frames[0]
    for second in patient.frames if patient.full else patient.frames[:2]:
        a, b = alone(first.system), alone(second.system)
        i, j = random.integers(a.n_atoms), random.integers(b.n_atoms)
        others = b.positions - b.positions[j]
        line = _line(random, a, int(i), cutoff, others)
        place = a.positions[i] + (cutoff + _OFFSETS)[:, None] * line
        systems = [joined([a, changed(b, positions=others + x)]) for x in place]
        label = f"atom of {frame_name(second)} through {cutoff:g} Å of {frame_name(first)}"
        yield label, systems, slice(a.n_atoms, None), line
    yield _charge_crossing(first, cutoff, random)


def _charge_crossing(
    frame: Frame, cutoff: float, random: np.random.Generator
) -> tuple[str, list[System], slice, Array]:
    system = alone(frame.system)
    atom = int(random.integers(system.n_atoms))
    line = _line(random, system, atom, cutoff, np.zeros((1, 3)))
    place = system.positions[atom] + (cutoff + _OFFSETS)[:, None] * line
    systems = [changed(system, mm_positions=[x], mm_charges=[-0.8]) for x in place]
    label = f"charge through {cutoff:g} Å of {frame_name(frame)}"
    return label, systems, slice(system.n_atoms, None), line


def _line(
    random: np.random.Generator, system: System, atom: int, cutoff: float, others: Array
) -> Array:
    """Return a direction from an atom in which others at the cutoff find most room."""
    drawn = random.standard_normal((64, 3))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    places = system.positions[atom] + cutoff * drawn[:, None, :] + others[None]
    gaps = np.linalg.norm(places[:, :, None] - system.positions[None, None], axis=3)
    best: Array = drawn[int(np.argmax(gaps.min(axis=(1, 2))))]
    return best
