"""Measurements on frames from which signs and units of energies and forces follow.

Each function returns None where frames cannot tell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from gnn.data.checking.atoms import ATOM_ENERGIES, RADII, STRETCH
from gnn.data.systems import Frame
from gnn.units import HARTREE

#: Largest displacement in Å of an atom between two frames whose energies are compared.
_STEP = 0.3
_NEIGHBOURS = 3  # frames that each is compared with
_FEWEST_BONDS, _FEWEST_PAIRS = 12, 8
_ATOMS = 24  # whose distances measure how similar two frames are
_HEAVIEST_LIGHT = 10  # up to here valence electrons hold more than a 25th of an atom's energy


@dataclass(frozen=True)
class Slope:
    """How differences of energies grow with forces times displacements; 1 in right units."""

    value: float
    error: float
    n: int

    @property
    def text(self) -> str:
        """What was found, in words."""
        return (
            f"-F·Δx explains differences of energies with slope {self.value:.3g} ± "
            f"{self.error:.1g} (expected 1) over {self.n} pairs of frames"
        )


@dataclass(frozen=True)
class Stretch:
    """How forces on hydrogen grow with the length of its bond, over what they should; by sign."""

    ratio: float
    found: float
    expected: float
    n: int

    @property
    def text(self) -> str:
        """What was found, in words."""
        return (
            f"stretching a bond of hydrogen changes the force along it by {self.found:.3g} per Å "
            f"(expected about {self.expected:.2g} eV/Å) over {self.n} bonds"
        )


@dataclass(frozen=True)
class Total:
    """Energies over sums of atomic energies, where they are the same for all compositions.

    `sure` is whether they cannot be energies of valence electrons or of bonds only.
    """

    ratio: float
    n: int
    sure: bool

    @property
    def text(self) -> str:
        """What was found, in words."""
        several = f"{self.n} compositions" if self.n > 1 else "one composition"
        return (
            f"energies are {self.ratio:.4g} times the sum of atomic energies in eV over {several}"
        )


# --- hydrogen on its bond -----------------------------------------------------------------------


def stretch(frames: Sequence[Frame]) -> Stretch | None:
    """Compare the forces on hydrogen along its bond with the length of that, by its partner."""
    rows: dict[int, list[NDArray[np.float64]]] = {}
    for frame in frames:
        for partner, row in _bonds(frame):
            rows.setdefault(partner, []).append(row)
    slopes, expected, counts = [], [], []
    for partner, bonds in rows.items():
        length, force = np.array(bonds).T
        if len(bonds) < _FEWEST_BONDS or length.std() < 0.012:
            continue  # relaxed or constrained bonds
        slope, correlation = _line(length, force)
        if abs(correlation) > 0.6:
            slopes.append(-slope)
            expected.append(STRETCH[partner])
            counts.append(len(bonds))
    if not counts or len({s > 0 for s in slopes}) > 1:
        return None
    k, wanted = (float(np.average(values, weights=counts)) for values in (slopes, expected))
    return Stretch(k / wanted, -k, -wanted, sum(counts))


def _bonds(frame: Frame) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield partner, bond length and outward force of each hydrogen near its equilibrium."""
    numbers, x = frame.system.numbers, frame.system.positions
    if frame.forces is None or len(numbers) < 2 or frame.system.in_cell:
        return  # in a cell the partner may be an image
    distances, partners = nearest(x)
    for i in np.flatnonzero(numbers == 1).tolist():
        r, j = distances[i], partners[i]
        partner = int(numbers[j])
        if partner in STRETCH and 0.8 < r / (RADII[1] + RADII[partner]) < 1.35:
            yield partner, np.array([r, frame.forces[i] @ (x[i] - x[j]) / r])


