"""Two atoms pressed together, or a charge pressed onto an atom: the energy should rise."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gnn.data.checking.atoms import RADII
from gnn.data.elements import symbol
from gnn.data.systems import System
from gnn.doctor.findings import Finding, judged
from gnn.doctor.patient import Array, Patient, alone, changed, energies, joined, pair
from gnn.training.report.metrics import frame_name

LEAST = 0.3  # Å, where scans end
CHARGES = (0.4, -0.8)  # e, near those of the atoms of a water
#: eV that an energy may fall on the way in: walls set in smoothly, and need some pm to turn it.
HOLE = 0.1
_STEP = 0.02  # Å
_OUTSIDE = 1.0  # Å of a scan within the data, for the picture
_SHORTER = 0.85  # times all lengths: no bond is so short
_BOND = 1.3  # times the sum of covalent radii


@dataclass(frozen=True, eq=False)
class Scan:
    """Energies on the way in.

    Attributes
    ----------
    label
        What comes close to what.
    elements
        Atomic numbers of the pair, or of the atom alone; none of whole molecules.
    distances
        From the largest to the smallest, in Å.
    energies
        In eV, relative to that at the nearest known distance.
    nearest
        That distance: from there on the energy must rise.
    """

    label: str
    elements: tuple[int, ...]
    distances: Array
    energies: Array
    nearest: float

    def hole(self) -> tuple[float, float]:
        """Return how far the energy falls on its way in, in eV, and where it is lowest then.

        Infinity where an energy is not finite.
        """
        inside = self.distances <= self.nearest + 1e-9
        r, e = self.distances[inside], self.energies[inside]
        if not np.isfinite(e).all():
            return np.inf, float(r[np.argmin(np.isfinite(e))])
        fall = np.maximum.accumulate(e) - e
        return float(fall.max()), float(r[np.argmax(fall)])


def _distances(nearest: float) -> Array:
    """Return distances from the outside to the smallest one, among them the nearest known."""
    steps = np.arange(round(_OUTSIDE / _STEP), -np.ceil((nearest - LEAST) / _STEP) - 1, -1)
    return np.maximum(nearest + _STEP * steps, LEAST)


def _scanned(
    patient: Patient, paths: Sequence[tuple[str, tuple[int, ...], float, list[System]]]
) -> list[Scan]:
    """Return the energies along paths of label, elements, nearest known distance and systems."""
    found = energies(patient.exact, [system for path in paths for system in path[3]])
    scans, start = [], 0
    for label, elements, nearest, systems in paths:
        r = _distances(nearest)
        e = found[start : start + len(systems)]
        start += len(systems)
        scans.append(Scan(label, elements, r, e - e[np.argmin(abs(r - nearest))], nearest))
    return scans


# --- pairs of atoms -------------------------------------------------------------------------------


def pairs_alone(patient: Patient) -> list[Scan]:
    """Return scans of every pair of elements, with nothing around."""
    paths = []
    for i, first in enumerate(patient.elements):
        for second in patient.elements[i:]:
            nearest = patient.nearest(first, second)
            systems = [pair(first, second, float(r)) for r in _distances(nearest)]
            paths.append((_pair(first, second), (first, second), nearest, systems))
    return _scanned(patient, paths)


def pairs_in_molecules(patient: Patient) -> list[Scan]:
    """Return scans of pairs of atoms in molecules, each with what is bound to it.

    Of every pair of elements those two atoms that are nearest to each other.
    """
    best: dict[tuple[int, int], tuple[float, str, System, int, int]] = {}
    for frame in patient.frames:
        system = alone(frame.system)
        gaps = np.linalg.norm(system.positions[:, None] - system.positions[None], axis=2)
        for i, j in combinations(range(system.n_atoms), 2):
            a, b = sorted((int(system.numbers[i]), int(system.numbers[j])))
            if (a, b) not in best or gaps[i, j] < best[a, b][0]:
                best[a, b] = float(gaps[i, j]), frame_name(frame), system, i, j
    paths = []
    for (first, second), (gap, name, system, i, j) in sorted(best.items()):
        nearest = min(patient.nearest(first, second), gap)
        systems = [_pressed(system, i, j, r) for r in _distances(nearest)]
        paths.append((f"{_pair(first, second)} in {name}", (first, second), nearest, systems))
    return _scanned(patient, paths)


def _pair(first: int, second: int) -> str:
    return f"{symbol(first)}–{symbol(second)}"


def _pressed(system: System, i: int, j: int, distance: float) -> System:
    """Return a molecule with atom j, and what hangs on it, moved along the line to atom i."""
    line = system.positions[j] - system.positions[i]
    length = np.linalg.norm(line)
    positions = system.positions.copy()
    positions[_side(system, i, j)] += (distance / length - 1) * line
    return changed(system, positions=positions)


def _side(system: System, i: int, j: int) -> list[int]:
    """Return the atoms that hang on atom j once its bond to atom i is cut; in a ring j alone."""
    gaps = np.linalg.norm(system.positions[:, None] - system.positions[None], axis=2)
    radii = RADII[system.numbers]
    bound = gaps < _BOND * (radii[:, None] + radii[None])
    bound[i, j] = bound[j, i] = False
    side, ahead = {j}, [j]
    while ahead:
        new = set(np.flatnonzero(bound[ahead.pop()]).tolist()) - side
        side |= new
        ahead += new
    return [j] if i in side else sorted(side)


# --- many atoms at once ---------------------------------------------------------------------------


def crowded_molecules(patient: Patient) -> list[Scan]:
    """Return scans of molecules, and of two side by side, that are compressed as a whole.

    Against their nearest two atoms. What holds two atoms apart may fail where many come close.
    """
    crowds = [(frame_name(frame), alone(frame.system)) for frame in patient.frames]
    crowds += [(f"{a} + {b}", _side_by_side(x, y)) for (a, x), (b, y) in combinations(crowds, 2)]
    paths = []
    for name, system in crowds:
        positions = system.positions - system.positions.mean(0)
        gap = min(float(np.linalg.norm(a - b)) for a, b in combinations(positions, 2))
        nearest = _SHORTER * gap
        systems = [changed(system, positions=r / gap * positions) for r in _distances(nearest)]
        paths.append((f"{name} compressed", (), nearest, systems))
    return _scanned(patient, paths)


def _side_by_side(first: System, second: System) -> System:
    """Return two molecules whose atoms are nowhere closer than 2 Å."""
    beyond = first.positions[:, 0].max() - second.positions[:, 0].min() + 2.0
    return joined([first, changed(second, positions=second.positions + np.array([beyond, 0, 0]))])


# --- charges --------------------------------------------------------------------------------------


def charges_near_atoms(patient: Patient) -> list[Scan]:
    """Return scans of charges that come to an atom of every element, from where there is room."""
    paths = []
    for element in patient.elements:
        name, system, atom = _host(patient, element)
        nearest = patient.nearest_charge(element)
        for direction in _directions(system, atom, 4 if patient.full else 1):
            for charge in CHARGES:
                places = [system.positions[atom] + r * direction for r in _distances(nearest)]
                systems = [
                    changed(system, mm_positions=[place], mm_charges=[charge]) for place in places
                ]
                label = f"{charge:+g} e to {symbol(element)}{name}"
                paths.append((label, (element,), nearest, systems))
    return _scanned(patient, paths)


def _host(patient: Patient, element: int) -> tuple[str, System, int]:
    """Return a molecule with an atom of an element, or that atom alone."""
    for frame in patient.frames:
        found = np.flatnonzero(frame.system.numbers == element)
        if len(found):
            return f" in {frame_name(frame)}", alone(frame.system), int(found[-1])
    return "", System(np.array([element]), np.zeros((1, 3))), 0


def _directions(system: System, atom: int, count: int) -> Array:
    """Return directions from an atom in which the other atoms are farthest away."""
    drawn = np.random.default_rng(1).standard_normal((64, 3))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    others = np.delete(system.positions, atom, axis=0) - system.positions[atom]
    if not len(others):
        return drawn[:count]
    room = np.linalg.norm(1.5 * drawn[:, None] - others[None], axis=2).min(1)
    return drawn[np.argsort(-room)[:count]]


# --- verdicts -------------------------------------------------------------------------------------


def holes(check: str, scans: Sequence[Scan]) -> Finding:
    """Return the deepest hole of some scans."""
    found = [(*scan.hole(), scan.label) for scan in scans]
    depth, distance, label = max(found, key=lambda hole: hole[0])
    deep = sum(hole[0] > HOLE for hole in found)
    if not deep:
        return judged(check, depth, "eV", HOLE, f"all {len(scans)} rise below what is known")
    what = "not finite" if np.isinf(depth) else "deepest"
    remark = f"{what}: {label} at {distance:.2f} Å; holes in {deep} of {len(scans)}"
    return judged(check, depth, "eV", HOLE, remark)
