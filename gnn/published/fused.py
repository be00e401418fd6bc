"""Compiled operators with compiled first derivatives, and torch twins for all others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

from gnn.operators.derivatives import aliases, gradients


class Operator(Protocol):
    """A map of tensors to one tensor, whose constants the object holds; for one application."""

    @property
    def values(self) -> Callable[..., NDArray]:
        """Takes the inputs as arrays to the result."""

    @property
    def gradients(self) -> Callable[..., Sequence[NDArray]]:
        """Takes weights and inputs to the gradient of sum weights times result by every input.

        It is called after `values`, with the same inputs.
        """

    @property
    def twin(self) -> Callable[..., Tensor]:
        """Takes the inputs as tensors to the result, in operations that autograd differentiates."""


def apply(operator: Operator, *inputs: Tensor) -> Tensor:
    """Return the operator's result, differentiable to any order.

    Parameters
    ----------
    operator : Operator
        What to compute.
    inputs : Tensor
        What it depends on.

    Returns
    -------
    Tensor
        First derivatives are the operator's own; second and higher ones go through the twin.
    """
    return operator.twin(*inputs) if _use_twins.get() else _Values.apply(operator, *inputs)


_use_twins: ContextVar[bool] = ContextVar("use_twins", default=False)


@contextmanager
def twins(used: bool = True) -> Iterator[None]:
    """Apply the twins inside, if `used`: they are faster where second derivatives will follow."""
    token = _use_twins.set(used)
    try:
        yield
    finally:
        _use_twins.reset(token)


def _silently() -> np.errstate:
    """Let numbers overflow as they do in torch: whoever evaluates a model says what came out."""
    return np.errstate(over="ignore", invalid="ignore")


def _arrays(tensors: Sequence[Tensor]) -> list[NDArray]:
    return [t.detach().contiguous().numpy() for t in tensors]


class _Values(Function):
    @staticmethod
    def forward(ctx: Any, operator: Operator, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.operator = operator
        with _silently():
            return torch.from_numpy(operator.values(*_arrays(inputs)))

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple:
        found = _Gradients.apply(ctx.operator, weights, *ctx.saved_tensors)
        needs = ctx.needs_input_grad[1:]
        return None, *(g if need else None for g, need in zip(found, needs, strict=True))


class _Gradients(Function):
    @staticmethod
    def forward(ctx: Any, operator: Operator, weights: Tensor, *inputs: Tensor) -> tuple:
        ctx.save_for_backward(weights, *inputs)
        ctx.set_materialize_grads(False)
        ctx.operator = operator
        with _silently():
            found = operator.gradients(*_arrays([weights, *inputs]))
        return tuple(torch.from_numpy(array) for array in found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:
        further = torch.is_grad_enabled()
        given = [c is not None for c in cotangents]
        if not any(given):
            return (None,) * (2 + len(given))
        with torch.enable_grad():
            weights, *inputs = used = aliases(ctx.saved_tensors)
            asked = [t for t, wanted in zip(inputs, given, strict=True) if wanted]
            first = gradients([ctx.operator.twin(*inputs)], asked, [weights])
            ends = [c for c in cotangents if c is not None]
            second = gradients(first, used, ends, further)
        needs = ctx.needs_input_grad[1:]
        return None, *(g if need else None for g, need in zip(second, needs, strict=True))
