"""Doubts about signs and units of labels, from geometries, energies and forces together.

Nothing here is proof. A check speaks only where what it finds is far from what nature and any
level of theory make, and gives its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.checking import evidence
from gnn.data.checking.atoms import RADII
from gnn.data.checking.evidence import Slope, Stretch, Total
from gnn.data.systems import Frame
from gnn.units import BOHR, DEBYE, HARTREE, KCAL_PER_MOL, KJ_PER_MOL, NANOMETER

#: Frames that are looked at, in stretches of neighbours.
_MOST, _TOGETHER = 1000, 50
#: Units in eV and eV/Å.
_ENERGIES = {
    "eV": 1.0, "Hartree": HARTREE, "Rydberg": HARTREE / 2, "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
}  # fmt: skip
_FORCES = {
    f"{energy}/{length}": value / size
    for length, size in (("Å", 1.0), ("bohr", BOHR))
    for energy, value in _ENERGIES.items()
} | {"kJ/mol/nm": KJ_PER_MOL / NANOMETER}
#: Slope of energies with forces below which these are none of that energy.
_UNRELATED = 0.5
_Evidence = Slope | Stretch | Total
_NOBLE = (2, 10, 18, 36, 54, 86)
#: Largest point charge in e of any force field.
_LARGEST_CHARGE = 5.0


def doubts(frames: Sequence[Frame]) -> list[str]:
    """Say which labels look as if they had another sign, or another unit than eV, Å and e.

    Parameters
    ----------
    frames
        Of any molecules; of many, a sample is looked at.

    Returns
    -------
    list of str
        One sentence for each doubt, with its numbers; none where all is as expected or the frames
        cannot tell. Compared are distances of atoms with covalent radii; forces on hydrogen along
        its bond with how far that is stretched; differences of energies with forces times
        displacements; energies with sums of atomic energies; dipoles with charges and positions;
        and surrounding charges with what force fields have.
    """
    frames = _sample(frames)
    lengths = _lengths(frames)
    if lengths:  # all else rests on them
        return lengths + _surroundings(frames)
    return _energies_and_forces(frames) + _dipoles(frames) + _surroundings(frames)


def _sample(frames: Sequence[Frame]) -> list[Frame]:
    if len(frames) <= _MOST:
        return list(frames)
    starts = np.linspace(0, len(frames) - _TOGETHER, _MOST // _TOGETHER).astype(int)
    return [frames[i] for start in starts.tolist() for i in range(start, start + _TOGETHER)]


# --- lengths ------------------------------------------------------------------------------------


def _lengths(frames: Sequence[Frame]) -> list[str]:
    """Compare the nearest neighbours of atoms with covalent radii."""
    ratios = np.concatenate([np.zeros(0), *map(_neighbour_ratios, frames)])
    if not len(ratios):
        return []
    least, middle, largest = np.quantile(ratios, (0.05, 0.5, 0.95))
    for unit, size, all_of_them in (("bohr", BOHR, least > 1.5), ("nm", NANOMETER, largest < 0.2)):
        if all_of_them and 0.8 < middle * size < 1.3:
            return [
                f"positions look as if they were in {unit}: the nearest neighbours of "
                f"{len(ratios)} atoms are {middle:.2g} times as far as covalent radii say "
                f"(one {unit} is {size:.6g} Å)"
            ]
    return []


def _neighbour_ratios(frame: Frame) -> NDArray[np.float64]:
    """Return distances over sums of radii, of hydrogen or, without any, of other non-metals."""
    numbers = frame.system.numbers
    chosen = numbers == 1
    if not chosen.any():
        chosen = np.isin(numbers, (6, 7, 8, 9, 15, 16, 17, 35))
    if len(numbers) < 2 or not chosen.any() or frame.system.in_cell:
        return np.zeros(0)  # in a cell the nearest may be an image
    distances, partners = evidence.nearest(frame.system.positions)
    ratios = distances / (RADII[numbers] + RADII[numbers[partners]])
    return ratios[chosen & ~np.isin(numbers[partners], _NOBLE)]


# --- energies and forces ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """What energies and forces may be: their units and signs."""

    energy: str
    force: str
    energy_sign: int = 1
    force_sign: int = 1

    @property
    def faults(self) -> int:
        """Number of signs and units that differ from the convention."""
        units = (self.energy != "eV") + (self.force != "eV/Å")
        return units + (self.energy_sign < 0) + (self.force_sign < 0)

    def misses(self, evidence: _Evidence) -> float:
        """Return by how much evidence differs from what is expected; above 1 it contradicts."""
        energy = self.energy_sign / _ENERGIES[self.energy]
        force = self.force_sign / _FORCES[self.force]
        if isinstance(evidence, Total):
            return abs(evidence.ratio / energy - 1) / 0.03
        if isinstance(evidence, Stretch):
            ratio = evidence.ratio / force
            wide = 5.0 if self.force == "eV/Å" else 1.7  # more is needed to raise a doubt
            return float(abs(np.log(ratio)) / np.log(wide)) if ratio > 0 else np.inf
        expected = energy / force
        normal = (self.energy, self.force) == ("eV", "eV/Å")
        room = max((0.25 if normal else 0.12) * abs(expected), 4 * evidence.error)
        return abs(evidence.value - expected) / room

    def __str__(self) -> str:
        words = []
        for kind, unit, sign, sizes in (
            ("energies", self.energy, self.energy_sign, _ENERGIES),
            ("forces", self.force, self.force_sign, _FORCES),
        ):
            if unit not in ("eV", "eV/Å"):
                words.append(f"{kind} in {unit} (times {sizes[unit]:.6g})")
            if sign < 0:
                words.append(f"{kind} of the wrong sign")
        return " and ".join(words)


_READINGS = sorted(
    (
        _Reading(energy, force, one, two)
        for energy in _ENERGIES
        for force in _FORCES
        for one in (1, -1)
        for two in (1, -1)
    ),
    key=lambda reading: reading.faults,
)


def _energies_and_forces(frames: Sequence[Frame]) -> list[str]:
    """Find the simplest reading of the labels that all evidence allows."""
    slope, stretch = evidence.slope(frames), evidence.stretch(frames)
    apart = []
    if slope is not None and slope.error > 0.25 * abs(slope.value):
        if abs(slope.value) + 4 * slope.error < _UNRELATED:
            apart.append(
                "forces do not go with the energies (of other frames, in another unit, of atoms "
                f"in another order, or of both signs?): {slope.text}"
            )
        slope = None
    own: list[_Evidence] = [part for part in (stretch, slope) if part is not None]
    fits = _fitting(own)
    if own and not fits:
        return [f"energies and forces fit no units known here: {_words(own)}"]
    total = evidence.total(frames)
    # valence or binding energies may agree with another unit by chance
    if total is not None and (total.sure or (slope is not None and fits[0].faults)):
        fits = _fitting([*own, total]) or fits
        own.append(total)
    if not fits[0].faults:
        return apart
    return [f"labels look like {' or '.join(map(str, fits[:2]))}: {_words(own)}"]


def _fitting(evidence: Sequence[_Evidence]) -> list[_Reading]:
    """Return the readings of fewest faults that evidence allows, best first, without far worse."""
    misses = {r: [r.misses(part) for part in evidence] for r in _READINGS}
    fits = [r for r in _READINGS if max(misses[r], default=0.0) < 1]
    fits = [r for r in fits if r.faults == fits[0].faults]
    fits.sort(key=lambda r: sum(misses[r]))
    return [r for r in fits if sum(misses[r]) < sum(misses[fits[0]]) + 0.4]


def _words(evidence: Sequence[_Evidence]) -> str:
    odd = [part for part in evidence if _READINGS[0].misses(part) >= 1]
    return "; ".join(part.text for part in odd or evidence)


# --- dipoles ------------------------------------------------------------------------------------


def _dipoles(frames: Sequence[Frame]) -> list[str]:
    """Compare dipoles with those of atomic charges, known or fitted, and of moved ions."""
    known = [frame for frame in frames if frame.dipole is not None]
    remarks: list[str] = []
    atomic = [(_from_atoms(f), f.dipole) for f in known if f.charges is not None]
    ions = [
        (f.system.charge * f.system.positions.mean(0), f.dipole) for f in known if f.system.charge
    ]
    for pairs, what in ((atomic, "those of the atoms' charges"), (ions, "charge times place")):
        if not pairs:
            continue
        expected, dipoles = np.array(pairs, dtype=np.float64).swapaxes(0, 1).reshape(2, -1)
        # dipoles of an ion beside its charge times place are of the order of 1 e Å
        if (expected @ expected) * 3 < len(expected) * (0.01 if pairs is atomic else 9.0):
            continue
        remarks += _told_dipole(float(expected @ dipoles / (expected @ expected)), what, len(pairs))
    return list(dict.fromkeys(remarks or _fitted_charges(known)))


def _from_atoms(frame: Frame) -> NDArray[np.float64]:
    assert frame.charges is not None
    dipole = frame.charges @ frame.system.positions
    return dipole if frame.dipoles is None else dipole + frame.dipoles.sum(0)


def _told_dipole(ratio: float, what: str, n: int) -> list[str]:
    words = f"they are {ratio:.3g} times {what} over {n} frames (expected 1)"
    if abs(ratio * DEBYE - 1) < 0.25:
        return [f"dipoles look as if they were in Debye (times {DEBYE:.6g} e Å): {words}"]
    if abs(ratio * BOHR - 1) < 0.15:
        return [f"dipoles look as if they were in e bohr (times {BOHR:.6g} e Å): {words}"]
    if ratio < -0.5:
        return [f"dipoles look like the wrong sign: {words}"]
    if abs(ratio) < 0.25:
        return [f"dipoles look as if they were about another origin than coordinates: {words}"]
    return []


def _fitted_charges(frames: Sequence[Frame]) -> list[str]:
    """Fit charges by element, hydrogen by its partner, to dipoles.

    Hydrogen on nitrogen, oxygen or fluorine is positive, of some tenths of e.
    """
    frames = [frame for frame in frames if frame.system.n_atoms > 1]
    types = [_types(frame) for frame in frames]
    names = sorted({name for own in types for name in own.tolist()})
    if len(frames) < 5 or not {1007, 1008, 1009} & set(names):
        return []
    rows: list[NDArray[np.float64]] = []
    wanted: list[Any] = []
    for frame, own in zip(frames, types, strict=True):
        member = (own[:, None] == names).astype(float)
        rows += [frame.system.positions.T @ member, 10 * member.sum(0)[None]]
        wanted += [frame.dipole, [10.0 * frame.system.charge]]
    matrix, target = np.concatenate(rows), np.concatenate(wanted)
    charges = np.linalg.lstsq(matrix, target, rcond=1e-6)[0]
    rest = target - matrix @ charges
    if rest @ rest > 0.5 * (target @ target):
        return []
    polar = {name: q for name, q in zip(names, charges, strict=True) if name in (1007, 1008, 1009)}
    q = float(np.mean(list(polar.values())))
    words = f"they fit charges of {q:+.2g} e on polar hydrogen, over {len(frames)} frames"
    if q > 1.0:
        return [f"dipoles look as if they were in Debye (times {DEBYE:.6g} e Å): {words}"]
    if q < -0.1:
        return [f"dipoles look like the wrong sign: {words}"]
    return []


def _types(frame: Frame) -> NDArray[np.int64]:
    """Return atomic numbers, those of hydrogen as 1000 + that of its nearest neighbour."""
    numbers = frame.system.numbers
    partners = evidence.nearest(frame.system.positions)[1]
    return np.where(numbers == 1, 1000 + numbers[partners], numbers)


# --- surroundings -------------------------------------------------------------------------------


def _surroundings(frames: Sequence[Frame]) -> list[str]:
    """Check the magnitudes of surrounding charges and the geometry of three-site waters."""
    remarks = []
    charges = np.concatenate([np.zeros(0), *(frame.system.mm_charges for frame in frames)])
    largest = float(np.abs(charges).max(initial=0))
    if largest > _LARGEST_CHARGE:
        remarks.append(
            f"surrounding charges look as if they were not in e: the largest is {largest:.3g} "
            "(those of Amber's files are 18.2223 times as large)"
        )
    elif 0 < largest < 1e-3:
        remarks.append(
            f"surrounding charges look as if they were not in e: the largest is {largest:.3g} "
            "(one e is 1.60218e-19 C)"
        )
    bonds = np.concatenate([np.zeros(0), *map(_waters, frames)])
    if len(bonds):
        length = float(np.median(bonds))
        for unit, size in (("bohr", BOHR), ("nm", NANOMETER)):
            if 0.9 < length * size < 1.05:
                remarks.append(
                    f"positions of surrounding charges look as if they were in {unit}: O-H bonds "
                    f"of {len(bonds) // 2} waters are {length:.3g} long (one {unit} is {size:.6g} "
                    "Å)"
                )
    return remarks


def _waters(frame: Frame) -> NDArray[np.float64]:
    """Return the bonds of surroundings that are waters of three charges, oxygen first."""
    charges, x = frame.system.mm_charges, frame.system.mm_positions
    if not len(charges) or len(charges) % 3:
        return np.zeros(0)
    three = charges.reshape(-1, 3)
    water = np.abs(three @ [[1, 0], [1, 1], [1, -1]]).max() < 1e-3 * np.abs(charges).max()
    if not water or not (three[:, 0] < 0).all():
        return np.zeros(0)
    sites = x.reshape(-1, 3, 3)
    return np.linalg.norm(sites[:, 1:] - sites[:, :1], axis=-1).ravel()
