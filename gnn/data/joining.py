"""Batches that meet: one batch of several, and what a model says of it apart again."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gnn.data.batching import Batch

#: What a model says of systems, rather than atoms; ``mm_…`` is of surrounding particles.
PER_SYSTEM = ("energy", "energy_between", "dipole", "stress")
# what each index of a batch counts
_COUNTED = {
    "batch": "n_systems", "mm_batch": "n_systems", "senders": "n_atoms", "receivers": "n_atoms",
}  # fmt: skip
_PADDED = ("mm_moments", "external_field")  # as wide as the widest
_IN_CELLS = ("cell", "periodic", "shifts")


def joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch of the systems of several, in their order.

    Parameters
    ----------
    batches
        Without labels, of one floating-point type, all in cells or none.

    Raises
    ------
    ValueError
        If there is none, or they differ in type, or in what they say of their systems.
    """
    if not batches:
        raise ValueError("expected at least one batch to join, got none")
    if any(one.labels for one in batches):
        raise ValueError("expected batches without labels, for evaluation")
    if len(batches) == 1:
        return batches[0]
    types = {one.positions.dtype for one in batches}
    if len(types) > 1:
        raise ValueError(f"expected batches of one type, got {sorted(map(str, types))}")
    given: dict[str, Any] = {"n_systems": sum(one.n_systems for one in batches)}
    for field in fields(Batch):
        if field.name not in ("n_systems", "labels", "between"):
            given[field.name] = _column(field.name, batches)
    if any(one.between for one in batches):
        own = (one.between or (_nothing,) * one.n_systems for one in batches)
        given["between"] = tuple(chain.from_iterable(own))
    return Batch(**given)


def _nothing(_: Tensor, moments: Tensor) -> Tensor:
    """Return the energy of atoms that have none beside the model's."""
    return moments.new_zeros(())


def _column(name: str, batches: Sequence[Batch]) -> Any:
    """Return one tensor of all batches; None where none has it."""
    values = [getattr(one, name) for one in batches]
    if all(value is None for value in values):
        return None
    if not all(isinstance(value, Tensor) for value in values):
        what = "are in cells" if name in _IN_CELLS else f"have {name}"
        raise ValueError(f"batches to join: some {what}, others not")
    if name in _COUNTED:
        counts = (getattr(one, _COUNTED[name]) for one in batches)
        starts = accumulate(counts, initial=0)
        return torch.cat([v + start for v, start in zip(values, starts, strict=False)])
    if name in _PADDED:
        width = max(value.shape[1] for value in values)
        values = [pad(value, (0, width - value.shape[1])) for value in values]
    return torch.cat(values)


def parted(output: Mapping[str, Tensor], batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
    """Return what a model says of several joined batches, of each of them.

    Parameters
    ----------
    output
        Of the joined batch, by name: of systems (`PER_SYSTEM`, also with ``_std``), of surrounding
        particles (``mm_…``), of atoms (all others).
    batches
        Before they were joined.

    Raises
    ------
    ValueError
        If a result has another length than its name says.
    """
    if len(batches) == 1:
        return [dict(output)]
    parts: list[dict[str, Tensor]] = [{} for _ in batches]
    for name, values in output.items():
        sizes = [_size(name, one) for one in batches]
        if len(values) != sum(sizes):
            raise ValueError(f"{name}: expected {sum(sizes)} rows, got {len(values)}")
        for part, own in zip(parts, values.split(sizes), strict=True):
            part[name] = own
    return parts


def _size(name: str, batch: Batch) -> int:
    if name.removesuffix("_std") in PER_SYSTEM:
        return batch.n_systems
    return batch.n_mm if name.startswith("mm_") else batch.n_atoms
