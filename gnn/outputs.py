"""What a potential returns: strain of a batch and stress, and results apart by system."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.data.batching import Batch
from gnn.layers.electrostatics import PhysicalMultipoles

PER_ATOM = ("forces", "charges", "dipoles", "quadrupoles", "novelty")


def check_place(batch: Batch, name: str, on_gpu: bool, in_cells: bool) -> None:
    """Refuse a batch on a device, or in cells, for which a model is not made.

    Parameters
    ----------
    batch : Batch
        What is to be computed.
    name : str
        Of the kind of model, for the message.
    on_gpu, in_cells : bool
        What the model takes.

    Raises
    ------
    ValueError
        If it does not take the batch.
    """
    device = batch.positions.device
    if batch.positions.is_cuda and not on_gpu:
        raise ValueError(f"{name} runs on the CPU, got a batch on {device}")
    if batch.cell is None:
        return
    if not in_cells:
        raise ValueError(
            f"{name} computes systems in free space, got one in a cell: leave out the cell "
            "(pbc = False in ASE), or use AMP"
        )
    if batch.positions.is_cuda:
        raise ValueError(f"systems in cells are computed on the CPU, got a batch on {device}")


#: Takes positions (n, 3) and packed multipoles (n, 10), float64, to an energy and its derivatives
#: by both.
OfArrays = Callable[[NDArray[Any], NDArray[Any]], tuple[float, NDArray[Any], NDArray[Any]]]


class Between:
    """An energy for `Batch.between` that is computed, with its derivatives, from arrays.

    Parameters
    ----------
    arrays : callable
        See `OfArrays`.
    """

    def __init__(self, arrays: OfArrays):
        self.arrays = arrays

    def __call__(self, positions: Tensor, moments: Tensor) -> Tensor:
        """Return the energy (), once differentiable."""
        energy: Tensor = _Between.apply(positions, moments, self.arrays)
        return energy


class _Between(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, moments: Tensor, arrays: OfArrays) -> Tensor:
        x, m = (np.ascontiguousarray(t.detach().double().numpy()) for t in (positions, moments))
        energy, *derivatives = arrays(x, m)
        ctx.save_for_backward(*(torch.from_numpy(g).to(moments) for g in derivatives))
        return moments.new_tensor(energy)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        by_positions, by_moments = ctx.saved_tensors
        return gradient * by_positions, gradient * by_moments, None


def moments_of(results: Mapping[str, Tensor]) -> Tensor:
    """Return the packed multipoles (N, 10) that a model returned."""
    names = "charges", "dipoles", "quadrupoles"
    return PhysicalMultipoles(*(results[name] for name in names)).packed()


def energy_between(batch: Batch, results: Mapping[str, Tensor]) -> Tensor:
    """Return the energies (B,) in eV of `Batch.between`, for multipoles that a model returned."""
    moments = moments_of(results)
    index = batch.batch.cpu()  # what computes them, does so on the host
    counts = torch.bincount(index, minlength=batch.n_systems).tolist()
    parts = batch.positions.split(counts), moments.split(counts)
    return torch.stack([of(*own) for of, *own in zip(batch.between, *parts, strict=True)])


def strained(batch: Batch, strain: Tensor) -> Batch:
    """Return a batch of which everything is strained: x becomes x + ε x for points and cells.

    Moments of surrounding particles stay as they are.

    Parameters
    ----------
    batch : Batch
        With cells.
    strain : Tensor
        (B, 3, 3), of which the symmetric part counts: the rest is a rotation.
    """
    assert batch.cell is not None  # for the type checker
    symmetric = 0.5 * (strain + strain.transpose(1, 2))

    def moved(points: Tensor, index: Tensor) -> Tensor:
        return points + (symmetric.index_select(0, index) @ points[:, :, None])[:, :, 0]

    return replace(
        batch,
        positions=moved(batch.positions, batch.batch),
        mm_positions=moved(batch.mm_positions, batch.mm_batch),
        cell=batch.cell + batch.cell @ symmetric,
    )


def with_stress(batch: Batch) -> Tensor:
    """Return which systems have a stress, bool (B,).

    Those in a cell, if its vectors span a volume, and no external field is given that does not
    say how it changes with the cell.
    """
    if batch.cell is None:
        return batch.in_cell
    return batch.in_cell & (_volumes(batch.cell) > 0) & ~_in_other_field(batch)


def _volumes(cell: Tensor) -> Tensor:
    return torch.linalg.det(cell.detach().double()).abs()


def _in_other_field(batch: Batch) -> Tensor:
    """Return which systems are in an external field that changes from place to place."""
    varied = batch.external_field[:, 1:].detach().abs().sum(1)
    return torch.zeros_like(batch.charge).index_add(0, batch.batch, varied) > 0


def check_stress(batch: Batch) -> None:
    """Refuse a batch in which nothing has a stress.

    Raises
    ------
    ValueError
        If it is one; says why.
    """
    if bool(with_stress(batch).any()):
        return
    if batch.cell is None:
        raise ValueError("stress: expected a system in a cell, got systems in free space only")
    if bool(_in_other_field(batch).any()):
        raise ValueError(
            "stress: an external field does not say how it changes when the cell is strained: "
            "leave out external_field, or do not ask for the stress"
        )
    raise ValueError(
        "stress: the lattice vectors span no volume to divide by: give the rows of directions "
        "that do not repeat, too, as in a slab whose third vector says how thick it is"
    )


def stress_of(batch: Batch, gradient: Tensor) -> Tensor:
    """Return (B, 3, 3) in eV/Å³ of derivatives by the strain; NaN of systems that have none."""
    assert batch.cell is not None  # for the type checker
    defined, volumes = with_stress(batch), _volumes(batch.cell).to(gradient.dtype)
    # no derivative may pass through a division by zero
    volumes = torch.where(defined, volumes, torch.ones_like(volumes))
    stress = gradient / volumes[:, None, None]
    return torch.where(defined[:, None, None], stress, torch.full_like(stress, torch.nan))


def per_system(output: dict[str, Tensor], batch: Batch) -> list[dict[str, Any]]:
    """Return the results of each system as NumPy arrays.

    What is not defined of a system is not among them: the dipole in a cell, the stress of others.
    """
    arrays = {k: v.detach().double().cpu().numpy() for k, v in output.items()}
    atoms = np.bincount(batch.batch.numpy(), minlength=batch.n_systems).cumsum()[:-1]
    particles = np.bincount(batch.mm_batch.numpy(), minlength=batch.n_systems).cumsum()[:-1]
    split: dict[str, Any] = {"energy": arrays["energy"].tolist()}
    if "mm_forces" in arrays:  # with derivatives
        split["dipole"] = arrays["dipole"] + (batch.charge.double()[:, None] * batch.origin).numpy()
        split["mm_forces"] = np.split(arrays["mm_forces"], particles)
    if "stress" in arrays:
        split["stress"] = arrays["stress"]
    split |= {name: np.split(arrays[name], atoms) for name in PER_ATOM if name in arrays}
    absent = {"dipole": batch.in_cell.tolist(), "stress": (~with_stress(batch)).tolist()}
    return [
        {k: parts[i] for k, parts in split.items() if not (k in absent and absent[k][i])}
        for i in range(batch.n_systems)
    ]
