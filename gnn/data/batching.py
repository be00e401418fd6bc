"""Many systems as one set of tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gnn.data.common import LABELS
from gnn.data.prepared import PreparedFrame, prepare
from gnn.data.systems import Frame, System
from gnn.operators.gpu import at_host, known, remember, table
from gnn.operators.room import Room


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


#: Å; so long is what stands for a pair that is not there.
NOWHERE = 100.0


def apart(vectors: Tensor, present: Tensor) -> Tensor:
    """Return vectors (P, 3), of pairs that are not there a constant one beyond any cutoff."""
    return torch.where(present[:, None], vectors, table((NOWHERE, 0.0, 0.0), vectors))


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
    formal
        Each atom's even share of the charge of its part, the molecule or ion that it belongs to,
        in e, (N,); of the whole system where nobody looked for parts. None where a system has
        several parts whose charges are not given and were not asked for.
    labels
        What is known of ``energy`` (per system, eV, always float64: total energies need it),
        ``forces`` (per atom, eV/Å), ``mm_forces`` (per particle, eV/Å), ``dipole`` (per
        system, e Å, about the centred origin) and ``stress`` (per system in a cell, eV/Å³), by
        name, as `Label`. Frames may have different labels; what no frame has is not in it.
    cell
        Lattice vectors of each system in Å as rows, (B, 3, 3), zero of systems in free space.
        None where no system is in a cell. The atoms of a system in a cell are those images that
        lie in one cell.
    periodic
        Which directions of each system repeat, bool (B, 3), with `cell`.
    shifts
        By how many lattice vectors the sender of each edge is moved, int64 (E, 3), with `cell`.
    between
        For each system a function of its positions (n, 3) and its atoms' packed multipoles (n, 10),
        in e Å^k, that returns an energy () in eV which these have beside what the model says: with
        images of themselves, for instance. Empty: there is none.
    present
        Which edges are there, bool (E,); the others fill a list of fixed length and contribute
        nothing. None: all.
    room
        Of a step of fixed shapes (`gnn.steps`); None: lists are as long as they need to be.
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
    formal: Tensor | None = None
    cell: Tensor | None = None
    periodic: Tensor | None = None
    shifts: Tensor | None = None
    between: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()
    present: Tensor | None = None
    room: Room | None = None

    @property
    def energy(self) -> Tensor | None:
        """Labels of the energies in eV, (B,); None where no system has one.

        Raises
        ------
        ValueError
            As for all labels, if some systems have one and others do not: see `labels`.
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

    @property
    def stress(self) -> Tensor | None:
        """Labels of the stress in eV/Å³, (B, 3, 3), or None."""
        return self._whole("stress")

    def _whole(self, name: str) -> Tensor | None:
        label = self.labels.get(name)
        if label is None:
            return None
        if label.rows is not None:  # a shorter tensor could be broadcast without an error
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
        """Vectors from sender to receiver of every edge in Å, (E, 3).

        Those of edges that are not there are longer than any cutoff.
        """
        ends = self.receivers, self.senders
        receivers, senders = (self.positions.index_select(0, end) for end in ends)
        vectors = receivers - senders
        if self.present is not None:
            return apart(vectors, self.present)
        if self.cell is None or self.shifts is None:
            return vectors
        cells = self.cell.index_select(0, self.batch.index_select(0, self.receivers))
        return vectors - (self.shifts.to(cells.dtype)[:, :, None] * cells).sum(1)

    @property
    def in_cell(self) -> Tensor:
        """Which systems are in a cell, bool (B,)."""
        if self.periodic is None:
            return torch.zeros(self.n_systems, dtype=torch.bool, device=self.numbers.device)
        return self.periodic.any(1)

    @property
    def has_uniform_field(self) -> bool:
        """True if any system is in a uniform field."""
        field = self.uniform_field.detach()
        return bool(known(self.uniform_field, "any", lambda: at_host(field.any())))

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
        found = replace(self, **changed)
        if (
            self.formal is not None
            and found.formal is not None
            and self.formal.device.type == "cpu"
        ):
            remember(found.formal, "even", partial(is_even, self))
        return found


def is_even(batch: Batch) -> bool:
    """Return whether the given charges are the same for all atoms of a system."""
    formal, index = batch.formal, batch.batch
    return formal is not None and bool((formal[1:] == formal[:-1])[index[1:] == index[:-1]].all())


def _checked(
    items: Sequence[System | Frame | PreparedFrame],
    cutoff: float | None,
    dtype: torch.dtype | None,
    local_charges: bool | None,
) -> list[PreparedFrame]:
    """Return all items prepared, after a check that they have one cutoff and one type."""
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
    for i, item in enumerate(items):
        try:
            ready = (
                item
                if isinstance(item, PreparedFrame)
                else prepare(item, cutoff, dtype, local_charges=local_charges)
            )
        except ValueError as error:
            raise ValueError(f"system {i}: {error}") from None
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
    *,
    local_charges: bool | None = False,
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
    local_charges
        Work out the charges of several parts where they are not given; None: do not look for
        parts. See `prepare`.

    Returns
    -------
    Batch
        With every label of every item; see `Batch.labels`.

    Raises
    ------
    ValueError
        If there are no items, some were prepared for another cutoff or type, or bonds do not tell
        the charges of parts that were to be worked out.
    TypeError
        If an item is of another kind.
    """
    prepared = _checked(items, cutoff, dtype, local_charges)

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
    cells: dict[str, Any] = _cells(prepared)
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
        formal=None if any(item.formal is None for item in prepared) else join("formal"),
        **cells,
        labels={name: label for name, label in labels.items() if label is not None},
    )


def _cells(prepared: Sequence[PreparedFrame]) -> dict[str, Tensor]:
    """Join cells, what repeats and the shifts of edges; nothing where no system is in a cell."""
    if all(item.cell is None for item in prepared):
        return {}
    nothing = torch.zeros(1, 3, dtype=torch.bool)

    def or_else(value: Tensor | None, other: Tensor) -> Tensor:
        return other if value is None else value

    cells = [or_else(item.cell, item.positions.new_zeros(1, 3, 3)) for item in prepared]
    periodic = [or_else(item.periodic, nothing) for item in prepared]
    shifts = [
        or_else(item.shifts, item.senders.new_zeros(len(item.senders), 3)) for item in prepared
    ]
    return {"cell": torch.cat(cells), "periodic": torch.cat(periodic), "shifts": torch.cat(shifts)}


def _label(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Label | None:
    """Join the values of a label that some of the items have; None where none has it."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    values = torch.cat(there)
    if len(values) == sum(sizes):
        return Label(values)
    known = torch.tensor([part is not None for part in parts])
    return Label(values, torch.repeat_interleave(known, torch.tensor(sizes)).nonzero()[:, 0])
