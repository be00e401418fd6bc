"""What there is to compute on a tree on the GPU, counted there: sums of integers, always exact."""

from typing import NamedTuple

import numpy as np

from fmm.cuda.transfers import CLOSE, LEAVES, N_NUMBERS, SINGLE


class Tally(NamedTuple):
    """Counts, on the host."""

    weights: np.ndarray
    """Pairs of points per level and translation code."""
    translations: np.ndarray
    """Multipole-to-local pairs of each level."""
    near: int
    mixed: int
    leaves: int


def tally(numbers: np.ndarray, weights: np.ndarray) -> Tally:
    """Return what was counted, see `fmm.cuda.transfers.Counts`; on the host, both of them."""
    translations = numbers[N_NUMBERS : N_NUMBERS + len(weights)]
    near, mixed, leaves = (int(numbers[kind]) for kind in (CLOSE, SINGLE, LEAVES))
    return Tally(weights.astype(np.float64), translations, near, mixed, leaves)
