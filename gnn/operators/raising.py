"""Contractions of packed tensors with those of one order more, which have one index left."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn.operators.derivatives import transformed
from gnn.operators.fused import applied, gpu
from multipoles import indexing


class _Contraction:
    """sum over c and beta of weights[n, c, beta] field[n, c, beta + e_i]."""

    def twin(self, weights, field):
        count = weights.shape[-1]
        if count == 1:
            return ((weights * field[..., 1:4]).sum(1),)
        return ((weights[..., None] * raised(field, count)).sum(dim=(1, 2)),)

    def values(self, weights, field):
        return (self._contracted(weights, field),)

    def gradients(self, inputs, grads):
        return self._spread(*inputs, *grads)

    def second(self, inputs, grads, along):
        weights, field = inputs
        to_field, to_weights = self._spread(along[0], along[1], *grads)[::-1]
        both = self._contracted(along[0], field) + self._contracted(weights, along[1])
        return to_weights, to_field, both

    @staticmethod
    def _contracted(weights, field):
        n, channels, count = weights.shape
        out = weights.new_empty(n, 3)
        places, _ = _tables(count, field.shape[2], field.device)
        sizes = channels, count, field.shape[2]
        gpu().launch(gpu().contraction(), weights, 3 * n, weights, field, places, *sizes, out)
        return out

    @staticmethod
    def _spread(weights, field, grad):
        """Return gradients by weights and field."""
        outs = (
            torch.empty_like(weights, memory_format=torch.contiguous_format),
            field.new_empty(field.shape),
        )
        tables = _tables(weights.shape[2], field.shape[2], field.device)
        given = weights, field, grad, *tables, *weights.shape[1:], field.shape[2]
        gpu().launch(gpu().contraction_gradients(), weights, field.numel(), *given, *outs)
        return outs


def contract(weights: Tensor, field: Tensor) -> Tensor:
    """Return sum over c and beta of weights[n, c, beta] field[n, c, beta + e_i], (n, 3)."""
    return applied(_Contraction(), weights, field)[0]


def raised(field: Tensor, count: int) -> Tensor:
    """Return field[n, c, beta + e_i] for the first `count` beta, (n, c, count, 3)."""
    index = raised_index(indexing.order_of(count), field.device)
    return field.index_select(-1, index).unflatten(-1, (count, 3))


def raised_index(order: int, device: torch.device) -> Tensor:
    """Return the components of beta + e_i for all beta up to an order."""
    # a tensor made under a transform must not outlive it
    return _new_index(order, device) if transformed() else _kept_index(order, device)


def _new_index(order: int, device: torch.device) -> Tensor:
    return torch.tensor(_places(order).ravel(), device=device)


_kept_index = cache(_new_index)


def _places(order: int) -> Any:
    return indexing.sum_index(order, 1)[:, 1:4]


@cache
def _tables(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return beta + e_i of each beta, and beta - e_i of each of `size`; -1 where there is none."""
    places = _places(indexing.order_of(count))
    below = np.full((size, 3), -1, dtype=np.int64)
    for axis in range(3):
        below[places[:, axis], axis] = np.arange(count)
    tables = places.astype(np.int64), below
    found, lower = (torch.tensor(one.ravel(), device=device) for one in tables)
    return found, lower
