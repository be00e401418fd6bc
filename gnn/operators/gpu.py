"""Whether operators run on a GPU: on that of their tensors, or in Numba's simulator of one."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_emulated = False


def on_gpu(tensor: Tensor) -> bool:
    """Return whether a tensor's operators run on a GPU, or in its simulator."""
    return tensor.is_cuda or _emulated


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
