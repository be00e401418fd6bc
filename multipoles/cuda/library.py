"""What the library that owns arrays on a GPU does better than kernels of our own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from multipoles.cuda.device import CupySpace, Space, TorchSpace

ENABLED = True
"""Whether libraries are asked; if not, all is done by kernels of our own, with the same result."""


def sorter(space: Space, keys: Any) -> Callable[[Any, Any], None] | None:
    """Return what sorts keys on the space's stream by its library; None if that cannot.

    It writes the stable permutation and the sorted keys, device arrays of int64, shape (n,).
    """
    # what is noted to be replayed takes no memory of a library
    if not ENABLED or space._arena is not None or keys.dtype != np.int64 or keys.size == 0:
        return None
    owner = getattr(keys, "owner", None)
    if isinstance(space, TorchSpace) and isinstance(owner, space.torch.Tensor):
        return lambda order, sorted_keys: _by_torch(space, keys, order, sorted_keys)
    if isinstance(space, CupySpace) and isinstance(owner, space.cupy.ndarray):
        return lambda order, sorted_keys: _by_cupy(space, keys, order, sorted_keys)
    return None


def _by_torch(space: TorchSpace, *arrays: Any) -> None:
    keys, order, sorted_keys = map(space.give, arrays)
    with space.torch.cuda.stream(space._stream):
        space.torch.sort(keys, stable=True, out=(sorted_keys, order))


def _by_cupy(space: CupySpace, *arrays: Any) -> None:
    keys, order, sorted_keys = map(space.give, arrays)
    with space._stream:
        order[...] = space.cupy.argsort(keys)  # which is stable, and knows no other kind
        sorted_keys[...] = keys[order]
