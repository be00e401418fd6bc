"""The loss: weighted mean squared errors of whatever labels a batch has."""

from torch import Tensor

from gnn.data.batching import Batch
from gnn.data.common import LABELS
from gnn.training.config import LossConfig


def weighted_loss(output: dict[str, Tensor], batch: Batch, weights: LossConfig) -> Tensor:
    """Return the sum over quantities of weight times mean squared error.

    Energies are per system (differences of large numbers, taken in float64); forces and dipoles
    are averaged over components. Labels that the batch lacks, and quantities of which it has
    none (no surrounding charge, say), are left out.

    Raises
    ------
    ValueError
        If no label of nonzero weight is there.
    """
    total: Tensor | None = None
    for name in LABELS:
        weight, label = getattr(weights, name), getattr(batch, name)
        if weight == 0 or label is None or label.numel() == 0:
            continue
        error = output[name] - label
        term = weight * error.square().mean()
        total = term if total is None else total + term
    if total is None:
        raise ValueError(
            "nothing to train on: the frames have none of the labels with a weight in the loss"
        )
    return total
