"""Errors of a model on the user's frames, and how new these are to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gnn.data.systems import Frame
from gnn.doctor.findings import NOTE, Finding, judged
from gnn.potential import Potential
from gnn.training.report.metrics import compare, frame_name
from gnn.units import KCAL_PER_MOL

ENERGY = 1e3 * KCAL_PER_MOL  # meV: "chemical accuracy"
FORCES = 10.0  # percent of the reference's spread
FLAGGED = 1.0  # percent of frames that may lie outside of training
_FRAMES, _FRAMES_FULL = 20, 200  # of each molecule


@dataclass(frozen=True)
class Errors:
    """Errors of a model on the frames of one molecule; None without such labels.

    Attributes
    ----------
    molecule, frames
        Its name, and how many frames were compared.
    energy
        Root mean square of the energy's error after a constant, in meV.
    constant
        That constant, in meV: the mean error.
    forces
        Root mean square of the error of forces on the atoms, in meV/Å.
    percent
        The same in percent of the spread of the reference.
    """

    molecule: str
    frames: int
    energy: float | None
    constant: float | None
    forces: float | None
    percent: float | None


def thinned(data: Sequence[Frame], full: bool) -> list[Frame]:
    """Return frames evenly from those of each molecule, as many as there is time for."""
    own: dict[str, list[Frame]] = {}
    for frame in data:
        own.setdefault(frame_name(frame), []).append(frame)
    most = _FRAMES_FULL if full else _FRAMES
    chosen = []
    for frames in own.values():
        count = min(most, len(frames))
        chosen += [frames[i * len(frames) // count] for i in range(count)]
    return chosen


def errors(model: Potential, frames: Sequence[Frame]) -> list[Errors]:
    """Return the errors on labelled frames, molecule by molecule; none without labels."""
    labelled = [f for f in frames if f.energy is not None or f.forces is not None]
    if not labelled:
        return []
    comparison = compare(model.evaluate(labelled, unknown="ignore"), labelled)
    rows = []
    for name in dict.fromkeys(comparison.names):
        predicted, reference = comparison.values("energy", name)
        off = 1e3 * (predicted - reference)
        forces = comparison.errors("forces", name)
        rows.append(
            Errors(
                name,
                comparison.names.count(name),
                float(off.std()) if len(off) > 1 else None,
                float(off.mean()) if len(off) else None,
                None if forces is None else forces.rmse,
                None if forces is None else 100 * forces.ratio,
            )
        )
    return rows


def accuracy(rows: Sequence[Errors]) -> list[Finding]:
    """Return the errors of the molecule with the largest ones."""
    findings = []
    for check, unit, limit, name in (
        ("energies of DATA", "meV", ENERGY, "energy"),
        ("forces of DATA", "%", FORCES, "percent"),
    ):
        known = [row for row in rows if getattr(row, name) is not None]
        if known:
            worst = max(known, key=lambda row: np.nan_to_num(getattr(row, name), nan=np.inf))
            remark = f"worst: {worst.molecule}" + (
                ", after a constant" if name == "energy" else f", {worst.forces:.0f} meV/Å"
            )
            findings.append(judged(check, getattr(worst, name), unit, limit, remark, NOTE))
    return findings


def novelty(model: Potential, frames: Sequence[Frame]) -> list[Finding]:
    """Return how many of some frames lie outside of what the model was trained on."""
    check = "novelty of DATA"
    if model.domain is None:
        remark = "the checkpoint does not say what it was trained on"
        return [Finding(check, None, verdict=NOTE, remark=remark)]
    results = model.evaluate(frames, forces=False, unknown="ignore")
    values = np.array([result["system_novelty"] for result in results])
    names = np.array([frame_name(frame) for frame in frames])
    flagged = values > 1
    remark = f"largest {values.max():.3g} (1 is the edge of training)"
    if flagged.any():
        remark += ", outside: " + ", ".join(
            f"{name} {flagged[names == name].sum()} of {(names == name).sum()}"
            for name in dict.fromkeys(names[flagged].tolist())
        )
    return [judged(check, 100 * flagged.mean(), "%", FLAGGED, remark, NOTE)]
