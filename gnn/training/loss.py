"""The loss: weighted mean squared errors of whatever labels the frames of a batch have."""

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
    are averaged over components. Each mean is over what is known: a frame that lacks a label
    has no part in that term, whatever the others have. Errors of energies, forces on atoms,
    dipoles and stresses that are larger than `weights.linear_beyond` count by their size, not by
    its square.

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
        label = batch.labels.get(name)
        if label is not None:
            error = label.among(output[name]) - label.values
            beyond = weights.linear_beyond if name != "mm_forces" else None
            total = total + getattr(weights, name) * squares(error, beyond).sum() / counts[name]
    return total


def squares(error: Tensor, beyond: float | None) -> Tensor:
    """Return squares of errors which, if `beyond` is given, grow linearly where they are larger.

    The pseudo-Huber loss, 2 b² (√(1 + (x/b)²) - 1).
    """
    if beyond is None:
        return error.square()
    return 2 * beyond**2 * ((1 + (error / beyond).square()).sqrt() - 1)


def label_counts(batch: Batch | None) -> dict[str, float]:
    """Return how many numbers of each label a batch holds; all zero for no batch."""
    labels = {} if batch is None else batch.labels
    return {name: labels[name].values.numel() if name in labels else 0.0 for name in LABELS}
