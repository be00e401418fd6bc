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
from gnn.operators.gpu import on_gpu


class Operator(Protocol):
    """A map of tensors to one tensor, for one application; the object holds its constants."""

    @property
    def values(self) -> Callable[..., NDArray]:
        """Return the result, from the inputs as arrays."""

    @property
    def gradients(self) -> Callable[..., Sequence[NDArray]]:
        """Return the gradient of the sum of weights times result by every input.

        Its arguments are the weights and the inputs; it is called after `values`, with the same
        inputs.
        """

    @property
    def twin(self) -> Callable[..., Tensor]:
        """Return the result from the inputs as tensors, by operations that autograd knows."""


def apply(operator: Operator, *inputs: Tensor) -> Tensor:
    """Return the operator's result, differentiable to any order.

    Parameters
    ----------
    operator : Operator
        Map to apply.
    inputs : Tensor
        Its inputs.

    Returns
    -------
    Tensor
        First derivatives are the operator's own; second and higher ones go through the twin, and
        on a GPU so do all.
    """
    if _use_twins.get() or on_gpu(inputs[0]):
        return operator.twin(*inputs)
    return _Values.apply(operator, *inputs)


_use_twins: ContextVar[bool] = ContextVar("use_twins", default=False)


@contextmanager
def twins(used: bool = True) -> Iterator[None]:
    """Apply the twins inside the context, if `used`: faster where second derivatives follow."""
    token = _use_twins.set(used)
    try:
        yield
    finally:
        _use_twins.reset(token)


def _silently() -> np.errstate:
    """Let values overflow without a warning, as in torch: `Potential.evaluate` checks results."""
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
        by_inputs = _Gradients.apply(ctx.operator, weights, *ctx.saved_tensors)
        needs = ctx.needs_input_grad[1:]
        return None, *(g if need else None for g, need in zip(by_inputs, needs, strict=True))


class _Gradients(Function):
    @staticmethod
    def forward(ctx: Any, operator: Operator, weights: Tensor, *inputs: Tensor) -> tuple:
        ctx.save_for_backward(weights, *inputs)
        ctx.set_materialize_grads(False)
        ctx.operator = operator
        with _silently():
            by_inputs = operator.gradients(*_arrays([weights, *inputs]))
        return tuple(torch.from_numpy(array) for array in by_inputs)

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
            seeds = [c for c in cotangents if c is not None]
            second = gradients(first, used, seeds, further)
        needs = ctx.needs_input_grad[1:]
        return None, *(g if need else None for g, need in zip(second, needs, strict=True))
