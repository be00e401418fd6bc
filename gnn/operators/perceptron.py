"""Perceptrons of edges and of nodes in compiled loops, as functions of torch, for inference.

First derivatives by the inputs are compiled; weights are constants, and there are no second
derivatives.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gnn.operators import network as rows_of
from gnn.operators.network import EndArrays, Layer, Network, columns_of

__all__ = ["Ends", "Layer", "Network", "perceptron"]


class Ends(NamedTuple):
    """The nodes that edges connect, (E,) int64 each, sorted by receiver."""

    senders: Tensor
    receivers: Tensor


def perceptron(
    network: Network,
    inputs: Sequence[Tensor],
    ends: Ends | None = None,
    projected: Tensor | None = None,
    fade: Tensor | None = None,
    summed: bool = False,
) -> Tensor:
    """Return the outputs of a network for rows of inputs, (rows, outputs).

    Parameters
    ----------
    network : Network
        The weights.
    inputs : sequence of Tensor
        Blocks of columns, (rows, width) each, on the CPU.
    ends : Ends, optional
        Of edges, where rows are edges.
    projected : Tensor, optional
        (N, 2 hidden): what each node adds to the first layer of its edges as their sender, and as
        their receiver.
    fade : Tensor, optional
        (rows, 1) factors of the outputs.
    summed : bool
        Return instead the sums over the incoming edges of each node, (N, outputs).

    Returns
    -------
    Tensor
        Once differentiable by all tensors but the weights.
    """
    return _Perceptron.apply(network, ends, summed, projected, fade, *inputs)


class _Perceptron(Function):
    @staticmethod
    def forward(
        ctx: Any,
        network: Network,
        ends: Ends | None,
        summed: bool,
        projected: Tensor | None,
        fade: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        rows = None if projected is None else columns_of(projected.detach().contiguous().numpy(), 0)
        given = _ends(ends), rows, _array(fade), summed
        keeps = any(ctx.needs_input_grad)
        found, kept = rows_of.values(network, [x.detach().numpy() for x in inputs], *given, keeps)
        if keeps:
            ctx.network, ctx.given, ctx.kept, ctx.rows = network, given, kept, len(inputs[0])
        return torch.from_numpy(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple:
        if ctx.kept is None:
            raise RuntimeError("expected one backward pass, got another: what it needs is gone")
        ends, projected, fade, summed = ctx.given
        by_projected = None
        if projected is not None:
            by_projected = np.zeros((projected.nodes, projected.pitch), weights.numpy().dtype)
        asked = tuple(ctx.needs_input_grad[5:])
        by_fade, by_inputs = rows_of.gradients(
            ctx.network, ctx.kept, weights.numpy(), asked, ctx.rows, ends,
            None if by_projected is None else columns_of(by_projected, 0), fade, summed,
        )  # fmt: skip
        ctx.kept = None
        found = by_projected, by_fade, *by_inputs
        needs = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(torch.from_numpy(g) if need else None for g, need in zip(found, needs, strict=True)),
        )


def _ends(ends: Ends | None) -> EndArrays | None:
    if ends is None:
        return None
    return ends.senders.contiguous().numpy(), ends.receivers.contiguous().numpy()


def _array(tensor: Tensor | None) -> NDArray | None:
    return None if tensor is None else tensor.detach().numpy()
