"""Whether the weights of a model have changed since they were laid out."""

import torch
from torch import Tensor, nn


class Weights:
    """Notices when a weight of a model has changed, in whatever way.

    Attributes
    ----------
    stamp : object
        Another one whenever some weight was found changed.
    """

    def __init__(self) -> None:
        self.stamp = object()
        self._copies: list[Tensor] = []

    def look(self, model: nn.Module) -> None:
        """Compare all weights with what they were: versions do not tell of changes to ``.data``."""
        weights = [weight.detach() for weight in model.parameters()]
        if len(weights) != len(self._copies) or not all(map(_equal, weights, self._copies)):
            self.stamp = object()
            self._copies = [weight.clone() for weight in weights]


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one, two)
