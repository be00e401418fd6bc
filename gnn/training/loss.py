"""The loss: weighted mean squared errors of whatever labels a batch has."""

from collections.abc import Mapping

from torch import Tensor

from gnn.data.batching import Batch
from gnn.data.common import LABELS
from gnn.training.config import LossConfig


def weighted_loss(
    output: dict[str, Tensor],
    batch: Batch,
    weights: LossConfig,
    counts: Mapping[str, float] | None = None,
) -> Tensor:
    """Return the sum over quantities of weight times mean squared error.

    Energies are per system (differences of large numbers, taken in float64); forces and dipoles
    are averaged over components. Labels that the batch lacks, and quantities of which it has
    none (no surrounding charge, say), are left out.

    Parameters
    ----------
    output : dict
        From the model.
    batch : Batch
        With labels.
    weights : LossConfig
        Weight of each quantity.
    counts : mapping, optional
        Numbers to divide the sums of squares by where the batch is a part of a larger one; the
        losses of all parts then add up to that of the whole. None: the batch's own.

    Raises
    ------
    ValueError
        If no label of nonzero weight is there.
    """
    counts = label_counts(batch) if counts is None else counts
    names = [name for name in LABELS if getattr(weights, name) > 0 and counts[name] > 0]
    if not names:
        raise ValueError(
            "nothing to train on: the frames have none of the labels with a weight in the loss"
        )
    total = output["energy"].new_zeros(())
    for name in names:
        label = getattr(batch, name)
        if label is not None and label.numel():
            squares = (output[name] - label).square().sum()
            total = total + getattr(weights, name) * squares / counts[name]
    return total


def label_counts(batch: Batch | None) -> dict[str, float]:
    """Return how many numbers each label of a batch holds; all zero for no batch."""
    labels = {name: getattr(batch, name, None) for name in LABELS}
    return {name: 0.0 if label is None else label.numel() for name, label in labels.items()}
