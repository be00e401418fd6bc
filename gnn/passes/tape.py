"""A tape of compiled layers: values forward, gradients backward.

Each layer is a function of `Value`s that computes one and notes on the tape how gradients go back
through it. Where a model learns, it also notes how changes go forward and *second* gradients back.
With E a sum of values, and v a direction in the space of the leaves, gradients of E are also those
of the change of E along v by the changes of all values. Second gradients are those of this change,
and of whatever else is asked for, by the values. So the derivative by what a model learns of a
number and of its change, the gradient of a loss on energies and forces, takes no more than to go
forward and back a second time.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gnn.operators.arena import Arena

Step = Callable[[], None]


def zeros(like: NDArray) -> NDArray:
    """Return zeros of a shape: `np.zeros_like` takes three times as long for small arrays."""
    return np.zeros(like.shape, like.dtype)


class Value:
    """An array of a pass, with room for the gradient by it.

    Parameters
    ----------
    x : ndarray
        (n, …).
    live : bool
        Whether gradients by it are wanted.
    learned : bool
        Whether it depends on what a model learns, so that second gradients by it are wanted.

    Attributes
    ----------
    gradient : ndarray or None
        By the value.
    change : ndarray or None
        Of the value; None is zero.
    second : ndarray or None
        Second gradient by the value.
    """

    __slots__ = ("change", "gradient", "learned", "live", "made", "pair", "second", "x")

    def __init__(self, x: NDArray, live: bool = True, learned: bool = True):
        self.x, self.live, self.learned = x, live, learned
        self.gradient: NDArray | None = None
        self.change: NDArray | None = None
        self.pair: NDArray | None = None
        self.second: NDArray | None = None
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

    def move(self, change: NDArray | None) -> None:
        """Take a change, and forget the second gradient."""
        self.change, self.second, self.pair = change, None, None

    def both(self) -> NDArray:
        """Return rows of values (n, …), and below them their changes."""
        if self.pair is None:
            self.pair = np.concatenate([self.x, self.moved()])
        return self.pair

    def moved(self) -> NDArray:
        """Return the change, zeros where there is none."""
        return np.zeros_like(self.x) if self.change is None else self.change

    def add_second(self, gradient: NDArray) -> None:
        """Add to the second gradient; the array is given away."""
        if self.second is None:
            self.second = gradient
        else:
            self.second += gradient

    def taken_second(self) -> NDArray:
        """Return the second gradient, zeros where nobody added to it."""
        return np.zeros_like(self.x) if self.second is None else self.second


class Tape:
    """What was computed, in order.

    Parameters
    ----------
    records : bool
        Whether gradients will be asked for.
    learns : bool
        Whether changes and second gradients will be asked for, too.
    arena : Arena, optional
        Where large arrays come from.
    """

    def __init__(self, records: bool = True, learns: bool = False, arena: Arena | None = None):
        self.records, self.learns = records, learns
        self.empty: Callable[..., NDArray] = np.empty if arena is None else arena.empty
        self._backward: list[Step] = []
        self._changes: list[tuple[Step, Step | None]] = []

    def note(self, backward: Step) -> None:
        """Remember how gradients go back through a layer."""
        if self.records:
            self._backward.append(backward)

    def note_changes(self, push: Step, pull: Step | None = None) -> None:
        """Remember how changes go forward through a layer, and second gradients back.

        Where nothing that is learned comes in, there are no second gradients.
        """
        if self.learns:
            self._changes.append((push, pull))

    def rewind(self) -> None:
        """Take gradients back through all layers, each once."""
        while self._backward:
            self._backward.pop()()

    def push(self) -> None:
        """Take changes of the leaves forward through all layers."""
        for push, _ in self._changes:
            push()

    def pull(self) -> None:
        """Take second gradients back through all layers."""
        for _, pull in reversed(self._changes):
            if pull is not None:
                pull()
