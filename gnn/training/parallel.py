"""Data parallel training: every process takes its share of each batch, and gradients are added up.

Not by torch's DistributedDataParallel: that averages the gradients of the processes, which is the
gradient of the batch only where all of them hold equally many atoms and surrounding charges. Here
each process divides its squared errors by the counts of the whole batch, so that plain sums are the
loss and the gradient that one process would find. The model stays unwrapped, its checkpoints are
those of one process, and forces may be differentiated twice before anything is communicated.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together; by default this one alone.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    device : torch.device
        Where what is communicated must lie.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"

    @property
    def first(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's part of a batch."""
        return indices[self.rank :: self.size]

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum over all processes."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.cpu().numpy()

    def from_first(self, value: float) -> float:
        """Return the first process's value, so that what hangs on it is decided alike."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return shared.item()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes, in one message.

        A parameter that no process has a gradient of keeps none, as with one process.
        """
        if self.size == 1:
            return
        everything = list(parameters)
        present = [p.grad is not None for p in everything]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in everything]
        flags = torch.tensor(present, dtype=parts[0].dtype, device=parts[0].device)
        message = torch.cat([*(part.reshape(-1) for part in parts), flags])
        distributed.all_reduce(message)
        sums, flags = message[: -len(parts)], message[-len(parts) :]
        pieces = sums.split([part.numel() for part in parts])
        for parameter, piece, somewhere in zip(everything, pieces, flags.tolist(), strict=True):
            parameter.grad = piece.view_as(parameter).clone() if somewhere else None

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size == 1:
            return
        for tensor in tensors:
            shared = tensor.detach().to(self.device)
            distributed.broadcast(shared, src=0)
            tensor.data.copy_(shared)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            distributed.barrier()


def training_device(name: str) -> torch.device:
    """Return the device that the setting names.

    Raises
    ------
    ValueError
        If a GPU is asked for where torch sees none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "training.device: cuda was asked for, but torch sees no GPU here; use cpu, or auto"
        )
    return torch.device("cuda" if name != "cpu" and available else "cpu")


@contextmanager
def start(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started; without it, give this process alone.

    Parameters
    ----------
    device : torch.device
        Where the model trains: CPUs talk through gloo, GPUs (one for each process) through nccl.

    Raises
    ------
    ValueError
        If there are more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if beside > gpus:
            raise ValueError(
                f"torchrun started {beside} processes here, but there are {gpus} GPUs: give it "
                f"--nproc-per-node {gpus}, or set training.device: cpu"
            )
        torch.cuda.set_device(local)  # so that "cuda" means this one from here on
        device = torch.device("cuda", local)
    _share_threads(beside)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


def _share_threads(processes: int) -> None:
    """Divide the kernels' threads between the processes of this machine."""
    import multipoles

    multipoles.set_num_threads(max(1, multipoles.get_num_threads() // processes))
