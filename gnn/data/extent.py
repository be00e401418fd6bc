"""How far some frames reach: shortest distances of atoms and charges, largest fields at atoms."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import multipoles as mp
from gnn.data.checking.atoms import RADII
from gnn.data.images import farthest, image_pairs, surrounded
from gnn.data.systems import Frame, System
from gnn.data.values import MAX_ATOMIC_NUMBER
from gnn.units import COULOMB
from multipoles.lattice.cell import Cell

_SIZE = MAX_ATOMIC_NUMBER + 1
#: How often each packed second derivative stands in the matrix.
_TIMES = np.array([1.0, 2, 2, 1, 2, 1])
#: Å by which a bond is longer whose order is smaller by a factor of e (Brown & Altermatt 1985).
BOND_DECAY = 0.37
_REACH = 20 * BOND_DECAY  # beyond the sum of radii, where the order of a bond is nothing


@dataclass(frozen=True, eq=False)
class Extent:
    """The extremes of some frames, by element; rows and columns are atomic numbers.

    Parameters
    ----------
    pairs
        Smallest distance in Å of an atom of one element to one of another in the same system,
        symmetric, (95, 95); infinity where there were none.
    charges
        Smallest distance in Å of a surrounding charge to an atom of the element, (95,); infinity
        where there were none. Particles without charge do not count.
    field
        Largest gradient in V/Å of the potential of the surroundings at an atom of the element,
        (95,); zero where there was none.
    curvature
        Largest norm in V/Å² of its second derivatives, (95,). None: not known, infinity.
    valence
        Largest sum of the orders of an atom's bonds, exp((R - r) / 0.37 Å) to each other atom of
        the system, R the sum of covalent radii, (95,): the most neighbours at the shortest
        distances. None: not known, infinity.

    Raises
    ------
    ValueError
        If an array has another shape or holds a negative number or NaN.
    """

    pairs: NDArray[np.float64]
    charges: NDArray[np.float64]
    field: NDArray[np.float64]
    curvature: NDArray[np.float64] = None  # type: ignore[assignment]
    valence: NDArray[np.float64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            value = np.full(_SIZE, np.inf) if value is None else np.array(value, dtype=np.float64)
            shape = (_SIZE, _SIZE) if one.name == "pairs" else (_SIZE,)
            if value.shape != shape or not (value >= 0).all():
                raise ValueError(
                    f"{one.name}: expected numbers >= 0 of shape {shape}, got shape {value.shape}"
                    + (f" and {value.min()}" if value.shape == shape else "")
                )
            object.__setattr__(self, one.name, value)

    def joined(self, other: "Extent") -> "Extent":
        """Return the extent of the frames of both."""
        return Extent(
            np.minimum(self.pairs, other.pairs),
            np.minimum(self.charges, other.charges),
            np.maximum(self.field, other.field),
            np.maximum(self.curvature, other.curvature),
            np.maximum(self.valence, other.valence),
        )

    def holds(self, other: "Extent") -> bool:
        """Return whether the other one reaches no farther."""
        both, names = self.joined(other), (one.name for one in fields(self))
        return all(np.array_equal(getattr(both, name), getattr(self, name)) for name in names)


def extent_of(frames: Iterable[Frame | System], damping: float = 2.0) -> Extent:
    """Return the extent of frames, each of which is read once.

    Parameters
    ----------
    frames
        Frames or systems; of none, everything is infinite or zero.
    damping
        Inverse width in 1/Å of the Gaussians as which surrounding charges act, for the field:
        ``surroundings.damping`` of the model.
    """
    pairs = np.full((_SIZE, _SIZE), np.inf)
    charges = np.full(_SIZE, np.inf)
    field, curvature, valence = np.zeros(_SIZE), np.zeros(_SIZE), np.zeros(_SIZE)
    for frame in frames:
        system = frame.system if isinstance(frame, Frame) else frame
        numbers = system.numbers
        _add_pairs(pairs, numbers, system.positions, system.lattice)
        np.maximum.at(valence, numbers, valences(system))
        charged = system.mm_positions[system.mm_charges != 0]
        if len(charged):
            reach = farthest(system.lattice)
            atoms, around, _ = surrounded(system.positions, charged, system.lattice, reach)
            np.minimum.at(charges, numbers, cKDTree(around).query(atoms)[0])
        derivatives = field_derivatives(system, damping)
        np.maximum.at(field, numbers, np.sqrt(derivatives[:, :3] ** 2 @ np.ones(3)))
        np.maximum.at(curvature, numbers, np.sqrt(derivatives[:, 3:] ** 2 @ _TIMES))
    return Extent(pairs, charges, field, curvature, valence)


def valences(system: System) -> NDArray[np.float64]:
    """Return the sum of the orders of each atom's bonds, (n,); see `Extent.valence`."""
    radii, x = RADII[system.numbers], system.positions
    reach = 2 * radii.max() + _REACH
    sums: NDArray[np.float64] = np.zeros(system.n_atoms)
    if system.lattice is None:
        first, second = cKDTree(x).query_pairs(reach, output_type="ndarray").T
        lengths = np.linalg.norm(x[first] - x[second], axis=1)
        orders = np.exp((radii[first] + radii[second] - lengths) / BOND_DECAY)
        np.add.at(sums, np.concatenate([first, second]), np.tile(orders, 2))
        return sums
    pairs = image_pairs(x, x, system.lattice, reach)
    lengths = pairs.lengths(x, x, system.lattice)
    orders = np.exp((radii[pairs.targets] + radii[pairs.sources] - lengths) / BOND_DECAY)
    np.add.at(sums, pairs.targets, orders)
    return sums


def _add_pairs(
    pairs: NDArray[np.float64],
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    lattice: Cell | None,
) -> None:
    """Lower the distances of pairs of elements to those of one system."""
    atoms, images, origin = surrounded(positions, positions, lattice, farthest(lattice))
    for z in np.unique(numbers):
        # the nearest atom of this element is the atom itself where it is of this element
        distances = cKDTree(images[numbers[origin] == z]).query(atoms, k=2)[0]
        own = (numbers == z).astype(np.int64)
        np.minimum.at(pairs[z], numbers, distances[np.arange(len(numbers)), own])


def field_derivatives(system: System, damping: float = 2.0) -> NDArray[np.float64]:
    """Return the derivatives of the potential of the surroundings at the atoms.

    Gradient in V/Å and packed second derivatives in V/Å², (n, 9).
    """
    derivatives = np.zeros((system.n_atoms, 9))
    if system.n_mm:
        moments = mp.pack(system.mm_charges, system.mm_dipoles, system.mm_quadrupoles) * COULOMB
        points, kernel = (system.positions, system.mm_positions), mp.Erf(damping)
        repeats: Any = system.periodic if system.in_cell else True
        options: dict[str, Any] = {
            "order": 2,
            "kernel": kernel,
            "cell": system.cell,
            "periodic": repeats,
        }
        derivatives += mp.field(*points, moments, **options)[:, 1:]
    if system.uniform_field is not None:
        derivatives[:, :3] -= system.uniform_field
    if system.external_field is not None:
        given = system.external_field[:, 1:10]
        derivatives[:, : given.shape[1]] += given
    return derivatives
