"""Whether operators run on a GPU: on that of their tensors, or in Numba's simulator of one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_emulated = False
# kinds of devices whose operators are those of a GPU; tests add "meta", of tensors without numbers
_KINDS = {"cuda"}


def on_gpu(tensor: Tensor) -> bool:
    """Return whether a tensor's operators run on a GPU, or in its simulator."""
    return tensor.device.type in _KINDS or _emulated


@contextmanager
def emulated() -> Iterator[None]:
    """Let the simulator, if there is one, run GPU kernels on tensors of the CPU; for tests."""
    from multipoles.compiled.cuda_kernels import SIMULATED  # imports numba.cuda

    global _emulated
    before, _emulated = _emulated, SIMULATED
    try:
        yield
    finally:
        _emulated = before


@contextmanager
def standing_in(kind: str) -> Iterator[None]:
    """Let tensors of another kind of device count as those of a GPU; for tests."""
    _KINDS.add(kind)
    try:
        yield
    finally:
        _KINDS.discard(kind)


def at_host(tensor: Tensor) -> Any:
    """Return the one number of a tensor; of a device, for which the host waits."""
    return _item(tensor)


_item = Tensor.item


def known(tensor: Tensor, name: str, make: Callable[[], Any]) -> Any:
    """Return what `make` finds out about a tensor's numbers; once, as long as these stay.

    To read a number of a device, the host waits; with the same tensor again it does not.
    """
    # nobody waits, and NumPy may have changed them; or nobody counts changes
    if tensor.device.type == "cpu" or tensor.is_inference():
        return make()
    kept = getattr(tensor, "_known", {})
    key = name, tensor._version
    if key not in kept:
        kept = {other: value for other, value in kept.items() if other[1] == tensor._version}
        tensor._known = kept  # type: ignore[attr-defined]
        kept[key] = make()
    return kept[key]


def remember(tensor: Tensor | None, name: str, make: Callable[[], Any]) -> None:
    """Keep with a tensor of a device what the host knows of its numbers, for `recalled`."""
    if tensor is not None and tensor.device.type != "cpu":
        known(tensor, name, make)


def recalled(tensor: Tensor, name: str) -> Any:
    """Return what is kept with a tensor as long as its numbers stay; None where nothing is."""
    return getattr(tensor, "_known", {}).get((name, tensor._version))


def table(values: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a small table on the device of a tensor, in its type or another; copied there once.

    Parameters
    ----------
    values : nested tuple of numbers, or ndarray
        Of any shape.
    like : Tensor
        Gives device and, without `dtype`, the type.
    dtype : torch.dtype, optional
        Type of the table.
    """
    wanted = like.dtype if dtype is None else dtype
    if like.device.type == "cpu":  # as fast as to look for it; tracers see tensors of their own
        return torch.tensor(values, dtype=wanted)
    if isinstance(values, np.ndarray):
        values = tuple(map(tuple, values.tolist())) if values.ndim == 2 else tuple(values.tolist())
    return _table(values, like.device, wanted)


@cache
def _table(values: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
