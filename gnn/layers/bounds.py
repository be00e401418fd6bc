"""Outputs of networks, kept within those of training where a model knows these."""

from collections.abc import Callable

from torch import Tensor

#: From the number of an output of a layer, and its values (N, …), to factors (N,) by which those
#: saturate that are beyond training; None if all are one.
Bounds = Callable[[int, Tensor], Tensor | None]


def within(bounds: Bounds | None, output: int, values: Tensor) -> Tensor:
    """Return values (N, …) times the factors of their bounds."""
    factors = bounds and bounds(output, values.flatten(1))
    return values if factors is None else values * factors.view(-1, *[1] * (values.dim() - 1))
