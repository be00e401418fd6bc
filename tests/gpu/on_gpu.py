"""Arrays of torch on the GPU, and errors against sums in float64 on the CPU.

With ``--emulated`` (see `emulator`) arrays of Numba's simulator stand in for those of torch, and
tensors of the CPU for those of operators; there are fewer points then.
"""

import os
from contextlib import nullcontext
from itertools import pairwise

import numpy as np

import multipoles as mp

EMULATED = os.environ.get("ANISOLE_EMULATED") == "1"
DEVICE = "cpu" if EMULATED else "cuda"


def size(n: int, emulated: int) -> int:
    """Return a number of points for a GPU, or for the emulator."""
    return emulated if EMULATED else n


def put(array: np.ndarray):
    """Return a copy on the GPU."""
    array = np.ascontiguousarray(array)
    if EMULATED:
        from numba import cuda

        return cuda.to_device(array)
    import torch

    return torch.as_tensor(array, device="cuda")


def is_there(array) -> bool:
    """Return whether an array is one as `put` makes them."""
    return hasattr(array, "__cuda_ndarray__") if EMULATED else array.device.type == "cuda"


def take(array) -> np.ndarray:
    """Return a copy on the host, in float64."""
    if EMULATED:
        return np.asarray(array.copy_to_host(), np.float64)
    return array.detach().cpu().double().numpy()


def same(one, other) -> bool:
    """Return whether two arrays have the same bits."""
    return np.array_equal(take(one), take(other))


def operators():
    """Return the context in which operators on tensors of `DEVICE` run on the GPU."""
    if not EMULATED:
        return nullcontext()
    from gnn.operators.gpu import emulated

    return emulated()


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 error."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def worst_order(got: np.ndarray, expected: np.ndarray, order: int) -> float:
    """Return the relative L2 error of the order of derivatives that has the largest."""
    starts = [0, *(mp.n_components(k) for k in range(order + 1))]
    return max(relative(got[..., a:b], expected[..., a:b]) for a, b in pairwise(starts))


def worst_order_of_all(found: np.ndarray, chosen, expected: np.ndarray, order: int) -> float:
    """Return an estimate of `worst_order` over all targets from the fields at some of them.

    Few targets with a close neighbour have most of the norm: of chosen ones it says little.
    """
    starts = [0, *(mp.n_components(k) for k in range(order + 1))]
    return max(
        np.sqrt(np.mean((found[chosen] - expected)[..., a:b] ** 2) / np.mean(found[..., a:b] ** 2))
        for a, b in pairwise(starts)
    )


def sample(x, s, moments, order: int, count: int = 100, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return some targets, and their field summed in float64 on the CPU."""
    chosen = np.random.default_rng(1).choice(len(x), min(count, len(x)), replace=False)
    wide = [np.asarray(array, np.float64) for array in (x[chosen], s, moments)]
    return chosen, mp.field(*wide, order, **options)
