"""Many systems as one set of tensors: neighbour pairs, preparation per frame, batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import pad

import multipoles as mp
from gnn.data.common import LABELS
from gnn.data.systems import Frame, System

_DENSE_ATOMS = 200  # up to here a full distance matrix is faster than a k-d tree


def neighbour_pairs(
    positions: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ordered pairs of points with 0 < distance < cutoff.

    Parameters
    ----------
    positions
        Points in Å, shape (n, 3).
    cutoff
        Largest distance in Å (excluded), > 0.

    Returns
    -------
    senders, receivers
        Indices, shape (pairs,), sorted by receiver and then by sender.

    Raises
    ------
    ValueError
        If the cutoff is not a positive finite number.
    """
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff: expected a positive number of Å, got {cutoff}")
    if len(positions) <= _DENSE_ATOMS:
        squared = ((positions[:, None, :] - positions[None, :, :]) ** 2).sum(-1)
        receivers, senders = np.nonzero((squared > 0) & (squared < cutoff * cutoff))
        return senders.astype(np.int64), receivers.astype(np.int64)
    pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray")
    squared = ((positions[pairs[:, 0]] - positions[pairs[:, 1]]) ** 2).sum(-1)
    pairs = pairs[(squared > 0) & (squared < cutoff * cutoff)]  # the tree keeps its border
    senders, receivers = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort((senders, receivers))
    return senders[order].astype(np.int64), receivers[order].astype(np.int64)


class Label(NamedTuple):
    """What is known of one quantity in a batch.

    Attributes
    ----------
    values
        Of the systems, atoms or particles that it is known for, one after the other.
    rows
        Which of all those of the batch these are, int64, sorted; None where it is all of them.
    """

    values: Tensor
    rows: Tensor | None = None

    def among(self, predicted: Tensor) -> Tensor:
        """Return the rows of a quantity of the whole batch that the label is known for."""
        return predicted if self.rows is None else predicted.index_select(0, self.rows)


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """What a batch needs of one frame, worked out once: centred tensors, edges, labels.

    Made by :func:`prepare`; shapes as in :class:`Batch` with one system.
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
    cutoff: float
    dtype: torch.dtype


@dataclass(eq=False)
class Batch:
    """Several systems as one set of tensors; systems are contiguous.

    The coordinates of each system are shifted so that the unweighted mean of its atoms is zero:
    in float64 before the cast, so that float32 is safe anywhere in space. All quantities of a
    batch are about these centred origins, **also the dipole**, which differs from the frame's by
    charge times `origin` (of matter to ions only).

    Attributes
    ----------
    numbers
        Atomic numbers, int64, (N,).
    positions
        Centred positions of all atoms in Å, (N, 3).
    batch
        System of each atom, int64, sorted, (N,).
    charge
        Total charge of each system in e, (B,).
    mm_positions, mm_moments, mm_batch
        Surrounding particles: centred positions in Å (M, 3), packed moments in e Å^k, (M, 1),
        (M, 4) or (M, 10), their systems (M,).
    uniform_field
        Electric field in V/Å, zero potential at the centred origin, (B, 3).
    external_field
        Potential at the atoms and its derivatives in V/Å^k, packed, (N, 0), (N, 1) … (N, 20).
    origin
        What was subtracted from each system's coordinates in Å, float64, (B, 3).
    senders, receivers
        Ordered pairs of atoms of one system with 0 < distance < cutoff, int64, (E,), sorted by
        receiver.
    n_systems
        Number of systems B.
    labels
        What is known of ``energy`` (per system, eV, always float64: total energies need it),
        ``forces`` (per atom, eV/Å), ``mm_forces`` (per particle, eV/Å) and ``dipole`` (per
        system, e Å, about the centred origin), by name, as `Label`. Frames may have different
        labels; what no frame has is not in it.
    """

    numbers: Tensor
    positions: Tensor
    batch: Tensor
    charge: Tensor
    mm_positions: Tensor
    mm_moments: Tensor
    mm_batch: Tensor
    uniform_field: Tensor
    external_field: Tensor
    origin: Tensor
    senders: Tensor
    receivers: Tensor
    n_systems: int
    labels: Mapping[str, Label] = field(default_factory=dict)

    @property
    def energy(self) -> Tensor | None:
        """Labels of the energies in eV, (B,); None where no system has one.

        Raises
        ------
        ValueError
            As for all four labels, if some systems have one and others do not: see `labels`.
        """
        return self._whole("energy")

    @property
    def forces(self) -> Tensor | None:
        """Labels of the forces on the atoms in eV/Å, (N, 3), or None."""
        return self._whole("forces")

    @property
    def mm_forces(self) -> Tensor | None:
        """Labels of the forces on the surrounding particles in eV/Å, (M, 3), or None."""
        return self._whole("mm_forces")

    @property
    def dipole(self) -> Tensor | None:
        """Labels of the dipoles in e Å, about the centred origins, (B, 3), or None."""
        return self._whole("dipole")

    def _whole(self, name: str) -> Tensor | None:
        label = self.labels.get(name)
        if label is None:
            return None
        if label.rows is not None:  # a shorter tensor might be broadcast where it is compared
            raise ValueError(
                f"{name}: only some systems of this batch have it; labels[{name!r}] holds "
                f"{len(label.values)} rows, and which these are"
            )
        return label.values

    @property
    def n_atoms(self) -> int:
        """Number of atoms N of all systems."""
        return self.numbers.shape[0]

    @property
    def n_mm(self) -> int:
        """Number of surrounding particles M of all systems."""
        return self.mm_moments.shape[0]

    @property
    def edge_vectors(self) -> Tensor:
        """Vectors from sender to receiver of every edge in Å, (E, 3)."""
        ends = self.receivers, self.senders
        receivers, senders = (self.positions.index_select(0, end) for end in ends)
        return receivers - senders

    @property
    def has_uniform_field(self) -> bool:
        """True if any system is in a uniform field."""
        return bool(self.uniform_field.detach().any())

    @property
    def mm_charges(self) -> Tensor:
        """Charges of the surrounding particles in e, (M,)."""
        return self.mm_moments[:, 0]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Batch":
        """Copy on another device and/or with another floating-point type.

        `origin` and labels of the energy stay float64; indices stay integers.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device

        def moved(name: str, value: Tensor) -> Tensor:
            cast = value.is_floating_point() and name not in ("energy", "origin")
            return value.to(device=device, dtype=dtype if cast else None)

        changed: dict[str, Any] = {
            "labels": {
                name: Label(moved(name, values), None if rows is None else moved(name, rows))
                for name, (values, rows) in self.labels.items()
            }
        }
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                changed[one.name] = moved(one.name, value)
        return replace(self, **changed)


