"""Errors of a model on labelled frames, per molecule and overall, and baselines beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.data.elements import formula
from gnn.data.streaming import Header
from gnn.data.systems import Frame, System

# name of a quantity, its attribute in frames and results, unit, factor from eV, Å, e
QUANTITIES = {
    "energy": ("meV", 1e3),
    "forces": ("meV/Å", 1e3),
    "mm_forces": ("meV/Å", 1e3),
    "dipole": ("me Å", 1e3),
    "stress": ("meV/Å³", 1e3),
}


class Errors(NamedTuple):
    """Mean absolute and root-mean-square error, and the spread of the reference."""

    mae: float
    rmse: float
    std: float

    @property
    def ratio(self) -> float:
        """RMSE over the standard deviation of the reference."""
        return self.rmse / self.std if self.std > 0 else float("nan")


@dataclass(frozen=True)
class Comparison:
    """Predictions beside references, frame by frame.

    Attributes
    ----------
    names
        Molecule of each frame.
    predicted, reference
        Per quantity one flat array for each frame; of no length where a frame has no such label.
    surrounded
        Which frames have surroundings that forces act on.
    in_cell
        Which frames are in cells: they may have a stress, and the others a dipole.
    """

    names: list[str]
    predicted: dict[str, list[NDArray[np.float64]]]
    reference: dict[str, list[NDArray[np.float64]]]
    surrounded: list[bool]
    in_cell: list[bool]

    def _chosen(self, name: str | None) -> list[int]:
        return [i for i, n in enumerate(self.names) if name is None or n == name]

    def _could(self, quantity: str, i: int) -> bool:
        """Return whether a frame could have a label."""
        if quantity == "mm_forces":
            return self.surrounded[i]
        return quantity not in ("stress", "dipole") or self.in_cell[i] == (quantity == "stress")

    def count(self, quantity: str, name: str | None = None) -> tuple[int, int]:
        """Return how many frames have a label, and how many there are that could have it."""
        chosen = self._chosen(name)
        of = [i for i in chosen if self._could(quantity, i)]
        return sum(len(self.reference[quantity][i]) > 0 for i in chosen), len(of)

    def values(
        self, quantity: str, name: str | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return predicted and reference numbers of one quantity, of one molecule or all."""
        chosen = self._chosen(name)
        predicted, reference = (
            np.concatenate([np.zeros(0), *(source[quantity][i] for i in chosen)])
            for source in (self.predicted, self.reference)
        )
        return predicted, reference

    def errors(self, quantity: str, name: str | None = None) -> Errors | None:
        """Return the errors of one quantity, or None where there is nothing to compare.

        They are those of the frames that have the label. The standard deviation of energies is
        that within molecules: the constant that tells one molecule from another is no achievement.
        """
        predicted, reference = self.values(quantity, name)
        if len(reference) == 0:
            return None
        difference = predicted - reference
        spread = reference - reference[0]  # exactly zero where all are equal
        if quantity == "energy":
            known = [i for i in self._chosen(name) if len(self.reference[quantity][i])]
            label = np.array([self.names[i] for i in known])
            for one in np.unique(label):
                own = reference[label == one] - reference[label == one][0]
                spread[label == one] = own - own.mean()
        factor = QUANTITIES[quantity][1]
        return Errors(
            factor * float(np.abs(difference).mean()),
            factor * float(np.sqrt((difference**2).mean())),
            factor * float(spread.std()),
        )


def compare(results: Sequence[dict[str, Any]], frames: Sequence[Frame]) -> Comparison:
    """Put results of ``model.evaluate`` beside the labels that each of the frames has."""
    comparison = Comparison([], {q: [] for q in QUANTITIES}, {q: [] for q in QUANTITIES}, [], [])
    for result, frame in zip(results, frames, strict=True):
        comparison.names.append(frame_name(frame))
        comparison.surrounded.append(frame.system.n_mm > 0)
        comparison.in_cell.append(frame.system.in_cell)
        for quantity in QUANTITIES:
            label = getattr(frame, quantity)
            known = label is not None and quantity in result
            comparison.predicted[quantity].append(
                np.ravel(result[quantity]) if known else np.zeros(0)
            )
            comparison.reference[quantity].append(np.ravel(label) if known else np.zeros(0))
    return comparison


def frame_name(frame: Frame | Header) -> str:
    """Return the molecule's name, or its composition and charge where it has none."""
    if frame.name:
        return frame.name
    charge = frame.system.charge
    return formula(frame.system.numbers) + (f" ({charge:+d})" if charge else "")


def mean_baseline(training: Sequence[Frame], frames: Sequence[Frame]) -> Comparison:
    """Return the baseline that knows only means: the molecule's mean energy, zero forces."""
    energies: dict[str, list[float]] = {}
    for frame in training:
        if frame.energy is not None:
            energies.setdefault(frame_name(frame), []).append(frame.energy)
    results = [
        {
            "energy": float(np.mean(energies.get(frame_name(frame), [np.nan]))),
            "forces": np.zeros_like(frame.system.positions),
            "mm_forces": np.zeros_like(frame.system.mm_positions),
        }
        for frame in frames
    ]
    return compare(results, frames)


def without_surroundings(frame: Frame) -> Frame:
    """Return the frame with its labels but without the charges that made them."""
    system = frame.system
    bare = System(
        system.numbers,
        system.positions,
        system.charge,
        cell=system.cell,
        periodic=system.periodic,
    )
    return Frame(
        bare.with_charges(system.charges),
        frame.energy,
        frame.forces,
        None,
        frame.dipole,
        run=frame.run,
        name=frame.name,
        stress=frame.stress,
    )


def blind_comparison(results: Sequence[dict[str, Any]], frames: Sequence[Frame]) -> Comparison:
    """Compare a model that saw no surroundings with the true frames; it has no MM forces."""
    seen = ("energy", "forces", "dipole", "stress")
    filled = [
        {name: result[name] for name in seen if name in result}
        | {"mm_forces": np.zeros_like(frame.system.mm_positions)}
        for result, frame in zip(results, frames, strict=True)
    ]
    return compare(filled, frames)