def nearest(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distance and number of the nearest other one of at least two points."""
    distances, numbers = cKDTree(points).query(points, k=[2])
    return distances[:, 0], numbers[:, 0]


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and correlation."""
    x, y = x - x.mean(), y - y.mean()
    if not y.any():
        return 0.0, 0.0
    return float(x @ y / (x @ x)), float(x @ y / np.sqrt((x @ x) * (y @ y)))


# --- energies against forces --------------------------------------------------------------------


def slope(frames: Sequence[Frame]) -> Slope | None:
    """Compare differences of energies with forces times displacements of close frames.

    Frames of one molecule are compared with those of most similar distances, superposed; if the
    same particles surround both and hardly move, as they are and with the forces on these.
    """
    groups: dict[tuple, list[Frame]] = {}
    for frame in frames:
        system = frame.system
        given = system.uniform_field is not None or system.external_field is not None
        if frame.energy is None or frame.forces is None or given or system.n_atoms < 2:
            continue
        key = frame.name, system.numbers.tobytes(), system.charge, bool(system.n_mm)
        groups.setdefault(key, []).append(frame)
    products, squares, n = 0.0, 0.0, 0
    for group in groups.values():
        work, change = _pairs(group)
        if len(work) < _FEWEST_PAIRS or not work.any():
            continue
        # noise estimated from the residuals, with a floor for the error of the trapezoidal rule
        own = (work @ change) / (work @ work)
        rest = change - own * work
        noise = max(1.5 * np.sqrt((rest**2).mean()), 0.03 * abs(own) * np.sqrt((work**2).mean()))
        if noise == 0:
            continue
        products += (work @ change) / noise**2
        squares += (work @ work) / noise**2
        n += len(work)
    if not n:
        return None
    return Slope(products / squares, 1 / np.sqrt(squares), n)


def _pairs(group: Sequence[Frame]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return -F·Δx and the differences of energies of close frames."""
    positions = np.array([frame.system.positions for frame in group])
    some = positions[:, :: -(-positions.shape[1] // _ATOMS)]
    shapes = np.array([pdist(x) for x in some])
    count = min(_NEIGHBOURS + 1, len(group))
    alike = cKDTree(shapes).query(shapes, k=range(1, count + 1))[1]
    pairs = {(min(i, j), max(i, j)) for i, row in enumerate(alike) for j in row.tolist()}
    pairs |= {(i, i + 1) for i in range(len(group) - 1)}
    rows = []
    for i, j in sorted(pairs):
        if i == j:
            continue
        work = _work(group[i], group[j])
        if work is not None:
            rows.append((work, group[j].energy - group[i].energy))
    array = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _work(one: Frame, two: Frame) -> float | None:
    """Return minus the mean force times the displacement from one frame to the other."""
    f, g, x, y = one.forces, two.forces, one.system.positions, two.system.positions
    assert f is not None and g is not None
    a, b = one.system, two.system
    together = a.n_mm == b.n_mm and np.array_equal(a.mm_charges, b.mm_charges)
    if together and a.n_mm and one.mm_forces is not None and two.mm_forces is not None:
        step, around = y - x, b.mm_positions - a.mm_positions
        if max(_longest(step), _longest(around)) < _STEP:
            outer = ((one.mm_forces + two.mm_forces) * around).sum()
            return -0.5 * float(((f + g) * step).sum() + outer)
    centre, other = x.mean(0), y.mean(0)
    u, _, v = np.linalg.svd((y - other).T @ (x - centre))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v
    step = (y - other) @ turn - (x - centre)
    return -0.5 * float(((f + g @ turn) * step).sum()) if _longest(step) < _STEP else None


def _longest(vectors: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(vectors, axis=1).max())


# --- energies against atoms ---------------------------------------------------------------------


def total(frames: Sequence[Frame]) -> Total | None:
    """Compare energies with the sums of Hartree-Fock energies of the atoms."""
    ratios: dict[bytes, list[float]] = {}
    heaviest = 0
    for frame in frames:
        numbers = np.sort(frame.system.numbers)
        if frame.energy is not None and numbers[-1] < len(ATOM_ENERGIES):
            atoms = ATOM_ENERGIES[numbers].sum() * HARTREE
            ratios.setdefault(numbers.tobytes(), []).append(frame.energy / atoms)
            heaviest = max(heaviest, int(numbers[-1]))
    means = np.array([np.median(own) for own in ratios.values()])
    if not len(means) or np.ptp(means) > 0.06 * abs(means.mean()):
        return None
    ratio = float(means.mean())
    light = heaviest <= _HEAVIEST_LIGHT or len(means) > 2
    return Total(ratio, len(means), abs(ratio) > 0.5 or (light and abs(ratio) < 0.04))
