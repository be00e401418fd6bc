"""Parameters of torch as arrays that gradients are added to."""

from collections.abc import Iterable
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Weight:
    """A parameter of torch as an array, with the gradient by it.

    Attributes
    ----------
    x : ndarray
        The numbers, in the parameter's memory.
    gradient : ndarray or None
        What was added since it was taken.
    """

    __slots__ = ("gradient", "learns", "parameter", "x")

    def __init__(self, parameter: Tensor):
        self.parameter = parameter
        self.look()

    def look(self) -> None:
        """Look at the parameter anew, and forget the gradient."""
        self.x: NDArray = self.parameter.detach().numpy()
        self.learns = self.parameter.requires_grad
        self.gradient: NDArray | None = None

    def add(self, gradient: NDArray) -> None:
        """Add to the gradient; the array is given away."""
        if self.gradient is None:
            self.gradient = gradient
        else:
            self.gradient += gradient

    def learn(self, gradients: NDArray, inputs: NDArray) -> None:
        """Add gradients (rows, outputs) times inputs (rows, inputs), summed over the rows."""
        if self.learns:
            self.add(gradients.T @ inputs)

    def room(self) -> NDArray:
        """Return the gradient to add to in place."""
        if self.gradient is None:
            self.gradient = np.zeros(self.x.shape, self.x.dtype)
        return self.gradient


class LearningWeights:
    """All weights of a model, by parameter.

    Attributes
    ----------
    all : list of Weight
        In the order of the parameters.
    lock : Lock
        Held by the thread whose gradients are being added, until they are taken.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.lock = Lock()
        self.all = [Weight(parameter) for parameter in parameters]
        self._by_id = {id(weight.parameter): weight for weight in self.all}

    def __getitem__(self, parameter: Tensor) -> Weight:
        return self._by_id[id(parameter)]

    def look(self) -> None:
        """Look at all parameters anew, and forget the gradients."""
        for weight in self.all:
            weight.look()

    def taken(self) -> list[NDArray | None]:
        """Return the gradients, and forget them."""
        found = [weight.gradient for weight in self.all]
        for weight in self.all:
            weight.gradient = None
        return found
