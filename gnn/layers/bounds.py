"""Outputs of networks, kept within those of training where a model knows these."""

from typing import Protocol

from torch import Tensor


class Bounds(Protocol):
    """Bounds of a layer's outputs, which have numbers."""

    def factors(self, output: int, values: Tensor) -> Tensor | None:
        """Return factors (N,) by which values (N, F) saturate; None if all are one."""

    def within(self, output: int, values: Tensor) -> Tensor:
        """Return values (N, F) times these factors."""


def within(bounds: Bounds | None, output: int, values: Tensor) -> Tensor:
    """Return values (N, …) times the factors of their bounds."""
    if bounds is None:
        return values
    return bounds.within(output, values.flatten(1)).view_as(values)
