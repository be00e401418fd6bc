"""How far some frames reach: shortest distances of atoms and charges, largest fields at atoms."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import multipoles as mp
from gnn.data.systems import MAX_ATOMIC_NUMBER, Frame, System
from gnn.units import COULOMB

_SIZE = MAX_ATOMIC_NUMBER + 1


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

    Raises
    ------
    ValueError
        If an array has another shape or holds a negative number or NaN.
    """

    pairs: NDArray[np.float64]
    charges: NDArray[np.float64]
    field: NDArray[np.float64]

    def __post_init__(self) -> None:
        for one in fields(self):
            value = np.array(getattr(self, one.name), dtype=np.float64)
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
        )


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
    charges, field = np.full(_SIZE, np.inf), np.zeros(_SIZE)
    for frame in frames:
        system = frame.system if isinstance(frame, Frame) else frame
        numbers = system.numbers
        _add_pairs(pairs, numbers, system.positions)
        charged = system.mm_positions[system.mm_charges != 0]
        if len(charged):
            np.minimum.at(charges, numbers, cKDTree(charged).query(system.positions)[0])
        gradient = np.linalg.norm(field_gradient(system, damping), axis=1)
        np.maximum.at(field, numbers, gradient)
    return Extent(pairs, charges, field)


def _add_pairs(
    pairs: NDArray[np.float64], numbers: NDArray[np.int64], positions: NDArray[np.float64]
) -> None:
    """Lower the distances of pairs of elements to those of one system."""
    for z in np.unique(numbers):
        # the nearest atom of this element is the atom itself where it is of this element
        distances = cKDTree(positions[numbers == z]).query(positions, k=2)[0]
        own = (numbers == z).astype(np.int64)
        np.minimum.at(pairs[z], numbers, distances[np.arange(len(numbers)), own])


def field_gradient(system: System, damping: float = 2.0) -> NDArray[np.float64]:
    """Return the gradient of the potential of the surroundings at the atoms, (n, 3) in V/Å."""
    gradient = np.zeros((system.n_atoms, 3))
    if system.n_mm:
        moments = mp.pack(system.mm_charges, system.mm_dipoles, system.mm_quadrupoles) * COULOMB
        field = mp.field(
            system.positions, system.mm_positions, moments, order=1, kernel=mp.Erf(damping)
        )
        gradient += field[:, 1:4]
    if system.uniform_field is not None:
        gradient -= system.uniform_field
    if system.external_field is not None and system.external_field.shape[1] >= 4:
        gradient += system.external_field[:, 1:4]
    return gradient
