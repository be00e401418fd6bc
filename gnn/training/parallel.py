"""Data parallel training: every process takes its share of each batch, and gradients are added up.

Not by torch's DistributedDataParallel: that averages the gradients of the processes, which is the
gradient of the batch only where all of them hold equally many atoms and surrounding charges. Here
each process divides its squared errors by the counts of the whole batch, so that plain sums are the
loss and the gradient that one process would find. The model stays unwrapped, its checkpoints are
those of one process, and forces may be differentiated twice before anything is communicated.

A process that is lost, or silent for longer than a time limit, ends all others with an error: what
started them (``torchrun``) may start them anew, fewer or more.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from gnn.training.stopping import Signals


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together; by default this one alone.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    device : torch.device
        Where what is communicated must lie.
    signals : Signals
        What this process is told from outside.

    Raises
    ------
    ConnectionError
        By every method that communicates, if another process is lost or silent.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"
    signals: Signals = field(default_factory=Signals)

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
        return self._reduced(values, distributed.ReduceOp.SUM)

    def smallest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the smallest value of all processes, element by element."""
        return values if self.size == 1 else self._reduced(values, distributed.ReduceOp.MIN)

    def _reduced(self, values: NDArray[np.float64], how: Any) -> NDArray[np.float64]:
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._together(distributed.all_reduce, total, op=how)
        return total.cpu().numpy()

    def _together(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Communicate, or say that the others are not there."""
        try:
            call(*arguments, **options)
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise ConnectionError(
                f"process {self.rank} of {self.size} lost the others, one of which has ended or "
                f"was silent for too long (training.collective_timeout): {reason}"
            ) from error

    def from_first(self, value: float) -> float:
        """Return the first process's value, so that what hangs on it is decided alike."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        self._together(distributed.broadcast, shared, src=0)
        return shared.item()

    @contextmanager
    def file_of_first(self, path: Path) -> Iterator[Path]:
        """Give a file as the first process sees it; others may see an older one, or none."""
        if self.size == 1:
            yield path
            return
        content = path.read_bytes() if self.first else b""
        length = int(self.from_first(len(content)))
        message = torch.frombuffer(bytearray(content or length), dtype=torch.uint8).to(self.device)
        self._together(distributed.broadcast, message, src=0)
        if self.first:
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, path.name)
            copy.write_bytes(message.cpu().numpy().tobytes())
            yield copy

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
        self._together(distributed.all_reduce, message)
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
            self._together(distributed.broadcast, shared, src=0)
            tensor.data.copy_(shared)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            self._together(distributed.barrier)


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
def start(device: torch.device, timeout: float = 600.0) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started; without it, give this process alone.

    Parameters
    ----------
    device : torch.device
        Where the model trains: CPUs talk through gloo, GPUs (one for each process) through nccl.
    timeout : float
        Seconds after which a process that does not answer counts as lost.

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
    _join("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout))
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


def _join(backend: str, timeout: timedelta) -> None:
    """Meet the other processes, and none that were there before a restart.

    Where one torchrun starts all of them, it keeps one store, with the addresses of those that are
    gone. Several torchruns make a new one each time, and need not count restarts alike.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    asked = os.environ.get
    if asked("GROUP_WORLD_SIZE", "1") == "1":
        store = distributed.PrefixStore(asked("TORCHELASTIC_RESTART_COUNT", "0"), store)
    elif rank == 0 and _keeps_its_store():
        warnings.warn(
            "torchrun on several hosts cannot go on with other hosts than those it began with "
            "unless TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set for it on all of them",
            stacklevel=4,
        )
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timeout
    )


def _keeps_its_store() -> bool:
    """Tell whether torchrun means to restart, and would do so with the addresses of before."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    return restarts > 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def restarted() -> bool:
    """Tell whether ``torchrun`` has started this process anew, after another was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _share_threads(processes: int) -> None:
    """Divide the kernels' threads between the processes of this machine."""
    import multipoles

    multipoles.set_num_threads(max(1, multipoles.get_num_threads() // processes))
