"""A tape of compiled layers: values forward, gradients backward.

Each layer is a function of `Value`s that computes one and notes on the tape how gradients go back
through it. There are two modes. In the first, values are arrays (n, …), and gradients of one number
by all of them follow. In the second, *dual* mode, values are pairs (2, n, …): the value and its
change along a direction that the leaves were given, and gradients are pairs, too: by the value and
by the change. So the derivative of a number and of its change by what a model learns, the gradient
of a loss on energies and forces, comes from one pass forward and one back.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gnn.operators.arena import Arena


def zeros(like: NDArray) -> NDArray:
    """Return zeros of a shape: `np.zeros_like` takes three times as long for small arrays."""
    return np.zeros(like.shape, like.dtype)


class Value:
    """An array of a pass, with room for the gradient by it.

    Parameters
    ----------
    x : ndarray
        (n, …), or (2, n, …) in dual mode: value and change.
    live : bool
        Whether gradients by it are wanted.
    """

    __slots__ = ("gradient", "live", "made", "x")

    def __init__(self, x: NDArray, live: bool = True):
        self.x, self.live = x, live
        self.gradient: NDArray | None = None
        self.made: dict[object, Value] = {}  # of it by layers that several others share

    def add(self, gradient: NDArray) -> None:
        """Add to the gradient; the array is given away."""
        if self.gradient is None:
            self.gradient = gradient
        else:
            self.gradient += gradient

    def room(self) -> NDArray:
        """Return the gradient to add to in place."""
        if self.gradient is None:
            self.gradient = zeros(self.x)
        return self.gradient

    def taken(self) -> NDArray:
        """Return the gradient, zeros where nobody added to it."""
        return zeros(self.x) if self.gradient is None else self.gradient


class Tape:
    """What was computed, in order.

    Parameters
    ----------
    records : bool
        Whether gradients will be asked for.
    dual : bool
        Whether values are pairs of value and change.
    arena : Arena, optional
        Where large arrays come from.
    """

    def __init__(self, records: bool = True, dual: bool = False, arena: Arena | None = None):
        self.records, self.dual = records, dual
        self.empty: Callable[..., NDArray] = np.empty if arena is None else arena.empty
        self._backward: list[Callable[[], None]] = []

    def note(self, backward: Callable[[], None]) -> None:
        """Remember how gradients go back through a layer."""
        if self.records:
            self._backward.append(backward)

    def rewind(self) -> None:
        """Take gradients back through all layers; the tape is empty afterwards."""
        while self._backward:
            self._backward.pop()()
