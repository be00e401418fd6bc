"""Analysis of a run: radial distribution functions, energy drift, pictures."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnn.units import GAS_CONSTANT
from multipoles.files import atomic_write

Array = NDArray[Any]
_CURVES = 8  # in a picture


class Distribution(NamedTuple):
    """A radial distribution function.

    Attributes
    ----------
    radii : array
        Middles of the bins in Å, (b,).
    g : array
        Density of the second kind about the first, over its mean density, (b,).
    """

    radii: Array
    g: Array


def radial_distribution(
    frames: Iterable[Array],
    boxes: Iterable[Array],
    first: Sequence[int],
    second: Sequence[int],
    end: float = 8.0,
    width: float = 0.1,
) -> Distribution:
    """Return the density of atoms of a second kind about those of a first.

    Parameters
    ----------
    frames
        Positions in Å, (n, 3) each.
    boxes
        Lengths of rectangular boxes in Å, (3,) each.
    first, second
        Indices of atoms; an atom is not counted about itself.
    end, width
        Range and width of the bins in Å.

    Raises
    ------
    ValueError
        If a kind is empty, or a box is smaller than twice the range.
    """
    if not (len(first) and len(second)):
        raise ValueError(f"expected atoms of both kinds, got {len(first)} and {len(second)}")
    one, other = np.asarray(first), np.asarray(second)
    edges = np.arange(0.0, end + 0.5 * width, width)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    counts, ideal, n_frames = np.zeros(len(shells)), np.zeros(len(shells)), 0
    pairs = len(one) * len(other) - len(np.intersect1d(one, other))
    for positions, box in zip(frames, boxes, strict=True):
        if end > 0.5 * box.min():
            raise ValueError(f"the range ({end:g} Å) is beyond half of the box ({box.min():.1f} Å)")
        vectors = positions[other] - positions[one][:, None]
        vectors -= box * np.round(vectors / box)
        distances = np.linalg.norm(vectors, axis=2)
        distances = distances[distances > 0]
        counts += np.histogram(distances, edges)[0]
        ideal += pairs * shells / box.prod()
        n_frames += 1
    if not n_frames:
        raise ValueError("expected at least one frame, got none")
    return Distribution(0.5 * (edges[1:] + edges[:-1]), counts / ideal)


def read_trajectory(path: Path) -> tuple[Array, Array]:
    """Read an XTC trajectory: positions (frames, n, 3) and box lengths (frames, 3) in Å.

    Raises
    ------
    ValueError
        If it is no XTC file, or the box is not rectangular.
    """
    from openmm.app.internal.xtc_utils import read_xtc

    if path.suffix != ".xtc":
        raise ValueError(f"expected an XTC trajectory, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"no trajectory {path}")
    positions, boxes, _, _ = read_xtc(str(path).encode())
    lengths = np.diagonal(np.moveaxis(boxes, 2, 0), axis1=1, axis2=2)
    if np.count_nonzero(boxes) > lengths.size:
        raise ValueError(f"{path}: expected a rectangular box")
    return 10.0 * np.moveaxis(positions, 2, 0), 10.0 * lengths


def read_log(path: Path) -> dict[str, Array]:
    """Read ``log.csv`` of a run: its columns as arrays."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} holds no row")
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def temperature_line(log: dict[str, Array]) -> str:
    """Return mean and spread of the temperature in the second half of a run, in words."""
    kelvin = log["temperature_k"][len(log["temperature_k"]) // 2 :]
    return f"temperature {kelvin.mean():.0f} ± {kelvin.std():.0f} K in the second half"


def energy_drift(log: dict[str, Array], degrees: int, temperature: float) -> tuple[float, float]:
    """Return slope of the total energy and its standard error, in kT per degree of freedom and ns.

    A straight line through all rows; its error takes them for independent.
    """
    time, total = log["time_ps"] * 1e-3, log["total_kj_mol"]
    if len(time) < 3:
        raise ValueError(f"expected at least 3 rows to fit a drift, got {len(time)}")
    kt = GAS_CONSTANT * temperature * degrees
    centred = time - time.mean()
    slope = (centred @ (total - total.mean())) / (centred @ centred)
    rest = total - total.mean() - slope * centred
    error = np.sqrt((rest @ rest) / (len(time) - 2) / (centred @ centred))
    return float(slope / kt), float(error / kt)


def picture(folder: Path, topology: Any, solute: Sequence[int], title: str) -> Path:
    """Draw temperature, energy and the water about the solute's heavy atoms to ``md.png``."""
    from matplotlib.figure import Figure

    log = read_log(folder / "log.csv")
    atoms = list(topology.atoms())
    inside = set(solute)
    oxygens = [
        atom.index
        for atom in atoms
        if atom.index not in inside and atom.element is not None and atom.element.symbol == "O"
    ]
    heavy = [i for i in solute if atoms[i].element.symbol != "H"]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].plot(log["time_ps"], log["temperature_k"], lw=0.8, color="#0b6e8a")
    axes[0].set(xlabel="time / ps", ylabel="temperature / K")
    energy = log["total_kj_mol"] - log["total_kj_mol"][0]
    axes[1].plot(log["time_ps"], energy, lw=0.8, color="#b4431d")
    axes[1].set(xlabel="time / ps", ylabel="total energy − start / kJ mol⁻¹")
    path = folder / "trajectory.xtc"
    rectangular = np.count_nonzero(topology.getPeriodicBoxVectors()._value) == 3
    if path.is_file() and oxygens and rectangular:
        frames, boxes = read_trajectory(path)
        end = min(8.0, 0.5 * float(boxes.min()))
        for name, centres in _centres(atoms, heavy):
            distribution = radial_distribution(frames, boxes, centres, oxygens, end)
            axes[2].plot(*distribution, label=f"{name}–O(water)", lw=1.2)
        axes[2].axhline(1, color="0.8", lw=0.8, zorder=0)
        axes[2].set(xlabel="distance / Å", ylabel="g(r)", xlim=(0, end))
        axes[2].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    with atomic_write(folder / "md.png") as temporary:
        figure.savefig(temporary, dpi=120)
    return folder / "md.png"


def _centres(atoms: Sequence[Any], heavy: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Return the atoms about which water is counted: each by itself, or by element if many."""
    if len(heavy) <= _CURVES:
        return [(atoms[i].name, [i]) for i in heavy]
    found: dict[str, list[int]] = {}
    for i in heavy:
        found.setdefault(atoms[i].element.symbol, []).append(i)
    return list(found.items())
