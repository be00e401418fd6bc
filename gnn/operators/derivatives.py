"""Derivatives of operators through their twins, which autograd differentiates further."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed() -> bool:
    """Return whether transforms of `torch.func` are at work, under which tensors have no memory."""
    return torch._C._are_functorch_transforms_active()


def refuse_transforms() -> None:
    """Refuse periodic sums under the transforms of `torch.func`."""
    if transformed():
        raise ValueError(
            "cell: expected derivatives by torch.autograd: periodic sums are not made under the "
            "transforms of torch.func"
        )


def forward_mode() -> bool:
    """Return whether derivatives are taken forward, by dual numbers, or `transformed`."""
    return transformed() or forward_ad._current_level >= 0


def each_of_batch(derivative: Callable[..., Any]) -> Callable[..., Any]:
    """Let a backward pass or a `jvp` take a batch of gradients or tangents, one after the other.

    Such come from ``torch.autograd.grad(is_grads_batched=True)`` and vectorised Jacobians, by a
    mechanism older than `torch.func.vmap` that does not ask a `torch.autograd.Function`.
    """

    @wraps(derivative)
    def each(ctx: Any, *given: Tensor | None) -> Any:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        if level == 0 or not any(_is_batch(tensor) for tensor in given):
            return derivative(ctx, *given)
        batches = [
            torch._remove_batch_dim(tensor, level, 1, 0)
            if tensor is not None and _is_batch(tensor)
            else None
            for tensor in given
        ]
        size = max(len(batch) for batch in batches if batch is not None)
        rows = []
        for i in range(size):
            own = (t if b is None else b[i] for t, b in zip(given, batches, strict=True))
            rows.append(derivative(ctx, *own))

        def joined(column: Sequence[Tensor | None]) -> Tensor | None:
            some = [part for part in column if part is not None]
            return torch._add_batch_dim(torch.stack(some), 0, level) if some else None

        if isinstance(rows[0], tuple):
            return tuple(joined(column) for column in zip(*rows, strict=True))
        return joined(rows)

    return each


def _is_batch(tensor: Tensor | None) -> bool:
    keys = "" if tensor is None else str(torch._C._dispatch_keys(tensor))
    return "Batched" in keys.replace("FuncTorchBatched", "")


def aliases(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors to differentiate by, all of which require gradients.

    One may have been computed from another, which is not ours to follow.
    """
    return [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in tensors]


def gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    further: bool = True,
) -> list[Tensor]:
    """Return gradients, zeros where outputs do not depend on inputs."""
    pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    used, weights = zip(*pairs, strict=True)
    return list(
        torch.autograd.grad(used, inputs, weights, create_graph=further, materialize_grads=True)
    )