def prepare(
    item: System | Frame, cutoff: float, dtype: torch.dtype = torch.float32
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

    Returns
    -------
    PreparedFrame
        To be passed to :func:`collate` any number of times.

    Raises
    ------
    TypeError
        If `item` is neither a System nor a Frame, or `dtype` no floating-point type.
    ValueError
        If the cutoff is not a positive number.
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
    origin = system.positions.mean(0)
    positions = system.positions - origin
    senders, receivers = neighbour_pairs(positions, cutoff)
    dipole = None if frame.dipole is None else (frame.dipole - system.charge * origin)[None]

    def cast(array: Any) -> Tensor:
        return torch.tensor(array, dtype=dtype)

    return PreparedFrame(
        numbers=torch.tensor(system.numbers),
        positions=cast(positions),
        charge=cast([system.charge]),
        mm_positions=cast(system.mm_positions - origin),
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
        cutoff=float(cutoff),
        dtype=dtype,
    )


def _mm_moments(system: System) -> NDArray[np.float64]:
    """Return packed moments of the surrounding particles, (m, 1), (m, 4) or (m, 10)."""
    quadrupoles = system.mm_quadrupoles
    if quadrupoles is not None:  # symmetric but for rounding
        quadrupoles = 0.5 * (quadrupoles + quadrupoles.swapaxes(1, 2))
    return mp.pack(system.mm_charges, system.mm_dipoles, quadrupoles)


def _uniform_field(system: System) -> NDArray[np.float64]:
    return np.zeros((1, 3)) if system.uniform_field is None else system.uniform_field[None]


def _external_field(system: System, origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the external field at the atoms, with the constant that centring takes away.

    The potential of a uniform field is zero at the frame's origin, that of a batch at the
    centred one.
    """
    field = system.external_field
    if system.uniform_field is None:
        return np.zeros((system.n_atoms, 0)) if field is None else field
    field = np.zeros((system.n_atoms, 1)) if field is None else field.copy()
    field[:, 0] -= origin @ system.uniform_field
    return field


def _checked(
    items: Sequence[System | Frame | PreparedFrame], cutoff: float | None, dtype: torch.dtype | None
) -> list[PreparedFrame]:
    """All items prepared, for one cutoff and one type."""
    if isinstance(items, System | Frame | PreparedFrame):
        raise TypeError(f"expected a list of systems or frames, got one {type(items).__name__}")
    if len(items) == 0:
        raise ValueError("a batch needs at least one system, got an empty list")
    first = next((item for item in items if isinstance(item, PreparedFrame)), None)
    if cutoff is None:
        if first is None:
            raise ValueError("cutoff: needed for systems and frames that are not prepared yet")
        cutoff = first.cutoff
    if dtype is None:
        dtype = torch.float32 if first is None else first.dtype
    prepared = []
    for item in items:
        ready = item if isinstance(item, PreparedFrame) else prepare(item, cutoff, dtype)
        if ready.cutoff != cutoff or ready.dtype != dtype:
            raise ValueError(
                f"a frame was prepared for cutoff {ready.cutoff} Å and {ready.dtype}, this batch "
                f"is for cutoff {cutoff} Å and {dtype}: call prepare() again with these"
            )
        prepared.append(ready)
    return prepared


def collate(
    items: Sequence[System | Frame | PreparedFrame],
    cutoff: float | None = None,
    dtype: torch.dtype | None = None,
) -> Batch:
    """Join systems into one batch.

    Parameters
    ----------
    items
        Systems, frames or prepared frames, in any mixture; at least one.
    cutoff
        Cutoff of the neighbour pairs in Å. None: that of the prepared frames.
    dtype
        Floating-point type of the batch. None: that of the prepared frames, else float32.

    Returns
    -------
    Batch
        With every label of every item; see `Batch.labels`.

    Raises
    ------
    ValueError
        If there are no items, or some were prepared for another cutoff or type.
    TypeError
        If an item is of another kind.
    """
    prepared = _checked(items, cutoff, dtype)

    def join(name: str) -> Tensor:
        return torch.cat([getattr(item, name) for item in prepared])

    def join_padded(name: str) -> Tensor:
        rows = [getattr(item, name) for item in prepared]
        width = max(row.shape[1] for row in rows)
        return torch.cat([pad(row, (0, width - row.shape[1])) for row in rows])

    atoms = [len(item.numbers) for item in prepared]
    particles = [len(item.mm_moments) for item in prepared]
    sizes = {"forces": atoms, "mm_forces": particles}
    n_atoms, n_mm = torch.tensor(atoms), torch.tensor(particles)
    n_edges = torch.tensor([len(item.senders) for item in prepared])
    systems = torch.arange(len(prepared))
    offsets = torch.repeat_interleave(torch.cumsum(n_atoms, 0) - n_atoms, n_edges)
    ones = [1] * len(prepared)
    labels = {
        name: _label([getattr(item, name) for item in prepared], sizes.get(name, ones))
        for name in LABELS
    }
    return Batch(
        numbers=join("numbers"),
        positions=join("positions"),
        batch=torch.repeat_interleave(systems, n_atoms),
        charge=join("charge"),
        mm_positions=join("mm_positions"),
        mm_moments=join_padded("mm_moments"),
        mm_batch=torch.repeat_interleave(systems, n_mm),
        uniform_field=join("uniform_field"),
        external_field=join_padded("external_field"),
        origin=join("origin"),
        senders=join("senders") + offsets,
        receivers=join("receivers") + offsets,
        n_systems=len(prepared),
        labels={name: label for name, label in labels.items() if label is not None},
    )


def _label(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Label | None:
    """Join what items of some sizes have of a label; None where none has it."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    values = torch.cat(there)
    if len(values) == sum(sizes):
        return Label(values)
    known = torch.tensor([part is not None for part in parts])
    return Label(values, torch.repeat_interleave(known, torch.tensor(sizes)).nonzero()[:, 0])
