"""Operators that compute values and gradients of arrays, as layers of a tape."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn.passes.tape import Tape, Value


class ArrayOperator(Protocol):
    """A map of arrays to one, for one application."""

    @property
    def values(self) -> Callable[..., NDArray]:
        """Return the result, from the inputs."""

    @property
    def gradients(self) -> Callable[..., Sequence[NDArray]]:
        """Return the gradient of the sum of weights times result by every input.

        Its arguments are the weights and the inputs; it is called after `values`, with the same
        inputs.
        """


def applied(tape: Tape, operator: ArrayOperator, *inputs: Value) -> Value:
    """Return an operator's result."""
    arrays = [value.x for value in inputs]
    found = Value(operator.values(*arrays))

    def backward() -> None:
        if found.gradient is None:
            return
        weights = np.ascontiguousarray(found.gradient)
        for value, gradient in zip(inputs, operator.gradients(weights, *arrays), strict=True):
            if value.live:
                value.add(gradient)

    tape.note(backward)
    return found


class ByTorch:
    """A function of tensors as an operator, which autograd differentiates: for what is rare.

    Parameters
    ----------
    function : callable
        Returns a tensor from tensors, one for each array.
    records : bool
        Whether gradients will be asked for.
    """

    def __init__(self, function: Callable[..., Tensor], records: bool):
        self._function, self._records = function, records

    def values(self, *arrays: NDArray) -> NDArray:
        """Return the function's value."""
        self._leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]
        with torch.set_grad_enabled(self._records):
            self._found = self._function(*self._leaves)
        value: NDArray = self._found.detach().numpy()
        return value

    def gradients(self, weights: NDArray, *_: NDArray) -> list[NDArray]:
        """Return the gradients by all arrays."""
        by_leaves = torch.autograd.grad(
            self._found, self._leaves, torch.from_numpy(weights), materialize_grads=True
        )
        # autograd may hand out one memory twice
        return [np.array(gradient.numpy()) for gradient in by_leaves]
