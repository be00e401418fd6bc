"""The errors of a model on validation frames, shared among the processes that train it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gnn.potential import Potential
from gnn.training.config import LossConfig
from gnn.training.frames.loader import Frames
from gnn.training.parallel import Ranks
from gnn.training.report.metrics import QUANTITIES, compare

_AT_ONCE = 256  # frames held at once


def validation_rmse(
    model: Potential,
    frames: Frames,
    quantities: Sequence[str],
    ranks: Ranks,
    share: NDArray[np.int64],
) -> dict[str, float]:
    """Return the RMSE of some quantities, in the units of `QUANTITIES`.

    Each process works on its share of the frames; all return the errors on all of them.

    Parameters
    ----------
    share
        Indices of the frames of this process.
    """
    sums = np.zeros((len(quantities), 2))  # of squared errors, and of how many there are
    for start in range(0, len(share), _AT_ONCE):
        part = [frames[i] for i in share[start : start + _AT_ONCE]]
        comparison = compare(model.evaluate(part, stress="stress" in quantities), part)
        for k, name in enumerate(quantities):
            predicted, reference = comparison.values(name)
            sums[k] += ((predicted - reference) ** 2).sum(), len(reference)
    squares, counts = ranks.sum(sums).T
    return {
        name: QUANTITIES[name][1] * math.sqrt(square / count)
        for name, square, count in zip(quantities, squares, counts, strict=True)
        if count
    }


def validation_loss(rmse: Mapping[str, float], weights: LossConfig) -> float:
    """Return the weighted sum of mean squared errors, as the loss weights them."""
    return sum(getattr(weights, name) * (rmse[name] / QUANTITIES[name][1]) ** 2 for name in rmse)
