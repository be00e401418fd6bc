"""What a batch needs of a frame, worked out once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import multipoles as mp
from gnn.data.neighbours import neighbour_pairs, neighbours_in_cell
from gnn.data.parts import derived_charges, parts_of
from gnn.data.systems import Frame, System


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """What a batch needs of one frame, worked out once: centred tensors, edges, labels.

    Made by :func:`prepare`; shapes as in :class:`gnn.data.Batch` with one system.
    """

    numbers: Tensor
    positions: Tensor
    charge: Tensor
    mm_positions: Tensor
    mm_moments: Tensor
    uniform_field: Tensor
    external_field: Tensor
    origin: Tensor
    senders: Tensor
    receivers: Tensor
    energy: Tensor | None
    forces: Tensor | None
    mm_forces: Tensor | None
    dipole: Tensor | None
    formal: Tensor | None
    cutoff: float
    dtype: torch.dtype
    stress: Tensor | None = None
    cell: Tensor | None = None
    periodic: Tensor | None = None
    shifts: Tensor | None = None


def prepare(
    item: System | Frame,
    cutoff: float,
    dtype: torch.dtype = torch.float32,
    *,
    local_charges: bool | None = False,
) -> PreparedFrame:
    """Work out once what every batch with this system or frame needs.

    Parameters
    ----------
    item
        System, or frame with labels.
    cutoff
        Cutoff of the neighbour pairs in Å.
    dtype
        Floating-point type of the model.
    local_charges
        Work out the charges of several parts, where they are not given, as models with local
        charges need them. None: for other models; nobody looks for parts, and each atom has an
        even share of the system's charge.

    Returns
    -------
    PreparedFrame
        To be passed to :func:`gnn.data.collate` any number of times.

    Raises
    ------
    TypeError
        If `item` is neither a System nor a Frame, or `dtype` no floating-point type.
    ValueError
        If the cutoff is not a positive number, or bonds do not tell the charges of parts that
        were to be worked out.
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating-point type such as torch.float32, got {dtype}")
    if isinstance(item, System):
        frame = Frame(item)
    elif isinstance(item, Frame):
        frame = item
    else:
        raise TypeError(f"expected a System or Frame, got {type(item).__name__}")
    system = frame.system

    def cast(array: Any) -> Tensor:
        return torch.tensor(array, dtype=dtype)

    # in a cell points may be far from each other, and differences would lose digits in float32
    lattice, cell = system.lattice, system.cell
    inside, around = (
        points if lattice is None else lattice.wrapped(points)
        for points in (system.positions, system.mm_positions)
    )
    origin = inside.mean(0)
    positions = inside - origin
    if lattice is None or cell is None:
        senders, receivers = neighbour_pairs(positions, cutoff)
        of_cell: dict[str, Any] = {}
    else:
        senders, receivers, shifts = neighbours_in_cell(positions, cutoff, lattice)
        of_cell = {
            "cell": cast(cell[None]),
            "periodic": torch.tensor([system.periodic]),
            "shifts": torch.tensor(shifts),
        }
    dipole = None if frame.dipole is None else (frame.dipole - system.charge * origin)[None]
    formal = _formal(system, local_charges)

    return PreparedFrame(
        numbers=torch.tensor(system.numbers),
        positions=cast(positions),
        charge=cast([system.charge]),
        mm_positions=cast(around - origin),
        mm_moments=cast(_mm_moments(system)),
        uniform_field=cast(_uniform_field(system)),
        external_field=cast(_external_field(system, origin)),
        origin=torch.tensor(origin[None]),
        senders=torch.tensor(senders),
        receivers=torch.tensor(receivers),
        energy=None if frame.energy is None else torch.tensor([frame.energy], dtype=torch.float64),
        forces=None if frame.forces is None else cast(frame.forces),
        mm_forces=None if frame.mm_forces is None else cast(frame.mm_forces),
        dipole=None if dipole is None else cast(dipole),
        formal=None if formal is None else cast(formal),
        cutoff=float(cutoff),
        dtype=dtype,
        stress=None if frame.stress is None else cast(frame.stress[None]),
        **of_cell,
    )


def _formal(system: System, derived: bool | None) -> NDArray[np.float64] | None:
    """Return each atom's share of the charge of its part; None if several parts leave it open."""
    if system.charges is not None:
        return system.charges
    if derived:
        return derived_charges(
            system.numbers, system.positions, system.charge, lattice=system.lattice
        )
    if derived is not None and parts_of(system.numbers, system.positions, system.lattice).any():
        return None
    return np.full(system.n_atoms, system.charge / system.n_atoms)


def _mm_moments(system: System) -> NDArray[np.float64]:
    """Return packed moments of the surrounding particles, (m, 1), (m, 4) or (m, 10)."""
    quadrupoles = system.mm_quadrupoles
    if quadrupoles is not None:  # symmetric up to rounding
        quadrupoles = 0.5 * (quadrupoles + quadrupoles.swapaxes(1, 2))
    return mp.pack(system.mm_charges, system.mm_dipoles, quadrupoles)


def _uniform_field(system: System) -> NDArray[np.float64]:
    return np.zeros((1, 3)) if system.uniform_field is None else system.uniform_field[None]


def _external_field(system: System, origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the external field at the atoms, with the constant potential that centring subtracts.

    The potential of a uniform field is zero at the frame's origin, that of a batch at the
    centred one.
    """
    field = system.external_field
    if system.uniform_field is None:
        return np.zeros((system.n_atoms, 0)) if field is None else field
    field = np.zeros((system.n_atoms, 1)) if field is None else field.copy()
    field[:, 0] -= origin @ system.uniform_field
    return field
