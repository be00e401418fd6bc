"""Derivatives of operators through their twins, which autograd differentiates further."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
