"""Networks whose weights are constant for a while, laid out for the compiled loops and kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from gnn.operators.perceptron import Network


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


_constant: ContextVar[Weights | None] = ContextVar("constant", default=None)


@contextmanager
def constant(weights: Weights | None) -> Iterator[None]:
    """Let networks run compiled inside the context, unless it is None."""
    token = _constant.set(weights)
    try:
        yield
    finally:
        _constant.reset(token)


def are_constant() -> bool:
    """Return whether networks may run compiled: nobody asks for derivatives by their weights."""
    return _constant.get() is not None


class LaidOut:
    """Keeps what a module's networks are laid out as; a copy begins with nothing."""

    def __init__(self) -> None:
        # one tuple, so that threads never see the networks of one stamp with another
        self._kept: tuple[object, dict[tuple, Network]] = None, {}

    def network(self, key: tuple, make: Callable[[], Network]) -> Network:
        """Return the network of a key, made anew after a weight has changed."""
        weights = _constant.get()
        stamp = None if weights is None else weights.stamp
        of, networks = self._kept
        if stamp is None or stamp is not of:
            networks = {}
            self._kept = stamp, networks
        if key not in networks:
            networks[key] = make()
        return networks[key]

    def __reduce__(self) -> tuple[type["LaidOut"], tuple[()]]:
        return LaidOut, ()
