"""What the library that owns arrays on a GPU does better than kernels of our own."""

from collections.abc import Callable
from typing import Any

from multipoles.cuda.device import CupySpace, Space, TorchSpace

ENABLED = True
"""Whether libraries are asked; if not, all is done by kernels of our own, with the same result."""


def sorter(space: Space) -> Callable[[Any, Any, Any], None] | None:
    """Return what sorts numbers in the space's memory, on its stream; None if nothing does.

    It takes device arrays of int64, shape (n,): keys, and where to write the sorted keys and the
    stable permutation.
    """
    if not ENABLED:
        return None
    if isinstance(space, TorchSpace):
        return lambda *arrays: _by_torch(space, *arrays)
    if isinstance(space, CupySpace):
        return lambda *arrays: _by_cupy(space, *arrays)
    return None


def _by_torch(space: TorchSpace, *arrays: Any) -> None:
    keys, sorted_keys, order = map(space.give, arrays)
    with space.torch.cuda.stream(space._stream):
        space.torch.sort(keys, stable=True, out=(sorted_keys, order))


def _by_cupy(space: CupySpace, *arrays: Any) -> None:
    keys, sorted_keys, order = map(space.give, arrays)
    with space._stream:
        # CuPy's argsort is a stable radix sort of integers, whatever kind it is asked for
        order[...] = space.cupy.argsort(keys, kind="stable")
        sorted_keys[...] = keys[order]
