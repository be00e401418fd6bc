"""Arrays of torch on the GPU, and errors against sums in float64 on the CPU."""

from itertools import pairwise

import numpy as np

import multipoles as mp


def put(array: np.ndarray):
    """Return a copy on the GPU."""
    import torch

    return torch.as_tensor(np.ascontiguousarray(array), device="cuda")


def take(array) -> np.ndarray:
    """Return a copy on the host, in float64."""
    return array.detach().cpu().double().numpy()


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 error."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def worst_order(got: np.ndarray, expected: np.ndarray, order: int) -> float:
    """Return the relative L2 error of the order of derivatives that has the largest."""
    starts = [0, *(mp.n_components(k) for k in range(order + 1))]
    return max(relative(got[..., a:b], expected[..., a:b]) for a, b in pairwise(starts))


def sample(x, s, moments, order: int, count: int = 100, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return some targets, and their field summed in float64 on the CPU."""
    chosen = np.random.default_rng(1).choice(len(x), min(count, len(x)), replace=False)
    wide = [np.asarray(array, np.float64) for array in (x[chosen], s, moments)]
    return chosen, mp.field(*wide, order, **options)
