"""Networks whose weights are constant for a while, laid out for the compiled loops and kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gnn.operators.network import Network
from gnn.passes.weights import Weights

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
