"""Two molecules far apart, whose energy should be the sum of the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from gnn.data.systems import Frame, System
from gnn.doctor.findings import Finding, judged
from gnn.doctor.patient import Array, Patient, alone, changed, energies, joined
from gnn.training.report.metrics import frame_name
from gnn.units import COULOMB

FAR = 1000.0  # Å
ADDS_UP = 1e-6  # eV
_CURVE = np.geomspace(6.0, FAR, 25)


@dataclass(frozen=True, eq=False)
class Curve:
    """The interaction of two molecules against the distance of their centres.

    Attributes
    ----------
    label, kind
        Names of the molecules; "neutral", "ion–neutral" or "ion–ion".
    distances
        In Å.
    energies
        E(AB) − E(A) − E(B) in eV.
    expected
        Energy of the two molecules' charges and dipoles with each other, as the model has them.
    """

    label: str
    kind: str
    distances: Array
    energies: Array
    expected: Array


def curves(patient: Patient) -> list[Curve]:
    """Return the interaction of a pair of molecules of each kind that there is."""
    chosen: dict[str, tuple[Frame, Frame]] = {}
    for pair in combinations_with_replacement(patient.frames, 2):
        charges = [frame.system.charge for frame in pair]
        if np.prod(charges) <= 0:  # ions of one sign tell nothing that the others do not
            kind = ("neutral", "ion–neutral", "ion–ion")[sum(q != 0 for q in charges)]
            chosen.setdefault(kind, pair)
    return [_curve(patient, kind, pair) for kind, pair in sorted(chosen.items())]


def _curve(patient: Patient, kind: str, pair: tuple[Frame, Frame]) -> Curve:
    parts = [_centred(alone(frame.system)) for frame in pair]
    whole = [joined([parts[0], _moved(parts[1], r)]) for r in _CURVE]
    apart = energies(patient.exact, parts).sum()
    interaction = energies(patient.exact, whole) - apart
    first, second = (_charge_and_dipole(patient, part) for part in parts)
    label = f"{frame_name(pair[0])} + {frame_name(pair[1])}"
    return Curve(label, kind, _CURVE, interaction, _multipolar(first, second, _CURVE))


def _centred(system: System) -> System:
    return changed(system, positions=system.positions - system.positions.mean(0))


def _moved(system: System, distance: float) -> System:
    return changed(system, positions=system.positions + np.array([distance, 0.0, 0.0]))


def _charge_and_dipole(patient: Patient, system: System) -> tuple[float, Array]:
    """Return a molecule's charge, and its dipole about the origin, of the atoms' multipoles."""
    (found,) = patient.exact.evaluate([system], forces=False, unknown="ignore")
    charges = found["charges"]
    return float(charges.sum()), charges @ system.positions + found["dipoles"].sum(0)


def _multipolar(first: tuple[float, Array], second: tuple[float, Array], r: Array) -> Array:
    """Return the energy in eV of two charges with dipoles, the second at distances r along x."""
    (q1, mu1), (q2, mu2) = first, second
    # the first molecule's dipole points away from the second one where its x is negative
    dipolar = q2 * mu1[0] - q1 * mu2[0]
    return COULOMB * (q1 * q2 / r + dipolar / r**2 + (mu1 @ mu2 - 3 * mu1[0] * mu2[0]) / r**3)


def size_consistency(found: Sequence[Curve]) -> Finding:
    """Return the largest energy that distant molecules have beyond that of their multipoles."""
    errors = [abs(float(curve.energies[-1] - curve.expected[-1])) for curve in found]
    worst = int(np.argmax([np.inf if np.isnan(e) else e for e in errors]))
    told = ", ".join(f"{c.kind} {e:.1e}" for c, e in zip(found, errors, strict=True))
    remark = f"{found[worst].label} at {FAR:g} Å ({told})"
    return judged("size consistency", errors[worst], "eV", ADDS_UP, remark)
